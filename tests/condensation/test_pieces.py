"""Pieces of other methods that go with every one: PAD's filters, directions of gradients (OGM), CIM's pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import attar
from attar.condensation import loop as condensation
from attar.condensation.matching import DISTANCES, LOSSES, Matching, Pair, eager_gradient, matched_names, orthogonal
from attar.condensation.setup import set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.errors import UserError
from attar.selection.scores import difficulty
from attar.settings.condense_config import CondenseConfig
from attar.training.pool import Pool
from helpers.command import call

TINY = CondenseConfig(ipc=2, factor=2, niter=1, inner_loop=2, n_data=64, lr_img=0.1, batch_real=16, base_size=8)
PAIRS = replace(TINY, match="pairs", init="rded", update="none", perturb=False, aug_type="color_crop")


# ---- which real images, which layers (PAD) ----


@pytest.mark.parametrize("keep", ["easiest:0.25", "hardest:0.5"])
@pytest.mark.parametrize("select", ["random", "cluster"])
def test_only_the_kept_images_are_matched(keep: str, select: str, digits: ImageData, pool: Pool) -> None:
    setup = set_up(digits, pool, replace(TINY, keep=keep, select=select, select_every=1))
    state = condensation.begin_outer(init(setup), setup)
    for label in (0, 7):
        rows, scores = digits.rows(label).tolist(), difficulty("el2n", digits, label, pool).tolist()
        ranked = sorted(range(len(rows)), key=scores.__getitem__, reverse=keep.startswith("hardest"))
        kept = {rows[i] for i in ranked[: round(float(keep.split(":")[1]) * len(rows))]}
        drawn = {row for _ in range(12) for row in condensation.matched_rows(state, setup)[label].tolist()}
        assert drawn <= kept, "no other image"
        assert select == "cluster" or drawn == kept, "each of them in its turn"


def test_layers_that_are_matched(digits: ImageData, pool: Pool) -> None:
    params = {f"blocks.{i}.weight": torch.zeros(2, 2, 3, 3) for i in range(4)} | {
        "classifier.weight": torch.zeros(3, 8)
    }
    four = [f"blocks.{i}.weight" for i in range(4)]
    cases: dict[tuple[float, float], list[str]] = {
        (0.0, 1.0): four,
        (0.25, 1.0): four[1:],
        (0.0, 0.5): four[:2],
        (0.75, 1.0): four[3:],
        (0.95, 1.0): four[3:],
    }
    for layers, expected in cases.items():
        assert matched_names(params, layers=layers) == expected
    assert matched_names(params, fc=True, layers=(0.8, 1.0)) == ["classifier.weight"]
    sets = [
        condensation.run(digits, pool, replace(TINY, match_layers=layers)).images
        for layers in (":", "0:1", "0.5:", ":0.5")
    ]
    assert torch.equal(sets[0], sets[1]) and not any(torch.equal(sets[0], other) for other in sets[2:])


# ---- directions of gradients ----


def polar(value: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(value.flatten(1), full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (12, 1, 2, 2), (5, 5), (3, 9)])
def test_orthogonal_is_the_polar_factor(shape: tuple[int, ...]) -> None:
    one, other = (torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64) for seed in (1, 2))
    if shape == (5, 5):  # a square one has a small singular value, which takes more steps
        one, other = (value + 3 * torch.eye(5, dtype=torch.float64) for value in (one, other))
    got = orthogonal(one)
    expected = polar(one) if one.flatten(1).shape[0] <= one.flatten(1).shape[1] else polar(one).T
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(DISTANCES["orth"](one, other), (polar(one) - polar(other)).square().sum())
    torch.testing.assert_close(DISTANCES["orth"](100 * one, other), DISTANCES["orth"](one, other))
    many = torch.stack([one, 2 * other])
    each = torch.stack([DISTANCES["orth"](value, other) for value in many])
    torch.testing.assert_close(torch.vmap(DISTANCES["orth"], in_dims=(0, None))(many, other), each)
    assert torch.autograd.gradcheck(lambda x: DISTANCES["orth"](one, x), (other.requires_grad_(),))
    assert DISTANCES["orth"](torch.zeros(3, 4), torch.zeros(3, 4)) == 0


# ---- pairs of cells and crops (CIM) ----


def test_paired_features_are_distances_of_each_pair() -> None:
    real, synthetic = (
        torch.randn(3, 5, generator=Generator().manual_seed(seed), dtype=torch.float64) for seed in (1, 2)
    )
    matching = Matching("mse", "pairs", False, False, (0.0, 1.0), 2, "single")
    pair = Pair(lambda params, x: 2 * x, {}, real, synthetic, torch.tensor(0), None, eager_gradient)
    expected = sum(
        sum((2 * float(a) - 2 * float(b)) ** 2 for a, b in zip(r, s, strict=True))
        for r, s in zip(real, synthetic, strict=True)
    )
    assert float(LOSSES["pairs"](pair, matching)) == pytest.approx(expected / 3)


def test_each_cell_is_matched_with_its_own_crop(digits: ImageData, pool: Pool) -> None:
    """The loss of a sweep, written out: cell j of the mosaics beside crop j, both under the draw of their class."""
    from attar.training.augment import apply

    setup = set_up(digits, pool, PAIRS)
    state = condensation.begin_outer(init(setup), setup)
    assert [crops.shape for crops in state.picks] == [(8, 1, 8, 8)] * 10
    seen: list[Any] = []
    real_run = setup.sweep.run
    setup.sweep.run = lambda inputs: (seen.append(inputs), real_run(inputs))[1]  # type: ignore[method-assign]
    _, loss = condensation.step(state, setup)
    images, params, crops, draws, *_ = seen[0]
    module, total = pool.build(seed=0), 0.0
    module.load_state_dict(params)
    for label in range(10):
        drawn = {name: value[label : label + 1] for name, value in draws.items()}
        for j in range(8):
            image, place = divmod(j, 4)
            y, x = (4 * part for part in divmod(place, 2))
            cell = images[label, image : image + 1, :, y : y + 4, x : x + 4]
            large = torch.nn.functional.interpolate(cell, size=(8, 8), mode="bilinear")
            crop = crops[label][j : j + 1].float() / 255
            with torch.no_grad():
                one, other = (module.features(apply(digits.normalize(side), drawn)) for side in (crop, large))
            total += float((one - other).square().sum()) / 8
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_cim_brings_cells_nearer_to_their_crops(digits: ImageData, pool: Pool) -> None:
    one = replace(pool, members=pool.members[:1])
    moved = {"img_optim": "adamw", "img_step": "sweep", "lr_scaled": False, "lr_img": 0.01, "aug_type": "none"}
    setup = set_up(digits, one, replace(PAIRS, niter=2, inner_loop=40, **moved))
    losses = [loss for loss in condensation.iterate(init(setup), setup) if loss is not None]
    assert losses[1] < 0.9 * losses[0]


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--width", "0.05", "--niter", "1", "--inner_loop", "2", "--pt_from", "1", "--model_num", "1", "--quiet")
    call("condense", "-d", "digits", "--method", "cim", *small, "--out", "cim")
    assert json.loads(Path("cim/result.json").read_text(encoding="utf-8"))["factor"] == 2
    pieces = ("--metric", "orth", "--keep", "easiest:0.8", "--match_layers", "0.25:", "--n_data", "64")
    call("condense", "-d", "digits", *pieces, *small, "--out", "pieces")
    call("condense", "--recipe", "pieces/config.json", "--out", "again", "--quiet")
    assert torch.equal(attar.load_set(Path("pieces")).images, attar.load_set(Path("again")).images)


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("dm", ("--keep", "easiest:0.5")),
        ("idc", ("--init", "rded", "--factor", "2")),
        ("dsa", ("--init", "forgetting", "--keep", "hardest:0.5")),
        ("dc", ("--init", "correct")),
    ],
)
def test_models_choose_images_for_fresh_networks_too(
    method: str, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early-stage models are trained for that alone, and a run goes on with the same ones."""
    monkeypatch.chdir(tmp_path)
    pool = ("--pt_from", "2", "--model_num", "2")
    small = ("-d", "digits", "--method", method, "--width", "0.05", "--inner_loop", "2", "--ipc", "1", "--quiet")
    call("condense", *small, *pool, *flags, "--niter", "1", "--out", "some")
    call("condense", *small, *pool, *flags, "--niter", "2", "--out", "some", "--resume", "auto")
    call("condense", *small, *pool, *flags, "--niter", "2", "--out", "whole")
    assert torch.equal(attar.load_set("some").images, attar.load_set("whole").images)
    assert len(list(Path("pool").rglob("*.safetensors"))) == 2
    call("condense", *small, *flags[2:], "--niter", "2", "--out", "without")
    assert not torch.equal(attar.load_set("without").images, attar.load_set("whole").images)


