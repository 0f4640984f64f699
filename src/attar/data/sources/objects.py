"""Images that are in memory already: torch Datasets, lists of pairs, and arrays."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from attar.data import labels, splits
from attar.data.arrays import pixels, usable_device
from attar.data.assemble import About, Split, assemble
from attar.data.decode import BadImage, Named, Needs, decode
from attar.data.images import ImageData
from attar.data.labels import Labels
from attar.data.pictures import Pictures
from attar.data.reading import Reading
from attar.data.sources.locate import words
from attar.errors import UserError, log, say_once

ACCEPTED = (
    "a name, a folder, a file (parquet, npz, zip, tar), a Hugging Face or torch data set, (images, labels), a list of "
    "(image, label), a dict of images and labels, a dict of these with train and test, or an ImageData"
)
IMAGE_KEYS = ("image", "images", "img", "pixel_values", "picture", "x", "input", "data")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y", "fine_label")


def load(source: Any, reading: Reading) -> ImageData:
    """ImageData of what is in memory.

    Args:
        source: see ACCEPTED; a dict has the keys train and test.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        UserError: for another source, items that are no pairs, and labels that are no classes.
    """
    if _is_two_splits(source):
        log.info("two pairs of arrays: the first is taken for training, the second as the test set")
        source = {"train": source[0], "test": source[1]}
    parts = dict(source) if isinstance(source, Mapping) and _columns(source) is None else {"train": source}
    read = {str(key): _read(part, reading, str(key)) for key, part in parts.items()}
    if len({isinstance(part.images, Pictures) for part in read.values()}) > 1:
        raise UserError("the splits of the data are arrays and data sets; give one kind for all")
    return assemble(read, About("data"), reading)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | Tensor) or (hasattr(value, "shape") and hasattr(value, "__array__"))


def _is_image(value: object) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim in (2, 3))  # type: ignore[attr-defined]


def _is_label(value: object) -> bool:
    return isinstance(value, int | str | np.generic) or (_is_array(value) and value.ndim <= 1)  # type: ignore[attr-defined]


def _is_pair(item: object) -> bool:
    """Whether it is an image and its label."""
    return isinstance(item, tuple | list) and len(item) == 2 and _is_image(item[0]) and _is_label(item[1])


def _is_two_splits(source: object) -> bool:
    """Whether it is ((images, labels), (images, labels)), as Keras gives data."""
    return (
        isinstance(source, tuple | list)
        and len(source) == 2
        and all(
            isinstance(part, tuple | list)
            and len(part) == 2
            and _is_array(part[0])
            and part[0].ndim in (3, 4)
            and len(part[0]) == len(part[1])
            for part in source
        )
    )


def _columns(source: object) -> tuple[Any, Any] | None:
    """Images and labels of a dict that holds all of both, such as {"images": …, "labels": …}."""
    if not isinstance(source, Mapping) or len(source) != 2:
        return None
    images, marks = ([key for key in source if key in names] for names in (IMAGE_KEYS, LABEL_KEYS))
    return (source[images[0]], source[marks[0]]) if len(images) == len(marks) == 1 else None


def _is_list(source: object) -> bool:
    """Whether it is a list of (image, label), or of dicts."""
    return (
        isinstance(source, list | tuple)
        and len(source) > 0
        and all(_is_pair(item) or isinstance(item, Mapping) for item in source)
    )


def _read(source: Any, reading: Reading, split: str) -> Split:
    """Images and labels of one split."""
    if (columns := _columns(source)) is not None:
        source = columns
    if type(source).__module__.partition(".")[0] == "pandas":
        raise UserError("a table of pandas is read from a file: write it by to_parquet, or give (images, labels)")
    if _is_list(source):
        return _read_items(source, reading, split)
    if isinstance(source, tuple | list):
        if (
            len(source) == 2
            and hasattr(source[0], "__len__")
            and hasattr(source[1], "__len__")
            and not isinstance(source[0], str)
        ):
            return _read_arrays(source[0], source[1], reading, split)
        inner = type(source[0]).__name__ if len(source) else "nothing"
        raise UserError(f"a data set is {ACCEPTED}; found a {type(source).__name__} of {len(source)}, first {inner}")
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__") or isinstance(source, str):
        once = hasattr(source, "__iter__") and not isinstance(source, str)
        advice = "; give its .dataset" if hasattr(source, "dataset") else "; give list(…) of it" if once else ""
        raise UserError(f"a data set is {ACCEPTED}; found {type(source).__name__}{advice}")
    return _read_items(source, reading, split)


def _read_arrays(images: Any, marks: Any, reading: Reading, split: str) -> Split:
    """Images in one array, or a list of images; labels in an array or a list."""
    if len(images) != len(marks):
        raise UserError(f"{len(images)} {split} images, but {len(marks)} labels; give one label for each image")
    known = labels.read(marks, _where(split))
    if _is_array(images):
        return Split(pixels(images, f"{split} images", usable_device("cpu"), reading.wish("channels")).numpy(), known)
    if isinstance(images, Image.Image | str) or not all(map(_is_image, images)):
        raise UserError(f"a data set is {ACCEPTED}; found ({type(images).__name__}, {type(marks).__name__})")
    return Split(_pictures(images, reading), known)


def _where(split: str) -> str:
    return "the data" if split == "train" else f"the {split} data"


def _read_items(source: Any, reading: Reading, split: str) -> Split:
    """The items of a data set: (image, label), or dicts."""
    if not len(source):
        raise UserError(f"the {split} data set is empty")
    images, marks, names, groups = [], [], [], []
    for row in range(len(source)):
        try:
            item = source[row]
        except Exception as error:  # of the user's own code, or of a damaged file
            if not reading.skip_bad:
                raise UserError(
                    f"item {row} of the data set cannot be read: {words(error)}; --skip_bad leaves such out"
                ) from error
            reading.left_out.add("items that cannot be read", f"item {row}")
            continue
        image, label = _unpacked(item, row, reading)
        images.append(_reduced(_picture(image, f"item {row}", reading), f"item {row}", reading))
        marks.append(label)
        groups.append(item.get(splits.column_of(item)) if isinstance(item, Mapping) else None)
        names.append(_names_of(_owner(source, row)))
    spoken = splits.of_column(groups, "split", _where(split)) if any(groups) else None
    return Split(_pictures(images, reading), _named(marks, names, split), spoken)


def _unpacked(item: Any, row: int, reading: Reading) -> tuple[Any, Any]:
    """The image and the label of an item. Raises UserError for one that is no pair and no dict with usual keys."""
    if isinstance(item, Mapping):
        keys = [str(key) for key in item]
        image = _key(item, reading, "image_column", IMAGE_KEYS)
        label = _key(item, reading, "label_column", LABEL_KEYS)
        if image not in item or label not in item:
            raise UserError(
                f"item {row} of the data set is a dict with the keys {', '.join(keys)}; name those of image and label "
                f"with image_column and label_column"
            )
        return item[image], item[label]
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise UserError(
            f"item {row} of the data set is no (image, label) pair and no dict: {what}; wrap the data set in one whose "
            f"items are pairs"
        )
    return item[0], item[1]


def _key(item: Mapping[Any, Any], reading: Reading, wish: str, usual: Sequence[str]) -> str | None:
    """The key of a dict that was asked for, or the usual one. Raises UserError where there are several."""
    keys = [key for key in usual if key in item]
    asked = reading.wish(wish)
    if asked is None and len(keys) > 1:
        raise UserError(f"an item of the data set has the keys {' and '.join(keys)}; name one with {wish}")
    return asked or next(iter(keys), None)


def _picture(value: Any, name: str, reading: Reading) -> Image.Image | np.ndarray:
    """A PIL image, or uint8 [ch, H, W] of a tensor or an array."""
    if isinstance(value, Image.Image):
        return value
    if not _is_array(value):
        raise UserError(f"{name} has a {type(value).__name__} for an image; a PIL image, tensor or array is needed")
    values = value if isinstance(value, Tensor) else np.asarray(value)
    return pixels(values[None], name, usable_device("cpu"), reading.wish("channels"))[0].numpy()


def _reduced(image: Image.Image | np.ndarray, name: str, reading: Reading) -> Image.Image | np.ndarray:
    """The image as it is kept: large ones need not stay in memory as a whole."""
    if isinstance(image, np.ndarray) or image.mode not in ("L", "RGB") or image.info.get("transparency") is not None:
        return image
    try:
        return decode(name, image, Needs(None, reading.size)).pixels
    except BadImage:
        return image  # it is counted later


def _pictures(images: Sequence[Any], reading: Reading) -> Pictures:
    def items(start: int) -> Iterator[Named]:
        for row in range(start, len(images)):
            yield f"item {row}", _picture(images[row], f"item {row}", reading)

    return Pictures(len(images), items)


def _owner(source: Any, row: int) -> Any:
    """The data set that an item comes from, through torch's Subset and ConcatDataset."""
    while True:
        if hasattr(source, "indices") and hasattr(source, "dataset"):
            source, row = source.dataset, int(source.indices[row])
        elif hasattr(source, "datasets") and hasattr(source, "cumulative_sizes"):
            part = bisect_right(source.cumulative_sizes, row)
            row -= source.cumulative_sizes[part - 1] if part else 0
            source = source.datasets[part]
        else:
            return source


