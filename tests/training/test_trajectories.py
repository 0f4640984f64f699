"""Pools that keep their epochs: a point on a trajectory, its file, and the optimisers of experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attar
from attar import files, models
from attar.condensation.network_init import interpolated
from attar.data.images import ImageData
from attar.errors import UserError
from attar.settings.config import NetworkConfig, PoolConfig
from attar.training import early_stage, pool_files
from attar.training.pool import KEPT
from attar.training.train_state import gsam_gradients, gsam_uphill, start_training, step
from helpers.command import call

NETWORK = NetworkConfig(depth=2, width=0.05)
CONFIG = PoolConfig(epochs=3, models=1, momentum=0.0, weight_decay=0.0, lr_decay=False, keep_epochs=True)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return attar.load("digits", nclass=3)


def equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return all(float((one[name] - other[name]).abs().max()) <= tolerance for name in one)


@pytest.mark.parametrize(("kept", "tolerance"), [("float32", 0.0), ("bf16", 4e-3)])
def test_the_start_and_every_epoch_are_points(kept: str, tolerance: float, digits: ImageData, tmp_path: Path) -> None:
    config = replace(CONFIG, keep_as=kept)
    pool = early_stage.pretrain(digits, config, NETWORK, folder=tmp_path)
    loaded = pool_files.load([tmp_path], digits, NETWORK)
    for epochs in range(4):
        ended = None if epochs == 0 else early_stage.train_member(digits, replace(config, epochs=epochs), NETWORK)
        expected = models.parameters_of(pool.build(0)) if ended is None else ended.params
        assert all(equal(one.at(0, epochs), expected, tolerance) for one in (pool, loaded)), epochs
    assert equal(loaded.at(0), early_stage.train_member(digits, config, NETWORK).params), "the end is exact"
    assert all(value.dtype == KEPT[kept] for value in loaded.members[0].epochs.values())
    assert all(value.dtype == torch.float32 for value in loaded.at(0, 1).values())


def test_epochs_change_nothing_else(digits: ImageData) -> None:
    kept, plain = (
        early_stage.pretrain(digits, replace(CONFIG, keep_epochs=keep, keep_as="float32"), NETWORK)
        for keep in (True, False)
    )
    assert equal(kept.at(0), plain.at(0))
    one, other = (interpolated(pool, torch.Generator().manual_seed(1)).params for pool in (kept, plain))
    assert equal(one, other), "the start that was kept is the one of the seed"
    with pytest.raises(UserError, match=r"e3-seed0-\w+ has no epoch 1; `attar pretrain --keep_epochs` keeps all of"):
        plain.at(0, 1)
    with pytest.raises(UserError, match="has no epoch 4"):
        kept.at(0, 4)


def test_on_the_command_line_and_what_it_takes_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("pretrain", "-d", "digits", "--width", "0.05", "--pt_from", "2", "--model_num", "1", "--keep_epochs")
    for kept in ("bf16", "float32"):
        call(*run, "--keep_as", kept, "--out", kept, "--quiet")
    sizes = [next((tmp_path / kept).iterdir()).stat().st_size for kept in ("bf16", "float32")]
    count = sum(
        value.numel() for value in pool_files.load_member(next((tmp_path / "bf16").iterdir()))[0].params.values()
    )
    assert 0.99 < (sizes[1] - sizes[0]) / (2 * 3 * count) < 1.01, "three points of two bytes less"


def test_damaged_epochs_are_refused(digits: ImageData, tmp_path: Path) -> None:
    pool = early_stage.pretrain(digits, CONFIG, NETWORK, folder=tmp_path)
    file = pool.members[0].file
    assert file is not None
    tensors, meta = files.load_tensors(file, "member")
    tensors = {name: value.clone() for name, value in tensors.items()}
    name = next(name for name in tensors if name.startswith("epochs."))
    broken: list[tuple[dict[str, Any], str]] = [
        ({name: tensors[name][:-1]}, "is damaged: its epochs are not those of its parameters"),
        ({name: tensors[name].to(torch.int32)}, "is damaged: its epochs are not kept as bf16, as its settings say"),
        ({name: torch.full_like(tensors[name], torch.nan)}, "is damaged: epoch 1 is not finite"),
    ]
    for change, words in broken:
        files.save_tensors(file, tensors | change, "member", meta)
        with pytest.raises(UserError, match=words):
            pool_files.load([file], digits, NETWORK).at(0, 1)


def test_only_experts_of_the_same_settings_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trajectory of another optimiser in the same folder is another one."""
    monkeypatch.chdir(tmp_path)
    small: dict[str, Any] = {"width": 0.05, "epochs": 1, "models": 1, "folder": tmp_path / "pool", "nclass": 3}
    attar.pretrain("digits", keep_epochs=True, optimizer="gsam", **small)
    attar.pretrain("digits", keep_epochs=True, **small)
    assert len(list((tmp_path / "pool").iterdir())) == 2


def test_gsam_against_its_definition() -> None:
    """One step on a quadratic, with the formulas of the paper over one flat vector."""
    module = torch.nn.Linear(3, 2, dtype=torch.float64)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    model = start_training(module, start, {}, lr=0.1, momentum=0.0, weight_decay=0.0, optimizer="gsam", gsam=(0.3, 0.7))
    images, targets = torch.randn(5, 3, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0, 1]]

    def gradient(theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        out = images @ theta[:6].view(2, 3).T + theta[6:]
        return torch.autograd.grad(torch.nn.functional.cross_entropy(out, targets), theta)[0]

    theta = torch.cat([value.flatten() for value in start.values()])
    g = gradient(theta)
    uphill = gradient(theta + 0.3 * theta.square() * g / (theta * g).norm())
    direction = uphill / uphill.norm()
    expected = theta - 0.1 * (uphill - 0.7 * (g - (g @ direction) * direction))
    step(model, images, targets)
    torch.testing.assert_close(torch.cat([value.detach().flatten() for value in model.params.values()]), expected)
    assert not equal(dict(gsam_uphill(start, start, 0.1)), start)
    assert equal(gsam_gradients(start, start, 0.5), start, 1e-9), "no gap between equal gradients"
