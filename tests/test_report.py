"""Grids show each image at its place; the report holds every number and asks nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar import report
from attar.errors import UserError

DIGITS = [str(digit) for digit in range(10)]


def random_set(ipc: int, nclass: int = 10, channels: int = 1, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(ipc)
    labels = torch.arange(nclass).repeat_interleave(ipc)
    return torch.rand(nclass * ipc, channels, side, side, generator=draw), labels


def enlarged(image: torch.Tensor, times: int) -> np.ndarray:
    """What the picture shows of `image` [ch, H, W]: uint8 [H * times, W * times, 3]."""
    values = np.rint(image.numpy().astype(np.float64) * 255).astype(np.uint8)
    colours = values.repeat(3, axis=0) if len(values) == 1 else values
    return np.kron(colours.transpose(1, 2, 0), np.ones((times, times, 1), dtype=np.uint8))


def places(picture: Image.Image, cell: np.ndarray) -> list[tuple[int, int]]:
    """All (top, left) where `cell` stands in the picture, pixel by pixel."""
    pixels = np.asarray(picture)
    height, width = cell.shape[:2]
    corner = (pixels[: -height + 1, : -width + 1] == cell[0, 0]).all(axis=2)
    found = [(int(top), int(left)) for top, left in zip(*np.nonzero(corner), strict=True)]
    return [(t, left) for t, left in found if (pixels[t : t + height, left : left + width] == cell).all()]


# ---- grids ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ipc", [1, 2, 4])
def test_every_image_is_shown_once_enlarged_and_in_order(channels: int, ipc: int) -> None:
    images, labels = random_set(ipc, channels=channels)
    picture = report.grid(images, labels, DIGITS)
    spots = [places(picture, enlarged(image, 10)) for image in images]
    assert [len(spot) for spot in spots] == [1] * len(images)
    # Reading order is class order for a flow; a row holds one class otherwise.
    tops_and_lefts = [spot[0] for spot in spots]
    assert tops_and_lefts == sorted(tops_and_lefts)
    if ipc > 2:
        assert len({top for top, _ in tops_and_lefts}) == 10


def test_rows_are_of_one_class_when_labels_are_mixed() -> None:
    images, labels = random_set(3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    mixed, straight = report.grid(images[order], labels[order], DIGITS), report.grid(images, labels, DIGITS)
    assert mixed.size == straight.size
    for image, label in zip(images, labels, strict=True):
        first_of_class = places(straight, enlarged(images[3 * label], 10))[0]
        assert places(mixed, enlarged(image, 10))[0][0] == first_of_class[0]


def test_names_stand_beside_or_under_the_images() -> None:
    for ipc in (1, 5):
        images, labels = random_set(ipc)
        named = np.asarray(report.grid(images, labels, ["wide name"] * 10)).astype(int)
        other = np.asarray(report.grid(images, labels, ["name wide"] * 10)).astype(int)
        assert named.shape == other.shape
        assert (named != other).any(axis=2).sum() > 10 * 10


def test_at_most_ten_images_a_class_unless_asked_for_more() -> None:
    images, labels = random_set(12)
    picture = report.grid(images, labels, DIGITS)
    assert places(picture, enlarged(images[9], 10))
    assert not places(picture, enlarged(images[10], 10))
    assert places(report.grid(images, labels, DIGITS, columns=12), enlarged(images[11], 10))
    assert places(report.grid(images, labels, DIGITS, scale=3), enlarged(images[0], 3))


def test_classes_of_different_size_and_without_images() -> None:
    images, labels = random_set(3)
    keep = (labels > 3) & ~((labels == 5) & (torch.arange(30) % 3 > 0))
    picture = report.grid(images[keep], labels[keep], DIGITS)
    assert all(len(places(picture, enlarged(image, 10))) == 1 for image in images[keep])
    assert picture.height < report.grid(images, labels, DIGITS).height


def test_kinds_of_arrays_show_the_same() -> None:
    images, labels = random_set(1)
    stored = (images * 255).round().to(torch.uint8)
    expected = report.grid(stored, labels, DIGITS).tobytes()
    assert report.grid(images, labels, DIGITS).tobytes() == expected
    assert report.grid(images.double().numpy(), labels.numpy(), DIGITS).tobytes() == expected
    assert report.grid(images.requires_grad_(), torch.eye(10), DIGITS).tobytes() == expected
    assert report.grid(stored.repeat(1, 4, 1, 1), labels, DIGITS).tobytes() == expected
    outside = torch.full((1, 1, 8, 8), 7.0)
    assert places(report.grid(outside, [0], DIGITS), np.full((80, 80, 3), 255, dtype=np.uint8))


@pytest.mark.parametrize(("ipc", "side"), [(1, 32), (10, 32), (1, 224), (3, 64)])
def test_a_hundred_classes_fit_a_picture(ipc: int, side: int) -> None:
    images, labels = random_set(ipc, nclass=100, side=side)
    picture = report.grid(images, labels, [f"a class with the long name {c}" for c in range(100)])
    assert picture.width <= 2000
    assert picture.height <= 4000


def test_large_images_shrink() -> None:
    images, labels = random_set(10, side=224)
    assert max(report.grid(images, labels, DIGITS).size) < 1600


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 8, 8), [0, 1], "shape"),
        (torch.zeros(2, 1, 8, 8), [0], "2 images and 1 labels"),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "0 images"),
        (torch.zeros(2, 1, 8, 8), [0, 10], "below 10"),
        (torch.zeros(2, 1, 8, 8), [0, -1], "below 10"),
    ],
)
def test_shapes_that_do_not_fit(images: torch.Tensor, labels: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        report.grid(images, labels, DIGITS)


def test_save_grid_replaces_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = random_set(1)
    path = tmp_path / "new" / "images.png"
    report.save_grid(path, images, labels, DIGITS, scale=4)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.convert("RGB").tobytes() == report.grid(images, labels, DIGITS, scale=4).tobytes()
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        report.save_grid(path, 1 - images, labels, DIGITS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ---- the page ----


def entry(mean: float, std: float | None, runs: list[float], **extra: object) -> dict[str, Any]:
    return {"mean": mean, "std": std, "runs": runs, "n": len(runs), "protocol": "last epoch", **extra}


RESULT: dict[str, Any] = {
    "attar": "0.1.0",
    "dataset": "digits",
    "ipc": 1,
    "factor": 2,
    "method": "accdd",
    "accuracy": {
        "convnet2": entry(0.8514, 0.0123, [0.8391, 0.8637, 0.8514], epochs=300, images=40),
        "resnet10": entry(0.79, None, [0.79]),
    },
    "initial": {"convnet2": entry(0.7217, 0.0345, [0.6872, 0.7562], epochs=300)},
    "random_real": {"convnet2": entry(0.6901, 0.0289, [0.6612, 0.719], epochs=300)},
    "whole": {"convnet2": entry(0.9876, 0.0011, [0.9865, 0.9887], epochs=17)},
    "seconds": {"pretrain": 3.14, "condense": 452.08, "evaluate": 9.81},
    "device": "cpu",
    "inner_iterations": 200,
}
SETTINGS = {"seed": 7, "condense": {"lr_img": 0.005, "metric": "l1_mean", "bias": False, "model_path": None}}
HOSTILE = """<script>alert("1")</script><img src='http://example.org/x' onerror=alert(2)>&amp;"""


class Page(HTMLParser):
    """Tags, their attributes, and the text with runs of blanks as one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.parts: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def written(folder: Path, **changes: Any) -> Page:
    images, labels = random_set(1)
    given: dict[str, Any] = {
        "result": RESULT,
        "images": [("condensed", report.grid(images, labels, DIGITS))],
        "settings": SETTINGS,
        "command": "attar condense -d digits --ipc 1 --seed 7",
        "curve": [(0.0, 0.7217), (10.4, 0.81), (41.5, 0.8514)],
    }
    report.write(folder / "report.html", **(given | changes))
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_every_number_is_on_the_page(tmp_path: Path) -> None:
    page = written(tmp_path)
    for text in (
        "digits: 1 image per class", "accdd", "factor 2", "200 inner iterations", "attar 0.1.0", "on cpu",
        "85.1 ± 1.2 %", "79.0 %", "72.2 ± 3.5 %", "69.0 ± 2.9 %", "98.8 ± 0.1 %",
        "n = 3: 83.9, 86.4, 85.1", "n = 1: 79.0", "n = 2: 68.7, 75.6", "40 images",
        "condensed +13.0 points", "condensed +16.1 points", "condensed −13.6 points", "not measured",
        "Protocol of whole set: last epoch, epochs 17.", "last epoch, epochs 300",
        "pretrain 3.1 s", "condense 7 min 32 s (452.1 s)", "evaluate 9.8 s",
        "condense.lr_img 0.005", "condense.metric l1_mean", "condense.bias false", "condense.model_path none", "seed 7",
        "attar condense -d digits --ipc 1 --seed 7", "10.4 s: 81.0 %", "from 72.2 % to 85.1 %",
    ):  # fmt: skip
        assert text in page.text, text


