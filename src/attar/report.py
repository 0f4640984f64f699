"""Pictures and pages for people: PNG grids of a set, and one self-contained report.html."""

from __future__ import annotations

import base64
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attar import store
from attar.errors import UserError

GAP = 2  # pixels between the images of a class
BACKGROUND, INK, FAINT = "#dfdfe3", "#1d1d22", "#5c5c66"
MANY_CLASSES = 20  # beyond this the cells get smaller and several classes share a row

# The four measured sets in the order of the columns: key in result.json, name on paper, what it is.
SETS = {
    "accuracy": ("condensed", "the images of this run"),
    "initial": ("initial", "the same set before it was optimised"),
    "random_real": ("random real", "as many real images of full size, drawn at random"),
    "whole": ("whole set", "all training images"),
}


def grid(
    images: Any,  # tensor or array [N, ch, H, W], float in [0, 1] or uint8
    labels: Any,  # [N] integers, or [N, C] soft labels
    classes: Sequence[str],
    *,
    scale: float | None = None,  # pixels of the picture per pixel of an image; by default cells of 48 to 128
    columns: int | None = None,  # images shown of each class, at most; 10 by default
) -> Image.Image:
    """Lay the images out by class with the names of the classes; classes without an image are left out.

    Up to two images a class: a flow of classes with the name underneath. More: one row a class, the name at its left.
    Enlarged pixels stay sharp (nearest neighbour). Raises `UserError` when shapes do not fit.
    """
    pixels, index = _pixels(images), _index(labels, len(classes))
    if len(pixels) != len(index) or not len(pixels):
        raise UserError(f"a grid needs images and as many labels; got {len(pixels)} images and {len(index)} labels")
    rows = {c: np.flatnonzero(index == c) for c in np.unique(index).tolist()}
    names = [_drawable(str(classes[c])) or f"class {c}" for c in rows]
    scale = scale or _scale(max(pixels.shape[1:3]), len(rows))
    size = (max(1, round(pixels.shape[2] * scale)), max(1, round(pixels.shape[1] * scale)))
    most = max(len(of_class) for of_class in rows.values())
    shown = min(columns or 10, most)
    strips = [_strip([pixels[row] for row in of_class[:shown]], size, shown) for of_class in rows.values()]
    if most <= 2:
        blocks = _named_below(strips, names)
        across = min(len(blocks), 5 if len(blocks) <= 10 else 10, max(1, 1100 // blocks[0].width))
        return _tiled(blocks, across, gap=(12, 8))
    notes = [f"{shown} of {len(of_class)}" if len(of_class) > shown else "" for of_class in rows.values()]
    blocks = _named_left(strips, names, notes)
    across = 1 if len(blocks) <= MANY_CLASSES else max(1, min(4, 1800 // blocks[0].width))
    return _tiled(blocks, across, gap=(24, 2 * GAP), downwards=True)


def save_grid(path: str | Path, images: Any, labels: Any, classes: Sequence[str], **layout: Any) -> None:
    """Write `grid(images, labels, classes, **layout)` as a PNG; an old file stays until the new one is complete."""
    picture = grid(images, labels, classes, **layout)
    store.atomically(Path(path), lambda name: picture.save(name, format="PNG"))


def write(
    path: str | Path,
    *,
    result: Mapping[str, Any],  # as in result.json; yardsticks may be missing
    images: Iterable[tuple[str, Image.Image | bytes]],  # (title, picture or bytes of a PNG)
    settings: Mapping[str, Any],  # may be nested
    command: str,
    curve: Sequence[tuple[float, float]] | None = None,  # (seconds, accuracy in [0, 1]) during condensation
) -> None:
    """Write one HTML file that holds all it shows: pictures, accuracies, times, settings and the command."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("attar", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measured = {key: names for key, names in SETS.items() if result.get(key)}
    page = environment.get_template("report.html.j2").render(
        title=_title(result),
        result=result,
        pictures=[(name, *_inline(picture)) for name, picture in images],
        sets=measured,
        networks=[
            (network, [(key, _cell(result, key, network)) for key in measured])
            for network in dict.fromkeys(network for key in measured for network in result[key])
        ],
        protocols=_protocols(result, measured),
        seconds=[(stage, duration(value)) for stage, value in result.get("seconds", {}).items()],
        settings=list(_flat(settings)),
        command=command,
        chart=_chart([point for point in curve or () if math.isfinite(point[1])]),
    )
    store.atomically(Path(path), lambda name: name.write_text(page, encoding="utf-8"))


def duration(seconds: float) -> str:
    """7.25 -> "7.2 s", 452.1 -> "7 min 32 s (452.1 s)"."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes, rest = int(seconds) // 3600, int(seconds) % 3600 // 60, int(seconds) % 60
    return (f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s") + f" ({seconds:.1f} s)"


# ---- pictures ----


def _numpy(values: Any) -> np.ndarray:
    """A tensor on any device, or anything that numpy reads."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _pixels(images: Any) -> np.ndarray:
    """uint8 [N, H, W, 3]; images of neither one nor three channels are shown as the grey mean of theirs."""
    array = _numpy(images)
    if array.ndim != 4:
        raise UserError(f"images have shape [N, channels, height, width]; got {list(array.shape)}")
    if array.dtype != np.uint8:
        array = np.rint(np.nan_to_num(array.astype(np.float64)).clip(0, 1) * 255).astype(np.uint8)
    if array.shape[1] != 3:
        array = np.repeat(array.mean(axis=1, keepdims=True).round().astype(np.uint8), 3, axis=1)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _index(labels: Any, nclass: int) -> np.ndarray:
    """Class numbers [N]; of soft labels the largest."""
    array = _numpy(labels)
    array = array.argmax(axis=1) if array.ndim == 2 else array.astype(np.int64)
    if array.ndim != 1 or (len(array) and not 0 <= array.min() <= array.max() < nclass):
        raise UserError(f"labels are [N] class numbers below {nclass}, the number of class names")
    return array


def _scale(side: int, nclass: int) -> float:
    """Whole enlargement to cells of about 80 pixels (48 for many classes); images larger than 128 (64) shrink to it."""
    wanted, largest = (48, 64) if nclass > MANY_CLASSES else (80, 128)
    return max(1, round(wanted / side)) if side <= largest else largest / side


def _strip(pictures: Sequence[np.ndarray], size: tuple[int, int], places: int) -> Image.Image:
    """The images of one class side by side, at the given width and height, in a strip with room for `places`."""
    width, height = size
    strip = Image.new("RGB", (places * (width + GAP) - GAP, height), BACKGROUND)
    for k, picture in enumerate(pictures):
        how = Image.Resampling.NEAREST if width >= picture.shape[1] else Image.Resampling.LANCZOS
        strip.paste(Image.fromarray(picture).resize(size, how), (k * (width + GAP), 0))
    return strip


def _named_below(strips: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
    font = ImageFont.load_default(size=12 if len(strips) > MANY_CLASSES else 13)
    width = max(strips[0].width, min(96, max(math.ceil(font.getlength(name)) for name in names)))
    blocks = []
    for strip, name in zip(strips, names, strict=True):
        block = Image.new("RGB", (width, strip.height + 20), BACKGROUND)
        block.paste(strip, ((width - strip.width) // 2, 0))
        ImageDraw.Draw(block).text((width / 2, strip.height + 3), _fit(name, font, width), INK, font, anchor="ma")
        blocks.append(block)
    return blocks


def _named_left(strips: Sequence[Image.Image], names: Sequence[str], notes: Sequence[str]) -> list[Image.Image]:
    """Blocks with the name, and below it the note, right-aligned before the images."""
    font = ImageFont.load_default(size=13)
    width = max(math.ceil(font.getlength(text)) for text in (*(_fit(name, font, 150) for name in names), *notes))
    blocks = []
    for strip, name, note in zip(strips, names, notes, strict=True):
        block = Image.new("RGB", (width + 10 + strip.width, max(strip.height, 34 if note else 16)), BACKGROUND)
        block.paste(strip, (width + 10, 0))
        pen, middle = ImageDraw.Draw(block), block.height / 2
        pen.text((width, middle - (8 if note else 0)), _fit(name, font, 150), INK, font, anchor="rm")
        pen.text((width, middle + 8), note, FAINT, font, anchor="rm")
        blocks.append(block)
    return blocks


def _tiled(
    blocks: Sequence[Image.Image],  # all of the same width; the highest counts
    across: int,
    *,
    gap: tuple[int, int],
    downwards: bool = False,  # read down the columns, not along the rows
) -> Image.Image:
    down = math.ceil(len(blocks) / across)
    step = (blocks[0].width + gap[0], max(block.height for block in blocks) + gap[1])
    canvas = Image.new("RGB", (across * step[0] - gap[0] + 24, down * step[1] - gap[1] + 24), BACKGROUND)
    for place, block in enumerate(blocks):
        column, row = divmod(place, down) if downwards else (place % across, place // across)
        canvas.paste(block, (12 + column * step[0], 12 + row * step[1]))
    return canvas


def _drawable(name: str) -> str:
    """The name in the letters that Pillow's own font has: é becomes e, what has no such letter is left out."""
    return " ".join(unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().split())


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, or as much of its beginning as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _inline(picture: Image.Image | bytes) -> tuple[str, int, int]:
    """Data address, width and height of a picture."""
    buffer = io.BytesIO(picture if isinstance(picture, bytes) else b"")
    if isinstance(picture, bytes):
        picture = Image.open(buffer)
    else:
        picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), *picture.size


# ---- numbers ----


def _title(result: Mapping[str, Any]) -> str:
    ipc = result.get("ipc")
    return f"{result.get('dataset', 'condensed set')}" + (f": {ipc} image{'s' * (ipc != 1)} per class" if ipc else "")


def _cell(result: Mapping[str, Any], key: str, network: str) -> dict[str, Any] | None:
    """One accuracy as text in percent and as the length of its bar; None where it was not measured."""
    entry, condensed = result[key].get(network), result.get("accuracy", {}).get(network)
    if not entry:
        return None
    gain = 100 * (condensed["mean"] - entry["mean"]) if condensed and key != "accuracy" else None
    runs = entry.get("runs", [])
    return {
        "mean": f"{100 * entry['mean']:.1f}",
        "std": f"{100 * entry['std']:.1f}" if entry.get("std") is not None else None,
        "bar": max(0.0, min(100.0, 100 * entry["mean"])),
        "gain": None if gain is None else f"{gain:+.1f}".replace("-", "−"),
        "images": entry.get("images"),
        "n": entry.get("n", len(runs)),
        "runs": ", ".join(f"{100 * run:.1f}" for run in runs),
    }


def _protocols(result: Mapping[str, Any], measured: Iterable[str]) -> list[tuple[str, str]]:
    """Each distinct protocol with the sets it was used for; networks are named where those of a set differ."""
    used: dict[str, list[str]] = {}
    for key in measured:
        words = {network: _protocol(entry) for network, entry in result[key].items()}
        if len(set(words.values())) == 1:
            words = {"": next(iter(words.values()))}
        for network, text in words.items():
            used.setdefault(text, []).append(SETS[key][0] + (f" ({network})" if network else ""))
    return [(text, ", ".join(who)) for text, who in used.items()]


def _protocol(entry: Mapping[str, Any]) -> str:
    """The protocol's name and whatever else the entry says about it, such as the epochs."""
    extras = {key: entry[key] for key in entry.keys() - {"mean", "std", "runs", "n", "images", "protocol"}}
    return ", ".join(
        [str(entry.get("protocol", "not stated")), *(f"{k} {_text(v)}" for k, v in sorted(extras.items()))]
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted name, text) of all values of a nested mapping."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    """As in a recipe, but without quotes around a lone word."""
    if isinstance(value, str):
        return value or '""'
    return "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _chart(curve: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """Coordinates of accuracy over seconds in a box of 600 × 224, with round values at the axes; None for no points."""
    if not curve:
        return None
    left, right, top, bottom = 58.0, 588.0, 12.0, 186.0
    longest = max(seconds for seconds, _ in curve) or 1.0
    low = math.floor(min(accuracy for _, accuracy in curve) * 10) / 10
    high = max(math.ceil(max(accuracy for _, accuracy in curve) * 10) / 10, low + 0.1)

    def x(seconds: float) -> float:
        return round(left + (right - left) * seconds / longest, 1)

    def y(accuracy: float) -> float:
        return round(bottom - (bottom - top) * (accuracy - low) / (high - low), 1)

    power = 10.0 ** math.floor(math.log10(longest))
    every = next(power * part for part in (0.2, 0.5, 1, 2) if power * part * 6 > longest)
    level = 0.1 if high - low < 0.55 else 0.2
    return {
        "points": [
            (x(seconds), y(accuracy), f"{seconds:.1f} s: {100 * accuracy:.1f} %") for seconds, accuracy in curve
        ],
        "levels": [(y(low + level * k), f"{100 * (low + level * k):.0f} %") for k in _steps(high - low, level)],
        "times": [(x(every * k), f"{every * k:g} s") for k in _steps(longest, every)],
        "first": f"{100 * curve[0][1]:.1f} %",
        "last": f"{100 * curve[-1][1]:.1f} %",
    }


def _steps(length: float, step: float) -> range:
    """0, 1, … up to the last whole step within `length`."""
    return range(int(length / step + 1e-6) + 1)
