"""What an evaluation says: differences against sums by hand, words, sets that were trained too briefly, the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.evaluation import protocol, results
from attar.evaluation.results import Difference, by_class, caveat, difference, drop, protocol_words, verdict
from attar.settings.config import EvaluateConfig
from attar.settings.schema import settings_of

TINY: dict[str, Any] = {"niter": 1, "inner_loop": 2, "n_data": 64, "width": 0.05, "epochs": 1, "models": 1}
QUICK: dict[str, Any] = {"runs": 2, "epochs": 2, "whole_epochs": 1}


def entry(mean: float, std: float | None, n: int = 4, *, epochs: int = 300, images: int = 120) -> dict[str, Any]:
    return {"mean": mean, "std": std, "n": n, "epochs": epochs, "images": images}


def result(**kinds: dict[str, Any]) -> dict[str, Any]:
    return {"protocol": {"batch_size": 64}, **{kind: {"net": value} for kind, value in kinds.items()}}


def test_the_standard_error_of_a_difference() -> None:
    gap = difference(entry(0.9, 0.02, 4), entry(0.8, 0.03, 9))
    assert gap.value == pytest.approx(0.1) and gap.error == pytest.approx((0.02**2 / 4 + 0.03**2 / 9) ** 0.5)
    assert str(gap) == "+10.0 ± 1.4"
    assert str(difference(entry(0.8, None, 1), entry(0.9, 0.03))) == "−10.0"


@pytest.mark.parametrize(
    ("gap", "sign"),
    [
        (Difference(0.03, 0.01), 1),
        (Difference(0.019, 0.01), 0),
        (Difference(-0.03, 0.01), -1),
        (Difference(0.0004, None), 0),
        (Difference(0.001, None), 1),
    ],
)
def test_less_than_two_standard_errors_are_no_difference(gap: Difference, sign: int) -> None:
    assert gap.sign == sign


def test_the_verdict_in_words() -> None:
    """The first run of a new user: nothing gained by optimising, much against random images."""
    actual = result(accuracy=entry(1.0, 0.0), initial=entry(1.0, 0.0), random_real=entry(0.694, 0.02))
    assert verdict(actual, "net") == (
        "condensed − initial +0.0 ± 0.0 (no gain from optimising); "
        "condensed − random real +30.6 ± 1.0 (better than random real)"
    )
    actual = result(accuracy=entry(0.7, 0.02), initial=entry(0.5, 0.02), whole=entry(0.9, 0.02))
    assert verdict(actual, "net") == (
        "condensed − initial +20.0 ± 1.4 (a gain from optimising); whole set − condensed +20.0 ± 1.4"
    )
    actual = result(accuracy=entry(0.4, None, 1), initial=entry(0.5, None, 1))
    assert verdict(actual, "net") == "condensed − initial −10.0; one run each is too few for a verdict: --runs 3"
    assert verdict(result(accuracy=entry(0.4, 0.1)), "net") == ""


def test_a_whole_set_below_is_no_yardstick() -> None:
    whole = entry(0.574, 0.06, epochs=30, images=144)
    actual = result(accuracy=entry(1.0, 0.0), random_real=entry(0.694, 0.02, images=30), whole=whole)
    assert "whole" not in verdict(actual, "net")
    assert caveat(actual, "net") == (
        "the whole set is no yardstick here: 57.4 % after 30 epochs (90 steps) is below condensed (100.0 %); "
        "--whole_epochs 60 trains it longer"
    )
    actual = result(accuracy=entry(0.5, 0.0), random_real=entry(0.6, 0.02), whole=whole)
    assert "below random real (60.0 %)" in caveat(actual, "net")
    assert caveat(result(accuracy=entry(0.5, 0.0), random_real=entry(0.5, 0.0), whole=whole), "net") == ""


def test_the_drop_to_other_networks() -> None:
    """Against the network that made the set, of the set and of what it is compared with."""
    actual: dict[str, Any] = {
        "accuracy": {"own": entry(0.7, 0.02), "other": entry(0.6, 0.02)},
        "random_real": {"own": entry(0.5, 0.02), "other": entry(0.45, 0.02)},
        "initial": {"other": entry(0.1, 0.02)},
    }
    actual |= protocol.gains(actual, "own")
    assert actual["drop"] == {"other": pytest.approx(0.1)}
    assert drop(actual, "own") == ""
    assert drop(actual, "other") == "against own, which made the set: condensed −10.0 ± 1.4, random real −5.0 ± 1.4"
    assert "drop" not in protocol.gains(actual, "another")


def test_counts_by_class_by_hand() -> None:
    labels = torch.tensor([0, 0, 1])
    actual = by_class({"accuracy": {"net": [[0, 1, 1], [0, 0, 0]]}}, labels, ["a", "b", "c"])["accuracy"]["net"]
    assert actual == {"accuracy": {"a": 0.75, "b": 0.5, "c": None}, "confusion": [[3, 1, 0], [1, 1, 0], [0, 0, 0]]}
    many = [str(label) for label in range(101)]
    assert "confusion" not in by_class({"accuracy": {"net": [[0, 1, 1]]}}, labels, many)["accuracy"]["net"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "run"
    attar.condense("digits", folder=folder, **TINY)
    return folder


def test_the_result_is_a_table_and_a_mapping(run: Path) -> None:
    actual = attar.evaluate(run, networks=["convnet2", "convnet1"], yardsticks=["initial"], **QUICK)
    assert isinstance(actual, attar.Evaluation)
    written = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert actual.to_dict() == written == dict(actual)
    assert actual.mean() == actual.mean("convnet2") == written["accuracy"]["convnet2"]["mean"]
    assert actual.mean("convnet1", "initial") == written["initial"]["convnet1"]["mean"]
    text = repr(actual).splitlines()
    assert text[0] == "digits, 1 per class, factor 1: accuracy on test images, %"
    assert text[1].split("  ")[0] == "network" and "condensed" in text[1] and "random" not in text[1]
    assert results.spread(written["accuracy"]["convnet1"]) in text[3]
    assert text[4].startswith("convnet2: condensed − initial ") and actual.verdict("convnet1") in text[5]
    words = protocol_words(written)
    assert text[-1] == words and "condensed 2 epochs of 10 images (2 steps), initial 2 epochs" in words
    assert all(f"{name} {value:g}" in words for name, value in (("momentum", 0.9), ("weight decay", 5e-4)))
    assert words.startswith("accuracy after the last epoch; n = 2 (seeds from 0 on); ") and words.endswith(", float32")
    assert "plain" not in words
    assert actual._repr_html_().count("<tr>") == 3 and "convnet1" in actual._repr_html_()


def test_classes_and_predictions_agree_with_the_accuracy(run: Path) -> None:
    data = attar.load("digits")
    actual = attar.evaluate(run, data, yardsticks=["random_real"], plain=True, **QUICK)
    assert data.test_labels is not None
    for kind in ("accuracy", "random_real", "plain"):
        predicted = actual.predictions(kind=kind)
        assert predicted.shape == (2, 599)
        right = (predicted == data.test_labels).double().mean(dim=1)
        assert right.tolist() == pytest.approx(actual[kind]["convnet2"]["runs"])
        counts = actual.confusion(kind=kind)
        assert counts.sum() == 2 * 599 and counts.tolist() == actual["by_class"][kind]["convnet2"]["confusion"]
        shares = (counts.diagonal() / counts.sum(dim=1)).tolist()
        assert list(actual.per_class(kind=kind).values()) == pytest.approx(shares)
    assert list(actual.per_class()) == list(data.classes)
    assert "CutMix 0.5 (plain: without both)" in protocol_words(actual)


def test_the_protocol_tells_whitened_pixels_and_mixed_seeds() -> None:
    how = settings_of(EvaluateConfig()) | {"width": 1.0, "norm_type": "instance"}
    one = {"epochs": 2, "images": 10, "n": 1, "seed": 7, "precision": "tf32"}
    measured = {"net": one, "other": one | {"n": 3, "seed": 0, "precision": "float32"}}
    words = protocol_words({"protocol": how | {"space": "zca"}, "accuracy": measured})
    assert "n = 3 (seeds from 0 on) and n = 1 (seeds from 7 on); " in words
    assert words.endswith("norm instance, float32, tf32, whitened images (ZCA)")


def test_results_by_class_are_kept_with_their_accuracies(run: Path) -> None:
    """Those of another network stay beside it, those of another protocol do not."""
    attar.evaluate(run, yardsticks=(), **QUICK)
    both = attar.evaluate(run, networks=["convnet1"], yardsticks=(), **QUICK)
    assert {"convnet1", "convnet2"} <= both["by_class"]["accuracy"].keys()
    assert both.per_class("convnet2") != both.per_class("convnet1")
    other = attar.evaluate(run, networks=["convnet1"], yardsticks=(), **QUICK, lr=0.1)
    assert list(other["by_class"]) == ["accuracy"] and list(other["by_class"]["accuracy"]) == ["convnet1"]


def test_what_was_not_measured_is_refused(run: Path) -> None:
    actual = attar.evaluate(run, yardsticks=(), **QUICK, lr=0.2)
    with pytest.raises(attar.UserError, match="unknown network 'convnet3'; did you mean 'convnet2'"):
        actual.mean("convnet3")
    with pytest.raises(attar.UserError, match="nothing was measured for whole; there is accuracy"):
        actual.per_class(kind="whole")
    with pytest.raises(attar.UserError, match="unknown kind of training set 'al'"):
        actual.mean(kind="al")
