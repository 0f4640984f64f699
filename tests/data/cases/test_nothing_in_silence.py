"""What is dropped or guessed is said in a line; what cannot be used is refused by saying what it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data.load import load
from attar.data.sources.written import refuse_among_classes
from helpers.logs import lines
from helpers.ways import ON_DISK, Way, folder, picture

Refused = Callable[..., Any]
PETS = {"train": {"cat": [10, 11, 12], "dog": [100, 101, 102]}, "test": {"cat": [13], "dog": [103]}}


def put(place: Path, name: str, content: bytes = b"x") -> None:
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)


def run_folder(place: Path) -> None:
    put(place, "train/x/config.json", b'{"data": {}, "attar": {}}')
    picture(1).save(place / "train" / "x" / "images.png")


DROPPED: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "hidden": (lambda place: put(place, "train/cat/.0.png"), "hidden or system files and folders", 1),
    "system": (lambda place: put(place, "train/__MACOSX/._cat"), "hidden or system files and folders", 1),
    "thumbs": (lambda place: put(place, "train/cat/Thumbs.db"), "hidden or system files and folders", 1),
    "suffix": (
        lambda place: put(place, "train/cat/a.txt"),
        "files with other endings than images (.txt)",
        1,
    ),
    "no suffix": (
        lambda place: put(place, "train/cat/a"),
        "files with other endings than images (none)",
        1,
    ),
    "loose": (lambda place: put(place, "train/a.png"), "files beside the class folders", 1),
    "beside": (lambda place: put(place, "notes/a.txt"), "files beside the splits", 1),
    "pipe": (lambda place: os.mkfifo(place / "train" / "cat" / "p.png"), "pipes, sockets and devices", 1),
    "loop": (lambda place: (place / "train" / "cat" / "l").symlink_to(place / "train"), "links to a folder above", 1),
    "run": (run_folder, "run folders written by attar", 1),
    "validation": (
        lambda place: folder(place, {"val": {"cat": [14], "dog": [104]}}),
        "images of the split val",
        2,
    ),
    "unlabelled": (
        lambda place: [put(place, "eval/.keep"), picture(7).save(place / "eval" / "7.png")],
        "images of eval/, which has no class folders",
        1,
    ),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_not_used_is_counted(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add, reason, count = DROPPED[case]
    place = folder(tmp_path / "pets", PETS)
    add(place)
    data = load(place)
    assert data.counts == [3, 3] and data.left_out.counts[reason] == count
    (line,) = [line for line in lines(caplog, "WARNING") if "not used" in line]
    assert line.startswith("pets: not used: ") and f"{reason}: {count}" in line


def test_several_reasons_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = folder(tmp_path / "pets", PETS)
    for case in ("hidden", "suffix", "loose", "pipe", "run"):
        DROPPED[case][0](place)
    assert len(load(place).left_out.counts) == 5
    assert len([line for line in lines(caplog) if "not used" in line]) == 1


@pytest.mark.parametrize("suffix", ["tga", "jp2", "ico", "ppm", "dds", "sgi", "avif", "PNG", "jfif"])
def test_all_formats_of_pillow_are_read(suffix: str, tmp_path: Path) -> None:
    Image.init()
    if f".{suffix.lower()}" not in Image.registered_extensions():
        pytest.skip("this Pillow does not write it")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (50, 60, 70)).save(tmp_path / "pets" / name / f"{number}.{suffix}")
    assert load(tmp_path / "pets", test_fraction=0).counts == [2, 2]


@pytest.mark.parametrize(
    ("highest", "bits", "right"), [(200, 8, 200), (900, 10, 224), (3000, 12, 187), (9000, 14, 140), (60000, 16, 233)]
)
def test_16_bits_by_their_real_range(
    highest: int, bits: int, right: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That of all images, train and test, whichever comes first."""
    for split, values in (("train", (0, highest // 2)), ("test", (0, highest))):
        for name, value in zip(("cat", "dog"), values, strict=True):
            place = tmp_path / "ct" / split / name
            place.mkdir(parents=True)
            Image.fromarray(np.full((4, 4), value, np.uint16)).save(place / "a.png")
    data = load(tmp_path / "ct")
    assert data.test_images is not None and int(data.test_images.max()) == right
    assert int(data.images.max()) == round(highest // 2 * 255 / (2**bits - 1))
    (line,) = [line for line in lines(caplog) if "16-bit" in line]
    assert f"highest value of the 16-bit images is {highest}" in line and f"{bits}-bit" in line


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(3)[np.arange(12) % 3], ()),
        (np.arange(12)[:, None] % 3, ()),
        ([float(row % 3) for row in range(12)], ()),
        (torch.arange(12) % 3, ()),
        (np.ones((12, 4), int), ("several labels an image cannot be used",)),
        (np.random.RandomState(0).rand(12, 3), ("several values an image cannot be used",)),
        (np.linspace(0, 1, 12), ("targets of a regression cannot be used",)),
        ([[0], [1, 2]] * 6, ("several labels an image cannot be used",)),
        ([0, 1, None] * 4, ("4 of 12 labels of the data are missing",)),
        ([0.0, 1.0, float("nan")] * 4, ("4 of 12 labels of the data are missing",)),
        ([0, "a", 1] * 4, ("are text and whole numbers", "one kind for all")),
        ([True, "False"] * 6, ("are True or False and text", "one kind for all")),
        (list("abcdefghijkl"), ("are no classes: 12 different values in 12 images",)),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else type(value).__name__,
)
def test_labels_of_every_form(labels: Any, words: tuple[str, ...], refused: Refused) -> None:
    images = np.random.RandomState(0).randint(0, 256, (12, 5, 4), np.uint8)
    if words:
        with refused(*words):
            load((images, labels))
    else:
        assert load((images, labels), test_fraction=0).labels.tolist() == [row % 3 for row in range(12)]


@pytest.mark.parametrize("truth", [[True, False], ["True", "False"]], ids=["bool", "text"])
def test_true_and_false_are_class_names(truth: list[Any]) -> None:
    """So that they mean the same as text: one split may have the one, the other the other."""
    images = np.random.RandomState(0).randint(0, 256, (24, 5, 4), np.uint8)
    data = load({"train": (images[:12], truth * 6), "test": (images[12:], ["False", "True"] * 6)})
    assert data.test_labels is not None and data.classes == ("False", "True")
    assert data.labels.tolist() == [1, 0] * 6 and data.test_labels.tolist() == [0, 1] * 6


def test_a_folder_called_like_a_known_data_set(refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    folder(Path("digits"), PETS)
    assert load("digits").nclass == 10 and "write ./digits" in lines(caplog, "WARNING")[0]
    assert load("./digits").nclass == 2
    folder(Path("mnist"), PETS)
    with refused("./mnist is there", "--data_dir mnist"):
        load("mnist")


def test_names_that_are_no_utf8_are_written_so_that_they_can_be(tmp_path: Path) -> None:
    for name in (b"cat", b"d\xff\xfeg"):
        place = os.fsencode(tmp_path / "pets") + b"/" + name
        os.makedirs(place)
        for number in range(2):
            picture(number).save(os.fsdecode(place) + f"/{number}.png")
    data = load(tmp_path / "pets", test_fraction=0)
    assert data.classes == ("cat", "d\\xff\\xfeg") and "".join(data.classes).encode("utf-8")


@pytest.mark.parametrize("way", ON_DISK, ids=lambda way: way.__name__)
def test_a_second_load_is_the_same(way: Way, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    source = way(tmp_path / "set", PETS)
    first, second = (load(source, cache_dir=tmp_path / "c") for _ in range(2))
    assert (first.fingerprint, first.classes, first.mean) == (second.fingerprint, second.classes, second.mean)
    memory = load(source, load_memory=True)
    assert memory.fingerprint == first.fingerprint


def test_out_among_the_classes_is_refused(tmp_path: Path, refused: Refused) -> None:
    split, flat = folder(tmp_path / "split", PETS), folder(tmp_path / "x", PETS) / "train"
    for out, source in ((split / "train" / "x", split), (flat / "x", flat), (flat / "cat", flat), (flat, flat)):
        with refused("lies among the class folders", "--out"):
            refuse_among_classes(out, str(source))
    for out, source in ((split / "runs", split), (tmp_path / "y", flat), (tmp_path, flat)):
        refuse_among_classes(out, str(source))
    refuse_among_classes(tmp_path, "digits")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,breed\n0,lab\n1,pug\n2,lab\n3,pug\n", ()),
        ("\ufefffile;class;split\n0.png;lab;train\n1.png;pug;train\n2.png;lab;test\n3.png;pug;test\n", ()),
        ("image_id,lab,pug\n0,1,0\n1,0,1\n2,1,0\n3,0,1\n", ()),
        ("image_id,lab,pug\n0,1,1\n1,0,1\n2,1,0\n3,0,1\n", ("several labels an image",)),
        ("id,age\n0,1.5\n1,2.5\n2,1.5\n3,2.5\n", ("targets of a regression",)),
        ("id,a,b\n0,x,y\n1,x,y\n2,x,y\n3,x,y\n", ("several columns besides the files, a, b", "--label_column")),
        ("name,breed\nu,lab\nv,pug\n", ("no column of", "names the images")),
        ("id,breed\n0,lab\n1\n", ("line 3 of", "has 1 columns")),
    ],
)
def test_a_table_of_labels(text: str, words: tuple[str, ...], tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "pets" / "images").mkdir(parents=True)
    for number in range(4):
        picture(number).save(tmp_path / "pets" / "images" / f"{number}.png")
    table = tmp_path / "pets" / "labels.csv"
    table.write_text(text)
    with refused("1 class folder, 'images'", f"--labels_csv {table}"):
        load(tmp_path / "pets")
    if words:
        with refused(*words):
            load(tmp_path / "pets", labels_csv=table, test_fraction=0)
    else:
        data = load(tmp_path / "pets", labels_csv=table, test_fraction=0)
        assert data.classes == ("lab", "pug") and sum(data.counts) == (2 if "split" in text else 4)
