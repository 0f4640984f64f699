"""The points of a figure and of its page: which rows, where, in which colour, and what is said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from attar.comparison.numbers import Row
from attar.comparison.plan import ComparisonPlan, in_words
from attar.settings.config import with_role

# Okabe and Ito's colours, then Tol's, which colour-blind readers can tell apart; in print markers and dashes do
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#332288", "#999933", "#44AA99", "#AA4499", "#661100", "#117733"),
)
MIN_SECONDS = 0.1  # smaller times, such as that of a random selection, are drawn here
UNLABELLED = ("ipc", *with_role("condense", "length"))  # settings that the panel and its time axis show already
SWEEPS = 200  # over all pairs of markers, which move apart a little in each
FAR = 12  # points from a marker: a label there gets a line to it
LABEL_OFFSETS = tuple(
    (distance * math.cos(angle), distance * math.sin(angle))
    for distance in (9, 14, 20, 28, 38, 50)
    for angle in (math.pi * part / 8 for part in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11))
)  # points from a marker to its label, the best place first


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows with an accuracy of the first network, from the most accurate on."""
    network = next((row.network for row in rows if row.network), None)
    measured = (row for row in rows if row.accuracy is not None and row.network == network)
    return sorted(measured, key=percent, reverse=True)


def title(plan: ComparisonPlan, rows: Sequence[Row]) -> str:
    """The data, and the network that tested the sets."""
    return f"{plan.recipe.data.dataset}, tested with {rows[0].network}"


def levels(rows: Sequence[Row]) -> list[tuple[str, str, float]]:
    """(kind, name, accuracy in %) of the horizontal lines: the whole training set, and random real images.

    Networks are trained on random real images for as many steps as on the sets. Where these differ so do the lines.
    """
    whole = next((row.whole for row in rows if row.whole is not None), None)
    random = {row.random_epochs: row.random_real.mean for row in rows if row.random_real is not None}
    lines = [] if whole is None else [("whole", "whole training set", 100 * whole.mean)]
    for epochs, value in random.items():
        length = f", {epochs} epochs" if len(random) > 1 else ""
        lines.append(("random_real", f"random real images{length}", 100 * value))
    return lines


def explained(rows: Sequence[Row]) -> str:
    """How a figure of the rows is read."""
    seeds = max(row.accuracy.n for row in rows if row.accuracy is not None)
    return "up and left is better" + (f"; bars: ± standard deviation over {seeds} seeds" if seeds > 1 else "")


def explained_places(moved: bool) -> str:
    """What is said where markers were moved."""
    return "markers that would overlap stand side by side, a dot at their true place" if moved else ""


def label(row: Row, rows: Sequence[Row]) -> str:
    """What stands at a point: the entry at its last one, and of a series its settings.

    The number of iterations is left out, because their seconds are the axis.
    """
    of_entry = [other for other in rows if other.entry == row.entry]
    text = row.entry if row is max(of_entry, key=at) else ""
    settings = in_words({key: value for key, value in row.settings.items() if key not in UNLABELLED})
    return ", ".join(filter(None, (text, settings if len(of_entry) > 1 else "")))


def at(row: Row) -> float:
    """The place of a row on the time axis, in seconds."""
    return max(row.seconds or 0.0, MIN_SECONDS)


def percent(row: Row) -> float:
    """The place of a row on the axis of accuracy, in per cent."""
    return 100 * row.accuracy.mean if row.accuracy is not None else math.nan


def apart(places: Sequence[tuple[float, float]], size: float) -> list[float]:
    """The x of markers of that size at places (x, y), moved aside just so far that none covers another."""
    xs = [x for x, _ in places]
    order = sorted(range(len(places)), key=places.__getitem__)
    pairs = [(i, j) for i, j in itertools.combinations(order, 2) if abs(places[i][1] - places[j][1]) < size]
    for _ in range(SWEEPS):
        for i, j in pairs:
            lack = size - (xs[j] - xs[i])
            if lack > 0:
                xs[i], xs[j] = xs[i] - lack / 2, xs[j] + lack / 2
    return xs


def spread(row: Row) -> float:
    """Half the length of the error bar of a row, in per cent."""
    return 100 * (row.accuracy.std or 0.0) if row.accuracy is not None else 0.0
