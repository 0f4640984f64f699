"""Tables of encoded images, as parquet files and Hugging Face data sets hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.data import labels, splits
from attar.data.assemble import Split
from attar.data.decode import Named
from attar.data.labels import Labels
from attar.data.pictures import Pictures
from attar.data.sources.columns import IDS, Columns
from attar.errors import UserError

ROWS_READ = 1024  # at once


@dataclass(frozen=True)
class Rows:
    """Rows of a table.

    count: how many; tables: names of columns → pyarrow tables, one after another, at most ROWS_READ rows each; where:
    what they are called in a message; folder: where paths of images begin; stamp: what changes when they change, None
    where that is not known; size_bytes: of the file.
    """

    count: int
    tables: Callable[[Sequence[str]], Iterator[Any]]
    where: str
    folder: Path | None = None
    stamp: str | None = None
    size_bytes: int = 0


def split_of(rows: Rows, columns: Columns) -> Split:
    """Images and labels of some rows. Raises UserError for labels that cannot be used."""

    def items(start: int) -> Iterator[Named]:
        return _cells(rows, columns.image, start)

    stamp = None
    if rows.stamp is not None:
        stamp = lambda part: f"{rows.stamp} {columns.image} {part.start} {part.stop}"  # noqa: E731 (a closure)
    groups = None
    if columns.split is not None:
        values = [value for table in rows.tables([columns.split]) for value in table.column(columns.split).to_pylist()]
        groups = splits.of_column(values, columns.split, rows.where)
    return Split(Pictures(rows.count, items, stamp, rows.size_bytes), _labels(rows, columns), groups)


def _labels(rows: Rows, columns: Columns) -> Labels:
    import pyarrow as pa

    pieces = [table.column(columns.label) for table in rows.tables([columns.label])]
    if not pieces:
        raise UserError(f"{rows.where} has no rows")
    values = [value for piece in pieces for value in _values(piece)]
    nulls = sum(piece.null_count for piece in pieces)
    if nulls == len(values):
        return Labels(np.zeros(nulls, np.int64), columns.classes, np.ones(nulls, bool))
    if nulls:
        raise UserError(f"{nulls:,} of {len(values):,} labels of {rows.where} are missing; remove those rows")
    if pa.types.is_dictionary(pieces[0].type) or isinstance(values[0], str | list):
        return labels.read(values, rows.where, columns.classes)
    names = columns.classes
    if columns.label == IDS and names is None and pa.types.is_integer(pieces[0].type):  # classes, however few images
        names = tuple(map(str, range(int(max(values)) + 1)))
    return labels.read(np.asarray(values), rows.where, names)


def _values(column: Any) -> Any:
    import pyarrow as pa

    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return column.to_numpy() if plain and not column.null_count else column.to_pylist()


def _cells(rows: Rows, column: str, start: int) -> Iterator[Named]:
    """The encoded images of a column: bytes, or the path of a file where the table holds no bytes."""
    import pyarrow as pa

    row = 0
    for table in rows.tables([column]):
        if row + len(table) <= start:
            row += len(table)
            continue
        if row < start:
            table, row = table.slice(start - row), start
        for chunk in table.column(column).chunks:
            nested = pa.types.is_struct(chunk.type)
            values = chunk.field("bytes") if nested else chunk
            if nested and values.null_count == 0 and chunk.null_count:
                values = pa.array(
                    [None if value is None else value["bytes"] for value in chunk.to_pylist()], values.type
                )
            fields = {chunk.type.field(i).name for i in range(chunk.type.num_fields)} if nested else set()
            paths = chunk.field("path").to_pylist() if "path" in fields and values.null_count else None
            for place, value in enumerate(values.to_pylist()):
                path = paths[place] if paths else None
                source = _file(path, rows.folder) if value is None and path else value or b""
                yield f"{rows.where} row {row}" + (f" ({source})" if isinstance(source, str) else ""), source
                row += 1


def _file(path: str, folder: Path | None) -> str:
    """Where an image lies: a relative path begins at the table."""
    return path if folder is None else str(folder / path)
