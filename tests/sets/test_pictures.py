"""Grids show each image at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.errors import UserError
from attar.sets import pictures

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
    corners = [(int(top), int(left)) for top, left in zip(*np.nonzero(corner), strict=True)]
    return [(t, left) for t, left in corners if (pixels[t : t + height, left : left + width] == cell).all()]


# ---- grids ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ipc", [1, 2, 4])
def test_every_image_is_shown_once_enlarged_and_in_order(channels: int, ipc: int) -> None:
    images, labels = random_set(ipc, channels=channels)
    picture = pictures.grid(images, labels, DIGITS)
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
    mixed, straight = pictures.grid(images[order], labels[order], DIGITS), pictures.grid(images, labels, DIGITS)
    assert mixed.size == straight.size
    for image, label in zip(images, labels, strict=True):
        first_of_class = places(straight, enlarged(images[3 * label], 10))[0]
        assert places(mixed, enlarged(image, 10))[0][0] == first_of_class[0]


def test_names_are_beside_or_under_the_images() -> None:
    for ipc in (1, 5):
        images, labels = random_set(ipc)
        named = np.asarray(pictures.grid(images, labels, ["wide name"] * 10)).astype(int)
        other = np.asarray(pictures.grid(images, labels, ["name wide"] * 10)).astype(int)
        assert named.shape == other.shape
        assert (named != other).any(axis=2).sum() > 10 * 10


def test_at_most_ten_images_a_class_unless_asked_for_more() -> None:
    images, labels = random_set(12)
    picture = pictures.grid(images, labels, DIGITS)
    assert places(picture, enlarged(images[9], 10))
    assert not places(picture, enlarged(images[10], 10))
    assert places(pictures.grid(images, labels, DIGITS, columns=12), enlarged(images[11], 10))
    assert places(pictures.grid(images, labels, DIGITS, scale=3), enlarged(images[0], 3))


def test_classes_of_different_size_and_without_images() -> None:
    images, labels = random_set(3)
    keep = (labels > 3) & ~((labels == 5) & (torch.arange(30) % 3 > 0))
    picture = pictures.grid(images[keep], labels[keep], DIGITS)
    assert all(len(places(picture, enlarged(image, 10))) == 1 for image in images[keep])
    assert picture.height < pictures.grid(images, labels, DIGITS).height


def test_kinds_of_arrays_show_the_same() -> None:
    images, labels = random_set(1)
    stored = (images * 255).round().to(torch.uint8)
    expected = pictures.grid(stored, labels, DIGITS).tobytes()
    assert pictures.grid(images, labels, DIGITS).tobytes() == expected
    assert pictures.grid(images.double().numpy(), labels.numpy(), DIGITS).tobytes() == expected
    assert pictures.grid(images.requires_grad_(), torch.eye(10), DIGITS).tobytes() == expected
    assert pictures.grid(stored.repeat(1, 4, 1, 1), labels, DIGITS).tobytes() == expected
    outside = torch.full((1, 1, 8, 8), 7.0)
    assert places(pictures.grid(outside, [0], DIGITS), np.full((80, 80, 3), 255, dtype=np.uint8))


@pytest.mark.parametrize(("ipc", "side"), [(1, 32), (10, 32), (1, 224), (3, 64)])
def test_a_hundred_classes_fit_a_picture(ipc: int, side: int) -> None:
    images, labels = random_set(ipc, nclass=100, side=side)
    picture = pictures.grid(images, labels, [f"a class with the long name {c}" for c in range(100)])
    assert picture.width <= 2000
    assert picture.height <= 4000


def test_large_images_shrink() -> None:
    images, labels = random_set(10, side=224)
    assert max(pictures.grid(images, labels, DIGITS).size) < 1600


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
        pictures.grid(images, labels, DIGITS)


def test_save_grid_replaces_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = random_set(1)
    path = tmp_path / "new" / "images.png"
    pictures.save_grid(path, images, labels, DIGITS, scale=4)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.convert("RGB").tobytes() == pictures.grid(images, labels, DIGITS, scale=4).tobytes()
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        pictures.save_grid(path, 1 - images, labels, DIGITS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_names_are_drawn_in_letters_that_the_font_has() -> None:
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    foreign = pictures.grid(images, [0, 1, 2], ["été", "猫", "dog"])
    plain = pictures.grid(images, [0, 1, 2], ["ete", "class 1", "dog"])
    assert foreign.tobytes() == plain.tobytes()
