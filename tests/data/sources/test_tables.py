"""Parquet, Hugging Face data sets, torch Datasets and arrays: columns, classes, splits, damage, and what is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from attar.data.load import load
from attar.data.sources.columns import choose
from helpers.logs import lines

Refused = Callable[..., Any]
NAMES = ("cat", "dog", "eel")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape or (6, 5), np.uint8)


def png(image: np.ndarray | Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format="PNG", **options)
    return file.getvalue()


def write(path: Path, cells: Sequence[bytes | None], **columns: Any) -> None:
    """A parquet file without Hugging Face's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": cell, "path": None} for cell in cells], **columns}), path)


def cells(count: int, *shape: int) -> list[bytes]:
    return [png(pixels(row, *shape)) for row in range(count)]


# ---- parquet ----


def test_a_parquet_folder(tmp_path: Path) -> None:
    write(tmp_path / "pets/data/train-00000-of-00002.parquet", cells(6), label=[0, 1, 2, 0, 1, 2])
    write(tmp_path / "pets/data/train-00001-of-00002.parquet", cells(3), label=[2, 1, 0])
    write(tmp_path / "pets/data/test-00000-of-00001.parquet", cells(4)[3:], label=[1])
    data = load(tmp_path / "pets")
    assert (data.name, data.channels, data.size, data.classes) == ("pets", 1, (6, 5), ("0", "1", "2"))
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0]
    assert (data.images[7, 0].numpy() == pixels(1)).all()
    assert data.test_images is not None and (data.test_images[0, 0].numpy() == pixels(3)).all()


def test_a_second_reading_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", cells(6), label=[0, 1, 2] * 2)
    first = load(tmp_path / "a.parquet")
    monkeypatch.setattr("attar.data.cache.build.decode_all", None)
    again = load(tmp_path / "a.parquet")
    assert torch.equal(again.images, first.images) and again.fingerprint == first.fingerprint
    with pytest.raises(TypeError):
        load(tmp_path / "a.parquet", size=4)
    monkeypatch.undo()
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    for name in ("images.u8", "checks.u32", "manifest.json"):
        (cache,) = (tmp_path / "cache" / "images").glob("a-3xown-*")
        raw = bytearray((cache / name).read_bytes())
        raw[-2] ^= 8
        (cache / name).write_bytes(raw)
        assert torch.equal(load(tmp_path / "a.parquet").images, first.images)
    write(tmp_path / "a.parquet", cells(7)[1:], label=[0, 1, 2] * 2)
    assert not torch.equal(load(tmp_path / "a.parquet").images, first.images)


