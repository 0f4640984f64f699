"""SVHN, cropped digits, from its two MATLAB files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from attar.data.images import ImageData
from attar.data.places import blamed_on, find, words
from attar.errors import MissingError, UserError

FILES = ("train_32x32.mat", "test_32x32.mat")


def read(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """SVHN: 73,257 + 26,032 digits, 3x32x32. The files call the digit 0 class 10; here it is class 0."""
    folder = find(
        "svhn",
        lambda folder: os.path.isfile(folder / FILES[0]),
        data_dir,
        needs=FILES[0],
        put=f"{FILES[0]} and {FILES[1]}",
        subfolders=("SVHN",),
    )
    train, test = (_read_mat(folder / file) for file in FILES)
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    with blamed_on(folder):
        return ImageData(*train, *test, classes=tuple("0123456789"), mean=mean, std=std, name="svhn")


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3, 32, 32] and int64 [N]."""
    from scipy.io import loadmat

    if not os.path.isfile(path):
        raise MissingError(f"{path} is missing; put it beside the other .mat file")
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except MemoryError:
        raise
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise UserError(f"{path} is not a readable MATLAB file: {words(error)}") from error
    x, y = content.get("X"), content.get("y")
    if x is None or x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.size == 0:
        raise UserError(f"{path} must hold the cropped digits: X as uint8 [32, 32, 3, N]")
    if y is None or y.size != x.shape[3] or y.dtype.kind not in "ui" or not (y.min() >= 1 and y.max() <= 10):
        raise UserError(f"{path} must hold y: a label 1..10 for each of the {x.shape[3]} images")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y.reshape(-1).astype(np.int64) % 10
