"""Progress of a run: bars on a terminal, plain lines elsewhere, with the records of the log between them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from attar.errors import log

P = ParamSpec("P")
T = TypeVar("T")
SECONDS_BETWEEN_LINES = 1.0  # of plain progress; an outer iteration of a real run takes longer
STEPS_OF_RATE = 10  # steps that images per second are averaged over: the first step may include a compilation


class Progress:
    """Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere.

    quiet: show nothing, the default in Python.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()  # pickled for another process, it is quiet there

    @property
    def has_bars(self) -> bool:
        """Whether bars can be drawn: on a terminal, and in a notebook with ipywidgets."""
        return self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None)

    def line(self, text: str) -> None:
        """Print one line, as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Show the records of attar's logger within this block, from INFO upwards; nothing where quiet."""
        handler: logging.Handler = logging.NullHandler() if self.quiet else ProgressHandler(self)
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

    @contextmanager
    def stage(self, name: str, total: int, completed: int = 0, *, images: int = 0) -> Iterator[ProgressBar]:
        """A bar for `total` steps, `completed` of which were made in an earlier session.

        images: real images that a step reads, to show images per second.
        """
        with self.stages([name], total, completed, images=images) as (stage,):
            yield stage

    @contextmanager
    def stages(
        self, names: Sequence[str], total: int, completed: int = 0, *, images: int = 0
    ) -> Iterator[list[ProgressBar]]:
        """Bars, one for each name, of stages that run at the same time."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        with Bars(*columns, console=self.console, disable=self.quiet or not self.has_bars) as bars:
            yield [ProgressBar(self, name, total, completed, images, bars) for name in names]


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
    """One bar, or plain lines in its place: a line for a step, at most one in `SECONDS_BETWEEN_LINES`, and the last."""

    def __init__(self, progress: Progress, name: str, total: int, completed: int, images: int, bars: Bars) -> None:
        self.progress, self.name, self.total, self.images, self.bars = progress, name, total, images, bars
        self.task = bars.add_task(name, total=total, completed=completed, note="")
        self.first = self.done = completed
        self.accuracy: float | None = None  # the last one that was measured, a fraction
        self.lock = threading.Lock()  # members of a pool are trained in threads
        self.start = time.perf_counter()
        self.last_line = -math.inf
        self.recent = deque([(self.start, completed)], STEPS_OF_RATE + 1)  # (time, steps done by then)

    def advance(self, note: str = "") -> None:
        """Count one step; `note` is shown beside it."""
        with self.lock:
            self.done += 1
            now = time.perf_counter()
            self.recent.append((now, self.done))
            status = self.status(note)
            self.bars.update(self.task, advance=1, note=status)
            if self.bars.disable and (now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total):
                self.last_line = now
                left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
                times = f"{now - self.start:.0f} s, {left:.0f} s left"
                self.progress.line(f"{self.name} {self.done}/{self.total}  {times}  {status}".rstrip())

    def status(self, note: str) -> str:
        """The note, images per second over the last steps, and the last measured accuracy."""
        parts = [note] if note else []
        seconds = self.recent[-1][0] - self.recent[0][0]
        if self.images and seconds > 0:
            steps = self.recent[-1][1] - self.recent[0][1]
            parts.append(f"{steps * self.images / seconds:,.0f} images/s")
        if self.accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.1f} %")
        return ", ".join(parts)