def test_every_kind_of_image(tmp_path: Path) -> None:
    grey, colour = pixels(0), pixels(1, 6, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    rgba = Image.fromarray(np.dstack([colour, pixels(2)]))
    palette = Image.fromarray(colour).quantize(8)
    kinds = [png(grey), png(deep), png(colour), png(rgba), png(palette, transparency=0), png(colour, exif=exif)]
    write(tmp_path / "a.parquet", kinds, label=[0, 1] * 3)
    data = load(tmp_path / "a.parquet", test_fraction=0)
    assert data.channels == 3
    for row in (0, 1):
        assert (data.images[row].numpy() == grey).all()
    for row in (2, 3):
        assert (data.images[row].numpy() == colour.transpose(2, 0, 1)).all()
    assert (data.images[5].numpy() == colour[::-1, ::-1].transpose(2, 0, 1)).all()


def test_names_as_labels_and_size(tmp_path: Path, refused: Refused) -> None:
    sizes = [(9, 5), (4, 8), (6, 6), (5, 5)]
    write(tmp_path / "a.parquet", [png(pixels(0, *size)) for size in sizes], kind=["dog", "cat"] * 2)
    data = load(tmp_path / "a.parquet", size=4, test_fraction=0)
    assert (data.classes, data.labels.tolist(), data.size) == (("cat", "dog"), [1, 0, 1, 0], (4, 4))
    assert load(tmp_path / "a.parquet", test_fraction=0).size == (5, 5)  # the median of the short sides


def test_damaged_images_are_named_counted_and_left_out_on_request(
    tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [*cells(4), b"junk", *cells(9)[5:], None]
    write(tmp_path / "a.parquet", broken, label=[0, 1] * 5)
    with refused("a.parquet row 4 is not a readable image", "2 of 10", "--skip_bad"):
        load(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet", skip_bad=True, test_fraction=0)
    assert data.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert (data.images[4, 0].numpy() == pixels(5)).all()
    assert lines(caplog, "WARNING") == ["a: not used: unreadable images: 2 (a.parquet row 4, a.parquet row 9)"]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with refused("cut.parquet is damaged or no parquet file"):
        load(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({}, {}, "no label column; its columns are image (Image); name one with --label_column"),
        ({"a": [0, 1] * 3, "b": ["x", "y"] * 3}, {}, "2 label columns, a, b; name one with --label_column"),
        ({"a": [0, 1] * 3}, {"label_column": "lable"}, "no column 'lable' for label_column; valid: a, image"),
        ({"a": [0, 1] * 3}, {"image_column": "a"}, "column 'a' of"),
        ({"a": [0.5, 1.5] * 3}, {}, "targets of a regression cannot be used"),
        ({"a": [0.5, 1.5] * 3}, {"label_column": "a"}, "targets of a regression cannot be used"),
        ({"a": list(range(6))}, {}, "are no classes: 6 different values in 6 images"),
        ({"a": list("uvwxyz")}, {}, "are no classes: 6 different values in 6 images"),
        ({"a": [0, 1, 0, 1, 0, None]}, {}, "1 of 6 labels of a.parquet are missing"),
        ({"a": [3] * 6}, {}, "at least 2 classes are needed, and a has 1: 3"),
    ],
)
def test_columns_that_do_not_do(
    columns: Any, options: dict[str, Any], words: str, tmp_path: Path, refused: Refused
) -> None:
    write(tmp_path / "a.parquet", cells(6), **columns)
    with refused(words):
        load(tmp_path / "a.parquet", **options)


def test_columns_by_name_and_type() -> None:
    number, image = {"_type": "Value", "dtype": "int64"}, {"_type": "Image"}
    features = {"id": number, "img": image, "fine": {"_type": "ClassLabel", "names": list(NAMES)}}
    assert choose(features, None, None, "x") == ("img", "fine", NAMES, None)
    assert choose(features, None, "id", "x") == ("img", "id", None, None)


def test_several_data_sets_in_one_folder(tmp_path: Path, refused: Refused) -> None:
    for name in ("big", "small"):
        write(tmp_path / "sets" / name / "train-0.parquet", cells(4), label=[0, 1] * 2)
    with refused("holds several data sets, big, small; name one of them"):
        load(tmp_path / "sets")
    assert load(tmp_path / "sets" / "big").nclass == 2


# ---- a test set where there is none ----


def test_a_test_set_is_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = [0] * 20 + [1] * 10 + [2]
    write(tmp_path / "a.parquet", cells(31), label=labels)
    data = load(tmp_path / "a.parquet")
    said = lines(caplog, "WARNING")
    assert data.counts == [16, 8, 1] and data.test_labels is not None
    assert data.test_labels.bincount().tolist() == [4, 2]
    assert (
        len(said) == 1
        and said[0].endswith("none of 2, of which there is one image")
        and "a has no test set: 6 of its 31 images are taken for one, 0.2 of each class" in said[0]
    )
    both = torch.cat([data.images, data.test_images]).flatten(1)  # type: ignore[list-item]
    assert len(both.unique(dim=0)) == 31
    assert torch.equal(load(tmp_path / "a.parquet").images, data.images)
    assert not torch.equal(load(tmp_path / "a.parquet", test_seed=1).images, data.images)
    assert load(tmp_path / "a.parquet", test_fraction=0).test_images is None
    assert load(tmp_path / "a.parquet", test_fraction=0.5).counts == [10, 5, 1]


def test_an_imagefolder_without_splits(tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    for row in range(12):
        place = tmp_path / "pets" / NAMES[row % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(row)).save(place / f"{row}.png")
    data = load(tmp_path / "pets")
    assert (data.classes, data.counts) == (NAMES, [3, 3, 3])
    for name in ("bad1", "bad2"):
        (tmp_path / "pets" / "dog" / f"{name}.png").write_bytes(b"junk")
    with refused("dog/bad1.png is not a readable image", "2 of 14 images cannot be read", "--skip_bad"):
        load(tmp_path / "pets")
    caplog.clear()
    assert torch.equal(load(tmp_path / "pets", skip_bad=True).images, data.images)
    assert "pets: not used: unreadable images: 2 (" in lines(caplog)[0]


# ---- Hugging Face ----


def test_objects_of_datasets(refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    rows = {"img": [Image.fromarray(pixels(row)) for row in range(9)], "label": [0, 1, 2] * 3}
    part = datasets.Dataset.from_dict(rows, features=features)
    data = load(part.select(range(8, -1, -1)), test_fraction=0)
    assert data.labels.tolist() == [2, 1, 0] * 3 and data.classes == NAMES
    assert (data.images[0, 0].numpy() == pixels(8)).all()
    hidden = datasets.Dataset.from_dict({"img": rows["img"], "label": [-1] * 9}, features=features)
    caplog.clear()
    split = load(datasets.DatasetDict(train=part, test=hidden))
    assert split.counts == [2, 2, 2]
    assert lines(caplog)[0] == "hf: not used: images of the split test, which have no labels: 9"
    assert load(datasets.DatasetDict(train=part, validation=part)).counts == [3, 3, 3]
    with refused("splits a, b, and none is called train"):
        load(datasets.DatasetDict(a=part, b=part))
    with refused("is a stream"):
        load(part.to_iterable_dataset())


def test_a_hub_name_without_network(refused: Refused) -> None:
    pytest.importorskip("datasets")
    with refused("the folder someone/pets does not exist", "the Hugging Face hub gives no data set", "no network"):
        load("someone/pets")


def test_a_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(pixels(row)) for row in range(9)], "label": [0, 1, 2] * 3}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    asked: list[Any] = []

    def actual(path: str, configuration: str | None) -> Any:
        asked.append((path, configuration))
        return datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))

    monkeypatch.setattr(datasets, "load_dataset", actual)
    data = load("someone/pets:tiny")
    assert (asked, data.name, data.classes) == ([("someone/pets", "tiny")], "someone--pets--tiny", NAMES)


