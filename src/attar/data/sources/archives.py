"""Images in zip and tar files: class folders as on disk, or WebDataset shards, of x.jpg beside x.cls."""

from __future__ import annotations

import json
import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attar.data import labels, pictures, splits
from attar.data.assemble import About, Split, assemble, origin_of
from attar.data.decode import Named
from attar.data.images import ImageData
from attar.data.pictures import Pictures
from attar.data.reading import LeftOut, Reading, printable
from attar.data.sources.layout import NOT_PICTURES, layout, splits_of
from attar.data.sources.tree import Tree, is_hidden, is_picture
from attar.errors import UserError, say_once

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (".zip", *TARS)
MARKS = (".cls", ".cls.txt", ".class", ".label")  # of a WebDataset
UTF8 = 0x800  # of the flags of a file in a zip
LABEL_KEYS = ("label", "cls", "class", "class_name", "category")  # of the .json files
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
    """A file in an archive. place: among its members."""

    name: str
    size: int
    place: int
    stamp: str


def load(files: Sequence[Path], place: Path, reading: Reading) -> ImageData:
    """The images of a zip or tar file, or of WebDataset shards, whose split is in their name.

    Args:
        files: the archives, several ones where they are shards.
        place: what the user named, a file or a folder.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        UserError: for damaged files, and other contents.
    """
    about = About(printable(_stem(place)), origin_of(place))
    listed = {file: _entries(file, reading.left_out) for file in files}
    if any(entry.name.lower().endswith((*MARKS, ".json")) for entry in listed[files[0]]) and files[0].suffix != ".zip":
        parts = _web_splits(listed, str(place), reading.left_out)
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
    splits = layout(tree, reading.left_out, reading.nclass)

    def chosen(places: list[int]) -> Pictures:
        return _pictures(files[0], [listed[files[0]][place] for place in places])

    return assemble(splits_of(splits, about.name, chosen), about, reading)


def _stem(path: Path) -> str:
    name = path.resolve().name
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def _entries(file: Path, left_out: LeftOut) -> list[Entry]:
    """The regular files in an archive, in its order; of several of one name the last, as it is unpacked."""
    stat = file.stat()
    own, other = f"{file.name} {stat.st_size} {stat.st_mtime_ns}", []
    try:
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(file) as opened:
                inside = [(_name(info), info.file_size, not info.is_dir()) for info in opened.infolist()]
        else:
            with tarfile.open(file) as tar:
                inside = [(member.name, member.size, member.isfile() or member.islnk()) for member in tar]
                other = [member.name for member in tar if not (member.isfile() or member.isdir() or member.islnk())]
    except DAMAGED as error:
        raise UserError(f"{file} is damaged or no archive: {' '.join(str(error).split())}") from error
    for name in other:
        left_out.add("links and devices in the archive", name)
    entries: dict[str, Entry] = {}
    for place, (name, size, is_file) in enumerate(inside):
        parts = _unpacked(name).split("/")
        used = is_file and not any(map(is_hidden, parts))
        if ".." in parts or not parts[0]:
            left_out.add("names that lead out of the archive", name, int(is_file))
        elif is_file and not used:
            left_out.add("hidden or system files and folders", name)
        elif used:
            entry = Entry("/".join(parts), size, place, f"{own} {place} {name}")
            if entries.pop(entry.name, None):
                left_out.add("files that a later one of the same name replaces", name)
            entries[entry.name] = entry
    return list(entries.values())


