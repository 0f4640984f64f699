"""Snapshots: small copies of the images at some moments of a run, for its report."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTS = 10  # of a run, besides its beginning
MAX_PIXELS = 2_000_000  # of all moments together: 6 MB of colours in the run folder
MAX_IMAGES = 10  # of a class


def moments(total: int) -> list[int]:
    """The outer iterations of a run of `total` after which a snapshot is taken, from 0 to `total`.

    They lie further and further apart, as the images change most in the beginning.
    """
    return sorted({round(total * (k / MOMENTS) ** 2) for k in range(MOMENTS + 1)})


def passed(share: float) -> int:
    """How many of the moments have passed after that share of a run which ends by the clock."""
    return int(MOMENTS * math.sqrt(max(0.0, min(1.0, share))))


def fit(
    classes: int,
    images: int,  # of the largest class
    size: tuple[int, int],  # height and width of an image
    *,
    max_pixels: int = MAX_PIXELS,
    copies: int = MOMENTS + 1,  # of every image
    max_side: int | None = None,  # of a shown image
) -> tuple[int, tuple[int, int]]:
    """How many images of each class can be shown within `max_pixels`, and at which (height, width).

    Images are shrunk to `max_side`, and further only where not even one image of each class would fit.
    """
    cap = min(1.0, (max_side or max(size)) / max(size))
    height, width = (max(1, round(length * cap)) for length in size)
    per_class = max_pixels / (copies * classes)
    shrink = min(1.0, math.sqrt(per_class / (height * width)))
    count = int(per_class // (height * width))
    return max(1, min(images, MAX_IMAGES, count)), (max(1, int(height * shrink)), max(1, int(width * shrink)))


def shrink(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [n, ch, H, W] in [0, 1] → uint8 [n, ch, h, w]; each pixel is the mean of the area that it covers."""
    images = images.detach().float()
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size=size, mode="area")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def thumbnails(
    images: Tensor,  # [N, ch, H, W] in [0, 1]
    labels: Tensor,  # [N]
) -> tuple[Tensor, Tensor]:
    """A snapshot: the first images of each class, uint8 [n, ch, h, w], and their labels [n].

    Rows and size depend on shapes and labels only, so they are the same at every moment of a run.
    """
    present = labels.unique().tolist()
    count, size = fit(len(present), int(torch.bincount(labels).max()), (images.shape[2], images.shape[3]))
    rows = torch.arange(len(labels), device=labels.device)
    first = torch.cat([rows[labels == label][:count] for label in present])
    return shrink(images[first], size), labels[first]
