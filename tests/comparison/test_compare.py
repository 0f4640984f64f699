"""`attar compare` from a spec to its figure; killed and called again; with more asked for; refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli.parser import main
from attar.comparison import cells, figure, record, run, spec
from attar.condensation import loop as condensation
from attar.errors import UserError
from attar.evaluation import measure
from attar.runs import checkpoint
from attar.runs.progress import Progress
from attar.sets import set_files
from helpers.command import call
from helpers.forked import Forked

SPEC = """
dataset = "digits"
nclass = 4
ipc = 1
runs = 2
width = 0.05
inner_loop = 2
n_data = 64
pt_from = 1
model_num = 2

[evaluate]
epochs = 2
whole_epochs = 1

[[entry]]
name = "short"
niter = 1

[[entry]]
name = "long"
niter = 15
"""


GRIDS_AND_REAL_IMAGES = """
dataset = "digits"
nclass = 4
ipc = [1, 3]
runs = 1
width = 0.05
equal_steps = true

[evaluate]
epochs = 3
whole_epochs = 1
batch_size = 8
yardsticks = ["random_real", "whole"]

[[entry]]
method = "random"

[[entry]]
method = "accdd"
factor = 2
niter = 1
inner_loop = 1
n_data = 64
model_num = 1
pt_from = 1
"""


def changed(folder: Path, old: str = "", new: str = "", added: str = "") -> Path:
    path = folder / "spec.toml"
    assert old in SPEC
    path.write_text(SPEC.replace(old, new) + added, encoding="utf-8")
    return path


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / record.RESULTS_FILE).read_text(encoding="utf-8").splitlines()]


def numbers(out: Path) -> dict[str, Any]:
    """What must not depend on how often the work was interrupted."""
    return {line["cell"]: {key: line.get(key) for key in ("accuracy", "initial", "settings")} for line in lines(out)}


def stamps(out: Path) -> dict[Path, int]:
    return {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that ran without a pause. Read only."""
    root = tmp_path_factory.mktemp("compare")
    call("compare", str(changed(root)), "--out", str(root / "out"), "--quiet")
    return root / "out"


def without_long(done: Path, out: Path) -> Path:
    """A copy in which all is there but the last run."""
    shutil.copytree(done, out, ignore=shutil.ignore_patterns("long-*"))
    kept = [line for line in (done / record.RESULTS_FILE).read_text().splitlines(keepends=True) if '"long"' not in line]
    (out / record.RESULTS_FILE).write_text("".join(kept))
    return out


@pytest.fixture
def again(done: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(done, tmp_path / "out")
    return tmp_path / "out"


def test_networks_have_equally_many_steps_on_real_images_and_on_grids_of_four(tmp_path: Path) -> None:
    """Of four classes: 4 and 12 real images, 16 and 48 decoded ones, in batches of eight."""
    (tmp_path / "spec.toml").write_text(GRIDS_AND_REAL_IMAGES, encoding="utf-8")
    call("compare", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "out"), "--quiet")
    epochs = {
        line["cell"]: (entry["images"], entry["epochs"])
        for line in lines(tmp_path / "out")
        for entry in line["accuracy"].values()
    }
    assert epochs.pop("whole epochs 1 seed 0")
    assert epochs == {
        "random ipc 1 seed 0": (4, 6),
        "random ipc 3 seed 0": (12, 9),
        "accdd ipc 1 seed 0": (16, 3),
        "accdd ipc 3 seed 0": (48, 3),
        "random_real ipc 1 epochs 6 seed 0": (4, 6),
        "random_real ipc 3 epochs 9 seed 0": (12, 9),
    }
    table = (tmp_path / "out" / record.TABLE_MD).read_text(encoding="utf-8")
    assert "after the last of 3 or 6 or 9 epochs" in table and "steps" not in table
    larger = '[[entry]]\nname = "more"\nmethod = "rded"\nfactor = 4\n'
    (tmp_path / "spec.toml").write_text(GRIDS_AND_REAL_IMAGES + larger, encoding="utf-8")
    with pytest.raises(UserError, match="networks of 6 epochs on the sets of 'random' at ipc 1, and it would be 24"):
        attar.compare(tmp_path / "spec.toml", out=tmp_path / "out")
    (tmp_path / "spec.toml").write_text(GRIDS_AND_REAL_IMAGES.replace("_steps = true", "-steps = 1"), encoding="utf-8")
    with pytest.raises(UserError, match="equal_steps must be true or false, not 1"):
        attar.compare(tmp_path / "spec.toml", out=tmp_path / "other")


