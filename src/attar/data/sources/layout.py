"""Which folders of a tree are splits, and which are classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attar.data import splits
from attar.data.assemble import Split
from attar.data.classes import ordered
from attar.data.labels import Labels, shown, unique
from attar.data.pictures import Pictures
from attar.data.reading import LeftOut, printable
from attar.data.sources.tree import TABLES, Tree, is_picture
from attar.errors import MissingError, UserError, counted, log

LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*; or <class>/*"
NOT_PICTURES = "with other endings than images"
NEEDS = "a class folder needs files such as .png, .jpg or .webp"


# For each split and class, in order, the places of its files in the tree.
Layout = dict[str, dict[str, list[int]]]


def layout(tree: Tree, left_out: LeftOut, nclass: int | None = None) -> Layout:
    """The splits and classes of a tree.

    Args:
        tree: the files.
        left_out: takes what is neither.
        nclass: only the folders of the first classes have to hold images.

    Returns:
        The images of each class of the splits, by the names of their folders.

    Raises:
        MissingError: where there are no class folders.
        UserError: for a class folder without images.
    """
    prefix = _unwrapped(tree)
    inner = _folders(tree, prefix)
    pictured = {name for name in inner if _has_pictures(tree, f"{prefix}{name}/")}
    names = _split_folders(tree, prefix, inner, pictured)
    if names:
        return _with_splits(tree, prefix, names, left_out, nclass)
    if not pictured:
        raise MissingError(_no_classes(tree, prefix, pictured))
    called = [name for name in inner if splits.kind_of(name)]
    if called:
        log.warning(
            "%s: %s are taken for classes, as the folders beside them are",
            tree.root,
            " and ".join(called),
        )
    classes = ordered(inner, tree.root)
    if len(classes) < 2:
        place = f"{tree.root}/{prefix}".rstrip("/")
        table = next((file for file in tree.files if file.lower().endswith(TABLES)), "")
        advice = f"; where {table} says which image has which label, add {_csv_flag(tree, table)}" if table else ""
        raise UserError(f"{place} has 1 class folder, '{classes[0]}'; at least 2 classes are needed{advice}")
    _count_loose(tree, prefix, left_out)
    return _by_splits_below(tree, prefix, _pictures(tree, prefix, classes, left_out, nclass))


def splits_of(splits: Layout, where: str, pictures: Callable[[list[int]], Pictures]) -> dict[str, Split]:
    """Images and labels by the names of their folders.

    Args:
        splits: where they are in the tree.
        where: what the data are called in a message.
        pictures: gives the images at some places of the tree, ascending.

    Returns:
        The splits by name.

    Raises:
        UserError: for class names that are the same.
    """
    parts = {}
    for split, images in splits.items():
        names = unique(tuple(map(printable, images)), where)
        marks = {place: mark for mark, places in enumerate(images.values()) for place in places}
        order = sorted(marks)
        parts[split] = Split(pictures(order), Labels(np.asarray([marks[place] for place in order], np.int64), names))
    return parts


def _split_folders(tree: Tree, prefix: str, inner: Sequence[str], pictured: set[str]) -> list[str]:
    """The folders that are splits: by their names, or where those with classes in them speak of splits: seg_train."""
    exact = [name for name in inner if splits.kind_of(name)]
    deep = [
        name
        for name in pictured
        if any(_has_pictures(tree, f"{prefix}{name}/{below}/") for below in _folders(tree, f"{prefix}{name}/"))
    ]
    if pictured <= set(exact) or any(splits.kind_of(name) == splits.TRAIN for name in deep):
        return exact
    spoken = [splits.kind_of(splits.spoken_of(name) or "") for name in deep]
    bare = not any(is_picture(file) for name in deep for file in _loose(tree, f"{prefix}{name}/"))
    return sorted(deep) if bare and all(spoken) and splits.TRAIN in spoken and len(set(spoken)) > 1 else []


def _by_splits_below(tree: Tree, prefix: str, classes: dict[str, list[int]]) -> Layout:
    """The same, where the folders of classes hold those of splits: <class>/train, <class>/test."""
    parts: Layout = {}
    others = []
    for name, places in classes.items():
        for place in places:
            below = tree.files[place][len(prefix) :].split("/")[1].lower()
            if splits.kind_of(below):
                parts.setdefault(below, {label: [] for label in classes})[name].append(place)
            else:
                others.append(tree.files[place])
    if not parts:
        _say_nested(tree, prefix, classes)
        return {splits.TRAIN: classes}
    if others:
        raise UserError(
            f"{tree.root} has folders of splits below those of classes ({', '.join(parts)}), and images beside them, "
            f"such as {printable(others[0])}; put all into <split>/<class>/*"
        )
    log.warning("%s: the splits %s lie in the folders of the classes", tree.root, ", ".join(parts))
    return parts


def _say_nested(tree: Tree, prefix: str, classes: Mapping[str, Sequence[int]]) -> None:
    depth = prefix.count("/") + 1
    if not any(folder.startswith(prefix) and folder.count("/") >= depth for folder in tree.folders):
        return
    files = [tree.files[place] for places in classes.values() for place in places]
    nested = [file for file in files if file.count("/") > depth]
    if nested:
        log.warning(
            "%s: %s in sub-folders of a class folder, such as %s, read as images of that class",
            *(tree.root, counted(len(nested), "image"), printable(nested[0])),
        )


def _with_splits(tree: Tree, prefix: str, names: Sequence[str], left_out: LeftOut, nclass: int | None) -> Layout:
    within = {name: _unwrapped(tree, f"{prefix}{name}/") for name in names}
    folders = {name: set(_folders(tree, place)) for name, place in within.items()}
    if not any(folders.values()):
        bare = next((name for name in names if _has_pictures(tree, f"{prefix}{name}/")), None)
        if bare is None:
            raise MissingError(f"{tree.root}/{prefix}{names[0]} has no class folders; {LAYOUT}")
        raise MissingError(_no_classes(tree, f"{prefix}{bare}/", {bare}))
    classes = ordered(sorted(set().union(*folders.values())), tree.root)
    parts: Layout = {}
    for name, place in within.items():
        if not folders[name]:
            loose = [file for file in tree.files if file.startswith(place) and is_picture(file)]
            for file in loose:
                left_out.add(f"images of {name}/, which has no class folders", file)
            left_out.add("split folders without images", place, int(not loose))
            continue
        inner = [label for label in classes if label in folders[name]]
        parts[name] = _pictures(tree, place, inner, left_out, nclass)
        _say_nested(tree, place, parts[name])
        _count_loose(tree, place, left_out)
    _count_others(tree, prefix, set(names), left_out)
    return parts


def _count_others(tree: Tree, prefix: str, used: set[str], left_out: LeftOut) -> None:
    """Note the files beside the splits."""
    places = tuple(f"{prefix}{name}/" for name in used)
    for file in tree.files:
        if not file.startswith(places) and file.startswith(prefix):
            left_out.add("files beside the splits", file)


def _unwrapped(tree: Tree, outer: str = "") -> str:
    """The folder that holds splits or classes, where it lies alone in another one: "images/"; mostly `outer` itself."""
    prefix = outer
    while True:
        inner = [name for name in _folders(tree, prefix) if _has_pictures(tree, f"{prefix}{name}/")]
        if len(inner) != 1 or (splits.kind_of(inner[0]) and not outer) or not _folders(tree, f"{prefix}{inner[0]}/"):
            break
        if any(map(is_picture, _loose(tree, prefix))):
            break
        prefix += f"{inner[0]}/"
    if prefix != outer:
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
    places: dict[str, list[int]] = {name: [] for name in classes}
    for place, file in enumerate(tree.files):
        if not file.startswith(prefix):
            continue
        label, _, rest = file[start:].partition("/")
        if label not in places or not rest:
            continue
        if is_picture(rest):
            places[label].append(place)
        else:
            left_out.add(f"files {NOT_PICTURES} ({os.path.splitext(rest)[1] or 'none'})", file)
    for name in classes[:nclass]:
        if not places[name]:
            raise UserError(
                f"{printable(f'{tree.root}/{prefix}{name}')} has no images; {NEEDS}; remove it if it is no class"
            )
    return places


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
            f"{place} has {counted(images, 'image')}, but no class folders; put the images of each class into one, or "
            f"name a table of labels with --labels_csv FILE; {LAYOUT}"
        )
    archives = [file for file in tree.files if file.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".npz"))]
    hint = f"; {archives[0]} is there: name that file" if archives else ""
    if tree.files and not archives:
        hint = f"; its files ({printable(shown(tree.files))}) have other endings than images"
    return f"{place} has no folder train/, and no class folders with images{hint}; {LAYOUT}"
