"""What a run says while it runs: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_EVERY = 1.0  # seconds between two plain lines: an outer iteration of a real run takes longer
RECENT = 10  # steps over which images per second are counted: the first may have waited for a compiler


class Progress:
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
    def stage(self, name: str, total: int, done: int = 0, *, images: int = 0) -> Iterator[ProgressBar]:
        """A stage of `total` steps, of which some are `done` before.

        images: real images that a step reads, to say how many a second.
        """
        with self.stages([name], total, done, images=images) as (stage,):
            yield stage

    @contextmanager
    def stages(
        self, names: Sequence[str], total: int, done: int = 0, *, images: int = 0
    ) -> Iterator[list[ProgressBar]]:
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
        with Bars(*columns, console=self.console, disable=self.quiet or not self.console.is_terminal) as bar:
            yield [ProgressBar(self, name, total, done, images, bar) for name in names]


class ProgressBar:
    """One bar, or the lines in its place: one per step, at most one in `LINE_EVERY` seconds, and the last."""

    def __init__(self, watch: Progress, name: str, total: int, done: int, images: int, bar: Bars) -> None:
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
