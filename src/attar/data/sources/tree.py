"""Files by the folders they lie in: the same for a folder on disk and for the names in an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from attar.data import decode
from attar.data.decode import Named
from attar.data.pictures import Pictures
from attar.data.reading import LeftOut, printable
from attar.data.sources import written
from attar.errors import UserError, log

# What systems leave beside people's files.
SYSTEM = frozenset(("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"))
TABLES = (".csv", ".tsv", ".jsonl")
MAX_DEPTH = 6  # of folders that are looked into for images


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

    def pictures(self, places: Sequence[int]) -> Pictures:
        """The images at these places among the files, which lie on disk."""

        def items(start: int) -> Iterator[Named]:
            for place in range(start, len(places)):
                path = os.path.join(self.root, self.files[places[place]])
                yield printable(path), path

        def stamp(rows: range) -> str:
            return "\n".join(self.stamps[place] for place in places[rows.start : rows.stop])

        return Pictures(len(places), items, stamp, sum(self.sizes[place] for place in places), jumps=True)

    @cached_property
    def with_pictures(self) -> set[str]:
        """Folders with images in them or below."""
        folders: set[str] = set()
        for file in self.files:
            folder = file.rpartition("/")[0]
            if folder not in folders and is_picture(file):
                while folder not in folders:
                    folders.add(folder)
                    folder = folder.rpartition("/")[0]
        return folders

    @cached_property
    def inner(self) -> dict[str, list[str]]:
        """The names of the folders directly in a folder, sorted."""
        below: dict[str, list[str]] = {}
        for folder in sorted(self.folders - {""}):
            above, _, name = folder.rpartition("/")
            below.setdefault(above, []).append(name)
        return below

    @cached_property
    def loose(self) -> dict[str, list[str]]:
        """The files directly in a folder."""
        files: dict[str, list[str]] = {}
        for file in self.files:
            files.setdefault(file.rpartition("/")[0], []).append(file)
        return files


def is_hidden(name: str) -> bool:
    """Whether a file's or folder's own name says that it is no data."""
    return name.startswith(".") or name in SYSTEM


def is_picture(name: str) -> bool:
    """Whether the installed Pillow reads files with such a name."""
    return name[name.rfind(".") :].lower() in decode.suffixes()


def has_class_folders(root: Path) -> bool:
    """Whether images lie directly in the folders of `root`, those that attar wrote aside."""
    inner = (root / entry.name for entry in _listed(root) if not is_hidden(entry.name))
    return any(_has_pictures(folder) for folder in inner if folder.is_dir())


def _has_pictures(folder: Path) -> bool:
    names = [entry.name for entry in _listed(folder)]
    pictures = any(is_picture(name) and not is_hidden(name) for name in names)
    return pictures and written.kind_of(folder, names) is None


def has_pictures_below(path: Path) -> bool:
    """Whether there are images in folders, some levels down."""
    for place, _, files in os.walk(path, followlinks=True):
        depth = len(Path(place).relative_to(path).parts)
        if depth and any(is_picture(name) and not is_hidden(name) for name in files):
            return True
        if depth > MAX_DEPTH:
            return False
    return False


def walk(root: Path, left_out: LeftOut, only: Sequence[str] | None = None) -> Tree:
    """All files below a folder, sub-folders and links followed.

    Args:
        root: the folder.
        left_out: takes what attar wrote, hidden files and what is no regular file.
        only: folders in it, where others are not to be looked at.

    Returns:
        The files.

    Raises:
        UserError: for a folder that cannot be read.
    """
    tree = Tree(str(root))
    places: dict[tuple[int, int], str] = {}
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
        if (twin := places.setdefault(key, inner)) != inner:
            log.warning("%s: %s and %s are one folder, by a link", root, printable(twin), printable(inner))
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
    if entry.name in written.BESIDE:  # of an export that is read back
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
