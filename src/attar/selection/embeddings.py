"""Real images as vectors: their pixels, or the last features of a network; and representatives selected by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from attar import models
from attar.data.images import ImageData
from attar.engine.precision import autocast
from attar.selection import clusters

Embed = Callable[[Tensor], Tensor]  # normalised images [n, ch, H, W] → vectors [n, d]

MAX_BATCH_PIXELS = 1 << 17  # of the images that are embedded at once
MIN_BATCH_IMAGES = 32  # however large they are


def pixels(images: Tensor) -> Tensor:
    """The normalised pixels themselves, as vectors."""
    return images.flatten(1)


def by_network(
    module: models.Network, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], precision: str = "float32"
) -> Embed:
    """Embed images by the last features of a network with these tensors; batch norms use their running statistics."""
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
def embed_rows(data: ImageData, rows: Tensor, embed: Embed) -> Tensor:
    """The vectors, float32 [n, d], of the training images of these rows, computed in batches."""
    return torch.cat([embed(data.fetch(batch)).float() for batch in rows.split(batch_size(data))])


def batch_size(data: ImageData) -> int:
    """How many images a network sees at once."""
    return max(MIN_BATCH_IMAGES, MAX_BATCH_PIXELS // (data.size[0] * data.size[1]))


def representatives(
    data: ImageData, rows: Tensor, count: int, embed: Embed, generator: Generator, max_candidates: int | None = None
) -> Tensor:
    """Of the rows of a class those of the images nearest to the centres of `count` clusters, int64 [min(count, n)].

    max_candidates: cluster only so many of the images (but at least `count`), drawn at random; all by default.
    """
    if count >= len(rows):
        return rows
    if max_candidates is not None and max(max_candidates, count) < len(rows):
        order = torch.randperm(len(rows), generator=generator, device=rows.device)
        rows = rows[order[: max(max_candidates, count)]]
    return rows[clusters.representatives(embed_rows(data, rows, embed), count, generator)]
