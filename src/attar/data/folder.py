"""Any folder of images: train/<class>/* with, if there is a test set, test/<class>/* or val/<class>/*."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attar.data import cache
from attar.data.arrays import check_nclass, crop_plan
from attar.data.images import ImageData
from attar.data.places import words
from attar.data.plan import Keeping, Plan
from attar.errors import MissingError, UserError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
)
CACHE_FROM = 16 << 20  # bytes of image files: reading fewer takes a second or two and little memory
LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*"
GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))


def read(root: Path, nclass: int | None, size: int | None, keeping: Keeping | None = None) -> ImageData:
    """The images of a folder, classes sorted by name; only the first nclass classes when that is given.

    Grey when all images have a single colour channel, RGB otherwise (transparency is dropped); 16-bit values become
    8-bit; a rotation noted by the camera (EXIF) is applied; of an animation the first frame counts. With `size` the
    short side becomes that many pixels (bilinear, antialiased) and the centre square is kept.

    Raises UserError for another layout, an empty class folder, a test class that is not in train/, a damaged image,
    and images of several sizes when no size is given.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingError(f"{root} {what}; {LAYOUT}")
    if not os.path.isdir(root / "train"):
        raise MissingError(f"{root} has no folder train/; {LAYOUT}")
    classes = class_folders(root / "train")
    test = next((root / part for part in ("test", "val") if os.path.isdir(root / part)), None)
    if test is not None:
        strangers = [name for name in class_folders(test) if name not in classes]
        if strangers:
            raise UserError(f"{test} has the class '{strangers[0]}', which {root / 'train'} has not")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has 1 class folder, '{classes[0]}'; at least 2 classes are needed")
    if nclass is not None:
        check_nclass(nclass, len(classes), str(root))
    return read_splits(root / "train", test, classes[:nclass], root.resolve().name, size, keeping=keeping)


def read_splits(
    train: Path,
    test: Path | None,
    classes: Sequence[str],
    name: str,
    size: int | None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    keeping: Keeping | None = None,
) -> ImageData:
    """ImageData of the folders <split>/<class>, label = place in `classes`; channels 1, 3 or as the images need.

    The images are decoded into memory, or into a cache where `keeping` names a place for it or the files are large.
    """
    files, labels = _image_files(train, classes)
    held = [label for label, folder in enumerate(classes) if test and os.path.isdir(test / folder)]
    test_files, places = _image_files(test, [classes[label] for label in held]) if test else ([], [])
    test_labels = [held[place] for place in places]
    images = _Images([*files, *test_files], channels, size)
    keeping = keeping or Keeping()
    stamps, total = ([], 0) if keeping.memory else _stamps(images.files)
    if keeping.memory or (keeping.root is None and total < CACHE_FROM):
        rows = range(len(images.files))
        tests = (images.decode_all(rows[len(files) :]), test_labels) if test_files else (None, None)
        return ImageData(
            images.decode_all(rows[: len(files)]), labels, *tests, classes=classes, mean=mean, std=std, name=name
        )
    plan = Plan(
        name=name,
        origin=str(train.parent.resolve()),
        size=size,
        classes=tuple(classes),
        labels=np.asarray([*labels, *test_labels]),
        train=len(files),
        stamps=stamps,
        shape=lambda: images.shape,
        decode=images.decode,
        mean=mean,
        std=std,
    )
    return cache.load(plan, keeping)


def class_folders(split: Path) -> list[str]:
    """Names of the class folders, sorted; UserError when there are none."""
    names = sorted(name for name in _listed(split) if os.path.isdir(split / name))
    if not names:
        raise UserError(f"{split} has no class folders; {LAYOUT}")
    return names


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _image_files(split: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Every image below split/<class>, and the place of its class in `classes`."""
    files: list[str] = []  # a Path takes five times the memory, and there may be millions
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [file for file in _listed(split / name) if os.path.splitext(file)[1].lower() in SUFFIXES]
        if not found:
            raise UserError(f"{split / name} has no images; a class folder needs files such as .png, .jpg or .webp")
        files += [os.path.join(split, name, file) for file in found]
        labels += [label] * len(found)
    return files, labels


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # every format fails in its own way on damaged data
        raise UserError(f"{path} is not a readable image: {words(error)}") from error


def _is_grey(path: str) -> bool:
    with _opened(path) as image:
        return image.mode in GREY_MODES


def _decode(path: str, channels: int, size: int | None) -> np.ndarray:
    """uint8 [channels, H, W]."""
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        flat = _convert(image, "L" if channels == 1 else "RGB", path)
        if size is not None:
            tall, wide, top, left = crop_plan(flat.height, flat.width, size)
            flat = flat.resize((wide, tall), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        return np.asarray(flat).reshape(flat.height, flat.width, channels).transpose(2, 0, 1)


def _convert(image: Image.Image, mode: str, path: str) -> Image.Image:
    """The image with 8 bits a channel in mode L or RGB."""
    if image.mode == "F":
        raise UserError(f"{path} has 32-bit float pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # PIL clips 16-bit values at 255 when it converts
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{path} has 32-bit pixels; save it with 8 or 16 bits a channel")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # directly to RGB PIL warns
    return image.convert(mode)


class _Images:
    """Image files that become arrays of one shape: that of the first, with as many channels as all of them need."""

    def __init__(self, files: Sequence[str], channels: int | None, size: int | None) -> None:
        self.files, self.channels, self.size = files, channels, size

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(channels, H, W); opens every file where the channels are not given."""
        if self.channels is None:
            with ThreadPoolExecutor() as threads:
                self.channels = 1 if all(threads.map(_is_grey, self.files)) else 3
        return _decode(self.files[0], self.channels, self.size).shape

    def decode(self, row: int) -> np.ndarray:
        """uint8 [channels, H, W]. Raises UserError for another shape than the first file's."""
        shape = self.shape
        image = _decode(self.files[row], shape[0], self.size)
        if image.shape != shape:
            first, other = (
                f"{x} is {s[2]}x{s[1]}" for x, s in ((self.files[0], shape), (self.files[row], image.shape))
            )
            raise UserError(f"images of mixed sizes: {first}, {other}; give one size for all with --size")
        return image

    def decode_all(self, rows: range) -> np.ndarray:
        """uint8 [N, channels, H, W]. PIL decodes without the GIL."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        with ThreadPoolExecutor() as threads:
            for place, image in enumerate(threads.map(self.decode, rows)):  # in order: the first bad file is named
                out[place] = image
        return out


def _stamps(files: Sequence[str]) -> tuple[list[str], int]:
    """What tells each image from another without opening it, and the size of all together."""
    stamps, total = [], 0
    for path in files:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise UserError(f"{path} is not a readable image: {error.strerror}") from error
        stamps.append(f"{os.sep.join(path.split(os.sep)[-3:])} {stat.st_size} {stat.st_mtime_ns}")
        total += stat.st_size
    return stamps, total
