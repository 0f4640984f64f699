"""Images whose labels stand in a table: Kaggle's labels.csv beside a folder, or metadata.csv as `datasets` reads it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attar.data import labels, splits
from attar.data.assemble import About, Split, assemble
from attar.data.classes import ordered
from attar.data.images import ImageData
from attar.data.labels import Labels
from attar.data.reading import Reading, printable
from attar.data.sources.layout import NOT_PICTURES
from attar.data.sources.tree import TABLES, Tree, is_picture
from attar.errors import MissingError, UserError, counted, log

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image",
    "image_id",
    "img",
    "path",
    "filepath",
    "file_path",
    "id",
    "image_name",
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "species", "breed", "y")
SHARE_OF_FILES = 0.5  # of the values of a column, from which it is the one of files


class Table(NamedTuple):
    """A table of text: the columns by name, and where it is."""

    where: str
    columns: Mapping[str, Sequence[str]]
    lines: int


class Row(NamedTuple):
    """A file of the tree, its label and its split."""

    place: int
    label: str
    split: str


def metadata_of(tree: Tree) -> list[str]:
    """The metadata tables of a tree, as `datasets` knows them: at its root, or in the folders of its splits."""
    return [
        file
        for folder in ["", *(name for name in tree.inner.get("", []) if splits.kind_of(name))]
        for file in tree.loose.get(folder, [])
        if file.rpartition("/")[2] in METADATA
    ]


def read(tree: Tree, root: Path, about: About, reading: Reading) -> ImageData:
    """ImageData of the images that a table names.

    Args:
        tree: the files of the folder.
        root: the folder.
        about: what is known of it.
        reading: what the caller asked for, `labels_csv` above all; without that the tables are those of `metadata_of`.

    Returns:
        The data.

    Raises:
        UserError: for tables without a column of files or labels, and for several labels an image.
    """
    if reading.labels_csv is not None:
        tables = {reading.labels_csv: ""}
    else:
        tables = {root / name: name.rpartition("/")[0] for name in metadata_of(tree)}
    rows = [row for table, folder in tables.items() for row in _rows(_parsed(table), tree, folder, reading)]
    used, own = {row.place for row in rows}, set(map(os.path.realpath, tables))
    for place, file in enumerate(tree.files):
        if place not in used and not (file.lower().endswith(TABLES) and os.path.realpath(root / file) in own):
            reason = "images that the table does not name" if is_picture(file) else f"files {NOT_PICTURES}"
            reading.left_out.add(reason, file)
    _check_classes([row.label for row in rows], " and ".join(map(str, tables)))
    classes = ordered(sorted({row.label for row in rows if row.label}), about.name)
    number = {name: place for place, name in enumerate(classes)} | {"": labels.UNLABELLED}
    rows = sorted(rows, key=lambda row: (number[row.label], row.place))
    marks = np.asarray([number[row.label] for row in rows], np.int64)
    given = Labels(marks, tuple(classes), marks < 0 if (marks < 0).any() else None)
    split = Split(tree.pictures([row.place for row in rows]), given, [row.split for row in rows])
    return assemble({splits.TRAIN: split}, about, reading)


def _split_of(file: str) -> str:
    """The split of the folder that a file lies in."""
    return next((part.lower() for part in file.split("/")[:-1] if splits.kind_of(part)), splits.TRAIN)


def _parsed(file: Path) -> Table:
    """A table of text. Raises UserError for one that cannot be read."""
    try:
        text = _decoded(file, file.read_bytes())
    except OSError as error:
        kind = MissingError if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"the table of labels {file} cannot be read: {error.strerror}") from error
    try:
        if file.suffix.lower() == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            names = list(dict.fromkeys(name for line in lines for name in line))
            cells = [[_cell(line.get(name)) for name in names] for line in lines]
        else:
            try:
                dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:4096], ",;\t")
            except csv.Error:
                dialect = csv.excel
            names, *cells = [row for row in csv.reader(io.StringIO(text), dialect) if row]
    except (ValueError, csv.Error, AttributeError) as error:
        raise UserError(
            f"{file} is no table: a first line with the names of the columns, then a line an image"
        ) from error
    short = next((number for number, row in enumerate(cells, 2) if len(row) != len(names)), None)
    if short is not None:
        raise UserError(f"line {short} of {file} has {len(cells[short - 2])} columns, the first has {len(names)}")
    names = [name.strip() for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the first line of {file} must name the columns, and has '{twice}' twice")
    columns = {name: [row[place].strip() for row in cells] for place, name in enumerate(names)}
    if not cells:
        raise UserError(f"{file} has no lines below the names of its columns")
    return Table(str(file), columns, len(cells))


def _decoded(file: Path, raw: bytes) -> str:
    """The text of a table, accents in one form (NFC)."""
    try:
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "backslashreplace")
        log.warning("%s is not UTF-8, and is read as Windows-1252", file)
    return unicodedata.normalize("NFC", text)


def _cell(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict) else str(value)


def _rows(table: Table, tree: Tree, folder: str, reading: Reading) -> list[Row]:
    """The images of the tree that a table names, with their labels. folder: where its file names begin."""
    known = _names(tree, folder)
    column, places = _files(table, known)
    if column.lower() not in FILE_COLUMNS and (column in known or column.lower() in known):  # a file, and no name
        log.warning("%s has no line with the names of its columns: all lines are images", table.where)
        columns = {f"column {number}": [name, *rest] for number, (name, rest) in enumerate(table.columns.items(), 1)}
        table = Table(table.where, columns, table.lines + 1)
        column, places = _files(table, known)
    label, spoken = _labels(table, column, reading)
    split_column = splits.column_of(name for name in table.columns if name not in (column, reading.label_column))
    named = splits.of_column(table.columns[split_column], split_column, table.where) if split_column else None
    rows: dict[int, Row] = {}
    for line, (place, mark) in enumerate(zip(places, spoken, strict=True)):
        called = table.columns[column][line]
        if place is None:
            reading.left_out.add("rows without a file", called)
            continue
        row = Row(place, mark, named[line] if named else _split_of(tree.files[place]))
        if rows.setdefault(place, row) != row:
            raise UserError(f"{table.where} gives {called} two labels: several labels an image cannot be used")
        reading.left_out.add("rows that repeat another", called, int(rows[place] is not row))
    count = counted(len(rows), "image")
    log.info("%s: %s; files from the column %s, labels from %s", table.where, count, column, label)
    return list(rows.values())


def _names(tree: Tree, folder: str) -> dict[str, int | None]:
    """What images may be called in a table → their place; None where two are called so.

    Exact names come before those in lower case, without suffix or without folders.
    """
    known: dict[str, int | None] = {}
    prefix = f"{folder}/" if folder else ""
    exact = {}
    for place, file in enumerate(tree.files):
        if not is_picture(file) or not file.startswith(prefix):
            continue
        name = printable(file[len(prefix) :])
        exact[name] = place
        base = name.rpartition("/")[2]
        for short in {form.lower() for form in (name, os.path.splitext(name)[0], base, os.path.splitext(base)[0])}:
            other = known.get(short)
            same_split = other is not None and _split_of(tree.files[other]) == _split_of(file)
            if short in known and _split_of(file) != splits.TRAIN:
                continue  # Kaggle numbers train/ and test/ alike, and the table is about train/
            known[short] = None if same_split else place
    return {**known, **exact}


def _files(table: Table, known: Mapping[str, int | None]) -> tuple[str, list[int | None]]:
    """The column of files, and the place of each."""
    ranked = sorted(
        table.columns,
        key=lambda name: FILE_COLUMNS.index(name.lower()) if name.lower() in FILE_COLUMNS else len(FILE_COLUMNS),
    )
    for name in ranked:
        values = [value.removeprefix("./").replace("\\", "/") for value in table.columns[name]]
        values = [value if value in known else value.lower() for value in values]
        places = [known.get(value) for value in values]
        if sum(value in known for value in values) > SHARE_OF_FILES * table.lines:
            clash = [value for value, place in zip(values, places, strict=True) if place is None and value in known]
            if clash:
                raise UserError(
                    f"{table.where} names {clash[0]}, and several images are called so; name them with their folders"
                )
            return name, places
    columns = ", ".join(table.columns)
    raise UserError(
        f"no column of {table.where} ({columns}) names the images of the folder; a column of file names is needed"
    )


def _labels(table: Table, files: str, reading: Reading) -> tuple[str, Sequence[str]]:
    """The column of labels, and the label of each row, "" where there is none."""
    asked = reading.wish("label_column")
    if asked is not None:
        if asked not in table.columns:
            raise UserError(f"{table.where} has no column '{asked}'; its columns are {', '.join(table.columns)}")
        return asked, table.columns[asked]
    rest = [name for name in table.columns if name != files and name != splits.column_of(table.columns)]
    usual = [name for name in rest if name.lower() in LABEL_COLUMNS]
    if len(usual) == 1 or len(rest) == 1:
        name = usual[0] if len(usual) == 1 else rest[0]
        return name, table.columns[name]
    if len(rest) > 1 and all(set(table.columns[name]) <= {"0", "1", "0.0", "1.0"} for name in rest):
        bits = np.asarray([[float(value) for value in table.columns[name]] for name in rest]).T
        if (bits.sum(1) == 1).all():
            log.warning(
                "%s: the columns %s are one-hot: the name of the column with the 1 is the class",
                table.where,
                ", ".join(rest),
            )
            return " and ".join(rest), [rest[place] for place in bits.argmax(1)]
        raise UserError(
            f"the columns {', '.join(rest)} of {table.where} give several labels an image, which cannot be used"
        )
    what = "has no column of labels" if not rest else f"has several columns besides the files, {', '.join(rest)}"
    raise UserError(f"{table.where} {what}; name the one of classes with --label_column")


def _check_classes(values: Sequence[str], where: str) -> None:
    """Raise `UserError` for labels that are no classes."""
    present = [value for value in values if value]
    distinct = sorted(set(present))
    several = next((value for value in distinct if value[0] in "[{"), None)
    if several is not None:
        raise UserError(f"a label of {where} is {several}: several labels an image cannot be used")
    many = len(distinct) > max(2, labels.SHARE * len(present))
    if _all_numbers(distinct) and (many or not all(float(value).is_integer() for value in distinct)):
        odd = next((value for value in distinct if not float(value).is_integer()), distinct[0])
        raise UserError(f"the labels of {where} are numbers such as {odd}: targets of a regression cannot be used")
    if many:
        raise UserError(
            f"the labels of {where} are no classes: {len(distinct):,} different values in {len(present):,} rows; name "
            f"the column of classes with --label_column"
        )


def _all_numbers(values: Sequence[str]) -> bool:
    try:
        return [float(value) for value in values] != []
    except ValueError:
        return False
