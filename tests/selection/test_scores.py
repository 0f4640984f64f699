"""Difficulty scores and RDED's mosaics against naive twins, and the command line that selects by them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import attar
from attar.data.images import ImageData
from attar.errors import UserError
from attar.selection import coresets, rded, scores
from attar.settings.choices import EPOCH_SCORE_NAMES, SCORE_NAMES
from attar.training.pool import Pool
from helpers.command import call

NETWORK: dict[str, Any] = {"net_type": "convnet", "depth": 2, "width": 0.05}


@pytest.fixture(scope="module")
def pool(digits: ImageData) -> Pool:
    """Two models that keep their three epochs."""
    return attar.pretrain(digits, epochs=3, models=2, keep_epochs=True, keep_as="float32", **NETWORK)


def logits_of(data: ImageData, rows: Tensor, pool: Pool, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features and logits of an image at a time."""
    module = pool.build(seed=0)
    module.load_state_dict(params)
    module.eval()
    with torch.no_grad():
        features = torch.cat([module.features(data.fetch(row.view(1))) for row in rows])
        return features.double(), torch.cat([module(data.fetch(row.view(1))) for row in rows]).double()


def probabilities(row: Tensor) -> list[float]:
    high = max(row.tolist())
    powers = [math.exp(value - high) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def naive_el2n(logits: Tensor, label: int) -> list[float]:
    return [math.sqrt(sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities(row)))) for row in logits]


def test_el2n_and_grand_are_means_over_the_pool(digits: ImageData, pool: Pool) -> None:
    rows = digits.rows(3)
    easy, steep = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    for member in pool.members:
        features, logits = logits_of(digits, rows, pool, member.params)
        errors = naive_el2n(logits, 3)
        for i, (one, error) in enumerate(zip(features, errors, strict=True)):
            easy[i] += error / len(pool)
            # the gradient of the cross-entropy for the last layer: (p − y) ⊗ (features, 1)
            wrong = torch.tensor([p - (c == 3) for c, p in enumerate(probabilities(logits[i]))], dtype=torch.float64)
            steep[i] += torch.outer(wrong, torch.cat([one, one.new_ones(1)])).norm() / len(pool)
    torch.testing.assert_close(scores.difficulty("el2n", digits, 3, pool).double(), easy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.difficulty("grand", digits, 3, pool).double(), steep, rtol=1e-4, atol=1e-5)


