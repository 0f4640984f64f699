"""Every way in gives the same pictures with the same classes; labels mean what their names say."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attar.data.load import load
from attar.errors import UserError
from helpers.logs import lines
from helpers.ways import WAYS, Pictures, Way, arrays, class_labels, folder, read

Refused = Callable[..., Any]
CAT, DOG, EMU = [10, 11, 12, 13], [100, 101, 102], [200, 201, 202]

# What is in the source → what has to come out, with words of the log.
RIGHT: dict[str, tuple[Pictures, Pictures, tuple[str, ...]]] = {
    "train and test": (
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        (),
    ),
    "names in another order": (
        {"train": {"cat": CAT, "dog": DOG}, "test": {"dog": [104], "cat": [14]}},
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        (),
    ),
    "a class that test lacks": (
        {"train": {"cat": CAT, "dog": DOG, "emu": EMU}, "test": {"dog": [104], "emu": [204]}},
        {"train": {"cat": CAT, "dog": DOG, "emu": EMU}, "test": {"cat": [], "dog": [104], "emu": [204]}},
        ("the test images lack 1 of 3 classes: cat",),
    ),
    "validation in the place of test": (
        {"train": {"cat": CAT, "dog": DOG}, "valid": {"dog": [104], "cat": [14]}},
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        (),
    ),
    "test before validation, which is counted": (
        {"train": {"cat": CAT, "dog": DOG}, "dev": {"cat": [15], "dog": [105]}, "test": {"cat": [14], "dog": [104]}},
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        ("not used: ", "dev", ": 2"),
    ),
    "names that differ in case and spaces": (
        {"train": {"Cat": CAT, "cat": DOG, "red fox": EMU, "red_fox": [20]}, "test": {"red fox": [204], "cat": [104]}},
        {
            "train": {"Cat": CAT, "cat": DOG, "red fox": EMU, "red_fox": [20]},
            "test": {"Cat": [], "cat": [104], "red fox": [204], "red_fox": []},
        },
        ("the classes 'Cat' and 'cat' differ only in case, spaces", "'red fox' and 'red_fox' differ only"),
    ),
    "one name in two forms of Unicode": (
        {"train": {"caf\u00e9": CAT, "dog": DOG}, "test": {"cafe\u0301": [14], "dog": [104]}},
        {"train": {"caf\u00e9": CAT, "dog": DOG}, "test": {"caf\u00e9": [14], "dog": [104]}},
        (),
    ),
    "a picture in two classes": (
        {"train": {"cat": CAT, "dog": [*DOG, 12]}, "test": {"cat": [14, 100], "dog": [104]}},
        {"train": {"cat": CAT, "dog": [12, *DOG]}, "test": {"cat": [14, 100], "dog": [104]}},
        ("4 images in several classes, pixel for pixel, such as cat and dog", "pixel for pixel: 1 of 3 test images"),
    ),
    "a split that nobody knows": (
        {
            "train": {"cat": CAT, "dog": DOG},
            "holdout": {"cat": [15], "dog": [105]},
            "test": {"cat": [14], "dog": [104]},
        },
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        ("not used: ", "holdout", ": 2"),
    ),
    "two splits to train on": (
        {
            "train": {"cat": CAT, "dog": DOG},
            "training": {"cat": [15], "dog": [105]},
            "test": {"cat": [14], "dog": [104]},
        },
        {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "dog": [104]}},
        ("not used: images of the split training: 2",),
    ),
    "numbers before words": (
        {"train": {"10": CAT, "9": DOG, "other": EMU}, "test": {"other": [204], "9": [104], "10": [14]}},
        {"train": {"9": DOG, "10": CAT, "other": EMU}, "test": {"9": [104], "10": [14], "other": [204]}},
        (),
    ),
    "numbers in the order of numbers": (
        {"train": {"10": CAT, "9": DOG, "1": EMU}, "test": {"9": [104], "10": [14], "1": [204]}},
        {"train": {"1": EMU, "9": DOG, "10": CAT}, "test": {"1": [204], "9": [104], "10": [14]}},
        (),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_all_ways_in_agree(way: Way, case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given_, right, words = RIGHT[case]
    place = tmp_path / "set"
    place.mkdir()
    data = load(way(place, given_))
    assert read(data) == right
    assert data.size == (6, 8) and data.channels == 1
    said = "\n".join(lines(caplog, "WARNING")).lower()
    for word in words:
        assert word.lower() in said, said


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_test_class_that_train_lacks_is_refused(way: Way, tmp_path: Path, refused: Refused) -> None:
    place = tmp_path / "set"
    place.mkdir()
    with refused("'fox'", "which"):
        load(way(place, {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [14], "fox": [104]}}))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_first_classes_alone(way: Way, tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    data = load(
        way(place, {"train": {"cat": CAT, "dog": DOG, "emu": EMU}, "test": {"emu": [204], "dog": [104], "cat": [14]}}),
        nclass=2,
    )
    assert len(data.classes) == 2 and len(read(data)["train"]) == 2
    whole = {"cat": CAT, "dog": DOG, "emu": EMU}
    assert read(data)["train"] == {name: whole[name] for name in data.classes}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_equal_images_in_train_and_test_are_counted(way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "set"
    place.mkdir()
    data = load(way(place, {"train": {"cat": CAT, "dog": DOG}, "test": {"cat": [10, 14], "dog": [104, 102]}}))
    assert data.equal.test == 2
    assert any("pixel for pixel: 2 of 4 test images" in line for line in lines(caplog, "WARNING"))


names = st.lists(
    st.text("abcxyz019 _-é", min_size=1, max_size=6).map(str.strip).filter(lambda name: name and name[0] not in ".-_"),
    min_size=2,
    max_size=5,
    unique_by=str.lower,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=names, data=st.data())
def test_any_names_in_any_order(
    names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is in train and test of a class by its name comes out under that name."""
    order = data.draw(st.permutations(names))
    train = {name: [10 * place + 1, 10 * place + 2, 10 * place + 3] for place, name in enumerate(names)}
    test = {name: [10 * names.index(name) + 9] for name in order}
    for way in (folder, class_labels, arrays):
        place = tmp_path_factory.mktemp("set")
        actual = read(load(way(place, {"train": train, "test": test})))
        assert actual["train"] == train and actual["test"] == {name: test[name] for name in actual["test"]}


def test_a_dict_of_all_images_and_all_labels() -> None:
    images, labels = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4), [0, 1] * 4
    for made in ({"images": images, "labels": labels}, {"y": labels, "x": images}):
        assert torch.equal(load(made).images, load((images, labels)).images)
        split = load({"train": made, "test": made})
        assert split.test_images is not None and torch.equal(split.test_images, split.images)


def test_what_is_read_once_or_by_columns() -> None:
    images, labels = np.zeros((4, 4, 4), np.uint8), [0, 1] * 2
    with pytest.raises(UserError, match=r"found generator; give list\(…\) of it"):
        load(pair for pair in zip(images, labels, strict=True))
    with pytest.raises(UserError, match=r"found DataLoader; give its \.dataset"):
        load(torch.utils.data.DataLoader([(torch.zeros(1, 4, 4), 0)]))
    with pytest.raises(UserError, match="write it by to_parquet, or give"):
        load(import_module("pandas").DataFrame({"image": list(images), "label": labels}))
