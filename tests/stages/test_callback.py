"""Python is alive: a callback, bars, and what TensorBoard is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.stages import records
from helpers.command import call

TINY: dict[str, Any] = {"inner_loop": 2, "n_data": 64, "width": 0.05, "epochs": 1, "models": 1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies on the way take no time."""
    monkeypatch.setattr(records, "quick_accuracy", lambda *args: {"convnet2": 0.5})


def result(run: str = "run") -> dict[str, Any]:
    return json.loads(Path(run, "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", [None, "run"])
def test_a_callback_is_told_each_outer_iteration(folder: str | None, here: Path, quick: None) -> None:
    events: list[attar.Event] = []
    sets: list[torch.Tensor] = []

    def callback(event: attar.Event) -> None:  # None goes on
        events.append(event)
        sets.append(event.condensed.images.clone())

    small = attar.condense("digits", folder=folder, niter=3, eval_at=(2,), callback=callback, **TINY)
    assert [(event.outer, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert all(event.loss > 0 and event.seconds > 0 for event in events)
    assert {event.condensed.method for event in events} == {small.method} == {"accdd"}
    assert [event.accuracy for event in events] == [None, 0.5, None]
    assert torch.equal(sets[2], small.images) and not torch.equal(sets[0], sets[1])


@pytest.mark.usefixtures("shorter_digits")
def test_false_ends_the_run_as_if_no_more_iterations_had_been_asked_for(here: Path, quick: None) -> None:
    asked = {"niter": 5, "eval_at": (1, 4), **TINY}
    in_memory = attar.condense("digits", callback=lambda event: event.outer < 2, **asked)
    stopped = attar.condense("digits", folder="run", callback=lambda event: event.outer < 2, **asked)
    short = attar.condense("digits", folder="short", **{**asked, "niter": 2, "eval_at": (1,)})
    assert torch.equal(stopped.images, short.images) and torch.equal(in_memory.images, short.images)
    assert stopped.recipe == in_memory.recipe
    assert stopped.recipe["condense"] == short.recipe["condense"] | {"eval_at": [1, 4]}
    assert result()["stopped"] == {"after": 2, "of": 5} and result()["inner_iterations"] == 4
    assert "stopped" not in result("short")
    assert {"report.html", "images.png", "condensed.safetensors"} <= {path.name for path in Path("run").iterdir()}
    assert attar.evaluate("run", runs=1, epochs=1, yardsticks=())["accuracy"]
    again = attar.condense("digits", folder="run", **asked)  # the same call without the callback goes on
    whole = attar.condense("digits", folder="whole", **asked)
    assert torch.equal(again.images, whole.images) and "stopped" not in result()


def test_a_callback_that_raises_ends_the_run_with_a_checkpoint(here: Path) -> None:
    def broken(event: attar.Event) -> None:
        if event.outer == 2:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        attar.condense("digits", folder="run", niter=3, callback=broken, save_every="none", **TINY)
    assert caught.traceback[-1].name == "broken"
    assert Path("run/checkpoint").is_dir() and not Path("run/result.json").exists()
    call("condense", "--resume", "run", "--quiet")
    whole = attar.condense("digits", niter=3, **TINY)
    assert torch.equal(attar.load_set("run").images, whole.images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"callback": print, "nclass_sub": 5}, "callback follows one run, and nclass_sub makes several"),
        ({"callback": 3}, "callback must be a function that takes an attar.Event, not 3"),
        ({"log": "tensorboard"}, "log writes into the run folder; name a folder"),
        ({"log": "tensorbord"}, "unknown log 'tensorbord'; did you mean 'tensorboard'"),
    ],
)
def test_what_cannot_be_followed_is_refused(settings: Any, words: str, here: Path) -> None:
    with pytest.raises(attar.UserError, match=words):
        attar.condense("digits", niter=1, **settings, **TINY)


def test_progress_is_shown_when_it_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attar.condense("digits", niter=2, **TINY)
    assert capsys.readouterr() == ("", "")
    small = attar.condense("digits", niter=2, progress=True, **TINY)
    said = capsys.readouterr().err
    assert "pretrain 1/1" in said and "condense 2/2" in said and "loss" in said
    attar.evaluate(small, runs=1, epochs=1, yardsticks=(), progress=True)
    assert "evaluate 1/1" in capsys.readouterr().err


@pytest.mark.usefixtures("shorter_digits")
def test_tensorboard_gets_pictures_settings_and_accuracies(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    attar.condense("digits", niter=2, eval_at=(1,), folder="run", log="tensorboard", **TINY)
    call("evaluate", "run", "--runs", "1", "--epochs", "1", "--whole_epochs", "1", "--log", "tensorboard", "--quiet")
    reader = EventAccumulator("run/tensorboard")
    reader.Reload()
    tags = reader.Tags()
    assert {"loss", "seconds", "accuracy/convnet2", "final accuracy/convnet2", "final whole/convnet2"} == {
        tag for tag in tags["scalars"] if "initial" not in tag and "random" not in tag
    }
    assert [item.step for item in reader.Scalars("loss")] == [1, 2]  # the evaluation hides none of them
    assert [item.step for item in reader.Scalars("final accuracy/convnet2")] == [2]
    assert [item.step for item in reader.Images("condensed")] == [0, 1, 2]
    assert reader.Images("condensed")[0].width > 100
    text = reader.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| condense | niter | 2 |" in text


def test_a_set_in_no_folder_has_no_log(here: Path) -> None:
    small = attar.select("digits", "random")
    with pytest.raises(attar.UserError, match="log writes into the run folder, and this set is in none"):
        attar.evaluate(small, log=["tensorboard"])
