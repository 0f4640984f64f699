"""ImageNet-10 and ImageNet-100: the first 10 and all 100 WordNet ids of imagenet100.txt, in that order of labels."""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path

from attar.data.cache.plan import CacheOptions
from attar.data.images import ImageData
from attar.data.sources.folder import read_splits
from attar.data.sources.locate import find
from attar.errors import MissingError, UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def wnids() -> tuple[str, ...]:
    """The 100 WordNet ids in label order."""
    return tuple(resources.files(__package__).joinpath("imagenet100.txt").read_text(encoding="ascii").split())


def imagenet(
    data_dir: Path | None, nclass: int | None, size: int | None, cache_options: CacheOptions | None = None
) -> ImageData:
    """ImageNet-10 (nclass 10, the default) or ImageNet-100 (nclass 100) from a folder of JPEGs.

    The folder holds train/<wnid>/*.JPEG and val/<wnid>/*.JPEG and may hold other classes, which are not read. Images
    become RGB, short side 224 (or `size`), centre cropped. At 224 that is 150 kB each: 2 GB for 10 classes, 19 for 100,
    in a cache on disk unless `cache_options` says otherwise.
    """
    if nclass not in (None, 10, 100):
        raise UserError(f"imagenet has its first 10 or all 100 classes: nclass must be 10 or 100, found {nclass}")
    classes = wnids()[: nclass or 10]
    name = f"imagenet{len(classes)}"
    root = find(
        "imagenet",
        lambda folder: any(os.path.isdir(folder / "train" / wnid) for wnid in classes),
        data_dir,
        needs=f"train/<wnid>/*.JPEG (such as train/{classes[0]})",
        put="the folders train/<wnid> and val/<wnid> of the ILSVRC2012 images",
        subfolders=("ILSVRC2012", name),
    )
    test = next((root / part for part in ("val", "test") if os.path.isdir(root / part)), None)
    for split in (root / "train", test):
        missing = [wnid for wnid in classes if split and not os.path.isdir(split / wnid)]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise MissingError(
                f"{split} lacks {len(missing)} of {len(classes)} class folders: {', '.join(missing[:3])}{more}; "
                f"put the images of each class into {split}/<wnid>"
            )
    return read_splits(root / "train", test, classes, name, size or 224, 3, MEAN, STD, cache_options)


def imagenet10(
    data_dir: Path | None, nclass: int | None, size: int | None, cache_options: CacheOptions | None = None
) -> ImageData:
    """ImageNet-10 by the name that its ImageData carries."""
    return _named(10, data_dir, nclass, size, cache_options)


def imagenet100(
    data_dir: Path | None, nclass: int | None, size: int | None, cache_options: CacheOptions | None = None
) -> ImageData:
    """ImageNet-100 by the name that its ImageData carries."""
    return _named(100, data_dir, nclass, size, cache_options)


def _named(
    classes: int, data_dir: Path | None, nclass: int | None, size: int | None, cache_options: CacheOptions | None
) -> ImageData:
    if nclass not in (None, classes):
        raise UserError(f"imagenet{classes} has {classes} classes, nclass {nclass} asked for; choose imagenet")
    return imagenet(data_dir, classes, size, cache_options)
