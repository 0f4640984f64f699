"""MNIST and Fashion-MNIST from IDX files."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.data.load import load
from attar.data.sources.idx import TRAIN_COUNTS, read_idx

Refused = Callable[..., Any]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, zipped: bool = True, mark: str = "-", n: int = 20, train_labels: Any = None) -> np.ndarray:
    """The four files; returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(n, dtype=np.uint8) % 10 if train_labels is None else np.asarray(train_labels, np.uint8)
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 6, 5), np.uint8)
    for part, x, y in (("train", images, labels), ("t10k", images[:10], np.arange(10, dtype=np.uint8))):
        for kind, array in (("images", x), ("labels", y)):
            data = idx(array)
            path = folder / f"{part}-{kind}{mark}idx{array.ndim}-ubyte"
            if zipped:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, 1))
            else:
                path.write_bytes(data)
    return images


@pytest.mark.parametrize("name", ["mnist", "fashion"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("inner", ["", "raw"])
def test_reads_what_was_written(name: str, zipped: bool, mark: str, inner: str, tmp_path: Path) -> None:
    raw = {"mnist": "MNIST/raw", "fashion": "FashionMNIST/raw"}[name] if inner else ""
    images = write(tmp_path / "here" / raw, zipped, mark)
    data = load(name, data_dir=tmp_path / "here")
    assert (data.images[:, 0].numpy() == images).all()
    assert data.labels.tolist() == [n % 10 for n in range(20)]
    assert data.test_images is not None and (data.test_images[:, 0].numpy() == images[:10]).all()
    assert data.name == name
    assert (data.mean, data.std) == {"mnist": ((0.1307,), (0.3081,)), "fashion": ((0.2861,), (0.3530,))}[name]
    assert data.classes[9] == {"mnist": "9", "fashion": "Ankle boot"}[name]


def test_content_decides_about_gzip(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain.gz").write_bytes(idx(array))
    (tmp_path / "zipped").write_bytes(gzip.compress(idx(array)))
    for name in ("plain.gz", "zipped"):
        assert (read_idx(tmp_path / name, 3) == array).all()


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["IDX file of 3 dimensions", "00 00 08 03"]),
        (GOOD[:10], ["IDX file of 3 dimensions"]),
        (b"<html>not found</html>", ["IDX file"]),
        (b"\0\0\x09\x03" + GOOD[4:], ["IDX file"]),
        (idx(np.arange(4, dtype=np.uint8)), ["IDX file of 3 dimensions"]),
        (GOOD[:-1], ["40 bytes", "[2, 3, 4]", "found 39"]),
        (GOOD + b"\0", ["40 bytes", "found 41"]),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], ["bytes for its shape", "found 40"]),
        (gzip.compress(GOOD, mtime=0)[:-12], ["damaged"]),
        (gzip.compress(GOOD, mtime=0)[:5], ["damaged"]),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, ["damaged"]),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 20, ["damaged"]),
    ],
)
def test_damaged_files_are_named(content: bytes, words: list[str], tmp_path: Path, refused: Refused) -> None:
    write(tmp_path / "data" / "mnist")
    path = tmp_path / "data" / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with refused("train-images-idx3-ubyte.gz", *words):
        load("mnist")


def test_missing_and_contradicting_files(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "data" / "mnist"
    write(folder)
    (folder / "t10k-labels-idx1-ubyte.gz").rename(folder / "elsewhere")
    with refused("has no t10k-labels-idx1-ubyte[.gz]"):
        load("mnist")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9, np.uint8)))
    with refused("10 t10k images but 9 labels"):
        load("mnist")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(10, 11, np.uint8)))
    with refused("data/mnist", "0..9", "found 11..11"):
        load("mnist")
    write(folder, train_labels=[n % 9 for n in range(20)])
    with refused("data/mnist", "class 9 ('9')", "no training images"):
        load("mnist")
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(idx(np.zeros((0, 6, 5)[: 3 if "images" in name else 1], np.uint8)))
    with refused("data/mnist", "empty"):
        load("mnist")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "here")
    (tmp_path / "here" / "train-images-idx3-ubyte").mkdir()  # no file, so the other name is taken
    assert len(load("mnist", data_dir=tmp_path / "here").images) == 20


@pytest.mark.parametrize(("asked", "there"), [("mnist", "fashion"), ("fashion", "mnist")])
def test_the_other_set_under_the_same_file_names(asked: str, there: str, tmp_path: Path, refused: Refused) -> None:
    labels = np.repeat(np.arange(10), TRAIN_COUNTS[there])
    write(tmp_path / "both", train_labels=labels, zipped=False)
    with refused(f"holds {there}, not {asked}"):
        load(asked, data_dir=tmp_path / "both")


@pytest.mark.skipif(
    not DEBIAN.is_dir() and not os.environ.get("CI"),
    reason=f"{DEBIAN} is absent: apt-get install dataset-fashion-mnist",
)
def test_fashion_mnist_of_debian_has_its_published_counts() -> None:
    data = load("fashion", data_dir=DEBIAN)
    assert data.test_images is not None and data.test_labels is not None
    assert data.images.shape == (60_000, 1, 28, 28) and data.test_images.shape == (10_000, 1, 28, 28)
    assert data.counts == [6_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    values = data.images.float()
    assert float(values.mean()) / 255 == pytest.approx(0.2861, abs=1e-4)
    assert float(values.std()) / 255 == pytest.approx(0.3530, abs=1e-4)
    assert load("fashion").name == "fashion"
