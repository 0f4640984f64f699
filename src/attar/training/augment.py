"""Differentiable augmentation ("DSA"): `draws.draw` draws random parameters, `apply` applies them to images.

These are two functions so that the real and the synthetic images of a class can share a draw (Siamese augmentation, DSA
section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.errors import UserError
from attar.settings import plugins
from attar.training.draws import OWN, TAKEN, WARPED, Draw, draw, per_image


class Augmentation(NamedTuple):
    """The random parameters for n images in B training batches, all of one size but the last, which may be smaller."""

    draw: Draw  # n rows
    boxes: Tensor | None  # [B, 3] in [0, 1): CutMix's box of each batch: its side (0: no CutMix) and its centre y, x
    order: Tensor | None  # int64 [n]: image order[i], of the same batch, is pasted into image i


CUTOUT_SIDE = 0.5  # fraction of the side


def _taken(drawn: Draw, key: str) -> Tensor:
    """Whether the operation of an entry is the one that was drawn, bool [1 or n, 1, 1, 1]."""
    known, own = [name for name in OPERATIONS if name in drawn], sorted(name for name in drawn if name.startswith(OWN))
    others, chosen = [name for name in known + own if name not in WARPED], drawn[TAKEN].view(-1, 1, 1, 1)
    return chosen >= len(others) if key in WARPED else chosen == others.index(key)


def apply(images: Tensor, drawn: Draw) -> Tensor:
    """Augment normalised images [n, ch, H, W] by a draw of 1 or n rows: flip, colour, one warp, cutout (DSA, IDC)."""
    for key in (*OPERATIONS, *(key for key in drawn if key.startswith(OWN))):
        if key in drawn:
            changed = OPERATIONS[key](images, drawn[key]) if key in OPERATIONS else _own(key, images, drawn[key])
            images = torch.where(_taken(drawn, key), changed, images) if TAKEN in drawn else changed
    return images


def cutmix(
    images: Tensor,  # [n, ch, H, W]
    labels: Tensor,  # int64 [n], or soft labels float [n, nclass]
    nclass: int,
    p: float,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Apply CutMix with probability p: paste one box per batch from a random permutation of the batch (IDC's protocol).

    Returns the images and soft targets [n, nclass]; their cross-entropy is the area-weighted mean of both losses.
    """
    return _paste(images, labels, nclass, *_draw_cutmix(n := len(images), n, p, generator), n)


