"""Odd archives, tables and folders: read as meant, or refused in words that say what is wrong."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.data.images import ImageData
from attar.data.load import load
from helpers.logs import lines
from helpers.ways import Pictures, folder, picture, png, read, split_below

Refused = Callable[..., Any]
PETS: Pictures = {"train": {"cat": [10, 11, 12], "dog": [100, 101, 102]}, "test": {"cat": [13], "dog": [103]}}
FLAT = PETS["train"]


def tar(place: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(place, "w") as opened:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            opened.addfile(info, io.BytesIO(raw))
    return place


def samples(extension: str) -> dict[str, bytes]:
    """Six samples of three files each."""
    kinds = {"png": png, extension: lambda grey: png(255 - grey), "cls": lambda grey: b"cat" if grey < 50 else b"dog"}
    greys = FLAT["cat"] + FLAT["dog"]
    return {f"{grey}.{kind}": make(grey) for grey in greys for kind, make in kinds.items()}


def test_a_mask_beside_an_image_is_no_image(tmp_path: Path, refused: Refused) -> None:
    data = load(tar(tmp_path / "x.tar", samples("mask.png")), test_fraction=0)
    assert read(data)["train"] == FLAT
    assert data.left_out.counts == {"further images of a sample, such as masks": 6}
    with refused("10.png and 10.bmp are images of one sample"):
        load(tar(tmp_path / "y.tar", samples("bmp")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_of_one_name_twice_the_last_counts(kind: str, tmp_path: Path) -> None:
    files = [(f"{name}/{grey}.png", png(grey)) for name, greys in FLAT.items() for grey in greys]
    files.insert(0, ("cat/10.png", png(77)))
    place = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as opened:
            for name, raw in files:
                opened.writestr(name, raw)
    else:
        with tarfile.open(place, "w") as archive:
            for name, raw in files:
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    data = load(place, test_fraction=0)
    assert read(data)["train"] == FLAT
    assert data.left_out.counts == {"files that a later one of the same name replaces": 1}


def test_names_of_old_windows_tools_and_names_that_lead_out(
    tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    for name, form in (("x.zip", "set\\{}\\{}.png"), ("y.zip", "../{}/{}.png")):
        with zipfile.ZipFile(tmp_path / name, "w") as opened:
            for label, greys in FLAT.items():
                for grey in greys:
                    opened.writestr(form.format(label, grey), png(grey))
    assert read(load(tmp_path / "x.zip", test_fraction=0))["train"] == FLAT
    with refused("no class folders with images"):
        load(tmp_path / "y.zip")
    assert "not used: names that lead out of the archive: 6 (../cat/10.png" in lines(caplog)[-1]


def test_links_in_a_tar(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", {"train": FLAT})
    (place / "train" / "cat" / "hard.png").hardlink_to(place / "train" / "cat" / "10.png")
    (place / "train" / "cat" / "soft.png").symlink_to("10.png")
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        opened.add(place, "set")
    data = load(tmp_path / "x.tar", test_fraction=0)
    assert read(data)["train"] == {"cat": [10, 10, 11, 12], "dog": FLAT["dog"]}
    assert data.left_out.counts == {"links and devices in the archive": 1}


def test_splits_below_the_classes(tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    place = split_below(tmp_path / "set", PETS)
    assert read(load(place)) == PETS
    assert "the splits test, train lie in the folders of the classes" in lines(caplog, "WARNING")[0]
    picture(1).save(place / "cat" / "1.png")
    with refused("folders of splits below those of classes", "such as cat/1.png", "<split>/<class>"):
        load(place)


@pytest.mark.parametrize(
    "names",
    [("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("Train/images", "TEST/images")],
)
def test_folders_that_speak_of_splits(names: tuple[str, str], tmp_path: Path) -> None:
    folder(tmp_path / "set", {name: PETS[split] for name, split in zip(names, PETS, strict=True)})
    (tmp_path / "set" / "seg_pred").mkdir()
    picture(1).save(tmp_path / "set" / "seg_pred" / "1.png")
    data = load(tmp_path / "set")
    assert read(data) == PETS and sum(data.left_out.counts.values()) == 1


def test_one_folder_under_two_names_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = folder(tmp_path / "set", {"train": {"cat": FLAT["cat"]}})
    (place / "train" / "dog").symlink_to("cat")
    load(place, test_fraction=0)
    said = lines(caplog, "WARNING")
    assert any("train/cat and train/dog are one folder, by a link" in line for line in said)
    assert any("6 images in several classes" in line for line in said)


def test_other_splits_than_train(tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    place = folder(tmp_path / "set", {"val": PETS["train"], "test": PETS["test"]})
    with refused("has the splits test, val, and none is called train"):
        load(place)
    data = load(folder(tmp_path / "one", {"test": FLAT}), test_fraction=0)
    assert read(data)["train"] == FLAT and "one split, test: it is taken for training" in lines(caplog, "WARNING")[0]


def test_endings(tmp_path: Path, refused: Refused) -> None:
    for name in FLAT:
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0").write_bytes(png(1))
    with refused("its files (cat/0, dog/0) have other endings than images"):
        load(tmp_path / "set")


TABLE = "file,label\n0.png,{0}\n1.png,{0}\n2.png,y\n3.png,y\n"


@pytest.mark.parametrize(
    ("raw", "classes", "said"),
    [
        (TABLE.format("café").encode("utf-16"), ("café", "y"), ""),
        (TABLE.format("café").encode("cp1252"), ("café", "y"), "is not UTF-8, and is read as Windows-1252"),
        (TABLE.format("cafe\u0301").encode(), ("café", "y"), ""),
        (TABLE.format("x").replace(".png", ".PNG").encode(), ("x", "y"), ""),
        (TABLE.format("x").encode() + b"4.png,y\n5.png,y\n", ("x", "y"), "rows without a file: 2 (4.png, 5.png)"),
        (TABLE.format("x").encode() + b"0.png,x\n", ("x", "y"), "rows that repeat another: 1 (0.png)"),
        (b"file,label,set\n0.png,x,a\n1.png,y,b\n", ("x", "y"), "the column set is not taken for splits: it holds a"),
    ],
    ids=["utf-16", "cp1252", "two forms", "case of endings", "no file", "repeated", "no splits"],
)
def test_tables_as_they_are(
    raw: bytes, classes: tuple[str, ...], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    table = tmp_path / "labels.csv"
    table.write_bytes(raw)
    data = load(tmp_path, labels_csv=table, test_fraction=0)
    assert data.classes == classes
    assert said in "\n".join(lines(caplog, "WARNING"))


def test_tables_with_several_labels(tmp_path: Path, refused: Refused) -> None:
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.jsonl").write_text(
        "".join(f'{{"file_name": "{number}.png", "label": [{number % 2}, 1]}}\n' for number in range(4))
    )
    with refused("a label of", "is [0, 1]: several labels an image"):
        load(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "labels.csv").write_text("file,label\n0.png,x\n0.png,y\n1.png,y\n")
    with refused("gives 0.png two labels"):
        load(tmp_path, labels_csv=tmp_path / "labels.csv")


def test_arrays_with_other_names_are_counted(tmp_path: Path) -> None:
    images, labels = np.random.RandomState(0).randint(0, 256, (8, 5, 5), np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, holdout_images=images, ids=labels)
    assert load(tmp_path / "x.npz").left_out.examples == {"arrays with other names": ["holdout_images", "ids"]}


def test_what_was_asked_for_in_vain_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = folder(tmp_path / "set", PETS)
    load(place, data_dir=tmp_path, channels="last", label_column="breed", test_fraction=0.5)
    assert "set: of no use for such data: data_dir and label_column and channels and test_fraction" in lines(caplog)
    caplog.clear()
    images = np.random.RandomState(0).randint(0, 256, (8, 5, 5, 3), np.uint8)
    load((images, np.arange(8) % 2), channels="last")
    assert not any("of no use" in line for line in lines(caplog))


def test_what_was_asked_for_in_vain_of_images_in_memory_is_said(caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.RandomState(0).randint(0, 256, (8, 5, 5, 3), np.uint8)
    data = ImageData(images, np.arange(8) % 2, name="mine")
    asked: dict[str, Any] = {
        "channels": "last",
        "image_column": "x",
        "label_column": "y",
        "labels_csv": "t.csv",
        "cache_dir": "c",
    }
    asked |= {"skip_bad": True, "load_memory": True, "data_dir": "d"}
    same = load(data, **asked, nclass=2)
    (line,) = [line for line in lines(caplog) if "of no use" in line]
    assert set(line.removeprefix("mine: of no use for such data: ").split(" and ")) == asked.keys()
    assert dict(same.loaded) == {"nclass": 2}, "what does nothing is no setting that reads them again"
    caplog.clear()
    load(data, nclass=2)
    assert not lines(caplog)


def test_a_seed_that_draws_no_test_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    data = load("digits", test_seed=3)
    assert "digits: test_seed draws no test images: the data have some" in lines(caplog)
    assert "test_seed" not in data.loaded
    caplog.clear()
    images, labels = np.random.RandomState(0).randint(0, 256, (8, 5, 5, 3), np.uint8), np.arange(8) % 2
    load((images, labels), test_fraction=0, test_seed=3)
    assert "data: test_seed draws no test images: none are asked for (test_fraction)" in lines(caplog)
    caplog.clear()
    drawn = load((images, labels), test_seed=3)
    assert not any("draws no test images" in line for line in lines(caplog)) and drawn.loaded["test_seed"] == 3


def test_nearly_black_images_and_labels_called_nan_are_said(caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.RandomState(0).rand(8, 5, 5)
    for values in ((images > 0.5).astype(np.uint8), images / 255):
        caplog.clear()
        load((values, ["x", "nan"] * 4))
        said = "\n".join(lines(caplog, "WARNING"))
        assert "the images are nearly black, 0.00" in said and "the class 'nan' may stand for missing labels" in said


def test_frames_and_captions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, greys in FLAT.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for grey in greys:
            picture(grey).save(tmp_path / "set" / name / f"{grey}.gif", save_all=True, append_images=[picture(1)])
    load(tmp_path / "set", test_fraction=0)
    assert "set: 6 images with several frames or pages; the first of each is read" in lines(caplog, "WARNING")
    data = load(tar(tmp_path / "x.tar", samples("txt")), test_fraction=0)
    assert read(data)["train"] == FLAT and data.left_out.counts == {"files with other endings than images": 6}


def test_two_keys_of_labels(refused: Refused) -> None:
    items = [{"image": picture(row), "label": row % 2, "target": row % 3} for row in range(9)]
    with refused("has the keys label and target; name one with label_column"):
        load(items)
    assert load(items, label_column="target").nclass == 3


def test_a_table_without_names_of_columns(tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{number}.png,{'xy'[number % 2]}\n" for number in range(4)))
    assert load(tmp_path, labels_csv=table, test_fraction=0).counts == [2, 2]
    assert "has no line with the names of its columns: all lines are images" in lines(caplog, "WARNING")[0]
    for names in ("file,label,label", "file,label, label"):
        table.write_text(f"{names}\n0.png,x,y\n")
        with refused("must name the columns, and has 'label' twice"):
            load(tmp_path, labels_csv=table)


def test_names_in_a_zip_that_does_not_say_their_encoding(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        for label, greys in {"caf--": FLAT["cat"], "dog": FLAT["dog"]}.items():
            for grey in greys:
                opened.writestr(f"{label}/{grey}.png", png(grey))
    raw = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(raw.replace(b"caf--", "café".encode()))
    assert load(tmp_path / "x.zip", test_fraction=0).classes == ("café", "dog")


def test_arrays_without_a_split_beside_a_test_set_are_for_training(tmp_path: Path) -> None:
    images = np.repeat(np.arange(6, dtype=np.uint8) * 40, 64).reshape(6, 8, 8)
    named = {"images": images[:4], "labels": [0, 1, 0, 1], "test_images": images[4:], "test_labels": [0, 1]}
    np.savez(tmp_path / "a.npz", **named)
    data = load(tmp_path / "a.npz", device="cpu")
    assert data.images[:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    assert data.test_images is not None and data.test_images[:, 0, 0, 0].tolist() == [160, 200]


def test_what_numpy_does_not_open(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing pickled is run, and no message asks for it."""
    objects = np.array(["cat", "dog"] * 3, dtype=object)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((6, 5, 5), np.uint8), train_labels=objects)
    with refused("a.npz holds arrays of Python objects, which are not opened: save names as labels.astype(str)"):
        load(tmp_path / "a.npz")
    for content in (b"hello", (tmp_path / "a.npz").read_bytes()[:99]):
        (tmp_path / "b.npz").write_bytes(content)
        with refused("b.npz is damaged or no npz file: write one with numpy.savez"):
            load(tmp_path / "b.npz")
    monkeypatch.setattr(np, "load", lambda *_, **__: Path("nowhere").stat())
    with refused("b.npz cannot be read: No such file or directory"):
        load(tmp_path / "b.npz")
