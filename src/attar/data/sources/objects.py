"""Images that are in memory already: torch Datasets of (image, label) pairs, and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from attar.data.arrays import pixels, resample, usable_device
from attar.data.decode import BadImage, blame, decode, left_out
from attar.data.images import ImageData
from attar.data.sources.columns import to_classes
from attar.data.sources.table import ReadOptions, halves
from attar.errors import UserError

KINDS = "a name, a folder, a parquet file, a Hugging Face or torch data set, (images, labels) or an ImageData"


def is_pair(source: object) -> bool:
    """Whether it is (images, labels), two arrays or tensors."""
    return isinstance(source, tuple | list) and len(source) == 2 and all(hasattr(part, "shape") for part in source)


def is_torch(source: object) -> bool:
    """Whether it is a map-style Dataset of torch, or anything with a length and items by number."""
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | tuple | list)


def load(source: Any, reading: ReadOptions) -> ImageData:
    """ImageData of one such source, or of a dict of them with the keys train and test.

    Raises UserError for what is none, items that are no pairs, images of several sizes and labels that are no classes.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    train, test = halves(parts, "the data")
    reads = {key: _read(parts[key], reading, key) for key in (train, test) if key}
    names = getattr(parts[train], "classes", None)
    held = reads[test][1] if test else None
    own, held, classes = to_classes(reads[train][1], held, names, "the data")
    images = [reads[key][0] for key in reads]
    if len({len(image[0]) for image in images}) > 1:  # grey ones beside colour ones
        images = [image.repeat(3, 1) if image.shape[1] == 1 else image for image in images]
    tests = (images[1], held) if test else (None, None)
    return ImageData(images[0], own, *tests, classes=classes, name="data")


def _read(source: Any, reading: ReadOptions, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, ch, H, W] and the labels [n] as they are."""
    if is_pair(source):
        images = pixels(source[0], f"{split} images", usable_device("cpu")).numpy()
        labels = np.asarray(source[1])
        if len(labels) != len(images):
            raise UserError(f"{len(images)} {split} images, but {len(labels)} labels; give one label for each image")
        return images, labels
    if not is_torch(source):
        raise UserError(f"a data set is {KINDS}, found {type(source).__name__}")
    found: list[np.ndarray] = []
    marks: list[Any] = []
    bad: list[BadImage] = []
    for row in range(len(source)):
        item = source[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"item {row} of the data set is no (image, label) pair: {type(item).__name__}")
        try:
            found.append(_image(item[0], f"item {row}", reading.size))
        except BadImage as error:
            bad.append(error)
            continue
        marks.append(item[1].item() if hasattr(item[1], "item") else item[1])
    if bad and not (reading.cache_options.skip_bad and found):
        raise blame(bad, len(source))
    if reading.cache_options.skip_bad:
        reading.cache_options.notice(left_out(len(bad)))
    if not found:
        raise UserError(f"the {split} data set is empty")
    channels = max(len(image) for image in found)
    found = [image if len(image) == channels else image.repeat(channels, 0) for image in found]
    shapes = {image.shape[1:] for image in found}
    if len(shapes) > 1:
        named = " and ".join(f"{width}x{height}" for height, width in sorted(shapes)[:2])
        raise UserError(f"images of mixed sizes: {named}; give one size for all with size=")
    return np.stack(found), np.asarray(marks)


def _image(value: Any, name: str, size: int | None) -> np.ndarray:
    """uint8 [ch, H, W] of a PIL image, a tensor [ch, H, W] or an array [H, W, ch]."""
    if isinstance(value, Image.Image):
        return decode(name, value, None, size)
    if not isinstance(value, Tensor | np.ndarray):
        raise UserError(f"{name} has a {type(value).__name__} for an image; a PIL image, tensor or array is needed")
    image = pixels(value[None], name, usable_device("cpu"))
    return (image if size is None else resample(image, size))[0].numpy()
