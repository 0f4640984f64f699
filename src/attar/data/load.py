"""Real images: `load` brings a data set from wherever it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attar.data.arrays import check_nclass, check_size, stratified, usable_device
from attar.data.images import ImageData
from attar.data.labels import shown
from attar.data.reading import LARGEST_SIDE, LARGEST_SIDE_CPU, Reading, ShowsStages, Silent
from attar.data.sources import archives, cifar, digits, folder, hub, idx, imagenet, npz, objects, parquet, svhn, tree
from attar.data.sources.layout import LAYOUT
from attar.data.sources.unzipped import UNZIPPED, find_unzipped
from attar.engine import device as devices
from attar.errors import MissingError, UserError, choose, counted, log, nearest, say_once
from attar.settings.choices import CHANNEL_AXIS_NAMES
from attar.settings.config import DataConfig
from attar.settings.schema import settings_of

# name -> reader(data_dir, nclass, size). A reader may use nclass and size to read less; `load` applies what it left.
SOURCES: dict[str, Callable[[Path | None, int | None, int | None], ImageData]] = {
    "digits": digits.read,
    "mnist": idx.mnist,
    "fashion": idx.fashion,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "svhn": svhn.read,
}
# name -> reader(data_dir, reading): those that read image files.
FOLDERS: dict[str, Callable[[Path | None, Reading], ImageData]] = {
    "imagenet": imagenet.imagenet,
    "imagenet10": imagenet.imagenet10,
    "imagenet100": imagenet.imagenet100,
    **{name: partial(imagenet.subset, name) for name in imagenet.SUBSETS},
}
KNOWN = (*SOURCES, *FOLDERS)
NEARLY_BLACK = 1 / 255  # of white, the mean of all images
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
    labels_csv: str | Path | None = None,
    channels: str | None = None,
    test_fraction: float | None = None,
    test_seed: int = 0,
    skip_bad: bool = False,
    load_memory: bool = False,
    cache_dir: str | Path | None = None,
    progress: ShowsStages | None = None,
    sample: bool = False,
    zca: bool = False,
) -> ImageData:
    """Real images, on the device. What is guessed or left out is logged, see `ImageData.left_out`.

    Args:
        source: "digits", "cifar10" or another known name; a folder with train/<class>/* (and test/<class>/* or
            val/<class>/*) or <class>/*; a folder of `save_to_disk`; a parquet, npz, zip or tar file; a folder of
            parquet files or WebDataset shards; USER/NAME on the Hugging Face hub, a `Dataset` or `DatasetDict`; a torch
            Dataset or a list of pairs (image, label) or dicts; (images, labels); a dict of these with train and test;
            or an ImageData.
        data_dir: the folder with the files of a known data set, or one that holds it in a subfolder of the usual name.
            Without it the usual places are tried.
        nclass: only the first nclass classes (`imagenet`: 10, the default, or 100).
        size: resize the short side to this many pixels and keep the centre square. Without it images of mixed sizes are
            brought to the median of their short sides, at most 64 pixels on a CPU and 224 on a GPU.
        device: "auto" takes a GPU where there is one.
        image_column, label_column: of a table or of dicts, where their types or names do not tell.
        labels_csv: a table that says which image of the folder has which label.
        channels: "first" or "last", where arrays have their channels; by default the axis of length 1, 3 or 4.
        test_fraction: the share of each class that becomes the test set where there is none: by default a fifth, of an
            ImageData nothing. 0 leaves the data without one.
        test_seed: which images those are.
        skip_bad: leave unreadable images out.
        load_memory: keep the images in memory, however many there are. Without it those of a large folder stay in a
            file, decoded, below `cache_dir`, and tables are decoded once.
        cache_dir: where decoded images lie, few ones too; $ATTAR_CACHE or ~/.cache/attar by default.
        progress: shows how far a long decoding is.
        sample: of a large folder decode some images of each class only, which stand for the others: to look at data, as
            `attar inspect` does, not to train on.
        zca: whiten the images (ZCA, fit on the training images) wherever they are normalised.

    Returns:
        The data.

    Raises:
        UserError: of which MissingError when a file or folder is not there, with one line that says what to do.

    Example:
        data = attar.load("path/to/images", size=32)
        print(data, data.classes, data.counts)
    """
    given = locals()
    known = isinstance(source, str) and source in (*KNOWN, *UNZIPPED)
    idle = ["data_dir"] if data_dir is not None and not known else []
    where = devices.pick(device) if isinstance(device, str) else usable_device(device)
    _check_arguments(nclass, size, channels, test_fraction)
    reading = Reading(
        size=size,
        nclass=nclass,
        image_column=image_column,
        label_column=label_column,
        labels_csv=Path(labels_csv).expanduser() if labels_csv else None,
        channels=channels,
        skip_bad=skip_bad,
        memory=load_memory,
        sample=sample,
        root=Path(cache_dir) if cache_dir else None,
        progress=progress or Silent(),
        largest_side=LARGEST_SIDE_CPU if where.type == "cpu" else LARGEST_SIDE,
    )
    if isinstance(source, ImageData):
        data, test_fraction = source, test_fraction or 0
        idle += [name for name in ("skip_bad", "load_memory", "cache_dir", "sample") if given[name]]
    else:
        try:
            data = _read(source, data_dir, reading)
        except UserError:
            reading.left_out.say("so far")
            raise
    idle += reading.unheeded
    if test_fraction not in (None, 0, TEST_FRACTION) and data.test_images is not None:
        idle.append("test_fraction")
    if idle:
        log.warning("%s: of no use for such data: %s", data.name, " and ".join(idle))
    if max(data.mean) < NEARLY_BLACK:
        log.warning(
            "%s: the images are nearly black, %.2g of white on average: were 0..1 rounded, or values divided twice?",
            *(data.name, max(data.mean)),
        )
    if nclass is not None:
        data = data.subset(nclass)
    if size is not None:
        data = data.resized(size)
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    if data.test_images is None and fraction > 0:
        data = _with_test(data, fraction, test_seed)
    elif test_seed:
        idle.append("test_seed")
        why = "none are asked for (test_fraction)" if data.test_images is None else "the data have some"
        log.warning("%s: test_seed draws no test images: %s", data.name, why)
    say_equal_images(data)
    data = data.to(where).whitened() if zca else data.to(where)
    heeded = {name: value for name, value in _settings(given).items() if name not in idle}
    data.loaded = {**data.loaded, **heeded}
    return data


def equal_words(data: ImageData) -> list[str]:
    """What is to be said of images that are equal, pixel for pixel."""
    equal, words = data.equal, []
    if equal.several:
        one, other = sorted(data.classes[place] for place in equal.classes)
        count = counted(equal.several, "image")
        words.append(f"{count} in several classes, pixel for pixel, such as {one} and {other}")
    if equal.test and data.test_images is not None:
        share = f"{equal.test:,} of {counted(len(data.test_images), 'test image')}"
        words.append(f"equal to training images, pixel for pixel: {share}; accuracies will be too high")
    return words


def say_equal_images(data: ImageData) -> None:
    """Log that, once."""
    for line in equal_words(data):
        say_once(f"{data.name}: {line}", logging.WARNING)


def as_setting(source: str | os.PathLike[str]) -> str:
    """A data set as the setting; a path is written ./digits or ./data/images where it is called as others are.

    So it stays a path, wherever the setting is read.
    """
    text = str(source)
    on_hub = hub.is_name(text) and os.path.exists(text)
    return f"./{text}" if on_hub or (not isinstance(source, str) and text in KNOWN) else text


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of [data] that read the same as a call of `load`, other than defaults."""
    usual = settings_of(DataConfig()) | {"dataset": None}
    if isinstance(given["source"], str | os.PathLike):
        given = {**given, "dataset": as_setting(given["source"])}
    kinds = (os.PathLike, torch.device)
    texts = {name: str(value) if isinstance(value, kinds) else value for name, value in given.items()}
    return {name: texts[name] for name in usual if texts.get(name) not in (None, usual[name])}


def _check_arguments(nclass: int | None, size: int | None, channels: str | None, test_fraction: float | None) -> None:
    if nclass is not None:
        check_nclass(nclass)
    if size is not None:
        check_size(size)
    if channels is not None:
        choose("channels", channels, CHANNEL_AXIS_NAMES)
    if test_fraction is not None and not 0 <= test_fraction < 1:
        raise UserError(f"test_fraction must be at least 0 and below 1, found {test_fraction}")


def _with_test(data: ImageData, fraction: float, seed: int) -> ImageData:
    """Data whose test set is a part of its images. A class with one image keeps it for training."""
    kept, out = stratified(data.labels.cpu(), fraction, seed)
    if not len(out):
        log.warning(
            "%s has no test set, and none can be taken: every class has one image; put test images into test/<class>/*",
            data.name,
        )
        return data
    single = [name for name, count in zip(data.classes, data.counts, strict=True) if count == 1]
    log.warning(
        "%s has no test set: %s of its %s images are taken for one, %g of each class (seed %d; --test_fraction 0 for "
        "none)%s",
        *(data.name, f"{len(out):,}", f"{len(data.labels):,}", fraction, seed),
        f"; none of {shown(single)}, of which there is one image" if single else "",
    )
    return data.split(kept, out)


def _read(source: Any, data_dir: str | Path | None, reading: Reading) -> ImageData:
    if hub.is_dataset(source):
        return hub.from_datasets(source, reading)
    if not isinstance(source, str | os.PathLike):
        return objects.load(source, reading)
    if not str(source):
        raise UserError(f"a data set is {objects.ACCEPTED}, found {source!r}")
    if isinstance(source, str) and source in KNOWN:
        return _read_known(source, None if data_dir is None else Path(data_dir), reading)
    path = Path(source).expanduser()
    if str(source) in UNZIPPED and (data_dir is not None or not os.path.exists(path)):
        path = find_unzipped(str(source), data_dir)
    if os.path.exists(path):
        return _read_place(path, reading)
    if isinstance(source, str) and "://" in source:
        raise UserError(f"{source} is an address, and nothing is fetched from there; fetch the file, and name it")
    if isinstance(source, str) and hub.is_name(source):
        return hub.load(source, reading)
    if isinstance(source, str) and os.sep not in source:
        raise UserError(f"unknown data set '{source}'; {nearest(source, KNOWN)}; or the path of a folder")
    raise MissingError(f"the folder {source} does not exist; {LAYOUT}")


def _read_known(name: str, data_dir: Path | None, reading: Reading) -> ImageData:
    """A data set by its name. A folder of that name is another thing, and a line or the error says so."""
    here = Path(name)
    try:
        if name in FOLDERS:
            data = FOLDERS[name](data_dir, reading)
        else:
            data = SOURCES[name](data_dir, reading.nclass, reading.size)
    except MissingError as error:
        if not here.exists():
            raise
        raise MissingError(
            f"{error}; ./{name} is there: write ./{name} for class folders in it, or --data_dir {name}"
        ) from error
    if here.exists() and data_dir is None:
        log.warning(
            "%s is taken for the known data set, not for ./%s, which is there: write ./%s for that", name, name, name
        )
    return data


def _read_place(path: Path, reading: Reading) -> ImageData:
    """A file or a folder, by what is in it."""
    if path.is_file():
        if parquet.is_parquet(path):
            return parquet.load(path, reading)
        if path.suffix.lower() == npz.SUFFIX:
            return npz.load(path, reading)
        if archives.is_archive(path):
            return archives.load([path], path, reading)
        if path.suffix.lower() in tree.TABLES:
            raise UserError(f"{path} is a table: name the folder of its images, and the table with --labels_csv {path}")
        raise UserError(f"{path} is not a folder, and no parquet, npz, zip or tar file; {LAYOUT}")
    if not path.is_dir():
        raise UserError(f"{path} is a pipe, socket or device; {LAYOUT}")
    if hub.is_saved(path):
        return hub.from_disk(path, reading)
    if reading.labels_csv is None and not tree.has_pictures_below(path):
        folder.refuse_own(path)
        if parquet.find_files(path):
            return parquet.load(path, reading)
        if tars := archives.shards(path):
            return archives.load(tars, path, reading)
        arrays = sorted(path.glob(f"*{npz.SUFFIX}"))
        if len(arrays) == 1:
            log.info("%s is read", arrays[0])
            return npz.load(arrays[0], reading)
    return folder.read(path, reading)
