"""Condensed sets for other tools: files in other formats, and the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from attar.errors import UserError, choose
from attar.sets import set_files
from attar.sets.export import FORMATS, export_set, in_words
from attar.sets.places import without_places
from attar.sets.push import push_set, write_upload


def export(
    run: str | Path,
    to: str | None,
    *,
    out: str | Path | None = None,
    what: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, str]:
    """Write the set of a run folder or condensed file in another format, by default into the run folder.

    Returns the path that was written and what it holds, in words. Raises `UserError` for an unknown format or an
    occupied path.
    """
    if to is None:
        raise UserError(f"name a format with --to; valid: {', '.join(FORMATS)}")
    choose("format", to, FORMATS)
    condensed = set_files.load_set(run)
    if out is not None and not str(out).strip():
        raise UserError("out must name a file or folder, and it is empty")
    home = Path(run) if Path(run).is_dir() else Path(run).parent
    path = export_set(condensed, to, Path(out) if out else home / f"export-{to}", what=what, overwrite=overwrite)
    own = condensed.recipe.get("data", {}).keys() != without_places(condensed).recipe.get("data", {}).keys()
    about = "; it does not name your folder of images: evaluate it with -d" if own else ""
    return path, in_words(condensed, to, what) + about


def push(
    run: str | Path, name: str, *, what: str | None = None, private: bool = False, dry_run: bool = False
) -> str | Path:
    """Upload the set of a run folder or condensed file to the Hugging Face hub; returns its address there.

    dry_run: write the folder that would be uploaded beside the set, upload nothing, and return the folder.
    """
    if dry_run:
        home = Path(run) if Path(run).is_dir() else Path(run).parent
        return write_upload(set_files.load_set(run), name, home / "push", what=what)
    return push_set(run, name, what=what, private=private)
