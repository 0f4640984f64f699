"""Folders of images: formats, modes, sizes and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data import load as loading
from attar.data.images import ImageData
from helpers.logs import lines

Refused = Callable[..., Any]


def load(source: Path | str, **options: Any) -> ImageData:
    """Without taking a test set from folders that have none."""
    return loading.load(source, test_fraction=0, **options)


def pixels(height: int = 7, width: int = 5, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def write(root: Path, height: int = 7, width: int = 5, channels: int = 3, test: str | None = "test") -> None:
    """Two classes of two images and, in the test set, of one."""
    for number, place in enumerate(("train/cat", "train/dog", "train/cat", "train/dog")):
        save(root / place / f"{number}.png", pixels(height, width, channels, number))
    for number, place in enumerate(("cat", "dog")) if test else ():
        save(root / str(test) / place / "t.png", pixels(height, width, channels, 9 + number))


@pytest.mark.parametrize("test", ["test", "val", None])
@pytest.mark.parametrize("channels", [1, 3])
def test_reads_what_was_written(test: str | None, channels: int, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write(root, channels=channels, test=test)
    data = load(root)
    assert (data.name, data.classes, data.size, data.channels) == ("pets", ("cat", "dog"), (7, 5), channels)
    assert data.labels.tolist() == [0, 0, 1, 1]
    for row, seed in enumerate((0, 2, 1, 3)):
        expected = torch.from_numpy(pixels(channels=channels, seed=seed)).reshape(7, 5, channels).permute(2, 0, 1)
        assert torch.equal(data.images[row], expected)
    if test is None:
        assert data.test_images is None
    else:
        assert data.test_images is not None and data.test_labels is not None
        assert data.test_labels.tolist() == [0, 1]
        assert (data.test_images[1].numpy().transpose(1, 2, 0).squeeze() == pixels(channels=channels, seed=10)).all()


def test_by_relative_path_and_in_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "many"
    for number in range(300):
        save(root / "train" / f"c{number % 3}" / f"{number:03}.bmp", np.full((2, 2), number % 256, np.uint8))
    data = load("many")
    for c in range(3):
        assert data.images[data.rows(c), 0, 0, 0].tolist() == [n % 256 for n in range(300) if n % 3 == c]
    monkeypatch.chdir(root)
    assert load(Path(".")).name == "many"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF", "webp", "gif", "jpg", "JPEG"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "set", test=None)
    flat = np.full((7, 5, 3), (40, 90, 200), np.uint8)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix in ("jpg", "JPEG") else {}
    save(tmp_path / "set" / "train" / "cat" / f"a.{suffix}", flat, **options)
    data = load(tmp_path / "set")
    actual = [
        x for x in data.images[data.rows(0)].int() if (x - torch.tensor([40, 90, 200])[:, None, None]).abs().max() < 4
    ]
    assert len(data.rows(0)) == 3 and len(actual) == 1


def test_only_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    write(tmp_path / "set", test=None)
    frames = [Image.fromarray(np.full((7, 5), value, np.uint8)) for value in (10, 200)]
    save(tmp_path / "set" / "train" / "cat" / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    data = load(tmp_path / "set")
    assert (data.images[data.rows(0)] == 10).flatten(1).all(1).sum() == 1


def one(
    tmp_path: Path, image: Image.Image, name: str = "a.png", size: int | None = None, **options: Any
) -> torch.Tensor:
    """That image [ch, H, W], read in a set beside a copy of itself."""
    for place in ("cat", "dog"):
        save(tmp_path / "single" / "train" / place / name, image, **options)
    return load(tmp_path / "single", size=size).images[0]


def test_single_channel_modes(tmp_path: Path) -> None:
    grey = pixels(channels=1)
    binary = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1")
    assert set(one(tmp_path, binary).unique().tolist()) == {0, 255}
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for name in ("a.png", "a.tif"):
        assert (one(tmp_path, deep, name)[0].numpy() == grey).all()
    with_alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (5, 7), 3)])
    assert one(tmp_path, with_alpha).shape == (1, 7, 5) and (one(tmp_path, with_alpha)[0].numpy() == grey).all()


def test_colour_modes(tmp_path: Path) -> None:
    colour = pixels()
    rgba = Image.fromarray(np.dstack([colour, pixels(channels=1, seed=5)]))
    assert rgba.mode == "RGBA" and (one(tmp_path, rgba).numpy() == colour.transpose(2, 0, 1)).all()
    palette = Image.fromarray(colour).quantize(8)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert (one(tmp_path, palette).numpy() == expected).all()
    assert (one(tmp_path, palette, transparency=bytes(range(8))).numpy() == expected).all()
    assert (one(tmp_path, palette, transparency=0).numpy() == expected).all()
    assert one(tmp_path, Image.fromarray(colour).convert("CMYK"), "a.jpg").shape == (3, 7, 5)


@pytest.mark.parametrize("where", ["train", "test"])
def test_one_coloured_image_makes_all_colour(where: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root, channels=1)
    assert load(root).channels == 1
    save(root / "train" / "dog" / "deep.png", Image.fromarray(pixels(channels=1).astype(np.uint16) * 257))
    save(root / where / "dog" / "x.png", pixels())
    data = load(root)
    assert data.channels == 3
    assert torch.equal(data.images[0], torch.from_numpy(pixels(channels=1)).expand(3, 7, 5))
    deep = data.images[data.rows(1)][-2 if where == "train" else -1]
    assert torch.equal(deep, torch.from_numpy(pixels(channels=1)).expand(3, 7, 5))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_camera_rotation_is_applied(name: str, tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    options = {"lossless": True} if name == "a.webp" else {}
    actual = one(tmp_path, picture, name, exif=exif, **options)
    expected = np.rot90(pixels(4, 6), -1).transpose(2, 0, 1)
    assert actual.shape == (3, 6, 4) and (actual.numpy() == expected).all()


def test_size_brings_odd_images_to_one_square(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    for number, (height, width) in enumerate([(9, 4), (5, 13), (8, 8), (31, 17)]):
        save(root / "train" / f"c{number % 2}" / f"{number}.png", pixels(height, width, seed=number))
    save(root / "val" / "c1" / "v.jpg", pixels(40, 20))
    data = load(root, size=8)
    assert data.images.shape == (4, 3, 8, 8) and data.test_images is not None and len(data.test_images) == 1
    assert data.test_labels is not None and data.test_labels.tolist() == [1]
    assert (data.images[1].numpy() == pixels(8, 8, seed=2).transpose(2, 0, 1)).all()
    assert load(root, size=1).size == (1, 1)


@pytest.mark.parametrize("shape", [(20, 20), (30, 17), (9, 25)])
def test_both_ways_of_resizing_agree(shape: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path / "set", *shape)
    whole, condensed = load(tmp_path / "set"), load(tmp_path / "set", size=7)
    assert (whole.resized(7).images.int() - condensed.images.int()).abs().max() <= 1


def test_first_classes_only(tmp_path: Path, refused: Refused) -> None:
    root = tmp_path / "set"
    write(root)
    save(root / "train" / "eel" / "e.png", pixels(70, 50))  # not read, so its size does not matter
    save(root / "test" / "eel" / "e.png", pixels())
    data = load(root, nclass=2)
    assert data.classes == ("cat", "dog") and data.test_labels is not None and data.test_labels.tolist() == [0, 1]
    with refused("nclass 4", "3 classes"):
        load(root, nclass=4)
    assert load(root).size == (5, 5)


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root)
    for path in (root / "train" / ".cache", root / "train" / "cat" / "sub.png"):
        path.mkdir() if path.name == ".cache" else (path.parent / ".hidden.png").write_bytes(b"x")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / "readme.md").write_text("x")
    (root / ".DS_Store").write_text("x")
    assert load(root).counts == [2, 2]


def test_layout_errors(tmp_path: Path, refused: Refused) -> None:
    root = tmp_path / "set"
    with refused("does not exist", "expected train/<class>"):
        load(root)
    root.write_text("a file")
    with refused("is not a folder", "expected train/<class>"):
        load(root)
    root.unlink()
    (root / "cat").mkdir(parents=True)
    with refused("no folder train/", "expected train/<class>", "test/<class>/* or val/<class>/*"):
        load(root)
    (root / "train").mkdir()
    with refused("train has no class folders", "expected train/<class>"):
        load(root)
    save(root / "train" / "cat" / "a.png", pixels())
    with refused("at least 2 classes are needed", "cat"):
        load(root)
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "notes.txt").write_text("x")
    with refused("train/dog has no images"):
        load(root)
    save(root / "train" / "dog" / "a.png", pixels())
    assert load(root).counts == [1, 1]
    (root / "val").mkdir()
    assert load(root).left_out.counts == {
        "files with other endings than images (.txt)": 1,
        "split folders without images": 1,
    }
    save(root / "val" / "fox" / "a.png", pixels())
    with refused("'fox'", "train"):
        load(root)
    (root / "val" / "fox").rename(root / "val" / "dog")
    data = load(root)
    assert data.test_labels is not None and data.test_labels.tolist() == [1]
    (root / "val" / "cat").mkdir()
    with refused("val/cat has no images"):
        load(root)


@pytest.mark.parametrize("place", ["train/dog/x.png", "test/dog/x.png"])
def test_mixed_sizes_are_brought_to_one_that_is_said(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "set"
    write(root)
    save(root / place, pixels(5, 7))
    data = load(root)
    assert (data.size, data.loaded["size"]) == ((5, 5), 5)
    (line,) = [line for line in lines(caplog, "WARNING") if "mixed sizes" in line]
    for words in ("train/cat/0.png with 5x7", f"{place} with 7x5", "brought to 5x5", "--size"):
        assert words in line


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["empty", "text", "half", "header"])
def test_a_damaged_image_is_named(kind: str, channels: int, tmp_path: Path, refused: Refused) -> None:
    root = tmp_path / "set"
    write(root, 40, 40, channels)
    path = root / "train" / "dog" / "bad.png"
    save(path, pixels(40, 40, channels))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2], "header": whole[:30]}[kind])
    with refused("dog/bad.png", "not a readable image"):
        load(root)


def test_pixels_of_more_than_16_bits_are_refused(tmp_path: Path, refused: Refused) -> None:
    with refused("a.tif", "32-bit float"):
        one(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "a.tif")
    with refused("a.tif", "32-bit"):
        one(tmp_path, Image.fromarray(np.full((4, 4), 70000, np.int32)), "a.tif")
    with refused("a.tif", "32-bit"):  # their range says nothing: beside 16-bit images they would be nearly black
        one(tmp_path, Image.fromarray(np.full((4, 4), 200, np.int32)), "a.tif")
