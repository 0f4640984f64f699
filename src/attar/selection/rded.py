"""RDED: stored images as mosaics of the crops that an early-stage model finds most typical (Sun et al., CVPR 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.errors import UserError
from attar.selection.embeddings import by_network
from attar.sets.decode import patch_side, tile
from attar.training.augment import apply, draw
from attar.training.pool import Pool

CANDIDATES, CROPS = 300, 5  # images of a class that are looked at, and crops of each


def mosaics(data: ImageData, label: int, ipc: int, factor: int, pool: Pool, generator: Generator) -> Tensor:
    """Stored images [ipc, ch, H, W] in [0, 1] of factor × factor crops of a class (RDED section 4.1).

    Of each candidate the crop with the lowest cross-entropy under the pool's first model, and of those the lowest
    ipc · factor². With factor 1 they are whole crops. Raises `UserError` for an empty pool.
    """
    if not len(pool):
        raise UserError("rded needs an early-stage model, and there is none")
    rows, count = data.rows(label), ipc * factor**2
    rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)[: max(CANDIDATES, count)]]
    best, losses = [], []
    for part in rows.split(CANDIDATES):
        crops = torch.stack([cropped(data.images[part].float() / 255, factor, generator) for _ in range(CROPS)])
        loss = torch.stack([cross_entropy(data, label, factor, pool, one) for one in crops])  # [CROPS, n]
        best.append(crops[loss.argmin(dim=0), torch.arange(len(part), device=part.device)])
        losses.append(loss.amin(dim=0))
    patches = torch.cat(best)[torch.cat(losses).argsort(stable=True)]
    return tile(patches.repeat(-(-count // len(patches)), 1, 1, 1)[:count], factor, data.size)


def cropped(images: Tensor, factor: int, generator: Generator) -> Tensor:
    """A random resized crop of each image [n, ch, H, W], as large as a cell of the mosaic."""
    n, _, height, width = images.shape
    crops = apply(images, draw(("resize",), n, (height, width), generator, batch=1))
    cell = patch_side(height, factor), patch_side(width, factor)
    return F.interpolate(crops, cell, mode="bilinear", antialias=True).clamp(0, 1) if factor > 1 else crops


@torch.no_grad()
def cross_entropy(data: ImageData, label: int, factor: int, pool: Pool, cells: Tensor) -> Tensor:
    """The loss [n] of the pool's first model on cells [n, ch, h, w], enlarged as they will be."""
    member = pool.members[0]
    params, buffers = (
        {key: value.to(data.device) for key, value in one.items()} for one in (member.params, member.buffers)
    )
    images = F.interpolate(cells, data.size, mode="bilinear")
    features = by_network(pool.build(seed=0).to(data.device), params, buffers)(data.normalize(images))
    logits = F.linear(features, params["classifier.weight"], params.get("classifier.bias"))
    return F.cross_entropy(logits, torch.full((len(cells),), label, device=data.device), reduction="none")
