"""A run measures a few accuracies by itself where they take little of its time; its images stay the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.runs.run_folder import RESULT, RunFolder
from attar.sets import snapshots
from attar.stages import clock, records, schedule
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


def test_a_run_that_is_stopped_while_it_measures_has_a_report_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "quick_accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        attar.condense(recipe="mine.toml", folder="run", eval_at=(1,), **SMALL)
    page = Path("run/report.html").read_text(encoding="utf-8")
    text = Page(page).text
    assert "method accdd" in text and "Stopped after 1 of 2 outer iterations" in text
    assert 'http-equiv="refresh"' not in page


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


def test_data_without_test_images_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CURVE_SHARE", float("inf"))
    data = attar.load("digits", nclass=3)
    small = {name: value for name, value in SMALL.items() if name != "nclass"}
    events: dict[bool, list[str]] = {}
    for tested in (True, False):
        folder = RunFolder(Path(f"tested-{tested}"))
        attar.condense(data if tested else data.untested(), recipe="mine.toml", folder=folder.path, **small)
        events[tested] = [event["event"] for event in folder.events()]
    assert events[True].count("evaluation") == 3 and "evaluation" not in events[False]


def test_parts_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CURVE_SHARE", float("inf"))
    assert measured("part", only=("1", "2")) == []


class Minute:
    """A minute in which only outer iterations and accuracies take time: a second, and `accuracy` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, accuracy: float) -> None:
        self.now, self.accuracy, self.measure = 0.0, accuracy, records.quick_accuracy
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=0.01, inner=3.0))
        monkeypatch.setattr(records, "accuracy_seconds", lambda data, recipe: accuracy)
        monkeypatch.setattr(records, "quick_accuracy", self.quick_accuracy)

    def quick_accuracy(self, *given: Any) -> dict[str, float]:
        self.now += self.accuracy
        return self.measure(*given)

    def condense(self, stop_after: int = 0, **more: Any) -> attar.SyntheticSet:
        """A run by the clock, interrupted after some outer iterations."""
        settings = {name: value for name, value in SMALL.items() if name not in ("niter", "inner_loop")}

        def tick(event: attar.Event) -> None:
            self.now += 1
            if event.outer == stop_after:
                raise KeyboardInterrupt

        return attar.condense(recipe="mine.toml", folder="clock", minutes=1, callback=tick, **settings | more)


def accuracies() -> list[dict[str, Any]]:
    """The events of the accuracies that were measured during the run."""
    return [event for event in RunFolder(Path("clock")).events() if event["event"] == "evaluation"]


def test_a_run_by_the_clock_has_a_curve_to_its_end_and_the_images_of_one_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        minute = Minute(patched, accuracy=1.25)
        made = minute.condense()
    outer = made.recipe["condense"]["niter"]
    after = [event["outer"] for event in accuracies()]
    assert len(after) == 4 and after[0] > 12 and after[-1] == outer and sorted(after) == after
    assert 59 <= minute.now <= 60 and outer == int(60 - 4 * 1.25)
    assert len(RunFolder(Path("clock")).snapshots()[1]) == snapshots.MOMENTS + 1
    attar.condense(recipe="clock/config.json", folder="again", curve=False)
    again = attar.load_set("again")
    assert torch.equal(made.images, again.images) and not torch.equal(made.images, made.start().images)


def test_the_share_and_the_minutes_are_those_of_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    minute = Minute(monkeypatch, accuracy=1.75)
    with pytest.raises(KeyboardInterrupt):
        minute.condense(stop_after=30)
    assert [event["took"] for event in accuracies()] == [1.75] and 31 < minute.now < 32
    minute.condense()
    took = [event["took"] for event in accuracies()]
    assert len(took) > 1 and sum(took) < 6
    assert 59 <= minute.now <= 61  # one second was gone, between the last checkpoint and the interruption


def test_no_time_is_kept_where_no_accuracy_is_wanted_or_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    minute = Minute(monkeypatch, accuracy=7.0)
    assert minute.condense().recipe["condense"]["niter"] == 60 and not accuracies()
    minute = Minute(monkeypatch, accuracy=1.0)
    assert minute.condense(curve=False, overwrite=True).recipe["condense"]["niter"] == 60 and not accuracies()


def test_the_clock_keeps_time_and_leaves_accuracies_out_of_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 12.0, 54.0, 56.0, 58.0])  # before the third iteration 40 seconds of an accuracy
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    ending = clock.Clock(60.0)
    assert ending.more() and ending.more()
    ending.leave_out(40.0)
    assert ending.more()
    ending.reserved = 1.5
    assert [ending.more(), ending.more()] == [True, False]  # 56 + 2 + 1.5, 58 + 2 + 1.5
