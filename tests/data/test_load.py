"""`load`: names, places and what is said when there is nothing; the digits."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from attar.data.images import ImageData
from attar.data.load import KNOWN, load
from attar.data.sources.locate import find
from attar.errors import MissingError

Refused = Callable[..., Any]
DIGITS_CHECKSUM = 3162209084


def test_digits_are_all_there() -> None:
    data, source = load("digits"), load_digits()
    assert data.test_images is not None and data.test_labels is not None
    assert (len(data.images), len(data.test_images)) == (1198, 599)
    assert (data.name, data.size, data.channels, data.nclass) == ("digits", (8, 8), 1, 10)
    both = torch.cat([data.images, data.test_images])[:, 0].numpy()
    assert sorted(x.tobytes() for x in both) == sorted(
        np.rint(x * 255 / 16).astype(np.uint8).tobytes() for x in source.images
    )
    assert both.max() == 255 and both.min() == 0
    for c, count in enumerate(np.bincount(source.target)):
        assert data.counts[c] + int((data.test_labels == c).sum()) == count
        assert abs(data.counts[c] - count * 2 / 3) < 1


def test_digits_split_never_changes() -> None:
    data = load("digits")
    assert torch.equal(data.images, load("digits").images)
    assert zlib.crc32(data.images.numpy().tobytes()) == DIGITS_CHECKSUM
    assert data.mean == pytest.approx((0.3058315,), abs=1e-6) and data.std == pytest.approx((0.3761843,), abs=1e-6)


def test_nclass_size_and_device() -> None:
    data = load("digits", nclass=4, size=6, device=torch.device("cpu"))
    assert (data.nclass, data.size) == (4, (6, 6)) and data.labels.max() == 3


def test_an_image_data_is_returned_as_it_is() -> None:
    data = ImageData(np.zeros((6, 4, 4), np.uint8), [0, 1, 2] * 2)
    assert load(data) is data
    assert load(data, nclass=2).nclass == 2 and load(data, size=2).size == (2, 2)


@pytest.mark.parametrize("nclass", [-3, 0, 1])
def test_nclass_too_small(nclass: int, refused: Refused) -> None:
    for source in ("digits", "imagenet", "cifar10"):
        with refused("at least 2", str(nclass)):
            load(source, nclass=nclass)


def test_bad_requests(refused: Refused) -> None:
    with refused("nclass 11", "digits has 10 classes"):
        load("digits", nclass=11)
    with refused("at least 1 pixel"):
        load("digits", size=0)
    with refused("unknown device"):
        load("digits", device="quantum")
    for seed in (-1, 2**32):
        with refused("test_seed, must be between 0 and 4294967295"):
            load("digits", test_fraction=0.5).holdout(0.2, seed)
    for source in (3, None, ""):
        with refused("a name, a folder"):
            load(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "near"), [("fashon", "fashion"), ("CIFAR-10", "cifar10"), ("digit", "digits")])
def test_unknown_name(name: str, near: str, refused: Refused) -> None:
    with refused(f"unknown data set '{name}'", f"did you mean '{near}'", "svhn"):
        load(name)


@pytest.mark.parametrize("source", ["./absent", "a/b", Path("absent")])
def test_absent_folder(source: str | Path, refused: Refused) -> None:
    with refused("does not exist", "train/<class>"):
        load(source)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", ["train-images-idx3-ubyte[.gz]", "four IDX files"]),
        ("cifar10", ["data_batch_1", "cifar-10-python.tar.gz", "cifar-10-batches-py"]),
        ("cifar100", ["cifar-100-python", "cifar-100-python.tar.gz"]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat"]),
        ("imagenet", ["train/<wnid>", "n02869837", "val/<wnid>"]),
    ],
)
def test_nothing_found_says_what_to_put_where(name: str, files: list[str], refused: Refused) -> None:
    with refused(f"{name}: no ", *files, f"data/{name}", f"./data/{name}", "--data_dir", ".cache/attar"):
        load(name)
    with pytest.raises(MissingError):
        load(name)
    Path("empty").mkdir()
    with refused(f"{name}: no ", *files, "empty"):
        load(name, data_dir="empty")
    with refused("gone", "does not exist", files[-1]):
        load(name, data_dir="gone")


def test_fashion_names_the_debian_package(refused: Refused) -> None:
    Path("empty").mkdir()
    with refused("apt-get install dataset-fashion-mnist"):
        load("fashion", data_dir="empty")


def test_places_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def actual(data_dir: str | None = None) -> str:
        place = find(
            "toy",
            lambda folder: (folder / "file").is_file(),
            data_dir,
            needs="file",
            put="file",
            subfolders=("usual",),
            system=(str(tmp_path / "system"),),
        )
        return place.resolve().relative_to(tmp_path).as_posix()

    monkeypatch.setenv("ATTAR_DATA", str(tmp_path / "env"))
    order = ["env/toy", "env/usual", "env", "data/toy", "data/usual", "data", "home/.cache/attar/toy", "system/usual"]
    for place in reversed([*order, "system"]):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "file").touch()
        assert actual() == place
    for place in ("given", "given/usual", "given/toy"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "file").touch()
        assert actual("given") == place
    monkeypatch.setenv("ATTAR_DATA", "")
    assert actual() == "data/toy"


def test_published_constants() -> None:
    """What the paper normalises with, per data set."""
    from attar.data.sources import cifar, imagenet

    assert (cifar.MEAN, cifar.STD) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (imagenet.MEAN, imagenet.STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert set(KNOWN) >= {"digits", "mnist", "fashion", "cifar10", "cifar100", "svhn", "imagenet"}
