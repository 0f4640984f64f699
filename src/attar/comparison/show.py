"""`attar compare`: what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from attar.comparison import record, tables
from attar.comparison.numbers import Row
from attar.comparison.run import as_dict, run
from attar.runs import checkpoint
from attar.runs.progress import Progress
from attar.stages.shared import RUNS, named_folder


def compare(
    spec: str, out: str | None, *, jobs: int = 1, save_every: str | None = None, quiet: bool, json: bool = False
) -> None:
    """Compare, and print the table."""
    watch = Progress(quiet=quiet, json=json)
    path = named_folder(out) if out is not None else RUNS / Path(spec).stem
    rows = run(spec, path, jobs, save_every or checkpoint.EVERY, watch)
    result = {"folder": str(path), "rows": [as_dict(row) for row in rows]}
    watch.result(result, lambda: show(rows, path))


def show(rows: Sequence[Row], path: Path) -> None:
    """The most important columns, and where the others are."""
    names = tables.columns(rows)
    table = Table("entry", *names, "network", "accuracy", "n", "seconds", "IOR", "HLR", title=str(path))
    for row in rows:
        numbers = [tables.spread(row.accuracy), tables.count(row), tables.seconds(row.seconds)]
        table.add_row(row.entry, *tables.shown(row), row.network, *numbers, *map(tables.fraction, (row.ior, row.hlr)))
    Console().print(table)
    print(f"accuracies as fractions, mean ± std over n seeds; {path / record.TABLE_MD}, {path / record.FIGURES[0]}")
