"""The run folder: what it refuses, what it keeps, and what is said on the way."""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rich.console import Console

from attar.errors import UserError, log, say_once
from attar.runs import progress, run_folder
from attar.runs.progress import Progress
from attar.runs.run_folder import RunFolder


def test_a_fresh_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = run_folder.create(tmp_path / "a" / "b", overwrite=False)
    assert folder.path.is_dir()
    assert list(folder.path.iterdir()) == []


def test_a_folder_of_the_users_own_files_can_take_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run_folder.create(tmp_path, overwrite=False)
    run_folder.create(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", run_folder.FILES)
def test_a_run_is_not_replaced_unless_asked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"already holds a run .{name}.; go on with it with --resume auto, name"):
        run_folder.create(tmp_path, overwrite=False)
    assert (tmp_path / name).read_text() == "old"
    run_folder.create(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_paths_that_cannot_be_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "a" / "b"):
        with pytest.raises(UserError, match=f"cannot be a folder: {tmp_path / 'file'} is a file; name another folder"):
            run_folder.check_free(path, overwrite=True)


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(UserError, match=r"cannot be written: .* is read-only; name another folder"):
        run_folder.check_free(tmp_path / "run", overwrite=False)


def test_discarding_leaves_what_is_not_the_runs(tmp_path: Path) -> None:
    folder = run_folder.create(tmp_path / "run", overwrite=False)
    folder.event({"event": "step"})
    folder.write(run_folder.CONFIG, {})
    folder.discard()
    assert not folder.path.exists()
    folder = run_folder.create(tmp_path / "run", overwrite=False)
    folder.event({"event": "step"})
    (folder.path / "notes.txt").write_text("mine")
    folder.discard()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.events() == []
    events = [{"event": "step", "loss": 0.1}, {"event": "evaluation", "name": "Ä\n"}]
    for event in events:
        folder.event(event)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == events
    assert folder.events() == events


@pytest.mark.parametrize("text", ['{"event": "st', "[1]\n", '{"a": 1}\n\n{"b": 2}\n'])
def test_damaged_events(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged.*; remove it to go on without"):
        RunFolder(tmp_path).events()


def test_reading_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read("result.json", "seconds") == {}
    folder.write("result.json", {"seconds": {"condense": 1.0}})
    assert folder.read("result.json", "seconds", "whole") == {"seconds": {"condense": 1.0}}
    folder.write("result.json", {"seconds": 3})
    with pytest.raises(UserError, match=r"result.json is damaged: 'seconds' must be an object, not 3"):
        folder.read("result.json", "seconds")


def test_environment_names_what_a_number_depends_on() -> None:
    actual = run_folder.environment(torch.device("cpu"))
    assert actual["torch"] == torch.__version__
    assert actual["device"] == "cpu"
    assert {"attar", "python", "platform", "processor", "threads"} <= actual.keys()
    json.dumps(actual)


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/attar", "condense", "-d", "digits"], "attar condense -d digits"),
        (["/lib/attar/__main__.py", "demo"], "attar demo"),
        (["/home/me/attar/condense.py", "-d", "digits"], "python condense.py -d digits"),
        (["attar", "condense", "-d", "my photos"], "attar condense -d 'my photos'"),
    ],
)
def test_the_command_as_it_was_typed(argv: list[str], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert run_folder.command_line() == command


# ---- progress ----


def shown(*, terminal: bool, quiet: bool = False) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    made = Progress(quiet=quiet)
    made.console = Console(file=text, force_terminal=terminal, width=120)
    return made, text


def test_without_a_terminal_progress_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    made, text = shown(terminal=False)
    clock = iter([0.0, 2.0, 4.0, 4.5, 6.5, 7.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with made.stage("condense", 5, images=1000) as stage:
        for loss in range(5):
            stage.accuracy = None if loss < 3 else 0.815
            stage.advance(f"loss {loss}")
    # one line per step, at most one a second, and the last; the time left goes by the steps so far
    assert text.getvalue().splitlines() == [
        "condense 1/5  2 s, 8 s left  loss 0, 500 images/s",
        "condense 2/5  4 s, 6 s left  loss 1, 500 images/s",
        "condense 4/5  6 s, 2 s left  loss 3, 615 images/s, accuracy 81.5 %",
        "condense 5/5  7 s, 0 s left  loss 4, 714 images/s, accuracy 81.5 %",
    ]


def test_the_time_left_goes_by_the_usual_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step waited for a compiler, and another one for a neighbour."""
    made, text = shown(terminal=False)
    clock = iter([0.0, 100.0, 102.0, 104.0, 154.0, 156.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with made.stage("condense", 20, images=300, serial=True) as stage:
        for _ in range(5):
            stage.advance()
    lines = text.getvalue().splitlines()
    assert lines[0] == "condense 1/20  100 s"  # no guess from what will not come again
    assert lines[1] == "condense 2/20  102 s, 36 s left  150 images/s"
    assert lines[-1] == "condense 5/20  156 s, 30 s left  150 images/s"


def test_a_stage_that_ends_by_the_clock_says_how_far_it_will_come(monkeypatch: pytest.MonkeyPatch) -> None:
    made, text = shown(terminal=False)
    clock = iter([0.0, 2.0, 4.0, 7.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with made.stage("condense", 99, serial=True) as stage:
        stage.deadline = 10.0
        for _ in range(3):
            stage.advance()
    assert text.getvalue().splitlines()[1:] == ["condense 2/5  4 s, 6 s left", "condense 3/4  7 s, 3 s left"]


def test_steps_from_several_threads_are_all_counted() -> None:
    made, text = shown(terminal=False)
    with made.stage("pretrain", 2000) as stage, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: stage.advance(), range(2000)))
    assert text.getvalue().splitlines()[-1].startswith("pretrain 2000/2000 ")


def test_on_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    made, text = shown(terminal=True)
    with made.stage("condense", 2, images=64) as stage:
        stage.advance("loss 1")
        stage.advance("loss 0.5")
        stage.measured(0.75)  # after the last step: the finished bar shows it
    said = text.getvalue()
    last = next(line for line in reversed(said.splitlines()) if "2/2" in line)
    assert "loss 0.5" in last and "accuracy 75.0 %" in last
    assert "images/s" in said
    assert "accuracy 75.0 %" in said
    assert "condense" in said
    assert "2/2" in said
    assert "left" in said
    assert "loss 0.5" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_only_warnings(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    made, text = shown(terminal=terminal, quiet=True)
    with made.listening(), made.stage("condense", 1) as stage:
        log.info("a message")
        log.warning("a warning")
        stage.advance("done")
    assert text.getvalue() == "a warning\n"
    assert capsys.readouterr() == ("", "")  # nor does logging itself, which shows warnings that nobody handles


def test_lines_are_printed_as_they_are() -> None:
    """No markup, no wrapping, no colours: file names have brackets."""
    made, text = shown(terminal=False)
    line = "pool: [bold]x[/bold] " + "y" * 300
    made.line(line)
    assert text.getvalue() == line + "\n"


def test_the_log_is_shown_while_a_command_runs() -> None:
    made, text = shown(terminal=False)
    line = "pool: [bold]x[/bold] " + "y" * 300
    level, handlers = log.level, list(log.handlers)
    log.info("before")
    with made.listening():
        log.info("%s", line)
        for _ in range(2):
            say_once("compiled")
        log.debug("not shown")
    log.info("after")
    assert text.getvalue() == f"{line}\ncompiled\n"
    assert (log.level, log.handlers) == (level, handlers)
