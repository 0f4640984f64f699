"""report.html holds every number and every picture, and asks nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attar
from attar.errors import size_in_words
from attar.report import chart, numbers, page, sheets
from attar.report.nearest import nearest
from attar.report.page import Moment
from helpers.pages import (
    HOSTILE,
    RESULT,
    SIZES,
    Page,
    cells,
    eight_bit,
    entry,
    moment,
    pictures,
    random_set,
    tile,
    write_and_parse,
)


def test_every_number_is_on_the_page(tmp_path: Path) -> None:
    how = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64, "aug_type": "color", "mix_p": 0.5}
    how |= {"width": 0.5, "norm_type": "instance"}
    parsed = write_and_parse(tmp_path, result={**RESULT, "sizes": SIZES, "protocol": how})
    assert "Protocol: accuracy after the last epoch; condensed 300 epochs of 40 images (300 steps); SGD," in parsed.text
    for text in (
        "digits: 1 image per class", "accdd", "factor 2", "200 inner iterations", "attar 0.1.0", "on cpu",
        "1,198 images, 77 kB → 10 images, 640 B",
        "85.1 ± 1.2 %", "79.0 %", "72.2 ± 3.5 %", "69.0 ± 2.9 %", "98.8 ± 0.1 %",
        "3 83.9 86.4 85.1", "1 79.0", "2 68.7 75.6", "+13.0", "+16.1", "−13.6",
        "condensed 85.1", "initial 72.2", "random real 69.0", "whole set 98.8",
        "pretrain 3.1 s", "condense 7 min 32 s (452.1 s)", "evaluate 9.8 s",
        "lr_img 0.005", "metric l1_mean", "bias false", "model_path none", "seed 7",
        "attar condense -d digits --ipc 1 --seed 7", "10.4 s: 81.0 %", "from 72.2 % to 85.1 %",
        "10 stored images are 40 to train on", "seconds of condensation", "test accuracy, %",
    ):  # fmt: skip
        assert text in parsed.text, text
    times = next(value for tag, name, value in parsed.attributes if name == "data-times")
    for text in ("as initialised", "after 3 outer iterations, 12.0 s, loss 0.25", "after 10 outer iterations, 41.5 s"):
        assert text in times


def test_the_page_is_alone(tmp_path: Path) -> None:
    """Nothing that a browser would fetch, and no script but the page's own, which its policy names by digest."""
    parsed = write_and_parse(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert parsed.tags.count("script") == 1
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!data:)", re.sub(r"base64,[\w+/=]*", "", text))
    addresses = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    policy = next(value for _, name, value in parsed.attributes if name == "content" and "script-src" in value)
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/]{43}='$", policy)
    assert ("meta", "name", "viewport") in parsed.attributes
    assert "prefers-color-scheme: dark" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ipc", [1, 3])
def test_every_image_is_where_the_page_looks_for_it(ipc: int, channels: int, tmp_path: Path) -> None:
    condensed = random_set(ipc, channels=channels, factor=2)
    parsed = write_and_parse(tmp_path, condensed)
    stored, past, decoded = pictures(tmp_path)
    expected, earlier = eight_bit(condensed.images), [eight_bit(moment(condensed, k).images / 255) for k in (0, 3)]
    styles = cells(parsed, "stored")
    assert len(styles) == 10 * ipc
    for k, cell in enumerate(styles):
        assert (tile(stored, cell["x"], cell["y"], 8, 8) == expected[k]).all()
        for t in (0, 1):
            assert (tile(past, cell["px"] + t, cell["py"], 8, 8) == earlier[t][k]).all()
    shown = cells(parsed, "decoded")
    images, labels = condensed.decoded()
    first = torch.cat([(labels == label).nonzero().flatten()[:10] for label in range(10)])
    assert len(shown) == len(first) == 10 * min(10, 4 * ipc)
    for cell, image in zip(shown, eight_bit(images[first]), strict=True):
        assert (tile(decoded, cell["x"], cell["y"], 8, 8) == image).all()


def test_classes_are_named(tmp_path: Path) -> None:
    parsed = write_and_parse(tmp_path, random_set(12, nclass=2, classes=("été", "猫 & co")))
    assert "été 10 of 12" in parsed.text and "猫 & co 10 of 12" in parsed.text
    assert ("div", "aria-label", "猫 & co: 10 stored images") in parsed.attributes


