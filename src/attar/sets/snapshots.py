"""The set on its way: which moments of a run are kept for its page, and how small."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTS = 10  # kept after the first; the last is the end of the run
PIXELS = 2_000_000  # of all moments together: 6 MB of colours in the run folder, well compressed in the page
MAX_IMAGES = 10  # images of a class


def moments(total: int) -> list[int]:
    """The outer iterations after which the images are kept: 0, then further and further apart, up to `total`.

    Images change most in the beginning.
    """
    return sorted({round(total * (k / MOMENTS) ** 2) for k in range(MOMENTS + 1)})


def room(
    classes: int,
    of_class: int,  # images that the largest class has
    size: tuple[int, int],  # height and width of an image
    *,
    pixels: int = PIXELS,
    times: int = MOMENTS + 1,
    side: int | None = None,  # no image is larger
) -> tuple[int, tuple[int, int]]:
    """How many images of each class fit into `pixels`, `times` over, and their size: smaller only where one is not."""
    cap = min(1.0, (side or max(size)) / max(size))
    height, width = (max(1, round(length * cap)) for length in size)
    share = pixels / (times * classes)
    shrink = min(1.0, math.sqrt(share / (height * width)))
    count = int(share // (height * width))
    return max(1, min(of_class, MAX_IMAGES, count)), (max(1, int(height * shrink)), max(1, int(width * shrink)))


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [n, ch, H, W] in [0, 1] → uint8 [n, ch, h, w], each pixel the mean of those that it stands for."""
    images = images.detach().float()
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size=size, mode="area")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def thumbnails(
    images: Tensor,  # [N, ch, H, W] in [0, 1]
    labels: Tensor,  # [N]
) -> tuple[Tensor, Tensor]:
    """What is kept of a moment: uint8 [n, ch, h, w] and labels [n], the same rows and size at every moment of a run."""
    present = labels.unique().tolist()
    count, size = room(len(present), int(torch.bincount(labels).max()), (images.shape[2], images.shape[3]))
    rows = torch.arange(len(labels), device=labels.device)
    chosen = torch.cat([rows[labels == label][:count] for label in present])
    return shrunk(images[chosen], size), labels[chosen]
