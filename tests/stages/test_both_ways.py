"""A stage leaves the same folder whether Python calls it or the command line does."""

from __future__ import annotations

import html
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import attar
from attar.cli.parser import main
from attar.stages.merge import merge
from attar.stages.shared import DEFAULT_FOLDER
from helpers.command import TINY

SETTINGS: dict[str, Any] = {"width": 0.05, "pt_from": 1, "model_num": 2, "niter": 1, "inner_loop": 2, "n_data": 64}
POOL: dict[str, Any] = {"width": 0.05, "pt_from": 1, "model_num": 2}
QUICK: dict[str, Any] = {"runs": 1, "epochs": 1, "whole_epochs": 1}
CONDENSE = ("condense", "-d", "digits", *TINY)
RUN_FILES = {"config.json", "result.json", "condensed.safetensors", "images.png", "report.html"}
CONDENSED_FILES = RUN_FILES | {"metrics.jsonl", "initial.safetensors", "snapshots.safetensors", "checkpoint"}


class Case(NamedTuple):
    """A command, the call that has to do the same, and what both need and leave."""

    command: str
    call: Callable[[], object]
    leaves: dict[str, set[str]]  # folder → its files, whatever else there is
    before: tuple[str, ...] = ()  # commands that make what this one needs


def condense_in_hand() -> object:
    """Condensation with images and models that are loaded and trained already."""
    data = attar.load("digits")
    pool = attar.pretrain(data, folder=DEFAULT_FOLDER, **POOL)
    return attar.condense(data, pool, folder="run", **SETTINGS)


PART = " ".join((*CONDENSE, "--nclass_sub", "5", "--phase"))
PARTS = (f"{PART} 0 --out part0", f"{PART} 1 --out part1")
BASE = " ".join((*CONDENSE, "--out", "run"))
MEASURE = "--runs 1 --epochs 1 --whole_epochs 1"
CASES = {
    "pretrain": Case(
        "pretrain -d digits --width 0.05 --pt_from 1 --model_num 2 --out pool",
        lambda: attar.pretrain("digits", folder="pool", **POOL),
        {"pool": set()},
    ),
    "condense": Case(BASE, lambda: attar.condense("digits", folder="run", **SETTINGS), {"run": CONDENSED_FILES}),
    "condense, all in hand": Case(BASE, condense_in_hand, {"run": CONDENSED_FILES}),
    "condense with evaluations": Case(
        f"{BASE} --eval_at 0 1",
        lambda: attar.condense("digits", folder="run", eval_at=(0, 1), **SETTINGS),
        {"run": CONDENSED_FILES},
    ),
    "condense without models": Case(
        "condense -d digits --method dm --width 0.05 --niter 1 --inner_loop 2 --out run",
        lambda: attar.condense("digits", method="dm", width=0.05, niter=1, inner_loop=2, folder="run"),
        {"run": CONDENSED_FILES},
    ),
    "condense, longer": Case(
        f"{BASE.replace('--niter 1', '--niter 2')} --resume auto",
        lambda: attar.condense("digits", folder="run", **{**SETTINGS, "niter": 2}),
        {"run": CONDENSED_FILES},
        (BASE,),
    ),
    "condense again": Case(
        f"{BASE} --resume auto",
        lambda: attar.condense("digits", folder="run", **SETTINGS),
        {"run": CONDENSED_FILES},
        (BASE,),
    ),
    "condense all parts": Case(
        f"{BASE} --nclass_sub 5",
        lambda: attar.condense("digits", folder="run", nclass_sub=5, **SETTINGS),
        {
            "run": CONDENSED_FILES - {"checkpoint"} | {"parts"},
            "run/parts/0": CONDENSED_FILES,
            "run/parts/1": CONDENSED_FILES,
        },
    ),
    "merge": Case(
        "merge part1 part0 --out run", lambda: merge(["part1", "part0"], folder="run"), {"run": RUN_FILES}, PARTS
    ),
    "select": Case(
        "select herding -d digits --width 0.05 --pt_from 1 --ipc 2 --out run",
        lambda: attar.select("digits", "herding", width=0.05, pt_from=1, ipc=2, folder="run"),
        {"run": RUN_FILES},
    ),
    "select at random": Case(
        "select random -d digits --out run",
        lambda: attar.select(attar.load("digits"), "random", folder="run"),
        {"run": RUN_FILES},
    ),
    "evaluate": Case(
        f"evaluate run {MEASURE}", lambda: attar.evaluate("run", **QUICK), {"run": CONDENSED_FILES}, (BASE,)
    ),
    "evaluate on images in hand": Case(
        f"evaluate run {MEASURE} --networks convnet1 --yardsticks initial",
        lambda: attar.evaluate("run", attar.load("digits"), networks=["convnet1"], yardsticks=["initial"], **QUICK),
        {"run": CONDENSED_FILES},
        (BASE,),
    ),
}


@pytest.mark.usefixtures("shorter_digits")
@pytest.mark.parametrize("name", CASES)
def test_both_ways_leave_the_same_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of every file is the same, while no time passes; the command line that is noted is not."""
    case = CASES[name]
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    folders = {}
    for way in ("python", "shell"):
        (tmp_path / way).mkdir()
        monkeypatch.chdir(tmp_path / way)
        for command in case.before:
            by_shell(command, monkeypatch)
        if way == "shell":
            by_shell(case.command, monkeypatch)
        else:
            monkeypatch.setattr(sys, "argv", ["notebook.py"])
            case.call()
        folders[way] = contents(tmp_path / way, case.command)
    for content in folders.values():
        if "run/config.json" in content and not case.before:
            assert all(b"COMMAND" in content[f"run/{name}"] for name in ("config.json", "report.html"))
    for folder, names in case.leaves.items():
        assert names <= {path.name for path in Path(folder).iterdir()}
    assert folders["python"].keys() == folders["shell"].keys()
    differ = [path for path, content in folders["python"].items() if content != folders["shell"][path]]
    assert not differ


def by_shell(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process, as if it had been typed."""
    monkeypatch.setattr(sys, "argv", ["attar", *command.split()])
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), *(["--quiet"] if not command.startswith("merge") else [])])
    assert stop.value.code == 0


def contents(root: Path, command: str) -> dict[str, Any]:
    """{path: bytes} of all files below a folder, without the command line that made them."""
    files: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            files[name] = None
            continue
        text = path.read_bytes()
        if path.suffix in (".json", ".html"):
            for words in (f"attar {command}", "python notebook.py"):
                for spelling in (words, html.escape(words), json.dumps(words)[1:-1]):
                    text = text.replace(spelling.encode(), b"COMMAND")
        files[name] = text
    return files
