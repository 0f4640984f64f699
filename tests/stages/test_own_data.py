"""Data of the user's own: the settings that are chosen, the time that is kept, and what `inspect` says."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.cli.parser import main
from attar.condensation.setup import Setup, set_up
from attar.data import decode, decoding, sample
from attar.data.images import ImageData
from attar.runs.run_folder import RunFolder
from attar.settings import auto, recipes
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe, fitted_to
from attar.settings.schema import settings_of
from attar.stages import clock, schedule
from attar.stages.clock import Clock, TimeLimit
from attar.stages.condense import resume_run
from attar.stages.run import Event
from attar.stages.shared import with_asked
from attar.training.pool import Pool
from helpers.command import call


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 + 5 + 3 colour images of 16x16 without a test set: unbalanced, and smaller than a batch."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for name, count in {"cat": 24, "dog": 5, "eel": 3}.items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for row in range(count):
            Image.fromarray(random.randint(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "pets" / name / f"{row}.png")
    return tmp_path / "pets"


def test_a_folder_and_nothing_else(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    condensed = ("--width", "0.05", "--pt_from", "1", "--model_num", "1", "--niter", "2", "--inner_loop", "1")
    call("condense", "-d", str(pets), "--ipc", "2", *condensed)
    said = capsys.readouterr().err
    assert "pets has no test set: 7 of its 32 images are taken for one, 0.2 of each class (seed 0" in said
    assert "chosen for 3 classes of colour images, 16x16: convnet2 of width 0.05, factor 2, ncf matching" in said
    repeats = "repeat some in 2 of 3 classes: 2 grids of 2 x 2 for 8 images, and 'eel' has 2; factor 1 repeats none"
    assert repeats in said
    condensed = attar.load_set(Path("runs/pets-ncfm-ipc2"))
    assert condensed.images.shape == (6, 3, 16, 16) and condensed.recipe["network"]["depth"] == 2
    call("evaluate", "runs/pets-ncfm-ipc2", "--runs", "1", "--epochs", "1", "--whole_epochs", "1")


def test_other_data_are_not_read_by_the_table_of_the_sets_own(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two folders with files of the same names: the table says what those of one show."""
    flat = pets.parent / "flat"
    flat.mkdir()
    classes = [path.parent.name for path in sorted(pets.glob("*/*.png"))]
    for number, path in enumerate(sorted(pets.glob("*/*.png"))):
        path.rename(path.with_name(f"{number}.png"))
        shutil.copy(path.with_name(f"{number}.png"), flat)
    lines = [f"{number}.png,{name}" for number, name in enumerate(reversed(classes))]
    Path("t.csv").write_text("\n".join(["file,label", *lines]))
    call("select", "random", "-d", "flat", "--labels_csv", "t.csv", "--ipc", "2", "--out", "run", "--quiet")
    capsys.readouterr()
    quick = ("--width", "0.05", "--epochs", "1")
    call("evaluate", "run", "-d", "pets", *quick, "--runs", "1", "--yardsticks", "none")
    assert "not used for pets, since given for flat: labels_csv" in capsys.readouterr().err
    call("train", "run", "-d", "pets", *quick)
    assert "not used for pets, since given for flat: labels_csv" in capsys.readouterr().err
    call("evaluate", "run", "-d", "./flat", *quick, "--runs", "1", "--yardsticks", "none")
    assert "not used for" not in capsys.readouterr().err


def test_how_data_are_read_belongs_to_their_name() -> None:
    """Of the same name elsewhere all stays but the table of labels; a set that was handed on names no data."""
    stored = {"data": {"dataset": "a/pets", "label_column": "species", "labels_csv": "a/t.csv", "size": 16}}
    recipe = recipes.overlay(Recipe(), stored)

    def read(name: str, stored: dict[str, Any]) -> tuple[str | None, str | None, int | None]:
        data = with_asked(recipe, {"data": {"dataset": name}}, stored).data
        return data.label_column, data.labels_csv, data.size

    assert read("./a/pets", stored) == ("species", "a/t.csv", 16)
    assert read("b/pets", stored) == ("species", None, 16)
    assert read("b/dogs", stored) == (None, None, 16)
    assert read("b/dogs", {"data": {"label_column": "species"}}) == ("species", "a/t.csv", 16)
    assert with_asked(recipe, {"data": {"dataset": "b", "labels_csv": "t"}}, stored).data.labels_csv == "t"


