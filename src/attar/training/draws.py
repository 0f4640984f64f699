"""What is random in an augmentation: numbers, and the parameters that are made of them.

A draw is a dict of tensors whose first dimension is 1 (shared by the batch) or n (one row per image). All values are
drawn on the generator's device and none is read back, so drawing does not synchronise with a GPU.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from attar.errors import UserError
from attar.settings import plugins
from attar.settings.choices import ONE

Draw = dict[str, Tensor]

MAX_ZOOM = 1.2
MAX_ROTATION = 15.0  # degrees
MAX_SHIFT = 0.125  # fraction of the side
MIN_AREA, MAX_STRETCH = 0.5, 4 / 3  # of a random resized crop, as a fraction and between its sides
WARPS = ("crop", "scale", "rotate", "resize")
OWN = "own:"  # before the names of registered augmentations in a `Draw`
TAKEN, WARPED = "taken", ("shift", "affine")  # in a `Draw`: the one operation of `one`, and entries of a warp
WARP = "warp"  # in the numbers of a draw: which of several warps


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
    return parameters(numbers(strategy, n, generator, batch=batch), size, n, batch)


def numbers(strategy: tuple[str, ...], n: int, generator: Generator, *, batch: int) -> dict[str, Tensor]:
    """The random numbers of a draw, of which `parameters` makes one: that can be recorded in a CUDA graph."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def choice(count: int) -> Tensor:  # one for each batch
        return torch.randint(count, (-(-n // batch),), generator=generator, device=device)

    drawn: dict[str, Tensor] = {}
    if "flip" in strategy:
        drawn["flip"] = uniform(n)
    if "color" in strategy:
        drawn["color"] = uniform(n, 3)
    warps = [name for name in WARPS if name in strategy]
    if warps and warps != ["crop"]:
        drawn[WARP] = choice(len(warps))
    drawn |= {name: uniform(n, 4 if name == "resize" else 2) for name in warps}
    if "cutout" in strategy:
        drawn["cutout"] = uniform(n, 2)
    for name in strategy:
        if name in plugins.names("augmentation"):
            drawn[OWN + name] = uniform(n, plugins.REGISTERED["augmentation"][name].option)
    if ONE in strategy:  # the entries but the warp's, in the order of `_taken`, then as many as there are warps
        drawn[TAKEN] = choice(len(strategy) - 1)
    return drawn


def parameters(drawn: dict[str, Tensor], size: tuple[int, int], n: int, batch: int) -> Draw:
    """The draw of n rows that `numbers` stand for, in images of `size` (H, W)."""
    made = {name: value for name, value in drawn.items() if name == "color" or name.startswith(OWN)}
    if "flip" in drawn:
        made["flip"] = drawn["flip"] < 0.5
    if WARP in drawn:
        matrices = torch.stack([_matrix(name, drawn[name], size) for name in WARPS if name in drawn])
        made["affine"] = matrices[per_image(drawn[WARP], n, batch), torch.arange(n, device=matrices.device)]
    elif "crop" in drawn:
        made["shift"] = _shift(drawn["crop"], size)
    if "cutout" in drawn:
        made["cutout"] = _pixels(drawn["cutout"], *size)
    if TAKEN in drawn:
        made[TAKEN] = per_image(drawn[TAKEN], n, batch)
    return made


def take(drawn: Draw, row: int | slice) -> Draw:
    """One row of a draw (as a first dimension of 1), or a slice of its rows."""
    rows = slice(row, row + 1) if isinstance(row, int) else row
    return {name: value[rows] for name, value in drawn.items()}


def per_image(values: Tensor, n: int, batch: int) -> Tensor:
    """Values of batches [B, …] → of their images [n, …]."""
    return values.expand(n, *values.shape[1:]) if len(values) == 1 else values.repeat_interleave(batch, dim=0)[:n]


def _shift(u: Tensor, size: tuple[int, int]) -> Tensor:
    """u [n, 2] in [0, 1) → shifts (y, x) in whole pixels, each up to round(0.125 · side) in either direction."""
    height, width = (round(MAX_SHIFT * side) for side in size)
    from_zero = _pixels(u, 2 * height + 1, 2 * width + 1)
    return from_zero - (height if height == width else _pixels(torch.ones_like(u), height, width))


def _pixels(u: Tensor, height: int, width: int) -> Tensor:
    """u [n, 2] in [0, 1] → whole numbers (y, x) [n, 2]. A tensor of the sizes would need a copy to the device."""
    return (u * height if height == width else torch.stack([u[:, 0] * height, u[:, 1] * width], dim=1)).long()


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
