"""Any folder of images: train/<class>/* with, if there is a test set, test/<class>/* or val/<class>/*."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attar.data.arrays import check_nclass, crop_plan
from attar.data.images import ImageData
from attar.data.places import words
from attar.errors import MissingError, UserError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
)
LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*"
GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))


def read(root: Path, nclass: int | None, size: int | None) -> ImageData:
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
    return read_splits(root / "train", test, classes[:nclass], root.resolve().name, size)


def read_splits(
    train: Path,
    test: Path | None,
    classes: Sequence[str],
    name: str,
    size: int | None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageData:
    """ImageData of the folders <split>/<class>, label = place in `classes`; channels 1, 3 or as the images need."""
    files, labels = _image_files(train, classes)
    held = [label for label, folder in enumerate(classes) if test and os.path.isdir(test / folder)]
    test_files, places = _image_files(test, [classes[label] for label in held]) if test else ([], [])
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


def _image_files(split: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Every image below split/<class>, and the place of its class in `classes`."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = [split / name / file for file in _listed(split / name) if Path(file).suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f"{split / name} has no images; a class folder needs files such as .png, .jpg or .webp")
        files += found
        labels += [label] * len(found)
    return files, labels


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # every format fails in its own way on damaged data
        raise UserError(f"{path} is not a readable image: {words(error)}") from error


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode in GREY_MODES


def _decode(path: Path, channels: int, size: int | None) -> np.ndarray:
    """uint8 [channels, H, W]."""
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        flat = _convert(image, "L" if channels == 1 else "RGB", path)
        if size is not None:
            tall, wide, top, left = crop_plan(flat.height, flat.width, size)
            flat = flat.resize((wide, tall), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        return np.asarray(flat).reshape(flat.height, flat.width, channels).transpose(2, 0, 1)


def _convert(image: Image.Image, mode: str, path: Path) -> Image.Image:
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
