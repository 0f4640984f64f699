"""The real image that is most similar to a synthetic one: whether that is copied or invented."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attar.data.images import ImageData

MAX_BYTES = 500_000_000  # of real images that are compared; of larger data as many of each class as that allows
BATCH_BYTES = 50_000_000  # of them at once, in 8 bits


def nearest(images: Mapping[int, Tensor], data: ImageData) -> dict[int, Tensor]:
    """For each image [n, ch, H, W] in [0, 1] of a class the training image of that class at the smallest distance.

    Args:
        images: class → its images, as large as those of `data`.
        data: its training images; the distance is Euclidean, of all pixel values.

    Returns:
        class → training images, float32 [n, ch, H, W] in [0, 1].
    """
    size = data.channels * data.size[0] * data.size[1]
    most = max(1, MAX_BYTES // (size * max(1, len(images))))
    nearest = {}
    for label, of_class in images.items():
        rows = data.rows(label)
        rows = rows[torch.linspace(0, len(rows) - 1, min(most, len(rows)), device=rows.device).long()]
        flat = of_class.flatten(1).to(data.device, torch.float32)
        closest = torch.full((len(flat),), torch.inf, device=data.device)
        place = rows.new_zeros(len(flat))
        for part in rows.split(max(1, BATCH_BYTES // size)):
            distances, columns = torch.cdist(flat, data.images[part].flatten(1).float() / 255).min(dim=1)
            place = torch.where(distances < closest, part[columns], place)
            closest = torch.minimum(closest, distances)
        nearest[label] = data.images[place].float().cpu() / 255
    return nearest
