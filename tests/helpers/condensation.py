"""A small condensation, attar's and the naive one, side by side in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attar
from attar import models
from attar.condensation import loop as condensation
from attar.condensation import state as state_module
from attar.condensation.image_step import pending
from attar.condensation.setup import set_up
from attar.data.images import ImageData
from attar.models.for_data import describe
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig
from attar.training import augment, batches
from attar.training.draws import Draw
from attar.training.pool import Member, Pool
from helpers import naive

OUTER, SWEEPS = 3, 5
EVERYTHING = "color_crop_cutout_flip_scale_rotate"


def digits(nclass: int = 4) -> ImageData:
    """Twelve digits of each class, five of the last: fewer than the batch. Many pixels are black or white."""
    whole = attar.load("digits", nclass=nclass)
    rows = torch.cat([whole.rows(c)[: 12 if c < nclass - 1 else 5] for c in range(nclass)])
    return ImageData(whole.images[rows], whole.labels[rows], name="few")


def pool_of(data: ImageData, dtype: torch.dtype = torch.float64, **changes: Any) -> Pool:
    """Two untrained members, four channels wide."""
    network = NetworkConfig(**({"depth": 2, "width": 4 / 128} | changes))
    pool = Pool(network, describe(data), ())
    members = []
    for seed in (0, 1):
        module = pool.build(seed=seed)
        values = {name: value.to(dtype) for name, value in models.parameters_of(module).items()}
        buffers = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in models.buffers_of(module).items()
        }
        members.append(Member(values, buffers, {}, 0.0, str(seed)))
    return replace(pool, members=tuple(members))


def settings(**changes: Any) -> CondenseConfig:
    values: dict[str, Any] = {
        "ipc": 2,
        "factor": 2,
        "base_size": 8,
        "niter": OUTER,
        "inner_loop": SWEEPS,
        "batch_real": 6,
        "n_data": 20,
        "batch_size": 8,
        "lr": 0.05,
        "lr_img": 0.1,
    }
    return CondenseConfig(**(values | changes))


class Recorder:
    """Lets condensation compute in float64 and notes everything random that a step uses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Tensor] = []
        self.draws: list[Draw] = []
        self.subsets: list[list[Tensor]] = []
        self.updates: list[tuple[Tensor, Tensor]] = []

        def fetch(data: ImageData, rows: Tensor) -> Tensor:
            self.rows.append(rows)
            return data.normalize(data.images[rows].double() / 255)

        def noted(actual: list, function: Callable) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                actual.append(function(*args, **kwargs))
                return actual[-1]

            return call

        monkeypatch.setattr(ImageData, "fetch", fetch)
        for name, actual in (("draw", self.draws), ("random_subsets", self.subsets)):
            monkeypatch.setattr(condensation, name, noted(actual, getattr(condensation, name)))
        monkeypatch.setattr(batches, "apply_augmentation", noted(self.updates, augment.apply_augmentation))

    def take(self, classes: int) -> dict[str, Any]:
        """What the last step used, in the form of `naive.sequential`."""
        (draws,) = self.draws
        subsets: list = self.subsets[0] if self.subsets else [None] * classes
        sweep = {
            "classes": [
                {
                    "index": c,
                    "rows": self.rows[c],
                    "draw": {name: value[c : c + 1] for name, value in draws.items()},
                    "subset": None if subsets[c] is None else subsets[c].tolist(),
                }
                for c in range(classes)
            ],
            "updates": list(self.updates),
        }
        for actual in (self.rows, self.draws, self.subsets, self.updates):
            actual.clear()
        return sweep


def attar_loop(
    data: ImageData, pool: Pool, config: CondenseConfig, recorder: Recorder
) -> tuple[Tensor, list[dict], Any]:
    """The loop of `condensation.run`, in float64: the initial images, what every step used, the end."""
    setup = set_up(data, pool, config)
    shares = torch.tensor(pending(config.mom_img, len(setup.labels)), dtype=torch.float64)
    setup = replace(setup, pending=shares.view_as(setup.pending))
    state = state_module.init(setup)
    state.images, state.momentum = state.images.double(), state.momentum.double()
    initial, outers = state.images.flatten(0, 1), []
    for _ in range(OUTER):
        state = condensation.begin_outer(state, setup)
        assert state.network is not None
        start = {name: value.detach().clone() for name, value in state.network.params.items()}
        outers.append({"parameters": start, "sweeps": []})
        for _ in range(SWEEPS):
            state, _loss = condensation.step(state, setup)
            outers[-1]["sweeps"].append(recorder.take(len(setup.labels)))
        state.outer += 1
    assert state.images.dtype == torch.float64
    assert state.network is not None
    return initial, outers, (condensation.product(state, setup).images, state.network.params)


def naive_loop(
    data: ImageData,
    config: CondenseConfig,
    labels: list[int],
    initial: Tensor,
    outers: list[dict],
    network: Callable[..., Tensor] = naive.convnet,
    matched: Callable[[str, Tensor], bool] = lambda name, value: value.ndim == 4,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The published loop with the same real rows, draws and subsets."""
    mean, std = (torch.tensor(value, dtype=torch.float64).view(1, -1, 1, 1) for value in (data.mean, data.std))
    everything = config.bias and config.fc

    def normalize(images: Tensor) -> Tensor:
        return (images - mean) / std

    def class_loss(images: Tensor, theta: dict[str, Tensor], one: dict) -> Tensor:
        label = labels[one["index"]]
        assert (data.labels[one["rows"]] == label).all(), "real images of the class itself"
        return naive.class_loss(
            images[one["index"] * config.ipc : (one["index"] + 1) * config.ipc],
            theta,
            normalize(data.images[one["rows"]].double() / 255),
            one["draw"],
            label,
            names=[name for name, value in theta.items() if matched(name, value) or everything],
            normalize=normalize,
            metric=config.metric,
            match=config.match,
            factor=config.factor,
            decode_type=config.decode_type,
            subset=one["subset"],
            network=network,
        )

    def network_loss(theta: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return naive.cross_entropy(network(theta, batch[0]), batch[1])

    return naive.sequential(
        initial,
        outers,
        class_loss=class_loss,
        network_loss=network_loss,
        lr=config.lr_img * config.ipc / 10 * (data.size[0] / 8) ** 2,
        momentum=config.mom_img,
        lr_net=config.lr,
        momentum_net=config.momentum,
        decay_net=config.weight_decay,
    )
