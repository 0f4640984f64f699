"""Runs that end when their time is up."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.errors import UserError, counted, log
from attar.settings.config import fitted_to

MIN_PASSES = 100  # passes over the classes: fewer hardly move the images
TOO_FEW = f"; fewer than {MIN_PASSES} hardly move the images: give more minutes"
RECENT = 20  # outer iterations that the clock goes by


@dataclass
class TimeLimit:
    """How long a run may take, if that is limited, and when it started by `time.perf_counter`."""

    minutes: float | None
    started: float
    evaluate: bool = False  # an evaluation follows, within the time
    quick: bool = False  # that evaluation has to be a quick one
    reserved: float = 0.0  # seconds of the evaluation

    def left(self) -> float:
        """Seconds that are left of the time."""
        assert self.minutes is not None
        return 60 * self.minutes - (time.perf_counter() - self.started) - self.reserved

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise `UserError` for no length of time, and where the settings say how long the run is, too."""
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"minutes must be a number of minutes above 0, not {self.minutes:g}")
        if self.minutes is not None and (clash := sorted(set(fitted_to("minutes")["condense"]) & settings.keys())):
            raise UserError(f"{clash[0]} and minutes exclude each other: both say how long the run is")


class Clock:
    """Ends a run when its time is up, after a whole outer iteration."""

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self.seconds = seconds
        self.deadline = time.perf_counter() + seconds - spent
        self.reserved = 0.0  # seconds that are kept for what comes after the last iteration
        self.is_up = False
        self.starts: deque[float] = deque(maxlen=RECENT + 1)  # of outer iterations, without the first: it may compile

    def more(self) -> bool:
        """Whether another outer iteration as long as the recent ones ends before the deadline; asked before each."""
        self.starts.append(time.perf_counter())
        gaps = [later - earlier for earlier, later in zip(self.starts, list(self.starts)[1:], strict=False)]
        self.is_up = self.starts[-1] + (statistics.median(gaps) if gaps else 0.0) + self.reserved > self.deadline
        return not self.is_up

    def leave_out(self, seconds: float) -> None:
        """Count these seconds, which went by just now, as time of the run, but of none of its outer iterations."""
        self.starts = deque((start + seconds for start in self.starts), maxlen=self.starts.maxlen)

    def share(self) -> float:
        """The share of the time that is spent."""
        return 1 - (self.deadline - time.perf_counter()) / max(self.seconds, 1e-9)


def say_end(outer: int, inner_loop: int) -> None:
    """Say how far a run came that the clock ended, and that it is not far where it is not."""
    words = f"the time is up after {counted(outer, 'outer iteration')}, "
    words += f"{counted(outer * inner_loop, 'pass')} over the classes"
    few = outer * inner_loop < MIN_PASSES
    log.log(logging.WARNING if few else logging.INFO, "%s%s", words, TOO_FEW if few else "")
