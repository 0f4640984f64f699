"""The run folder: its files, who may write to it, and what a run records about itself."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar import __version__, files
from attar.engine import device as devices
from attar.errors import UserError
from attar.evaluation.trained import TRAINED_NETWORKS
from attar.files import append, mend
from attar.runs import checkpoint
from attar.runs.sinks import Sink
from attar.sets import set_files, snapshots
from attar.sets.synthetic import SyntheticSet

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
IMAGES = "images.png"
REPORT = "report.html"
SNAPSHOTS = "snapshots.safetensors"
PARTS = "parts"  # folder of the parts of a run, inside its own
FILES = (CONFIG, METRICS, SNAPSHOTS, RESULT, IMAGES, REPORT, TRAINED_NETWORKS, set_files.CONDENSED, set_files.INITIAL)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. `metrics.jsonl` grows line by line; every other file is replaced atomically.

    Events also go to the `sinks`.
    """

    path: Path
    sinks: tuple[Sink, ...] = ()

    def event(self, values: dict[str, Any]) -> None:
        """Append one JSON object to `metrics.jsonl`, and send it to the sinks."""
        for sink in self.sinks:
            sink(values)
        append(self.path / METRICS, values)

    def keep_events(self, count: int) -> None:
        """Remove all but the first `count` events, for a run that resumes after these."""
        path = self.path / METRICS
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            os.truncate(path, sum(map(len, lines[:count])))

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write `config.json` or `result.json`."""
        files.write_json(self.path / name, value)

    def read(self, name: str, *tables: str) -> dict[str, Any]:
        """The content of `config.json` or `result.json`; empty where there is no such file.

        tables: keys whose values must be objects. Raises `UserError` for a damaged file.
        """
        path = self.path / name
        values = files.read_json(path) if path.exists() else {}
        for key in tables:
            if not isinstance(values.get(key, {}), dict):
                raise UserError(f"{path} is damaged: '{key}' must be an object, not {values[key]!r}")
        return values

    def events(self) -> list[dict[str, Any]]:
        """All events in `metrics.jsonl`, the oldest first. Raises `UserError` for a damaged file."""
        path = self.path / METRICS
        if not path.exists():
            return []
        try:
            events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged, {error}; remove it to go on without") from error
        if not all(isinstance(event, dict) for event in events):
            raise UserError(f"{path} is damaged: every line must be a JSON object; remove it to go on without")
        return events

    def snapshot(self, outer: int, condensed: SyntheticSet) -> None:
        """Add the images after `outer` outer iterations to `snapshots.safetensors`.

        A snapshot of the same iteration is replaced, so that a run resumed from an older state leaves the same file as
        an uninterrupted one.
        """
        images, labels = snapshots.thumbnails(condensed.images, condensed.labels)
        earlier = {moment: pixels for moment, pixels in self.snapshots()[1] if pixels.shape == images.shape}
        self.write_snapshots(labels, sorted({**earlier, outer: images}.items()))

    def picture(self, outer: int, draw: Callable[[], Any]) -> None:
        """Send the picture that `draw` makes, uint8 [H, W, 3], to the sinks."""
        for sink in self.sinks:
            sink({"event": "picture", "outer": outer, "picture": draw()})

    def write_snapshots(self, labels: Tensor, moments: Sequence[tuple[int, Tensor]]) -> None:
        """Write labels and snapshots as `snapshots` returns them; no file where there are none."""
        if moments:
            tensors = {f"{outer:08d}": images for outer, images in moments}
            files.save_tensors(self.path / SNAPSHOTS, {**tensors, "labels": labels}, "snapshots", {})

    def snapshots(self) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Labels [n], and (outer iteration, uint8 [n, ch, h, w]) in order; empty where there is no file.

        Raises `UserError` for a damaged file.
        """
        path = self.path / SNAPSHOTS
        if not path.exists():
            return torch.empty(0, dtype=torch.int64), []
        tensors, _ = files.load_tensors(path, "snapshots")
        labels = tensors.pop("labels", None)
        consistent = labels is not None and all(
            name.isdigit() and pixels.dtype == torch.uint8 and pixels.dim() == 4 and len(pixels) == len(labels)
            for name, pixels in tensors.items()
        )
        if labels is None or not consistent:
            raise UserError(f"{path} is damaged: its images and labels do not fit; remove it to go on without")
        return labels, [(int(name), tensors[name]) for name in sorted(tensors)]

    def discard(self) -> None:
        """Remove all files of a run: of one that failed without a checkpoint, or that is replaced."""
        checkpoint.remove(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # the user has other files in it
            self.path.rmdir()


@contextmanager
def open_run_folder(path: Path, *, wait: bool = False) -> Iterator[RunFolder]:
    """Lock a run folder for this process, and remove what a killed process left half-written in it.

    wait: where another process holds the lock, wait for its end, after one line in the log.
    Raises `UserError` where another process holds the lock.
    """
    check_folder(path)
    with files.held(path, wait=wait):
        files.clean(path, *FILES, *checkpoint.FOLDERS)
        for name in (METRICS, TRAINED_NETWORKS):
            mend(path / name)
        yield RunFolder(path)


def check_not_made_of(path: Path, source: str | Path) -> None:
    """Raise `UserError` where a run in `path`, or a part of it, is or holds the set that a new run there is made of."""
    read, own = Path(source).resolve(), path.resolve()
    of_run = read.parent == own and read.name in FILES
    if read == own or of_run or (own / PARTS) in (read, *read.parents):
        raise UserError(f"{path} holds what the new run is made of ({source}); name another folder with --out")


def check_free(path: Path, *, overwrite: bool, locked: bool = False) -> None:
    """Raise `UserError` when `path` cannot become a run folder. locked: whether the caller holds its lock."""
    check_folder(path)
    run_files = [name for name in (*FILES, *checkpoint.FOLDERS) if (path / name).exists()]
    if run_files and not overwrite:
        if not locked and files.is_held(path):
            raise files.busy(path)
        raise UserError(
            f"{path} already holds a run ({run_files[0]}); go on with it with --resume auto, name another folder with "
            f"--out, or add --overwrite"
        )


def check_no_run_file(path: Path) -> None:
    """Raise `UserError` for the name of a file of a run, which nothing else may replace."""
    if path.name in FILES and any((path.parent / name).exists() for name in (CONFIG, set_files.CONDENSED)):
        raise UserError(f"{path} is a file of the run in {path.parent}; name another file with --out")


def check_folder(path: Path) -> None:
    """Raise `UserError` when `path` is neither a writable folder nor can be made one."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"{path} cannot be a folder: {existing} is a file; name another folder")
    if not os.access(existing, os.W_OK):
        raise UserError(f"{path} cannot be written: {existing} is read-only; name another folder")


def create(path: Path, *, overwrite: bool) -> RunFolder:
    """Make the folder, and remove the files of a run in it. Raises `UserError` as `check_free` does."""
    check_free(path, overwrite=overwrite)
    folder = RunFolder(path)
    folder.discard()
    path.mkdir(parents=True, exist_ok=True)
    return folder


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware: what numbers depend on besides the settings."""
    return {
        "attar": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": devices.describe(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def command_line() -> str:
    """The command of this process, as a user would type it."""
    script = Path(sys.argv[0]).name
    start = ["python", script] if script.endswith(".py") and script != "__main__.py" else ["attar"]
    return shlex.join([*start, *sys.argv[1:]])
