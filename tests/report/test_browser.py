"""report.html in a real browser: the slider moves, the pictures change, nothing is asked for and nothing complains."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.report.page import Moment, snapshots
from helpers import browser
from helpers.browser import Browser
from helpers.pages import CONTRAST, random_set, write_and_parse

NO_BROWSER = browser.PROGRAM is None and not os.environ.get("CI")  # in CI its absence is an error
pytestmark = pytest.mark.skipif(NO_BROWSER, reason="needs chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a set of ten classes, two images each, with what it was at two earlier moments."""
    folder = tmp_path_factory.mktemp("page")
    write_and_parse(folder, random_set(2, channels=3, factor=2))
    return folder / "report.html"


def pixels(chromium: Browser, selector: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(chromium.picture(selector))).convert("RGB")).astype(int)


def assert_quiet(chromium: Browser) -> None:
    """No word on the console, no request beyond the file and what stands in it."""
    assert chromium.complaints() == []
    outside = [address for address in chromium.addresses() if not address.startswith(("file:", "data:"))]
    assert outside == [] and len([a for a in chromium.addresses() if a.startswith("file:")]) == 1


def test_the_slider_moves_and_the_pictures_change(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    assert (
        chromium.run("document.getElementById('when').textContent") == "after 10 outer iterations, 41.5 s, loss 0.125"
    )
    end = pixels(chromium, "#stored")
    chromium.run("document.getElementById('time').focus()")
    chromium.press("ArrowLeft")
    assert chromium.run("document.getElementById('when').textContent") == "after 3 outer iterations, 12.0 s, loss 0.25"
    assert chromium.run("document.getElementById('time').getAttribute('aria-valuetext')").startswith("after 3 outer")
    middle = pixels(chromium, "#stored")
    chromium.press("Home")
    start = pixels(chromium, "#stored")
    shares = [(one != other).any(axis=2).mean() for one, other in ((start, middle), (middle, end), (start, end))]
    assert min(shares) > 0.3, shares
    first = pixels(chromium, "#stored .cells i")
    assert (first.max(axis=(0, 1)) - first.min(axis=(0, 1)) <= 1).all()  # moment 0 of the fixture is plain grey
    chromium.press("End")
    assert (pixels(chromium, "#stored") == end).all()
    assert_quiet(chromium)


def test_pixels_are_enlarged_whole(chromium: Browser, report: Path) -> None:
    """What the screen shows is every pixel of the set, as a square of whole pixels."""
    chromium.open(report)
    condensed = random_set(2, channels=3, factor=2)
    shown = pixels(chromium, "#stored .cells i")
    expected = (condensed.images[0].permute(1, 2, 0).numpy() * 255).round().astype(int)
    scale = shown.shape[0] // 8
    assert shown.shape[:2] == (8 * scale, 8 * scale) and scale > 4
    assert (shown == expected.repeat(scale, axis=0).repeat(scale, axis=1)).all()


def test_the_decoded_view_and_the_keyboard(chromium: Browser, report: Path) -> None:
    """With nothing but Tab, arrows and the space bar; what has the focus shows it."""
    chromium.open(report)
    visible = "[...document.querySelectorAll('.gallery')].filter((e) => e.checkVisibility()).map((e) => e.id).join()"
    assert chromium.run(visible) == "stored"
    chromium.press("Tab")
    assert chromium.run("document.activeElement.value") == "stored"
    chromium.press("ArrowRight")
    assert chromium.run(visible) == "decoded"
    assert chromium.run("document.getElementById('through').hidden") is True
    chromium.press("ArrowLeft")
    assert chromium.run(visible) == "stored"
    chromium.press("Tab")
    assert chromium.run("document.activeElement.id") == "time"
    assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Tab")
    assert chromium.run("document.activeElement.id") == "play"
    chromium.press(" ")
    assert chromium.run("document.getElementById('time').value") == "0"
    deadline = time.monotonic() + 20
    while chromium.run("document.getElementById('play').textContent") == "Stop" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert chromium.run("document.getElementById('time').value") == "2"
    assert_quiet(chromium)


def test_every_control_has_a_name(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    tree = chromium.send("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node["name"]["value"]) for node in tree if "name" in node and "role" in node}
    for expected in (("slider", "Time"), ("button", "Play"), ("radio", "Stored"), ("radio", "Decoded")):
        assert expected in named
    pictures = {name for role, name in named if role in ("image", "img")}
    assert {"0: 2 stored images", "9: 2 stored images"} <= pictures
    assert any(
        name.startswith("Test accuracy over seconds of condensation, from 72.2 % to 85.1 %") for name in pictures
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_can_be_read(chromium: Browser, report: Path, width: int, dark: bool) -> None:
    """Nothing wider than the window, text of 12 pixels at least (10 in the chart), contrast 4.5 or more (WCAG AA)."""
    chromium.open(report, width=width, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run(CONTRAST) == []
    sizes = """[...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && [...e.childNodes].some(
      (n) => n.nodeType === 3 && n.data.trim())).map((e) => [parseFloat(getComputedStyle(e).fontSize) *
      (e.closest("svg") ? e.closest("svg").clientWidth / 440 : 1), !!e.closest("svg")])"""
    assert min(size for size, drawn in chromium.run(sizes) if not drawn) >= 12
    assert min(size for size, drawn in chromium.run(sizes) if drawn) >= 9.5
    background = pixels(chromium, "body")[0, 0].sum()
    assert background < 120 if dark else background > 700
    assert_quiet(chromium)


def test_without_script_all_pictures_are_there(chromium: Browser, report: Path) -> None:
    chromium.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(report)
        shown = [pixels(chromium, "#stored"), pixels(chromium, "#decoded")]
    finally:
        chromium.send("Emulation.setScriptExecutionDisabled", value=False)
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 100 for picture in shown)


def test_a_hundred_classes_open_in_a_second(chromium: Browser, tmp_path: Path) -> None:
    names = tuple(f"a class with the long name {k}" for k in range(100))
    condensed = random_set(10, nclass=100, channels=3, side=32, factor=2, classes=names)
    images, labels = snapshots.thumbnails(condensed.images, condensed.labels)
    write_and_parse(
        tmp_path, condensed, moments=[Moment(k, images) for k in range(10)], labels=labels, last=Moment(10, images)
    )
    seconds = []
    for _ in range(3):
        chromium.open(tmp_path / "report.html")
        seconds.append(chromium.run("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
    assert min(seconds) < 1, seconds
    assert torch.equal(labels.unique(), torch.arange(100))
    assert_quiet(chromium)


def test_a_class_is_enlarged_by_click_and_by_key(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    small = chromium.run("document.querySelector('#stored .cells i').getBoundingClientRect().width")
    chromium.run("document.querySelector('#stored .lines').focus()")
    chromium.press("Enter")
    assert chromium.run("document.getElementById('large').open")
    assert chromium.run("document.querySelector('#large .cells i').getBoundingClientRect().width") >= 2 * small
    picture = pixels(chromium, "#large .cells i")
    expected = (random_set(2, channels=3, factor=2).images[0].permute(1, 2, 0).numpy() * 255).round().astype(int)
    side = picture.shape[0] // 8
    assert (picture[side // 2 :: side, side // 2 :: side][:8, :8] == expected).all()
    chromium.run("document.getElementById('large').click()")
    assert not chromium.run("document.getElementById('large').open")
    assert_quiet(chromium)


def test_what_the_reader_has_chosen_stays_when_the_page_of_a_run_loads_anew(chromium: Browser, tmp_path: Path) -> None:
    """View, time, enlargement, folds and focus; also on the last page, which is not loaded anew."""
    condensed = random_set(2, channels=3, factor=2)

    def again() -> None:
        chromium.heard.clear()
        chromium.send("Page.reload")
        while not any(event["method"] == "Page.loadEventFired" for event in chromium.heard):
            chromium.next()

    state = """[document.getElementById("when").textContent, document.querySelector("[name=view]:checked").value,
      document.activeElement.id, document.querySelector("details:not([open])") === null,
      document.querySelector("#large figcaption")?.textContent ?? ""]"""
    write_and_parse(tmp_path, condensed, running=(10, 20))
    chromium.open(tmp_path / "report.html")
    chromium.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    chromium.run("document.getElementById('time').focus()")
    chromium.press("ArrowLeft")
    again()
    assert chromium.run(state) == ["after 3 outer iterations, 12.0 s, loss 0.25", "stored", "time", True, ""]
    chromium.run("document.getElementById('view-decoded').click()")
    chromium.run("document.querySelectorAll('#decoded .lines')[7].click()")
    write_and_parse(tmp_path, condensed)
    again()
    when, view, _, _, enlarged = chromium.run(state)
    assert (when.split(",")[0], view) == ("after 3 outer iterations", "decoded") and enlarged.startswith("7")
    again()
    assert chromium.run(state)[1] == "stored"
    assert chromium.complaints() == []
