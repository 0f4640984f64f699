"""MNIST and Fashion-MNIST from their four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from attar.data.images import ImageData
from attar.data.sources.locate import blamed_on, find, read_bytes, words
from attar.errors import MissingError, UserError

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Both sets use the same file names, so the published counts per class tell when one lies in the other's place.
TRAIN_COUNTS = {
    "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "fashion": [6000] * 10,
}


def mnist(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """MNIST: 60,000 + 10,000 digits, 1x28x28."""
    folder = _folder("mnist", data_dir, subfolders=("MNIST/raw",))
    return _read(folder, "mnist", tuple("0123456789"), mean=0.1307, std=0.3081)


def fashion(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 1x28x28."""
    folder = _folder(
        "fashion",
        data_dir,
        subfolders=("FashionMNIST/raw", "fashion-mnist"),
        system=("/usr/share/datasets/fashion-mnist",),
        hint=" (on Debian: apt-get install dataset-fashion-mnist)",
    )
    return _read(folder, "fashion", FASHION_CLASSES, mean=0.2861, std=0.3530)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file; gzip is recognised by its content.

    Raises UserError naming the file when the header does not announce `dimensions` dimensions of bytes, when it and
    the length of the file disagree, or when gzipped data is damaged.
    """
    data = read_bytes(path)
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is damaged ({words(error)}); fetch it again") from error
    head = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if data[:4] != magic or len(data) < head:
        raise UserError(f"{path} is not an IDX file of {dimensions} dimensions: it should start with {magic.hex(' ')}")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    expected = head + math.prod(shape)
    if len(data) != expected:
        raise UserError(f"{path} should have {expected} bytes for its shape {list(shape)}, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _names(part: str, kind: str, dimensions: int) -> list[str]:
    """File names in use, e.g. train-images-idx3-ubyte.gz and train-images.idx3-ubyte."""
    return [f"{part}-{kind}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


def _existing(folder: Path, part: str, kind: str, dimensions: int) -> Path | None:
    paths = (folder / name for name in _names(part, kind, dimensions))
    return next((path for path in paths if os.path.isfile(path)), None)


def _folder(
    name: str,
    data_dir: Path | None,
    subfolders: tuple[str, ...],
    system: tuple[str, ...] = (),
    hint: str = "",
) -> Path:
    return find(
        name,
        lambda folder: _existing(folder, "train", "images", 3) is not None,
        data_dir,
        needs="train-images-idx3-ubyte[.gz]",
        put="the four IDX files (train-images, train-labels, t10k-images, t10k-labels)",
        hint=hint,
        subfolders=subfolders,
        system=system,
    )


def _split(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        path = _existing(folder, part, kind, dimensions)
        if path is None:
            raise MissingError(f"{folder} has no {part}-{kind}-idx{dimensions}-ubyte[.gz]; put it beside the others")
        arrays.append(read_idx(path, dimensions))
    images, labels = arrays
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {part} images but {len(labels)} labels; fetch the files again")
    return images, labels


def _read(folder: Path, name: str, classes: tuple[str, ...], mean: float, std: float) -> ImageData:
    images, labels = _split(folder, "train")
    test_images, test_labels = _split(folder, "t10k")
    counts = np.bincount(labels, minlength=10).tolist()
    for other, published in TRAIN_COUNTS.items():
        if other != name and counts == published:
            raise UserError(f"{folder} holds {other}, not {name}; choose '{other}' or name another folder")
    with blamed_on(folder):
        return ImageData(images, labels, test_images, test_labels, classes=classes, mean=[mean], std=[std], name=name)