def test_minutes(pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # a busy machine measures so much that nothing fits
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=0.01, inner=0.01))
    flags = ("--width", "0.05", "--pt_from", "1", "--model_num", "1")
    call("condense", "-d", str(pets), "--ipc", "1", *flags, "--minutes", "0.1")
    said = capsys.readouterr().err
    assert re.search(r"about \d+ outer iterations? of \d+ fit into 0\.1 minutes", said)
    run = attar.load_set(Path("runs/pets-ncfm-ipc1"))
    settings = run.recipe["condense"]
    actual = re.search(r"the time is up after (\d+) outer iterations, (\d+) passes over the classes", said)
    assert actual and (int(actual[1]), int(actual[2])) == (
        settings["niter"],
        settings["niter"] * settings["inner_loop"],
    )
    assert (int(actual[2]) < 100) == ("hardly move the images" in said.rpartition("the time is up")[2])
    config = json.loads(Path("runs/pets-ncfm-ipc1/config.json").read_text())
    assert config["condense"] == settings and config["attar"]["minutes"] == 0.1 and "clock" not in config["attar"]
    moments = [outer for outer, _ in RunFolder(Path("runs/pets-ncfm-ipc1")).snapshots()[1]]
    assert moments[0] == 0 and moments[-1] == settings["niter"]
    call("condense", "--recipe", "runs/pets-ncfm-ipc1/config.json", "--out", "again", "-q")
    assert torch.equal(attar.load_set("again").images, run.images)
    for minutes, words in {"0.0001": "give at least", "-1": "above 0", "nan": "above 0"}.items():
        with pytest.raises(SystemExit) as stop:
            main(["condense", "-d", str(pets), "--ipc", "1", *flags, "--out", "short", "--minutes", minutes])
        assert stop.value.code == 2 and words in capsys.readouterr().err
        assert not Path("short").exists()


def test_a_schedule_keeps_its_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="attar")
    data = attar.load("digits")
    base = recipes.named("digits")
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=1.0, inner=0.5))
    for seconds, expected in {1000: (98, 20), 110: (22, 9), 10.7: (13, 1)}.items():
        fitted = schedule.fit(data, base, seconds).condense
        assert (fitted.niter, fitted.inner_loop) == expected
    with pytest.raises(attar.UserError, match=r"the pool takes about 1\.0 s and one iteration 0\.5 s"):
        schedule.fit(data, base, 1.2)
    part = schedule.fit(data, replace(base, pool=replace(base.pool, models=4, fraction=0.25)), 110)
    assert part.pool.models == 4 and "4 models of 2 epochs over 0.25 of the images about 2 s" in caplog.messages[-1]
    schedule.fit(data, base, 60)
    assert caplog.messages[-1].endswith("fit into 1 minute; fewer than 100 hardly move the images: give more minutes")
    renewed = replace(base, condense=replace(base.condense, sweeps_per_network=5))
    for seconds, expected in {110: (39, 5), 10.7: (2, 5)}.items():  # outer iterations of whole networks
        fitted = schedule.fit(data, renewed, seconds).condense
        assert (fitted.niter, fitted.inner_loop) == expected
    with pytest.raises(attar.UserError, match="minutes is too short"):
        schedule.fit(data, renewed, 3)
    timed = replace(base, condense=replace(base.condense, eval_at=(1,)))
    with pytest.raises(attar.UserError, match="eval_at and minutes exclude each other"):
        schedule.fit(data, timed, 100)


def test_the_time_of_all_sessions_counts(pets: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=0.01, inner=0.05))
    asked: dict[str, Any] = {"ipc": 1, "width": 0.05, "epochs": 1, "models": 1, "folder": "mine"}

    def stop(event: Event) -> None:
        if event.outer == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attar.condense(str(pets), minutes=0.05, callback=stop, **asked)
    about = json.loads(Path("mine/config.json").read_text())["attar"]
    assert about["clock"]["minutes"] == 0.05 and 0 < about["clock"]["seconds"] < 3
    with pytest.raises(attar.UserError, match="holds a run"):  # not by another end
        attar.condense(str(pets), niter=1, **asked)
    spent: list[float] = []
    run = resume_run("mine", callback=lambda event: spent.append(event.seconds))
    assert spent == sorted(spent) and len(spent) + 2 == run.recipe["condense"]["niter"]
    assert spent[-1] < about["clock"]["seconds"] + 1 and "the time is up" in said[-1]
    done = said.copy()
    resume_run("mine")
    assert any("is done" in line for line in said[len(done) :])


