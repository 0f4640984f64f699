"""Progress of a run: bars on a terminal, plain lines elsewhere, with the records of the log between them."""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from attar.errors import log

P = ParamSpec("P")
T = TypeVar("T")
SECONDS_BETWEEN_LINES = 1.0  # of plain progress; an outer iteration of a real run takes longer
RECENT = 20  # steps that the time left and images per second go by


class Progress:
    """Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere.

    quiet: show only warnings, the default in Python.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self.console = Console(stderr=True)
        self.quiet = quiet

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()  # pickled for another process, it is quiet there

    @property
    def has_bars(self) -> bool:
        """Whether bars can be drawn: on a terminal, and in a notebook with ipywidgets."""
        return self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None)

    def line(self, text: str) -> None:
        """Print one line as it is, on a terminal wrapped at words."""
        wrap = self.console.is_terminal
        self.console.print(text, markup=False, highlight=False, soft_wrap=not wrap)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Show the records of attar's logger within this block, from INFO upwards; only warnings where quiet."""
        handler, level = ProgressHandler(self), log.level
        handler.setLevel(logging.WARNING if self.quiet else logging.INFO)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

    @contextmanager
    def stage(
        self, name: str, total: int, completed: int = 0, *, images: int = 0, serial: bool = False
    ) -> Iterator[ProgressBar]:
        """A bar for `total` steps, `completed` of which were made in an earlier session.

        images: real images that a step reads, to show images per second; serial: the steps are made one after another,
        and the first one may wait for a compiler.
        """
        with self.stages([name], total, completed, images=images, serial=serial) as (stage,):
            yield stage

    @contextmanager
    def stages(
        self, names: Sequence[str], total: int, completed: int = 0, *, images: int = 0, serial: bool = False
    ) -> Iterator[list[ProgressBar]]:
        """Bars, one for each name, of stages that run at the same time."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeLeft(),
        )
        with Bars(*columns, console=self.console, disable=self.quiet or not self.has_bars) as bars:
            yield [ProgressBar(self, name, total, completed, images, bars, serial) for name in names]


class TimeLeft(ProgressColumn):
    """The time until the end that a `ProgressBar` expects."""

    def render(self, task: Task) -> Text:
        """Hours, minutes and seconds; nothing where no end is known."""
        end = task.fields["end"]
        left = None if end is None else timedelta(seconds=max(0, round(end - time.perf_counter())))
        return Text("" if left is None else f"{left} left", style="progress.remaining")


def shows_progress(function: Callable[P, T]) -> Callable[P, T]:
    """Let a public function take `progress=True`: bars and the records of the log, as on the command line."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        asked = kwargs.get("progress")
        if isinstance(asked, Progress):
            return function(*args, **kwargs)
        kwargs["progress"] = progress = Progress(quiet=not asked)
        with progress.listening() if asked else nullcontext():
            return function(*args, **kwargs)

    return call


class ProgressHandler(logging.Handler):
    """Log records as lines of a `Progress`, above its bars."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        self.progress.line(record.getMessage())


class ProgressBar:
    """One bar, or plain lines in its place: a line for a step, at most one in `SECONDS_BETWEEN_LINES`, and the last.

    The time left and images per second go by the median of the recent steps. Of serial steps the first is left out.
    """

    def __init__(
        self, progress: Progress, name: str, total: int, completed: int, images: int, bars: Bars, serial: bool
    ) -> None:
        self.progress, self.name, self.total, self.images, self.bars = progress, name, total, images, bars
        self.task = bars.add_task(name, total=total, completed=completed, note="", end=None)
        self.done, self.serial = completed, serial
        self.note = ""
        self.accuracy: float | None = None  # the last one that was measured, a fraction
        self.deadline: float | None = None  # of a stage that ends by the clock, by `time.perf_counter`
        self.lock = threading.Lock()  # members of a pool are trained in threads
        self.start = time.perf_counter()
        self.last_line = -math.inf
        self.ends = deque([] if serial else [self.start], RECENT + 1)  # of the recent steps

    def advance(self, note: str = "") -> None:
        """Count one step; `note` is shown beside it."""
        with self.lock:
            self.done += 1
            self.note = note
            self.ends.append(time.perf_counter())
            self._show(self.ends[-1])

    def say(self, note: str) -> None:
        """Show another note, such as what a long first step waits for."""
        with self.lock:
            self.note = note
            self.bars.update(self.task, note=self.status())

    def measured(self, accuracy: float) -> None:
        """Show an accuracy, a fraction, from now on."""
        self.accuracy = accuracy
        self.say(self.note)

    def step_seconds(self) -> float | None:
        """The median seconds of the recent steps, of several at once their mean; None before they are known."""
        gaps = [end - start for start, end in zip(self.ends, list(self.ends)[1:], strict=False)]
        if not gaps:
            return None
        return statistics.median(gaps) if self.serial else statistics.fmean(gaps)

    def _show(self, now: float) -> None:
        seconds = self.step_seconds()
        end = None if seconds is None else now + seconds * (self.total - self.done)
        if self.deadline is not None and seconds:
            end, self.total = self.deadline, self.done + max(0, int((self.deadline - now) / seconds))
        status = self.status()
        self.bars.update(self.task, completed=self.done, total=self.total, note=status, end=end)
        is_due = now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total
        if self.bars.disable and not self.progress.quiet and is_due:
            self.last_line = now
            times = f"{now - self.start:.0f} s" + ("" if end is None else f", {max(0.0, end - now):.0f} s left")
            self.progress.line(f"{self.name} {self.done}/{self.total}  {times}  {status}".rstrip())

    def status(self) -> str:
        """The note, images per second over the recent steps, and the last measured accuracy."""
        parts = [self.note] if self.note else []
        seconds = self.step_seconds()
        if self.images and seconds:
            parts.append(f"{self.images / seconds:,.0f} images/s")
        if self.accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.1f} %")
        return ", ".join(parts)
