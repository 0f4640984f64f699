"""Tables of encoded images, as parquet files and Hugging Face data sets hold them, read into ImageData."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attar.data.cache.plan import CacheOptions
from attar.data.cache.tables import kept, key_of
from attar.data.decode import Named, decode_all, left_out
from attar.data.images import ImageData
from attar.data.sources.columns import Columns, to_classes
from attar.errors import UserError

TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev", "eval")  # in this order
READ = 1024  # rows at once


@dataclass(frozen=True)
class Split:
    """One split: how many rows, and its columns piece by piece as pyarrow tables."""

    rows: int
    tables: Callable[[Sequence[str]], Iterator[Any]]  # names of columns → pyarrow tables, at most READ rows each
    where: str  # what its rows are called in a message


@dataclass(frozen=True)
class ReadOptions:
    """What the caller wants of a table."""

    size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_options: CacheOptions = field(default_factory=CacheOptions)


def halves(splits: Mapping[str, Any], where: str) -> tuple[str, str | None]:
    """The names of the training and of the test split. A single split is for training."""
    names = {name.lower(): name for name in splits}
    train = next((names[name] for name in TRAIN if name in names), None)
    if train is None and len(splits) == 1:
        return next(iter(splits)), None
    if train is None:
        raise UserError(f"{where} has the splits {', '.join(splits)}, and none is called train; rename one")
    return train, next((names[name] for name in TEST if name in names), None)


def read(
    splits: Mapping[str, Split],
    columns: Columns,
    name: str,
    reading: ReadOptions,
    stamp: object = None,  # what changes when the source changes; without it nothing is kept on disk
) -> ImageData:
    """ImageData of the training and the test split. Raises UserError for damaged images and labels that do not fit."""
    cache_options = reading.cache_options
    train, test = halves(splits, name)
    labels = {part: _labels(splits[part], columns.label) for part in (train, test) if part}
    if test is not None and _unlabelled(labels[test]):
        cache_options.notice(f"the {test} images of {name} have no labels and are not used")
        test = None
    own, held, classes = to_classes(labels[train], labels[test] if test else None, columns.classes, name)
    parts = [splits[part] for part in (train, test) if part]
    count = sum(part.rows for part in parts)

    def items() -> Iterator[Named]:
        for part in parts:
            yield from _cells(part, columns.image)

    def make() -> tuple[np.ndarray, list[int]]:
        return decode_all(items, count, size=reading.size, skip_bad=cache_options.skip_bad)

    key = key_of(stamp, train, test, columns.image, reading.size, cache_options.skip_bad)
    images, bad = make() if stamp is None or cache_options.memory else kept(key, make, cache_options.folder("decoded"))
    if cache_options.skip_bad:
        cache_options.notice(left_out(len(bad)))
    cut = len(own) - sum(row < len(own) for row in bad)
    marked = np.delete(own if held is None else np.concatenate([own, held]), bad)
    tests = (images[cut:], marked[cut:]) if len(images) > cut else (None, None)
    return ImageData(images[:cut], marked[:cut], *tests, classes=classes, name=name)


def _labels(split: Split, column: str) -> np.ndarray:
    import pyarrow as pa

    pieces = [table.column(column) for table in split.tables([column])]
    if not pieces:
        raise UserError(f"{split.where} has no rows")
    whole = pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks])
    if whole.null_count:
        raise UserError(
            f"{whole.null_count:,} of {len(whole):,} labels of {split.where} are missing; remove those rows"
        )
    values = whole.to_numpy() if not pa.types.is_string(whole.type) else np.asarray(whole.to_pylist())
    return np.asarray(values.tolist()) if values.dtype.kind == "O" else values


def _unlabelled(labels: np.ndarray) -> bool:
    """Hidden labels of a competition's test set are written as -1."""
    return labels.dtype.kind == "i" and bool((labels == -1).all())


def _cells(split: Split, column: str) -> Iterator[Named]:
    """The encoded images of a column: bytes, or the path of a file where the table holds no bytes."""
    import pyarrow as pa

    row = 0
    for table in split.tables([column]):
        for chunk in table.column(column).chunks:
            nested = pa.types.is_struct(chunk.type)
            values = chunk.field("bytes") if nested else chunk
            fields = {chunk.type.field(i).name for i in range(chunk.type.num_fields)} if nested else set()
            paths = chunk.field("path").to_pylist() if "path" in fields and values.null_count else None
            for place, value in enumerate(values.to_pylist()):
                path = paths[place] if paths else None
                yield f"{split.where} row {row}", Path(path) if value is None and path else value or b""
                row += 1
