"""`--init SET`: a run begins with the images of another run or of an export."""

from __future__ import annotations

import shutil
from pathlib import Path

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
