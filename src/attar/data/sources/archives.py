"""Images in zip and tar files: class folders as on disk, or WebDataset shards, of x.jpg beside x.cls."""

from __future__ import annotations

import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attar.data import labels, pictures, splits
from attar.data.assemble import About, Split, assemble, origin_of
from attar.data.decode import Named
from attar.data.images import ImageData
from attar.data.labels import Labels
from attar.data.pictures import Pictures
from attar.data.reading import LeftOut, Reading, printable
from attar.data.sources.layout import layout
from attar.data.sources.tree import Tree, is_hidden, is_picture
from attar.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (".zip", *TARS)
MARKS = (".cls", ".cls.txt", ".class", ".label")  # of a WebDataset
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    RuntimeError,  # a password, or with NotImplementedError a compression that zipfile lacks
)


def is_archive(path: Path) -> bool:
    """Whether a file is called so."""
    return path.name.lower().endswith(SUFFIXES)


def shards(folder: Path) -> list[Path]:
    """The tar files directly in a folder, sorted."""
    return sorted(file for file in folder.iterdir() if file.name.lower().endswith(TARS) and not is_hidden(file.name))


class Entry(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    stamp: str


def load(files: Sequence[Path], place: Path, reading: Reading) -> ImageData:
    """The images of a zip or tar file, or of WebDataset shards, whose split is in their name.

    Raises UserError for damaged files, and other contents.
    """
    about = About(printable(_stem(place)), origin_of(place))
    listed = {file: [entry for entry in _entries(file) if _is_used(entry, reading.left_out)] for file in files}
    if any(entry.name.lower().endswith((*MARKS, ".json")) for entry in listed[files[0]]) and files[0].suffix != ".zip":
        parts = _web_splits(listed, reading.left_out)
        if parts:
            return assemble(parts, about, reading)
    if len(files) > 1:
        raise UserError(f"{place} holds {len(files)} archives and no WebDataset; name one of them: {files[0]}")
    tree = Tree(str(files[0]))
    for entry in listed[files[0]]:
        tree.add(entry.name, entry.stamp, entry.size)
        above = entry.name.rpartition("/")[0]
        while above and above not in tree.folders:
            tree.folders.add(above)
            above = above.rpartition("/")[0]
    found = layout(tree, reading.left_out, reading.nclass)
    parts = {}
    for split, images in found.pictures.items():
        mark = {tree.files[at]: found.classes.index(name) for name, places in images.items() for at in places}
        chosen = [entry for entry in listed[files[0]] if entry.name in mark]  # in the order of the archive
        marks = np.asarray([mark[entry.name] for entry in chosen], np.int64)
        parts[split] = Split(_pictures(files[0], chosen), Labels(marks, tuple(map(printable, found.classes))))
    return assemble(parts, about, reading)


def _stem(path: Path) -> str:
    name = path.resolve().name
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def _is_used(entry: Entry, left_out: LeftOut) -> bool:
    hidden = any(map(is_hidden, entry.name.split("/")))
    if hidden:
        left_out.add("hidden or system files and folders", entry.name)
    return not hidden


def _entries(file: Path) -> list[Entry]:
    """The regular files in an archive, in its order."""
    stat = file.stat()
    own = f"{file.name} {stat.st_size} {stat.st_mtime_ns}"
    try:
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(file) as opened:
                inside = [(info.filename, info.file_size) for info in opened.infolist() if not info.is_dir()]
        else:
            with tarfile.open(file) as tar:
                inside = [(member.name, member.size) for member in tar if member.isfile()]
    except DAMAGED as error:
        raise UserError(f"{file} is damaged or no archive: {' '.join(str(error).split())}") from error
    return [Entry(name.removeprefix("./"), size, f"{own} {name}") for name, size in inside]


def _pictures(file: Path, chosen: Sequence[Entry]) -> Pictures:
    """Images of an archive, in its order."""

    def items(start: int) -> Iterator[Named]:
        wanted = {entry.name for entry in chosen[start:]}
        try:
            for name, raw in _contents(file, wanted):
                yield f"{file}: {printable(name)}", raw
        except DAMAGED as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} is damaged: {' '.join(str(error).split())}") from error

    def stamp(rows: range) -> str:
        return "\n".join(entry.stamp for entry in chosen[rows.start : rows.stop])

    return Pictures(len(chosen), items, stamp, sum(entry.size for entry in chosen))


def _contents(file: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The files of these names, one after another, in the order of the archive."""
    if file.suffix.lower() == ".zip":
        with zipfile.ZipFile(file) as opened:
            for info in opened.infolist():
                if info.filename.removeprefix("./") in wanted:
                    yield info.filename, opened.read(info)
        return
    with tarfile.open(file) as tar:
        for member in tar:
            if member.isfile() and member.name.removeprefix("./") in wanted and (stream := tar.extractfile(member)):
                yield member.name, stream.read()


# ---- WebDataset ----


def _web_splits(listed: dict[Path, list[Entry]], left_out: LeftOut) -> dict[str, Split]:
    """The splits of WebDataset shards; none where images have no labels beside them."""
    groups: dict[str, list[tuple[Pictures, list[str | int]]]] = {}
    for file, entries in listed.items():
        marks = {
            _key(name): raw
            for name, raw in _contents(
                file, {entry.name for entry in entries if entry.name.lower().endswith((*MARKS, ".json"))}
            )
        }
        images = [entry for entry in entries if is_picture(entry.name)]
        labelled = [entry for entry in images if _key(entry.name) in marks]
        if not labelled:
            return {}
        left_out.add("images without a label beside them", count=len(images) - len(labelled))
        spoken = splits.spoken_of(file.name) or splits.TRAIN
        pair = (
            _pictures(file, labelled),
            [_label(marks[_key(entry.name)], f"{file}: {entry.name}") for entry in labelled],
        )
        groups.setdefault(spoken, []).append(pair)
    return {
        split: Split(
            pictures.join([images for images, _ in shards]),
            labels.read([mark for _, marks in shards for mark in marks], f"split {split}"),
        )
        for split, shards in groups.items()
    }


def _key(name: str) -> str:
    """What belongs together: the name up to the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _label(raw: bytes, where: str) -> str | int:
    """The label that a .cls or .json file holds. Raises UserError for another content."""
    text = raw.decode("utf-8", "backslashreplace").strip()
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict):
        value = next((value[key] for key in ("label", "cls", "class", "class_name", "category") if key in value), None)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(
            f"{where} has no label beside it that is a whole number or a name; several labels an image cannot be used"
        )
    return value
