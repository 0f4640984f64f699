"""The picture of the README: of each class real images, the initial ones of a run, and the condensed ones.

    attar condense --recipe best --out runs/fashion
    python -m benchmarks.picture runs/fashion docs/fashion.png

Initial and condensed images are decoded: all training images that the first stored image of a class stands for, and
beside them as many real images, the first ones of the class in the training set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import attar
from attar.sets import pictures
from attar.sets.decode import decode_class

SCALE, GAP, BETWEEN = 2, 4, 36  # pixels of the picture per pixel of an image, and between images and panels
MARGIN, HEADER, NAMES = 16, 44, 120  # pixels around the picture, above it, and left of it
INK, NOTE, GROUND = "#1d1d22", "#5c5c66", "#ffffff"


def panels(run: Path) -> list[tuple[str, str, list[Tensor]]]:
    """(title, note, images [n, ch, H, W] of each class) for real, initial and condensed images."""
    condensed = attar.load_set(run)
    initial = attar.load_set(run / "initial.safetensors")
    data = attar.load(condensed.recipe["data"]["dataset"])
    count = len(of_class(condensed, 0))
    real = [data.images[(data.labels == c).nonzero()[:count, 0]].float() / 255 for c in range(data.nclass)]
    every = range(data.nclass)
    return [
        ("real", f"{count} of {len(data.labels) // data.nclass:,} per class", real),
        ("before", "real images, shrunk", [of_class(initial, c) for c in every]),
        ("condensed", "what networks train on", [of_class(condensed, c) for c in every]),
    ]


def of_class(condensed: attar.SyntheticSet, label: int) -> Tensor:
    """The training images that the first stored image of a class stands for."""
    first = condensed.images[condensed.labels == label][:1]
    return decode_class(first, condensed.factor, condensed.decode_type).clamp(0, 1)


def draw(parts: list[tuple[str, str, list[Tensor]]], classes: list[str]) -> Image.Image:
    """One row a class, one panel a kind of images."""
    example = parts[0][2][0]
    side, count = example.shape[-1] * SCALE, len(example)
    panel = count * (side + GAP) - GAP
    width = 2 * MARGIN + NAMES + len(parts) * (panel + BETWEEN) - BETWEEN
    picture = Image.new("RGB", (width, 2 * MARGIN + HEADER + len(classes) * (side + GAP) - GAP), GROUND)
    pen = ImageDraw.Draw(picture)
    title, small = ImageFont.load_default(18), ImageFont.load_default(14)
    for column, (name, note, images) in enumerate(parts):
        left = MARGIN + NAMES + column * (panel + BETWEEN)
        pen.text((left, MARGIN), name, INK, title)
        pen.text((left + pen.textlength(name, title) + 8, MARGIN + 4), note, NOTE, small)
        for row, of_one in enumerate(images):
            top = MARGIN + HEADER + row * (side + GAP)
            for index, pixels in enumerate(pictures.rgb(torch.as_tensor(of_one))):
                tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
                picture.paste(tile, (left + index * (side + GAP), top))
    for row, name in enumerate(classes):
        middle = MARGIN + HEADER + row * (side + GAP) + side // 2
        pen.text((MARGIN, middle), name, INK, small, anchor="lm")
    return picture


def main() -> None:
    """Draw the picture of a run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    condensed = attar.load_set(arguments.run)
    picture = draw(panels(arguments.run), list(condensed.classes))
    if condensed.images.shape[-3] == 1:
        picture = picture.convert("L")  # two thirds of the bytes
    picture.save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
