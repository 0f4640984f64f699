"""Arrays in an npz file: train_images, train_labels and their like, as MedMNIST and Keras name them."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from attar.data import labels, splits
from attar.data.arrays import pixels, usable_device
from attar.data.assemble import About, Split, assemble
from attar.data.images import ImageData
from attar.data.reading import Reading, printable
from attar.errors import UserError, one_line

SUFFIX = ".npz"
IMAGES, LABELS = ("images", "x", "image", "data", "arr"), ("labels", "y", "label", "targets", "target")


def load(path: Path, reading: Reading) -> ImageData:
    """The splits of an npz file: <split>_images and <split>_labels, x_<split> and y_<split>, or images and labels.

    Args:
        path: the file.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        UserError: for a damaged file, other names, and arrays that are no images or no classes.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            pairs = _pairs(list(file))
            arrays = {split: (file[images], file[marks]) for split, (images, marks) in pairs.items()}
            names = list(file)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} {why_unreadable(error)}") from error
    if not arrays:
        raise UserError(
            f"{path} must hold train_images and train_labels (and test_ or val_ likewise), or images and labels; it "
            f"holds {', '.join(names) or 'nothing'}"
        )
    parts = {}
    for name in sorted(set(names).difference(*pairs.values())):
        reading.left_out.add("arrays with other names", name)
    for split, (images, marks) in arrays.items():
        values = pixels(
            images, f"the {split} images of {path.name}", usable_device("cpu"), reading.wish("channels")
        ).numpy()
        parts[split] = Split(values, labels.read(marks, f"{split} of {path.name}"))
    return assemble(parts, About(printable(path.resolve().stem)), reading)


def why_unreadable(error: Exception) -> str:
    """Why numpy does not read a file without running what is pickled in it, and what would be right."""
    if isinstance(error, OSError) and error.strerror:  # such as no permission
        return f"cannot be read: {one_line(error)}"
    if "Object arrays" in str(error):
        return "holds arrays of Python objects, which are not opened: save names as labels.astype(str)"
    if "allow_pickle" in str(error) or "not a zip" in str(error):
        return "is damaged or no npz file: write one with numpy.savez"
    return f"is damaged or no npz file: {one_line(error)}"


def _pairs(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """The arrays of images and of labels of each split."""
    pairs: dict[str, tuple[str, str]] = {}
    lower = {name.lower(): name for name in names}
    for split in splits.KIND_OF_NAME:
        images = next((lower[f] for word in IMAGES for f in (f"{split}_{word}", f"{word}_{split}") if f in lower), None)
        marks = next((lower[f] for word in LABELS for f in (f"{split}_{word}", f"{word}_{split}") if f in lower), None)
        if images and marks:
            pairs[split] = (images, marks)
    images = next((lower[word] for word in IMAGES if word in lower), None)
    marks = next((lower[word] for word in LABELS if word in lower), None)
    trained = any(splits.kind_of(split) == splits.TRAIN for split in pairs)  # else arrays without a split are for that
    return {splits.TRAIN: (images, marks)} | pairs if images and marks and not trained else pairs