def test_layers_of_trajectories_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--method", "mtt", "--width", "0.05", "--niter", "1", "--inner_loop", "2", "--syn_steps", "2", "--quiet")
    short = ("--pt_from", "2", "--max_start_epoch", "1", "--expert_epochs", "1", "--model_num", "1")
    sets = []
    for name, flags in (("all", ()), ("last", ("--match_layers", "0.25:"))):
        call("condense", "-d", "digits", *small, *short, *flags, "--out", name)
        sets.append(attar.load_set(name).images)
    assert not torch.equal(*sets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep": "easy:0.8"}, "keep must be easiest:SHARE or hardest:SHARE, a share above 0 and at most 1"),
        ({"keep": "easiest:0"}, "keep must be easiest:SHARE"),
        ({"keep": "easiest"}, "keep must be easiest:SHARE"),
        (
            {"keep": "easiest:.5", "method": "cim"},
            "keep chooses the real images of a batch, and match pairs takes none",
        ),
        ({"keep": "easiest:.5", "method": "mtt"}, "keep chooses the real images of a batch, and match trajectory"),
        ({"select": "cluster", "method": "cim"}, "match pairs with init rded takes none; leave it out"),
        ({"match_layers": "0.5"}, "match_layers must be FROM:TO, shares between 0 and 1"),
        ({"match_layers": "0.5:0.2"}, "match_layers must be FROM:TO"),
        ({"match_layers": "0.5:", "method": "ncfm"}, "method ncfm takes no match_layers here: it has match ncf"),
        ({"match": "pairs"}, "match pairs needs init rded, a factor above 1 and decode_type single"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str, digits: ImageData) -> None:
    with pytest.raises(UserError, match=words):
        attar.condense(digits, niter=1, **settings)
