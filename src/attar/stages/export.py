"""A condensed set for other tools."""

from __future__ import annotations

from pathlib import Path

from attar.errors import UserError, choose
from attar.sets import set_files
from attar.sets.export import FORMATS, export_set
from attar.sets.push import push_set


def export(
    run: str | Path,
    to: str | None,
    *,
    out: str | Path | None = None,
    what: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the set of a run, or of a condensed file, in another format, by default beside the run's files."""
    if to is None:
        raise UserError(f"name a format with --to; valid: {', '.join(FORMATS)}")
    choose("format", to, FORMATS)
    condensed = set_files.load_set(Path(run))
    if out is not None and not str(out).strip():
        raise UserError("out must name a file or folder, and it is empty")
    home = Path(run) if Path(run).is_dir() else Path(run).parent
    return export_set(condensed, to, Path(out) if out else home / f"export-{to}", what=what, overwrite=overwrite)


def push(run: str | Path, name: str, *, what: str | None = None, private: bool = False) -> str:
    """Put the set of a run, or of a condensed file, onto the Hugging Face hub; its address there."""
    return push_set(set_files.load_set(Path(run)), name, what=what, private=private)
