"""The run folder: what a run leaves behind, and what it says while it runs."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
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
FILES = (CONFIG, METRICS, SNAPSHOTS, RESULT, IMAGES, REPORT, TRAINED_NETWORKS, set_files.CONDENSED, set_files.INITIAL)


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. `metrics.jsonl` grows line by line; every other file is replaced whole.

    What is appended goes to the `sinks` too.
    """

    path: Path
    sinks: tuple[Sink, ...] = ()

    def event(self, values: dict[str, Any]) -> None:
        """Append one JSON object to `metrics.jsonl`."""
        for sink in self.sinks:
            sink(values)
        append(self.path / METRICS, values)

    def keep_events(self, count: int) -> None:
        """Forget all but the first `count` events: a run goes on from there."""
        path = self.path / METRICS
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            os.truncate(path, sum(map(len, lines[:count])))

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write `config.json` or `result.json`."""
        files.write_json(self.path / name, value)

    def read(self, name: str, *tables: str) -> dict[str, Any]:
        """What `config.json` or `result.json` holds; nothing where there is none.

        Raises `UserError` when it is damaged, or when one of `tables` stands in it and is none.
        """
        path = self.path / name
        values = files.read_json(path) if path.exists() else {}
        for key in tables:
            if not isinstance(values.get(key, {}), dict):
                raise UserError(f"{path} is damaged: '{key}' must be an object, not {values[key]!r}")
        return values

    def events(self) -> list[dict[str, Any]]:
        """What was appended so far. Raises `UserError` for a damaged file."""
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
        """Add the images as they are after `outer` outer iterations to `snapshots.safetensors`.

        A moment that is there already is replaced, so a run that goes on from an older state leaves what an undisturbed
        one does.
        """
        images, labels = snapshots.thumbnails(condensed.images, condensed.labels)
        there = {old: pixels for old, pixels in self.snapshots()[1] if pixels.shape == images.shape}
        self.keep_snapshots(labels, sorted({**there, outer: images}.items()))

    def keep_snapshots(self, labels: Tensor, moments: Sequence[tuple[int, Tensor]]) -> None:
        """Write what `snapshots` gives; no file where there is no moment."""
        if moments:
            tensors = {f"{outer:08d}": images for outer, images in moments}
            files.save_tensors(self.path / SNAPSHOTS, {**tensors, "labels": labels}, "snapshots", {})

    def snapshots(self) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Labels [n], and in order (outer iteration, uint8 [n, ch, h, w]); nothing where nothing was kept.

        Raises `UserError` for a damaged file.
        """
        path = self.path / SNAPSHOTS
        if not path.exists():
            return torch.empty(0, dtype=torch.int64), []
        tensors, _ = files.load_tensors(path, "snapshots")
        labels = tensors.pop("labels", None)
        sound = labels is not None and all(
            name.isdigit() and pixels.dtype == torch.uint8 and pixels.dim() == 4 and len(pixels) == len(labels)
            for name, pixels in tensors.items()
        )
        if labels is None or not sound:
            raise UserError(f"{path} is damaged: its images and labels do not fit; remove it to go on without")
        return labels, [(int(name), tensors[name]) for name in sorted(tensors)]

    def discard(self) -> None:
        """Remove what a run left: that came to nothing, or that another replaces."""
        checkpoint.remove(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # other files of the user
            self.path.rmdir()


@contextmanager
def opened(path: Path, *, wait: bool = False) -> Iterator[RunFolder]:
    """A run folder for this process alone, without what a killed one left half-written.

    Raises `UserError` where another process is at work in it; with `wait` it waits for its end, after one line.
    """
    check_folder(path)
    with files.held(path, wait=wait):
        files.clean(path, *FILES, *checkpoint.FOLDERS)
        for name in (METRICS, TRAINED_NETWORKS):
            mend(path / name)
        yield RunFolder(path)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise `UserError` when `path` cannot become a run folder."""
    check_folder(path)
    taken = [name for name in (*FILES, *checkpoint.FOLDERS) if (path / name).exists()]
    if taken and not overwrite:
        raise UserError(f"{path} already holds a run ({taken[0]}); name another folder with --out, or add --overwrite")


def check_folder(path: Path) -> None:
    """Raise `UserError` when `path` is no folder that can be written to, and cannot be made one."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"{path} cannot be a folder: {there} is a file; name another folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written: {there} is read-only; name another folder")


def create(path: Path, *, overwrite: bool) -> RunFolder:
    """Make the folder, without a former run's files. Raises `UserError` as `check_free` does."""
    check_free(path, overwrite=overwrite)
    folder = RunFolder(path)
    folder.discard()
    path.mkdir(parents=True, exist_ok=True)
    return folder


def environment(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the settings."""
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
    """The command that is running, as a user would type it."""
    script = Path(sys.argv[0]).name
    start = ["python", script] if script.endswith(".py") and script != "__main__.py" else ["attar"]
    return shlex.join([*start, *sys.argv[1:]])
