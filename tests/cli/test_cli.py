"""The command line from end to end: what it prints, what it leaves behind, and the commands of the paper's README."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import attar
from attar.cli import commands, parser, printing
from attar.cli.flags import EVERYDAY
from attar.cli.parser import main
from attar.settings.config import FLAGS as SETTINGS
from attar.settings.config import NetworkConfig
from attar.stages import condense as stage
from attar.training.pool import Member, Pool
from helpers.command import POOL, TINY, call, refused
from helpers.forked import Forked

Run = Callable[..., subprocess.CompletedProcess[str]]
Typed = Callable[..., tuple[str, str]]  # standard output and standard error

ROOT = Path(__file__).parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")
FOLDER = "pool/digits-convnet2-w0.05"
QUICK = ("--runs", "2", "--epochs", "2", "--whole_epochs", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copied(workspace: Path, here: Path) -> Path:
    """A working folder with a pool and the run base/ of the smallest schedule."""
    shutil.copytree(workspace, here, dirs_exist_ok=True)
    return here


@pytest.fixture
def typed(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """`typed("attar", "demo")`, or the path of a script first: what is said in this process, which has to succeed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(program: str | Path, *flags: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [str(program), *flags])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main() if program == "attar" else runpy.run_path(str(program), run_name="__main__")
        said = capsys.readouterr()
        assert stop.value.code == 0, said.err
        return said.out, said.err

    return run


def images(run: str | Path) -> torch.Tensor:
    return attar.load_set(Path(run)).images


def same_images(one: str | Path, other: str | Path) -> bool:
    return torch.equal(images(one), images(other))


def result(run: str | Path) -> dict[str, Any]:
    return json.loads((Path(run) / "result.json").read_text(encoding="utf-8"))


def config(run: str | Path) -> dict[str, Any]:
    return json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))


def members(folder: str | Path) -> dict[str, int]:
    """File names of a pool and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def check_run_folder(path: Path, *, steps: int, shape: list[int]) -> None:
    """What the design promises of a run folder, the accuracies aside."""
    names = {"config.json", "metrics.jsonl", "condensed.safetensors", "initial.safetensors", "result.json"}
    names |= {"snapshots.safetensors", "checkpoint"}
    assert {file.name for file in path.iterdir()} == names | {"images.png", "report.html"}
    events = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    done = [event for event in events if event["event"] == "step"]
    assert [event["outer"] for event in done] == list(range(1, steps + 1))
    assert all(event.keys() == {"event", "outer", "inner", "loss", "seconds"} for event in done)
    assert [event["seconds"] for event in done] == sorted(event["seconds"] for event in done)
    with safe_open(path / "condensed.safetensors", framework="pt") as file:
        assert list(file.metadata()) == ["attar"]
        meta = json.loads(file.metadata()["attar"])
        assert file.metadata()["attar"] == json.dumps(meta, sort_keys=True)
        stored, labels = file.get_tensor("images"), file.get_tensor("labels")
    assert (stored.dtype, list(stored.shape), labels.dtype) == (torch.float32, shape, torch.int64)
    assert 0 <= stored.min() <= stored.max() <= 1
    settings = config(path)
    about = settings.pop("attar")
    assert meta["recipe"] == settings
    assert {"format", "factor", "decode_type", "ipc", "classes", "mean", "std", "source"} <= meta.keys()
    assert about["command"].startswith(("attar", "python "))
    assert {"torch", "python", "device"} <= about["environment"].keys()
    with Image.open(path / "images.png") as picture:
        picture.load()
        assert min(picture.size) > 50
    page = (path / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)|@import|url\((?!["']?data:)""", page)
    assert f"after {steps} outer iteration" in page
    assert "data:image/png;base64," in page


def check_result(actual: dict[str, Any], network: str, *, n: int) -> None:
    """What the design promises of result.json after an evaluation."""
    assert (actual["attar"], actual["method"], actual["device"]) == (attar.__version__, "accdd", "cpu")
    assert isinstance(actual["dataset"], str)
    assert all(isinstance(actual[name], int) for name in ("ipc", "factor", "inner_iterations"))
    assert actual["seconds"].keys() == {"pretrain", "condense", "evaluate"}
    assert all(isinstance(value, float) and value >= 0 for value in actual["seconds"].values())
    for kind in ("accuracy", "initial", "random_real", "whole"):
        entry = actual[kind][network]
        assert (entry["n"], len(entry["runs"]), entry["protocol"]) == (n, n, "last epoch")
        assert all(isinstance(run, float) and 0 <= run <= 1 for run in entry["runs"])
        assert entry["mean"] == pytest.approx(np.mean(entry["runs"]))
        assert entry["std"] == pytest.approx(np.std(entry["runs"], ddof=1))


# ---- the demo ----


