"""Real images: `load` brings a data set from wherever it is, `ImageData` holds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attar.data.arrays import check_nclass, check_size, stratified, usable_device
from attar.data.cache.plan import SILENT, CacheOptions, Notice
from attar.data.images import ImageData
from attar.data.sources import cifar, digits, folder, hub, idx, imagenet, objects, parquet, svhn
from attar.data.sources.table import ReadOptions
from attar.engine import device as devices
from attar.errors import MissingError, UserError, log, nearest

# name -> reader(data_dir, nclass, size). A reader may use nclass and size to read less; `load` applies what it left.
SOURCES: dict[str, Callable[[Path | None, int | None, int | None], ImageData]] = {
    "digits": digits.read,
    "mnist": idx.mnist,
    "fashion": idx.fashion,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "svhn": svhn.read,
    "imagenet": imagenet.imagenet,
    "imagenet10": imagenet.imagenet10,
    "imagenet100": imagenet.imagenet100,
}
# Those of SOURCES that read image files take one thing more: where the decoded images are kept.
FOLDERS = {"imagenet": imagenet.imagenet, "imagenet10": imagenet.imagenet10, "imagenet100": imagenet.imagenet100}


TEST_FRACTION = 0.2  # of the images, where there is no test set and nothing else is asked for


def load(
    source: Any,
    *,
    data_dir: str | Path | None = None,
    nclass: int | None = None,
    size: int | None = None,
    device: str | torch.device = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    test_fraction: float | None = None,
    test_seed: int = 0,
    skip_bad: bool = False,
    load_memory: bool = False,
    cache_dir: str | Path | None = None,
    progress: Any = None,
) -> ImageData:
    """Real images, on the device.

    source: a name of SOURCES; a folder with train/<class>/* (and test/<class>/* or val/<class>/*) or <class>/*; a
        parquet file or a folder of them; USER/NAME on the Hugging Face hub, a `Dataset` or `DatasetDict`; a torch
        Dataset of (image, label) pairs; (images, labels); a dict of these with train and test; or an ImageData.
    data_dir: the folder with the files of a named data set, or one that holds it in a subfolder of the usual name.
        Without it the places of `places.find` are tried. Used for the names of SOURCES only.
    nclass: only the first nclass classes (`imagenet`: 10, the default, or 100).
    size: resize the short side to this many pixels and keep the centre square.
    image_column, label_column: of a table, where their types do not tell.
    test_fraction: the share of each class that becomes the test set where there is none: by default a fifth, of an
        ImageData nothing. 0 leaves the data without one.
    skip_bad: leave unreadable images out.
    load_memory: keep the images of a folder in memory, however many there are. Without it many of them stay in a file,
        decoded, below `cache_dir` ($ATTAR_CACHE or ~/.cache/attar); a `cache_dir` has few of them kept there too.
        Images of parquet files and of the hub are always in memory, and kept there too unless load_memory.
    progress: shows a cache that is built.

    Raises UserError, of which MissingError when a file or folder is not there, with one line that says what to do.
    """
    where = devices.pick(device) if isinstance(device, str) else usable_device(device)
    notice = log.warning
    watch = SILENT if progress is None else Watching(progress)
    if nclass is not None:
        check_nclass(nclass)
    if size is not None:
        check_size(size)
    if test_fraction is not None and not 0 <= test_fraction < 1:
        raise UserError(f"test_fraction must be at least 0 and below 1, found {test_fraction}")
    if isinstance(source, ImageData):
        data, test_fraction = source, test_fraction or 0
    else:
        root = Path(cache_dir) if cache_dir else None
        cache_options = CacheOptions(load_memory, root, watch, skip_bad, notice)
        data = _read(source, data_dir, nclass, ReadOptions(size, image_column, label_column, cache_options))
    if nclass is not None:
        data = data.subset(nclass)
    if size is not None:
        data = data.resized(size)
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    if data.test_images is None and fraction > 0:
        data = _with_test(data, fraction, test_seed, notice)
    return data.to(where)


class Watching:
    def __init__(self, progress: Any) -> None:
        self.stage, self.say = progress.stage, log.info


def _with_test(data: ImageData, fraction: float, seed: int, notice: Notice) -> ImageData:
    """Data whose test set is a part of its images. A class with one image keeps it for training."""
    kept, out = stratified(data.labels.cpu(), fraction, seed)
    if not len(out):
        return data
    notice(
        f"{data.name} has no test set: {len(out):,} of its {len(data.labels):,} images are taken for one, "
        f"{fraction:g} of each class (seed {seed}; --test_fraction 0 for none)"
    )
    return data.split(kept, out)


def _read(source: Any, data_dir: str | Path | None, nclass: int | None, reading: ReadOptions) -> ImageData:
    if hub.is_dataset(source):
        return hub.from_datasets(source, reading)
    if not isinstance(source, str | os.PathLike):
        return objects.load(source, reading)
    if not str(source):
        raise UserError(f"a data set is {objects.KINDS}, found {source!r}")
    if isinstance(source, str) and source in SOURCES:
        place = None if data_dir is None else Path(data_dir)
        if source in FOLDERS:
            return FOLDERS[source](place, nclass, reading.size, reading.cache_options)
        return SOURCES[source](place, nclass, reading.size)
    path = Path(source).expanduser()
    if os.path.exists(path):
        if path.suffix == parquet.SUFFIX or (path.is_dir() and not _has_pictures(path) and parquet.found(path)):
            return parquet.load(path, reading)
        return folder.read(path, nclass, reading.size, reading.cache_options)
    if isinstance(source, str) and hub.is_name(source):
        return hub.load(source, reading)
    if isinstance(source, str) and os.sep not in source:
        raise UserError(f"unknown data set '{source}'; {nearest(source, SOURCES)}; or the path of a folder")
    raise MissingError(f"the folder {source} does not exist; {folder.LAYOUT}")


def _has_pictures(path: Path) -> bool:
    train = path / "train"
    return folder.has_classes(train if os.path.isdir(train) else path)
