"""Decoding (IDC section 4, multi-formation): from stored images to training images, and real images into a grid.

With factor f a stored image is a grid of f × f patches. Decoding cuts it up and enlarges each patch to a full image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.errors import UserError, choose

PADDING_VALUE = 0.5  # of pixels beyond the image, where the factor does not divide its side
MAX_SIDE_OF_FIXED_EPOCHS = 64  # pixels: up to this side the protocol has a fixed number of epochs
MAX_BOUND_COUNT = 128  # decoded images per class of decode type `bound`

DecodePlan = list[tuple[int, slice]]  # (factor, which stored images of a class are decoded at it)


def patch_side(side: int, factor: int) -> int:
    """The side of one patch in pixels: ⌈side / factor⌉."""
    return -(-side // factor)


def check_factor(factor: int, size: tuple[int, int]) -> None:
    """Raise `UserError` when an image of that (height, width) is too small for `factor` × `factor` patches."""
    if factor > min(size):
        raise UserError(f"factor {factor} is larger than the image ({size[0]}x{size[1]} pixels)")


def decode(images: Tensor, factor: int) -> Tensor:
    """images [n, ch, H, W] → [n·f², ch, H, W]: the patches of image 0 row by row, then those of image 1, …"""
    if factor == 1:
        return images
    n, channels, height, width = images.shape
    rows, columns = patch_side(height, factor), patch_side(width, factor)
    padded = F.pad(images, (0, factor * columns - width, 0, factor * rows - height), value=PADDING_VALUE)
    patches = padded.view(n, channels, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5)
    return enlarge(patches.reshape(-1, channels, rows, columns), (height, width))


def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [n, ch, h, w] → [n, ch, *size], bilinearly.

    On a GPU by products, because the derivative of PyTorch's own adds up in no fixed order there.
    """
    if images.device.type == "cpu":
        return F.interpolate(images, size=size, mode="bilinear")
    return enlarge_by_products(images, size)


def enlarge_by_products(images: Tensor, size: tuple[int, int]) -> Tensor:
    """As `enlarge`, by a matrix product for each direction."""
    down, across = (_weights(old, new, images) for old, new in zip(images.shape[2:], size, strict=True))
    return down @ images @ across.T


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix [new, old] that enlarges a row of `old` pixels, each of which is seen as a square."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in (new, old))
    place = ((rows + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    return (1 - (place[:, None] - columns).abs()).clamp(min=0)


def decode_class(images: Tensor, factor: int, decode_type: str) -> Tensor:
    """The training images [n, ch, H, W] of one class's stored images [ipc, ch, H, W].

    `single` decodes at factor f; `multi` at all factors f, f−1, …, 1; `bound` decodes every stored image at one
    factor, the first ones at the largest, so that at most 128 training images result (ipc, if that is more). Raises
    `UserError` for another decode type.
    """
    return torch.cat([decode(images[rows], f) for f, rows in decode_plan(len(images), factor, decode_type)])


def decode_plan(ipc: int, factor: int, decode_type: str) -> DecodePlan:
    """Which of the `ipc` stored images of a class are decoded at which factor, in the order of the training images."""
    return DECODE[choose("decode_type", decode_type, DECODE)](ipc, factor)


def decoded_count(ipc: int, factor: int, decode_type: str) -> int:
    """The number of training images per class."""
    return sum((rows.stop - rows.start) * f * f for f, rows in decode_plan(ipc, factor, decode_type))


def _single(ipc: int, factor: int) -> DecodePlan:
    return [(factor, slice(0, ipc))]


def _multi(ipc: int, factor: int) -> DecodePlan:
    return [(f, slice(0, ipc)) for f in range(factor, 0, -1)]


def _bound(ipc: int, factor: int) -> DecodePlan:
    plan, first, spare = [], 0, MAX_BOUND_COUNT - ipc
    for f in range(factor, 0, -1):
        count = ipc - first if f == 1 else min(ipc - first, max(0, spare) // (f * f - 1))
        if count:
            plan.append((f, slice(first, first + count)))
        first, spare = first + count, spare - count * (f * f - 1)
    return plan


DECODE: dict[str, Callable[[int, int], DecodePlan]] = {
    "single": _single,
    "multi": _multi,
    "bound": _bound,
}


def usual_epochs(count: int, size: tuple[int, int], nclass: int) -> int:
    """Epochs of a network on a set: 1000 for small images, else by decoded images per class (IDC's protocol)."""
    if max(size) <= MAX_SIDE_OF_FIXED_EPOCHS:
        return 1000
    table = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))  # (largest count, epochs)
    epochs = next((epochs for largest, epochs in table if count <= largest), 300)
    return epochs * 2 // 300 * 100 if nclass >= 100 else epochs


def decode_set(images: Tensor, labels: Tensor, factor: int, decode_type: str) -> tuple[Tensor, Tensor]:
    """Decode a set class by class.

    Stored images [N, ch, H, W] and labels [N] → training images [n, ch, H, W] and labels [n], ordered by label.
    """
    decoded, repeated = [], []
    for label in labels.unique().tolist():
        of_class = decode_class(images[labels == label], factor, decode_type)
        decoded.append(of_class)
        repeated.append(labels.new_full((len(of_class),), label))
    return torch.cat(decoded), torch.cat(repeated)


def mix(
    real: Tensor,  # [ipc·f², ch, H, W] in [0, 1]: different real images of one class
    factor: int,
) -> Tensor:
    """Grids [ipc, ch, H, W] with one real image, shrunk (nearest pixel), in every patch: initialisation `mix` (IDC)."""
    height, width = real.shape[2:]
    cells = patch_side(height, factor), patch_side(width, factor)
    return tile(F.interpolate(real, size=cells, mode="nearest"), factor, (height, width))


def tile(patches: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Grids [n/f², ch, H, W] of patches [n, ch, ⌈H/f⌉, ⌈W/f⌉], row by row; what lies beyond `size` is cut off."""
    (count, channels, rows, columns), (height, width) = patches.shape, size
    grid = patches.view(count // factor**2, factor, factor, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, factor * rows, factor * columns)[:, :, :height, :width].contiguous()


def noise(n: int, channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Uniform noise [n, ch, H, W] in [0, 1): initialisation `noise`."""
    return torch.rand((n, channels, *size), generator=generator, device=generator.device)
