"""SVHN from MATLAB files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from attar.data.load import load

Refused = Callable[..., Any]


def write(folder: Path, n: int = 20) -> np.ndarray:
    """Both files; returns the training images [32, 32, 3, N]."""
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.RandomState(0).randint(0, 256, (32, 32, 3, n), np.uint8)
    y = (np.arange(n, dtype=np.uint8) % 10 + 1)[:, None]
    savemat(folder / "train_32x32.mat", {"X": x, "y": y})
    savemat(folder / "test_32x32.mat", {"X": x[..., :5], "y": y[:5]}, do_compression=True)
    return x


@pytest.mark.parametrize("place", ["data/svhn", "data", "data/SVHN"])
def test_reads_what_was_written(place: str, tmp_path: Path) -> None:
    x = write(tmp_path / place)
    data = load("svhn")
    assert data.images.shape == (20, 3, 32, 32) and data.images.is_contiguous()
    for row in (0, 7, 19):
        for channel in range(3):
            assert (data.images[row, channel].numpy() == x[:, :, channel, row]).all()
    assert data.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2  # the files call the digit 0 ten
    assert data.test_labels is not None and data.test_labels.tolist() == [1, 2, 3, 4, 5]
    assert (data.name, data.classes) == ("svhn", tuple("0123456789"))
    assert (data.mean, data.std) == ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


X = np.zeros((32, 32, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"y": [1, 2, 3, 4]}, ["X as uint8"]),
        ({"X": X.astype(float), "y": [1, 2, 3, 4]}, ["X as uint8"]),
        ({"X": X[..., 0], "y": [1]}, ["X as uint8"]),
        ({"X": X}, ["label 1..10"]),
        ({"X": X, "y": [1, 2, 3]}, ["4 images"]),
        ({"X": X, "y": [1, 2, 3, 11]}, ["label 1..10"]),
        ({"X": X, "y": [0, 1, 2, 3]}, ["label 1..10"]),
        ({"X": X, "y": "abcd"}, ["label 1..10"]),
        ({"X": X[..., :0], "y": np.zeros((0, 1), np.uint8)}, ["X as uint8"]),
    ],
)
def test_wrong_content(content: dict[str, Any], words: list[str], tmp_path: Path, refused: Refused) -> None:
    write(tmp_path / "here")
    savemat(tmp_path / "here" / "test_32x32.mat", content)
    with refused("test_32x32.mat", *words):
        load("svhn", data_dir=tmp_path / "here")


def test_damaged_and_missing_files(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "data" / "svhn"
    write(folder, n=19)
    path = folder / "train_32x32.mat"
    whole = path.read_bytes()
    for damaged in (b"", b"no matlab", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(damaged)
        with refused("train_32x32.mat", "not a readable MATLAB file"):
            load("svhn")
    write(folder, n=9)
    with refused("data/svhn", "class 0 ('0')", "no training images"):
        load("svhn")
    (folder / "test_32x32.mat").unlink()
    with refused("test_32x32.mat", "missing"):
        load("svhn")
