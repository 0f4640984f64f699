"""Which folders of a tree are splits, and which are classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from attar.data import splits
from attar.data.labels import ordered, shown
from attar.data.reading import LeftOut, printable
from attar.data.sources.tree import TABLES, Tree, is_picture
from attar.errors import MissingError, UserError, log

LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*; or <class>/*"
NEEDS = "a class folder needs files such as .png, .jpg or .webp"


@dataclass
class Layout:
    """Where the classes are.

    splits: folder of each split ("" for the place itself); pictures: for each split and class, the places of its files
    in the tree, in order.
    """

    classes: list[str]
    pictures: dict[str, dict[str, list[int]]]


def layout(tree: Tree, left_out: LeftOut, nclass: int | None = None) -> Layout:
    """The splits and classes of a tree.

    Args:
        tree: the files.
        left_out: takes what is neither.
        nclass: only the folders of the first classes have to hold images.

    Returns:
        The training images of each class, and those of other splits, by name.

    Raises:
        MissingError: where there are no class folders.
        UserError: for a class folder without images, and a class of another split that the training images lack.
    """
    prefix = _unwrapped(tree)
    inner = _folders(tree, prefix)
    found = {name: kind for name in inner if (kind := splits.kind_of(name))}
    deep = {name for name in found if _folders(tree, f"{prefix}{name}/")}
    train = sorted(name for name in found if found[name] == splits.TRAIN)
    pictured = {name for name in inner if _has_pictures(tree, f"{prefix}{name}/")}
    if train and (set(train) & deep or not (pictured - set(found))):
        return _with_splits(tree, prefix, {train[0]: splits.TRAIN} | found, left_out, nclass)
    if not pictured or pictured <= set(found):
        raise MissingError(_no_classes(tree, prefix, pictured))
    classes = ordered(inner, tree.root)
    if len(classes) < 2:
        place = f"{tree.root}/{prefix}".rstrip("/")
        table = next((file for file in tree.files if file.lower().endswith(TABLES)), "")
        advice = f"; where {table} says which image has which label, add {_csv_flag(tree, table)}" if table else ""
        raise UserError(f"{place} has 1 class folder, '{classes[0]}'; at least 2 classes are needed{advice}")
    _count_loose(tree, prefix, left_out)
    return Layout(classes, {splits.TRAIN: _pictures(tree, prefix, classes, left_out, nclass)})


def _with_splits(tree: Tree, prefix: str, found: dict[str, str], left_out: LeftOut, nclass: int | None) -> Layout:
    train = next(name for name in found if found[name] == splits.TRAIN)
    place = f"{prefix}{train}/"
    classes = ordered(_folders(tree, place), tree.root)
    if not classes:
        if _has_pictures(tree, place):
            raise MissingError(_no_classes(tree, place, {train}))
        raise MissingError(f"{tree.root}/{place[:-1]} has no class folders; {LAYOUT}")
    if len(classes) < 2:
        raise UserError(f"{tree.root}/{place[:-1]} has 1 class folder, '{classes[0]}'; at least 2 classes are needed")
    pictures = {train: _pictures(tree, place, classes, left_out, nclass)}
    _count_loose(tree, place, left_out)
    for name, kind in found.items():
        if name == train:
            continue
        place = f"{prefix}{name}/"
        inner = _folders(tree, place) if kind != splits.TRAIN else []
        if not inner:
            loose = [file for file in tree.files if file.startswith(place) and is_picture(file)]
            for file in loose:
                left_out.add(f"images of {name}/, which has no class folders", file)
            left_out.add("split folders without images", place, int(not loose))
            continue
        strangers = [label for label in inner if label not in classes]
        if strangers:
            raise UserError(
                f"{tree.root}/{place[:-1]} has the class '{printable(strangers[0])}', which {train}/ has not "
                f"({printable(shown(classes))})"
            )
        pictures[name] = _pictures(tree, place, [label for label in classes if label in inner], left_out, None)
        _count_loose(tree, place, left_out)
    _count_others(tree, prefix, set(found), left_out)
    return Layout(classes, pictures)


def _count_others(tree: Tree, prefix: str, used: set[str], left_out: LeftOut) -> None:
    """Note the files beside the splits."""
    for file in tree.files:
        if file.startswith(prefix) and file[len(prefix) :].split("/", 1)[0] not in used:
            left_out.add("files beside the splits", file)


def _unwrapped(tree: Tree) -> str:
    """The folder that holds the splits or classes, where it lies alone in another one: "images/", mostly ""."""
    prefix = ""
    while True:
        inner = [name for name in _folders(tree, prefix) if _has_pictures(tree, f"{prefix}{name}/")]
        if len(inner) != 1 or splits.kind_of(inner[0]) or not _folders(tree, f"{prefix}{inner[0]}/"):
            break
        if any(map(is_picture, _loose(tree, prefix))):
            break
        prefix += f"{inner[0]}/"
    if prefix:
        log.warning("%s: the classes are in %s", tree.root, os.path.join(tree.root, prefix[:-1]))
    return prefix


def _folders(tree: Tree, prefix: str) -> list[str]:
    """Names of the folders directly below a place ("" or "name/"), in order."""
    return tree.inner.get(prefix[:-1], [])


def _has_pictures(tree: Tree, prefix: str) -> bool:
    return prefix[:-1] in tree.with_pictures


def _loose(tree: Tree, prefix: str) -> list[str]:
    """The files directly in a place."""
    return tree.loose.get(prefix[:-1], [])


def _count_loose(tree: Tree, prefix: str, left_out: LeftOut) -> None:
    for file in _loose(tree, prefix):
        left_out.add("files beside the class folders", file)


def _pictures(
    tree: Tree, prefix: str, classes: Sequence[str], left_out: LeftOut, nclass: int | None
) -> dict[str, list[int]]:
    """The images of each class, those of sub-folders after those directly in it. Raises UserError for none."""
    start = len(prefix)
    found: dict[str, list[int]] = {name: [] for name in classes}
    nested, example = 0, ""
    for place, file in enumerate(tree.files):
        if not file.startswith(prefix):
            continue
        label, _, rest = file[start:].partition("/")
        if not rest or label not in found:
            continue
        if not is_picture(rest):
            left_out.add(f"files that are no images ({os.path.splitext(rest)[1] or 'without suffix'})", file)
            continue
        found[label].append(place)
        if "/" in rest:
            nested, example = nested + 1, example or file
    if nested:
        log.warning(
            "%s: %d images lie in sub-folders of a class folder, such as %s, and are read as images of that class",
            *(tree.root, nested, printable(example)),
        )
    for name in classes[:nclass]:
        if not found[name]:
            raise UserError(
                f"{printable(f'{tree.root}/{prefix}{name}')} has no images; {NEEDS}; remove it if it is no class"
            )
    return found


def _csv_flag(tree: Tree, table: str) -> str:
    return f"--labels_csv {os.path.join(tree.root, table)}"


def _no_classes(tree: Tree, prefix: str, pictured: set[str]) -> str:
    """Why there are no classes, and what to do."""
    place = f"{tree.root}/{prefix}".rstrip("/")
    tables = sorted(file for file in tree.files if file.lower().endswith(TABLES))
    images = sum(map(is_picture, tree.files))
    if tables:
        return (
            f"{place} has no class folders; where {tables[0]} says which image has which label, add "
            f"{_csv_flag(tree, tables[0])}; {LAYOUT}"
        )
    if pictured or images:
        return (
            f"{place} has {images:,} images, but no class folders; put the images of each class into one, or name a "
            f"table of labels with --labels_csv FILE; {LAYOUT}"
        )
    archives = [file for file in tree.files if file.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".npz"))]
    hint = f"; {archives[0]} is there: name that file" if archives else ""
    return f"{place} has no folder train/, and no class folders with images{hint}; {LAYOUT}"
