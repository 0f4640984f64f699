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
from attar.comparison.plan import ComparisonPlan, in_words, slug
from attar.errors import MissingError, counted
from attar.settings.config import with_role

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours, then Tol's, which colour-blind readers can tell apart; in print markers and dashes do
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#332288", "#999933", "#44AA99", "#AA4499", "#661100", "#117733"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")  # not as many as colours, so pairs repeat late
DASHES = ("-", "--", "-.", ":")
INK, FAINT = "#1d1d22", "#8c8c96"
MIN_SECONDS = 0.1  # smaller times, such as that of a random selection, are drawn here
PANEL_WIDTH, LEGEND_WIDTH, HEIGHT = 4.6, 2.4, 4.2  # inches
DPI = 160  # of the PNG
UNLABELLED = ("ipc", *with_role("condense", "length"))  # settings that the panel and its time axis show already
MARKER_RADIUS = 5  # points
LINE_STEP = 4  # pixels between the boxes along a line that labels keep clear of
FAR = 12  # points from a marker: a label there gets a line to it
LABEL_OFFSETS = tuple(
    (distance * math.cos(angle), distance * math.sin(angle))
    for distance in (9, 14, 20, 28, 38)
    for angle in (math.pi * part / 8 for part in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11))
)  # points from a marker to its label, the best place first


def check() -> None:
    """Raise `MissingError` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingError("the figure needs matplotlib, which is not installed: pip install 'attar[compare]'")


def write(paths: Sequence[Path], plan: ComparisonPlan, rows: Sequence[Row]) -> None:
    """Write the figure to each path, in the format of its suffix. Where no row has an accuracy nothing is written."""
    import matplotlib

    network = next((row.network for row in rows if row.network), None)
    drawn = [row for row in rows if row.accuracy is not None and row.network == network]
    if not drawn:
        return
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "attar",
        "font.size": 10.0,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **style}):
        figure = draw(plan, drawn, str(network))
        for path in paths:
            files.atomically(path, partial(_save, figure, path.suffix.lstrip(".")))


def _save(figure: Figure, kind: str, path: Path) -> None:
    """Without a date, so that the same numbers give the same bytes."""
    if kind == "svg":
        figure.savefig(path, format=kind, metadata={"Date": None})
    else:
        figure.savefig(path, format=kind, dpi=DPI)


def draw(plan: ComparisonPlan, rows: Sequence[Row], network: str) -> Figure:
    """The figure of rows that all have an accuracy with the same network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = sorted({row.settings["ipc"] for row in rows})
    figure = Figure(figsize=(PANEL_WIDTH * len(sizes) + LEGEND_WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    best = sorted(rows, key=percent, reverse=True)
    entries = list(dict.fromkeys(row.entry for row in best))  # the legend from the most accurate on
    handles: dict[str, Any] = {}
    panels: dict[int, tuple[Axes, Sequence[Row]]] = {}
    for panel, ipc in zip(axes, sizes, strict=True):
        of_size = [row for row in rows if row.settings["ipc"] == ipc]
        panels[ipc] = panel, of_size
        for number, entry in enumerate(entries):
            series = sorted((row for row in of_size if row.entry == entry), key=at)
            if series:
                handles.setdefault(entry, _series(panel, series, number))
        for name, line in _levels(panel, of_size).items():
            handles.setdefault(name, line)
        _axes(panel, of_size, ipc)
    axes[0].set_ylabel(f"accuracy on {plan.tested_on}, %")
    # at the left, where even a long legend does not reach
    figure.suptitle(f"{plan.recipe.data.dataset}, tested with {network}", x=0.02, ha="left", color=INK, fontsize=11)
    seeds = max(row.accuracy.n for row in rows if row.accuracy is not None)
    if seeds > 1:
        axes[0].set_xlabel(f"{axes[0].get_xlabel()}\nup and left is better; bars: standard deviation, {seeds} seeds")
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    _label(figure, panels, entries)
    return figure


def at(row: Row) -> float:
    """The place of a row on the time axis, in seconds."""
    return max(row.seconds or 0.0, MIN_SECONDS)


def percent(row: Row) -> float:
    """The place of a row on the axis of accuracy, in per cent."""
    return 100 * row.accuracy.mean if row.accuracy is not None else math.nan


def spread(row: Row) -> float:
    """Half the length of the error bar of a row, in per cent."""
    return 100 * (row.accuracy.std or 0.0) if row.accuracy is not None else 0.0


def _series(panel: Axes, series: Sequence[Row], number: int) -> Any:
    """The points of an entry with error bars, joined in the order of their seconds."""
    drawn = panel.errorbar(
        [at(row) for row in series],
        [percent(row) for row in series],
        yerr=[spread(row) for row in series],
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        linestyle=DASHES[number % len(DASHES)],
        markersize=7,
        markeredgecolor="white",
        linewidth=1.2,
        capsize=3,
        zorder=3,
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
    """Label each entry at its last point, and each point of a series with its settings, where there is room.

    That is where no marker, no line and no other label is. The number of iterations is left out, because their seconds
    are the axis.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the panels must not move
    for panel, rows in panels.values():
        taken = [_marker(panel, row) for row in rows]
        taken += [box for line in panel.lines for box in _along(panel, line)]
        names = [row.entry for row in rows]
        for row in sorted(rows, key=percent, reverse=True):
            of_entry = [other for other in rows if other.entry == row.entry]
            text = row.entry if row is max(of_entry, key=at) else ""
            if names.count(row.entry) > 1:
                settings = in_words({key: value for key, value in row.settings.items() if key not in UNLABELLED})
                text = ", ".join(filter(None, (text, settings)))
            if text:
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
