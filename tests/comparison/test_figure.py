"""The figure holds what the rows say, where the axes say it, and no label covers another."""

from __future__ import annotations

import importlib.util
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from attar.comparison import figure, points
from attar.comparison.numbers import Mean
from attar.errors import MissingError
from helpers.rows import PLAN, ROWS, row

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("figure")
    paths = folder / "f.svg", folder / "f.png"
    figure.write(paths, PLAN, ROWS)
    return paths


def drawn_at(root: ElementTree.Element, gid: str) -> list[tuple[float, float]]:
    """Of the line of an entry, which moved markers leave; of markers where there is only one."""
    group = next(one for one in root.iter(f"{SVG}g") if one.get("id") == gid)
    ends = re.findall(r"[ML] ([\d.]+) ([\d.]+)", " ".join(path.get("d", "") for path in group.iter(f"{SVG}path")))
    if gid.startswith("markers-"):
        ends = [(use.get("x", ""), use.get("y", "")) for use in group.iter(f"{SVG}use")]
    return [(float(x), float(y)) for x, y in ends]


def test_points_stand_where_their_numbers_say(files: tuple[Path, Path]) -> None:
    """On a log axis equal ratios are equal distances; accuracies are linear."""
    root = ElementTree.parse(files[0]).getroot()
    slow, fast = (drawn_at(root, f"points-{name}-ipc1") for name in ("slow-sure", "fast"))
    chosen = drawn_at(root, "markers-random-ipc1")
    assert (len(slow), len(fast), len(chosen)) == (4, 4, 1)
    (x0, y0), (x1, y1) = slow[0], slow[-1]
    per_decade, per_percent = (x1 - x0) / math.log10(8), (y1 - y0) / 6
    assert per_decade > 0 > per_percent
    for actual, expected in zip(slow + fast + chosen, ROWS, strict=False):
        assert expected.accuracy is not None and expected.seconds is not None
        seconds = max(expected.seconds, points.MIN_SECONDS)
        assert actual[0] == pytest.approx(x0 + per_decade * math.log10(seconds / 10), abs=0.01)
        assert actual[1] == pytest.approx(y0 + per_percent * 100 * (expected.accuracy.mean - 0.8), abs=0.01)
    assert len(drawn_at(root, "markers-fast-ipc10")) == 1


def test_names_and_lines_are_there(files: tuple[Path, Path]) -> None:
    text = files[0].read_text(encoding="utf-8")
    said = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"fast", "random", "whole training set", "random real images"} <= set(said)
    assert {"models 20", "fast, models 40", "slow &amp; sure, models 40"} <= set(said)  # an entry at its last point
    assert not any("niter" in words for words in said)
    assert {"1 image per class", "10 images per class", "accuracy on test images, %", "≤ 0.1"} <= set(said)
    ids = re.findall(r' id="([^"]*)"', text)
    assert {"whole-0-ipc1", "whole-0-ipc10", "random_real-1-ipc1"} <= set(ids) and len(ids) == len(set(ids))


def test_no_two_entries_look_alike_and_the_best_comes_first() -> None:
    """Of as many entries as any comparison has."""
    rows = [row(f"entry {k}", 1, 0.5 + 0.01 * k, 10.0 + k) for k in range(14)]
    drawn = figure.draw(PLAN, points.shown(rows))
    colours = {line.get_color() for line in drawn.axes[0].lines if str(line.get_gid()).startswith("points-")}
    assert len(colours) == 14
    names = [text.get_text() for text in drawn.axes[0].texts]
    assert [name for name in names if name.startswith("entry")] == [f"entry {k}" for k in reversed(range(14))]


