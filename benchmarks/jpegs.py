"""A folder of generated JPEGs, laid out as ImageNet-100 is: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.

A class is a shape, a texture inside it and a colour, over a background without information. Position, size, angle,
frequency, tint, light and noise differ from image to image, and a smaller shape of any class distracts. The
same arguments give the same files, however many processes draw them.

    python -m benchmarks.jpegs DIR --classes 100 --per_class 50 --side 64
    attar condense -d imagenet --nclass 100 --data_dir DIR --size 64 ...
"""

from __future__ import annotations

import argparse
import colorsys
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from attar.data.sources.imagenet import wnids

Plane = np.ndarray  # float [H, W]
SHAPES: tuple[Callable[[Plane, Plane], Plane], ...] = (  # (u, v) in units of the shape's own size -> where it is
    lambda u, v: u**2 + v**2 < 1,
    lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.85,
    lambda u, v: (v > -0.7) & (v < 1.2 - 2.2 * np.abs(u)),
    lambda u, v: np.minimum(np.abs(u), np.abs(v)) < 0.3 * (np.maximum(np.abs(u), np.abs(v)) < 1.1),
    lambda u, v: (u**2 + v**2 < 1.1) & (u**2 + v**2 > 0.3),
)
TEXTURES: tuple[Callable[[Plane, Plane], Plane], ...] = (  # (u, v) in radians -> brightness, -1 to 1
    lambda u, v: 0 * u,
    lambda u, v: np.sign(np.sin(u)),
    lambda u, v: np.sign(np.sin(u) * np.sin(v)),
    lambda u, v: np.sign(np.sin(u) * np.sin(v) - 0.3),
    lambda u, v: np.sin(np.hypot(u, v) * 1.5),
)
HUES = 4
MAX_CLASSES = len(SHAPES) * len(TEXTURES) * HUES
ASPECT_RATIO = 1.25  # width over height


def draw(label: int, random: np.random.RandomState, side: int) -> Image.Image:
    """One image of a class, `side` pixels high."""
    height, width = side, round(side * ASPECT_RATIO)
    y, x = np.mgrid[:height, :width] / side - 0.5
    slope = random.uniform(-0.3, 0.3, 2)
    grey = random.uniform(0.3, 0.7) + slope[0] * x + slope[1] * y
    light = grey[..., None] + random.uniform(-0.08, 0.08, 3)
    paint(light, x, y, random.randint(MAX_CLASSES), random, random.uniform(0.08, 0.12))
    paint(light, x, y, label, random, random.uniform(0.3, 0.42))
    light = light * random.uniform(0.7, 1.2) + random.normal(0, 0.06, light.shape)
    return Image.fromarray((light.clip(0, 1) * 255).astype(np.uint8))


def paint(light: np.ndarray, x: Plane, y: Plane, label: int, random: np.random.RandomState, size: float) -> None:
    """Put the shape of a class somewhere on the image float [H, W, 3]."""
    shape, rest = label % len(SHAPES), label // len(SHAPES)
    texture, hue = rest % len(TEXTURES), rest // len(TEXTURES)
    angle, frequency = random.uniform(-0.5, 0.5), random.uniform(18, 30)
    room = 0.5 - size / 2  # inside the centre square
    x, y = x - random.uniform(-room, room), y - random.uniform(-room, room)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    inside = SHAPES[shape](u / size, v / size)
    tint = (hue / HUES + random.normal(0, 0.035)) % 1
    colour = np.array(colorsys.hsv_to_rgb(tint, random.uniform(0.5, 0.95), random.uniform(0.55, 0.9)))
    tone = 1 + 0.35 * TEXTURES[texture](u * frequency, v * frequency)
    light[inside] = tone[inside, None] * colour


def one_class(root: Path, label: int, counts: dict[str, int], side: int, seed: int) -> int:
    """Write the images of one class. Returns how many."""
    wnid = wnids()[label]
    for split, (name, count) in enumerate(counts.items()):
        folder = root / name / wnid
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            random = np.random.RandomState([seed, split, label, number])
            draw(label, random, side).save(folder / f"{wnid}_{number}.JPEG", quality=90)
    return sum(counts.values())


def make(
    root: Path,
    *,
    classes: int = 100,
    per_class: int = 50,
    test: int = 10,
    side: int = 64,
    seed: int = 0,
    workers: int = 1,
) -> int:
    """Write the whole folder. Returns the number of images."""
    if not 2 <= classes <= MAX_CLASSES:
        raise SystemExit(f"classes must be 2 to {MAX_CLASSES}, not {classes}")
    one = partial(one_class, root, counts={"train": per_class, "val": test}, side=side, seed=seed)
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(one, range(classes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--per_class", type=int, default=50, help="training images of a class")
    parser.add_argument("--test", type=int, default=10, help="test images of a class")
    parser.add_argument("--side", type=int, default=64, help="height in pixels; the width is a quarter more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = vars(parser.parse_args())
    print(f"{make(**options)} images in {options['root']}")


if __name__ == "__main__":
    main()
