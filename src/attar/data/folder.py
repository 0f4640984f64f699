"""Any folder of images: train/<class>/* and, if there is a test set, test/<class>/* or val/<class>/*; or <class>/*."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from attar.data.arrays import check_nclass
from attar.data.images import ImageData
from attar.data.picture import GREY_MODES, BadImage, blame, decode, left_out, opened
from attar.errors import MissingError, UserError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
)
LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*; or <class>/*"


def read(
    root: Path,
    nclass: int | None,
    size: int | None,
    *,
    skip_bad: bool = False,
    notice: Callable[[str], None] = lambda line: None,
) -> ImageData:
    """The images of a folder, classes sorted by name; only the first nclass classes when that is given.

    Grey when all images have a single colour channel, RGB otherwise (transparency is dropped); 16-bit values become
    8-bit; a rotation noted by the camera (EXIF) is applied; of an animation the first frame counts. With `size` the
    short side becomes that many pixels (bilinear, antialiased) and the centre square is kept.

    Without train/ all images are training images. Raises UserError for another layout, an empty class folder, a test
    class that is not in train/, a damaged image unless `skip_bad` (`notice` then gets one line), and images of several
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
    chosen = classes[:nclass]

    def everything() -> list[Path]:
        places = [split / name for split in (train, test) if split for name in chosen if os.path.isdir(split / name)]
        return [file for place in places for file in _image_files(place.parent, [place.name])[0]]

    try:
        data = read_splits(train, test, chosen, root.resolve().name, size, skip_bad=skip_bad)
    except BadImage:  # how many there are is worth a second reading
        files = everything()
        raise blame([error for error in _faults(files, size) if error], len(files)) from None
    if skip_bad:
        notice(
            left_out(len(everything()) - len(data.images) - (0 if data.test_images is None else len(data.test_images)))
        )
    return data


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
    skip_bad: bool = False,
) -> ImageData:
    """ImageData of the folders <split>/<class>, label = place in `classes`; channels 1, 3 or as the images need."""
    files, labels = _image_files(train, classes, size, skip_bad)
    held = [label for label, folder in enumerate(classes) if test and os.path.isdir(test / folder)]
    test_files, places = _image_files(test, [classes[label] for label in held], size, skip_bad) if test else ([], [])
    with ThreadPoolExecutor() as threads:
        if channels is None:
            channels = 1 if all(threads.map(_is_grey, [*files, *test_files])) else 3
        images = _decode_all(threads, files, files[0], channels, size)
        test_images = _decode_all(threads, test_files, files[0], channels, size) if test_files else None
    test_labels = [held[place] for place in places] if test_files else None
    return ImageData(images, labels, test_images, test_labels, classes=classes, mean=mean, std=std, name=name)


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


def _image_files(
    split: Path, classes: Sequence[str], size: int | None = None, skip_bad: bool = False
) -> tuple[list[Path], list[int]]:
    """Every image below split/<class>, with `skip_bad` every readable one, and the place of its class in `classes`."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = [split / name / file for file in _listed(split / name) if _is_image(file)]
        if skip_bad:
            found = [file for file, error in zip(found, _faults(found, size), strict=True) if error is None]
        if not found:
            kind = "readable images" if skip_bad else "images"
            raise UserError(f"{split / name} has no {kind}; a class folder needs files such as .png, .jpg or .webp")
        files += found
        labels += [label] * len(found)
    return files, labels


def _is_image(file: str) -> bool:
    return Path(file).suffix.lower() in SUFFIXES


def _is_grey(path: Path) -> bool:
    with opened(str(path), path) as image:
        return image.mode in GREY_MODES


def _decode(path: Path, channels: int, size: int | None) -> np.ndarray:
    return decode(str(path), path, channels, size)


def _faults(files: Sequence[Path], size: int | None) -> list[BadImage | None]:
    """For each file what keeps it from being decoded."""

    def one(path: Path) -> BadImage | None:
        try:
            decode(str(path), path, None, size)
        except BadImage as error:
            return error
        return None

    with ThreadPoolExecutor() as threads:
        return list(threads.map(one, files))


def _decode_all(
    threads: ThreadPoolExecutor, files: Sequence[Path], first: Path, channels: int, size: int | None
) -> np.ndarray:
    """uint8 [N, channels, H, W] of all files, which must have the size of `first`. PIL decodes without the GIL."""
    shape = _decode(first, channels, size).shape
    out = np.empty((len(files), *shape), np.uint8)

    def place(row: int) -> None:
        image = _decode(files[row], channels, size)
        if image.shape != shape:
            sizes = [f"{first} is {shape[2]}x{shape[1]}", f"{files[row]} is {image.shape[2]}x{image.shape[1]}"]
            raise UserError(f"images of mixed sizes: {', '.join(sizes)}; give one size for all with --size")
        out[row] = image

    for _ in threads.map(place, range(len(files))):  # in order, so the first bad file is the one named
        pass
    return out
