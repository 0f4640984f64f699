"""The 1797 real handwritten digits of 8x8 pixels that come with scikit-learn (UCI optical recognition of digits)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attar.data.arrays import stratified
from attar.data.images import ImageData


def read(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """digits: 1198 training and 599 test images, 1x8x8. Nothing is looked for on disk: data_dir has no meaning here.

    scikit-learn has no split of its own, so a third of every class is the test set, drawn once and for all with seed 0.
    The values 0..16 become 0..255.
    """
    images, labels = _whole()
    train, test = stratified(labels, 1 / 3, seed=0)
    return ImageData(images[train], labels[train], images[test], labels[test], name="digits")


@cache
def _whole() -> tuple[Tensor, Tensor]:
    """All images uint8 [n, h, w] and their labels, read from scikit-learn's table once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))
    return images, torch.from_numpy(digits.target.astype(np.int64))