def _names_of(source: Any) -> tuple[str, ...] | None:
    """What the whole numbers of a data set stand for, by `class_to_idx` or `classes`; None where it does not say."""
    if getattr(source, "target_transform", None) is not None:
        say_once(
            "labels pass through a target_transform, so they are taken as numbers and not by the names of the classes",
            logging.WARNING,
        )
        return None
    places = getattr(source, "class_to_idx", None)
    if isinstance(places, Mapping) and sorted(places.values()) == list(range(len(places))):
        return tuple(str(name) for name in sorted(places, key=lambda name: places[name]))
    names = getattr(source, "classes", None)
    if isinstance(names, Mapping) and sorted(names) == list(range(len(names))):
        names = [names[place] for place in range(len(names))]
    if isinstance(names, np.ndarray):
        names = names.tolist()
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None


def _named(marks: list[Any], names: list[tuple[str, ...] | None], split: str) -> Labels:
    """The labels of items, by the names of the data sets that they come from."""
    where = _where(split)
    if len(set(names)) == 1:
        return labels.read(marks, where, names[0] if not _are_text(marks) else None)
    if None in names:
        raise UserError(f"{where} is made of data sets with and without class names; give names to all or to none")
    groups: dict[tuple[str, ...] | None, list[int]] = {}
    for row, own in enumerate(names):
        groups.setdefault(own, []).append(row)
    parts = [labels.read([marks[row] for row in rows], where, own) for own, rows in groups.items()]
    joined = labels.join(parts, where)
    order = np.argsort(np.concatenate([np.asarray(rows) for rows in groups.values()]))
    return Labels(joined.values[order], joined.names, None if joined.missing is None else joined.missing[order])


def _are_text(marks: list[Any]) -> bool:
    return bool(marks) and isinstance(marks[0], str)
