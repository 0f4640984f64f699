"""Any folder of images: train/<class>/* and, if there is a test set, test/<class>/* or val/<class>/*; or <class>/*."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attar.data.assemble import About, Split, assemble, origin_of
from attar.data.images import ImageData
from attar.data.labels import Labels
from attar.data.reading import LeftOut, Reading, printable
from attar.data.sources import listed, tiny_imagenet, written
from attar.data.sources.layout import LAYOUT, NEEDS, NOT_PICTURES, layout, splits_of
from attar.data.sources.tree import is_picture, walk
from attar.errors import MissingError, UserError


def read(root: Path, reading: Reading) -> ImageData:
    """The images of a folder, classes in the order of their names.

    Grey when all images have a single colour channel, RGB otherwise; a rotation noted by the camera (EXIF) is applied;
    of an animation the first frame counts. With a size the short side becomes that many pixels (bilinear, antialiased)
    and the centre square is kept. A table of labels (`labels_csv`, or a metadata.csv as `datasets` has it) takes the
    place of class folders.

    Args:
        root: the folder.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        MissingError: where the folder or the classes are not there.
        UserError: for an empty class folder, a test class that is not in train/, and a damaged image unless such are to
            be skipped.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise MissingError(f"{root} {what}; {LAYOUT}")
    refuse_own(root)
    tree = walk(root, reading.left_out)
    about = About(printable(root.resolve().name), origin_of(root))
    if reading.wish("labels_csv") is not None:
        return listed.read(tree, root, about, reading)
    if tiny_imagenet.is_here(tree):
        splits = tiny_imagenet.layout_of(tree, root, reading.left_out)
    elif listed.metadata_of(tree):
        return listed.read(tree, root, about, reading)
    else:
        splits = layout(tree, reading.left_out, reading.nclass)
    return assemble(splits_of(splits, about.name, tree.pictures), about, reading)


def refuse_own(root: Path) -> None:
    """Raise `UserError` for a folder that attar wrote and that holds no real images: a run or a pool."""
    kind = written.kind_of(root, os.listdir(root))
    if kind in ("run", "pool", "comparison"):
        raise UserError(f"{root} is a {kind} folder written by attar, and no folder of real images; name these")


def read_classes(
    splits: Mapping[str, Path], classes: Sequence[str], about: About, reading: Reading, others: LeftOut
) -> ImageData:
    """ImageData of <split>/<class>/* for fixed classes, as ImageNet has them; other folders are not looked at."""
    parts = {}
    for split, folder in splits.items():
        inner = [name for name in classes if os.path.isdir(folder / name)]
        tree = walk(folder, others, inner)
        of_class: dict[str, list[int]] = {name: [] for name in inner}
        for place, file in enumerate(tree.files):
            if is_picture(file):
                of_class[file.split("/", 1)[0]].append(place)
            else:
                others.add(f"files {NOT_PICTURES}", file)
        empty = [name for name in inner if not of_class[name]]
        if empty:
            raise UserError(f"{folder / empty[0]} has no images; {NEEDS}")
        places = [place for of_one in of_class.values() for place in of_one]
        marks = [classes.index(name) for name, of_one in of_class.items() for _ in of_one]
        parts[split] = Split(tree.pictures(places), Labels(np.asarray(marks, np.int64), tuple(classes)))
    return assemble(parts, about, reading)
