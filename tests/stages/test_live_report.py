"""The report of a run is written while it goes on: an open page follows it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import attar
from attar.report import of_run
from helpers.command import call
from helpers.pages import Page

SMALL = {"ipc": 1, "inner_loop": 2, "n_data": 32, "width": 0.1, "models": 1, "epochs": 1}


def test_the_page_of_a_running_run_says_how_far_it_is_and_loads_itself_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(of_run, "LIVE_SECONDS", 0.0)
    monkeypatch.setattr(of_run, "LIVE_SHARE", float("inf"))
    seen = []

    def look(event: attar.Event) -> None:
        path = Path("run/report.html")
        seen.append(path.read_text(encoding="utf-8") if path.exists() else "")

    attar.condense("digits", niter=3, folder="run", callback=look, **SMALL)
    assert seen[0] == ""
    for done, text in enumerate(seen[1:], start=1):
        page = Page(text)
        assert f"Still running: {done} of 3 outer iterations" in page.text
        assert ("meta", "http-equiv", "refresh") in page.attributes
        assert "Use it" not in page.text and ("input", "value", "beside") in page.attributes
    end = Path("run/report.html").read_text(encoding="utf-8")
    assert "Still running" not in end and 'http-equiv="refresh"' not in end and "Use it" in end


def test_it_is_not_written_more_often_than_it_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(of_run, "LIVE_SECONDS", 0.0)
    written = []
    monkeypatch.setattr(of_run, "write_report", lambda *args, **options: written.append(options["running"]))
    monkeypatch.setattr(of_run, "LIVE_SHARE", 1e-9)
    attar.condense("digits", niter=3, folder="run", **SMALL)
    assert written == [(1, 3)]


def test_the_page_of_a_run_that_was_stopped_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(event: attar.Event) -> None:
        call("show", "run")
        assert "it is running" in capsys.readouterr().out
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        attar.condense("digits", niter=3, folder="run", callback=interrupt, **SMALL)
    text = Path("run/report.html").read_text(encoding="utf-8")
    assert "Stopped after 1 of 3 outer iterations; attar condense --resume run goes on" in Page(text).text
    assert 'http-equiv="refresh"' not in text
    call("show", "run")
    assert "stopped before its end; next: attar condense --resume run" in capsys.readouterr().out