def test_snapshots_may_have_fewer_images(tmp_path: Path) -> None:
    condensed = random_set(3)
    one = torch.arange(0, 30, 3)
    before = Moment(0, (condensed.images[one] * 255).to(torch.uint8))
    parsed = write_and_parse(
        tmp_path, condensed, moments=[before], labels=condensed.labels[one], last=Moment(1, before.images)
    )
    styles = cells(parsed, "stored")
    assert ["px" in cell for cell in styles] == [True, False, False] * 10
    assert parsed.attributes.count(("i", "class", "late")) == 20
    assert "the first images of each class are kept" in parsed.text


@pytest.mark.parametrize(("ipc", "side", "channels"), [(1, 32, 3), (10, 32, 3), (3, 224, 3)])
def test_a_page_of_a_hundred_classes_stays_below_3_MB(ipc: int, side: int, channels: int, tmp_path: Path) -> None:
    """Of noise, which compresses worst."""
    names = tuple(f"a class with the long name {k}" for k in range(100))
    condensed = random_set(ipc, nclass=100, channels=channels, side=side, factor=2, classes=names)
    images, labels = page.snapshots.thumbnails(condensed.images, condensed.labels)
    write_and_parse(tmp_path, condensed, moments=[Moment(k, images) for k in range(10)], labels=labels)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    hostile = {
        **RESULT,
        "dataset": HOSTILE,
        "device": HOSTILE,
        "accuracy": {HOSTILE: entry(0.5, 0.1, [0.5], note=HOSTILE)},
        "seconds": {HOSTILE: 1.0},
    }
    condensed = random_set(classes=(HOSTILE + "\n",) * 10)
    parsed = write_and_parse(
        tmp_path, condensed, result=hostile, settings={HOSTILE: {HOSTILE: HOSTILE}}, command=HOSTILE
    )
    assert parsed.tags.count("script") == 1
    assert "img" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.text.count(HOSTILE) >= 18
    assert ("div", "aria-label", HOSTILE + "\n: 1 stored image") in parsed.attributes


def test_a_result_with_little_in_it(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"moments": [], "labels": None, "last": None}
    page.write(tmp_path / "report.html", result={"accuracy": {}}, settings={}, command="attar condense -d digits")
    parsed = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "attar condense -d digits" in parsed.text
    assert not {"svg", "i", "table", "input", "button"} & set(parsed.tags)
    alone = write_and_parse(
        tmp_path,
        random_set(),
        result={"dataset": "fashion", "ipc": 10, "whole": {"convnet3": entry(0.9, 0.0, [0.9])}},
        curve=[],
        **nothing,
    )
    assert "fashion: 10 images per class" in alone.text
    assert "90.0 ± 0.0 %" in alone.text
    assert not {"svg", "input", "button"} & set(alone.tags)


@pytest.mark.parametrize(
    "curve", [[(0.0, 0.5)], [(0.0, 0.0), (1.0, 1.0)], [(5.0, 0.25), (5000.0, 0.2501), (9999.0, float("nan"))]]
)
def test_the_curve_stays_in_its_box(tmp_path: Path, curve: list[tuple[float, float]]) -> None:
    parsed = write_and_parse(tmp_path, curve=curve)
    x = [float(value) for tag, name, value in parsed.attributes if (tag, name) == ("circle", "cx")]
    y = [float(value) for tag, name, value in parsed.attributes if (tag, name) == ("circle", "cy")]
    assert len(x) == sum(accuracy == accuracy for _, accuracy in curve)
    assert x == sorted(x)
    assert all(chart.LEFT <= value <= chart.RIGHT for value in x)
    assert all(chart.TOP <= value <= chart.BOTTOM for value in y)
    assert y == sorted(y, reverse=True)


@pytest.mark.parametrize("values", [(0.5, 0.5, 0.5, 0.5), (0.9, 0.898, 0.7, 0.2), (0.3, 0.31, 0.3, 0.9)])
def test_names_of_lines_do_not_cover_each_other(values: tuple[float, ...]) -> None:
    drawn = chart.chart([(1.0, 0.5)], {str(k): (f"line {k}", value) for k, value in enumerate(values)}, [], 10.0)
    assert drawn is not None
    heights = sorted(label for _, _, label, _ in drawn["lines"])
    assert all(second - first >= chart.NAME_SPACING for first, second in pairwise(heights))
    assert heights[0] >= chart.TOP - chart.NAME_SPACING and heights[-1] <= chart.BOTTOM
    order = [key for key, *_ in sorted(drawn["lines"], key=lambda line: line[2])]
    assert [values[int(key)] for key in order] == sorted(values, reverse=True)


