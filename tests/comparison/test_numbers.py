"""Rows and tables against means and deviations computed by hand."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from attar.comparison import numbers, record, spec, tables
from attar.comparison.numbers import Mean

PLAN = spec.resolve(
    tomllib.loads(
        """
        dataset = "digits"
        seeds = 3
        runs = 2
        [[entry]]
        name = "a"
        niter = [2, 4]
        [[entry]]
        name = "b | c"
        """
    )
)
VERSIONS = {"attar": "1.0", "torch": "2.9"}
HOST = {"processor": "a CPU", "device": "cpu", "threads": 2, "jobs": 1, "cores": 2, "versions": VERSIONS}


def entry(*runs: float, epochs: int = 300, images: int = 40) -> dict[str, Any]:
    return {"convnet2": {"mean": sum(runs) / len(runs), "runs": list(runs), "epochs": epochs, "images": images}}


def cell(name: str, *runs: float, pretrain: float, condense: float, initial: float = 0.5) -> dict[str, Any]:
    seconds = {"pretrain": pretrain, "condense": condense, "evaluate": 1000.0}
    accuracies = {"accuracy": entry(*runs), "initial": entry(initial)}
    return {"cell": name, "entry": name[0], "seed": int(name.split()[-1]), "seconds": seconds} | accuracies


def yardstick(
    kind: str, ipc: int | None, seed: int, *runs: float, epochs: int = 300, images: int = 10
) -> dict[str, Any]:
    name = f"{kind} {ipc} {epochs} {seed}"
    accuracy = entry(*runs, epochs=epochs, images=images)
    return {"cell": name, "yardstick": kind, "ipc": ipc, "accuracy": accuracy, "seconds": {}}


LINES = [
    cell("a ipc 1 niter 2 seed 0", 0.70, 0.74, pretrain=1, condense=10),  # mean .72
    cell("a ipc 1 niter 2 seed 1", 0.76, 0.76, pretrain=2, condense=30),  # mean .76
    cell("a ipc 1 niter 2 seed 2", 0.80, 0.80, pretrain=3, condense=20),  # mean .80
    cell("a ipc 1 niter 4 seed 0", 0.90, 0.92, pretrain=1, condense=50),
    {"cell": "b | c ipc 1 seed 0", "entry": "b", "accuracy": {}, "seconds": {}, "diverged": "nan"},
    yardstick("random_real", 1, 0, 0.5, 0.6),
    yardstick("random_real", 1, 1, 0.6, 0.7),
    yardstick("random_real", 10, 0, 0.9, 0.9),  # another size
    yardstick("random_real", 1, 0, 0.1, 0.1, epochs=7),  # another protocol
    yardstick("whole", None, 0, 0.5, 0.5, epochs=20),  # of before a larger set was asked for
    yardstick("whole", None, 0, 0.97, 0.99, epochs=30),
]


def test_mean_and_deviation_are_over_seeds() -> None:
    first, second, third = numbers.rows(PLAN, LINES)
    assert first.accuracy == Mean(pytest.approx(0.76), pytest.approx(0.04), 3)  # of .72, .76, .80
    assert first.random_real == Mean(pytest.approx(0.6), pytest.approx(0.05 * 2**0.5), 2)  # of .55 and .65
    assert first.whole == Mean(pytest.approx(0.98), pytest.approx(0.01 * 2**0.5), 2)  # of the runs
    assert first.ior == pytest.approx(0.16) and first.hlr == pytest.approx(0.22)
    assert (first.pretrain, first.make, first.seconds) == (2, 20, 23)  # medians; the total's is of 11, 32, 23
    assert second.accuracy == Mean(pytest.approx(0.91), None, 1)
    assert (third.accuracy, third.diverged, third.seconds, third.ior) == (None, 1, None, None)


def test_a_row_says_what_every_column_stands_for() -> None:
    rows = numbers.rows(PLAN, LINES)
    assert [row.columns for row in rows] == [
        {"ipc": 1, "niter": 2},
        {"ipc": 1, "niter": 4},
        {"ipc": 1, "niter": 10},  # the recipe's
    ]


def test_the_csv_holds_every_number() -> None:
    rows = numbers.rows(PLAN, LINES)
    first, _, third = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    assert (first["entry"], first["niter"], first["accuracy_n"], first["runs_per_seed"]) == ("a", "2", "3", "2")
    assert float(first["accuracy_mean"]) == pytest.approx(0.76) and float(first["hlr"]) == pytest.approx(0.22)
    assert (third["accuracy_mean"], third["diverged"], third["ior"]) == ("", "1", "")


def test_the_table_says_what_its_numbers_are() -> None:
    text = tables.to_markdown(PLAN, numbers.rows(PLAN, LINES), LINES, [HOST], 5)
    assert "| a | 1 | 2 | 76.0 ± 4.0 | 3 | 23 | 2 | 50.0 ± 0.0 | 60.0 ± 7.1 | +16.0 | +22.0 |" in text
    assert "| b \\| c | 1 | 10 |  | 0 (1 diverged) |" in text
    assert "on the test images, after the last of 300 epochs" in text
    assert "epochs 30: 98.0 ± 1.4 over n = 2" in text
    assert "5 runs missing" in text
    assert "on a CPU (cpu, 2 threads, one run at a time, attar 1.0, torch 2.9)." in text
    assert "MIXED" not in text and "NOT comparable" not in text


def test_a_column_without_a_value_is_left_out() -> None:
    alone = [line for line in LINES if "entry" in line]
    text = tables.to_markdown(PLAN, numbers.rows(PLAN, alone), alone, [HOST], 0)
    assert "| entry | ipc | niter | accuracy | n | seconds | of them pretraining | initial |\n" in text
    assert "| a | 1 | 2 | 76.0 ± 4.0 | 3 | 23 | 2 | 50.0 ± 0.0 |\n" in text
    assert "IOR" not in text and "HLR" not in text and "whole" not in text


def test_sets_on_which_networks_had_fewer_steps_are_named() -> None:
    """40 images are one batch of 64, so 300 epochs are 300 steps; 200 images are four."""
    longer = [
        line | {"accuracy": entry(0.9, images=200)} if line["cell"].startswith("a ipc 1 niter 4") else line
        for line in LINES
    ]
    rows = numbers.rows(PLAN, longer)
    assert [row.steps for row in rows] == [300, 1200, None]
    text = tables.to_markdown(PLAN, rows, longer, [HOST], 0)
    assert "| accuracy | n | steps |" in text and "| 76.0 ± 4.0 | 3 | 300 |" in text and "| 90.0 | 1 | 1200 |" in text
    assert "fewer steps on smaller sets" in text and "equal_steps = true" in text


@pytest.mark.parametrize(
    ("images", "epochs", "equal"), [(500, 38, True), (500, 39, False), (300 * 64, 1, True), (200, 74, False)]
)
def test_up_to_an_epoch_more_is_rounding(images: int, epochs: int, equal: bool) -> None:
    """300 steps elsewhere; 500 images are 8 steps an epoch, so 304 in 38, of which 37 would be too few."""
    here = [
        line | {"accuracy": entry(0.9, images=images, epochs=epochs)}
        if line["cell"].startswith("a ipc 1 niter 4")
        else line
        for line in LINES
    ]
    assert ("steps" not in tables.to_markdown(PLAN, numbers.rows(PLAN, here), here, [HOST], 0)) == equal


def test_what_the_spec_asks_for_besides_has_columns() -> None:
    """Without augmentation and under attack: of the sets over seeds, and of random real images."""
    asked = [json.loads(json.dumps(line)) for line in LINES]
    for k, line in enumerate(asked[:3]):
        line |= {"plain": entry(0.1 * k), "random_plain": entry(0.3)}
        line["accuracy"]["convnet2"]["attacked"] = {"eps": 8 / 255, "images": 9, "fgsm": {"mean": 0.2 * k}}
    asked[5]["accuracy"]["convnet2"]["attacked"] = {"eps": 8 / 255, "images": 9, "fgsm": {"mean": 0.05}}
    changed = replace(PLAN.recipe.evaluate, plain=True, attacks=("fgsm",), attack_images=9)
    plan = replace(PLAN, recipe=replace(PLAN.recipe, evaluate=changed))
    rows = numbers.rows(plan, asked)
    text = tables.to_markdown(plan, rows, asked, [HOST], 0)
    assert "| random real | plain | random plain | fgsm | random fgsm | IOR | HLR |" in text
    assert "| 60.0 ± 7.1 | 10.0 ± 10.0 | 30.0 ± 0.0 | 20.0 ± 20.0 | 5.0 | +16.0 | +22.0 |" in text
    assert "Plain: trained without augmentation" in text and "fgsm: accuracy on 9 of the images" in text
    first, second, _ = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    assert float(first["plain_mean"]) == pytest.approx(0.1) and first["random_fgsm_n"] == "1"
    assert (second["plain_mean"], second["fgsm_n"]) == ("", "0")


def test_times_that_cannot_be_compared_are_marked() -> None:
    assert "MIXED" in (said := tables.timing([HOST, HOST | {"processor": "another CPU"}])) and "Versions" not in said
    mixed = tables.timing([HOST, HOST | {"versions": VERSIONS | {"torch": "3.0"}}])
    assert "not times" in mixed and "Versions are MIXED too" in mixed and "torch 3.0" in mixed
    two = HOST | {"jobs": 2, "threads": 1}
    assert "NOT" not in (said := tables.timing([two])) and "compare times in this table" in said
    assert "NOT comparable" in tables.timing([two | {"jobs": 3}])
    assert "NOT comparable" in tables.timing([two | {"device": "one GPU"}])


def test_a_minus_is_a_minus() -> None:
    assert (tables.points(-0.0123), tables.points(None), tables.seconds(12345.6)) == ("−1.2", "", "12346")


def test_settings_of_a_set_are_complete() -> None:
    made = record.settings_of_line(PLAN.points[0].recipe)
    assert set(made) == {"pool", "condense"} and made["condense"]["niter"] == 2 and made["pool"]["epochs"] == 2
