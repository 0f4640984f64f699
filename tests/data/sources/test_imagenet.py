"""ImageNet-10 and ImageNet-100 from a folder of JPEGs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attar.data.load import load
from attar.data.sources.imagenet import SUBSETS, subsets, wnids

Refused = Callable[..., Any]


def write(root: Path, nclass: int) -> None:
    """Per class one training JPEG of odd size, its brightness telling the label, and one validation JPEG."""
    for label, wnid in enumerate(wnids()[:nclass]):
        for split in ("train", "val"):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            shape = (20 + label % 3, 30) if split == "train" else (25, 22)
            Image.fromarray(np.full((*shape, 3), 2 * label, np.uint8)).save(folder / f"{wnid}_1.JPEG", quality=95)


def test_class_list() -> None:
    assert len(wnids()) == len(set(wnids())) == 100
    assert wnids()[0] == "n02869837" and wnids()[9] == "n01773797"
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids())


@pytest.mark.parametrize("asked", ["imagenet", "imagenet10"])
def test_ten_classes_in_list_order(asked: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / "imagenet", 12)  # of the others nothing is read
    data = load(asked)
    assert (data.name, data.classes, data.images.shape) == ("imagenet10", wnids()[:10], (10, 3, 224, 224))
    assert data.labels.tolist() == list(range(10))
    assert [round(float(x.float().mean()) / 2) for x in data.images] == list(range(10))
    assert data.test_images is not None and data.test_images.shape == (10, 3, 224, 224)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert load(asked, nclass=10, size=16).size == (16, 16)


def test_hundred_classes(tmp_path: Path) -> None:
    write(tmp_path / "somewhere", 100)
    for data in (
        load("imagenet", nclass=100, size=8, data_dir=tmp_path / "somewhere"),
        load("imagenet100", size=8, data_dir=tmp_path / "somewhere"),
    ):
        assert (data.name, data.classes, data.size) == ("imagenet100", wnids(), (8, 8))
        assert data.labels.tolist() == list(range(100))


def test_grey_jpegs_become_rgb_and_val_is_optional(tmp_path: Path) -> None:
    root = tmp_path / "data" / "imagenet"
    write(root, 10)
    shutil.rmtree(root / "val")
    for path in root.glob("train/*/*.JPEG"):
        Image.new("L", (9, 9), 7).save(path)
    data = load("imagenet", size=4)
    assert data.channels == 3 and data.test_images is None


def test_missing_classes_are_named(tmp_path: Path, refused: Refused) -> None:
    root = tmp_path / "data" / "imagenet"
    write(root, 10)
    with refused("train lacks 90 of 100 class folders", wnids()[10], "and 87 more"):
        load("imagenet", nclass=100)
    shutil.rmtree(root / "val" / wnids()[3])
    with refused("val lacks 1 of 10 class folders", wnids()[3]):
        load("imagenet")
    shutil.rmtree(root / "val")
    (root / "train" / wnids()[5] / f"{wnids()[5]}_1.JPEG").unlink()
    with refused(f"train/{wnids()[5]} has no images"):
        load("imagenet")


@pytest.mark.parametrize("name", SUBSETS)
def test_subsets_by_class_list(name: str, tmp_path: Path) -> None:
    classes = subsets()[name]
    assert len({*classes}) == 10 and tuple(subsets()) == SUBSETS
    for part in ("train", "val"):
        for wnid in (*classes, "n00000000"):
            (tmp_path / part / wnid).mkdir(parents=True)
            Image.new("RGB", (9, 9), 7).save(tmp_path / part / wnid / "0.JPEG")
    data = load(name, data_dir=tmp_path, size=4)
    assert (data.name, data.classes, len(data.labels), data.size) == (name, classes, 10, (4, 4))


def test_only_ten_or_a_hundred(refused: Refused) -> None:
    with refused("10 or 100", "found 20"):
        load("imagenet", nclass=20)
    with refused("imagenet10 has 10 classes", "nclass 100"):
        load("imagenet10", nclass=100)


def unzip(root: Path, classes: tuple[str, ...] = ("n01443537", "n01629819")) -> None:
    """Two images of each class, the test one laid out as in Tiny-ImageNet where `root` is called so."""
    tiny = root.name.startswith("tiny")
    for label, wnid in enumerate(classes):
        train = root / "train" / wnid / ("images" if tiny else "")
        val = root / "val" / ("images" if tiny else wnid)
        for folder in (train, val):
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (90 * label + 9, 0, 0)).save(folder / f"{wnid}_0.JPEG")
        if tiny:
            with (root / "val" / "val_annotations.txt").open("a") as table:
                table.write(f"{wnid}_0.JPEG\t{wnid}\t0\t0\t7\t7\n")


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        ("tiny-imagenet-200", "tiny-imagenet-200"),
        ("tiny-imagenet", "tiny-imagenet-200"),
        ("imagenette2", "imagenette2"),
        ("imagewoof2-160", "imagewoof2-160"),
    ],
)
def test_a_folder_as_unzipped_by_its_name(
    asked: str, folder: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In data_dir, which may be the folder itself, in the usual places, and here; images of one's own are not it."""
    with refused(f"no folder {folder} with train/ and val/ in ", f"put the folder {folder}, as unzipped, into ./data/"):
        load(asked)
    unzip(tmp_path / "data")
    with refused(f"no folder {folder} with train/ and val/ in data ", "into data"):
        load(asked, data_dir="data")
    for place in ("dd", "data", "."):
        unzip(Path(place) / folder)
    wanted = load(f"dd/{folder}")
    assert (wanted.nclass, len(wanted.labels), wanted.name) == (2, 2, folder)
    for data_dir in ("dd", f"dd/{folder}", None):
        found = load(asked, data_dir=data_dir)
        assert (found.name, found.fingerprint) == (folder, wanted.fingerprint)
        assert found.test_labels is not None and found.test_labels.tolist() == [0, 1]
    shutil.rmtree(folder)
    assert load(asked).images.equal(wanted.images)
