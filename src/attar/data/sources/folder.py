"""Any folder of images: train/<class>/* and, if there is a test set, test/<class>/* or val/<class>/*; or <class>/*."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from attar.data.arrays import check_nclass
from attar.data.cache.load import known_bad
from attar.data.cache.load import load as load_cached
from attar.data.cache.plan import CacheOptions, CachePlan
from attar.data.decode import GREY_MODES, BadImage, blame, decode, left_out, opened
from attar.data.images import ImageData
from attar.errors import MissingError, UserError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
)
CACHE_FROM = 16 << 20  # bytes of image files: reading fewer takes a second or two and little memory
LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*; or <class>/*"
NEEDS = "a class folder needs files such as .png, .jpg or .webp"


def read(root: Path, nclass: int | None, size: int | None, cache_options: CacheOptions | None = None) -> ImageData:
    """The images of a folder, classes sorted by name; only the first nclass classes when that is given.

    Grey when all images have a single colour channel, RGB otherwise (transparency is dropped); 16-bit values become
    8-bit; a rotation noted by the camera (EXIF) is applied; of an animation the first frame counts. With `size` the
    short side becomes that many pixels (bilinear, antialiased) and the centre square is kept.

    Without train/ all images are training images. Raises UserError for another layout, an empty class folder, a test
    class that is not in train/, a damaged image unless `cache_options` leaves them out, and images of several
    sizes when no size is given.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingError(f"{root} {what}; {LAYOUT}")
    train = root / "train" if os.path.isdir(root / "train") else root
    if train is root and not has_classes(root):
        raise MissingError(f"{root} has no folder train/; {LAYOUT}")
    classes = class_folders(train)
    splits = () if train is root else ("test", "val")
    test = next((root / part for part in splits if os.path.isdir(root / part)), None)
    if test is not None:
        strangers = [name for name in class_folders(test) if name not in classes]
        if strangers:
            raise UserError(f"{test} has the class '{strangers[0]}', which {train} has not")
    if len(classes) < 2:
        raise UserError(f"{train} has 1 class folder, '{classes[0]}'; at least 2 classes are needed")
    if nclass is not None:
        check_nclass(nclass, len(classes), str(root))
    return read_splits(train, test, classes[:nclass], root.resolve().name, size, cache_options=cache_options)


def has_classes(root: Path) -> bool:
    """Whether images lie directly in the folders of `root`."""
    inner = (root / name for name in _listed(root))
    return any(_is_image(file) for folder in inner if os.path.isdir(folder) for file in _listed(folder))


def read_splits(
    train: Path,
    test: Path | None,
    classes: Sequence[str],
    name: str,
    size: int | None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cache_options: CacheOptions | None = None,
) -> ImageData:
    """ImageData of the folders <split>/<class>, label = place in `classes`; channels 1, 3 or as the images need.

    The images are decoded into memory, or into a cache where `cache_options` names a place for it
    or the files are large.
    """
    files, labels = _image_files(train, classes)
    held = [label for label, folder in enumerate(classes) if test and os.path.isdir(test / folder)]
    test_files, places = _image_files(test, [classes[label] for label in held]) if test else ([], [])
    images = _Images([*files, *test_files], channels, size)
    cache_options = cache_options or CacheOptions()
    stamps, total = ([], 0) if cache_options.memory else _stamps(images.files)
    plan = CachePlan(
        name=name,
        origin=str(train.parent.resolve()),
        size=size,
        classes=tuple(classes),
        labels=np.asarray([*labels, *(held[place] for place in places)]),
        train=len(files),
        stamps=stamps,
        shape=lambda: images.shape,
        decode=images.decode,
        mean=mean,
        std=std,
    )
    cached = not cache_options.memory and (cache_options.root is not None or total >= CACHE_FROM)
    if cache_options.skip_bad:
        bad = known_bad(plan, cache_options, images.faulty) if cached else images.faulty()
        cache_options.notice(left_out(len(bad)))
        images.leave_out(bad)
        plan = plan.without(bad)
        lost = sorted(set(range(len(classes))) - set(plan.labels[: plan.train].tolist()))
        if lost:
            raise UserError(f"{train / classes[lost[0]]} has no readable images; {NEEDS}")
    return load_cached(plan, cache_options) if cached else _in_memory(plan, images)


def _in_memory(plan: CachePlan, images: _Images) -> ImageData:
    try:
        train, test = (images.decode_all(rows.tolist()) for rows in np.split(np.arange(len(plan.labels)), [plan.train]))
    except BadImage as error:  # how many there are is worth a second reading
        raise blame([found for found in images.faults() if found] or [error], len(images.files)) from error
    labels, test_labels = np.split(plan.labels, [plan.train])
    tests = (test, test_labels) if len(test) else (None, None)
    return ImageData(train, labels, *tests, classes=plan.classes, mean=plan.mean, std=plan.std, name=plan.name)


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
        found = [file for file in _listed(split / name) if _is_image(file)]
        if not found:
            raise UserError(f"{split / name} has no images; {NEEDS}")
        files += [os.path.join(split, name, file) for file in found]
        labels += [label] * len(found)
    return files, labels


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in SUFFIXES


def _is_grey(path: str) -> bool:
    with opened(path, Path(path)) as image:
        return image.mode in GREY_MODES


def _decode(path: str, channels: int | None, size: int | None) -> np.ndarray:
    """uint8 [channels, H, W]."""
    return decode(path, Path(path), channels, size)


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

    def decode_all(self, rows: Sequence[int]) -> np.ndarray:
        """uint8 [N, channels, H, W]. PIL decodes without the GIL."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        with ThreadPoolExecutor() as threads:
            for place, image in enumerate(threads.map(self.decode, rows)):  # in order: the first bad file is named
                out[place] = image
        return out

    def faults(self) -> list[BadImage | None]:
        """For each file what keeps it from being decoded."""

        def one(path: str) -> BadImage | None:
            try:
                _decode(path, None, self.size)
            except BadImage as error:
                return error
            return None

        with ThreadPoolExecutor() as threads:
            return list(threads.map(one, self.files))

    def faulty(self) -> list[int]:
        """The rows of the files that cannot be decoded."""
        return [row for row, error in enumerate(self.faults()) if error is not None]

    def leave_out(self, rows: Sequence[int]) -> None:
        """Go on without these files: the rows of those that follow move up."""
        out = set(rows)
        self.files = [file for row, file in enumerate(self.files) if row not in out]


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
