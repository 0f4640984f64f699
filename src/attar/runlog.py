"""The run folder: what a run leaves behind, and what it says while it runs."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from attar import device as devices
from attar import snapshots, store
from attar.errors import UserError
from attar.sinks import Sink
from attar.synthetic import SyntheticSet

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
IMAGES = "images.png"
REPORT = "report.html"
SNAPSHOTS = "snapshots.safetensors"
FILES = (CONFIG, METRICS, SNAPSHOTS, RESULT, IMAGES, REPORT, store.CONDENSED, store.INITIAL)
LINE_EVERY = 1.0  # seconds between two plain lines: an outer iteration of a real run takes longer
RECENT = 10  # steps over which images per second are counted: the first may have waited for a compiler


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
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write `config.json` or `result.json`."""
        store.write_json(self.path / name, value)

    def read(self, name: str, *tables: str) -> dict[str, Any]:
        """What `config.json` or `result.json` holds; nothing where there is none.

        Raises `UserError` when it is damaged, or when one of `tables` stands in it and is none.
        """
        path = self.path / name
        values = store.read_json(path) if path.exists() else {}
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
        except ValueError as error:
            raise UserError(f"{path} is damaged, {error}; remove it to go on without") from error
        if not all(isinstance(event, dict) for event in events):
            raise UserError(f"{path} is damaged: every line must be a JSON object; remove it to go on without")
        return events

    def snapshot(self, outer: int, small: SyntheticSet) -> None:
        """Add the images as they are after `outer` outer iterations to `snapshots.safetensors`.

        A moment that is there already is replaced, so a run that goes on from an older state leaves what an undisturbed
        one does.
        """
        images, labels = snapshots.small(small.images, small.labels)
        name = f"{outer:08d}"
        _, there = self.snapshots()
        tensors = {f"{old:08d}": pixels for old, pixels in there if pixels.shape == images.shape}
        store.save_tensors(self.path / SNAPSHOTS, {**tensors, name: images, "labels": labels}, "snapshots", {})

    def snapshots(self) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Labels [n], and in order (outer iteration, uint8 [n, ch, h, w]); nothing where nothing was kept.

        Raises `UserError` for a damaged file.
        """
        path = self.path / SNAPSHOTS
        if not path.exists():
            return torch.empty(0, dtype=torch.int64), []
        tensors, _ = store.load_tensors(path, "snapshots")
        labels = tensors.pop("labels", None)
        sound = labels is not None and all(
            name.isdigit() and pixels.dtype == torch.uint8 and pixels.dim() == 4 and len(pixels) == len(labels)
            for name, pixels in tensors.items()
        )
        if labels is None or not sound:
            raise UserError(f"{path} is damaged: its images and labels do not fit; remove it to go on without")
        return labels, [(int(name), tensors[name]) for name in sorted(tensors)]

    def discard(self) -> None:
        """Remove what a run left that came to nothing."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # other files of the user
            self.path.rmdir()


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise `UserError` when `path` cannot become a run folder."""
    check_folder(path)
    taken = [name for name in FILES if (path / name).exists()]
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
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    return RunFolder(path)


def environment(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the settings."""
    return {
        "attar": version("attar"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": devices.describe(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


class Watch:
    """Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere.

    quiet: say nothing; json: the result goes to standard output as one JSON object, and nothing else does.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet
        self.json = json

    def say(self, line: str) -> None:
        """One line."""
        if not self.quiet:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def result(self, value: dict[str, Any], show: Callable[[], None]) -> None:
        """What a verb ends with: the JSON object where that is wanted, else what `show` prints."""
        if self.json:
            print(json.dumps(value, indent=2))
        else:
            show()

    @contextmanager
    def stage(self, name: str, total: int, *, images: int = 0) -> Iterator[Stage]:
        """A stage of `total` steps; `images`: real images that a step reads, to say how many a second."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        with Progress(*columns, console=self.console, disable=self.quiet or not self.console.is_terminal) as bar:
            yield Stage(self, name, total, images, bar)


class Stage:
    """One bar, or the lines in its place: one per step, at most one in `LINE_EVERY` seconds, and the last."""

    def __init__(self, watch: Watch, name: str, total: int, images: int, bar: Progress) -> None:
        self.watch, self.name, self.total, self.images, self.bar = watch, name, total, images, bar
        self.task = bar.add_task(name, total=total, note="")
        self.done = 0
        self.accuracy: float | None = None  # the last one that was measured, a fraction
        self.lock = threading.Lock()  # members of a pool are trained side by side
        self.start = time.perf_counter()
        self.said = -math.inf
        self.recent = deque([(self.start, 0)], RECENT + 1)  # (moment, steps done by then)

    def advance(self, note: str = "") -> None:
        """One step is done."""
        with self.lock:
            self.done += 1
            now = time.perf_counter()
            self.recent.append((now, self.done))
            words = self.words(note)
            self.bar.update(self.task, advance=1, note=words)
            if self.bar.disable and (now - self.said >= LINE_EVERY or self.done == self.total):
                self.said = now
                left = (now - self.start) / self.done * (self.total - self.done)
                spent = f"{now - self.start:.0f} s, {left:.0f} s left"
                self.watch.say(f"{self.name} {self.done}/{self.total}  {spent}  {words}".rstrip())

    def words(self, note: str) -> str:
        """The note, the images per second of the last steps, and the last accuracy."""
        parts = [note] if note else []
        seconds = self.recent[-1][0] - self.recent[0][0]
        if self.images and seconds > 0:
            steps = self.recent[-1][1] - self.recent[0][1]
            parts.append(f"{steps * self.images / seconds:,.0f} images/s")
        if self.accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.1f} %")
        return ", ".join(parts)


def command_line() -> str:
    """The command that is running, as a user would type it."""
    script = Path(sys.argv[0]).name
    start = ["python", script] if script.endswith(".py") and script != "__main__.py" else ["attar"]
    return shlex.join([*start, *sys.argv[1:]])