def test_forgetting_and_aum_follow_the_epochs(digits: ImageData, pool: Pool) -> None:
    rows = digits.rows(8)
    epochs = [logits_of(digits, rows, pool, pool.at(0, epoch))[1] for epoch in (1, 2, 3)]
    forgotten, margins = [], []
    for i in range(len(rows)):
        right = [max(range(10), key=lambda c, i=i, one=one: float(one[i][c])) == 8 for one in epochs]
        falls = sum(a and not b for a, b in itertools.pairwise(right))
        forgotten.append(float(falls) if any(right) else math.inf)
        margin = [float(one[i][8]) - max(float(one[i][c]) for c in range(10) if c != 8) for one in epochs]
        margins.append(-sum(margin) / 3)
    assert scores.difficulty("forgetting", digits, 8, pool).tolist() == forgotten
    actual = scores.difficulty("aum", digits, 8, pool).double()
    torch.testing.assert_close(actual, torch.tensor(margins, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    assert len(set(forgotten)) > 1, "some are forgotten or never learned"


def naive_strata(values: list[float], k: int) -> list[int]:
    """How many images each stratum of the kept scores gives, by the paper's algorithm."""
    kept = sorted(values)[: max(k, len(values) - int(0.3 * len(values)))]
    width = (kept[-1] - kept[0]) / 50
    strata: dict[int, list[float]] = {}
    for value in kept:
        strata.setdefault(min(49, int((value - kept[0]) / width)), []).append(value)
    budget, given, left = k, dict.fromkeys(strata, 0), dict(strata)
    while left:
        smallest = min(left, key=lambda number: (len(left[number]), number))
        given[smallest] = min(len(left[smallest]), budget // len(left))
        budget -= given[smallest]
        del left[smallest]
    return [count for _, count in sorted(given.items())]


@pytest.mark.parametrize("k", [1, 7, 40, 69, 95])
def test_coverage_centric_selection(k: int) -> None:
    values = torch.rand(100, generator=Generator().manual_seed(k), dtype=torch.float64).square()
    rows = scores.stratified(values, k, Generator().manual_seed(1))
    assert len(rows) == len(set(rows.tolist())) == k
    kept = sorted(values.tolist())[: max(k, 70)]
    assert max(values[rows]) <= kept[-1], "the hardest 30 % are left out"
    width = (kept[-1] - kept[0]) / 50
    actual: dict[int, int] = dict.fromkeys(sorted({min(49, int((v - kept[0]) / width)) for v in kept}), 0)
    for value in values[rows].tolist():
        actual[min(49, int((value - kept[0]) / width))] += 1
    assert sorted(actual.values()) == sorted(naive_strata(values.tolist(), k))
    other = scores.stratified(values, k, Generator().manual_seed(2))
    assert k > 90 or not torch.equal(rows.sort().values, other.sort().values), "the draw decides within a stratum"


def test_equal_scores_are_drawn() -> None:
    values = torch.tensor([1.0, 0.0, 0.0, math.inf, 0.0])
    draws = {tuple(scores.easiest(values, 2, Generator().manual_seed(seed)).tolist()) for seed in range(40)}
    assert {row for rows in draws for row in rows} == {1, 2, 4} and len(draws) == 6


def test_moderate_is_nearest_to_the_median_distance() -> None:
    features = torch.randn(31, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    mean = [sum(float(row[d]) for row in features) / 31 for d in range(4)]
    away = [math.sqrt(sum((float(row[d]) - mean[d]) ** 2 for d in range(4))) for row in features]
    middle = sorted(away)[15]
    expected = sorted(range(31), key=lambda i: abs(away[i] - middle))[:6]
    assert coresets.moderate(features - features.mean(dim=0), 6).tolist() == expected


@pytest.mark.parametrize("factor", [1, 2])
def test_rded_keeps_the_easiest_crop_of_the_easiest_images(
    factor: int, digits: ImageData, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def noted(crops: Tensor, factor: int) -> Tensor:
        seen.append(cells(crops, factor))
        return seen[-1]

    cells = rded.cells
    monkeypatch.setattr(rded, "cells", noted)
    stored = rded.mosaics(digits, 5, 3, factor, pool, Generator().manual_seed(0))
    assert stored.shape == (3, 1, 8, 8) and len(seen) == 6, "five crops, and those that are kept"
    module, best = pool.build(seed=0), []
    module.load_state_dict(pool.members[0].params)
    for i in range(len(digits.rows(5))):
        tried = []
        for crops in seen[:5]:
            assert crops.shape[2:] == (8 // factor, 8 // factor)
            cell = crops[i : i + 1]
            large = torch.nn.functional.interpolate(cell, size=(8, 8), mode="bilinear")
            with torch.no_grad():
                tried.append((-math.log(probabilities(module(digits.normalize(large))[0].double())[5]), cell[0]))
        best.append(min(tried, key=lambda pair: pair[0]))
    best.sort(key=lambda pair: pair[0])
    side = 8 // factor
    for cell in range(3 * factor**2):
        image, place = divmod(cell, factor**2)
        y, x = (side * number for number in divmod(place, factor))
        torch.testing.assert_close(stored[image, :, y : y + side, x : x + side], best[cell][1], rtol=0, atol=1e-6)


def test_rded_takes_no_crop_twice(digits: ImageData, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images are fewer than cells, all of them come before the next crop of any, however many are needed."""
    rows = torch.cat([digits.rows(label)[:3] for label in range(10)])
    few, said = ImageData(digits.images[rows], digits.labels[rows]), list[str]()
    monkeypatch.setattr(rded, "say_once", said.append)
    for count in (2, 3, 8, 20):
        said.clear()
        crops = rded.best_crops(few, 4, count, 2, pool, Generator().manual_seed(0))
        assert len({tuple(crop.flatten().tolist()) for crop in crops}) == len(crops) == count
        assert ["fewer images than crops" in line for line in said] == [True] * (count > 3)


@pytest.mark.parametrize("kind", [*SCORE_NAMES, "rded", "moderate"])
def test_runs_begin_with_them(kind: str, digits: ImageData, pool: Pool) -> None:
    """`--init KIND`: the same images in the cells as a selection of so many gives."""
    settings: dict[str, Any] = {"init": kind, "niter": 1, "inner_loop": 1, "n_data": 8, "factor": 2, "ipc": 2}
    condensed = attar.condense(digits, pool, **settings)
    assert condensed.initial is not None and condensed.initial.shape == (20, 1, 8, 8)
    clustered = attar.condense(digits, pool, **settings, select="cluster")  # of the batches alone
    assert clustered.initial is not None and torch.equal(clustered.initial, condensed.initial)
    assert not torch.equal(clustered.images, condensed.images)
    generator = Generator().manual_seed(0)
    expected = torch.cat([coresets.images_of_class(digits, kind, label, 2, 2, pool, generator) for label in range(10)])
    assert torch.equal(condensed.initial, expected)
    again = attar.condense(digits, pool, **{**settings, "init": "mix"})
    assert again.initial is not None and not torch.equal(again.initial, expected)


def test_what_cannot_be(digits: ImageData, pool: Pool) -> None:
    with pytest.raises(UserError, match="init correct takes whole images"):
        attar.condense(digits, method="dm", init="correct", factor=2)
    without = replace(pool, members=tuple(replace(member, epochs={}) for member in pool.members))
    with pytest.raises(UserError, match="has no epoch 1; `attar pretrain --keep_epochs` keeps all of a model"):
        attar.select(digits, "aum", without, ipc=1)
    with pytest.raises(UserError, match="el2n asks early-stage models, not pixels"):
        attar.select(digits, "el2n", features="pixels")
    with pytest.raises(UserError, match="el2n selects whole images and takes no factor"):
        attar.select(digits, "el2n", pool, factor=2)


def test_best_takes_another_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own data on a CPU, and `best` anywhere, match representatives of clusters; `--init` may say how they begin."""
    monkeypatch.chdir(tmp_path)
    small = ("--width", "0.05", "--niter", "1", "--inner_loop", "1", "--pt_from", "1", "--model_num", "1", "--quiet")
    call("condense", "-d", "digits", "--recipe", "best", "--init", "el2n", "--ipc", "1", *small, "--out", "run")
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))["condense"]
    assert (config["init"], config["select"]) == ("el2n", "cluster")


@pytest.mark.parametrize("kind", [*SCORE_NAMES, "rded", "moderate"])
def test_on_the_command_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--factor", "2"] if kind == "rded" else ["--model_num", "2"] if kind in ("el2n", "grand") else []
    call("select", kind, "-d", "digits", "--width", "0.05", "--pt_from", "2", "--ipc", "2", *more, "--out", "run", "-q")
    condensed = attar.load_set(Path("run"))
    assert (condensed.method, condensed.ipc, condensed.factor) == (kind, 2, 2 if kind == "rded" else 1)
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))
    assert config["pool"]["keep_epochs"] == (kind in EPOCH_SCORE_NAMES)
    assert len(list(Path("pool").rglob("*.safetensors"))) == (2 if more and kind != "rded" else 1)
    call("select", kind, "--recipe", "run/config.json", "--out", "again", "-q")
    assert torch.equal(attar.load_set(Path("again")).images, condensed.images)
    call("evaluate", "run", "--runs", "1", "--epochs", "1", "--yardsticks", "none", "-q")
