"""`attar add`: new classes join a run whose images stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import attar
from attar.data.images import ImageData
from helpers.command import TINY, call, refused

SHORT = {"width": 0.05, "models": 1, "epochs": 1, "niter": 1, "inner_loop": 1}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seven() -> Path:
    """A run of the first seven digits."""
    call("condense", "-d", "digits", "--nclass", "7", *TINY, "--quiet", "--out", "seven")
    return Path("seven")


def test_from_run_to_result(seven: Path) -> None:
    files = {path: path.read_bytes() for path in seven.iterdir() if path.is_file()}
    call("add", "seven", "--quiet")
    before, after = attar.load_set(seven), attar.load_set(Path("seven-added"))
    assert after.classes == tuple("0123456789") and after.labels.tolist() == list(range(10))
    assert torch.equal(after.images[:7], before.images), "no image of the run has changed"
    assert before.initial is not None and after.initial is not None
    assert torch.equal(after.initial[:7], before.initial)
    assert not torch.equal(after.images[7:], after.initial[7:]), "the new ones were optimised"
    assert {path: path.read_bytes() for path in seven.iterdir() if path.is_file()} == files
    assert (after.recipe["condense"]["only"], after.recipe["data"]["nclass"]) == ([], None)
    about = json.loads(Path("seven-added/config.json").read_text())["attar"]
    assert about["added"] == ["7", "8", "9"]
    call("evaluate", "seven-added", "--runs", "1", "--epochs", "1", "--yardsticks", "initial", "--quiet")
    assert json.loads(Path("seven-added/result.json").read_text())["accuracy"]["convnet2"]["n"] == 1


def test_lost_labels_are_said(seven: Path, caplog: pytest.LogCaptureFixture) -> None:
    call("label", "seven", "--models", "1", "--epochs", "1", "--quiet")
    assert attar.load_set(seven).teacher
    caplog.clear()
    after = attar.add("seven")
    assert (after.soft_labels, after.teacher) == (None, {})
    (said,) = [line for line in caplog.messages if "attar label" in line]
    assert said.startswith("the teacher's labels of the parts are not in the joined set")
    assert attar.load_set(Path("seven-added")).labels.tolist() == list(range(10))


def test_a_part_gets_the_classes_that_it_lacks() -> None:
    call("condense", "-d", "digits", "--nclass", "3", "--only", "1", *TINY, "--quiet", "--out", "one")
    call("add", "one", "-d", "digits", "--nclass", "3", "--quiet")
    before, after = attar.load_set(Path("one")), attar.load_set(Path("one-added"))
    assert after.labels.tolist() == [0, 1, 2] and torch.equal(after.images[1], before.images[0])


def test_classes_are_joined_by_name() -> None:
    """The data may list its classes in any order."""
    digits = attar.load("digits", nclass=5)
    three = ImageData(*kept(digits, [4, 0, 2]), classes=["four", "zero", "two"])
    five = ImageData(*kept(digits, [0, 1, 2, 3, 4]), classes=["zero", "one", "two", "three", "four"])
    run = attar.condense(three, folder="three", factor=1, ipc=2, **SHORT)
    after = attar.add("three", five, folder="five")
    assert after.classes == five.classes and after.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for name in three.classes:
        one, other = ((x.labels == x.classes.index(name), x.images) for x in (run, after))
        assert torch.equal(one[1][one[0]], other[1][other[0]])
    measured = attar.evaluate(after, five, runs=1, epochs=1, yardsticks="none")
    assert len(measured["accuracy"]) == 1


def kept(data: ImageData, digits: list[int]) -> tuple[torch.Tensor, ...]:
    """Images and labels of these digits, in this order of classes, for training and for tests."""
    actual: list[torch.Tensor] = []
    for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels)):
        assert isinstance(images, torch.Tensor) and labels is not None
        rows = torch.isin(labels, torch.tensor(digits))
        actual += [images[rows], torch.tensor([digits.index(label) for label in labels[rows].tolist()])]
    return tuple(actual)


def test_an_interrupted_call_goes_on(seven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("attar.stages.add.merge_into", interrupted)
        attar.add(seven)
    part = Path("seven-added/parts/added/condensed.safetensors")
    images = part.stat().st_mtime_ns
    assert torch.equal(attar.add(seven).images[7:], attar.load_set(part).images)
    assert part.stat().st_mtime_ns == images, "what was condensed is not condensed again"


def test_refused(seven: Path, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = str(workspace / "base")
    assert "digits has no class that" in refused(capsys, "add", whole)
    assert "digits lacks the class '5' of seven; images of all classes are needed" in refused(
        capsys, "add", "seven", "--nclass", "5"
    )
    words = "seven holds images of 1x8x8, the data of 1x4x4; --size brings"
    assert words in refused(capsys, "add", "seven", "--size", "4")
    assert "is no run folder of attar condense" in refused(capsys, "add", "seven/condensed.safetensors")
    assert "there is no run folder or file nothing" in refused(capsys, "add", "nothing")
    assert not Path("seven-added").exists()
    call("add", "seven", "--quiet")
    assert "seven-added already holds a run" in refused(capsys, "add", "seven", "--quiet")
    assert "only and nclass_sub both say which classes" in refused(
        capsys, "condense", "-d", "digits", "--only", "1", "--nclass_sub", "2"
    )
    assert "unknown class '11'; did you mean '1'?" in refused(capsys, "condense", "-d", "digits", "--only", "11")


def test_only_some_classes(capsys: pytest.CaptureFixture[str]) -> None:
    call("condense", "-d", "digits", *TINY, "--only", "4", "2", "--quiet", "--out", "two")
    assert attar.load_set(Path("two")).labels.tolist() == [2, 4]
    assert "the set is a part: it holds 2 of 10 classes" in refused(capsys, "evaluate", "two", "--quiet")


def test_the_run_itself_is_never_replaced(seven: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.read_bytes() for path in seven.iterdir() if path.is_file()}
    for run in ("seven", "seven/condensed.safetensors", "../" + Path.cwd().name + "/seven"):
        said = refused(capsys, "add", run, "--out", "seven", "--overwrite", "--quiet")
        assert "name another folder with --out" in said or "no run folder" in said
    assert {path: path.read_bytes() for path in seven.iterdir() if path.is_file()} == files