def test_a_sheet_that_is_too_large_loses_detail_not_images() -> None:
    noise = np.random.RandomState(0).randint(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    exact, less = sheets.sheet([noise, noise], 1_000_000), sheets.sheet([noise, noise], 40_000)
    assert exact.url.startswith("data:image/png") and less.url.startswith("data:image/webp")
    assert len(less.url) * 3 / 4 < 40_100
    assert less.place(7) == exact.place(7)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (119.0, "119.0 s"), (452.08, "7 min 32 s (452.1 s)"), (7325, "2 h 2 min (7325.0 s)")],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (640, "640 B"),
        (7_840, "7.8 kB"),
        (9_960, "10 kB"),
        (999_700, "1.0 MB"),
        (47_040_000, "47 MB"),
        (2e12, "2000 GB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size_in_words(count) == text


BY_CLASS = {
    "accuracy": {
        "convnet2": {"accuracy": {"cat": 0.75, "dog": 0.5, "owl": None}, "confusion": [[3, 1, 0], [1, 2, 1], [0, 0, 0]]}
    },
    "whole": {"convnet2": {"accuracy": {"cat": 1.0, "dog": 0.9, "owl": None}}},
}


def test_accuracy_by_class_and_what_a_class_is_taken_for(tmp_path: Path) -> None:
    parsed = write_and_parse(tmp_path, result={**RESULT, "by_class": BY_CLASS})
    for text in ("By class (convnet2)", "cat 75.0 % 100.0 % dog (25.0 %)", "dog 50.0 % 90.0 % cat (25.0 %)"):
        assert text in parsed.text, text
    assert ("td", "title", "dog taken for owl: 25 %") in parsed.attributes
    assert "for another (column) cat dog owl cat 75 25" in parsed.text
    many = {f"class {k}": 0.5 for k in range(numbers.MAX_CONFUSION + 1)}
    counts = [[1] * len(many) for _ in many]
    wide = {"accuracy": {"convnet2": {"accuracy": many, "confusion": counts}}}
    shown = numbers.by_class({**RESULT, "by_class": wide})
    assert shown is not None and shown["confusion"] == [] and len(shown["classes"]) == len(many)
    assert numbers.by_class(RESULT) is None
    assert "owl no test images" in parsed.text


def test_the_most_similar_real_images_stand_below_each(tmp_path: Path) -> None:
    """Against a loop over all training images of the class."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=draw)
    data = attar.ImageData(images, torch.arange(60) % 10)
    condensed = random_set(2, channels=3, factor=2)
    parsed = write_and_parse(tmp_path, condensed, data=data)
    sheet, places = pictures(tmp_path)[-1], cells(parsed, "beside")
    decoded, labels = condensed.decoded()
    order = [(labels == label).nonzero().flatten()[:6] for label in range(10)]
    assert len(places) == 3 * 6 * 10
    for label, rows in enumerate(order):
        own = places[18 * label : 18 * (label + 1)]
        candidates = [k for k in range(60) if k % 10 == label]
        smallest = []
        for k, row in enumerate(rows.tolist()):
            distances = {c: ((images[c] / 255 - decoded[row]) ** 2).mean().item() ** 0.5 for c in candidates}
            near = sorted(candidates, key=distances.__getitem__)[:2]
            smallest.append(distances[near[0]])
            shown = eight_bit(decoded[row : row + 1])[0], *(images[c].permute(1, 2, 0).numpy() for c in near)
            for place, expected in zip(own[k::6], shown, strict=True):
                assert (tile(sheet, place["x"], place["y"], 8, 8) == expected).all()
        among = [
            min(((images[a] / 255 - images[b] / 255) ** 2).mean().item() ** 0.5 for b in candidates if a != b)
            for a in candidates
        ]
        assert f"{label} {min(smallest):.2f} ({sorted(among)[2]:.2f})" in parsed.text
    assert "below the real images of the class that are most similar" in parsed.text
    assert "is nearly a copy: among the first 6 training images of a class there is none." in parsed.text
    checked = [place for place, (_, name, _) in enumerate(parsed.attributes) if name == "checked"]
    assert len(checked) == 1 and ("input", "value", "beside") in parsed.attributes[checked[0] - 4 : checked[0]]


@pytest.mark.parametrize(
    ("copied", "words"),
    [([], "none."), ([2], "one in 2."), ([2, 7], "one in 2, 7."), (range(10), "one in all classes.")],
)
def test_a_page_says_which_classes_hold_a_copy(copied: Sequence[int], words: str, tmp_path: Path) -> None:
    real = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = attar.ImageData(real, torch.arange(60) % 10)
    condensed = random_set(2)
    for label in copied:
        condensed.images[condensed.labels == label] = real[[label, 10 + label]] / 255 + 0.01
    condensed.images.clamp_(0, 1)
    said = write_and_parse(tmp_path, condensed, data=data).text
    assert f"among the first 6 training images of a class there is {words}" in said


def test_a_run_that_was_not_evaluated_says_how(tmp_path: Path) -> None:
    words = "Not evaluated: attar evaluate 'my runs/a' trains fresh networks on these images"
    assert words in write_and_parse(tmp_path, run="my runs/a", result={"dataset": "digits", "ipc": 1}).text
    assert words not in write_and_parse(tmp_path, run="my runs/a").text
    waiting = write_and_parse(tmp_path, run="my runs/a", result={"dataset": "digits", "ipc": 1}, running=(1, 2))
    assert words not in waiting.text


def test_a_copy_is_at_no_distance_and_a_class_of_one_image_has_one_neighbour() -> None:
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    data = attar.ImageData(images, torch.tensor([0, 0, 0, 0, 1]))
    found = nearest({0: images[1:2] / 255, 1: images[:1] / 255}, data)
    assert found[0].smallest == pytest.approx(0, abs=1e-3) and found[0].among_real > 0.1
    assert torch.equal(found[0].images[0, 0], images[1] / 255)
    assert found[1].images.shape == (1, 1, 1, 8, 8) and found[1].smallest > 0.1


def test_the_loss_is_shown_as_a_share_of_the_first_one(tmp_path: Path) -> None:
    shown = chart.loss([(1.0, 50.0), (2.0, 40.0), (4.0, 25.0)])
    assert shown is not None and shown["last"] == 0.5
    heights = [shown["box"]["bottom"] - y for _, y in shown["points"]]
    assert heights[2] == pytest.approx(heights[0] / 2, abs=0.2) and heights[1] == pytest.approx(
        0.8 * heights[0], abs=0.2
    )
    assert [text for _, text in shown["levels"]][-1] == "1"
    assert chart.loss([(1.0, 50.0)]) is None and chart.loss([(1.0, 0.0), (2.0, 1.0)]) is None
    assert "as a share of the first one" in write_and_parse(tmp_path, losses=[(1.0, 50.0), (2.0, 40.0)]).text


def test_settings_other_than_the_recipes_are_marked(tmp_path: Path) -> None:
    usual = {"condense": {"lr_img": 0.1, "metric": "l1_mean", "bias": False, "model_path": None}}
    parsed = write_and_parse(tmp_path, usual=usual)
    assert parsed.attributes.count(("tr", "class", "differs")) == 1
    assert "condense · 4, 1 other than the data's recipe has" in parsed.text


def test_lines_that_use_the_set_and_repeat_the_run(tmp_path: Path) -> None:
    parsed = write_and_parse(tmp_path, run="runs/a")
    assert "attar.load_set('runs/a')" in parsed.text and 'attar.train(small, "convnet2")' in parsed.text
    assert "attar export runs/a --to parquet" in parsed.text
    assert "attar condense --recipe runs/a/config.json --out AGAIN" in parsed.text
    odd = write_and_parse(tmp_path, run="runs/été & <b>")
    assert "attar export 'runs/été & <b>' --to parquet" in odd.text  # as a shell takes it
    assert "attar.load_set('runs/été & <b>')" in odd.text


def test_runs_side_by_side_say_in_which_settings_they_differ() -> None:
    shared = {"data": {"dataset": "a", "size": 8}, "condense": {"lr_img": 0.1, "model_path": ["a"], "compile": "off"}}
    other = {"data": {"dataset": "b", "size": 16}, "condense": {"lr_img": 0.01, "model_path": ["b"], "compile": "on"}}
    old = {"data": {"size": 8}, "condense": {"lr_img": 0.1}}
    assert numbers.differing([shared, other]) == {"data.size": ["8", "16"], "condense.lr_img": ["0.1", "0.01"]}
    assert numbers.differing([shared, shared]) == {} == numbers.differing([{}, {}])
    assert numbers.differing([shared, old, {}]) == {}
    assert numbers.differing([other, old, {}])["data.size"] == ["16", "8", "not recorded"]
    assert numbers.differing([{"condense": [1]}, {"data": None}]) == {}
