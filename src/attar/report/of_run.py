"""The report of a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from attar.data.images import ImageData
from attar.report import page
from attar.report.page import Moment
from attar.runs import run_folder
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.sets import snapshots
from attar.sets.synthetic import SyntheticSet
from attar.settings.recipes import for_data, has_recipe
from attar.settings.schema import LARGEST_NUMBER, settings_of

LIVE_SECONDS = 30.0  # between two reports of a run that is going on, at least
LIVE_SHARE = 0.02  # of the time that they may take


class LiveReport:
    """Writes the report of a run that is going on, now and then: an open page loads itself anew, and follows it."""

    def __init__(self, folder: RunFolder, data: ImageData) -> None:
        self.folder, self.data = folder, data
        self.last, self.cost = time.perf_counter(), 0.0

    def __call__(self, condensed: Callable[[], SyntheticSet], outer: int, total: int, *, stopped: bool = False) -> None:
        """Call this after each outer iteration, and where the run stops before its end.

        condensed: is called only if a report is written.
        """
        start = time.perf_counter()
        if not stopped and start - self.last < max(LIVE_SECONDS, self.cost / LIVE_SHARE):
            return
        images = condensed()
        result = describe_result(images, self.data) | {"accuracy": {}}
        write_report(self.folder, images, result, self.data, running=(outer, total), stopped=stopped)
        self.last = time.perf_counter()
        self.cost = self.last - start


def write_report(
    folder: RunFolder,
    condensed: SyntheticSet,
    result: dict[str, Any],
    data: ImageData | None = None,
    running: tuple[int, int] | None = None,
    stopped: bool = False,
) -> None:
    """Write report.html: the images and their snapshots, accuracies, settings.

    Args:
        folder: of the run; its events, settings and snapshots are shown.
        condensed: the set as it is now.
        result: as result.json; accuracies may be missing.
        data: the real images; those most similar to the synthetic ones are shown beside them.
        running: (outer iterations so far, of all) of a run that is not at its end.
        stopped: it does not go on.
    """
    config = folder.read(run_folder.CONFIG, "attar") or dict(condensed.recipe)
    about = config.pop("attar", {})
    steps = {event["outer"]: event for event in folder.events() if _is_step(event)}
    labels, moments = folder.snapshots()
    if not moments and condensed.initial is not None:  # such as parts that were joined from files
        images, labels = snapshots.thumbnails(condensed.initial, condensed.labels)
        moments = [(0, images)]
    end = max([*steps, *(outer for outer, _ in moments)], default=0)
    page.write(
        folder.path / run_folder.REPORT,
        result=result,
        settings=config | {"environment": about.get("environment", {})},
        command=about.get("command", run_folder.command_line()),
        condensed=condensed,
        moments=[_moment(outer, images, steps) for outer, images in moments if outer < max(end, 1)],
        labels=labels,
        last=_moment(end, condensed.images, steps),
        curve=curve(folder),
        losses=[(step["seconds"], step["loss"]) for step in steps.values() if _has_loss(step)],
        data=data,
        run=str(folder.path),
        usual=_usual(config),
        running=running,
        stopped=stopped,
    )


def _is_step(event: dict[str, Any]) -> bool:
    """Whether an event is that of a finished outer iteration and has its number."""
    return event.get("event") == "step" and isinstance(event.get("outer"), int)


def _has_loss(step: dict[str, Any]) -> bool:
    """Whether the event of an outer iteration has a time and a loss."""
    return _is_number(step.get("seconds")) and _is_number(step.get("loss"))


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the recipe of the run's data set; empty for data without one."""
    name, nclass = (config.get("data", {}).get(key) for key in ("dataset", "nclass"))
    return settings_of(for_data(name, nclass)) if isinstance(name, str) and has_recipe(name) else {}


def _moment(outer: int, images: Tensor, steps: dict[int, dict[str, Any]]) -> Moment:
    """The images after an outer iteration, with the seconds and the loss of its event."""
    step = {key: value for key, value in steps.get(outer, {}).items() if _is_number(value)}
    return Moment(outer, images, 0.0 if outer == 0 else step.get("seconds"), step.get("loss"))


def curve(folder: RunFolder) -> list[tuple[float, float]]:
    """(seconds, accuracy) of the evaluations during the run."""
    points: list[tuple[Any, Any]] = []
    seconds: Any = 0.0
    for event in folder.events():
        if event.get("event") == "step":
            seconds = event.get("seconds")
        elif event.get("event") == "evaluation" and event.get("outer") is not None:
            by_network = event.get("accuracy")
            points.append((seconds, next(iter(by_network.values()), None) if isinstance(by_network, dict) else None))
    return [point for point in points if all(map(_is_number, point))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
