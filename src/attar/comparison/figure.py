"""The paper's figure: accuracy against the seconds that a set took, on a log axis; one panel per images per class.

The only file that imports matplotlib (extra `compare`).
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar import files
from attar.comparison.numbers import Row
from attar.comparison.plan import ComparisonPlan, slug
from attar.comparison.points import (
    COLOURS,
    FAR,
    LABEL_OFFSETS,
    MIN_SECONDS,
    at,
    explained,
    is_same_place,
    label,
    percent,
    shown,
    spread,
    title,
)
from attar.errors import MissingError, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")  # not as many as colours, so pairs repeat late
DASHES = ("-", "--", "-.", ":")
INK, FAINT = "#1d1d22", "#8c8c96"
PANEL_WIDTH, LEGEND_WIDTH, HEIGHT = 4.6, 2.4, 4.2  # inches
DPI = 160  # of the PNG
MARKER_RADIUS = 5  # points
LINE_STEP = 4  # pixels between the boxes along a line that labels keep clear of


def check() -> None:
    """Raise `MissingError` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingError("the figure needs matplotlib, which is not installed: pip install 'attar[compare]'")


def write(paths: Sequence[Path], plan: ComparisonPlan, rows: Sequence[Row]) -> None:
    """Write the figure to each path, in the format of its suffix. Where no row has an accuracy nothing is written."""
    import matplotlib

    drawn = shown(rows)
    if not drawn:
        return
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "attar",
        "font.size": 10.0,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **style}):
        figure = draw(plan, drawn)
        for path in paths:
            files.atomically(path, partial(_save, figure, path.suffix.lstrip(".")))


def _save(figure: Figure, kind: str, path: Path) -> None:
    """Without a date, so that the same numbers give the same bytes."""
    if kind == "svg":
        figure.savefig(path, format=kind, metadata={"Date": None})
    else:
        figure.savefig(path, format=kind, dpi=DPI)


