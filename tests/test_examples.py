"""The examples run as they stand, on the embedded digits."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import attar

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What an example prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run folder of digits, as it is before the first step."""
    monkeypatch.chdir(tmp_path)
    attar.condense("digits", ipc=1, niter=1, inner_loop=1, width=0.1, epochs=1, models=1, folder="run")
    return "run"


def test_search(small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--networks", "convnet1", "convnet2", "--epochs", "30", "--whole_epochs", "2", "--width", "0.1")
    flags = (*flags, "--runs", "2")
    said = run("search.py", small, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert len(re.findall(r"^\| convnet[12] \| \d+\.\d ± \d+\.\d \| \d+\.\d \|$", said, re.M)) == 2
    assert re.search(r"rank correlation -?1\.00; the condensed set chooses convnet[12]", said)


def test_device(small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--epochs", "2", "--whole_epochs", "1", "--seeds", "2")
    said = run("device.py", small, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert re.findall(r"^\| ([a-z ]+) \| ([\d,.]+) ", said, re.M) == [
        ("condensed", "0.6"),
        ("random real", "0.6"),
        ("all images", "76.7"),
    ]


def test_continual(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--data", "digits", "--seeds", "1", "--niter", "3", "--epochs", "10", "--classes", "5")
    said = run("continual.py", *flags, capsys=capsys, monkeypatch=monkeypatch)
    rows = re.findall(r"^\| (condensed|herding|random) \| (\d+\.\d) \| (\d+\.\d) \|$", said, re.M)
    assert [row[0] for row in rows] == ["condensed", "herding", "random"]
    assert all(float(row[1]) > 100 / 5 for row in rows)
