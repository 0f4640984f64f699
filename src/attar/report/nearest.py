"""The real images that are most similar to synthetic ones: whether these are copied or invented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from attar.data.images import ImageData

MAX_BYTES = 500_000_000  # of real images that are compared; of larger data as many of each class as that allows
BATCH_BYTES = 50_000_000  # of them at once, in 8 bits
NEIGHBOURS = 2
PROBES = 50  # real images of a class whose distance to the others is measured
EQUAL = 0.5 / 255  # half a step of 8 bits
COPY = 0.25  # of the distance of real images to each other: what is nearer to one of them is nearly a copy


class Nearest(NamedTuple):
    """The real images nearest to those of a class; distances are root mean squares over all pixel values in [0, 1]."""

    images: Tensor  # float32 [n, k, ch, H, W], the nearest first; k is 2, or 1 where a class has one image
    smallest: float  # distance of the nearest pair
    among_real: float  # distance of a real image to the nearest other one: the median, or NaN where there is one

    @property
    def is_copy(self) -> bool:
        """Whether an image is nearly equal to a real one."""
        return self.smallest < max(EQUAL, COPY * self.among_real)  # NaN: a class of one image


def nearest(images: Mapping[int, Tensor], data: ImageData) -> dict[int, Nearest]:
    """The training images of the same class at the smallest distances from each image.

    Args:
        images: class → its images [n, ch, H, W] in [0, 1], as large as those of `data`.
        data: its training images.

    Returns:
        class → what is nearest to its images.
    """
    size = data.channels * data.size[0] * data.size[1]
    most = max(1, MAX_BYTES // (size * max(1, len(images))))
    found = {}
    for label, of_class in images.items():
        rows = data.rows(label)
        rows = rows[_spread(min(most, len(rows)), rows)]
        real = data.images[rows[_spread(min(PROBES, len(rows)), rows)]]
        asked = torch.cat([of_class.to(data.device), real.float() / 255]).flatten(1)
        distances, places = asked.new_empty(len(asked), 0), rows.new_empty(len(asked), 0)
        for part in rows.split(max(1, BATCH_BYTES // size)):
            further = torch.cdist(asked, data.images[part].flatten(1).float() / 255)
            distances, order = torch.cat([distances, further], 1).topk(
                min(NEIGHBOURS, distances.shape[1] + len(part)), largest=False
            )
            places = torch.cat([places, part.expand(len(asked), -1)], 1).gather(1, order)
        own, scale = len(of_class), size**0.5
        pixels = data.images[places[:own].flatten()].float().cpu() / 255
        among = float(distances[own:, 1].median()) / scale if len(rows) > 1 else math.nan  # the nearest is itself
        found[label] = Nearest(pixels.unflatten(0, (own, -1)), float(distances[:own, 0].min()) / scale, among)
    return found


def _spread(count: int, rows: Tensor) -> Tensor:
    """So many places of the rows, evenly."""
    return torch.linspace(0, len(rows) - 1, count, device=rows.device).long()