def _unpacked(name: str) -> str:
    """A name in an archive as it is when unpacked: `tar .` puts ./ before it, old Windows tools put \\ for /."""
    return (name if "/" in name else name.replace("\\", "/")).removeprefix("./")


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a file in a zip: some tools, such as those of macOS, do not say that it is in UTF-8."""
    if info.flag_bits & UTF8 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        say_once("names in the zip file are not in UTF-8, and are read in the code page 437", logging.WARNING)
        return info.filename


def _pictures(file: Path, chosen: Sequence[Entry]) -> Pictures:
    """Images of an archive, in its order."""

    def items(start: int) -> Iterator[Named]:
        places = {entry.place for entry in chosen[start:]}
        try:
            for name, raw in _contents(file, places):
                yield f"{file}: {printable(name)}", raw
        except DAMAGED as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} is damaged: {' '.join(str(error).split())}") from error

    def stamp(rows: range) -> str:
        return "\n".join(entry.stamp for entry in chosen[rows.start : rows.stop])

    return Pictures(len(chosen), items, stamp, sum(entry.size for entry in chosen))


def _contents(file: Path, places: set[int]) -> Iterator[tuple[str, bytes]]:
    """The members at these places, one after another, in the order of the archive."""
    if file.suffix.lower() == ".zip":
        with zipfile.ZipFile(file) as opened:
            for place, info in enumerate(opened.infolist()):
                if place in places:
                    yield info.filename, opened.read(info)
        return
    with tarfile.open(file) as tar:
        for place, member in enumerate(tar):
            if place in places and (stream := tar.extractfile(member)):
                yield _unpacked(member.name), stream.read()


# ---- WebDataset ----


def _web_splits(listed: dict[Path, list[Entry]], where: str, left_out: LeftOut) -> dict[str, Split]:
    """The splits of WebDataset shards; none where images have no labels beside them."""
    groups: dict[str, list[tuple[Pictures, list[str | int]]]] = {}
    spoken = splits.of_files([_stem(file) for file in listed], where)
    for split, (file, entries) in zip(spoken, listed.items(), strict=True):
        marks = {
            _key(name): raw
            for name, raw in _contents(
                file, {entry.place for entry in entries if entry.name.lower().endswith((*MARKS, ".json"))}
            )
        }
        images = _samples(entries, file, left_out)
        for entry in entries:
            if not is_picture(entry.name) and not entry.name.lower().endswith((*MARKS, ".json")):
                left_out.add(f"files {NOT_PICTURES}", entry.name)
        labelled = [entry for entry in images if _key(entry.name) in marks]
        if not labelled:
            return {}
        left_out.add("images without a label beside them", count=len(images) - len(labelled))
        pair = (
            _pictures(file, labelled),
            [_label(marks[_key(entry.name)], f"{file}: {entry.name}") for entry in labelled],
        )
        groups.setdefault(split, []).append(pair)
    return {
        split: Split(
            pictures.join([images for images, _ in shards]),
            labels.read(_one_kind([mark for _, marks in shards for mark in marks]), f"split {split}"),
        )
        for split, shards in groups.items()
    }


def _samples(entries: Sequence[Entry], file: Path, left_out: LeftOut) -> list[Entry]:
    """One image of each sample: x.jpg, and not x.mask.png beside it. Raises UserError for x.jpg beside x.png."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if is_picture(entry.name):
            groups.setdefault(_key(entry.name), []).append(entry)
    for key, images in groups.items():
        plain = [entry for entry in images if entry.name[len(key.removeprefix("/")) :].count(".") == 1] or images
        if len(plain) > 1:
            raise UserError(f"{file}: {plain[0].name} and {plain[1].name} are images of one sample; keep one of them")
        for entry in images:
            left_out.add("further images of a sample, such as masks", entry.name, int(entry is not plain[0]))
        groups[key] = plain
    return [images[0] for images in groups.values()]


def _one_kind(marks: list[str | int]) -> list[str] | list[int]:
    """Names, where some are, as a name may be a number."""
    numbers = [mark for mark in marks if isinstance(mark, int)]
    return numbers if len(numbers) == len(marks) else [str(mark) for mark in marks]


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
        keys = [key for key in LABEL_KEYS if key in value]
        if len(keys) > 1:
            say_once(f"labels are taken from the key {keys[0]}, not from {' and '.join(keys[1:])}", logging.WARNING)
        value = value[keys[0]] if keys else None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(
            f"{where} has no label beside it that is a whole number or a name; several labels an image cannot be used"
        )
    return value