@pytest.mark.usefixtures("shorter_digits")
def test_the_demo(typed: Typed, here: Path) -> None:
    out, err = typed("attar", "demo")
    path = here / "runs" / "demo"
    check_run_folder(path, steps=config(path)["condense"]["niter"], shape=[10, 1, 8, 8])
    actual = result(path)
    check_result(actual, "convnet2", n=3)
    assert (actual["dataset"], actual["ipc"], actual["factor"]) == ("digits", 1, 1)
    means = {kind: actual[kind]["convnet2"]["mean"] for kind in ("accuracy", "initial", "random_real", "whole")}
    assert means["accuracy"] > 0.05 + max(means["initial"], means["random_real"]), means  # how much more: a benchmark
    assert means["whole"] > 0.9
    for words in ("convnet2", "condensed", "initial", "random real", "whole set", "3 seeds", "report: runs/demo"):
        assert words in out
    assert f"{100 * means['accuracy']:.1f}" in out
    assert not (here / "pool").exists()
    assert " left" in err


# ---- the commands of the paper's README, through `attar` and through the scripts at the root ----

PRETRAIN = (
    "-d digits --nclass 10 -n convnet --pt_from 2 --seed 0 --lr 0.01 --aug_type color_crop_cutout_flip_scale_rotate"
)
CONDENSE = "--reproduce -d digits -f 2 --ipc 10 -n convnet --model_path pool/digits-convnet2-w0.5"
PART = "--reproduce -d digits --nclass 10 --pt_from 5 -f 3 --ipc 10 --nclass_sub 5 --phase 0 --model_num 2"
ACCDD = ("--method", "accdd", *TINY)  # own data get another method by themselves, which takes no n_data
SHORT = "--niter 1 --inner_loop 2 --n_data 64"


def check_papers_runs(folder: Path, said: list[tuple[str, str]], start: str) -> None:
    """What pretrain, condense and condense_mp left behind and said; `start` is what the second command began with."""
    pool = sorted(path.name for path in (folder / "pool" / "digits-convnet2-w0.5").iterdir())
    assert [name[:8] for name in pool] == ["e2-seed0", "e5-seed0", "e5-seed1"]
    (out, err), (product, progress), _ = said
    assert re.search(r"e2-seed0-\w+ +│ 2 +│ 0 +│ \d+\.\d %", out), out
    assert re.search(r"model 1 of 1 \(seed 0\): \d+\.\d %", err)
    assert product == "runs/digits-ipc10/condensed.safetensors\nnext: attar evaluate runs/digits-ipc10\n"
    assert "condense 1/1" in progress
    whole, part = (folder / "runs" / name for name in ("digits-ipc10", "digits-ipc10-phase0"))
    check_run_folder(whole, steps=1, shape=[100, 1, 8, 8])
    check_run_folder(part, steps=1, shape=[50, 1, 8, 8])
    assert attar.load_set(part).labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert [member["name"][:8] for member in config(whole)["attar"]["pool"]] == ["e2-seed0"]
    assert config(part)["pool"]["epochs"] == 5
    assert config(whole)["attar"]["command"] == f"{start} {CONDENSE} {SHORT}"
    assert f"{start} --reproduce" in (whole / "report.html").read_text(encoding="utf-8")


def test_the_papers_scripts(typed: Typed, here: Path) -> None:
    calls = (("pretrain", PRETRAIN), ("condense", f"{CONDENSE} {SHORT}"), ("condense_mp", f"{PART} {SHORT}"))
    said = [typed(ROOT / f"{name}.py", *flags.split()) for name, flags in calls]
    check_papers_runs(here, said, "python condense.py")


def test_the_papers_commands(typed: Typed, here: Path) -> None:
    calls = (f"pretrain {PRETRAIN}", f"condense {CONDENSE} {SHORT}", f"condense {PART} {SHORT}")
    check_papers_runs(here, [typed("attar", *line.split()) for line in calls], "attar condense")
    command = "evaluate runs/digits-ipc10 --networks convnet resnet10 --runs 2 --epochs 1 --whole_epochs 1 --width 0.05"
    out, err = typed("attar", *command.split())
    for network in ("convnet2", "resnet10"):
        check_result(result(here / "runs" / "digits-ipc10"), network, n=2)
        assert re.search(rf"{network} +│ +\d+\.\d ± \d+\.\d +│", out), out
    assert "report: runs/digits-ipc10/report.html" in out
    assert "evaluate 16/16" in err
    assert "resnet10" in (here / "runs" / "digits-ipc10" / "report.html").read_text(encoding="utf-8")


# ---- a recipe file, and a run again ----


def test_a_flag_on_top_of_a_file(copied: Path) -> None:
    (copied / "my.toml").write_text("lr_img = 0.5\nipc = 2\nwidth = 0.05\npt_from = 1\nmodel_num = 2\nniter = 1\n")
    call(
        "condense",
        "-d",
        "digits",
        "--recipe",
        "my.toml",
        "--lr_img",
        "5e-3",
        "--inner_loop",
        "1",
        "--out",
        "run",
        "--quiet",
    )
    settings = config("run")
    assert (settings["condense"]["lr_img"], settings["condense"]["ipc"]) == (5e-3, 2)
    assert settings["network"]["width"] == 0.05


