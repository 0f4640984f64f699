"""Pictures of a set: its images by class, with the names of the classes, as a PNG."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attar import files
from attar.errors import UserError

GAP = 2  # pixels between the images of a class
BACKGROUND, NAME_COLOUR, NOTE_COLOUR = "#dfdfe3", "#1d1d22", "#5c5c66"
MANY_CLASSES = 20  # beyond this the cells get smaller and several classes share a row


def grid(
    images: Any,  # tensor or array [N, ch, H, W], float in [0, 1] or uint8
    labels: Any,  # [N] integers, or [N, C] soft labels
    classes: Sequence[str],
    *,
    scale: float | None = None,  # pixels of the picture per pixel of an image; by default cells of 48 to 128
    columns: int | None = None,  # images shown of each class, at most; 10 by default
) -> Image.Image:
    """Lay the images out by class, with the names of the classes. Classes without an image are left out.

    With one or two images per class the classes follow each other, with their names underneath; with more, each class
    has a row with its name at the left. Images are enlarged by nearest neighbour. Raises `UserError` when shapes do
    not fit.
    """
    pixels, index = rgb(images), class_numbers(labels, len(classes))
    if len(pixels) != len(index) or not len(pixels):
        raise UserError(f"a grid needs images and as many labels; got {len(pixels)} images and {len(index)} labels")
    rows = {c: np.flatnonzero(index == c) for c in np.unique(index).tolist()}
    names = [_drawable(str(classes[c])) or f"class {c}" for c in rows]
    scale = scale or _scale(max(pixels.shape[1:3]), len(rows))
    size = (max(1, round(pixels.shape[2] * scale)), max(1, round(pixels.shape[1] * scale)))
    largest = max(len(of_class) for of_class in rows.values())
    shown = min(columns or 10, largest)
    strips = [_strip([pixels[row] for row in of_class[:shown]], size, shown) for of_class in rows.values()]
    if largest <= 2:
        blocks = _named_below(strips, names)
        across = min(len(blocks), 5 if len(blocks) <= 10 else 10, max(1, 1100 // blocks[0].width))
        return _tiled(blocks, across, gap=(12, 8))
    notes = [f"{shown} of {len(of_class)}" if len(of_class) > shown else "" for of_class in rows.values()]
    blocks = _named_left(strips, names, notes)
    across = 1 if len(blocks) <= MANY_CLASSES else max(1, min(4, 1800 // blocks[0].width))
    return _tiled(blocks, across, gap=(24, 2 * GAP), downwards=True)


def save_grid(path: str | Path, images: Any, labels: Any, classes: Sequence[str], **layout: Any) -> None:
    """Write `grid(images, labels, classes, **layout)` as a PNG, atomically."""
    picture = grid(images, labels, classes, **layout)
    files.atomically(Path(path), lambda name: picture.save(name, format="PNG"))


def _numpy(values: Any) -> np.ndarray:
    """An array of a tensor on any device, or of anything else that numpy converts."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def rgb(images: Any) -> np.ndarray:
    """Images [N, ch, H, W] as uint8 [N, H, W, 3]; unless they have three channels, as the grey mean of theirs."""
    array = _numpy(images)
    if array.ndim != 4:
        raise UserError(f"images have shape [N, channels, height, width]; got {list(array.shape)}")
    if array.dtype != np.uint8:
        array = np.rint(np.nan_to_num(array.astype(np.float64)).clip(0, 1) * 255).astype(np.uint8)
    if array.shape[1] != 3:
        array = np.repeat(array.mean(axis=1, keepdims=True).round().astype(np.uint8), 3, axis=1)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def class_numbers(labels: Any, nclass: int) -> np.ndarray:
    """Labels [N] as class numbers; of soft labels [N, C] the most probable class."""
    array = _numpy(labels)
    array = array.argmax(axis=1) if array.ndim == 2 else array.astype(np.int64)
    if array.ndim != 1 or (len(array) and not 0 <= array.min() <= array.max() < nclass):
        raise UserError(f"labels are [N] class numbers below {nclass}, the number of class names")
    return array


def _scale(side: int, nclass: int) -> float:
    """The enlargement of images of that side: a whole number that gives about 80 pixels (48 with many classes).

    Images larger than 128 pixels (64 with many classes) are shrunk to that.
    """
    target, largest = (48, 64) if nclass > MANY_CLASSES else (80, 128)
    return max(1, round(target / side)) if side <= largest else largest / side


def _strip(images: Sequence[np.ndarray], size: tuple[int, int], places: int) -> Image.Image:
    """The images of one class side by side, at the given width and height, in a strip with room for `places`."""
    width, height = size
    strip = Image.new("RGB", (places * (width + GAP) - GAP, height), BACKGROUND)
    for k, image in enumerate(images):
        resampling = Image.Resampling.NEAREST if width >= image.shape[1] else Image.Resampling.LANCZOS
        strip.paste(Image.fromarray(image).resize(size, resampling), (k * (width + GAP), 0))
    return strip


def _named_below(strips: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
    """The strips with the names of their classes underneath, centred."""
    font = ImageFont.load_default(size=12 if len(strips) > MANY_CLASSES else 13)
    width = max(strips[0].width, min(96, max(math.ceil(font.getlength(name)) for name in names)))
    blocks = []
    for strip, name in zip(strips, names, strict=True):
        block = Image.new("RGB", (width, strip.height + 20), BACKGROUND)
        block.paste(strip, ((width - strip.width) // 2, 0))
        ImageDraw.Draw(block).text(
            (width / 2, strip.height + 3), _fit(name, font, width), NAME_COLOUR, font, anchor="ma"
        )
        blocks.append(block)
    return blocks


def _named_left(strips: Sequence[Image.Image], names: Sequence[str], notes: Sequence[str]) -> list[Image.Image]:
    """The strips with the name of the class, and a note below it, at their left."""
    font = ImageFont.load_default(size=13)
    width = max(math.ceil(font.getlength(text)) for text in (*(_fit(name, font, 150) for name in names), *notes))
    blocks = []
    for strip, name, note in zip(strips, names, notes, strict=True):
        block = Image.new("RGB", (width + 10 + strip.width, max(strip.height, 34 if note else 16)), BACKGROUND)
        block.paste(strip, (width + 10, 0))
        pen, middle = ImageDraw.Draw(block), block.height / 2
        pen.text((width, middle - (8 if note else 0)), _fit(name, font, 150), NAME_COLOUR, font, anchor="rm")
        pen.text((width, middle + 8), note, NOTE_COLOUR, font, anchor="rm")
        blocks.append(block)
    return blocks


def _tiled(
    blocks: Sequence[Image.Image],  # all of the same width
    across: int,
    *,
    gap: tuple[int, int],
    downwards: bool = False,  # read down the columns, not along the rows
) -> Image.Image:
    """All blocks in one picture, `across` in a row."""
    down = math.ceil(len(blocks) / across)
    step = (blocks[0].width + gap[0], max(block.height for block in blocks) + gap[1])
    canvas = Image.new("RGB", (across * step[0] - gap[0] + 24, down * step[1] - gap[1] + 24), BACKGROUND)
    for place, block in enumerate(blocks):
        column, row = divmod(place, down) if downwards else (place % across, place // across)
        canvas.paste(block, (12 + column * step[0], 12 + row * step[1]))
    return canvas


def _drawable(name: str) -> str:
    """The name in ASCII, which Pillow's font can draw: é becomes e, and letters without such a form are left out."""
    return " ".join(unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().split())


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
