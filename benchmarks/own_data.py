"""Four unlike real data sets as folders of images, train/<class>/*.png and test/<class>/*.png: what users bring.

    apt-get install $(python -m benchmarks.own_data --packages)
    python -m benchmarks.own_data DIR

- digits: scikit-learn's handwritten digits, 8x8 grey, 10 classes; a quarter is the test set.
- clothes: Fashion-MNIST as Debian's `dataset-fashion-mnist` ships it, 28x28 grey, 10 classes: the first 400 images of
  each class of its training images, and the first 200 of its test images.
- emoji: Noto Color Emoji (`fonts-noto-color-emoji`) on white, 32x32 colour, the groups of Unicode's emoji-test.txt
  (`unicode-data`) as classes, unbalanced. Skin tones and joined sequences, which repeat other emoji, are left out; a
  third is the test set. Needs Pillow with Raqm, as its wheels have it, for the flags.
- letters: A to Z in the fonts of `PACKAGES`, 28x28 grey, 26 classes. A third of the font families is the test set, so
  that no family is in both.

What goes where is decided by a digest of the name, so the same packages give the same files.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGES = [
    *("dataset-fashion-mnist", "unicode-data", "fonts-noto-color-emoji"),
    *(
        "fonts-cantarell",
        "fonts-comfortaa",
        "fonts-croscore",
        "fonts-crosextra-caladea",
        "fonts-crosextra-carlito",
        "fonts-dejavu-core",
    ),
    *("fonts-dejavu-extra", "fonts-ebgaramond", "fonts-firacode", "fonts-freefont-ttf", "fonts-gfs-didot"),
    *("fonts-hack", "fonts-inconsolata", "fonts-junicode", "fonts-jura", "fonts-lato", "fonts-liberation"),
    *("fonts-linuxlibertine", "fonts-oldstandard", "fonts-open-sans", "fonts-quicksand"),
    *("fonts-roboto-unhinted", "fonts-sil-gentium-basic", "fonts-urw-base35", "fonts-vollkorn"),
]
SHARE = Path("/usr/share")  # where Debian puts them
FASHION, EMOJI = SHARE / "datasets/fashion-mnist", SHARE / "fonts/truetype/noto/NotoColorEmoji.ttf"
GROUPS = SHARE / "unicode/emoji/emoji-test.txt"
STRIKE = 109  # the one size in which Noto Color Emoji has its bitmaps
TONES = range(0x1F3FB, 0x1F400)
JOINER = 0x200D
MOST_STYLES = 12  # of a family: one has more than a hundred
OTHER_SCRIPTS = ("Symbol", "Dingbats", "D050000L", "NotoColorEmoji")  # fonts whose letters are no letters

Item = tuple[bool, str, str, Image.Image]  # for the test set, class, name of the file, image


def part(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8


def digits() -> Iterator[Item]:
    """8x8 grey handwritten digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for row, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        pixels = (image * 255 / 16).round().astype(np.uint8)
        yield part(f"digit {row}") < 0.25, str(label), f"{row:04d}", Image.fromarray(pixels)


def unpacked(name: str, header: int) -> np.ndarray:
    """The bytes of a file of Fashion-MNIST behind its header."""
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=header)


def clothes() -> Iterator[Item]:
    """The first images of each class of Fashion-MNIST, 28x28 grey."""
    for is_test, stem, most in ((False, "train", 400), (True, "t10k", 200)):
        pixels = unpacked(f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = unpacked(f"{stem}-labels-idx1-ubyte.gz", 8)
        for label in range(10):
            for row in np.flatnonzero(labels == label)[:most]:
                yield is_test, str(label), f"{row:05d}", Image.fromarray(pixels[row])


def emoji() -> Iterator[Item]:
    """Noto Color Emoji by their Unicode groups, 32x32 colour."""
    font, group = ImageFont.truetype(str(EMOJI), STRIKE), ""
    for line in GROUPS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.split(":")[1].strip().lower().replace(" & ", "-").replace(" ", "-")
        if "; fully-qualified" not in line:
            continue
        codes = [int(code, 16) for code in line.split(";")[0].split()]
        if JOINER in codes or any(code in TONES for code in codes):
            continue
        canvas = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(canvas).text((0, 0), "".join(map(chr, codes)), font=font, embedded_color=True)
        if canvas.getextrema() == ((255, 255),) * 3:
            continue  # newer than the font
        name = "-".join(f"{code:x}" for code in codes)
        yield part(name) < 1 / 3, group, name, canvas.resize((32, 32), Image.Resampling.LANCZOS)


def letters() -> Iterator[Item]:
    """A to Z in many fonts, 28x28 grey, white on black, as large as fits."""
    seen: dict[str, set[str]] = {}
    for path in sorted((SHARE / "fonts").rglob("*.?tf"), key=lambda path: path.name):
        if any(name in path.name for name in OTHER_SCRIPTS):
            continue
        font = ImageFont.truetype(str(path), 96)
        family, style = map(str, font.getname())
        styles = seen.setdefault(family.split()[0], set())
        if family + style in styles or len(styles) == MOST_STYLES:
            continue
        styles.add(family + style)
        for letter in string.ascii_uppercase:
            left, top, right, bottom = font.getbbox(letter)
            width, height = int(right - left), int(bottom - top)
            if width < 1 or height < 1:
                continue
            side = round(max(width, height) * 1.2)
            canvas = Image.new("L", (side, side))
            place = ((side - width) / 2 - left, (side - height) / 2 - top)
            ImageDraw.Draw(canvas).text(place, letter, fill=255, font=font)
            small = canvas.resize((28, 28), Image.Resampling.LANCZOS)
            yield part(f"family {family.split()[0]}") < 1 / 3, letter, path.stem, small


SETS = {"digits": digits, "clothes": clothes, "emoji": emoji, "letters": letters}


def main() -> None:
    """Write what is asked for, and say how many images there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("own"))
    parser.add_argument("--only", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--packages", action="store_true", help="print the Debian packages that are needed")
    args = parser.parse_args()
    if args.packages:
        print(*PACKAGES)
        return
    for name in args.only:
        counts = {"train": 0, "test": 0}
        for is_test, label, stem, image in SETS[name]():
            place = args.folder / name / ("test" if is_test else "train") / label / f"{stem}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place)
            counts[place.parts[-3]] += 1
        print(f"{name}: {counts['train']} training images, {counts['test']} test images")


if __name__ == "__main__":
    main()
