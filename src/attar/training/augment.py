"""Differentiable augmentation ("DSA"): `draw` draws random parameters, `apply` applies them to images.

These are two functions so that the real and the synthetic images of a class can share a draw (Siamese augmentation, DSA
section 3.1). A draw is a dict of tensors whose first dimension is 1 (shared by the batch) or n (one row per image). All
values are drawn on the generator's device and none is read back, so drawing does not synchronise with a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.errors import UserError
from attar.settings import plugins
from attar.settings.choices import ONE

Draw = dict[str, Tensor]


class Augmentation(NamedTuple):
    """The random parameters for n images in B training batches, all of one size but the last, which may be smaller."""

    draw: Draw  # n rows
    boxes: Tensor | None  # [B, 3] in [0, 1): CutMix's box of each batch: its side (0: no CutMix) and its centre y, x
    order: Tensor | None  # int64 [n]: image order[i], of the same batch, is pasted into image i


MAX_ZOOM = 1.2
MAX_ROTATION = 15.0  # degrees
MAX_SHIFT = 0.125  # fraction of the side
CUTOUT_SIDE = 0.5  # fraction of the side
MIN_AREA, MAX_STRETCH = 0.5, 4 / 3  # of a random resized crop, as a fraction and between its sides
WARPS = ("crop", "scale", "rotate", "resize")
OWN = "own:"  # before the names of registered augmentations in a `Draw`
TAKEN, WARPED = "taken", ("shift", "affine")  # in a `Draw`: the one operation of `one`, and entries of a warp


def draw(
    strategy: tuple[str, ...],
    n: int,
    size: tuple[int, int],  # (H, W) pixels
    generator: Generator,
    *,
    batch: int,
) -> Draw:
    """Draw the parameters of `strategy` for n rows.

    One of crop, scale, rotate and resize is applied, or of all where `strategy` begins with `one` (DSA, DM),
    the same one to each `batch` consecutive rows: a training batch, or 1 for Siamese augmentation of whole classes.
    """
    height, width = size

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    drawn: Draw = {}
    if "flip" in strategy:
        drawn["flip"] = uniform(n) < 0.5
    if "color" in strategy:
        drawn["color"] = uniform(n, 3)
    if (warps := [name for name in WARPS if name in strategy]) == ["crop"]:
        drawn["shift"] = _shift(uniform(n, 2), size)
    elif warps:
        choice = torch.randint(len(warps), (-(-n // batch),), generator=generator, device=generator.device)
        matrices = torch.stack([_matrix(name, uniform(n, 4 if name == "resize" else 2), size) for name in warps])
        drawn["affine"] = matrices[_per_image(choice, n, batch), torch.arange(n, device=choice.device)]
    if "cutout" in strategy:
        drawn["cutout"] = _pixels(uniform(n, 2), height, width)
    for name in strategy:
        if name in plugins.names("augmentation"):
            drawn[OWN + name] = uniform(n, plugins.REGISTERED["augmentation"][name].option)
    if ONE in strategy:  # the entries but the warp's, in the order of `_taken`, then as many as there are warps
        choice = torch.randint(len(strategy) - 1, (-(-n // batch),), generator=generator, device=generator.device)
        drawn[TAKEN] = _per_image(choice, n, batch)
    return drawn


def _taken(drawn: Draw, key: str) -> Tensor:
    """Whether the operation of an entry is the one that was drawn, bool [1 or n, 1, 1, 1]."""
    known, own = [name for name in OPERATIONS if name in drawn], sorted(name for name in drawn if name.startswith(OWN))
    others, chosen = [name for name in known + own if name not in WARPED], drawn[TAKEN].view(-1, 1, 1, 1)
    return chosen >= len(others) if key in WARPED else chosen == others.index(key)


def take(drawn: Draw, row: int | slice) -> Draw:
    """One row of a draw (as a first dimension of 1), or a slice of its rows."""
    rows = slice(row, row + 1) if isinstance(row, int) else row
    return {name: value[rows] for name, value in drawn.items()}


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
    sides = torch.where(u[:, 0] < p, (1 - u[:, 1]).sqrt(), 0.0)
    return torch.stack([sides, u[:, 2], u[:, 3]], dim=1), _permutations(n, batch, generator)


def _permutations(n: int, batch: int, generator: Generator) -> Tensor:
    """A random order of the rows of each batch, int64 [n]; those of several batches in one sort."""
    device = generator.device
    if n <= batch:
        return torch.randperm(n, generator=generator, device=device)
    rows = torch.arange(-(-n // batch) * batch, device=device)
    keys = torch.rand(len(rows), generator=generator, device=device)
    keys = torch.where(rows < n, keys, 2.0).view(-1, batch)  # what the last batch lacks comes last
    return (keys.argsort(dim=1) + rows.view(-1, batch)[:, :1]).flatten()[:n]


def _per_image(values: Tensor, n: int, batch: int) -> Tensor:
    """Values of batches [B, …] → of their images [n, …]."""
    return values.expand(n, *values.shape[1:]) if len(values) == 1 else values.repeat_interleave(batch, dim=0)[:n]


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
    area = _per_image(inside.to(images.dtype).mean(dim=(1, 2)), len(images), batch)[:, None]
    mixed = torch.where(_per_image(inside, len(images), batch)[:, None], images[order], images)
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


def _shift(u: Tensor, size: tuple[int, int]) -> Tensor:
    """u [n, 2] in [0, 1) → shifts (y, x) in whole pixels, each up to round(0.125 · side) in either direction."""
    height, width = (round(MAX_SHIFT * side) for side in size)
    return _pixels(u, 2 * height + 1, 2 * width + 1) - _pixels(torch.ones_like(u), height, width)


def _pixels(u: Tensor, height: int, width: int) -> Tensor:
    """u [n, 2] in [0, 1] → whole numbers (y, x) [n, 2]. A tensor of the sizes would need a copy to the device."""
    return torch.stack([u[:, 0] * height, u[:, 1] * width], dim=1).floor().long()


def _matrix(name: str, u: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling matrices [n, 2, 3] in `affine_grid`'s coordinates for u [n, 2] in [0, 1)."""
    height, width = size
    zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])
    if name == "crop":
        shift = _shift(u, size)
        rows = [one, zero, 2 * shift[:, 1] / width, zero, one, 2 * shift[:, 0] / height]
    elif name == "scale":
        zoom = 1 / MAX_ZOOM + u * (MAX_ZOOM - 1 / MAX_ZOOM)
        rows = [zoom[:, 0], zero, zero, zero, zoom[:, 1], zero]
    elif name == "rotate":
        angle = (2 * u[:, 0] - 1) * math.radians(MAX_ROTATION)
        cos, sin = torch.cos(angle), torch.sin(angle)
        # both axes of affine_grid run from -1 to 1; the ratio keeps rotations of non-square images rigid
        rows = [cos, -sin * (height / width), zero, sin * (width / height), cos, zero]
    elif name == "resize":  # a crop, enlarged to the whole image
        side, stretch = (MIN_AREA + u[:, 0] * (1 - MIN_AREA)).sqrt(), MAX_STRETCH ** (u[:, 1] - 0.5)
        wide, high = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
        rows = [wide, zero, (2 * u[:, 2] - 1) * (1 - wide), zero, high, (2 * u[:, 3] - 1) * (1 - high)]
    else:
        raise UserError(f"no sampling matrix for '{name}'")
    return torch.stack(rows, dim=1).view(-1, 2, 3)


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
