"""Every method from the command line: a run folder that names it, and no pool where none is used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import files
from attar.cli.parser import main
from attar.errors import UserError
from attar.sets import set_files
from attar.settings.condense_config import CondenseConfig
from attar.stages.run import images_per_step
from helpers.command import call

SMALL = ("--width", "0.05", "--niter", "2", "--inner_loop", "2", "--quiet")
POOLED = ("--pt_from", "1", "--model_num", "2")
METHODS = ("idc", "idc-i", "dc", "dsa", "dm", "ncfm")


def test_only_an_update_on_real_images_reads_n_data() -> None:
    data, config = attar.load("digits", nclass=2), CondenseConfig(batch_real=8, n_data=50, inner_loop=3)
    read = [images_per_step(data, replace(config, update=update)) for update in ("real", "synthetic", "none")]
    assert read == [3 * (2 * 8 + 50), 3 * 2 * 8, 3 * 2 * 8]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_each_method(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"ncfm": (*POOLED, "--frequencies", "8"), "idc": ("--n_data", "64"), "idc-i": ("--n_data", "64")}.get(
        method, ()
    )
    call("condense", "-d", "digits", "--method", method, *SMALL, *own)
    run = tmp_path / "runs" / f"digits-{method}-ipc1"
    result, config = read(run / "result.json"), read(run / "config.json")
    assert (result["method"], result["inner_iterations"]) == (method, 4)
    assert config["condense"]["method"] == method
    assert files.load_tensors(run / "condensed.safetensors", "set")[1]["method"] == method
    assert (tmp_path / "pool").exists() == (method == "ncfm"), "no pool is trained where none is used"
    assert len(config["attar"]["pool"]) == (2 if method == "ncfm" else 0)
    condensed = set_files.load_set(run)
    assert condensed.method == method and not torch.equal(condensed.images, condensed.start().images)
    call("condense", "--recipe", str(run / "config.json"), "--out", "again", "--quiet")
    assert torch.equal(set_files.load_set(tmp_path / "again").images, condensed.images)


def test_a_method_in_parts_goes_on_after_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = ("condense", "-d", "digits", "--method", "dm", "--nclass_sub", "5", *SMALL)
    call(*parts, "--out", "whole")
    assert sorted(path.name for path in (tmp_path / "whole" / "parts").iterdir()) == ["0", "1"]
    call(*parts, "--phase", "1", "--out", "second")
    whole, second = (set_files.load_set(tmp_path / name) for name in ("whole", "second"))
    assert torch.equal(whole.images[whole.labels >= 5], second.images)
    assert read(tmp_path / "whole" / "result.json")["method"] == "dm"
    call("condense", "--resume", "second", "--niter", "3", "--quiet")
    longer = ["3" if before == "--niter" else word for before, word in zip(("", *parts), parts, strict=False)]
    call(*longer, "--phase", "1", "--out", "third")
    assert torch.equal(*(set_files.load_set(tmp_path / name).images for name in ("second", "third")))


@pytest.mark.usefixtures("time_is_soon_up")
def test_minutes_measure_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    call("condense", "-d", "digits", "--method", "dm", "--width", "0.05", "--minutes", "2", "--quiet")
    found = re.search(r"about (\d+) outer iterations? of (\d+) fit into 2 minutes", "\n".join(said))
    assert found and 0 < int(found[1]) * int(found[2]) < 20_000, "as many as the method has; they take hours"
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "-d", "digits", "--method", "dm"), "method dm takes no pool: its networks are fresh"),
        (
            ("condense", "--method", "idc", "--model_path", "pool"),
            "method idc takes no model_path here: it has network_init fresh",
        ),
        (("condense", "--method", "dmm"), "unknown method 'dmm'; did you mean 'dm'? valid: accdd, cim, datm, dc, dm"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"attar: error: {words}") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_pool_of_ncfm_is_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU few models of few epochs; 20 of 60 with the published recipes."""
    monkeypatch.chdir(tmp_path)
    call("pretrain", "-d", "digits", "--method", "ncfm", "--width", "0.05", *POOLED, "--out", "pool", "--quiet")
    assert len(list((tmp_path / "pool").iterdir())) == 2


def test_methods_in_python() -> None:
    data = attar.load("digits", nclass=2)
    settings: dict[str, Any] = {"width": 0.05, "niter": 1, "inner_loop": 2}
    condensed = attar.condense(data, method="dm", **settings)
    assert condensed.method == "dm"
    pool = attar.pretrain(data, epochs=1, models=1, width=0.05)
    other = attar.condense(data, pool, method="dm", network_init="pool", perturb=True, niter=1, inner_loop=2)
    assert not torch.equal(condensed.images, other.images)
    with pytest.raises(UserError, match="network_init fresh takes no early-stage models; leave the pool out"):
        attar.condense(data, pool, method="dm", niter=1)


def test_dm_is_clamped_unless_asked_otherwise(tmp_path: Path) -> None:
    """Its authors never clamp: their images leave [0, 1], in the file too, and evaluation takes them as they are."""
    for name, given in (("clamped", []), ("free", ["--no_clamp"])):
        command = ["condense", "-d", "digits", "--method", "dm", "--niter", "1", "--inner_loop", "3", "--lr_img", "30"]
        call(*command, *given, "--out", str(tmp_path / name), "--quiet")
    clamped, free = (set_files.load_set(tmp_path / name).images for name in ("clamped", "free"))
    assert clamped.min() >= 0 and clamped.max() <= 1
    assert free.min() < -0.1 and free.max() > 1.1
    call("evaluate", str(tmp_path / "free"), "--runs", "1", "--epochs", "1", "--yardsticks", "none", "--quiet")