def test_a_comparison_leaves_tables_a_figure_and_run_folders(done: Path) -> None:
    expected = {
        *record.FIGURES,
        record.PAGE,
        record.TABLE_MD,
        record.TABLE_CSV,
        record.RESULTS_FILE,
        record.COMPARISON_FILE,
        record.NETWORKS_FILE,
    }
    assert {path.name for path in done.iterdir()} == expected | {record.CELLS_FOLDER, record.POOLS_FOLDER}
    names = [line["cell"] for line in lines(done)]
    assert names == [
        "whole epochs 1 seed 0",
        "random_real ipc 1 epochs 2 seed 0",
        "short ipc 1 seed 0",
        "long ipc 1 seed 0",
    ]
    short, long = lines(done)[2:]
    assert long["accuracy"]["convnet2"]["n"] == 2 and long["tested_on"] == "test images"
    assert set(long["seconds"]) == {"pretrain", "condense", "evaluate"}
    assert long["host"]["jobs"] == 1 and long["host"]["processor"] and long["host"]["versions"]["torch"]
    assert short["seconds"]["pretrain"] == long["seconds"]["pretrain"] > 0  # one pool, and each is charged for it
    assert len(list((done / record.POOLS_FOLDER).iterdir())) == 1
    assert short["initial"] == long["initial"]  # begun with the same images, whose networks were trained once
    keys = [json.loads(line)["key"] for line in (done / record.NETWORKS_FILE).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 2 * (1 + 1 + 2 + 1)  # whole, random, two sets, their common beginning
    condensed = set_files.load_set(done / long["folder"])
    assert (condensed.ipc, condensed.nclass) == (1, 4)
    result = json.loads((done / long["folder"] / "result.json").read_text())
    assert result["accuracy"] == long["accuracy"] and (done / long["folder"] / "report.html").exists()
    table = (done / record.TABLE_MD).read_text()
    assert table.count("\n| ") == 4 and "missing" not in table


def test_the_verb_says_what_is_done(
    again: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    before = stamps(again)
    call("compare", str(changed(tmp_path)), "--out", str(again), "--quiet")
    assert capsys.readouterr().out.splitlines()[-1] == f"next: attar runs {again / record.CELLS_FOLDER}"
    call("compare", str(changed(tmp_path)), "--out", str(again), "--json")
    said = json.loads(capsys.readouterr().out)
    assert [row["entry"] for row in said["rows"]] == ["short", "long"] and said["folder"] == str(again)
    assert said["rows"][0]["accuracy"]["n"] == 1 and said["rows"][0]["ior"] is not None
    redrawn = set(map(Path, record.REPLACED_FILES))
    after = stamps(again)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= redrawn
    call("compare", str(changed(tmp_path)), "--out", str(again))
    printed = capsys.readouterr().out
    assert "accuracies in %" in printed
    heads, cells = [re.split(" *[┃│] *", line) for line in printed.splitlines() if line[:1] in ("┃", "│")][:2]
    table = (again / record.TABLE_MD).read_text().splitlines()
    assert heads[1:-1] == next(re.split(r" *\| *", line) for line in table if line.startswith("| entry"))[1:-1]
    assert cells[1:-1] == next(re.split(r" *\| *", line) for line in table if line.startswith("| short"))[1:-1]
    monkeypatch.setenv("COLUMNS", "80")
    call("compare", str(changed(tmp_path)), "--out", str(again), "--quiet")
    narrow = capsys.readouterr().out
    accuracy = cells[heads.index("accuracy")]
    assert accuracy in narrow and "…" not in narrow and "of them pretraining" not in narrow and "seconds" in narrow


def wait_for_events(run: Path, count: int, process: Forked | subprocess.Popen[str]) -> None:
    """Until a run that the process is at has told so many."""
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= count):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_called_again_it_ends_with_the_same_numbers(done: Path, tmp_path: Path) -> None:
    out, path = without_long(done, tmp_path / "out"), changed(tmp_path)
    command = ["compare", str(path), "--out", str(out), "--save_every", "1it", "-q"]
    long = out / record.CELLS_FOLDER / "long-ipc1-seed0"
    with Forked(*command, folder=tmp_path, errors=tmp_path / "errors.txt") as process:
        wait_for_events(long, 3, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert checkpoint.exists(long) and not (long / "result.json").exists()
    finished = {path: at for path, at in stamps(out).items() if "short" in str(path) or path.suffix == ".safetensors"}
    finished = {path: at for path, at in finished.items() if "long" not in str(path)}
    steps = (long / "metrics.jsonl").read_text().count("\n")
    call("compare", str(path), "--out", str(out), "--quiet")
    assert numbers(out) == numbers(done)
    after = stamps(out)
    assert {path: after[path] for path in finished} == finished
    config = json.loads((long / "config.json").read_text())
    assert len(config["attar"]["continued"]) == 1 and steps >= 3
    assert (out / record.FIGURES[1]).exists() and "missing" not in (out / record.TABLE_MD).read_text()


class Cut(Exception):
    """The work ends here."""


@pytest.mark.parametrize("moment", ["pretrain", "evaluate", "append", "yardstick"])
def test_every_stage_goes_on(moment: str, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained before the cut is not trained again, and its seconds are not lost."""
    out, path = tmp_path / "out", changed(tmp_path, "niter = 15", "niter = 2")
    places = {
        "pretrain": (cells.early_stage, "pretrain", 2),  # the second early-stage model
        "evaluate": (cells, "measure_into", 2),
        "append": (run.files, "append", 13),
        "yardstick": (cells, "evaluate", 2),
    }
    where, name, call_number = places[moment]
    count, function = 0, getattr(where, name)

    def cut(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call_number:
            raise Cut
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, cut)
        with pytest.raises(Cut):
            attar.compare(path, out=out)
    before = (out / record.NETWORKS_FILE).read_text() if (out / record.NETWORKS_FILE).exists() else ""
    assert moment != "evaluate" or "1 run missing" in (out / record.TABLE_MD).read_text()
    rows = attar.compare(path, out=out)
    expected, actual = numbers(done), numbers(out)
    assert actual["short ipc 1 seed 0"] == expected["short ipc 1 seed 0"]
    text = (out / record.NETWORKS_FILE).read_text()
    keys = [json.loads(line)["key"] for line in text.splitlines()]
    assert text.startswith(before) and len(keys) == len(set(keys))
    assert all(row["seconds"] == pytest.approx(row["pretrain"] + row["make"]) for row in rows)
    told = [path.read_text().splitlines() for path in (out / record.POOLS_FOLDER).glob(f"*/{cells.SECONDS_FILE}")]
    seconds = [json.loads(line)["seconds"] for line in told[0]]
    assert len(told) == 1 and len(seconds) == 2 and seconds[0] < seconds[1] == rows[0]["pretrain"]


def test_entries_and_seeds_can_be_added(again: Path, tmp_path: Path) -> None:
    before, stood = numbers(again), stamps(again)
    added = '\n[[entry]]\nname = "still"\nperturb = false\nniter = 1\n'
    rows = attar.compare(changed(tmp_path, "ipc = 1\n", "ipc = [1]\nseeds = [0, 3]\n", added), out=again)
    assert [(row["entry"], row["accuracy"]["n"]) for row in rows] == [("short", 2), ("long", 2), ("still", 2)]
    after = numbers(again)
    assert {name: after[name] for name in before} == before and len(after) == 1 + 2 + 6
    kept = {path: at for path, at in stood.items() if path.suffix == ".safetensors"}
    assert {path: stamps(again)[path] for path in kept} == kept
    seeds = {line["seed"]: line["settings"]["pool"]["seed"] for line in lines(again) if "entry" in line}
    assert seeds == {0: 0, 3: 6}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("niter = 1\n", "niter = 2\n", "niter 1 in entry 'short' at ipc 1, and 2 is asked for"),
        ("model_num = 2", "model_num = 3", "models 2 in entry 'short' at ipc 1, and 3 is asked for"),
        ("runs = 2", "runs = 3", "evaluate runs 2, and 3 is asked for"),
        ("epochs = 2", "epochs = 3", "evaluate epochs 2, and 3 is asked for"),
        ("width = 0.05", "width = 0.1", "network width 0.05, and 0.1 is asked for"),
        ('name = "short"', 'name = "brief"', "entry 'short', which is gone"),
        ("ipc = 1\n", "ipc = 2\n", "ipc 1 in entry 'short', which is gone"),
        ("ipc = 1\n", "ipc = 1\nholdout = 0.5\n", "holdout None, and 0.5 is asked for"),
        ("ipc = 1\n", "ipc = 1\nseeds = [1]\n", "seed 0 in seeds, which is gone"),
        ("ipc = 1\n", "ipc = 1\ntest_seed = 1\n", "data test_seed 0, and 1 is asked for"),
    ],
)
def test_another_spec_is_refused(
    old: str, new: str, words: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(done)
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(changed(tmp_path, old, new)), "--out", str(done)])
    *of_data, said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and words in said and "can be added" in said
    assert of_data == ["digits: test_seed draws no test images: the data have some"] * ("test_seed" in new)
    assert stamps(done) == before


def test_other_images_are_another_comparison(again: Path, tmp_path: Path) -> None:
    plan, data = run.prepare(changed(tmp_path), Progress())
    record.check_same(again, plan, data)
    assert data.test_images is not None and data.test_labels is not None
    given = {"images": data.images, "labels": data.labels, "mean": data.mean, "std": data.std, "name": "digits"}
    given |= {"test_images": data.test_images, "test_labels": data.test_labels, "classes": data.classes}
    for words, changes in {
        "images of another mean or std": {"std": [0.5]},
        "other test images": {"test_images": data.test_images.flip(3)},
        "other images": {"images": data.images.flip(3)},
    }.items():
        with pytest.raises(UserError, match=f"holds a comparison on {words} than digits has"):
            record.check_same(again, plan, attar.ImageData(**given | changes))
    record.check_same(again, plan, attar.ImageData(**given))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ipc = 1\n", "ipc = [1, 500]\n", "entry 'short': class '0' has .* images, fewer than ipc 500"),
        ("niter = 15", "niter = 15\nfactor = 50", "entry 'long': .*factor"),
        ("width = 0.05", 'net_type = "convnt"', "unknown network 'convnt'; did you mean 'convnet'"),
        ("runs = 2", 'networks = ["resnt10"]', "unknown network 'resnt10'"),
        ("runs = 2", 'precision = "tf32"', "entry 'short': tf32 exists on NVIDIA GPUs only"),
        ('"digits"', '"fashion"\ndata_dir = "nowhere"', "fashion.*nowhere"),
        ('"digits"', '"nowhere/images"', "nowhere/images"),
        ("[[entry]]", "[[entry]", "spec.toml is not valid TOML"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(UserError, match=words):
        attar.compare(path, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.toml"]


def test_data_without_test_images_need_a_holdout() -> None:
    whole = attar.load("digits")
    data = attar.ImageData(whole.images, whole.labels, name="digits")
    plan = spec.resolve({"dataset": "digits", "entry": [{"name": "a"}]})
    with pytest.raises(UserError, match=r"digits has no test images; holdout = 0\.2 tests on a share"):
        run.check(plan, data, "")
    run.check(plan, data.holdout(0.2, 0), "")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path)
    with pytest.raises(UserError, match=r"holds other files \(spec.toml\); name another folder"):
        attar.compare(path, out=tmp_path)
    with pytest.raises(UserError, match="there is no spec file"):
        attar.compare(tmp_path / "other.toml", out=tmp_path / "out")
    with pytest.raises(UserError, match="jobs must be at least 1, not 0"):
        attar.compare(path, out=tmp_path / "out", jobs=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.toml"]


def test_without_matplotlib_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the figure needs matplotlib"):
        attar.compare(changed(tmp_path), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def remembering(evaluate: Callable[..., Any], seen: list[attar.ImageData]) -> Callable[..., Any]:
    """`evaluate`, which adds the data that it tests on to `seen`."""

    def evaluate_and_remember(condensed: attar.SyntheticSet, data: attar.ImageData, *args: Any, **kwargs: Any) -> Any:
        seen.append(data)
        return evaluate(condensed, data, *args, **kwargs)

    return evaluate_and_remember


def test_held_out_images_are_tested_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test images are left alone: they could as well be another data set's. Every page says so."""
    seen: list[attar.ImageData] = []
    for module in (cells, measure):  # of yardsticks, and of the sets
        monkeypatch.setattr(module, "evaluate", remembering(module.evaluate, seen))
    values = {
        **{"dataset": "digits", "ipc": 1, "holdout": 0.25, "width": 0.05, "runs": 1, "yardsticks": ["random_real"]},
        **{"niter": 1, "inner_loop": 1, "n_data": 64, "pt_from": 1, "model_num": 1, "evaluate": {"epochs": 1}},
        "entry": [{"name": "a"}],
    }
    attar.compare(values, out=tmp_path / "out")
    whole = attar.load("digits")
    assert len(seen) == 2
    assert {len(data.images) + len(data.test_images) for data in seen} == {len(whole.images)}
    assert {line["tested_on"] for line in lines(tmp_path / "out")} == {"held-out training images"}
    assert "on the held-out training images" in (tmp_path / "out" / record.TABLE_MD).read_text()
    path = tmp_path / "out" / record.CELLS_FOLDER / "a-ipc1-seed0"
    page = (path / "report.html").read_text()
    assert "Held-out accuracy (" in page and ">Accuracy on held-out training images<" in page
    assert "Test accuracy" not in page and "real test set" not in page
    before = stamps(path)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(path)])
    assert stop.value.code == 2 and "on held-out training images, and stay so" in capsys.readouterr().err
    assert stamps(path) == before
    call("evaluate", str(path / set_files.CONDENSED), "--yardsticks", "random_real", "--runs", "1")
    assert "accuracy on test images" in " ".join(capsys.readouterr().out.split())
    about = json.loads((path / "config.json").read_text())["attar"]
    assert [member["accuracy"] for member in about["pool"]] == [None]  # not tested: that would count as time of the set


def test_core_sets_stand_beside_the_others(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In run folders of their own, with the seconds of what they need."""
    added = "".join(f'\n[[entry]]\nmethod = "{method}"\n' for method in ("random", "herding"))
    shutil.copytree(done, tmp_path / "out")
    path = changed(tmp_path, added=added + '\n[[entry]]\nname = "pixels"\nmethod = "kcenter"\nfeatures = "pixels"\n')
    monkeypatch.setattr(cells.devices, "wait", lambda device: time.sleep(0.2))  # a GPU that is asked too early
    rows = {row["entry"]: row for row in attar.compare(path, out=tmp_path / "out")}
    assert all(rows[name]["make"] >= 0.2 for name in ("random", "herding", "pixels"))
    assert (rows["random"]["pretrain"], rows["pixels"]["pretrain"]) == (0, 0)
    assert 0 < rows["herding"]["pretrain"] < rows["herding"]["seconds"]
    whole = attar.load("digits").images.float() / 255
    for name in ("random", "herding", "pixels"):
        condensed = set_files.load_set(tmp_path / "out" / record.CELLS_FOLDER / f"{name}-ipc1-seed0")
        assert (condensed.ipc, condensed.factor) == (1, 1)
        assert all(bool((whole == image).flatten(1).all(1).any()) for image in condensed.images)


def test_a_run_that_diverges_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    added = '\n[[entry]]\nname = "wild"\nniter = 1\nlr_img = 9e15\nmom_img = 0.9\nmetric = "mse"\n'
    added += '\n[[entry]]\nname = "wild pool"\nniter = 1\n[entry.pool]\nlr = 1e15\n'
    added += '\n[[entry]]\nname = "wild choice"\nmethod = "herding"\n[entry.pool]\nlr = 1e15\n'
    text = changed(tmp_path, added=added).read_text().replace("inner_loop = 2", "inner_loop = 6")
    (tmp_path / "spec.toml").write_text(text.replace("niter = 15", "niter = 1"))
    rows = attar.compare(tmp_path / "spec.toml", out=tmp_path / "out")
    assert [(row["entry"], row["diverged"], row["accuracy"] is None) for row in rows] == [
        *(("short", 0, False), ("long", 0, False), ("wild", 1, True), ("wild pool", 1, True), ("wild choice", 1, True))
    ]
    said = {line["entry"]: line.get("diverged", "") for line in lines(tmp_path / "out") if "entry" in line}
    assert "loss" in said["wild"] and "diverged in training" in said["wild pool"] and said["wild choice"]
    assert "0 (1 diverged)" in (tmp_path / "out" / record.TABLE_MD).read_text()
    assert "wild" not in (tmp_path / "out" / record.FIGURES[0]).read_text()


def test_times_of_two_machines_are_marked(again: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = '\n[[entry]]\nname = "still"\nperturb = false\nniter = 1\n'
    monkeypatch.setattr(cells.devices, "processor", lambda: "another CPU")
    attar.compare(changed(tmp_path), out=again)
    assert "MIXED" not in (again / record.TABLE_MD).read_text()  # nothing was left to measure
    attar.compare(changed(tmp_path, added=added), out=again)
    assert "another CPU" in (table := (again / record.TABLE_MD).read_text()) and "MIXED" in table


@pytest.mark.slow
def test_runs_side_by_side_have_the_same_numbers(done: Path, tmp_path: Path, run_attar: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    said = run_attar("compare", changed(tmp_path), "--out", out, "--jobs", "2", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert numbers(out) == numbers(done)
    assert "2 runs at once" in (out / record.TABLE_MD).read_text()
    assert "[4/4]" in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_run_says_of_the_device_is_heard(
    jobs: int, tmp_path: Path, run_attar: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(
        'dataset = "digits"\nwidth = 0.05\nwhole_epochs = 1\nyardsticks = ["none"]\nruns = 1\nniter = 1\n'
        'inner_loop = 1\nn_data = 64\nbatch_real = 500\ncompile = "on"\nmethod = "idc"\n[evaluate]\nepochs = 1\n'
        '[[entry]]\nname = "a"\n[[entry]]\nname = "b"\nlr_img = 0.1\n',
        encoding="utf-8",
    )
    command = ("compare", str(path), "--out", str(tmp_path / "out"), "--jobs", str(jobs))
    if jobs == 1:
        call(*command)
        said = capsys.readouterr().err
    else:
        done = run_attar(*command, cwd=tmp_path)
        said = done.stderr
        assert done.returncode == 0, said
    for entry in ("a", "b"):
        assert f"{entry} ipc 1 seed 0: the real batches of the classes have 6 sizes, too many" in " ".join(said.split())


def check_interrupted(out: Path, path: Path, done: Path) -> None:
    """The state of the run is there and no lock, and the same command ends with the same numbers."""
    long = out / record.CELLS_FOLDER / "long-ipc1-seed0"
    assert checkpoint.exists(long) and not (long / ".lock").exists() and not (out / ".lock").exists()
    assert json.loads((long / "checkpoint" / "state.json").read_text())["state"]["outer"] >= 2
    call("compare", str(path), "--out", str(out), "--quiet", "--jobs", "1")
    assert numbers(out) == numbers(done)


def test_an_interrupt_keeps_the_state_of_the_run(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = without_long(done, tmp_path / "out"), changed(tmp_path)
    step, calls = condensation.step, itertools.count()

    def interrupted(*values: Any) -> Any:
        if next(calls) == 5:  # in the third outer iteration
            signal.raise_signal(signal.SIGINT)
        return step(*values)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(condensation, "step", interrupted)
        main(["compare", str(path), "--out", str(out), "--quiet"])
    assert stop.value.code == 128 + signal.SIGINT
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("stopping at the next safe point; again stops now")
    assert last == f"attar: interrupted; the same command goes on with {out}"
    check_interrupted(out, path, done)


def check_signalled(status: int | None, number: int, said: str, out: Path) -> None:
    assert status == 128 + number
    assert said.splitlines()[-1] == f"attar: interrupted; the same command goes on with {out}"


def test_ctrl_c_keeps_the_state_of_the_run(done: Path, tmp_path: Path) -> None:
    out, path = without_long(done, tmp_path / "out"), changed(tmp_path)
    command = ["compare", str(path), "--out", str(out), "--jobs", "1", "-q"]
    with Forked(*command, folder=tmp_path, errors=tmp_path / "errors.txt") as process:
        wait_for_events(out / record.CELLS_FOLDER / "long-ipc1-seed0", 2, process)
        process.send_signal(signal.SIGINT)
        said = process.wait(60)
    check_signalled(process.returncode, signal.SIGINT, said, out)
    check_interrupted(out, path, done)


@pytest.mark.slow
def test_a_signal_keeps_the_state_of_runs_side_by_side(done: Path, tmp_path: Path) -> None:
    """In processes of their own: no process is left, and the same command goes on."""
    out, path = without_long(done, tmp_path / "out"), changed(tmp_path)
    command = [sys.executable, "-m", "attar", "compare", str(path), "--out", str(out), "--jobs", "2", "-q"]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_events(out / record.CELLS_FOLDER / "long-ipc1-seed0", 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    check_signalled(process.returncode, signal.SIGTERM, said, out)
    check_interrupted(out, path, done)


def test_core_sets_by_models_beside_methods(tmp_path: Path) -> None:
    """Each trains the models that it asks, and their seconds count; a factor is for mosaics alone."""
    entries = (
        '[[entry]]\nmethod = "el2n"\n[[entry]]\nmethod = "ccs"\npt_from = 2\n[[entry]]\nmethod = "rded"\nfactor = 2\n'
    )
    path = tmp_path / "spec.toml"
    common = SPEC[: SPEC.index("[[entry]]")].replace("inner_loop = 2\nn_data = 64\n", "seeds = 1\n")
    path.write_text(common + entries, encoding="utf-8")
    call("compare", str(path), "--out", str(tmp_path / "out"), "--quiet")
    actual = {line["entry"]: line for line in lines(tmp_path / "out") if "entry" in line}
    assert {name: line["factor"] for name, line in actual.items()} == {"el2n": 1, "ccs": 1, "rded": 2}
    assert all(line["seconds"]["pretrain"] > 0 for line in actual.values())
    pools = sorted(len(list(pool.glob("*.safetensors"))) for pool in (tmp_path / "out" / "pools").iterdir())
    assert pools == [1, 1, 2]
    path.write_text(path.read_text(encoding="utf-8").replace('"ccs"', '"ccs"\nfactor = 2'), encoding="utf-8")
    with pytest.raises(UserError, match="the method ccs takes no factor"):
        spec.resolve(tomllib.loads(path.read_text(encoding="utf-8")))


def test_plain_and_attacks_are_columns_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    asked = 'whole_epochs = 1\nplain = true\nattacks = ["fgsm"]\nattack_images = 5\nyardsticks = ["random_real"]'
    call("compare", str(changed(tmp_path, "whole_epochs = 1", asked)), "--out", str(tmp_path / "out"), "--quiet")
    said = capsys.readouterr().out
    page = (tmp_path / "out" / record.PAGE).read_text(encoding="utf-8")
    head = (tmp_path / "out" / record.TABLE_CSV).read_text(encoding="utf-8").splitlines()[0]
    for name in ("plain", "random plain", "fgsm", "random fgsm"):
        assert name in said and f">{name}</th>" in page and f"{name.replace(' ', '_')}_mean" in head
