"""What a run records on its way: checkpoints, events, snapshots, accuracies, and the report while it goes on."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np

from attar.condensation import loop
from attar.condensation.setup import Setup
from attar.condensation.state import State, snapshot
from attar.data.images import ImageData
from attar.errors import counted, log
from attar.evaluation import measure
from attar.evaluation.protocol import CONDENSED
from attar.report.of_run import LiveReport
from attar.runs.checkpoint import CheckpointWriter, Interval
from attar.runs.progress import ProgressBar
from attar.runs.run_folder import RunFolder
from attar.sets import snapshots
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe
from attar.settings.schema import settings_of
from attar.signals import DeferredSignal, Interrupted
from attar.stages.clock import Clock
from attar.stages.schedule import accuracy_seconds

CURVE_FROM = 60.0  # seconds of a run before an accuracy is measured that nobody asked for
CURVE_SHARE = 0.1  # of the time that such accuracies may take
MOST = 0.9  # of the iterations: where so many moved nothing, something is wrong


class Records:
    """The records of one run; without a folder only the progress bar and the accuracies that were asked for.

    Args:
        start: when the run began by `time.perf_counter`, less the seconds of earlier sessions.
    """

    def __init__(
        self,
        state: State,
        setup: Setup,
        recipe: Recipe,
        folder: RunFolder | None,
        start: float,
        *,
        every: Interval,
        bar: ProgressBar,
        clock: Clock | None,
        stop: DeferredSignal,
    ) -> None:
        self.state, self.setup, self.recipe, self.folder, self.start = state, setup, recipe, folder, start
        self.bar, self.clock, self.stop = bar, clock, stop
        self.checkpoint = None if folder is None else CheckpointWriter(folder.path, every, stop)
        self.live = None if folder is None else LiveReport(folder, setup.data)
        events = [] if folder is None else folder.events()
        self.first = next((event["loss"] for event in events if event.get("event") == "step"), None)
        took = [event["took"] for event in events if isinstance(event.get("took"), float)]
        self.accuracy_seconds, self.spent = next(reversed(took), 0.0), sum(took)  # of the last accuracy, and of all
        self.moment = -1
        if clock is not None:
            clock.deadline -= self.spent  # of earlier sessions
            self.moment = -1 if state.outer == 0 else snapshots.passed(clock.share())
            self._reserve()

    def product(self) -> SyntheticSet:
        """The set as it is now."""
        return replace(loop.product(self.state, self.setup), recipe=settings_of(self.recipe))

    def seconds(self) -> float:
        """How long the run took so far, all sessions together."""
        return time.perf_counter() - self.start

    def save(self, now: bool = False) -> None:
        """Write a checkpoint where it is time, or `now`. Raises `Interrupted` where a signal was deferred."""
        self.state.seconds = self.seconds()
        if self.checkpoint is None:
            self.stop.check()
            return
        try:
            self.checkpoint(lambda: snapshot(self.state, self.setup), now)
        except Interrupted:
            self.report(stopped=True)
            raise

    def event(self, event: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        if self.folder is not None:
            self.folder.event(event)
        self.state.events += 1

    def step(self, loss: float) -> None:
        """Record the loss of an outer iteration, and show it."""
        outer, inner, lr = self.state.outer, self.setup.config.inner_loop, self.state.lr
        event = {"event": "step", "outer": outer, "inner": inner, "loss": loss, "seconds": self.seconds()}
        self.event(event | ({} if lr is None else {"lr": lr}))
        self.first = self.first or loss
        note = f"loss {loss / self.first:.2f} of start" if self.first else f"loss {loss:.4g}"
        self.bar.advance(note if lr is None else f"{note}, learned lr {lr:.3g}")

    def look(self) -> float | None:
        """Record the images, and measure an accuracy, after those outer iterations where that is due.

        Returns the accuracy, where it was measured.
        """
        is_moment = self.folder is not None and self.state.inner == 0 and self._is_moment()
        if self.folder is not None and is_moment:
            condensed = self.product()
            self.folder.snapshot(self.state.outer, condensed)
            self.folder.picture(self.state.outer, lambda: np.asarray(condensed.picture()))
        is_asked = self.state.outer in self.setup.config.eval_at
        return self.measure() if is_asked or (is_moment and self._is_affordable()) else None

    def end(self) -> None:
        """Record the last images of a run that ended by the clock, and their accuracy where time was kept for it."""
        if self.clock is None or self.folder is None:
            return
        self.folder.snapshot(self.state.outer, self.product())
        if self.clock.is_up and self.clock.reserved:
            self.measure()

    def measure(self) -> float | None:
        """Measure and record the accuracy of the set as it is now; None where that is done."""
        if self.state.evaluated >= self.state.outer:
            return None
        self.save(now=True)
        start = time.perf_counter()
        try:
            with self.stop.allowed():
                accuracy = quick_accuracy(self.product(), self.setup.data, self.recipe)
        except KeyboardInterrupt:
            self.report(stopped=True)
            raise
        self.accuracy_seconds = time.perf_counter() - start
        self.start += self.accuracy_seconds  # it is no part of the condensation
        self.spent += self.accuracy_seconds
        if self.clock is not None:
            self.clock.leave_out(self.accuracy_seconds)
            self._reserve()
        event = {"event": "evaluation", "outer": self.state.outer, "accuracy": accuracy}
        self.event(event | {"took": self.accuracy_seconds})
        self.state.evaluated = self.state.outer
        network, value = next(iter(accuracy.items()))
        self.bar.measured(value)
        of_all = counted(self.bar.total, "outer iteration")
        log.info("after %d of %s: %s %.1f %%", self.state.outer, of_all, network, 100 * value)
        return value

    def _is_affordable(self) -> bool:
        """Whether an accuracy that nobody asked for takes little of the run's time."""
        data, config = self.setup.data, self.setup.config
        is_whole = len(self.setup.labels) == data.nclass and data.test_images is not None
        if not (config.curve and is_whole) or config.eval_at or self.seconds() < CURVE_FROM:
            return False
        if not self.accuracy_seconds:
            self.accuracy_seconds = accuracy_seconds(data, self.recipe)
            if self.accuracy_seconds < CURVE_SHARE * self.seconds():
                line = "an accuracy of about %.0f s is measured now and then, for the report; --no_curve leaves it out"
                log.info(line, self.accuracy_seconds)
        in_time = self.clock is None or time.perf_counter() + self.accuracy_seconds < self.clock.deadline
        return in_time and self.spent + self.accuracy_seconds < CURVE_SHARE * self.seconds()

    def _reserve(self) -> None:
        """Keep time for an accuracy at the end of a run by the clock, where some were measured and it is affordable."""
        assert self.clock is not None
        is_curve = self.setup.config.curve and self.spent > 0
        is_affordable = self.spent + self.accuracy_seconds < CURVE_SHARE * self.clock.seconds
        self.clock.reserved = self.accuracy_seconds if is_curve and is_affordable else 0.0

    def _is_moment(self) -> bool:
        """Whether a snapshot is due."""
        if self.clock is None:
            return self.state.outer in snapshots.moments(self.setup.config.outer_iterations)
        before, self.moment = self.moment, snapshots.passed(self.clock.share())
        return self.moment > before

    def report(self, *, stopped: bool = False) -> None:
        """Write the report again where it is time, and where the run was stopped."""
        if self.live is not None:
            self.live(self.product, self.state.outer, self.bar.total, stopped=stopped)


def say_skipped(state: State, setup: Setup) -> None:
    """Say how many iterations the gate skipped (`threshold`), and what to change where these are nearly all."""
    count, done = state.skipped, state.outer * setup.config.inner_loop
    if count:
        level, advice = logging.INFO, ""
        if count >= MOST * done:
            level, advice = logging.WARNING, "; raise threshold, or lower lr_lr and lr_img where the loss rose"
        of_all = counted(done, "iteration")
        words = f"moved nothing: their loss was above threshold ({setup.config.threshold:g}){advice}"
        log.log(level, "%s of %s %s", f"{count:,}", of_all, words)


def quick_accuracy(condensed: SyntheticSet, data: ImageData, recipe: Recipe) -> dict[str, float]:
    """{network: accuracy} of one network of the kind that the run matches on, a fraction."""
    quick = replace(recipe.evaluate, runs=1, yardsticks=(), networks=())
    measured = measure.evaluate(condensed.with_hard_labels(), data, quick, recipe.network)
    return {name: entry["mean"] for name, entry in measured[CONDENSED].items()}
