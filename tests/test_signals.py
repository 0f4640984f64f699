"""Ctrl-C: held back while a state changes, let through at once where nothing is lost."""

from __future__ import annotations

import os
import runpy
import signal
import sys

import pytest

from attar import signals
from attar.signals import Interrupted
from helpers.logs import lines


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_waits_for_a_safe_point_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted), signals.deferred() as stop:
        interrupt()
        assert lines(caplog) == ["stopping at the next safe point; again stops now"]
        stop.check()
        pytest.fail("a safe point was passed")
    with pytest.raises(Interrupted), signals.deferred():
        interrupt()
        interrupt()
        pytest.fail("the second one waited")


def test_what_may_be_broken_off_is(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted), signals.deferred(), signals.at_once():
        interrupt()
        pytest.fail("it waited")
    assert lines(caplog) == ["stopping now"] and not signals.AT_ONCE
    assert signals.CUT  # by which the command line knows that compilers are not to be waited for
    signals.CUT.clear()


def test_while_modules_are_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "attar.cli.parser":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "attar.cli.parser", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Slow(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("attar", run_name="__main__")
    assert stop.value.code == 130 and capsys.readouterr().err == "attar: interrupted\n"
