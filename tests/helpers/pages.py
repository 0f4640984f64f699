"""A report that is written, and read again."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attar.report import page
from attar.report.page import Moment
from attar.sets.synthetic import SyntheticSet

DIGITS = tuple(str(digit) for digit in range(10))

# What has less contrast than 4.5 (WCAG AA) to what is under it
CONTRAST = """(() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  const under = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), drawn = e.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(drawn), light(under(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push([e.outerHTML.slice(0, 80), drawn, under(e)]);
  }
  return low;
})()"""


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
SIZES = {"real": {"images": 1198, "bytes": 76672}, "stored": {"images": 10, "bytes": 640}}
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


def random_set(
    ipc: int = 1, nclass: int = 10, channels: int = 1, side: int = 8, factor: int = 1, classes: tuple[str, ...] = DIGITS
) -> SyntheticSet:
    draw = torch.Generator().manual_seed(ipc)
    images = torch.rand(nclass * ipc, channels, side, side, generator=draw)
    labels = torch.arange(nclass).repeat_interleave(ipc)
    return SyntheticSet(images=images, labels=labels, factor=factor, classes=classes[:nclass])


def moment(condensed: SyntheticSet, outer: int, **details: float) -> Moment:
    """What was before: the images mixed with grey, the more the earlier."""
    grey = (condensed.images - 0.5) * outer / 10 + 0.5
    return Moment(outer, (grey * 255).round().to(torch.uint8), **details)


def write_and_parse(folder: Path, condensed: SyntheticSet | None = None, **changes: Any) -> Page:
    condensed = condensed or random_set(factor=2)
    arguments: dict[str, Any] = {
        "result": RESULT,
        "condensed": condensed,
        "settings": SETTINGS,
        "command": "attar condense -d digits --ipc 1 --seed 7",
        "curve": [(0.0, 0.7217), (10.4, 0.81), (41.5, 0.8514)],
    }
    if "moments" not in changes:
        arguments["moments"] = [moment(condensed, 0, seconds=0.0), moment(condensed, 3, seconds=12.0, loss=0.25)]
        arguments["labels"] = condensed.labels
        arguments["last"] = Moment(10, arguments["moments"][0].images, seconds=41.5, loss=0.125)
    page.write(folder / "report.html", **(arguments | changes))
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def pictures(folder: Path) -> list[np.ndarray]:
    """The sheets of the page, uint8 [H, W, 3], in the order of the style: stored, what was before, decoded."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    encoded = re.findall(r"url\(data:image/(?:png|webp);base64,([\w+/=]+)\)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in encoded]


def cells(parsed: Page, view: str) -> list[dict[str, int]]:
    """The numbers in the style of every image of a view."""
    start = next(k for k, item in enumerate(parsed.attributes) if item == ("div", "id", view))
    styles = []
    for tag, name, value in parsed.attributes[start + 1 :]:
        if (tag, name) == ("i", "style") and "--x" in value:
            styles.append({key: int(number) for key, number in re.findall(r"--(\w+):(\d+)", value)})
        if (tag, name) == ("div", "id"):
            break
    return styles


def tile(sheet: np.ndarray, column: int, row: int, height: int, width: int) -> np.ndarray:
    return sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]


def eight_bit(images: torch.Tensor) -> np.ndarray:
    """uint8 [n, H, W, 3]."""
    array = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return array.repeat(3, axis=3) if array.shape[3] == 1 else array