def draw(plan: ComparisonPlan, rows: Sequence[Row]) -> Figure:
    """The figure of rows as `shown` gives them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = sorted({row.settings["ipc"] for row in rows})
    figure = Figure(figsize=(PANEL_WIDTH * len(sizes) + LEGEND_WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    entries = list(dict.fromkeys(row.entry for row in rows))  # the legend from the most accurate on
    handles: dict[str, Any] = {}
    panels: dict[int, tuple[Axes, Sequence[Row]]] = {}
    for panel, ipc in zip(axes, sizes, strict=True):
        of_size = [row for row in rows if row.settings["ipc"] == ipc]
        panels[ipc] = panel, of_size
        for number, entry in enumerate(entries):
            series = sorted((row for row in of_size if row.entry == entry), key=at)
            if series:
                handles.setdefault(entry, _series(panel, series, number, _beneath(series, of_size, entries)))
        for name, line in _levels(panel, of_size).items():
            handles.setdefault(name, line)
        _axes(panel, of_size, ipc)
    axes[0].set_ylabel(f"accuracy on {plan.tested_on}, %")
    # at the left, where even a long legend does not reach
    figure.suptitle(title(plan, rows), x=0.02, ha="left", color=INK, fontsize=11)
    axes[0].set_xlabel(f"{axes[0].get_xlabel()}\n{explained(rows)}")
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    _label(figure, panels, entries)
    return figure


def _beneath(series: Sequence[Row], rows: Sequence[Row], entries: Sequence[str]) -> int:
    """How many entries before it in the legend have a point where one of the series is."""
    before = entries[: entries.index(series[0].entry)]
    others = [row for row in rows if row.entry in before]
    return len({row.entry for row in others for own in series if is_same_place(row, own)})


def _series(panel: Axes, series: Sequence[Row], number: int, beneath: int) -> Any:
    """The points of an entry with error bars, joined in the order of their seconds.

    beneath: how many others have a point in the same place: it is drawn larger and below them, so that it shows.
    """
    drawn = panel.errorbar(
        [at(row) for row in series],
        [percent(row) for row in series],
        yerr=[spread(row) for row in series],
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        linestyle=DASHES[number % len(DASHES)],
        markersize=7 + 4 * beneath,
        markeredgecolor="white",
        linewidth=1.2,
        capsize=3,
        zorder=3 - number / 100,
    )
    drawn.lines[0].set_gid(f"points-{slug(series[0].entry)}-ipc{series[0].settings['ipc']}")
    return drawn


def _levels(panel: Axes, rows: Sequence[Row]) -> dict[str, Any]:
    """Horizontal lines for the whole training set and for random real images, by name."""
    levels = {}
    kinds = {"whole": ("whole training set", (0, (6, 2))), "random_real": ("random real images", (0, (1, 2)))}
    for key, (name, dashes) in kinds.items():
        value = next((getattr(row, key) for row in rows if getattr(row, key) is not None), None)
        if value is not None:
            level, colour = 100 * value.mean, INK if key == "whole" else FAINT
            levels[name] = panel.axhline(
                level, color=colour, linestyle=dashes, linewidth=1.3, gid=f"{key}-ipc{rows[0].settings['ipc']}"
            )
    return levels


def _axes(panel: Axes, rows: Sequence[Row], ipc: int) -> None:
    """A log axis of seconds with margins and plain numbers, and the titles of a panel."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    times = [at(row) for row in rows]
    room = max((max(times) / min(times)) ** 0.12, 1.6)
    panel.set_xscale("log")
    panel.set_xlim(min(times) / room, max(times) * room)
    decades = math.log10(max(times) / min(times) * room**2)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: ("≤ " if value == MIN_SECONDS else "") + f"{value:g}")
    )
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(y=0.12)
    panel.set_title(f"{counted(ipc, 'image')} per class", fontsize=10)
    panel.set_xlabel("seconds to make the set")
    panel.grid(axis="y", color="#e6e6ea", linewidth=0.8, zorder=0)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _label(figure: Figure, panels: Mapping[int, tuple[Axes, Sequence[Row]]], entries: Sequence[str]) -> None:
    """Label the points, see `label`, where no marker, no line and no other label is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the panels must not move
    for panel, rows in panels.values():
        taken = [_marker(panel, row) for row in rows]
        taken += [box for line in panel.lines for box in _along(panel, line)]
        for row in rows:
            if text := label(row, rows):
                colour = COLOURS[entries.index(row.entry) % len(COLOURS)]
                point = (at(row), percent(row))
                note = panel.annotate(text, point, (0, 0), textcoords="offset points", fontsize=8, color=colour)
                taken.append(_place(note, panel, taken))
                if math.hypot(*note.get_position()) > FAR:
                    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
                    panel.annotate(
                        "", point, note.get_position(), textcoords="offset points", arrowprops=line, zorder=2
                    )


def _marker(panel: Axes, row: Row) -> Bbox:
    """The box of a point with its error bar, in pixels."""
    from matplotlib.transforms import Bbox

    level, reach = percent(row), MARKER_RADIUS * panel.figure.dpi / 72
    left, low = panel.transData.transform((at(row), level - spread(row)))
    right, high = panel.transData.transform((at(row), level + spread(row)))
    return Bbox([(left - reach, low - reach), (right + reach, high + reach)])


def _along(panel: Axes, line: Line2D) -> list[Bbox]:
    """Small boxes along a line, in pixels."""
    import numpy as np
    from matplotlib.transforms import Bbox

    corners = line.get_transform().transform(np.asarray(line.get_xydata()))
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for part in np.linspace(0, 1, 1 + math.ceil(math.hypot(x1 - x0, y1 - y0) / LINE_STEP)):
            x, y = x0 + part * (x1 - x0), y0 + part * (y1 - y0)
            boxes.append(Bbox([(x - 1, y - 1), (x + 1, y + 1)]))
    return boxes


def _place(text: Annotation, panel: Axes, taken: Sequence[Bbox]) -> Bbox:
    """Move a label to the first free place, or where there is none to the one that covers least. Returns its box."""
    inside = panel.get_window_extent()
    best: tuple[float, tuple[float, float]] | None = None
    for x, y in LABEL_OFFSETS:
        _move(text, x, y)
        box = text.get_window_extent()
        covered = sum(_area(box, other) for other in taken) + box.width * box.height - _area(box, inside)
        if best is None or covered < best[0]:
            best = covered, (x, y)
        if covered < 1e-6:
            break
    assert best is not None
    _move(text, *best[1])
    return text.get_window_extent()


def _move(text: Annotation, x: float, y: float) -> None:
    text.set_position((x, y))
    text.set_horizontalalignment("left" if x > 1 else "right" if x < -1 else "center")
    text.set_verticalalignment("bottom" if y > 1 else "top" if y < -1 else "center")


def _area(box: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
