"""Trajectory matching as users run it: experts, a run that is killed, what was learned, and its evaluation."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.errors import UserError
from attar.evaluation.training_sets import training_set
from attar.sets import set_files
from attar.stages.train import train_set
from helpers.command import call, refused

EXPERTS = ("--width", "0.05", "--model_num", "2", "--nclass", "3")
SHORT = (*EXPERTS, "--max_start_epoch", "2", "--expert_epochs", "1", "--syn_steps", "2", "--inner_loop", "2")
TRAINING = ("--epochs", "2", "--runs", "1", "--quiet")


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pools and a run of mtt and of datm. Read only."""
    path = tmp_path_factory.mktemp("trajectories")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for method in ("mtt", "datm"):
            call("condense", "-d", "digits", "--method", method, *SHORT, "--niter", "2", "--out", method, "--quiet")
    return path


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_trains_its_experts_as_long_as_it_uses_them(here: Path) -> None:
    for method, optimizer in (("mtt", "sgd"), ("datm", "gsam")):
        config = read(here / method / "config.json")
        assert config["pool"] | {"epochs": 2, "keep_epochs": True, "optimizer": optimizer} == config["pool"]
        assert read(here / method / "result.json")["method"] == method
    assert len(list((here / "pool" / "digits-convnet2-w0.05").iterdir())) == 4, "two experts each"


def test_what_was_learned_is_in_the_set(here: Path) -> None:
    mtt, datm = (set_files.load_set(here / method) for method in ("mtt", "datm"))
    assert all(one.lr is not None and one.lr != pytest.approx(0.02, rel=1e-6) for one in (mtt, datm))
    assert mtt.soft_labels is None and datm.soft_labels is not None
    assert torch.allclose(datm.soft_labels.sum(dim=1), torch.ones(3)) and datm.soft_labels.shape == (3, 3)
    images, soft = training_set("learned", datm, attar.load("digits", nclass=3), 0)
    assert len(images) == len(soft) and soft.is_floating_point()
    assert datm.start().soft_labels is None and datm.start().lr is None


def test_an_evaluation_shows_both(here: Path, capsys: pytest.CaptureFixture[str], said: list[str]) -> None:
    for method in ("mtt", "datm"):
        call("evaluate", method, *TRAINING, "--yardsticks", "initial")
        result = read(here / method / "result.json")
        assert {"accuracy", "learned", "initial"} <= result.keys()
        learned = result["learned"]["convnet2"]
        assert learned["lr"] == set_files.load_set(method).lr and learned["images"] == 3
        assert "as learned" in capsys.readouterr().out and "as learned" in (here / method / "report.html").read_text()
        assert any("has learned the learning rate" in line and "both are shown" in line for line in said)
    condensed = set_files.load_set("datm")
    hard = attar.evaluate(condensed, epochs=2, runs=1, yardsticks=(), lr=condensed.lr)
    assert hard["accuracy"]["convnet2"]["n"] == 1


def test_a_network_is_trained_as_learned(here: Path) -> None:
    condensed = set_files.load_set("datm")
    assert train_set(condensed, epochs=1)[1]["protocol"]["lr"] == condensed.lr
    assert train_set(condensed, epochs=1, lr=0.5)[1]["protocol"]["lr"] == 0.5


def test_a_comparison_has_a_column(here: Path, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"dataset": "digits", "nclass": 3, "width": 0.05, "niter": 1, "inner_loop": 1, "models": 1}
    spec |= {"evaluate": {"epochs": 1, "runs": 1, "yardsticks": ["none"]}}
    own = {"syn_steps": 1, "max_start_epoch": 1, "expert_epochs": 1}
    spec["entry"] = [{"method": "dm"}, *({"method": method, **own} for method in ("mtt", "datm"))]
    rows = attar.compare(spec, out=tmp_path / "out")
    assert [row["learned"] is not None for row in rows] == [False, True, True]
    assert "as learned" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_minutes_fit_the_iterations_but_not_the_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = [word for word in SHORT if word not in ("--inner_loop",)][:-1]
    call("condense", "-d", "digits", "--method", "mtt", *own, "--minutes", "0.2", "--out", "run", "--quiet")
    config = read(Path("run/config.json"))
    assert config["pool"]["epochs"] == 2 and config["condense"]["niter"] >= 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(number: signal.Signals, here: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar", "condense", "-d", "digits", "--method", "datm", *SHORT, "--niter"]
    run = tmp_path / "run"
    with subprocess.Popen([*command, "2000", "--out", str(run), "--save_every", "1it", "--quiet"]) as process:
        while not (run / "checkpoint").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    done = json.loads((run / "checkpoint" / "state.json").read_text())["state"]["outer"]
    config = read(run / "config.json")
    config["condense"]["niter"] = done + 2
    (run / "config.json").write_text(json.dumps(config))
    call("condense", "--resume", str(run), "--quiet")
    straight = str(tmp_path / "straight")
    call("condense", "-d", "digits", "--method", "datm", *SHORT, "--niter", str(done + 2), "--out", straight, "--quiet")
    one, other = ((Path(path) / "condensed.safetensors").read_bytes() for path in (run, straight))
    assert one == other


def test_what_is_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("condense", "-d", "digits", "--method", "mtt", *SHORT)
    longer = [str(4) if before == "--max_start_epoch" else word for before, word in zip(("", *run), run, strict=False)]
    assert "cannot condense in parts" in refused(capsys, *run, "--nclass_sub", "2")
    assert "keeps epochs 0 to 2, and match trajectory needs those to 4" in refused(
        capsys, *longer, "--model_path", "pool/digits-convnet2-w0.05", "--out", "other"
    )
    call("pretrain", "-d", "digits", *EXPERTS, "--pt_from", "1", "--out", "plain", "--quiet")
    assert "keeps no epochs" in refused(capsys, *run, "--model_path", "plain", "--out", "other")
    assert "method dm takes no syn_steps here" in refused(
        capsys, "condense", "-d", "digits", "--method", "dm", "--syn_steps", "3", "--out", "other"
    )
    assert "cannot condense in parts" in refused(capsys, "add", "mtt", "-d", "digits", "--nclass", "4")
    assert not (here / "other").exists()


def test_in_python() -> None:
    data = attar.load("digits", nclass=3)
    pool = attar.pretrain(data, method="mtt", width=0.05, epochs=2, models=1)
    own: dict[str, Any] = {"max_start_epoch": 2, "expert_epochs": 1, "syn_steps": 2, "niter": 1, "inner_loop": 2}
    one, other = (attar.condense(data, pool, method="mtt", **own, **more) for more in ({}, {"lr_lr": 0.0}))
    assert not torch.equal(one.images, other.images) and other.lr == pytest.approx(0.02)
    with pytest.raises(UserError, match="needs those to 8"):
        attar.condense(data, pool, method="mtt", **own | {"max_start_epoch": 8})
