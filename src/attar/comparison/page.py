"""The figure as a page: the same points, which answer to the mouse and the keyboard; one file that needs no network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar import files
from attar.comparison import points, tables
from attar.comparison.numbers import Row
from attar.comparison.plan import ComparisonPlan, in_words
from attar.comparison.points import COLOURS, at, percent, spread
from attar.errors import counted
from attar.report import chart
from attar.report.page import render

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 428.0, 12.0, 252.0  # the plot itself
SHAPES = (  # of the points, about (0, 0); as many as share no factor with the colours, so that pairs repeat late
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-5.5L5.2 4H-5.2z",
    "M0-6L6 0L0 6L-6 0z",
    "M0 5.5L5.2-4H-5.2z",
)
SHAPE = 4.5  # from the middle of a point to its edge, at least
MARKER_SPACE = 12.0  # the side of what no other marker may cover
LETTER, LINE = 7.2, 14.0  # about the size of a letter of a label, on a phone

Box = tuple[float, float, float, float]  # left, top, right, bottom


def write(path: Path, plan: ComparisonPlan, rows: Sequence[Row]) -> None:
    """Write the page. Where no row has an accuracy nothing is written."""
    shown = points.shown(rows)
    if not shown:
        return
    entries = list(dict.fromkeys(row.entry for row in shown))
    sizes = sorted({row.settings["ipc"] for row in shown})
    by_size = [[row for row in shown if row.settings["ipc"] == ipc] for ipc in sizes]
    ends = [end for row in shown for end in (percent(row) - spread(row), percent(row) + spread(row))]
    ends += [level for of_size in by_size for _, _, level in points.levels(of_size)]
    low, high = min(ends) - 0.06 * (max(ends) - min(ends) or 1), max(ends) + 0.06 * (max(ends) - min(ends) or 1)
    measured = [
        ("accuracy, %", [tables.spread(row.accuracy) for row in shown]),
        ("n", [tables.count(row) for row in shown]),
        ("seconds", [tables.seconds(row.seconds) for row in shown]),
        *tables.column("initial", [tables.spread(row.initial) for row in shown]),
        *tables.column("random real", [tables.spread(row.random_real) for row in shown]),
        *tables.asked(shown),
        *tables.column(f"{plan.points[0].entry} less this", [tables.lead(row.lead) for row in shown]),
        *tables.column("p", [tables.chance(row.lead) for row in shown]),
    ]
    text = render(
        "comparison.html.j2",
        script="comparison",
        title=points.title(plan, shown),
        explained=points.explained(shown),
        explained_places=points.explained_places(True),
        tested_on=plan.tested_on,
        entries=[(name, COLOURS[k % len(COLOURS)], SHAPES[k % len(SHAPES)]) for k, name in enumerate(entries)],
        box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        panels=[_panel(of_size, entries, low, high) for of_size in by_size],
        columns=tables.columns(shown),
        measured=[name for name, _ in measured],
        rows=[
            (entries.index(row.entry), row.entry, [*tables.setting_texts(row), *(cells[k] for _, cells in measured)])
            for k, row in enumerate(shown)
        ],
    )
    files.atomically(path, lambda name: name.write_text(text, encoding="utf-8"))


def _panel(rows: Sequence[Row], entries: Sequence[str], low: float, high: float) -> dict[str, Any]:
    """Coordinates and texts of the panel of one number of images per class; the rows from the most accurate on."""
    first, last = min(map(at, rows)), max(map(at, rows))
    room = max((last / first) ** 0.12, 1.6)
    first, last = first / room, last * room

    def x(seconds: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * math.log(seconds / first) / math.log(last / first), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    step = chart.round_step(high - low)
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    wide = last / first
    parts = (1,) if wide > 300 else (1, 2, 5) if wide > 10 else (1, 1.5, 2, 3, 4, 5, 7)
    times = [10.0**power * part for power in decades for part in parts]
    places = {id(row): (x(at(row)), y(percent(row))) for row in rows}
    stand = dict(zip(places, points.apart(list(places.values()), MARKER_SPACE), strict=True))  # x of the markers
    markers = [(stand[row] - 6, py - 6, stand[row] + 6, py + 6) for row, (_, py) in places.items()]
    taken: list[Box] = list(markers)
    for row in rows:
        stem, reach = stand[id(row)], spread(row)
        taken.append((stem - 3, y(percent(row) + reach), stem + 3, y(percent(row) - reach)))
    lines = [(kind, name, y(level), *_end(name, y(level), taken)) for kind, name, level in points.levels(rows)]
    for entry in entries:
        taken += _along([places[id(row)] for row in sorted(rows, key=at) if row.entry == entry])
    labels = {}
    for row in rows:
        place = stand[id(row)], places[id(row)][1]
        labels[id(row)] = _label(points.label(row, rows), place, markers, taken)
    series = []
    for number, entry in enumerate(entries):
        own = sorted((row for row in rows if row.entry == entry), key=at)
        dots: list[dict[str, Any]] = [
            {
                **dict(zip("xy", places[id(row)], strict=True)),
                "top": y(percent(row) + spread(row)),
                "bottom": y(percent(row) - spread(row)),
                "at": round(stand[id(row)], 1),
                "words": words(row),
                "label": labels[id(row)],
                "moved": abs(stand[id(row)] - places[id(row)][0]) > SHAPE,
            }
            for row in own
        ]
        series.append((number, dots))
    return {
        "title": f"{counted(rows[0].settings['ipc'], 'image')} per class",
        "series": series[::-1],  # the best on top
        "moved": any(dot["moved"] for _, dots in series for dot in dots),
        "lines": lines,
        "several": sum(kind == "random_real" for kind, *_ in lines) > 1,
        "levels": [(y(step * k), f"{step * k:g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)],
        "times": [
            (x(value), ("≤ " if value == points.MIN_SECONDS else "") + f"{value:g}")
            for value in times
            if first <= value <= last
        ],
    }


def words(row: Row) -> str:
    """All that is said of a point."""
    settings = in_words({key: value for key, value in row.settings.items() if key != "ipc"})
    name = ", ".join(filter(None, (row.entry, settings)))
    return f"{name}: {tables.spread(row.accuracy)} %, n = {tables.count(row)}, {tables.seconds(row.seconds)} s"


def _end(name: str, y: float, taken: list[Box]) -> tuple[float, str]:
    """The end of a horizontal line where its name meets least, (x, anchor); line and name go to `taken`."""
    wide = LETTER * len(name)
    ends = {(LEFT + 4, "start"): LEFT, (RIGHT - 4, "end"): RIGHT - wide}
    boxes = {end: (left, y - LINE, left + wide, y) for end, left in ends.items()}
    best = min(boxes, key=lambda end: sum(_meet(boxes[end], other) for other in taken))
    taken += [boxes[best], (LEFT, y - 1, RIGHT, y + 1)]
    return best


def _label(
    text: str, place: tuple[float, float], markers: Sequence[Box], taken: list[Box]
) -> tuple[float, float, str, str, bool] | None:
    """(x, y, anchor, text, whether a line leads to it) of a label where nothing else is, whose box goes to `taken`.

    None where there is no room. Its line covers nothing but its own marker where that can be, or else no marker.
    """
    wide = LETTER * len(text)
    own = [box for box in taken if box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]]
    for spared, (dx, dy) in itertools.product((taken, markers, ()), points.LABEL_OFFSETS if text else ()):
        x, y = place[0] + dx, place[1] - dy + 3
        anchor = "start" if dx > 1 else "end" if dx < -1 else "middle"
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
        box, line = (left, y - LINE + 2, left + wide, y + 2), []
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM
        far = math.hypot(dx, dy)
        if far > points.FAR:
            ends = [(place[0] + dx * part / far, place[1] - dy * part / far) for part in range(9, round(far), 3)]
            line = [(px - 1, py - 1, px + 1, py + 1) for px, py in ends]
        crossed = any(_meet(part, other) for part in line for other in spared if other not in own)
        if inside and not crossed and not any(_meet(box, other) for other in taken):
            taken += [box, *line]
            return round(x, 1), round(y, 1), anchor, text, far > points.FAR
    return None


def _along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line through corners."""
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        count = math.ceil(math.dist((x0, y0), (x1, y1)) / 3)
        middles = [(x0 + (x1 - x0) * part / count, y0 + (y1 - y0) * part / count) for part in range(count)]
        boxes += [(x - 1, y - 1, x + 1, y + 1) for x, y in middles]
    return boxes


def _meet(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
