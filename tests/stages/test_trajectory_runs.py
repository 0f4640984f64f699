"""Trajectory matching as users run it: experts, a run that is killed, what was learned, and its evaluation."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.errors import UserError
from attar.evaluation.training_sets import training_set
from attar.runs.sinks import numbers
from attar.sets import foreign, set_files
from attar.stages import schedule
from attar.stages.train import train_set
from helpers.command import call, refused
from helpers.forked import Forked

EXPERTS = ("--width", "0.05", "--model_num", "2", "--nclass", "3")
SHORT = (*EXPERTS, "--max_start_epoch", "2", "--expert_epochs", "1", "--syn_steps", "2", "--inner_loop", "2")
OWN = {**dict.fromkeys(("mtt", "ftd", "datm"), SHORT), "tgdd": (*EXPERTS, "--pt_from", "2", "--inner_loop", "2")}
TRAINING = ("--epochs", "2", "--runs", "1", "--quiet")


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pools and a run of mtt, of datm and of tgdd. Read only."""
    path = tmp_path_factory.mktemp("trajectories")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for method in ("mtt", "datm", "tgdd"):
            call(
                "condense", "-d", "digits", "--method", method, *OWN[method], "--niter", "2", "--out", method, "--quiet"
            )
    return path


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_trains_its_experts_as_long_as_it_uses_them(here: Path) -> None:
    for method, optimizer in (("mtt", "sgd"), ("datm", "gsam"), ("tgdd", "sgd")):
        config = read(here / method / "config.json")
        assert config["pool"] | {"epochs": 2, "keep_epochs": True, "optimizer": optimizer} == config["pool"]
        assert read(here / method / "result.json")["method"] == method
    assert len(list((here / "pool" / "digits-convnet2-w0.05").iterdir())) == 6, "two experts each"


