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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from attar import checkpoint, lock, snapshots, store
from attar import device as devices
from attar.errors import UserError, WriteError
from attar.sinks import Sink
from attar.synthetic import SyntheticSet
from attar.version import __version__

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
IMAGES = "images.png"
REPORT = "report.html"
SNAPSHOTS = "snapshots.safetensors"
SEEDS = "evaluation.jsonl"  # only while an evaluation runs
FILES = (CONFIG, METRICS, SNAPSHOTS, RESULT, IMAGES, REPORT, SEEDS, store.CONDENSED, store.INITIAL)
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
        append(self.path / METRICS, values)

    def keep_events(self, count: int) -> None:
        """Forget all but the first `count` events: a run goes on from there."""
        path = self.path / METRICS
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            os.truncate(path, sum(map(len, lines[:count])))

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
        except (ValueError, RecursionError) as error:
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
        there = {old: pixels for old, pixels in self.snapshots()[1] if pixels.shape == images.shape}
        self.keep_snapshots(labels, sorted({**there, outer: images}.items()))

    def keep_snapshots(self, labels: Tensor, moments: Sequence[tuple[int, Tensor]]) -> None:
        """Write what `snapshots` gives; no file where there is no moment."""
        if moments:
            tensors = {f"{outer:08d}": images for outer, images in moments}
            store.save_tensors(self.path / SNAPSHOTS, {**tensors, "labels": labels}, "snapshots", {})

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
        """Remove what a run left: that came to nothing, or that another replaces."""
        checkpoint.remove(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # other files of the user
            self.path.rmdir()


@contextmanager
def opened(path: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[RunFolder]:
    """A run folder for this process alone, without what a killed one left half-written.

    Raises `UserError` where another process is at work in it; with `wait` it waits for its end, after one line.
    """
    check_folder(path)
    with lock.held(path, wait=wait):
        store.clean(path, *FILES, *checkpoint.FOLDERS)
        for name in (METRICS, SEEDS):
            mend(path / name)
        yield RunFolder(path)


def append(path: Path, values: dict[str, Any]) -> None:
    """Append one JSON object as a line, and wait until it is on the disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {store.one_line(error)}") from error


def mend(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(path, text.rfind(b"\n") + 1)


class Seeds:
    """The networks that an evaluation has trained so far, so that an interrupted one goes on with the next seed.

    Without a folder nothing is kept.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self.path = folder.path / SEEDS if folder is not None else None
        self.start = time.perf_counter()
        self.before = 0.0  # seconds of earlier sessions
        self.known: dict[str, tuple[float, int]] = {}
        self.lock = threading.Lock()  # networks are trained side by side
        lines = self.path.read_text(encoding="utf-8") if self.path is not None and self.path.exists() else ""
        for line in lines.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that cannot be read is computed again
                values = json.loads(line)
                self.known[str(values["key"])] = float(values["accuracy"]), int(values["images"])
                self.before = max(self.before, float(values["seconds"]))

    @property
    def seconds(self) -> float:
        """All that the evaluation took so far."""
        return self.before + time.perf_counter() - self.start

    def keep(self, key: str, done: tuple[float, int]) -> None:
        """Keep one network's accuracy and number of training images."""
        if self.path is not None:
            accuracy, images = done
            with self.lock:
                append(self.path, {"key": key, "accuracy": accuracy, "images": images, "seconds": self.seconds})

    def forget(self) -> None:
        """The evaluation is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


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
    def stage(self, name: str, total: int, done: int = 0, *, images: int = 0) -> Iterator[Stage]:
        """A stage of `total` steps, of which some are `done` before.

        images: real images that a step reads, to say how many a second.
        """
        with self.stages([name], total, done, images=images) as (stage,):
            yield stage

    @contextmanager
    def stages(self, names: Sequence[str], total: int, done: int = 0, *, images: int = 0) -> Iterator[list[Stage]]:
        """Stages that go on side by side, each with its own bar."""
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
            yield [Stage(self, name, total, done, images, bar) for name in names]


class Stage:
    """One bar, or the lines in its place: one per step, at most one in `LINE_EVERY` seconds, and the last."""

    def __init__(self, watch: Watch, name: str, total: int, done: int, images: int, bar: Progress) -> None:
        self.watch, self.name, self.total, self.images, self.bar = watch, name, total, images, bar
        self.task = bar.add_task(name, total=total, completed=done, note="")
        self.first = self.done = done
        self.accuracy: float | None = None  # the last one that was measured, a fraction
        self.lock = threading.Lock()  # members of a pool are trained side by side
        self.start = time.perf_counter()
        self.said = -math.inf
        self.recent = deque([(self.start, done)], RECENT + 1)  # (moment, steps done by then)

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
                left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
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