def test_no_marker_covers_another_and_a_moved_one_says_its_place() -> None:
    """Five entries of one time and accuracy, and one of another accuracy, which stays where it is."""
    rows = [*(row(f"entry {k}", 1, 0.8, 100.0) for k in range(5)), row("other", 1, 0.9, 100.0)]
    drawn = figure.draw(PLAN, points.shown(rows))
    panel = drawn.axes[0]
    lines = {str(line.get_gid()): line for line in panel.lines}
    assert all(lines[f"points-entry-{k}-ipc1"].get_xdata() == [100.0] for k in range(5))
    marks = [lines[f"markers-{name}-ipc1"] for name in (*(f"entry-{k}" for k in range(5)), "other")]
    assert {mark.get_markersize() for mark in marks} == {figure.MARKER}
    at = [panel.transData.transform((mark.get_xdata()[0], mark.get_ydata()[0])) for mark in marks]
    space = figure.MARKER_SPACE * drawn.dpi / 72
    assert all(math.dist(one, other) > 0.99 * space for one, other in combinations(at, 2))
    assert marks[-1].get_xdata()[0] == pytest.approx(100) and "side by side" in panel.get_xlabel()
    assert "side by side" not in figure.draw(PLAN, rows[-2:]).axes[0].get_xlabel()


def test_a_marker_that_still_covers_its_place_has_no_dot() -> None:
    rows = [row("one", 1, 0.8, 100.0), row("other", 1, 0.8, 107.0), row("far", 1, 0.7, 1000.0)]
    panel = figure.draw(PLAN, points.shown(rows)).axes[0]
    lines = {str(line.get_gid()): line for line in panel.lines}
    stands = [lines[f"markers-{name}-ipc1"].get_xdata()[0] for name in ("one", "other")]
    assert stands[0] < 100 and stands[1] > 107, "both are moved a little"
    assert (
        figure.DOT not in {line.get_markersize() for line in panel.lines} and "side by side" not in panel.get_xlabel()
    )


def test_random_real_images_have_a_line_for_each_length_of_training() -> None:
    short, long = (replace(row(f"entry {k}", 1, 0.8, 10.0 + k), random_epochs=100 + 250 * k) for k in range(2))
    long = replace(long, random_real=Mean(0.66, 0.01, 3))
    levels = points.levels([short, long])
    assert [(kind, name) for kind, name, _ in levels] == [
        ("whole", "whole training set"),
        ("random_real", "random real images, 100 epochs"),
        ("random_real", "random real images, 350 epochs"),
    ]
    assert [value for *_, value in levels] == pytest.approx([98, 62, 66])
    panel = figure.draw(PLAN, points.shown([short, long])).axes[0]
    names = [text.get_text() for text in panel.texts]
    assert {"random real images, 100 epochs", "random real images, 350 epochs"} <= {*names}
    assert [name for _, name, _ in points.levels([short])] == ["whole training set", "random real images"]


def test_the_png_opens(files: tuple[Path, Path]) -> None:
    with Image.open(files[1]) as picture:
        assert picture.format == "PNG" and picture.width > 1200
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_no_label_covers_another_or_a_marker() -> None:
    drawn = figure.draw(PLAN, points.shown(ROWS))
    panel = drawn.axes[0]
    boxes = [text.get_window_extent() for text in panel.texts if text.get_text()]
    assert len(boxes) == 12  # each point of two series, the other two entries, and two lines
    marks = [line for line in panel.lines if str(line.get_gid()).startswith("markers-")]
    markers = [panel.transData.transform(place) for line in marks for place in line.get_xydata()]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert not any(box.contains(*marker) for marker in markers)
        assert panel.get_window_extent().contains(box.x0, box.y0)
        assert panel.get_window_extent().contains(box.x1, box.y1)


def test_the_same_numbers_give_the_same_bytes(files: tuple[Path, Path], tmp_path: Path) -> None:
    figure.write([tmp_path / "f.svg"], PLAN, ROWS)
    assert (tmp_path / "f.svg").read_bytes() == files[0].read_bytes()


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    figure.write([tmp_path / "f.svg"], PLAN, [replace(ROWS[0], accuracy=None)])
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'attar\[compare\]'"):
        figure.check()
