"""RDED: stored images as mosaics of the crops that an early-stage model finds most typical (Sun et al., CVPR 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.engine.device import send_all
from attar.errors import UserError, say_once
from attar.selection.embeddings import batch_size, by_network
from attar.sets.decode import patch_side, tile
from attar.training.augment import apply
from attar.training.draws import draw
from attar.training.pool import Pool

CANDIDATES, CROPS = 300, 5  # images of a class that are looked at, and crops of each


def mosaics(data: ImageData, label: int, ipc: int, factor: int, pool: Pool, generator: Generator) -> Tensor:
    """Stored images [ipc, ch, H, W] in [0, 1] of factor × factor crops of a class."""
    return mosaic(best_crops(data, label, ipc * factor**2, factor, pool, generator), factor)


def best_crops(data: ImageData, label: int, count: int, factor: int, pool: Pool, generator: Generator) -> Tensor:
    """The crops [count, ch, H, W] of a class, enlarged to whole images, that a model finds easiest (RDED section 4.1).

    Of each candidate the crop with the lowest cross-entropy under the pool's first model, seen as in a cell, of those
    the lowest `count`. Where there are fewer images than crops, the second-best crops of all follow, and so on. Raises
    `UserError` for an empty pool.
    """
    if not len(pool):
        raise UserError("rded needs an early-stage model, and there is none")
    rows = data.rows(label)
    rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)[: max(CANDIDATES, count)]]
    rank = -(-count // len(rows))  # so many crops of each image
    if rank > 1:
        say_once("rded: some classes have fewer images than crops are needed; several of one image are taken")
    best, losses = [], []
    for part in rows.split(CANDIDATES):
        draws = [draw(("resize",), len(part), data.size, generator, batch=1) for _ in range(max(CROPS, rank))]
        crops = torch.stack([apply(data.images[part].float() / 255, drawn).clamp(0, 1) for drawn in draws])
        loss = torch.stack([cross_entropy(data, label, pool, cells(one, factor)) for one in crops])  # [crops, n]
        easiest = loss.argsort(dim=0, stable=True)[:rank]  # [rank, n]
        best.append(crops[easiest, torch.arange(len(part), device=part.device)])
        losses.append(loss.gather(0, easiest))
    crops, loss = torch.cat(best, dim=1), torch.cat(losses, dim=1)
    order = loss.argsort(dim=1, stable=True)
    return torch.cat([one[rows] for one, rows in zip(crops, order, strict=True)])[:count]


def cells(crops: Tensor, factor: int) -> Tensor:
    """Crops [n, ch, H, W] as large as a cell of the mosaic, [n, ch, ⌈H/f⌉, ⌈W/f⌉]."""
    size = patch_side(crops.shape[2], factor), patch_side(crops.shape[3], factor)
    return F.interpolate(crops, size, mode="bilinear", antialias=True).clamp(0, 1) if factor > 1 else crops


def mosaic(crops: Tensor, factor: int) -> Tensor:
    """Crops [n, ch, H, W] as stored images [n/f², ch, H, W]."""
    return tile(cells(crops, factor), factor, (crops.shape[2], crops.shape[3]))


def as_bytes(crops: Tensor) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (crops * 255).round().to(torch.uint8)


@torch.no_grad()
def cross_entropy(data: ImageData, label: int, pool: Pool, cells: Tensor) -> Tensor:
    """The loss [n] of the pool's first model on cells [n, ch, h, w], enlarged as they will be."""
    member = pool.members[0]
    params, buffers = (send_all(one, data.device) for one in (member.params, member.buffers))
    embed, batch = by_network(pool.build(seed=0).to(data.device), params, buffers), batch_size(data)
    images = (F.interpolate(part, data.size, mode="bilinear") for part in cells.split(batch))
    features = torch.cat([embed(data.normalize(part)) for part in images])
    logits = F.linear(features, params["classifier.weight"], params.get("classifier.bias"))
    return F.cross_entropy(logits, torch.full((len(cells),), label, device=data.device), reduction="none")