def _draw_cutmix(n: int, batch: int, p: float, generator: Generator) -> tuple[Tensor | None, Tensor | None]:
    """Draw `boxes` and `order` of an `Augmentation`, with λ ~ Beta(1, 1) = U(0, 1); None, None if p is 0."""
    if p <= 0:
        return None, None
    u = torch.rand(-(-n // batch), 4, generator=generator, device=generator.device)
    sides = (1 - u[:, 1]).sqrt() * (u[:, 0] < p)
    return torch.stack([sides, u[:, 2], u[:, 3]], dim=1), _permutations(n, batch, generator)


def _permutations(n: int, batch: int, generator: Generator) -> Tensor:
    """A random order of the rows of each batch, int64 [n]; those of several batches in one sort."""
    device = generator.device
    if n <= batch:
        return torch.randperm(n, generator=generator, device=device)
    rows = torch.arange(-(-n // batch) * batch, device=device)
    keys = torch.rand(len(rows), generator=generator, device=device)
    keys = keys if n % batch == 0 else torch.where(rows < n, keys, 2.0)  # what the last batch lacks comes last
    return (keys.view(-1, batch).argsort(dim=1) + rows.view(-1, batch)[:, :1]).flatten()[:n]


def _paste(
    images: Tensor, labels: Tensor, nclass: int, boxes: Tensor | None, order: Tensor | None, batch: int
) -> tuple[Tensor, Tensor]:
    """Paste the box of each image's partner into it. Returns the images and soft targets [n, nclass]."""
    classes = torch.arange(nclass, device=labels.device)  # F.one_hot would read the labels back from a GPU
    targets = (labels if labels.is_floating_point() else labels[:, None] == classes).to(images.dtype)
    if boxes is None or order is None:
        return images, targets
    height, width = images.shape[2:]
    device = images.device
    sides, y, x = boxes[:, :, None].unbind(dim=1)  # [B, 1]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_y = _in_box(rows, (y * height).floor(), (sides * height).floor())
    inside_x = _in_box(columns, (x * width).floor(), (sides * width).floor())
    inside = inside_y[:, :, None] & inside_x[:, None, :]  # [B, H, W]
    area = per_image(inside.to(images.dtype).mean(dim=(1, 2)), len(images), batch)[:, None]
    mixed = torch.where(per_image(inside, len(images), batch)[:, None], images[order], images)
    return mixed, targets * (1 - area) + targets[order] * area


def augment(
    images: Tensor,  # [n, ch, H, W], normalised
    labels: Tensor,  # int64 [n], or soft labels float [n, nclass]
    *,
    strategy: tuple[str, ...],
    nclass: int,
    mix_p: float,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Augment each image of a training batch, then apply CutMix. Returns the images and soft targets [n, nclass]."""
    size, n = (images.shape[2], images.shape[3]), len(images)
    augmentation = draw_augmentation(strategy, n, size, mix_p, generator, batch=n)
    return apply_augmentation(images, labels, augmentation, nclass, batch=n)


def draw_augmentation(
    strategy: tuple[str, ...], n: int, size: tuple[int, int], mix_p: float, generator: Generator, *, batch: int
) -> Augmentation:
    """Draw the random parameters for n images in batches, to be applied later by `apply_augmentation`."""
    return Augmentation(draw(strategy, n, size, generator, batch=batch), *_draw_cutmix(n, batch, mix_p, generator))


def apply_augmentation(
    images: Tensor, labels: Tensor, augmentation: Augmentation, nclass: int, *, batch: int
) -> tuple[Tensor, Tensor]:
    """As `augment` for each batch, with parameters that were already drawn."""
    return _paste(apply(images, augmentation.draw), labels, nclass, *augmentation[1:], batch)


def without(strategy: tuple[str, ...], name: str) -> tuple[str, ...]:
    """`strategy` without the operation `name`."""
    return tuple(item for item in strategy if item != name)


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images of which `flipped`, bool [1 or n], is true."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def _color(images: Tensor, u: Tensor) -> Tensor:
    """Change brightness, saturation and contrast (DSA); u [1 or n, 3] in [0, 1)."""
    brightness, saturation, contrast = (u[:, i].to(images.dtype).view(-1, 1, 1, 1) for i in range(3))
    images = images + (brightness - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * (2 * saturation) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _crop(images: Tensor, shift: Tensor) -> Tensor:
    """out[y, x] = in[y + shift_y, x + shift_x], zero outside; shift int64 [1 or n, 2]."""
    for axis in (0, 1):
        side = images.shape[2 + axis]
        index = torch.arange(side, device=images.device) + shift[:, axis, None]  # [1 or n, side]
        inside = ((index >= 0) & (index < side)).to(images.dtype)
        shape = [-1, 1, 1, 1]
        shape[2 + axis] = side
        index = index.clamp(0, side - 1)
        images = torch.gather(images, 2 + axis, index.view(shape).expand_as(images)) * inside.view(shape)
    return images


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample images bilinearly by matrices [1 or n, 2, 3] in `affine_grid`'s coordinates, zero outside."""
    matrices = matrices.to(images.dtype)  # `affine_grid` does not support vmap
    height, width = images.shape[2:]
    y, x = (
        (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1 for side in (height, width)
    )
    base = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x * y[:, None])], 2)
    grid = torch.einsum("hwk,nik->nhwi", base, matrices.expand(len(images), 2, 3))
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _cutout(images: Tensor, centre: Tensor) -> Tensor:
    """Set a box of half the side to zero (the mean colour); centre int64 [1 or n, 2], (y, x) in pixels."""
    height, width = images.shape[2:]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    inside_y = _in_box(rows, centre[:, :1], round(CUTOUT_SIDE * height))
    inside_x = _in_box(columns, centre[:, 1:], round(CUTOUT_SIDE * width))
    box = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return images.masked_fill(box, 0.0)


def _in_box(index: Tensor, centre: Tensor, side: Tensor | int) -> Tensor:
    """Which of the pixels `index` lie among the `side` pixels around `centre`."""
    start = centre - side // 2
    return (index >= start) & (index < start + side)


def _own(key: str, images: Tensor, u: Tensor) -> Tensor:
    """A registered augmentation."""
    changed = plugins.call("augmentation", name := key.removeprefix(OWN), images, u.to(images.dtype))
    if not isinstance(changed, Tensor) or changed.shape != images.shape:
        raise UserError(f"the augmentation '{name}' must give images of the shape that it gets")
    return changed


# entry of a draw → (images, the entry) → images, in the order in which they are applied
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{"flip": _flip, "color": _color, "shift": _crop, "affine": _warp, "cutout": _cutout}
}
