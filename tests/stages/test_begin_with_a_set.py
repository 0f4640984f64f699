"""`--init SET`: a run begins with the images of another run or of an export."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from helpers.command import TINY, call, refused

RUN = ("condense", "-d", "digits", *TINY, "--quiet", "--out", "new")


@pytest.fixture(autouse=True)
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workspace / "pool", tmp_path / "pool")
    shutil.copytree(workspace / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("what", ["base", "base/condensed.safetensors", "stored.npz"])
def test_begins_where_another_ended(what: str) -> None:
    base = attar.load_set(Path("base"))
    attar.export_set(base, "npz", "stored", what="stored")
    call(*RUN, "--init", what)
    begun = attar.load_set(Path("new"))
    assert begun.initial is not None and base.initial is not None
    rounding = 1 / 510 if what.endswith("npz") else 0  # an export has bytes
    torch.testing.assert_close(begun.initial, base.images, rtol=0, atol=rounding + 1e-7)
    assert not torch.equal(begun.images, begun.initial)
    shutil.rmtree("base")
    call("condense", "--resume", "new", "--niter", "2", "--quiet")  # what it began with is no longer needed
    call("evaluate", "new", "--runs", "1", "--epochs", "1", "--yardsticks", "initial", "--quiet")


def test_each_part_takes_its_classes() -> None:
    base = attar.load_set(Path("base"))
    begun = attar.condense("digits", init=Path("base"), nclass_sub=4, phase=1, niter=1, inner_loop=1)
    assert begun.initial is not None
    assert torch.equal(begun.initial, base.images[4:8])


GRIDS = ("condense", "-d", "digits", *TINY, "-f", "2", "--quiet")


def test_a_set_of_grids_is_taken_apart_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    call(*GRIDS, "--decode_type", "multi", "--out", "grids")
    said = refused(capsys, *GRIDS, "--init", "grids", "--out", "new")
    assert "grids has decode_type multi; begin with it by --decode_type multi" in said and not Path("new").exists()
    call(*GRIDS, "--init", "grids", "--decode_type", "multi", "--out", "new")


def test_a_set_of_another_space_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *RUN, "--zca", "--init", "base")
    assert "base is in unit space, the data in zca; begin with it in one: leave --zca out" in said
    base = attar.load_set("base")
    attar.save_set("white.safetensors", replace(base, space="zca"))
    said = refused(capsys, *RUN, "--init", "white.safetensors")
    assert "white.safetensors is in zca space, the data in unit; begin with it in one: add --zca" in said


def test_values_that_will_be_clamped_are_said(caplog: pytest.LogCaptureFixture) -> None:
    base = attar.load_set("base")
    images = base.images.clone()
    images.flatten()[:64] += 1.5  # one image of ten
    attar.save_set("wide.safetensors", replace(base, images=images, space="unbounded"))
    begin: dict[str, Any] = {
        "init": "wide.safetensors",
        "width": 0.05,
        "models": 1,
        "epochs": 1,
        "niter": 1,
        "inner_loop": 1,
    }
    attar.condense("digits", **begin)
    line = "wide.safetensors: 10 % of the values are outside [0, 1]; this run clamps them"
    assert caplog.messages.count(line) == 1
    caplog.clear()
    attar.condense("digits", **begin, clamp=False)
    assert not [said for said in caplog.messages if "clamps" in said]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--init", "base", "--ipc", "2"), "base has 1 image of class '0', not 2; begin with it by --ipc 1"),
        (("--init", "base", "-f", "2"), "base has factor 1; begin with it by --factor 1"),
        (("--init", "base", "--size", "16"), "base holds images of 1x8x8, the data of 1x16x16; no run can begin"),
        (("--init", "no/set"), "there is no set no/set to begin with; init is mix, random, noise, correct, herding"),
        (("--init", "bases"), "unknown init 'bases'; valid: aum, ccs, correct, el2n"),
    ],
)
def test_refused(flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *RUN, *flags)
    assert not Path("new").exists()


@pytest.mark.parametrize("what", ["base", "./base/", "base/condensed.safetensors"])
def test_the_set_that_a_run_begins_with_is_not_replaced_by_it(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path("base").rglob("*") if path.is_file()}
    said = refused(capsys, "condense", "-d", "digits", *TINY, "--init", what, "--out", "base", "--overwrite", "--quiet")
    assert "base holds what the new run is made of" in said
    assert {path: path.read_bytes() for path in Path("base").rglob("*") if path.is_file()} == before


def test_a_part_that_a_run_begins_with_is_not_replaced_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    call("condense", "-d", "digits", *TINY, "--nclass_sub", "5", "--out", "halves", "--quiet")
    Path("halves/condensed.safetensors").rename("kept")
    assert "attar condense --resume halves makes it again" in refused(capsys, "show", "halves")
    Path("kept").rename("halves/condensed.safetensors")
    before = {path: path.read_bytes() for path in Path("halves").rglob("*.safetensors")}
    again = ("condense", "-d", "digits", *TINY, "--out", "halves", "--overwrite", "--quiet")
    assert "name another folder" in refused(capsys, *again, "--only", "0 1 2 3 4", "--init", "halves/parts/0")
    assert "name another folder" in refused(
        capsys, "add", "halves/parts/1", "--out", "halves", "--overwrite", "--quiet"
    )
    assert {path: path.read_bytes() for path in Path("halves").rglob("*.safetensors")} == before
