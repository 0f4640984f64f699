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
    apart,
    at,
    explained,
    explained_places,
    label,
    levels,
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
PANEL_WIDTH, HEIGHT = 6.4, 4.4  # inches
DPI = 160  # of the PNG
MARKER, MARKER_SPACE = 7, 9.5  # the side of a marker, and of what no other may cover, in points
DOT = 3.5  # points: where a marker that was moved belongs
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
    figure = Figure(figsize=(PANEL_WIDTH * len(sizes), HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    entries = list(dict.fromkeys(row.entry for row in rows))
    panels = {
        panel: [row for row in rows if row.settings["ipc"] == ipc] for panel, ipc in zip(axes, sizes, strict=True)
    }
    for panel, of_size in panels.items():
        _levels(panel, of_size)
        _axes(panel, of_size)
        for row in of_size:  # what the axis of accuracy must reach
            panel.update_datalim([(at(row), percent(row) + sign * spread(row)) for sign in (-1, 1)])
    axes[0].autoscale_view(scalex=False)
    axes[0].set_autoscaley_on(False)
    axes[0].set_ylabel(f"accuracy on {plan.tested_on}, %")
    figure.suptitle(title(plan, rows), x=0.02, ha="left", color=INK, fontsize=11)
    axes[0].set_xlabel(f"{axes[0].get_xlabel()}\n{explained(rows)}\n ")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the panels must not move
    moved = [_points(panel, of_size, entries) for panel, of_size in panels.items()]
    axes[0].set_xlabel(f"{axes[0].get_xlabel().strip()}\n{explained_places(any(moved))} ")
    return figure


def _points(panel: Axes, rows: Sequence[Row], entries: Sequence[str]) -> bool:
    """Draw markers with error bars and labels, those of an entry joined by a line. Returns whether any was moved."""
    to_pixels = panel.transData
    places = [tuple(to_pixels.transform((at(row), percent(row)))) for row in rows]
    xs = apart(places, MARKER_SPACE * panel.figure.dpi / 72)
    moved = {
        id(row): to_pixels.inverted().transform((x, y))[0] for row, x, (_, y) in zip(rows, xs, places, strict=True)
    }
    for number, entry in enumerate(entries):
        series = sorted((row for row in rows if row.entry == entry), key=at)
        if series:
            _series(panel, series, number, moved)
    _label(panel, rows, [COLOURS[entries.index(row.entry) % len(COLOURS)] for row in rows], moved)
    return any(_is_moved(panel, row, moved) for row in rows)


def _is_moved(panel: Axes, row: Row, moved: Mapping[int, float]) -> bool:
    """Whether a marker stands so far from its place that it does not cover it."""
    place, stands = (panel.transData.transform((x, percent(row)))[0] for x in (at(row), moved[id(row)]))
    return bool(abs(place - stands) > MARKER / 2 * panel.figure.dpi / 72)


def _series(panel: Axes, series: Sequence[Row], number: int, moved: Mapping[int, float]) -> None:
    """The points of an entry, joined in the order of their seconds, and their markers with error bars.

    moved: row → the seconds at which its marker stands; from another place a line leads to it.
    """
    name = f"{slug(series[0].entry)}-ipc{series[0].settings['ipc']}"
    heights, colour = [percent(row) for row in series], COLOURS[number % len(COLOURS)]
    common: dict[str, Any] = {"color": colour, "zorder": 3 - number / 100}
    dashes = DASHES[number % len(DASHES)]
    places = [at(row) for row in series]
    panel.plot(places, heights, dashes, linewidth=1.2, gid=f"points-{name}", **common)
    for row, height in zip(series, heights, strict=True):
        if _is_moved(panel, row, moved):
            panel.plot([at(row), moved[id(row)]], [height, height], "-", linewidth=0.8, **common)
            dot: dict[str, Any] = {"markersize": DOT, "markeredgecolor": "white", "markeredgewidth": 0.5}
            panel.plot(at(row), height, "o", color=colour, zorder=4, **dot)
    stand = [moved[id(row)] for row in series]
    drawn = panel.errorbar(stand, heights, yerr=[spread(row) for row in series], linestyle="", capsize=3, **common)
    drawn.lines[0].set(marker=MARKERS[number % len(MARKERS)], markersize=MARKER, markeredgecolor="white")
    drawn.lines[0].set_gid(f"markers-{name}")


def _levels(panel: Axes, rows: Sequence[Row]) -> None:
    """Horizontal lines for the whole training set and for random real images, see `points.levels`."""
    styles = {"whole": (INK, (0, (6, 2))), "random_real": (FAINT, (0, (1, 2)))}
    for number, (kind, name, level) in enumerate(levels(rows)):
        colour, dashes = styles[kind]
        gid = f"{kind}-{number}-ipc{rows[0].settings['ipc']}"
        panel.axhline(level, color=colour, linestyle=dashes, linewidth=1.3, gid=gid, label=name)


def _axes(panel: Axes, rows: Sequence[Row]) -> None:
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
    panel.set_title(f"{counted(rows[0].settings['ipc'], 'image')} per class", loc="left", fontsize=10)
    panel.set_xlabel("seconds to make the set")
    panel.grid(axis="y", color="#e6e6ea", linewidth=0.8, zorder=0)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _label(panel: Axes, rows: Sequence[Row], colours: Sequence[str], moved: Mapping[int, float]) -> None:
    """Label points, see `points.label`, and lines where no marker, no line and no other label is.

    moved: row → the seconds at which its marker stands.
    """
    taken = [_marker(panel, row, moved[id(row)]) for row in rows]
    taken += _name_levels(panel, taken)
    for line in panel.lines:
        taken += _along(line.get_transform().transform(line.get_xydata()))
    for row, colour in zip(rows, colours, strict=True):
        if text := label(row, rows):
            point = (moved[id(row)], percent(row))
            note = panel.annotate(text, point, (0, 0), textcoords="offset points", fontsize=8, color=colour)
            taken.append(_place(note, panel, taken))
            if math.hypot(*note.get_position()) > FAR:
                taken += _leader(note)
                leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
                panel.annotate("", point, note.get_position(), textcoords="offset points", arrowprops=leader, zorder=2)


def _name_levels(panel: Axes, taken: Sequence[Bbox]) -> list[Bbox]:
    """Name the horizontal lines at the end where most room is. Returns the boxes of the names."""
    import numpy as np

    boxes = []
    for line in panel.lines:
        if not str(line.get_gid()).startswith(("whole-", "random_real-")):
            continue
        where: dict[str, Any] = {"xycoords": panel.get_yaxis_transform(), "textcoords": "offset points"}
        note = panel.annotate(str(line.get_label()), (0, 0), (0, 0), fontsize=8, color=INK, **where)

        def covered(end: tuple[float, float], note: Annotation = note, line: Line2D = line) -> float:
            note.xy = end[0], np.asarray(line.get_ydata())[0]
            _move(note, 0, end[1])
            note.set_horizontalalignment("left" if end[0] < 0.5 else "right")
            return sum(_area(note.get_window_extent(), box) for box in taken)

        covered(min(((x, y) for y in (2, -2) for x in (0.01, 0.99)), key=covered))
        boxes.append(note.get_window_extent())
    return boxes


def _marker(panel: Axes, row: Row, seconds: float) -> Bbox:
    """The box of a marker with its error bar, in pixels."""
    from matplotlib.transforms import Bbox

    level, reach = percent(row), MARKER_SPACE / 2 * panel.figure.dpi / 72
    left, low = panel.transData.transform((seconds, level - spread(row)))
    right, high = panel.transData.transform((seconds, level + spread(row)))
    return Bbox([(left - reach, low - reach), (right + reach, high + reach)])


def _along(corners: Any) -> list[Bbox]:
    """Small boxes along a line through corners (x, y), in pixels."""
    import numpy as np
    from matplotlib.transforms import Bbox

    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for part in np.linspace(0, 1, 1 + math.ceil(math.hypot(x1 - x0, y1 - y0) / LINE_STEP)):
            boxes.append(Bbox.from_bounds(x0 + part * (x1 - x0) - 1, y0 + part * (y1 - y0) - 1, 2, 2))
    return boxes


def _place(text: Annotation, panel: Axes, taken: Sequence[Bbox]) -> Bbox:
    """Move a label to the first free place, or where there is none to the one that covers least. Returns its box."""
    inside = panel.get_window_extent()
    best: tuple[float, tuple[float, float]] | None = None
    for x, y in LABEL_OFFSETS:
        _move(text, x, y)
        box = text.get_window_extent()
        covered = sum(_area(box, other) for other in taken) + box.width * box.height - _area(box, inside)
        if math.hypot(x, y) > FAR:
            covered += sum(_area(part, other) for part in _leader(text) for other in taken)
        if best is None or covered < best[0]:
            best = covered, (x, y)
        if covered < 1e-6:
            break
    assert best is not None
    _move(text, *best[1])
    return text.get_window_extent()


def _leader(text: Annotation) -> list[Bbox]:
    """The line from a marker, without what no other may cover, to its label: small boxes."""
    axes, figure = text.axes, text.get_figure(root=True)
    assert axes is not None and figure is not None
    (x, y), (right, up) = axes.transData.transform(text.xy), text.get_position()
    scale, skipped = figure.dpi / 72, MARKER_SPACE / math.hypot(right, up)
    return _along([(x + part * scale * right, y + part * scale * up) for part in (skipped, 1)])


def _move(text: Annotation, x: float, y: float) -> None:
    text.set_position((x, y))
    text.set_horizontalalignment("left" if x > 1 else "right" if x < -1 else "center")
    text.set_verticalalignment("bottom" if y > 1 else "top" if y < -1 else "center")


def _area(box: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