def test_the_page_is_alone(tmp_path: Path) -> None:
    """No script and nothing that a browser would fetch: every address is inline."""
    page = written(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "script" not in page.tags
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[\w+/=]*", "", text))
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert ("meta", "name", "viewport") in page.attributes
    assert "prefers-color-scheme: dark" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_pictures_are_inline_and_unchanged(tmp_path: Path) -> None:
    images, labels = random_set(1)
    picture = report.grid(images, labels, DIGITS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    page = written(tmp_path, images=[("as a picture", picture), ("as a file", buffer.getvalue())])
    inline = [value.partition(",")[2] for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(inline) == 2
    for text in inline:
        with Image.open(io.BytesIO(base64.b64decode(text))) as shown:
            assert shown.tobytes() == picture.tobytes()
    assert ("img", "alt", "as a file") in page.attributes
    assert ("img", "width", str(picture.width)) in page.attributes


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    images, labels = random_set(1)
    picture = report.grid(images, labels, [HOSTILE + "\n"] * 10)
    hostile = {
        **RESULT,
        "dataset": HOSTILE,
        "device": HOSTILE,
        "accuracy": {HOSTILE: entry(0.5, 0.1, [0.5], note=HOSTILE)},
    }
    page = written(
        tmp_path, result=hostile, images=[(HOSTILE, picture)], settings={HOSTILE: {HOSTILE: HOSTILE}}, command=HOSTILE
    )
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert ("img", "alt", HOSTILE) in page.attributes
    assert page.text.count(HOSTILE) >= 8


def test_a_result_with_little_in_it(tmp_path: Path) -> None:
    page = written(tmp_path, result={"accuracy": {}}, images=[], settings={}, curve=None)
    assert "attar condense -d digits" in page.text
    assert not {"svg", "img", "table"} & set(page.tags)
    alone = written(tmp_path, result={"dataset": "fashion", "ipc": 10, "whole": {"convnet3": entry(0.9, 0.0, [0.9])}})
    assert "fashion: 10 images per class" in alone.text
    assert "90.0 ± 0.0 %" in alone.text
    assert "points" not in alone.text


@pytest.mark.parametrize(
    "curve", [[(0.0, 0.5)], [(0.0, 0.0), (1.0, 1.0)], [(5.0, 0.25), (5000.0, 0.2501), (9999.0, float("nan"))]]
)
def test_the_curve_stays_in_its_box(tmp_path: Path, curve: list[tuple[float, float]]) -> None:
    page = written(tmp_path, curve=curve)
    x = [float(value) for tag, name, value in page.attributes if (tag, name) == ("circle", "cx")]
    y = [float(value) for tag, name, value in page.attributes if (tag, name) == ("circle", "cy")]
    assert len(x) == sum(accuracy == accuracy for _, accuracy in curve)
    assert x == sorted(x)
    assert all(58 <= value <= 588 for value in x)
    assert all(12 <= value <= 186 for value in y)
    assert y == sorted(y, reverse=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (119.0, "119.0 s"), (452.08, "7 min 32 s (452.1 s)"), (7325, "2 h 2 min (7325.0 s)")],
)
def test_duration(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_names_are_drawn_in_letters_that_the_font_has() -> None:
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    foreign = report.grid(images, [0, 1, 2], ["été", "猫", "dog"])
    plain = report.grid(images, [0, 1, 2], ["ete", "class 1", "dog"])
    assert foreign.tobytes() == plain.tobytes()
