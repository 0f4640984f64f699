"""A run measures a few accuracies by itself where they take little of its time; its images stay the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.runs.run_folder import RESULT, RunFolder
from attar.stages import records
from helpers.logs import lines
from helpers.pages import Page

SMALL: dict[str, Any] = {
    "ipc": 1,
    "inner_loop": 2,
    "n_data": 32,
    "width": 0.05,
    "models": 1,
    "epochs": 1,
    "niter": 2,
    "nclass": 3,
}


@pytest.fixture(autouse=True)
def at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of any length measure accuracies, of networks of one epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "CURVE_FROM", 0.0)
    Path("mine.toml").write_text('recipe = "digits"\n[evaluate]\nepochs = 1\n')


def measured(folder: str, **more: Any) -> list[int]:
    """After which outer iterations of a run an accuracy was measured."""
    attar.condense(recipe="mine.toml", folder=folder, **SMALL | more)
    return [event["outer"] for event in RunFolder(Path(folder)).events() if event["event"] == "evaluation"]


def test_the_report_shows_accuracy_over_time_and_no_image_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records, "CURVE_SHARE", float("inf"))
    caplog.set_level("INFO", "attar")
    assert measured("with") == [0, 1, 2]
    assert sum("measured now and then, for the report; --no_curve" in line for line in lines(caplog)) == 1
    assert measured("without", curve=False) == [] and measured("asked", eval_at=(1,)) == [1]
    one, other = (attar.load_set(name) for name in ("with", "without"))
    assert torch.equal(one.images, other.images) and not torch.equal(one.images, one.start().images)
    texts = [Page(Path(f"{name}/report.html").read_text(encoding="utf-8")).text for name in ("with", "without")]
    assert ["Points: one network trained on the set as it was then" in text for text in texts] == [True, False]


def test_accuracies_take_a_tenth_of_the_time_at_most_and_are_no_part_of_the_condensation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "accuracy_seconds", lambda data, recipe: 1e6)
    assert measured("estimated too long") == []
    monkeypatch.setattr(records, "accuracy_seconds", lambda data, recipe: 1e-6)
    monkeypatch.setattr(records, "quick_accuracy", lambda *given: time.sleep(2) or {"convnet2": 0.5})
    start = time.perf_counter()
    assert len(measured("found too long")) == 1  # the first one shows that it takes longer
    seconds = RunFolder(Path("found too long")).read(RESULT)["seconds"]["condense"]
    assert seconds < time.perf_counter() - start - 2


def test_runs_by_the_clock_parts_and_data_without_test_images_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CURVE_SHARE", float("inf"))
    assert measured("part", only=("1", "2")) == []
    by_clock = {name: value for name, value in SMALL.items() if name not in ("niter", "inner_loop")}
    attar.condense(recipe="mine.toml", folder="clock", minutes=0.1, **by_clock)
    assert not [event for event in RunFolder(Path("clock")).events() if event["event"] == "evaluation"]
