"""Parquet files, as the Hugging Face hub keeps data sets: read with pyarrow, which the extra [hf] brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attar.data import labels, pictures, splits
from attar.data.assemble import About, Split, assemble, origin_of
from attar.data.images import ImageData
from attar.data.reading import LeftOut, Reading, printable
from attar.data.sources.columns import choose, features_of
from attar.data.sources.locate import words
from attar.data.sources.table import ROWS_READ, Rows, split_of
from attar.data.sources.tree import is_hidden
from attar.errors import MissingError, UserError

SUFFIX = ".parquet"
OWN = b"attar"  # in the schema of what attar exports


def is_parquet(path: Path) -> bool:
    """Whether a file is called so."""
    return path.suffix.lower() == SUFFIX


def find_files(path: Path) -> list[Path]:
    """The parquet files that a path stands for, sorted: itself, or those in a folder and its subfolders."""
    if path.is_file():
        return [path] if is_parquet(path) else []
    inner = (file for file in path.rglob("*") if is_parquet(file) and file.is_file())
    return sorted(file for file in inner if not any(map(is_hidden, file.relative_to(path).parts)))


def load(path: Path, reading: Reading) -> ImageData:
    """The images of a parquet file or folder.

    The split is in the file's or its folder's name (train-00000-of-00002.parquet, test/0.parquet), or in a column; else
    all are training images.

    Args:
        path: the file or the folder.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        UserError: for damaged files, several configurations, and labels that do not do.
    """
    files = _without_exports(find_files(path), path, reading.left_out)
    groups = _by_split(path, files)
    columns = choose(
        features_of(opened_file(files[0]).schema_arrow),
        reading.wish("image_column"),
        reading.wish("label_column"),
        str(path),
    )
    parts = {}
    for name, members in groups.items():
        where = members[0].name if len(members) == 1 else f"split {name}"
        shards = [_shard(file, columns.image, columns.label, where, len(members) > 1) for file in members]
        images = pictures.join([shard.images for shard in shards if isinstance(shard.images, pictures.Pictures)])
        named = [group for shard in shards for group in shard.groups or [name] * shard.count]
        known = named if any(shard.groups for shard in shards) else None
        parts[name] = Split(images, labels.join([shard.labels for shard in shards], where), known)
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file() and not is_parquet(file) and not is_hidden(file.name) and file.name != "README.md":
                reading.left_out.add("files that are not parquet", str(file.relative_to(path)))
    name = path.resolve().name
    return assemble(
        parts, About(printable(name[: -len(SUFFIX)] if is_parquet(path) else name), origin_of(path), kept=True), reading
    )


def _without_exports(files: Sequence[Path], path: Path, left_out: LeftOut) -> list[Path]:
    """The files without those that attar exported, unless there are no others."""
    own = [file for file in files if OWN in (opened_file(file).schema_arrow.metadata or {})]
    if len(own) == len(files):
        return own
    for file in own:
        left_out.add("parquet files written by attar", str(file.relative_to(path)))
    return [file for file in files if file not in own]


def _by_split(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that their name, or else their folder's, speaks of."""
    groups: dict[str, list[Path]] = {}
    configurations = set()
    inner = [file.relative_to(path) if path.is_dir() else Path(file.name) for file in files]
    spoken = splits.of_files([str(file.with_suffix("")) for file in inner], str(path))
    for file, split, parts in zip(files, spoken, [file.parts for file in inner], strict=True):
        groups.setdefault(split, []).append(file)
        configurations |= {part for part in parts[:-1] if part != "data" and not splits.spoken_of(part)}
    if len(configurations) > 1:
        names = sorted(configurations)
        raise UserError(f"{path} holds several data sets, {', '.join(names)}; name one of them: {path / names[0]}")
    return groups


def opened_file(file: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises `MissingError` without pyarrow, `UserError` for a damaged file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingError(f"{file} needs pyarrow to be read; pip install 'attar[hf]'") from error
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged or no parquet file: {words(error)}") from error


def _shard(file: Path, image: str, label: str, where: str, several: bool) -> Split:
    """The images and labels of one file, whose labels stand for the names that it gives itself."""
    opened = opened_file(file)
    features = features_of(opened.schema_arrow)
    missing = [name for name in (image, label) if name not in features]
    if missing:
        raise UserError(
            f"{file} has no column '{missing[0]}', which the first file has; its columns are {', '.join(features)}"
        )
    columns = choose(features, image, label, str(file))
    stat = file.stat()
    stamp = f"{file.name} {stat.st_size} {stat.st_mtime_ns}"
    called = f"{where}, {file.name}" if several else where
    rows = Rows(opened.metadata.num_rows, partial(_tables, file), called, file.parent, stamp, stat.st_size)
    return split_of(rows, columns)


def _tables(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa

    try:
        for batch in opened_file(file).iter_batches(batch_size=ROWS_READ, columns=list(columns)):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged: {words(error)}") from error
