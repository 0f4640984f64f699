"""ImageNet-10 and ImageNet-100: the first 10 and all 100 WordNet ids of imagenet100.txt, in that order of labels.

Besides four subsets of ten classes (Cazenavette et al., MTT): fruit, cats, birds, and what is yellow.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from attar.data.assemble import About, origin_of
from attar.data.images import ImageData
from attar.data.reading import Reading
from attar.data.sources.folder import read_classes
from attar.data.sources.locate import find
from attar.errors import MissingError, UserError

SUBSETS = ("imagefruit", "imagemeow", "imagesquawk", "imageyellow")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def wnids() -> tuple[str, ...]:
    """The 100 WordNet ids in label order."""
    return tuple(resources.files(__package__).joinpath("imagenet100.txt").read_text(encoding="ascii").split())


@cache
def subsets() -> dict[str, tuple[str, ...]]:
    """The WordNet ids of `SUBSETS` in label order."""
    lines = resources.files(__package__).joinpath("imagenet_subsets.txt").read_text(encoding="ascii").splitlines()
    return {name: tuple(ids) for name, *ids in map(str.split, lines)}


def subset(name: str, data_dir: Path | None, reading: Reading) -> ImageData:
    """One of `SUBSETS`, from the same folder as `imagenet`."""
    return _read(name, subsets()[name][: reading.nclass], data_dir, reading)


def imagenet(data_dir: Path | None, reading: Reading) -> ImageData:
    """ImageNet-10 (nclass 10, the default) or ImageNet-100 (nclass 100) from a folder of JPEGs.

    The folder holds train/<wnid>/*.JPEG and val/<wnid>/*.JPEG and may hold other classes, which are not read. Images
    become RGB, short side 224 (or `size`), centre cropped. At 224 that is 150 kB each: 2 GB for 10 classes, 19 for 100,
    in a cache on disk unless they are to stay in memory.
    """
    nclass = reading.nclass
    if nclass not in (None, 10, 100):
        raise UserError(f"imagenet has its first 10 or all 100 classes: nclass must be 10 or 100, found {nclass}")
    classes = wnids()[: nclass or 10]
    return _read(f"imagenet{len(classes)}", classes, data_dir, reading)


def _read(name: str, classes: tuple[str, ...], data_dir: Path | None, reading: Reading) -> ImageData:
    root = find(
        "imagenet",
        lambda folder: any(os.path.isdir(folder / "train" / wnid) for wnid in classes),
        data_dir,
        needs=f"train/<wnid>/*.JPEG (such as train/{classes[0]})",
        put="the folders train/<wnid> and val/<wnid> of the ILSVRC2012 images",
        subfolders=("ILSVRC2012", name),
    )
    splits = {
        part: root / part for part in ("train", *[part for part in ("val", "test") if os.path.isdir(root / part)][:1])
    }
    for split in splits.values():
        missing = [wnid for wnid in classes if not os.path.isdir(split / wnid)]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise MissingError(
                f"{split} lacks {len(missing)} of {len(classes)} class folders: {', '.join(missing[:3])}{more}; "
                f"put the images of each class into {split}/<wnid>"
            )
        others = sum((split / name).is_dir() for name in os.listdir(split)) - len(classes)
        reading.left_out.add(
            f"class folders of {split.name}/ that are not among the {len(classes)}", count=max(0, others)
        )
    about = About(name, origin_of(root), classes=tuple(classes), channels=3, mean=MEAN, std=STD)
    return read_classes(splits, classes, about, replace(reading, size=reading.size or 224), reading.left_out)


def imagenet10(data_dir: Path | None, reading: Reading) -> ImageData:
    """ImageNet-10 by the name that its ImageData carries."""
    return _named(10, data_dir, reading)


def imagenet100(data_dir: Path | None, reading: Reading) -> ImageData:
    """ImageNet-100 by the name that its ImageData carries."""
    return _named(100, data_dir, reading)


def _named(classes: int, data_dir: Path | None, reading: Reading) -> ImageData:
    if reading.nclass not in (None, classes):
        raise UserError(f"imagenet{classes} has {classes} classes, nclass {reading.nclass} asked for; choose imagenet")
    return imagenet(data_dir, replace(reading, nclass=classes))