@pytest.mark.usefixtures("time_is_soon_up")
def test_condense_evaluates_when_its_time_is_up(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--width", "0.05", "--pt_from", "1", "--model_num", "1", "--minutes", "0.1", "--evaluate")
    Path("short.toml").write_text("[evaluate]\nepochs = 2\nwhole_epochs = 1\n")
    call("condense", "-d", str(pets), "--ipc", "1", "--recipe", "short.toml", "--method", "ncfm", *flags, "--out", "a")
    said = capsys.readouterr()
    assert "the time is up" in said.err and "evaluate" in said.err
    assert re.search(r"condensed.*initial.*random real", said.out) and "next: attar export a" in said.out
    with pytest.raises(attar.UserError, match="evaluate needs a run folder"):
        attar.condense("digits", evaluate=True)


def test_the_evaluation_is_quick_where_a_full_one_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    data, recipe = attar.load("digits"), recipes.named("digits")
    estimated = schedule.Estimate(epoch=0.0, inner=0.5, image=1e-3)
    full, quick = (estimated.evaluation(data, recipe, quick=quick) for quick in (False, True))
    assert full > 3 * quick > 0
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: estimated)
    for minutes, is_quick in ((full / 60, True), (2.1 * full / 60, False)):
        limit = TimeLimit(minutes, time.perf_counter(), evaluate=True)
        schedule.fit_limit(data, recipe, limit, there=99)
        assert limit.quick == is_quick and limit.reserved == (quick if is_quick else full)


def test_the_clock_goes_by_the_usual_outer_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 50.0, 52.0, 54.0, 56.0, 58.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    ending = Clock(59.0)
    assert [ending.more() for _ in range(5)] == [True, True, True, True, False]  # two seconds each, after a first of 50
    assert ending.is_up


def test_best_is_for_any_data(pets: Path, said: list[str]) -> None:
    short: dict[str, Any] = {"ipc": 1, "width": 0.05, "epochs": 1, "models": 1, "niter": 1, "inner_loop": 1}
    made = attar.condense(str(pets), recipe="best", **short)
    assert made.recipe["condense"]["img_optim"] == "adamw" and made.recipe["network"]["depth"] == 2
    assert made.recipe["pool"]["fraction"] == 1.0 and not any("is made for" in line for line in said)
    assert any("chosen for 3 classes" in line for line in said)
    assert any(
        "not clearly better than chance" in line and re.search("average of \\d+ images?,", line) and "--pt_from" in line
        for line in said
    )
    digits = attar.condense("digits", recipe="best", **short)
    assert digits.recipe["condense"]["match"] == "ncf" and digits.recipe["data"]["dataset"] == "digits"
    attar.condense(str(pets), recipe="fashion-cpu", **short)
    assert any("the recipe fashion-cpu is made for fashion, and these images are pets" in line for line in said)


def test_a_run_that_goes_on_keeps_what_was_chosen(
    pets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The schedule that was fitted to a time, and the settings that were chosen for the data, stay as they began."""
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=0.01, inner=0.3))
    begin = (
        "condense",
        "-d",
        str(pets),
        "--ipc",
        "1",
        "--width",
        "0.05",
        "--minutes",
        "0.02",
        "--resume",
        "auto",
        "-q",
    )
    call(*begin)
    config = Path("runs/pets-ncfm-ipc1/config.json").read_text()
    assert "is done" not in caplog.text
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: pytest.fail("measured again"))
    monkeypatch.setattr(auto, "LAST_MAP_SIDE", 8)  # now another depth would be chosen
    call(*begin)
    assert "is done" in caplog.text
    assert Path("runs/pets-ncfm-ipc1/config.json").read_text() == config
    with pytest.raises(SystemExit):
        main(["condense", "--resume", "runs/pets-ncfm-ipc1", "--minutes", "1"])
    assert "--minutes cannot change what a run was begun with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*begin, "--depth", "1"])
    assert "holds a run with depth 2, and 1 is asked for" in capsys.readouterr().err


def test_a_run_goes_on_where_another_method_would_be_chosen(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun on a CPU and gone on with on a GPU, or begun before the choice was another."""
    flags = ("--width", "0.05", "--pt_from", "1", "--model_num", "1", "--niter", "1", "--inner_loop", "1", "-q")
    begin = ("condense", "-d", str(pets), "--ipc", "1", *flags, "--out", "mine", "--resume", "auto")
    call(*begin)
    monkeypatch.setattr(auto, "fitting", lambda shape, ipc, method: auto.nearest_published(shape))
    monkeypatch.setattr(recipes, "fitting", auto.fitting)
    before = Path("mine/config.json").read_text()
    call(*begin)
    assert Path("mine/config.json").read_text() == before
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*begin, "--method", "accdd"])
    assert "holds a run with method ncfm, and accdd is asked for" in capsys.readouterr().err


def test_settings_that_minutes_choose_say_so_at_their_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=1.0, inner=0.5))
    base = recipes.named("digits")
    before, after = settings_of(base), settings_of(schedule.fit(attar.load("digits"), base, 3.5))
    for section, names in fitted_to("minutes").items():
        assert {name for name, value in after[section].items() if value != before[section][name]} <= set(names)
    assert after["pool"]["epochs"] < before["pool"]["epochs"] and after["pool"]["models"] < before["pool"]["models"]
    assert after["condense"]["inner_loop"] < before["condense"]["inner_loop"]
    for name in fitted_to("minutes")["condense"]:
        with pytest.raises(attar.UserError, match=f"{name} and minutes exclude each other"):
            attar.condense(attar.load("digits"), minutes=1, **{name: 5})


