"""The chart of accuracy over time: coordinates and texts for an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Curve = Sequence[tuple[float, float]]  # (seconds, accuracy as a fraction)

WIDTH, HEIGHT = 440.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 324.0, 14.0, 188.0  # the plot itself; names of the lines are at its right
MAX_POINTS = 300  # of the loss
LOSS_RIGHT = WIDTH - 16.0  # of the chart of the loss, which has no names
NAME_SPACING = 15.0  # between the names of two lines, at least


def chart(
    curve: Curve,
    lines: Mapping[str, tuple[str, float]],  # kind of training set → (name, accuracy) after the run
    moments: Iterable[float | None],  # seconds at the snapshots
    seconds: float | None,  # of the whole condensation
) -> dict[str, Any] | None:
    """Coordinates, in units of the SVG, and texts of all parts of the chart; None without an accuracy on the way."""
    curve = [point for point in curve if math.isfinite(point[1])]
    if not curve:
        return None
    accuracies = [accuracy for _, accuracy in curve] + [accuracy for _, accuracy in lines.values()]
    last_second = max([at for at, _ in curve] + [seconds or 0.0]) or 1.0
    low = math.floor(round(10 * min(accuracies), 6)) / 10
    high = max(math.ceil(round(10 * max(accuracies), 6)) / 10, low + 0.1)

    def x(at: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(at, last_second) / last_second, 1)

    def y(accuracy: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (accuracy - low) / (high - low), 1)

    seconds_step = round_step(last_second)
    accuracy_step = next(step for step in (0.02, 0.05, 0.1, 0.2) if high - low < 5.5 * step)
    names = {key: f"{name} {100 * value:.1f}" for key, (name, value) in lines.items()}
    return {
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "points": [(x(at), y(value), f"{at:.1f} s: {100 * value:.1f} %") for at, value in curve],
        "lines": [(key, y(lines[key][1]), at, names[key]) for key, at in _spread(lines, y)],
        "levels": [
            (y(low + accuracy_step * k), f"{100 * (low + accuracy_step * k):.0f}")
            for k in _steps(high - low, accuracy_step)
        ],
        "times": [(x(seconds_step * k), f"{seconds_step * k:g}") for k in _steps(last_second, seconds_step)],
        "moments": [None if at is None else x(at) for at in moments],
        "first": f"{100 * curve[0][1]:.1f} %",
        "last": f"{100 * curve[-1][1]:.1f} %",
        "summary": "; ".join(f"{name} {100 * value:.1f} %" for name, value in lines.values()),
    }


def loss(points: Curve) -> dict[str, Any] | None:
    """Coordinates and texts of the chart of the loss, as a share of the first one; None for fewer than two points."""
    points = [(at, value) for at, value in points if math.isfinite(value)]
    if len(points) < 2 or points[0][1] <= 0 or max(at for at, _ in points) <= 0:
        return None
    points = points[:: -(-len(points) // MAX_POINTS)] + points[-1:]
    last_second, high = (max(values) for values in zip(*points, strict=True))
    high, seconds_step = high / points[0][1], round_step(last_second)
    step = round_step(high)

    def x(at: float) -> float:
        return round(LEFT + (LOSS_RIGHT - LEFT) * at / last_second, 1)

    def y(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * share / high, 1)

    return {
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": LOSS_RIGHT, "top": TOP, "bottom": BOTTOM},
        "points": [(x(at), y(value / points[0][1])) for at, value in points],
        "levels": [(y(step * k), f"{step * k:g}") for k in _steps(high, step)],
        "times": [(x(seconds_step * k), f"{seconds_step * k:g}") for k in _steps(last_second, seconds_step)],
        "last": points[-1][1] / points[0][1],
    }


def _spread(lines: Mapping[str, tuple[str, float]], y: Any) -> list[tuple[str, float]]:
    """(key, y of its name) from top to bottom, moved apart so that no name covers another."""
    keys = sorted(lines, key=lambda key: -lines[key][1])
    name_ys: list[float] = []
    for key in keys:
        name_ys.append(max(y(lines[key][1]), name_ys[-1] + NAME_SPACING if name_ys else TOP - NAME_SPACING))
    limit = BOTTOM
    for k in reversed(range(len(name_ys))):  # move names that left the box back into it
        name_ys[k] = min(name_ys[k], limit)
        limit = name_ys[k] - NAME_SPACING
    return list(zip(keys, name_ys, strict=True))


def round_step(length: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, at most five of which fit into `length`."""
    power = 10.0 ** math.floor(math.log10(length))
    return next(power * part for part in (0.2, 0.5, 1, 2) if power * part * 6 > length)


def _steps(length: float, step: float) -> range:
    """The numbers 0, 1, … of the steps within `length`."""
    return range(int(length / step + 1e-6) + 1)
