"""Parquet files, as the Hugging Face hub keeps data sets: read with pyarrow, which the extra [hf] brings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attar.data.images import ImageData
from attar.data.sources.columns import choose, features_of
from attar.data.sources.locate import words
from attar.data.sources.table import READ, TEST, TRAIN, ReadOptions, Split, read
from attar.errors import MissingError, UserError

SUFFIX = ".parquet"


def found(path: Path) -> list[Path]:
    """The parquet files that a path stands for, sorted: itself, or those in a folder and its subfolders."""
    if path.is_file():
        return [path] if path.suffix == SUFFIX else []
    return sorted(file for file in path.rglob(f"*{SUFFIX}") if not file.name.startswith("."))


def load(path: Path, reading: ReadOptions) -> ImageData:
    """The images of a parquet file or folder.

    The split is in the file's or its folder's name (train-00000-of-00002.parquet, test/0.parquet); without such a name
    all are training images. Raises UserError for damaged files, several configurations, and what `table.read` refuses.
    """
    files = found(path)
    groups = _by_split(path, files)
    schema = _opened(files[0]).schema_arrow
    columns = choose(features_of(schema), reading.image_column, reading.label_column, str(path))
    splits = {name: _split(members, name, schema) for name, members in groups.items()}
    stamp = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = path.resolve().name.removesuffix(SUFFIX)
    return read(splits, columns, name, reading, stamp)


def _by_split(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that their name, or else their folder's, speaks of."""
    groups: dict[str, list[Path]] = {}
    configurations = set()
    for file in files:
        parts = file.relative_to(path).parts if path.is_dir() else (file.name,)
        split = next((name for part in reversed(parts) if (name := _split_of(part))), "train")
        groups.setdefault(split, []).append(file)
        configurations |= {part for part in parts[:-1] if part != "data" and not _split_of(part)}
    if len(configurations) > 1:
        names = sorted(configurations)
        raise UserError(f"{path} holds several data sets, {', '.join(names)}; name one of them: {path / names[0]}")
    return groups


def _split_of(part: str) -> str | None:
    """The split that a name speaks of: `train-00000-of-00001.parquet` → train."""
    spoken = re.split(r"[^a-z]+", part.lower())
    return next((name for name in (*TRAIN, *TEST) if name in spoken), None)


def _opened(file: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingError(f"{file} needs pyarrow to be read; pip install 'attar[hf]'") from error
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged or no parquet file: {words(error)}") from error


def _split(files: Sequence[Path], name: str, schema: Any) -> Split:
    opened = [_opened(file) for file in files]
    for file, one in zip(files, opened, strict=True):
        if one.schema_arrow.names != schema.names:
            other = ", ".join(one.schema_arrow.names)
            raise UserError(f"{file} has the columns {other}, the first file {', '.join(schema.names)}")
    where = os.path.basename(files[0]) if len(files) == 1 else f"split {name}"
    return Split(sum(one.metadata.num_rows for one in opened), partial(_tables, files), where)


def _tables(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa

    for file in files:
        try:
            for batch in _opened(file).iter_batches(batch_size=READ, columns=list(columns)):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is damaged: {words(error)}") from error