def test_a_printed_recipe_can_be_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("recipes")
    assert {"digits", "fashion-cpu", "imagenet100"} <= set(capsys.readouterr().out.split())
    for list_of in ("methods", "networks"):
        call("recipes", f"--{list_of}")
        shown = capsys.readouterr().out
        call("recipes", list_of)  # as the help's words suggest
        assert capsys.readouterr().out == shown and len(shown.splitlines()) > 4
    call("recipes", "digits")
    (copied / "my.toml").write_text(capsys.readouterr().out)
    call("condense", "--recipe", "my.toml", *TINY, "--out", "run", "--quiet")
    assert same_images("run", "base")


def test_a_recipe_is_printed_as_it_is_for_so_many_images(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for options in ((), ("--ipc", "10")):
        call("recipes", "best", *options)
        shown.append(tomllib.loads(capsys.readouterr().out)["condense"])
    assert [(one["ipc"], one["factor"]) for one in shown] == [(1, 2), (10, 1)]
    call("recipes", "digits", "--ipc", "3")
    assert tomllib.loads(capsys.readouterr().out)["condense"]["ipc"] == 3


def test_a_config_runs_again_bit_for_bit(copied: Path) -> None:
    call("condense", "--recipe", "base/config.json", "--out", "again", "--quiet")
    assert same_images("base", "again")
    first, second = config("base"), config("again")
    assert first["attar"]["pool"] == second["attar"]["pool"]
    del first["attar"], second["attar"]
    assert first == second
    call("condense", "--recipe", "base/config.json", "--seed", "1", "--out", "other", "--quiet")
    assert not same_images("base", "other")


def test_a_config_runs_again_where_no_pool_is(copied: Path) -> None:
    shutil.rmtree("pool")
    call("condense", "--recipe", "base/config.json", "--out", "again", "--quiet")
    assert same_images("base", "again")


def test_what_takes_the_models(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By itself a condensation finds only those that it would train."""
    flags = ["-d", "digits", "--width", "0.05"]
    call("pretrain", *flags, "--quiet")
    assert capsys.readouterr().out.endswith("the same data, recipe, network and method takes these models\n")
    call("pretrain", *flags, "--epochs", "1", "--models", "1", "--precision", "bf16", "--quiet")
    made = max(Path(FOLDER).glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    assert capsys.readouterr().out.endswith(f"takes these models by --model_path {made}\n")
    call("pretrain", "-d", "digits", *POOL, "--out", "my pool", "--quiet")
    assert capsys.readouterr().out.endswith("takes these models by --model_path 'my pool'\n")


def test_a_config_remembers_the_pool_that_was_named(copied: Path) -> None:
    """Even when the folder gets more members afterwards."""
    call("pretrain", "-d", "digits", *POOL, "--lr", "0.05", "--out", "mine", "--quiet")
    call("condense", "-d", "digits", *TINY, "--model_path", "mine", "--out", "run", "--quiet")
    assert len(config("run")["condense"]["model_path"]) == 2
    assert not same_images("base", "run")
    call("pretrain", "-d", "digits", *POOL, "--lr", "0.5", "--out", "mine", "--quiet")
    call("condense", "--recipe", "run/config.json", "--out", "again", "--quiet")
    assert same_images("run", "again")


def test_the_same_command_twice_makes_the_same_files(copied: Path) -> None:
    call("condense", "-d", "digits", *TINY, "--out", "again", "--quiet")
    for name in ("condensed.safetensors", "initial.safetensors", "images.png"):
        assert Path("base", name).read_bytes() == Path("again", name).read_bytes(), name


# ---- flags ----


def test_hyphens_and_the_other_spellings(copied: Path) -> None:
    """Every line asks for the same run."""
    spellings = (
        "-d digits --width 0.05 --pt-from 1 --model-num 2 --niter 1 --inner-loop 2 --n-data 64",
        "--dataset=digits --width=0.05 --epochs=1 --models=2 --niter=1 --inner_loop=2 --n_data=64 -f 1 --aug-type "
        "color-crop-cutout",
    )
    for number, flags in enumerate(spellings):
        call("condense", *flags.split(), "-o", f"run{number}", "-q")
        assert same_images("base", f"run{number}")


def test_resnet_ap_has_two_names(here: Path) -> None:
    flags = ["--width", "0.02", "--pt_from", "1", "--model_num", "1", "--batch_size", "256", "--quiet"]
    call("pretrain", "-d", "digits", "-n", "resnet_ap", *flags)
    before = members("pool/digits-resnetap10-w0.02")
    assert len(before) == 1
    call("pretrain", "-d", "digits", "-n", "resnetap", *flags)
    assert members("pool/digits-resnetap10-w0.02") == before


def test_switches(copied: Path) -> None:
    call("condense", "-d", "digits", *TINY, "--no_perturb", "--bias", "--fc", "--out", "run", "--quiet")
    chosen = config("run")["condense"]
    assert (chosen["perturb"], chosen["bias"], chosen["fc"]) == (False, True, True)
    assert not same_images("base", "run")
    call("condense", "--recipe", "run/config.json", "--perturb", "--no-bias", "--no_fc", "--out", "back", "--quiet")
    assert same_images("base", "back")


def test_evaluation_during_the_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "my.toml").write_text("[evaluate]\nepochs = 1\n")
    flags = [*POOL, "--inner_loop", "1", "--niter", "3", "--eval_at", "0", "2"]
    call("condense", "-d", "digits", "--recipe", "my.toml", *flags, "--out", "run")
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [(event["event"], event["outer"]) for event in events] == [
        ("evaluation", 0),
        ("step", 1),
        ("step", 2),
        ("evaluation", 2),
        ("step", 3),
    ]
    assert all(0 <= event["accuracy"]["convnet2"] <= 1 for event in events if event["event"] == "evaluation")
    assert re.search(r"^after 2 of 3 outer iterations: convnet2 \d+\.\d %$", capsys.readouterr().err, re.M)
    assert "<svg" in Path("run/report.html").read_text(encoding="utf-8")


def test_the_set_as_initialised_is_kept(workspace: Path) -> None:
    """Digits start from real images, and move away from them."""
    condensed, data = attar.load_set(workspace / "base"), attar.load("digits")
    assert condensed.initial is not None
    real = [data.images[data.rows(label)].float() / 255 for label in range(10)]
    assert all((real[label] == image).flatten(1).all(1).any() for label, image in enumerate(condensed.initial))
    assert not any((real[label] == image).flatten(1).all(1).any() for label, image in enumerate(condensed.images))


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `attar recipes | head -1`."""
    command = [sys.executable, "-m", "attar", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")


def test_quiet_says_only_where_the_product_is(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("condense", "-d", "digits", *TINY, "--out", "run", "--quiet")
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == "run/condensed.safetensors\nnext: attar evaluate run\n"


def test_quiet_lets_warnings_through(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        path = Path("pictures", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * number).save(path)
    call("select", "random", "-d", "pictures", "--ipc", "1", "--out", "run", "--quiet")
    said = capsys.readouterr()
    assert said.out == "run/condensed.safetensors\nnext: attar evaluate run\n"
    assert said.err.splitlines() == [
        "pictures has no test set: 2 of its 6 images are taken for one, 0.2 of each class (seed 0; --test_fraction 0 "
        "for none)"
    ]


def test_a_quick_evaluation(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("evaluate", "base", "--quick", "--epochs", "1", "--quiet")
    actual = result("base")
    assert actual["accuracy"]["convnet2"]["n"] == 1 and "whole" not in actual
    assert {"initial", "random_real"} <= set(actual) and "too few for a verdict" in capsys.readouterr().out
    call("evaluate", "base", "--quick", "--epochs", "1", "--runs", "2", "--quiet")  # a flag goes on top
    assert result("base")["accuracy"]["convnet2"]["n"] == 2


def test_json_is_the_result_and_nothing_else(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to standard error, so that a program can read the rest."""
    call("condense", "-d", "digits", *TINY, "--out", "run", "--json")
    said = capsys.readouterr()
    actual = json.loads(said.out)
    assert (actual.pop("run"), actual) == ("run", {"files": actual["files"], **result("run")})
    assert {"run/condensed.safetensors", "run/report.html"} <= set(actual["files"])
    assert all(Path(name).is_file() for name in actual["files"])
    assert "condense 1/1" in said.err
    call("evaluate", "run", *QUICK, "--yardsticks", "none", "--json", "--quiet")
    said = capsys.readouterr()
    assert said.err == "" and result("run").items() <= json.loads(said.out).items()
    assert result("run")["sizes"] == {"real": {"images": 1198, "bytes": 76672}, "stored": {"images": 10, "bytes": 640}}
    call("pretrain", "-d", "digits", *POOL, "--json", "--quiet")
    actual = json.loads(capsys.readouterr().out)
    assert actual["folder"] == FOLDER
    assert [f"{member['name']}.safetensors" for member in actual["members"]] == sorted(members(FOLDER))
    assert all(0 <= member["accuracy"] <= 1 for member in actual["members"])


def test_events_go_where_log_says(copied: Path) -> None:
    call("condense", "-d", "digits", *TINY, "--out", "run", "--quiet", "--log", "tensorboard")
    assert len(list(Path("run/tensorboard").iterdir())) == 1


def test_completion_of_a_shell(run_attar: Run, tmp_path: Path) -> None:
    """bash completes verbs and flags of a verb, and its start-up file is told once."""
    for _ in range(2):
        done = run_attar("--install-completion", "--shell", "bash", cwd=tmp_path, env={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob(".local/share/**/attar")
    assert (tmp_path / ".bashrc").read_text(encoding="utf-8").count(str(file)) == 2  # if it is there, read it
    code = f"""source '{file}'; f=$(complete -p attar | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    for words in "attar con" "attar condense --lr_"; do
      COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE=$words; COMP_POINT=${{#words}}; $f
      echo "${{COMPREPLY[@]}}"
    done"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    verbs, flags = done.stdout.splitlines()
    assert verbs.split() == ["condense"]
    assert {"--lr_img", "--lr_scaled"} <= set(flags.split()) and all(flag.startswith("--lr_") for flag in flags.split())


def test_help_names_verbs_flags_and_defaults(run_attar: Run, tmp_path: Path) -> None:
    done = run_attar("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("demo", "pretrain", "condense", "evaluate", "recipes"))
    assert run_attar("--version", cwd=tmp_path).stdout.strip() == attar.__version__


def test_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, words in (
        ("condense", ("--model_path", "--speedup", "--nclass_sub", "--metric", "cos or orth", "-f")),
        ("pretrain", ("--pt_from", "--aug_type", "--optimizer", "-n")),
        ("evaluate", ("RUN", "--networks", "--yardsticks", "--runs")),
        ("demo", ("--out", "--ipc")),
        ("merge", ("PART [PARTS...]", "the run folder of the whole set")),
        ("recipes", ("[NAME]",)),
    ):
        call(verb, "--help-all")
        said = capsys.readouterr().out
        assert all(word in said for word in words), said


def test_help_shows_the_everyday_flags_first(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    call("condense", "--help")
    said = capsys.readouterr().out
    shown = re.findall(r"^│ (--\w+)", said, re.M)
    assert shown == [f"--{name}" for name in EVERYDAY["condense"]] and "attar condense --help-all" in said
    for verb in (verb.__name__ for group in commands.VERBS.values() for verb in group):
        call(verb, "--help")
        text = capsys.readouterr().out.partition("\nExamples\n")[2]
        examples = [line for line in text.splitlines() if line.startswith("attar ")]
        assert len(examples) >= 3 and max(map(len, examples)) <= 80, verb
        app = parser._app([example.split()[1] for example in examples])
        for example in examples:  # a wrong flag raises
            tokens = shlex.split(example.partition(" > ")[0], comments=True)[1:]
            app.parse_args(tokens, exit_on_error=False, print_error=False)
    call("condense", "--help-all")
    said = capsys.readouterr().out
    panels = re.findall(r"^╭─ ([\w ]+) ─", said, re.M)
    condense = ["Set", "Schedule", "Image update", "Matching", "Trajectories", "Network update", "Run"]
    assert panels == ["Data", "Network", "Pool", *condense]
    every = {name for _, name in SETTINGS["condense"].values()} | commands.condense.__dict__["flags"].keys()
    assert {f"--{name}" for name in every} == set(re.findall(r"^│ (--\w+)", said, re.M))
    assert re.search(r"--vmax.*\(default: 0\.09\)", said) and re.search(r"--lr_img.*\(default: the recipe's\)", said)


@pytest.mark.parametrize("module", [False, True])
def test_attar_alone_shows_the_verbs(
    module: bool, run_attar: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if module:
        done = run_attar(cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        said = done.stdout
    else:
        call()
        said = capsys.readouterr().out
    verbs = re.findall(r"^│ (\w+) +[A-Z]", said, re.M)
    assert verbs == [verb.__name__ for group in commands.VERBS.values() for verb in group]
    assert verbs.index("inspect") < verbs.index("condense") < verbs.index("evaluate") < verbs.index("export")


@pytest.mark.parametrize(
    "words", ["condense", "pretrain", "select random", "condense --recipe default", "condense --recipe my.toml"]
)
def test_no_verb_starts_without_the_data(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text("ipc = 2\n")
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("attar: error: name the data: -d digits, -d path/to/images, or a recipe")
    assert [path.name for path in here.iterdir()] == ["my.toml"]


def test_runs_are_listed_and_shown(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    shutil.copytree("base", "runs/one")
    shutil.copytree("base", "runs/two")
    call("evaluate", "runs/two", "--runs", "2", "--epochs", "1", "--yardsticks", "none", "--quiet")
    assert capsys.readouterr().out.endswith("next: attar export runs/two --to imagefolder\n")
    call("runs")
    said = capsys.readouterr().out
    assert re.search(r"one +│ digits, 1 per class, accdd, \d+ s +│ not evaluated", said)
    mean = result("runs/two")["accuracy"]["convnet2"]["mean"]
    assert re.search(rf"two +│ digits, .*│ {100 * mean:.1f} ± \d+\.\d +│ convnet2", said)
    call("show", "runs/two")
    said = capsys.readouterr().out
    assert f"{100 * mean:.1f} ± " in said and "report: runs/two/report.html" in said
    call("show", "runs/one")
    assert "next: attar evaluate runs/one" in capsys.readouterr().out
    Path("runs/one/result.json").unlink()
    call("show", "runs/one")
    assert "next: attar condense --resume runs/one" in capsys.readouterr().out
    call("runs", "--json")
    assert {actual["run"] for actual in json.loads(capsys.readouterr().out)["runs"]} == {"runs/one", "runs/two"}
    Path("runs/two/condensed.safetensors").unlink()
    call("runs")
    seen = capsys.readouterr()
    assert "│ two" not in seen.out and "has lost its set" in seen.err and "--resume runs/two makes it again" in seen.err
    Path("runs/two/condensed.safetensors").write_bytes(b"no set")
    assert "damaged or no safetensors file" in refused(capsys, "show", "runs/two")
    for words, said in (("inspect runs/two", "`attar show runs/two` shows it"), ("show base/no", "`attar runs` lists")):
        with pytest.raises(SystemExit):
            main(words.split())
        assert said in capsys.readouterr().err


def test_methods_and_networks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    call("recipes", "--methods")
    assert "ncfm      Wang et al." in capsys.readouterr().out
    call("recipes", "--networks")
    assert "densenet         DenseNet-121" in capsys.readouterr().out
    call("recipes")
    assert "cifar10          CIFAR-10, ConvNet-3 (Acc-DD table 1)." in capsys.readouterr().out


def test_interrupting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "condense", interrupt)
    with pytest.raises(SystemExit) as stop:
        main(["condense", "-d", "digits"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "attar: interrupted\n"


def check_interrupted(folder: Path, status: int | None, said: str) -> None:
    """What a run that was interrupted says and leaves in new/."""
    assert status == 130
    assert said.endswith("attar: interrupted; attar condense --resume new goes on\n") and "Traceback" not in said
    left = {path.name for path in (folder / "new").iterdir()}
    assert left == {"checkpoint", "config.json", "metrics.jsonl", "report.html", "snapshots.safetensors"}


def until(there: Path) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + 120
    while not there.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


ENDLESS = ("condense", "-d", "digits", *POOL, "--niter", "100000", "--inner_loop", "2", "--compile", "off", "-o", "new")


def test_an_interrupt_ends_a_run_soon_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with Forked(*ENDLESS, folder=folder, errors=tmp_path / "errors.txt") as process:
        until(folder / "new" / "metrics.jsonl")
        process.send_signal(signal.SIGINT)
        said = process.wait(30)
    check_interrupted(folder, process.returncode, said)


def test_an_interrupt_ends_two_threads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar", *ENDLESS]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until(tmp_path / "new" / "metrics.jsonl")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    check_interrupted(tmp_path, process.returncode, said)


# ---- the pool that is found ----


def test_the_default_pool_is_used_when_it_is_there(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = members(FOLDER)
    assert len(before) == 2
    call("condense", "-d", "digits", *TINY, "--out", "run")
    assert members(FOLDER) == before
    assert capsys.readouterr().err.count("there already: ") == 2
    assert same_images("base", "run")


def test_the_default_pool_is_topped_up(copied: Path) -> None:
    before = members(FOLDER)
    flags = ["--width", "0.05", "--pt_from", "1", "--niter", "1", "--inner_loop", "1"]
    call("condense", "-d", "digits", *flags, "--model_num", "4", "--out", "run", "-q")
    after = members(FOLDER)
    assert len(after) == 4
    assert before.items() <= after.items()
    assert [name[3:8] for name in sorted(after)] == ["seed0", "seed1", "seed2", "seed3"]


def test_members_of_other_seeds_count_and_those_of_other_settings_do_not(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made by hand, each by itself: the pool is complete only where all were trained as this run asks for."""
    shutil.rmtree("pool")
    flags = ["-d", "digits", "--width", "0.05", "--pt_from", "1"]
    for seed, more in (("4", ()), ("5", ()), ("0", ("--lr", "0.05"))):
        call("pretrain", *flags, "--seed", seed, *more, "--quiet")
    before = members(FOLDER)
    call("condense", "-d", "digits", *TINY, "--out", "run", "--quiet")
    assert members(FOLDER) == before
    used = [Path(name).name[:8] for name in config("run")["condense"]["model_path"]]
    assert used == ["e1-seed4", "e1-seed5"]
    call("condense", "--recipe", "run/config.json", "--out", "again", "--quiet")
    assert same_images("run", "again")
    short = [*flags, "--niter", "1", "--inner_loop", "1"]
    call("condense", *short, "--model_num", "3", "--out", "more")
    assert "1 to train; 1 model of other settings there (lr): only by --model_path" in capsys.readouterr().err
    assert len(members(FOLDER)) == 4
    call("condense", *short, "--model_path", FOLDER, "--out", "named")
    assert f"4 models from {FOLDER}, of unlike settings (lr)" in capsys.readouterr().err


def test_members_trained_longer_are_of_another_pool(copied: Path) -> None:
    before = members(FOLDER)
    call("condense", "-d", "digits", *POOL, "--niter", "1", "--inner_loop", "1", "--out", "run", "-q")
    assert members(FOLDER) == before
    flags = ["--width", "0.05", "--model_num", "2", "--niter", "1", "--inner_loop", "1"]
    call("condense", "-d", "digits", *flags, "--pt_from", "2", "--out", "longer", "-q")
    assert sorted(name[:2] for name in members(FOLDER)) == ["e1", "e1", "e2", "e2"]


def test_some_classes_of_the_same_data_set(copied: Path) -> None:
    call("condense", "-d", "digits", "--nclass", "3", *TINY, "--out", "run", "--quiet")
    assert len(members(FOLDER)) == 4
    assert images("run").shape == (3, 1, 8, 8)
    call("condense", "-d", "digits", *TINY, "--out", "whole", "--quiet")
    assert same_images("base", "whole")


def test_named_files_and_folders(copied: Path) -> None:
    first, second = (f"{FOLDER}/{name}" for name in sorted(members(FOLDER)))
    call("condense", "-d", "digits", *TINY, "--model_path", first, second, "--out", "both", "--quiet")
    assert same_images("base", "both")
    call("condense", "-d", "digits", *TINY, "--model_path", FOLDER, "--out", "folder", "--quiet")
    assert same_images("base", "folder")
    call("condense", "-d", "digits", *TINY, "--model_path", second, "--out", "one", "--quiet")
    assert [member["name"] for member in config("one")["attar"]["pool"]] == [Path(second).stem]


def test_pretrain_shows_and_keeps_each_member(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("pretrain", "-d", "digits", *POOL, "--optimizer", "adam", "--seed", "7", "--out", "mine")
    said = capsys.readouterr()
    assert [name[:8] for name in sorted(members("mine"))] == ["e1-seed7", "e1-seed8"]
    assert len(re.findall(r"e1-seed[78]-\w+ +│ 1 +│ [78] +│ \d+\.\d %", said.out)) == 2
    assert len(re.findall(r"model [12] of 2 \(seed [78]\): \d+\.\d %", said.err)) == 2


def test_a_share_of_an_epoch_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [{"epochs": 1, "seed": 3, "fraction": 0.25}, {"epochs": 1, "seed": 4, "fraction": 1.0}]
    members = tuple(Member({}, {}, values, 0.5, f"model{values['seed']}") for values in settings)
    printing.print_pool(SimpleNamespace(json=False), Pool(NetworkConfig(), {}, members), "more")
    said = capsys.readouterr().out
    assert re.search(r"model3 +│ 1 x 0\.25 +│ 3 +│ 50\.0 %", said) and re.search(r"model4 +│ 1 +│ 4 +│ 50\.0 %", said)
    assert said.endswith("next: more\n")


def test_one_seed_is_one_member(here: Path) -> None:
    flags = ["-d", "digits", "--width", "0.05", "--pt_from", "1", "--quiet"]
    call("pretrain", *flags, "--seed", "3")
    assert [name[:8] for name in members(FOLDER)] == ["e1-seed3"]
    call("pretrain", *flags, "--seed", "3", "--model_num", "2")
    assert sorted(name[:8] for name in members(FOLDER)) == ["e1-seed3", "e1-seed4"]


# ---- evaluation ----


def test_evaluating_a_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("evaluate", "base", *QUICK)
    said = capsys.readouterr().out
    check_run_folder(copied / "base", steps=1, shape=[10, 1, 8, 8])
    actual = result("base")
    check_result(actual, "convnet2", n=2)
    assert actual["inner_iterations"] == 2
    for kind in ("accuracy", "initial", "random_real", "whole"):
        entry = actual[kind]["convnet2"]
        assert f"{100 * entry['mean']:.1f} ± {100 * entry['std']:.1f}" in said
    events = [json.loads(line) for line in Path("base/metrics.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "evaluation"
    assert events[-1]["accuracy"] == actual["accuracy"]
    call("evaluate", "base", *QUICK)
    again = result("base")
    for kind in ("accuracy", "initial", "random_real", "whole"):
        assert again[kind] == actual[kind]  # the same seeds


def test_networks_are_added_and_another_protocol_starts_afresh(copied: Path) -> None:
    call("evaluate", "base", *QUICK, "--quiet")
    call("evaluate", "base", *QUICK, "--networks", "convnet1", "--yardsticks", "initial", "--quiet")
    actual = result("base")
    assert {kind: list(actual[kind]) for kind in ("accuracy", "initial", "whole")} == {
        "accuracy": ["convnet2", "convnet1"],
        "initial": ["convnet2", "convnet1"],
        "whole": ["convnet2"],
    }
    call("evaluate", "base", "--runs", "1", "--epochs", "3", "--yardsticks", "none", "--quiet")
    actual = result("base")
    assert actual["accuracy"]["convnet2"]["epochs"] == 3
    assert list(actual["accuracy"]) == ["convnet2"]
    assert "initial" not in actual  # of two epochs, not to be compared with three


def test_evaluating_a_file_writes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("base/condensed.safetensors", "mine.safetensors")
    before = sorted(copied.rglob("*"))
    call("evaluate", "mine.safetensors", *QUICK)
    assert sorted(copied.rglob("*")) == before
    said = capsys.readouterr().out
    assert "convnet2" in said
    assert "initial" not in said  # the file does not hold it


def test_evaluating_a_folder_with_nothing_but_the_set(copied: Path) -> None:
    Path("bare").mkdir()
    shutil.copy("base/condensed.safetensors", "bare")
    call("evaluate", "bare", *QUICK, "--quiet")
    assert result("bare")["accuracy"]["convnet2"]["n"] == 2
    assert "<td>ipc</td>" in Path("bare/report.html").read_text(encoding="utf-8")


# ---- a folder of the user's images, of odd size ----


def paint(root: Path, sizes: list[tuple[int, int]], *, channels: int = 3, train: int = 6, test: int = 2) -> None:
    """PNGs of three classes with random pixels, of each (width, height) in turn."""
    random = np.random.RandomState(0)
    for split, count in (("train", train), ("test", test)):
        for name in ("ant", "bee", "cow"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                width, height = sizes[number % len(sizes)]
                shape = (height, width, channels) if channels > 1 else (height, width)
                pixels = random.randint(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")


@pytest.mark.parametrize("decode_type", ["single", "multi", "bound"])
def test_pngs_of_odd_size(decode_type: str, here: Path) -> None:
    """37x23 pixels and a grid of 3: neither side divides."""
    paint(here / "mine" / "bugs", [(37, 23)])
    flags = ["-d", "mine/bugs", "--ipc", "2", "-f", "3", "--decode_type", decode_type, *ACCDD, "--quiet"]
    call("pretrain", "-d", "mine/bugs", *POOL, "--quiet")
    before = members("pool/bugs-convnet3-w0.05")
    call("condense", *flags)
    assert members("pool/bugs-convnet3-w0.05") == before
    check_run_folder(here / "runs" / "bugs-ipc2", steps=1, shape=[6, 3, 23, 37])
    call("evaluate", "runs/bugs-ipc2", *QUICK, "--quiet")
    actual = result("runs/bugs-ipc2")
    check_result(actual, "convnet3", n=2)
    decoded = {"single": 2 * 9, "multi": 2 * (9 + 4 + 1), "bound": 2 * 9}[decode_type]
    assert actual["accuracy"]["convnet3"]["images"] == 3 * decoded
    assert attar.load_set(here / "runs" / "bugs-ipc2").classes == ("ant", "bee", "cow")


def test_mixed_sizes_with_size(here: Path) -> None:
    paint(here / "bugs", [(37, 23), (20, 41), (32, 32)], channels=1)
    call("condense", "-d", "bugs", "--size", "32", "--ipc", "1", "-f", "2", *ACCDD, "--out", "run", "--quiet")
    assert images("run").shape == (3, 1, 32, 32)
    call("evaluate", "run", *QUICK, "--quiet")
    check_result(result("run"), "convnet3", n=2)


def test_a_folder_that_moved(here: Path) -> None:
    paint(here / "bugs", [(12, 12)])
    call("condense", "-d", "bugs", "--ipc", "1", *ACCDD, "--out", "run", "--quiet")
    (here / "away").mkdir()
    shutil.move("bugs", "away/bugs")
    call("evaluate", "run", "-d", "away/bugs", *QUICK, "--quiet")
    check_result(result("run"), "convnet2", n=2)


def test_a_folder_without_a_test_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(here / "bugs", [(12, 12)])
    shutil.rmtree(here / "bugs" / "test")
    call("pretrain", "-d", "bugs", *POOL, "--test_fraction", "0")
    assert capsys.readouterr().out.count("unknown (no test images)") == 2
    call("condense", "-d", "bugs", "--ipc", "1", *ACCDD, "--test_fraction", "0", "--out", "run", "--quiet")
    assert images("run").shape == (3, 3, 12, 12)


# ---- real data ----


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist(typed: Typed, here: Path) -> None:
    """Two classes of it, found where Debian puts it."""
    flags = "--width 0.05 --pt_from 1 --model_num 1 --niter 1 --inner_loop 2 --n_data 64"
    typed("attar", "condense", "--recipe", "fashion-cpu", "--nclass", "2", *flags.split())
    run = here / "runs" / "fashion-ipc1"
    check_run_folder(run, steps=1, shape=[2, 1, 28, 28])
    assert attar.load_set(run).classes == ("T-shirt/top", "Trouser")
    typed("attar", "evaluate", str(run), *QUICK, "--yardsticks", "initial", "random_real")
    assert result(run)["accuracy"]["convnet3"]["images"] == 2 * 4
    assert result(run)["random_real"]["convnet3"]["images"] == 2
