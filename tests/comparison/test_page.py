"""The page of a comparison in a real browser (chromium): it answers to mouse and keyboard, and can be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attar.comparison import page
from helpers import browser
from helpers.browser import Browser
from helpers.pages import CONTRAST, Page
from helpers.rows import PLAN, ROWS, row

NO_BROWSER = browser.PROGRAM is None and not os.environ.get("CI")  # in CI its absence is an error
HIDDEN_BELOW = row("hidden", 1, 0.6, 0.001)  # where `random` is


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(path, PLAN, [*ROWS, HIDDEN_BELOW])
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if NO_BROWSER:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    with browser.opened() as opened:
        yield opened


def test_every_point_says_its_numbers_and_the_best_comes_first(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    said = re.findall(r'class="point"[^>]*aria-label="([^"]*)"', text)
    assert len(said) == len(ROWS) + 1
    assert "slow &amp; sure, niter 9 models 5: 80.0 ± 1.0 %, n = 3, 10 s" in said
    read = Page(text).text
    assert "bars: ± standard deviation over 3 seeds" in read and "10 images per class" in read
    assert re.findall(r'data-of="\d">.*?</svg>([^<]*)<', text)[:2] == ["fast", "slow &amp; sure"]
    stand = dict(re.findall(r'aria-label="(\w+): 60.0 [^>]*translate\(([\d.]+) ', text))
    assert abs(float(stand["random"]) - float(stand["hidden"])) == pytest.approx(page.MARKER_SPACE, abs=0.2)
    places = re.findall(r'<circle class="from" cx="([\d.]+)"', text)
    assert f"{sum(map(float, stand.values())) / 2:.1f}" in places and "stand side by side" in read


def test_names_of_lines_and_of_points_stand_where_no_line_and_no_point_is(tmp_path: Path) -> None:
    """A point at the left end of a line, and one whose name would stand on the line of another entry."""
    rows = [
        row("left", 1, 0.63, 10.0),
        row("rising", 1, 0.70, 20.0, models=1),
        row("rising", 1, 0.72, 200.0, models=2),
        row("beneath", 1, 0.703, 45.0),
    ]
    page.write(tmp_path / "page.html", PLAN, rows)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    names = re.findall(r'<text class="(whole|random_real)" x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)"', text)
    assert [(kind, anchor) for kind, _, anchor in names] == [("whole", "start"), ("random_real", "end")]
    assert float(names[1][1]) == page.RIGHT - 4
    ends = re.search(r'<path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', text)
    assert ends is not None
    x0, y0, x1, y1 = map(float, ends.groups())
    place = re.search(r'<text class="name" x="([\d.]+)" y="([\d.]+)"[^>]*>beneath<', text)
    assert place is not None
    x, y = map(float, place.groups())
    of_line = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    assert not y - 9 < of_line < y, "no line through the letters"


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", PLAN, [replace(ROWS[0], accuracy=None)])
    assert list(tmp_path.iterdir()) == []


def test_a_point_under_the_mouse_or_the_focus_says_what_is_there(chromium: Browser, path: Path) -> None:
    chromium.open(path)
    tip = "document.getElementById('tip')"
    assert chromium.run(f"{tip}.hidden")
    chromium.run("document.querySelector('[aria-label^=\"fast, models 5\"]').focus()")
    assert chromium.run(f"{tip}.textContent") == "fast, models 5: 81.0 ± 1.0 %, n = 3, 9 s"
    chromium.press("Tab")
    assert chromium.run(f"{tip}.textContent").startswith("fast, models 10: ")
    where = chromium.run(
        "(() => { const b = document.querySelector('[aria-label^=\"random\"]').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    chromium.send("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    assert chromium.run(f"{tip}.textContent").startswith("random: ")
    assert chromium.complaints() == []
    assert all(address.startswith(("file:", "data:")) for address in chromium.addresses())


def test_a_name_in_the_legend_hides_its_points(chromium: Browser, path: Path) -> None:
    chromium.open(path)
    seen = "[...document.querySelectorAll('.point')].filter((point) => point.getClientRects().length).length"
    button = "document.querySelector('.legend button')"
    chromium.run(f"{button}.focus()")
    chromium.press(" ")
    assert chromium.run(seen) == len(ROWS) + 1 - 5 and chromium.run(f"{button}.ariaPressed") == "false"
    chromium.press(" ")
    assert chromium.run(seen) == len(ROWS) + 1


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_it_can_be_read(chromium: Browser, path: Path, width: int, dark: bool) -> None:
    chromium.open(path, width=width, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run(CONTRAST) == []
    boxes = chromium.run(
        "[...document.querySelector('svg[role]').querySelectorAll('.name')].map((text) => text.getBoundingClientRect())"
        ".map((b) => [b.left, b.top, b.right, b.bottom])"
    )
    assert len(boxes) >= 8
    assert not [1 for k, a in enumerate(boxes) for b in boxes[:k] if overlap(a, b)]


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes share more than a few pixels."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    return wide > 3 and min(one[3], other[3]) - max(one[1], other[1]) > 3