# ---- memory ----


class Pets(Dataset):
    classes = NAMES

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image = pixels(row, 6, 5, 3)
        kinds = {
            "pil": Image.fromarray(image),
            "array": image,
            "tensor": torch.from_numpy(image).permute(2, 0, 1) / 255,
        }
        return kinds[self.kind], row % 3


@pytest.mark.parametrize("kind", ["pil", "array", "tensor"])
def test_torch_data_sets(kind: str) -> None:
    data = load({"train": Pets(kind), "test": Pets(kind)})
    assert (data.classes, data.counts) == (NAMES, [3, 3, 3]) and data.test_images is not None
    assert (data.images[4].numpy() == pixels(4, 6, 5, 3).transpose(2, 0, 1)).all()


def test_arrays_and_pairs_of_tensors(refused: Refused) -> None:
    images = np.stack([pixels(row) for row in range(12)])
    data = load((images, np.array(["b", "a", "c"] * 4)))
    assert data.classes == ("a", "b", "c") and data.counts == [3, 3, 3] and data.test_images is not None
    tensors = TensorDataset(torch.from_numpy(images)[:, None], torch.tensor([5, 7] * 6))
    assert load(tensors, test_fraction=0).classes == ("5", "7")
    with refused("12 train images, but 3 labels"):
        load((images, np.array([0, 1, 2])))
    with refused("labels of the data are float64, not classes"):
        load((images, np.linspace(0, 1, 12)))
    with refused("floats of item 0 must be in [0, 1]"):
        load(TensorDataset(torch.randn(4, 1, 5, 5), torch.tensor([0, 1] * 2)))
    with refused("is no (image, label) pair"):
        load(TensorDataset(torch.zeros(4, 1, 5, 5)))
    for wrong in (float("nan"), float("inf")):
        some = np.full((4, 5, 5), 0.5)
        some[1, 2, 3] = wrong
        with refused("floats of train images must be finite: NaN or infinite in 1 of 4 images"):
            load((some, np.array([0, 1, 0, 1])))
