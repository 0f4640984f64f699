"""The pictures of the methods' pages: short runs, one stored image of each class, before and after.

    python -m benchmarks.method_pictures [NAME ...]

Fashion-MNIST with network, models and batches of the recipe `fashion-cpu`, or the digits; SETTINGS has what is smaller,
shorter or tuned. A picture shows what a method's images look like, not how good they are.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import attar
from attar.sets import pictures

FOLDER = Path(__file__).parents[1] / "docs" / "methods"
CORESETS = ("random", "herding", "moderate", "el2n", "rded")
SIDE, GAP, NAMES, HEADER = 56, 4, 84, 20  # pixels: of an image, between images, left of them and above them
INK, GROUND = 40, 255
FEW = {"models": 2}  # early-stage models
STUDENTS = {"recipe": "digits", "models": 2, "niter": 5, "lr_img": 10.0}
SETTINGS: dict[str, dict[str, Any]] = {  # of `condense`, on top of `fashion-cpu` or another recipe
    "accdd": FEW | {"niter": 12, "lr_img": 0.03},
    "idc": {"width": 0.125, "niter": 3, "lr_img": 0.1},
    "dc": {"recipe": "digits", "niter": 6, "lr_img": 0.03},
    "dsa": {"recipe": "digits", "niter": 7, "lr_img": 0.03},
    "dm": {"niter": 70, "lr_img": 0.3},
    "ncfm": FEW | {"niter": 25},
    "tgdd": {"recipe": "digits", "models": 2, "niter": 5},
    "mtt": STUDENTS,
    "ftd": STUDENTS,
    "datm": STUDENTS,
    "cim": FEW | {"width": 0.125, "niter": 3},
}


def condensed(method: str) -> dict[str, Tensor]:
    """{"before": …, "after": …}, one stored image [ch, H, W] of each class, in [0, 1]."""
    settings = {"recipe": "fashion-cpu"} | SETTINGS[method]
    attar.condense(settings["recipe"].split("-")[0], method=method, folder=method, **settings)
    both = {"before": f"{method}/initial.safetensors", "after": f"{method}/condensed.safetensors"}
    return {name: attar.load_set(path).images.clamp(0, 1) for name, path in both.items()}


def selected() -> dict[str, Tensor]:
    """{core-set: the one image of each class that it chooses}."""
    data = attar.load("fashion")
    return {name: attar.select(data, name, recipe="fashion-cpu", ipc=1, **FEW).images for name in CORESETS}


def draw(rows: dict[str, Tensor]) -> Image.Image:
    """A row for each kind of images, a column for each class."""
    of_digits = next(iter(rows.values())).shape[-1] == 8
    classes = attar.load("digits" if of_digits else "fashion").classes
    step = SIDE + GAP
    picture = Image.new("L", (NAMES + len(classes) * step, HEADER + len(rows) * step), GROUND)
    pen, small = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for column, name in enumerate(classes):
        pen.text((NAMES + column * step + SIDE // 2, HEADER // 2), name.split("/")[0], INK, small, anchor="mm")
    for row, (title, images) in enumerate(rows.items()):
        top = HEADER + row * step
        pen.text((GAP, top + SIDE // 2), title, INK, ImageFont.load_default(14), anchor="lm")
        for column, pixels in enumerate(pictures.rgb(torch.as_tensor(images))):
            tile = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            picture.paste(tile, (NAMES + column * step, top))
    return picture


def main() -> None:
    """Draw the pictures of these methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*SETTINGS, "coresets", []])
    names = parser.parse_args().names or [*SETTINGS, "coresets"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in names:
            rows = selected() if name == "coresets" else condensed(name)
            draw(rows).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
