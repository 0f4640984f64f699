"""What a run says while it runs: bars on a terminal, lines elsewhere, and the lines of the log between them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from attar.errors import log

SECONDS_BETWEEN_LINES = 1.0  # two plain lines: an outer iteration of a real run takes longer
STEPS_OF_RATE = 10  # over which images per second are counted: the first may have waited for a compiler


class Progress:
    """Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere.

    quiet: say nothing, as in Python by default.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()  # in another process it is quiet

    def line(self, words: str) -> None:
        """One line."""
        self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Show what attar logs in here, from INFO upwards; where quiet, nothing."""
        handler: logging.Handler = logging.NullHandler() if self.quiet else Lines(self)
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

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
        with Bars(*columns, console=self.console, disable=self.quiet or not self.console.is_terminal) as bars:
            yield [ProgressBar(self, name, total, done, images, bars) for name in names]


class Lines(logging.Handler):
    """Log records as lines of a `Progress`, above its bars."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        self.progress.line(record.getMessage())


class ProgressBar:
    """One bar, or the lines in its place: one per step, at most one in `SECONDS_BETWEEN_LINES`, and the last."""

    def __init__(self, progress: Progress, name: str, total: int, done: int, images: int, bars: Bars) -> None:
        self.progress, self.name, self.total, self.images, self.bars = progress, name, total, images, bars
        self.task = bars.add_task(name, total=total, completed=done, note="")
        self.first = self.done = done
        self.accuracy: float | None = None  # the last one that was measured, a fraction
        self.lock = threading.Lock()  # members of a pool are trained side by side
        self.start = time.perf_counter()
        self.last_line = -math.inf
        self.recent = deque([(self.start, done)], STEPS_OF_RATE + 1)  # (moment, steps done by then)

    def advance(self, note: str = "") -> None:
        """One step is done."""
        with self.lock:
            self.done += 1
            now = time.perf_counter()
            self.recent.append((now, self.done))
            words = self.words(note)
            self.bars.update(self.task, advance=1, note=words)
            if self.bars.disable and (now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total):
                self.last_line = now
                left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
                spent = f"{now - self.start:.0f} s, {left:.0f} s left"
                self.progress.line(f"{self.name} {self.done}/{self.total}  {spent}  {words}".rstrip())

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
