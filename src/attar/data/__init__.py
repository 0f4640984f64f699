"""Real images: `load` brings a data set by name or from a folder, `ImageData` holds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from attar.data import cifar, digits, folder, idx, imagenet, svhn
from attar.data.arrays import check_nclass, check_size, usable_device
from attar.data.images import ImageData
from attar.data.plan import SILENT, Keeping, Watch
from attar.errors import MissingError, UserError, nearest

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


def load(
    source: str | Path | ImageData,
    *,
    data_dir: str | Path | None = None,
    nclass: int | None = None,
    size: int | None = None,
    device: str | torch.device = "cpu",
    load_memory: bool = False,
    cache_dir: str | Path | None = None,
    watch: Watch | None = None,
) -> ImageData:
    """Real images, on the device.

    source: a name of SOURCES, a folder with train/<class>/* (and test/<class>/* or val/<class>/*), or an ImageData.
    data_dir: the folder with the files of a named data set, or one that holds it in a subfolder of the usual name.
        Without it the places of `places.find` are tried. Not used for `digits`, a folder or an ImageData.
    nclass: only the first nclass classes (`imagenet`: 10, the default, or 100).
    size: resize the short side to this many pixels and keep the centre square.
    load_memory: keep the images of a folder in memory, however many there are. Without it many of them stay in a file,
        decoded, below `cache_dir` ($ATTAR_CACHE or ~/.cache/attar); a `cache_dir` has few of them kept there too.
    watch: who is told about a cache that is built or used.

    Raises UserError, of which MissingError when a file or folder is not there, with one line that says what to do.
    """
    where = usable_device(device)
    if nclass is not None:
        check_nclass(nclass)
    if size is not None:
        check_size(size)
    keeping = Keeping(memory=load_memory, root=Path(cache_dir) if cache_dir else None, watch=watch or SILENT)
    data = source if isinstance(source, ImageData) else _read(source, data_dir, nclass, size, keeping)
    if nclass is not None:
        data = data.subset(nclass)
    if size is not None:
        data = data.resized(size)
    return data.to(where)


def _read(
    source: str | Path, data_dir: str | Path | None, nclass: int | None, size: int | None, keeping: Keeping
) -> ImageData:
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise UserError(f"a data set is a name, a folder or an attar.ImageData, found {source!r}")
    if isinstance(source, str) and source in SOURCES:
        place = None if data_dir is None else Path(data_dir)
        if source in FOLDERS:
            return FOLDERS[source](place, nclass, size, keeping)
        return SOURCES[source](place, nclass, size)
    path = Path(source).expanduser()
    if os.path.exists(path):
        return folder.read(path, nclass, size, keeping)
    if isinstance(source, str) and os.sep not in source:
        raise UserError(f"unknown data set '{source}'; {nearest(source, SOURCES)}; or the path of a folder")
    raise MissingError(f"the folder {source} does not exist; {folder.LAYOUT}")
