"""Files by the folders they lie in: which folders are splits, which are classes, and what is no picture.

The same for a folder on disk and for the names in an archive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from attar.data import decode, splits
from attar.data.labels import ordered, shown
from attar.data.reading import LeftOut, printable
from attar.data.sources import written
from attar.errors import MissingError, UserError, log

LAYOUT = "expected train/<class>/<image files> and, for a test set, test/<class>/* or val/<class>/*; or <class>/*"
NEEDS = "a class folder needs files such as .png, .jpg or .webp"
# What systems leave beside people's files.
SYSTEM = frozenset(("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"))
TABLES = (".csv", ".tsv", ".jsonl")


@dataclass
class Tree:
    """Files below a place, by their names from there on, with "/" between the parts.

    root: what the place is called; files: of any kind, hidden ones aside; folders: those with nothing in them too;
    stamps: what tells a file from another without reading it; sizes: in bytes.
    """

    root: str
    files: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    stamps: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, name: str, stamp: str, size: int) -> None:
        """Take a file in."""
        self.files.append(name)
        self.stamps.append(stamp)
        self.sizes.append(size)

    @cached_property
    def with_pictures(self) -> set[str]:
        """Folders with images in them or below."""
        found: set[str] = set()
        for file in self.files:
            if is_picture(file):
                folder = file.rpartition("/")[0]
                while folder not in found:
                    found.add(folder)
                    folder = folder.rpartition("/")[0]
        return found

    @cached_property
    def inner(self) -> dict[str, list[str]]:
        """The names of the folders directly in a folder, sorted."""
        found: dict[str, list[str]] = {}
        for folder in sorted(self.folders - {""}):
            above, _, name = folder.rpartition("/")
            found.setdefault(above, []).append(name)
        return found

    @cached_property
    def loose(self) -> dict[str, list[str]]:
        """The files directly in a folder."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            found.setdefault(file.rpartition("/")[0], []).append(file)
        return found


@dataclass
class Layout:
    """Where the classes are.

    splits: folder of each split ("" for the place itself); pictures: for each split and class, the places of its files
    in the tree, in order.
    """

    classes: list[str]
    pictures: dict[str, dict[str, list[int]]]


def is_hidden(name: str) -> bool:
    """Whether a file's or folder's own name says that it is no data."""
    return name.startswith(".") or name in SYSTEM


def is_picture(name: str) -> bool:
    """Whether the installed Pillow reads files with such a name."""
    return os.path.splitext(name)[1].lower() in decode.suffixes()


def has_class_folders(root: Path) -> bool:
    """Whether images lie directly in the folders of `root`."""
    inner = (root / entry.name for entry in _listed(root) if not is_hidden(entry.name))
    return any(
        is_picture(entry.name) and not is_hidden(entry.name)
        for folder in inner
        if folder.is_dir()
        for entry in _listed(folder)
    )


def walk(root: Path, left_out: LeftOut, only: Sequence[str] | None = None) -> Tree:
    """All files below a folder, sub-folders and links followed; of the folders `only` where these are named.

    What attar wrote, hidden files and what is no regular file is left out and counted. Raises UserError for a folder
    that cannot be read.
    """
    tree = Tree(str(root))
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(name, ()) for name in reversed(only or [""])]
    while waiting:
        inner, above = waiting.pop()
        place = root / inner if inner else root
        entries = _listed(place)
        here = os.stat(place)
        key = (here.st_dev, here.st_ino)
        if key in above:  # a link to a folder that it lies in
            left_out.add("links to a folder above", inner)
            continue
        kind = written.kind_of(place, [entry.name for entry in entries]) if inner else None
        if kind:
            left_out.add(f"{kind} folders written by attar", inner)
            continue
        tree.folders.add(inner)
        prefix = f"{inner}/" if inner else ""
        deeper = [name for entry in entries if _take(entry, prefix, tree, left_out) for name in [prefix + entry.name]]
        waiting += [(name, (*above, key)) for name in reversed(deeper)]
    return tree


def _take(entry: os.DirEntry[str], prefix: str, tree: Tree, left_out: LeftOut) -> bool:
    """Take a file into the tree; whether it is a folder to go into."""
    name = prefix + entry.name
    if entry.name == written.ABOUT:  # of an export that is read back
        return False
    if is_hidden(entry.name):
        left_out.add("hidden or system files and folders", name)
        return False
    try:
        about = entry.stat()
    except OSError:  # a link to nothing: decoding it says so
        tree.add(name, f"{name} gone", 0)
        return False
    if stat.S_ISDIR(about.st_mode):
        return True
    if stat.S_ISREG(about.st_mode):
        tree.add(name, f"{name} {about.st_size} {about.st_mtime_ns}", about.st_size)
    else:
        left_out.add("pipes, sockets and devices", name)
    return False


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


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
