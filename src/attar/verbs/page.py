"""report.html of a run folder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attar import report, runlog
from attar.config import MOST
from attar.runlog import RunFolder
from attar.synthetic import SyntheticSet


def write_report(folder: RunFolder, small: SyntheticSet, result: dict[str, Any]) -> None:
    """report.html: the stored and the decoded images, the table, the settings."""
    pictures = [("stored images", picture(small.images, small.labels, small))]
    if small.factor > 1:
        pictures.append(("decoded images", picture(*small.decoded(), small)))
    if small.initial is not None:
        pictures.append(("as initialised", picture(small.initial, small.labels, small)))
    config = folder.read(runlog.CONFIG, "attar") or dict(small.recipe)
    about = config.pop("attar", {})
    report.write(
        folder.path / runlog.REPORT,
        result=result,
        images=pictures,
        settings=config | {"environment": about.get("environment", {})},
        command=about.get("command", runlog.command_line()),
        curve=curve(folder),
    )


def picture(images: Tensor, labels: Tensor, small: SyntheticSet) -> Any:
    """A grid of images as a PIL image."""
    return report.grid(images, labels, small.classes)


def curve(folder: RunFolder) -> list[tuple[float, float]] | None:
    """(seconds, accuracy) of the evaluations during the run."""
    points: list[tuple[Any, Any]] = []
    seconds: Any = 0.0
    for event in folder.events():
        if event.get("event") == "step":
            seconds = event.get("seconds")
        elif event.get("event") == "evaluation" and event.get("outer") is not None:
            right = event.get("accuracy")
            points.append((seconds, next(iter(right.values()), None) if isinstance(right, dict) else None))
    return [point for point in points if all(map(_is_number, point))] or None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
