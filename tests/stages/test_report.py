"""`attar report`: the page of a run written anew, and several runs on one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attar
from helpers.command import call, refused
from helpers.pages import Page

SMALL = {"ipc": 1, "niter": 1, "inner_loop": 1, "width": 0.1, "models": 1, "epochs": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of digits, the first evaluated."""
    root = tmp_path_factory.mktemp("runs")
    attar.condense("digits", folder=root / "one", **SMALL)
    attar.evaluate(root / "one", runs=2, epochs=1, yardsticks=["initial"])
    attar.select("digits", "random", ipc=1, folder=root / "two")
    return root


def test_the_page_of_a_run_is_written_anew(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = runs / "one" / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    call("report", str(runs / "one"))
    assert capsys.readouterr().out == f"report: {page}\n"
    assert page.read_text(encoding="utf-8") == before
    assert "Beside real" in before and "By class" in before


def test_several_runs_are_on_one_page(runs: Path, tmp_path: Path) -> None:
    call("report", str(runs / "one"), str(runs / "two"), "--out", str(tmp_path / "both.html"))
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    parsed = Page(text)
    accuracy = json.loads((runs / "one" / "result.json").read_text(encoding="utf-8"))["accuracy"]["convnet2"]["mean"]
    assert "2 runs side by side" in parsed.text and f"{100 * accuracy:.1f} ±" in parsed.text
    assert "not evaluated" in parsed.text  # the second one
    assert sum(tag == "figure" for tag in parsed.tags) == 20
    assert len(text) < 3_000_000


def test_two_runs_of_a_method_say_how_they_differ(runs: Path, tmp_path: Path) -> None:
    attar.condense("digits", folder=tmp_path / "three", **SMALL | {"niter": 2, "seed": 5})
    call("report", str(runs / "one"), str(tmp_path / "three"), "--out", str(tmp_path / "both.html"))
    text = Page((tmp_path / "both.html").read_text(encoding="utf-8")).text
    assert "Settings in which they differ" in text
    assert "condense.niter 1 2 condense.seed 0 5" in text


def test_what_cannot_be_shown_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "holds no run" in refused(capsys, "report", "nothing")
    assert "leave --out out" in refused(capsys, "report", str(runs / "one"), "--out", "page.html")
    for out in ("set.safetensors", "folder/page"):
        assert "an .html file" in refused(capsys, "report", str(runs / "one"), str(runs / "two"), "--out", out)
    many = [str(runs / "two")] * 13
    assert "12 runs at most, not 13" in refused(capsys, "report", *many)
    again = runs / "one" / ".." / "two"
    assert "two is named twice" in refused(capsys, "report", str(runs / "two"), str(runs / "one"), str(again))
    Path("begun").mkdir()
    Path("begun/config.json").write_text('{"condense": {}}', encoding="utf-8")
    assert "holds no set yet" in refused(capsys, "report", "begun")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun"]


def test_without_its_data_the_page_has_no_real_images(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.stages.report.load_data", lambda *args: attar.load("digits", nclass=5))
    call("report", str(runs / "one"))
    assert "not what the set was made from" in capsys.readouterr().err
    assert "Beside real" not in (runs / "one" / "report.html").read_text(encoding="utf-8")


def test_a_damaged_run_does_not_hide_the_others(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = runs / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{", encoding="utf-8")
    call("runs", str(runs), "--json")
    said = capsys.readouterr()
    assert {Path(run["run"]).name for run in json.loads(said.out)["runs"]} == {"one", "two"}
    assert "damaged" in said.err
