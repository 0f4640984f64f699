"""What there is already: one run, or all runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar import files
from attar.errors import MissingError, UserError, log
from attar.runs import checkpoint, run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.stages.shared import RUN_ROOT


@dataclass(frozen=True)
class Shown:
    """A run folder and what its files say."""

    path: Path
    result: dict[str, Any]  # empty for a run that is not finished
    settings: dict[str, Any]  # config.json
    running: bool  # a process is at work in the folder
    stopped: bool  # interrupted, with a checkpoint to go on from


def is_run(path: str | Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return any((Path(path) / name).is_file() for name in (run_folder.CONFIG, set_files.CONDENSED))


def show(path: str | Path) -> Shown:
    """The run in a folder. Raises `MissingError` where there is none, `UserError` for damaged files."""
    path = Path(path)
    if not is_run(path):
        raise MissingError(f"{path} holds no run; `attar runs` lists those in {RUN_ROOT}")
    folder = RunFolder(path)
    result = folder.read(run_folder.RESULT, "seconds", "accuracy")
    if result:
        _check_set(path)
    running = files.is_held(path)
    stopped = not result and not running and checkpoint.exists(path)
    return Shown(path, result, folder.read(run_folder.CONFIG, "condense"), running, stopped)


def _check_set(path: Path) -> None:
    """Raise `UserError` where the set of a finished run is missing or damaged."""
    if not (path / set_files.CONDENSED).is_file():
        goes_on = checkpoint.exists(path) or (path / run_folder.PARTS).is_dir()
        again = f"attar condense --resume {path} makes it again" if goes_on else "make the run again"
        raise UserError(f"{path} has lost its set, {set_files.CONDENSED}; {again}")
    files.load_tensors(path / set_files.CONDENSED, "set")


def runs(root: str | Path | None = None) -> list[Shown]:
    """All runs in a folder (default: runs), the latest last; damaged ones are left out with a line.

    Raises `MissingError` where there is no such folder.
    """
    root = Path(root or RUN_ROOT)
    if not root.is_dir():
        where = f"runs are kept in {RUN_ROOT} where no --out is given"
        raise MissingError(f"there is no folder {root}; {where}; attar runs FOLDER lists those of another")
    runs = []
    for path in sorted(root.iterdir(), key=lambda path: path.stat().st_mtime):
        try:
            runs += [show(path)] if is_run(path) else []
        except UserError as error:
            log.warning("%s", error)
    return runs