def test_the_learned_rate_is_seen_on_its_way(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In metrics.jsonl, in the line of progress and in a callback; other methods have none."""
    steps = {
        method: [event for event in lines(here / method / "metrics.jsonl") if event["event"] == "step"]
        for method in ("mtt", "datm", "tgdd")
    }
    assert all("lr" not in step for step in steps["tgdd"]) and len(steps["tgdd"]) == 2
    for method in ("mtt", "datm"):
        assert len(steps[method]) == 2 and steps[method][-1]["lr"] == set_files.load_set(method).lr
    assert numbers(steps["mtt"][0]).keys() == {"loss", "seconds", "lr"}
    call("condense", "-d", "digits", "--method", "mtt", *SHORT, "--niter", "1", "--out", str(tmp_path / "run"))
    (step,) = (event for event in lines(tmp_path / "run" / "metrics.jsonl") if event["event"] == "step")
    assert f"loss 1.00 of start, learned lr {step['lr']:.3g}" in capsys.readouterr().err


def test_a_gate_that_lets_nothing_through_is_said(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("condense", "-d", "digits", "--method", "datm", *SHORT, "--niter", "2", "--quiet", "--out")
    call(*run, str(tmp_path / "open"), "--threshold", "1e6")
    assert "moved nothing" not in caplog.text
    call(*run, str(tmp_path / "shut"), "--threshold", "1e-4")
    (line,) = (record for record in caplog.records if "moved nothing" in record.getMessage())
    assert line.levelname == "WARNING" and line.getMessage().startswith("4 of 4 iterations moved nothing: their loss")
    assert "above threshold (0.0001); raise threshold, or lower lr_lr" in line.getMessage()
    shut = set_files.load_set(tmp_path / "shut")
    assert torch.equal(shut.images, shut.start().images)
    words = refused(capsys, *run, str(tmp_path / "far"), "--lr_lr", "1e8")
    assert "and must stay above 0 and below 20; lower" in words and "lr_lr is 1e+08" in words


def test_experts_are_no_early_stage_models_of_another_method(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Only tgdd trains as accdd does, and so accdd takes those; with experts of mtt alone it trains its own."""
    accdd = ("condense", "-d", "digits", *EXPERTS, "--pt_from", "2", "--method", "accdd", "--niter", "1")
    tiny = ("--inner_loop", "1", "--n_data", "64")
    call(*accdd, *tiny, "--out", str(tmp_path / "accdd"), "--quiet")
    used = read(tmp_path / "accdd" / "config.json")["attar"]["pool"]
    assert used == read(here / "tgdd" / "config.json")["attar"]["pool"]
    shutil.copytree(here / "pool", tmp_path / "pool")
    monkeypatch.chdir(tmp_path)
    for model in used:
        next(Path("pool").rglob(f"{model['name']}.*")).unlink()
    call(*accdd, *tiny, "--out", "own")
    assert [model["accuracy"] for model in read(Path("own/config.json"))["attar"]["pool"]] == [
        model["accuracy"] for model in used
    ]
    assert set_files.load_set("own").images.equal(set_files.load_set("accdd").images)
    assert any("2 to train; 4 models of other settings there (" in line and "momentum" in line for line in said)


def test_what_was_learned_is_in_the_set(here: Path) -> None:
    mtt, datm = (set_files.load_set(here / method) for method in ("mtt", "datm"))
    assert all(one.lr is not None and one.lr != pytest.approx(0.02, rel=1e-6) for one in (mtt, datm))
    assert mtt.soft_labels is None and datm.soft_labels is not None
    assert torch.allclose(datm.soft_labels.sum(dim=1), torch.ones(3)) and datm.soft_labels.shape == (3, 3)
    images, soft = training_set("learned", datm, attar.load("digits", nclass=3), 0)
    assert len(images) == len(soft) and soft.is_floating_point()
    assert datm.start().soft_labels is None and datm.start().lr is None
    tgdd = set_files.load_set(here / "tgdd")
    assert not tgdd.has_learned and not torch.equal(tgdd.images, tgdd.start().images)


def test_an_evaluation_shows_both(here: Path, capsys: pytest.CaptureFixture[str], said: list[str]) -> None:
    for method in ("mtt", "datm"):
        call("evaluate", method, *TRAINING, "--yardsticks", "initial")
        result = read(here / method / "result.json")
        assert {"accuracy", "learned", "initial"} <= result.keys()
        learned = result["learned"]["convnet2"]
        assert learned["lr"] == set_files.load_set(method).lr and learned["images"] == 3
        assert "as learned" in capsys.readouterr().out and "as learned" in (here / method / "report.html").read_text()
        assert any("has learned the learning rate" in line and "both are shown" in line for line in said)
    call("runs", ".")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"as learned {100 * learned['mean']:.1f}" in shown and shown.count("as learned") == 2
    condensed = set_files.load_set("datm")
    hard = attar.evaluate(condensed, epochs=2, runs=1, yardsticks=(), lr=condensed.lr)
    assert hard["accuracy"]["convnet2"]["n"] == 1


def test_a_network_is_trained_as_learned(here: Path) -> None:
    condensed = set_files.load_set("datm")
    assert train_set(condensed, epochs=1)[1]["protocol"]["lr"] == condensed.lr
    assert train_set(condensed, epochs=1, lr=0.5)[1]["protocol"]["lr"] == 0.5


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
def test_exports_hold_what_was_learned(to: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datm = set_files.load_set("datm")
    assert datm.space == "unbounded" and datm.soft_labels is not None
    datm = replace(datm, images=datm.images + 2 * (datm.images - 0.5))  # far outside [0, 1]
    set_files.save_set(tmp_path / "far.safetensors", datm)
    out = tmp_path / ("out" if to in ("parquet", "imagefolder") else f"out.{to}")
    call("export", str(tmp_path / "far.safetensors"), "--to", to, "--out", str(out))
    assert ("float32; normalise" if to == "pt" else "8 bits; normalise") in capsys.readouterr().out
    back = foreign.as_set(foreign.read(out), attar.load("digits", nclass=3))
    assert (back.space, back.lr, back.teacher) == ("unbounded", datm.lr, {})
    assert back.soft_labels is not None and torch.equal(back.soft_labels, datm.soft_labels)
    assert torch.equal(back.images, datm.images) == (to == "pt") and torch.equal(back.labels, datm.labels)
    call("evaluate", str(out), *TRAINING, "--yardsticks", "none", "--json")
    assert json.loads(capsys.readouterr().out)["learned"]["convnet2"]["lr"] == datm.lr


def test_the_card_says_what_was_learned(here: Path, tmp_path: Path) -> None:
    call("evaluate", "datm", *TRAINING, "--yardsticks", "none")
    datm, cards = set_files.load_set("datm"), []
    for number, condensed in enumerate((datm, replace(datm, space="zca"), set_files.load_set("tgdd"))):
        out = attar.export_set(condensed, "parquet", tmp_path / str(number))
        cards.append((out / "README.md").read_text(encoding="utf-8"))
    for words in (
        "| this set | as learned |",
        f"*as learned*: the learning rate {datm.lr:.3g} was",
        "- soft labels of",
    ):
        assert words in cards[0] and words in cards[1] and words not in cards[2], words
    assert "not kept in [0, 1]; what was outside is clipped here" in cards[0] and "not kept in" not in cards[2]
    assert f"optimizer = torch.optim.SGD(network.parameters(), lr={datm.lr}" in cards[0] and "mean, std = " in cards[0]
    assert 'y = torch.tensor(images["soft_labels"])' in cards[0] and "mean, std = " in cards[2]
    assert (
        "whitened (ZCA) by the real ones" in cards[1] and "mean, std = " not in cards[1] and "attar.train(" in cards[1]
    )


def test_training_where_the_real_images_are_not(here: Path) -> None:
    """An unbounded set is trained on as it is."""
    datm = set_files.load_set("datm")
    datm = replace(datm, images=datm.images + 2 * (datm.images - 0.5))
    alone = replace(datm, source="elsewhere", recipe=datm.recipe | {"data": {"dataset": "elsewhere"}})
    with_data, without = (next(train_set(one, epochs=2)[0].parameters()) for one in (datm, alone))
    assert torch.equal(with_data, without)
    with pytest.raises(UserError, match=r"a set in ZCA space is whitened by the real images; name them with -d: "):
        train_set(replace(alone, space="zca"), epochs=1)


def test_a_comparison_has_a_column(here: Path, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"dataset": "digits", "nclass": 3, "width": 0.05, "niter": 1, "inner_loop": 1, "models": 1}
    spec |= {"evaluate": {"epochs": 1, "runs": 1, "yardsticks": ["none"]}}
    own = {"syn_steps": 1, "max_start_epoch": 1, "expert_epochs": 1}
    spec["entry"] = [{"method": "tgdd"}, *({"method": method, **own} for method in ("mtt", "ftd", "datm"))]
    rows = attar.compare(spec, out=tmp_path / "out")
    assert [row["learned"] is not None for row in rows] == [False, True, True, True]
    assert "as learned" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("time_is_soon_up")
@pytest.mark.parametrize("method", OWN)
def test_minutes_fit_the_iterations_but_not_the_experts(method: str, here: Path, tmp_path: Path) -> None:
    own, run = OWN[method][:-2], str(tmp_path / "run")
    call("condense", "-d", "digits", "--method", method, *own, "--minutes", "1", "--out", run, "--quiet")
    config = read(tmp_path / "run" / "config.json")
    assert config["pool"]["epochs"] == 2 and config["condense"]["niter"] >= 1
    assert config["attar"]["minutes"] == 1


@pytest.mark.usefixtures("time_is_soon_up")
def test_minutes_count_the_models_that_are_there(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=1e6, inner=10.0))
    there = sorted(Path("pool").rglob("*"))
    run = str(tmp_path / "mtt")
    call("condense", "-d", "digits", "--method", "mtt", *OWN["mtt"][:-2], "--minutes", "0.2", "--out", run, "--quiet")
    assert read(tmp_path / "mtt" / "config.json")["pool"]["models"] == 2, "of six, two are its own"
    assert sorted(Path("pool").rglob("*")) == there, "nothing was trained"


@pytest.mark.parametrize(
    ("method", "number"),
    [("mtt", signal.SIGKILL), ("ftd", signal.SIGKILL), ("datm", signal.SIGTERM), ("tgdd", signal.SIGKILL)],
)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(
    method: str, number: signal.Signals, here: Path, tmp_path: Path
) -> None:
    command = ["condense", "-d", "digits", "--method", method, *OWN[method], "--niter"]
    run = tmp_path / "run"
    endless = [*command, "2000", "--out", str(run), "--save_every", "1it", "--quiet"]
    with Forked(*endless, folder=here, errors=tmp_path / "errors.txt") as process:
        while not (run / "checkpoint").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(60)
    done = json.loads((run / "checkpoint" / "state.json").read_text())["state"]["outer"]
    config = read(run / "config.json")
    config["condense"]["niter"] = done + 2
    (run / "config.json").write_text(json.dumps(config))
    call("condense", "--resume", str(run), "--quiet")
    straight = str(tmp_path / "straight")
    call(*command, str(done + 2), "--out", straight, "--quiet")
    one, other = ((Path(path) / "condensed.safetensors").read_bytes() for path in (run, straight))
    assert one == other


def test_parts_where_the_loss_is_one_of_classes(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("ftd", "datm"):
        run = ("condense", "-d", "digits", "--method", method, *SHORT, "--out", str(tmp_path / "none"))
        assert "cannot condense in parts: its loss is of networks that learn all classes" in refused(
            capsys, *run, "--only", "1"
        )
    run = ("condense", "-d", "digits", "--method", "tgdd", *OWN["tgdd"], "--niter", "1", "--quiet")
    call(*run, "--nclass_sub", "2", "--out", str(tmp_path / "parts"))
    assert set_files.load_set(tmp_path / "parts").labels.tolist() == [0, 1, 2]


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("nets_of_trajectories.py").write_text(
        "from torch import nn\n\ndef make(channels, nclass, size):\n    return nn.Sequential("
        "nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, nclass))\n"
    )
    for method in ("datm", "tgdd"):
        own = ("-n", "nets_of_trajectories:make", *OWN[method][2:], "--niter", "1", "--out", method, "--quiet")
        call("condense", "-d", "digits", "--method", method, *own)
        condensed = set_files.load_set(method)
        assert bool(condensed.images.isfinite().all()) and not torch.equal(condensed.images, condensed.start().images)


@pytest.mark.slow
def test_experts_on_a_cluster_are_the_same_files(
    run_attar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    run = ("pretrain", "-d", "digits", "--zca", "--method", "datm", *EXPERTS, "--pt_from", "2", "--out")
    call(*run, "here", "--quiet")
    assert run_attar(*run, "there", "--ray", cwd=tmp_path).returncode == 0
    one, other = (
        {file.name: file.read_bytes() for file in (tmp_path / where).iterdir()} for where in ("here", "there")
    )
    assert one == other and len(one) == 2


def given(run: tuple[str, ...], flag: str, *value: str) -> list[str]:
    """A command with that flag, once."""
    at = run.index(flag) if flag in run else len(run)
    return [*run[:at], *run[at + 2 :], flag, *value]


def test_what_is_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("condense", "-d", "digits", "--method", "mtt", *SHORT, "--out", "other")
    assert "cannot condense in parts" in refused(capsys, *run, "--nclass_sub", "2")
    assert "`attar pretrain --method mtt --ray` trains the experts" in refused(capsys, *run, "--ray")
    few = given(tuple(given(run, "--max_start_epoch", "4")), "--pt_from", "3")
    models = sorted(Path("pool").rglob("*"))
    assert "keeps epochs 0 to 3, and match trajectory needs those to 4" in refused(capsys, *few)
    assert sorted(Path("pool").rglob("*")) == models  # nothing was trained for it
    call("pretrain", "-d", "digits", *EXPERTS, "--pt_from", "1", "--out", "plain", "--quiet")
    assert "keeps no epochs" in refused(capsys, *run, "--model_path", "plain")
    tgdd = ("condense", "-d", "digits", "--method", "tgdd", *EXPERTS, "--model_path", "plain", "--out", "other")
    words = "keeps no epochs, and network_init epoch needs them; `attar pretrain --keep_epochs` keeps"
    assert words in refused(capsys, *tgdd)
    pool = (*run, "--model_path", "pool/digits-convnet2-w0.05")
    for flag, value, words in (
        ("--max_start_epoch", "4", "keeps epochs 0 to 2, and match trajectory needs those to 4"),
        ("--expert_epochs", "2", "keeps epochs 0 to 2, and match trajectory needs those to 3"),
        ("--width", "0.1", "has width 0.05, but 0.1 is asked for"),
        ("--zca", "", "was made for images normalised by channel, not for images in ZCA space"),
        ("--syn_steps", "0", "syn_steps must be at least 1, not 0"),
        ("--expert_epochs", "0", "expert_epochs must be at least 1, not 0"),
        ("--max_start_epoch", "0", "max_start_epoch must be at least 1, not 0"),
        ("--min_start_epoch", "2", "max_start_epoch (2) must be above min_start_epoch (2)"),
        ("--batch_syn", "0", "batch_syn must be at least 1, not 0"),
        *(
            (flag, "nan", f"{flag[2:]} must be ")
            for flag in ("--lr_img", "--lr_lr", "--lr_teacher", "--threshold", "--clip_img")
        ),
    ):
        assert words in refused(capsys, *given(pool, flag, *[value] * bool(value))), flag
    assert "method dm takes no syn_steps here" in refused(
        capsys, "condense", "-d", "digits", "--method", "dm", "--syn_steps", "3", "--out", "other"
    )
    assert "cannot condense in parts" in refused(capsys, "add", "mtt", "-d", "digits", "--nclass", "4")
    assert not (here / "other").exists()


def test_in_python() -> None:
    data = attar.load("digits", nclass=3)
    pool = attar.pretrain(data, method="mtt", width=0.05, epochs=2, models=1)
    own: dict[str, Any] = {"max_start_epoch": 2, "expert_epochs": 1, "syn_steps": 2, "niter": 1, "inner_loop": 2}
    rates: list[float | None] = []
    one, other = (
        attar.condense(data, pool, method="mtt", callback=lambda event: rates.append(event.lr), **own, **more)
        for more in ({}, {"lr_lr": 0.0})
    )
    assert rates == [one.lr, other.lr]
    assert not torch.equal(one.images, other.images) and other.lr == pytest.approx(0.02)
    with pytest.raises(UserError, match="needs those to 8"):
        attar.condense(data, pool, method="mtt", **own | {"max_start_epoch": 8})
