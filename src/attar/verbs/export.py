"""`attar export` and `attar push`: a condensed set for other tools."""

from __future__ import annotations

from pathlib import Path

from attar import export as exports
from attar import push as pushes
from attar import store
from attar.errors import UserError, choose


def export(run: str, to: str | None, out: str | None, what: str | None, *, overwrite: bool) -> None:
    """Write the set of a run in another format, by default beside the run's files."""
    if to is None:
        raise UserError(f"name a format with --to; valid: {', '.join(exports.FORMATS)}")
    choose("format", to, exports.FORMATS)
    small = store.load_set(Path(run))
    if out is not None and not out.strip():
        raise UserError("out must name a file or folder, and it is empty")
    home = Path(run) if Path(run).is_dir() else Path(run).parent
    print(exports.export_set(small, to, Path(out) if out else home / f"export-{to}", what=what, overwrite=overwrite))


def push(run: str, name: str, what: str | None, *, private: bool) -> None:
    """Put the set of a run onto the Hugging Face hub."""
    print(pushes.push_set(store.load_set(Path(run)), name, what=what, private=private))
