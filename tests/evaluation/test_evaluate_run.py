"""`attar evaluate`: what stands in result.json, the table and the report beside the accuracies."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli.parser import main
from attar.evaluation import measure, results
from attar.evaluation.trained import TrainedNetworks
from attar.settings.config import EvaluateConfig, NetworkConfig
from helpers.command import TINY, call

QUICK = ("--runs", "2", "--epochs", "2", "--whole_epochs", "1", "--quiet")
NONE = ("--yardsticks", "none")


@pytest.fixture
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the run base/ of the smallest schedule."""
    shutil.copytree(workspace / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def result() -> dict[str, Any]:
    return json.loads(Path("base/result.json").read_text(encoding="utf-8"))


def mean(written: dict[str, Any], kind: str, network: str = "convnet2") -> float:
    return written[kind][network]["mean"]


def test_fractions_beside_percentages(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IOR and HLR in the file; the verdict in the table and the report; of networks whose yardsticks were measured."""
    call("evaluate", "base", *QUICK)
    written, output = result(), capsys.readouterr().out
    ior = mean(written, "accuracy") - mean(written, "random_real")
    hlr = mean(written, "whole") - mean(written, "accuracy")
    assert written["ior"] == {"convnet2": pytest.approx(ior)} and written["hlr"] == {"convnet2": pytest.approx(hlr)}
    words = results.verdict(written, "convnet2")
    assert f"condensed − random real {100 * ior:+.1f}".replace("-", "−") in words
    assert ("whole set − condensed" in words) == (hlr > 0 and mean(written, "whole") > mean(written, "random_real"))
    lines = results.lines(written, "convnet2")
    assert lines[0] == f"convnet2: {words}" and all(f"{line}\n" in output for line in lines)
    assert f"protocol: {results.protocol_words(written)}\n" in output
    assert "augmentation color_crop_scale_rotate, CutMix 0.5" in output
    page = Path("base/report.html").read_text(encoding="utf-8")
    assert all(html.escape(f"{line}.") in page for line in lines)
    call("evaluate", "base", *QUICK, *NONE, "--networks", "convnet1")
    assert "condensed −" not in capsys.readouterr().out
    assert list(result()["ior"]) == ["convnet2"]
    both = result()
    assert list(both["accuracy"]) == ["convnet2", "convnet1"]
    fall = mean(both, "accuracy") - mean(both, "accuracy", "convnet1")
    assert both["drop"] == {"convnet1": pytest.approx(fall)}
    call("evaluate", "base", *QUICK, "--networks", "convnet1", "--yardsticks", "random_real")
    assert list(result()["ior"]) == ["convnet2", "convnet1"] and list(result()["hlr"]) == ["convnet2"]


@pytest.mark.parametrize("change", [("--aug_type", "none"), ("--mix_p", "0"), ("--lr", "0.1")])
def test_numbers_of_two_protocols_do_not_mix(change: tuple[str, str], here: Path) -> None:
    """Seeds, networks and yardsticks add to what is there; any other setting begins anew."""
    call("evaluate", "base", *QUICK, "--plain")
    before = result()
    assert before["protocol"]["aug_type"] == "color_crop_scale_rotate" and before["protocol"]["mix_p"] == 0.5
    call("evaluate", "base", *QUICK, *NONE, "--networks", "convnet1", *change)
    written = result()
    name, value = change[0].lstrip("-"), change[1]
    assert str(written["protocol"][name]).removesuffix(".0") == value
    assert list(written["accuracy"]) == ["convnet1"]
    assert not {"plain", "initial", "random_real", "whole", "ior", "hlr"} & written.keys()


def test_accuracies_on_other_test_images_do_not_mix(here: Path, said: list[str]) -> None:
    """The same training images, tested on others: what was measured before is replaced, interrupted or not."""
    data = attar.load("digits")
    assert data.test_images is not None and data.test_labels is not None
    few = [
        attar.ImageData(data.images, data.labels, data.test_images[rows], data.test_labels[rows], name="digits")
        for rows in (slice(None, 200), slice(200, 400))
    ]
    short: dict[str, Any] = {"runs": 1, "epochs": 1, "yardsticks": ()}
    attar.evaluate("base", few[0], networks=["convnet2"], **short)
    attar.evaluate("base", few[1], networks=["convnet1"], **short)
    assert list(result()["accuracy"]) == ["convnet1"]
    assert any("another protocol" in line for line in said)
    condensed, trained = attar.load_set("base"), TrainedNetworks()
    network = NetworkConfig(**condensed.recipe["network"])
    for one in few:
        measure.evaluate(condensed, one, EvaluateConfig(**short), network, trained=trained)
    assert len(trained.results) == 2


FEW: dict[str, Any] = {"runs": 1, "whole_epochs": 1, "yardsticks": ()}


@pytest.mark.parametrize("to", ["run", "npz"])
def test_a_file_of_settings_goes_on_top_of_those_of_the_set(to: str, here: Path) -> None:
    """Only the one setting changes, of a run as of an export; a file that names a recipe starts from that."""
    call("condense", "-d", "digits", *TINY, "--depth", "3", "--out", "deep", "--quiet")
    where = "deep" if to == "run" else attar.export_set("deep", to, "out")
    Path("e.toml").write_text("[evaluate]\nepochs = 1\n", encoding="utf-8")
    result = attar.evaluate(where, recipe="e.toml", **FEW).to_dict()
    assert list(result["accuracy"]) == ["convnet3"]
    assert (result["accuracy"]["convnet3"]["epochs"], result["accuracy"]["convnet3"]["width"]) == (1, 0.05)
    assert attar.evaluate(where, recipe="e.toml", epochs=2, **FEW).to_dict()["accuracy"]["convnet3"]["epochs"] == 2
    given = attar.evaluate(where, attar.load("digits"), recipe=Path("e.toml"), **FEW).to_dict()
    assert list(given["accuracy"]) == ["convnet3"] and given["accuracy"]["convnet3"]["epochs"] == 1
    Path("e.toml").write_text("[evaluate]\nepochs = 1\n[network]\nnet_type = 'resnet'\n", encoding="utf-8")
    assert "resnet10" in attar.evaluate(where, recipe="e.toml", **FEW).measured["accuracy"]
    Path("e.toml").write_text("recipe = 'digits'\nwidth = 0.05\n[evaluate]\nepochs = 1\n", encoding="utf-8")
    assert list(attar.evaluate(where, recipe="e.toml", **FEW).measured["accuracy"]) == ["convnet2"]


def test_several_networks_with_either_norm(here: Path) -> None:
    quick = ("--runs", "1", "--epochs", "1", *NONE, "--quiet")
    call("evaluate", "base", *quick, "--networks", "convnet", "resnet10", "resnet10-batch", "densenet")
    assert list(result()["accuracy"]) == ["convnet2", "resnet10", "resnet10-batch", "densenet121"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--networks densnet", "unknown network 'densnet'; did you mean 'densenet'?"),
        ("--networks densenet169", "densenet has no depth 169; valid: 121"),
        ("--networks timm:efficientnet_b0", "timm"),
    ],
)
def test_refusals(flags: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "base", *QUICK, *flags.split()])
    output = capsys.readouterr()
    assert stop.value.code == 2 and words in output.err and output.err.count("\n") == 1, output.err
    assert sorted(here.rglob("*")) == before
