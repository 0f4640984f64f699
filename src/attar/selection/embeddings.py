"""Real images as vectors, the last features of a network or their pixels, and representatives chosen by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from attar import models
from attar.data.images import ImageData
from attar.engine.precision import autocast
from attar.selection import clusters

Embed = Callable[[Tensor], Tensor]  # normalised images [n, ch, H, W] → vectors [n, d]

PIXELS, LEAST = 1 << 17, 32  # of the images that are embedded at once, and how many at least


def pixels(images: Tensor) -> Tensor:
    """The normalised pixels themselves."""
    return images.flatten(1)


def by_network(
    module: models.Network, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], precision: str = "float32"
) -> Embed:
    """The last features of a network with these tensors; batch norms use their running statistics."""
    features = models.Features(module)
    tensors = {f"module.{name}": value.detach() for name, value in {**params, **buffers}.items()}

    def embed(images: Tensor) -> Tensor:
        training = module.training
        module.eval()
        try:
            with autocast(precision, images.device):
                return torch.func.functional_call(features, tensors, (images,))
        finally:
            module.train(training)

    return embed


@torch.no_grad()
def embedded(data: ImageData, rows: Tensor, embed: Embed) -> Tensor:
    """The vectors, float32 [n, d], of the training images of these rows, some at a time."""
    at_once = max(LEAST, PIXELS // (data.size[0] * data.size[1]))
    return torch.cat([embed(data.fetch(part)).float() for part in rows.split(at_once)])


def representatives(
    data: ImageData, label: int, count: int, embed: Embed, generator: Generator, most: int | None = None
) -> Tensor:
    """Rows of the images nearest the centres of `count` clusters of a class, int64 [min(count, n)].

    most: so many images of the class, drawn at random and no fewer than `count`, are looked at; by default all.
    """
    rows = data.rows(label)
    if count >= len(rows):
        return rows
    if most is not None and max(most, count) < len(rows):
        rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)[: max(most, count)]]
    return rows[clusters.representatives(embedded(data, rows, embed), count, generator)]