def test_inspect(pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "kept")
    call("inspect", str(pets), "--ipc", "1", "--quiet")
    said = capsys.readouterr().out
    assert "compiled code" not in said
    assert re.search(r"dog\s*│\s*4\s*│\s*1", said)
    assert "colour images of 16x16 pixels" in said and "chosen for 3 classes" in said
    assert re.search(r"estimate for ipc 1 on this machine, from 3 iterations measured now: pool .*600 iterations", said)
    with Image.open("inspect-pets.png") as picture:
        assert min(picture.size) > 50
    (Path("kept") / "a").mkdir(parents=True)
    (Path("kept") / "a" / "code.so").write_bytes(bytes(3_000_000))
    call("inspect", "digits", "--out", "grid.png", "--quiet")
    said = capsys.readouterr().out
    assert Path("grid.png").exists() and "recipe digits: convnet2 of width 0.5" in said
    assert "compiled code of earlier runs: 3 MB in kept; it can be removed" in said
    call("inspect", str(pets), "--quiet")  # ten images per class are more than there are: all else is shown
    said = capsys.readouterr().out
    assert re.search(r"dog\s*│\s*4\s*│\s*1", said) and "chosen for 3 classes" in said
    assert "no estimate: class 'dog' has 4 images, fewer than ipc 10; ipc can be 2 at most" in said
    assert not Path("runs").exists() and not Path("pool").exists()


def test_inspect_looks_at_a_sample_of_a_large_folder(
    pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are counted, some decoded; the others are seen by a run, by --skip_bad, and where they are in a cache."""
    monkeypatch.setattr(sample, "MANY", 20)
    monkeypatch.setattr(sample, "SAMPLE", 12)
    decoded: list[str] = []
    monkeypatch.setattr(decoding, "decode", lambda name, *rest: decoded.append(name) or decode.decode(name, *rest))
    call("inspect", str(pets), "--ipc", "1")
    said, heard = capsys.readouterr()
    assert [re.search(rf"{name}\s*│\s*{count}\s*│\s*1?", said) for name, count in (("cat", 19), ("all", 25))]
    assert (
        "pets: 4 images of each class are read and stand for all 32; the other files are not opened" in heard
        and len(set(decoded)) == 4 + 4 + 3
    )

    data = attar.load(pets, sample=True)
    assert (data.sampled, data.counts, data.equal.test, data.fingerprint) == (4, [19, 4, 2], 0, "")
    with pytest.raises(attar.UserError, match="pets is a sample, good to look at"):
        attar.condense(data)

    (pets / "cat" / "0.png").write_text("<html>")
    (pets / "cat" / "22.png").unlink()
    (pets / "cat" / "22.png").symlink_to("nowhere")
    with pytest.raises(SystemExit):
        main(["inspect", str(pets), "--ipc", "1"])
    error = capsys.readouterr().err
    assert "in a sample of 11 of 32 images" in error and "cat/0.png is not a readable image" in error
    call("inspect", str(pets), "--ipc", "1", "--skip_bad")
    said, heard = capsys.readouterr()
    assert "not used: unreadable images: 2" in said and "stand for all" not in heard

    for row in (0, 22):
        (pets / "cat" / f"{row}.png").unlink()
    whole = attar.load(pets, cache_dir="cache")
    again = attar.load(pets, cache_dir="cache", sample=True)
    assert again.sampled is None and again.fingerprint == whole.fingerprint


def test_ten_classes_are_timed_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = recipes.named("digits"), attar.load("digits")
    seen = []

    def remembered(data: ImageData, pool: Pool, config: CondenseConfig) -> Setup:
        seen.append(config)
        return set_up(data, pool, config)

    monkeypatch.setattr(schedule, "set_up", remembered)
    monkeypatch.setattr(schedule, "_seconds", lambda step, device: 1.0)
    assert schedule.estimate(data, recipe).inner == 1.0 and seen[-1].nclass_sub is None
    monkeypatch.setattr(schedule, "MEASURED_CLASSES", 2)
    assert schedule.estimate(data, recipe).inner == 5.0 and seen[-1].nclass_sub == 2
    of_four = replace(recipe, condense=replace(recipe.condense, nclass_sub=4))
    part = replace(of_four, condense=replace(of_four.condense, phase=2))
    assert (schedule.estimate(data, of_four).inner, schedule.estimate(data, part).inner) == (5.0, 1.0)


def test_python_finds_the_settings_too() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = attar.load((images, torch.arange(40) % 4))
    assert isinstance(data, ImageData) and data.test_images is not None
    made = attar.condense(data, ipc=1, width=0.05, epochs=1, models=1, niter=1, inner_loop=1)
    assert made.recipe["network"]["depth"] == 2 and made.recipe["condense"]["match"] == "ncf"
