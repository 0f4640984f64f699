"""The search for settings: equal budgets, seeds of its own in every round, and it goes on after a kill."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attar.comparison import spec
from benchmarks import search
from helpers.command import call

TINY = """
rounds = [[0], [1]]

[shared]
holdout = 0.2
ipc = 1
compile = "off"

[shared.network]
width = 0.05

[shared.evaluate]
epochs = 2
runs = 1
yardsticks = ["none"]

[data.three]
dataset = "digits"
nclass = 3
niter = 2

[data.four]
dataset = "digits"
nclass = 4
niter = 1
"""
CANDIDATES = [
    {"family": family, "name": f"{method} {rate}", "method": method, "lr_img": rate, "inner_loop": 1}
    for family, method in (("dm", "dm"), ("random", "dc"))
    for rate in (0.01, 0.1, 1.0)
]


def write(path: Path, candidates: list[dict[str, Any]], text: str = TINY) -> Path:
    entries = search.as_toml({}, candidates).replace("[[entry]]", "[[candidate]]")
    path.write_text(text + entries, encoding="utf-8")
    return path


def test_a_search_halves_each_family_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "search.toml", CANDIDATES)
    calls: list[str] = []

    def killed_in_the_third(command: list[str], *, check: bool) -> None:
        calls.append(command[4])
        if len(calls) == 3:
            raise KeyboardInterrupt
        assert check and command[:4] == [sys.executable, "-m", "attar", "compare"]
        call(*command[3:], "--quiet")  # the same in this process

    monkeypatch.setattr(search, "subprocess", SimpleNamespace(run=killed_in_the_third))
    with pytest.raises(KeyboardInterrupt):
        search.main([str(file), str(tmp_path / "out")])
    first = (tmp_path / "out/round-1/three/results.jsonl").read_bytes()
    search.main([str(file), str(tmp_path / "out")])
    assert (tmp_path / "out/round-1/three/results.jsonl").read_bytes() == first  # what was there is not run again
    result = json.loads((tmp_path / "out/search.json").read_text())
    assert [len(one["score"]) for one in result["rounds"]] == [6, 4]
    for one in result["rounds"]:
        for family in ("dm", "dc"):
            ranked = sorted((name for name in one["score"] if name.startswith(family)), key=lambda n: -one["score"][n])
            assert [name for name in one["left"] if name.startswith(family)] == ranked[: (len(ranked) + 1) // 2]
    winner = result["rounds"][-1]["left"][0]
    assert [len(values) for values in result["readings"][winner].values()] == [2, 2]
    assert "goes on" in capsys.readouterr().out
    spec = tomllib.loads((tmp_path / "out/round-2/three.toml").read_text())
    assert spec["seeds"] == [1]
    assert {entry["niter"] for entry in spec["entry"]} == {2}


def test_a_diverged_seed_counts_as_no_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(command: list[str], *, check: bool) -> None:
        folder = Path(command[-1])
        folder.mkdir(parents=True)
        rows = [f"{c['name']},{'0.5,1' if c['lr_img'] == 1.0 else '0.4,2'}" for c in CANDIDATES]
        (folder / "table.csv").write_text("entry,accuracy_mean,accuracy_n\n" + "\n".join(rows), encoding="utf-8")

    monkeypatch.setattr(search.subprocess, "run", compared)
    text = TINY.replace("rounds = [[0], [1]]", "rounds = [[0, 1]]")
    search.main([str(write(tmp_path / "search.toml", CANDIDATES, text)), str(tmp_path / "out")])
    score = json.loads((tmp_path / "out/search.json").read_text())["rounds"][0]["score"]
    assert (score["dm 1.0"], score["dm 0.1"]) == (0.25, 0.4)


@pytest.mark.parametrize(
    "path", sorted((Path(search.__file__).parent / "searches").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_searches_that_are_there_can_be_run(path: Path) -> None:
    """Every candidate has settings that its method takes, on every data set."""
    asked = tomllib.loads(path.read_text(encoding="utf-8"))
    search.check(asked)
    for data in asked["data"]:
        text = search.comparison(asked, data, asked["candidate"], asked["rounds"][0]).replace("own/", "")
        plan = spec.resolve(tomllib.loads(text.replace('"emoji"', '"cifar10"')))
        assert [point.entry for point in plan.points] == [candidate["name"] for candidate in asked["candidate"]]


def test_iterations_follow_the_data_set_and_the_candidate() -> None:
    data = {"shared": {"ipc": 1}, "data": {"one": {"dataset": "digits", "niter": 30}}}
    candidate = {"family": "a", "name": "slow", "niter_share": 0.45, "lr_img": 0.1}
    assert tomllib.loads(search.comparison(data, "one", [candidate], [7])) == {
        "ipc": 1,
        "dataset": "digits",
        "seeds": [7],
        "entry": [{"name": "slow", "niter": 14, "lr_img": 0.1}],
    }


@pytest.mark.parametrize(
    ("candidates", "text", "said"),
    [
        (CANDIDATES[:-1], TINY, "equally many"),
        ([CANDIDATES[0], CANDIDATES[0]], TINY, "must differ"),
        (CANDIDATES, TINY.replace("[1]]", "[0]]"), "must differ"),
        (CANDIDATES, TINY.replace("holdout = 0.2", ""), "never chosen by test images"),
    ],
)
def test_an_unfair_search_is_refused(candidates: list[dict[str, Any]], text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=said):
        search.main([str(write(tmp_path / "search.toml", candidates, text)), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
