"""Accuracy over seconds as coordinates in a box, for an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Points = Sequence[tuple[float, float]]  # (seconds, accuracy as a fraction)

WIDTH, HEIGHT = 440.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 324.0, 14.0, 188.0  # the plot itself; names of the lines stand at its right
APART = 15.0  # between two names


def chart(
    curve: Points,
    lines: Mapping[str, tuple[str, float]],  # key → (name, accuracy) of what was measured with full protocol
    moments: Iterable[float | None],  # seconds of the snapshots
    seconds: float | None,  # of the whole condensation
) -> dict[str, Any] | None:
    """Where points, lines, names and round values stand in the box; None where there is nothing to show."""
    curve = [point for point in curve if math.isfinite(point[1])]
    levels = [accuracy for _, accuracy in curve] + [value for _, value in lines.values()]
    if not levels:
        return None
    longest = max([at for at, _ in curve] + [seconds or 0.0]) or 1.0
    low = math.floor(round(10 * min(levels), 6)) / 10
    high = max(math.ceil(round(10 * max(levels), 6)) / 10, low + 0.1)

    def x(at: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(at, longest) / longest, 1)

    def y(accuracy: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (accuracy - low) / (high - low), 1)

    every = _round_step(longest)
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if high - low < 5.5 * step)
    names = {key: f"{name} {100 * value:.1f}" for key, (name, value) in lines.items()}
    return {
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "points": [(x(at), y(value), f"{at:.1f} s: {100 * value:.1f} %") for at, value in curve],
        "lines": [(key, y(lines[key][1]), at, names[key]) for key, at in _spread(lines, y)],
        "levels": [(y(low + step * k), f"{100 * (low + step * k):.0f}") for k in _steps(high - low, step)],
        "times": [(x(every * k), f"{every * k:g}") for k in _steps(longest, every)],
        "moments": [None if at is None else x(at) for at in moments],
        "first": f"{100 * curve[0][1]:.1f} %" if curve else "",
        "last": f"{100 * curve[-1][1]:.1f} %" if curve else "",
        "said": "; ".join(f"{name} {100 * value:.1f} %" for name, value in lines.values()),
    }


def _spread(lines: Mapping[str, tuple[str, float]], y: Any) -> list[tuple[str, float]]:
    """(key, height of its name): in the order of the lines, pushed apart so that no name covers another."""
    keys = sorted(lines, key=lambda key: -lines[key][1])
    heights: list[float] = []
    for key in keys:
        heights.append(max(y(lines[key][1]), heights[-1] + APART if heights else TOP - APART))
    below = BOTTOM
    for k in reversed(range(len(heights))):  # what was pushed out of the box comes back
        heights[k] = min(heights[k], below)
        below = heights[k] - APART
    return list(zip(keys, heights, strict=True))


def _round_step(longest: float) -> float:
    """A step of 1, 2 or 5 times a power of ten: at most five of them."""
    power = 10.0 ** math.floor(math.log10(longest))
    return next(power * part for part in (0.2, 0.5, 1, 2) if power * part * 6 > longest)


def _steps(length: float, step: float) -> range:
    """0, 1, … up to the last whole step within `length`."""
    return range(int(length / step + 1e-6) + 1)
