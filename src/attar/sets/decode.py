"""Stored images and the training images they stand for: decoding, and real images put into the grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.errors import UserError, choose

PAD = 0.5  # what a grid is padded with where the factor does not divide the side
BOUND = 128  # decoded images per class of decode type `bound`


def cell(side: int, factor: int) -> int:
    """The side of one patch: ⌈side/factor⌉ pixels."""
    return -(-side // factor)


def check_factor(factor: int, size: tuple[int, int]) -> None:
    """Raise `UserError` when a grid of `factor` × `factor` patches has less than one pixel for each."""
    if factor > min(size):
        raise UserError(f"factor {factor} is larger than the image ({size[0]}x{size[1]} pixels)")


def decode(images: Tensor, factor: int) -> Tensor:
    """images [n, ch, H, W] → [n·f², ch, H, W]: the patches of image 0 row by row, then those of image 1, …"""
    if factor == 1:
        return images
    n, channels, height, width = images.shape
    rows, columns = cell(height, factor), cell(width, factor)
    padded = F.pad(images, (0, factor * columns - width, 0, factor * rows - height), value=PAD)
    patches = padded.view(n, channels, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5)
    return F.interpolate(patches.reshape(-1, channels, rows, columns), size=(height, width), mode="bilinear")


def decode_class(images: Tensor, factor: int, decode_type: str) -> Tensor:
    """The training images of one class's stored images [ipc, ch, H, W].

    `single`: factor f only; `multi`: factors f, f−1, …, 1, all of them; `bound`: every stored image at one factor, the
    largest first, so that no more than 128 come out (or ipc, where that is more).
    """
    choose("decode_type", decode_type, DECODE)
    return torch.cat([decode(images[rows], f) for f, rows in DECODE[decode_type](len(images), factor)])


def decode_plan(ipc: int, factor: int, decode_type: str) -> list[tuple[int, slice]]:
    """Which stored images of a class are decoded at which factor."""
    return DECODE[choose("decode_type", decode_type, DECODE)](ipc, factor)


def decoded_count(ipc: int, factor: int, decode_type: str) -> int:
    """Training images per class."""
    return sum((rows.stop - rows.start) * f * f for f, rows in decode_plan(ipc, factor, decode_type))


def _single(ipc: int, factor: int) -> list[tuple[int, slice]]:
    return [(factor, slice(0, ipc))]


def _multi(ipc: int, factor: int) -> list[tuple[int, slice]]:
    return [(f, slice(0, ipc)) for f in range(factor, 0, -1)]


def _bound(ipc: int, factor: int) -> list[tuple[int, slice]]:
    plan, first, spare = [], 0, BOUND - ipc
    for f in range(factor, 0, -1):
        count = ipc - first if f == 1 else min(ipc - first, max(0, spare) // (f * f - 1))
        if count:
            plan.append((f, slice(first, first + count)))
        first, spare = first + count, spare - count * (f * f - 1)
    return plan


DECODE: dict[str, Callable[[int, int], list[tuple[int, slice]]]] = {
    "single": _single,
    "multi": _multi,
    "bound": _bound,
}


def decode_set(images: Tensor, labels: Tensor, factor: int, decode_type: str) -> tuple[Tensor, Tensor]:
    """Decode class by class: stored images and labels [N] → training images and labels [n], classes ascending."""
    decoded, repeated = [], []
    for label in labels.unique().tolist():
        patches = decode_class(images[labels == label], factor, decode_type)
        decoded.append(patches)
        repeated.append(labels.new_full((len(patches),), label))
    return torch.cat(decoded), torch.cat(repeated)


def mix(
    real: Tensor,  # [ipc·f², ch, H, W] in [0, 1]: different real images of one class
    factor: int,
) -> Tensor:
    """Grids [ipc, ch, H, W] with one real image, resized (nearest), in every cell: initialisation `mix` (IDC)."""
    count, channels, height, width = real.shape
    rows, columns = cell(height, factor), cell(width, factor)
    condensed = F.interpolate(real, size=(rows, columns), mode="nearest")
    grid = condensed.view(count // factor**2, factor, factor, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, factor * rows, factor * columns)[:, :, :height, :width].contiguous()


def noise(n: int, channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Uniform noise [n, ch, H, W] in [0, 1): initialisation `noise`."""
    return torch.rand((n, channels, *size), generator=generator, device=generator.device)
