"""Images as a torch `Dataset`, by torchvision's conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attar.data.cache.mapped import Mapped


class ImageDataset(Dataset[tuple[Any, int]]):
    """Pairs of an image, float32 [ch, H, W] or what `transform` makes of it, and its label, an int.

    Attributes:
        classes: the names of the classes; class_to_idx: {name: label}.
        targets: the label of each image.
        transform: called with each image.
    """

    def __init__(
        self,
        images: Tensor | Mapped,  # uint8 or float32, [N, ch, H, W]
        labels: Tensor,  # int64 [N]
        classes: Sequence[str],
        *,
        normalize: Callable[[Tensor], Tensor] | None = None,  # of an image in [0, 1]
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.images, self.normalize, self.transform = images, normalize, transform
        self.classes, self.targets = list(classes), labels.tolist()
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        label = self.targets[row]
        image = self.images[row : row + 1 or None][0]  # -1 is the last one
        if image.dtype == torch.uint8:
            image = image.to(torch.float32).div_(255)
        if self.normalize is not None:
            image = self.normalize(image)
        return (image if self.transform is None else self.transform(image)), label
