"""Every method at the size of a test, and runs that go on from a state in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attar.condensation import loop
from attar.condensation.setup import set_up
from attar.condensation.state import SavedState, how_it_began, init, restore, snapshot
from attar.data.images import ImageData
from attar.runs import checkpoint
from attar.sets.synthetic import SyntheticSet
from attar.settings import methods, recipes
from attar.settings.config import CondenseConfig
from attar.training.pool import Pool, empty
from helpers.condensation import pool_of, settings

SWEEPS = 4
POINTS = 4  # of a trajectory
TRAJECTORY = {"syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 1}  # as short as can be
METHODS = ("accdd", "idc", "idc-i", "dc", "dsa", "dm", "ncfm")
# Every method, and combinations of their pieces.
RUNS: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in METHODS),
    ("dm", {"img_optim": "adamw", "patience": 1, "network_init": "pool", "perturb": True, "calibrate": 0.5}),
    ("idc", {"warmup": 1, "match": "ncf"}),
    ("accdd", {"network_init": "interpolated", "img_space": "normalized", "nclass_sub": 2, "phase": 0}),
    ("accdd", {"averaging_power": 3}),
    ("dm", {"averaging_power": 1}),
    ("cim", {}),
    ("tgdd", {}),
    ("accdd", {"metric": "orth", "match_layers": "0.5:", "keep": "easiest:0.5"}),
]


def config_of(method: str, **changes: Any) -> CondenseConfig:
    """A method at the size of a test: two networks in an outer iteration, six frequencies."""
    layer = methods.method_layer(method, recipes.named("digits"), 2)["condense"]
    short: dict[str, Any] = {"inner_loop": SWEEPS, "niter": 2, "frequencies": 6}
    if method not in ("accdd", "idc", "idc-i"):
        short |= {"sweeps_per_network": 2, "batch_size": 5, "patience": 2 if layer.get("patience") else 0}
    return replace(settings(), **(layer | short | changes))


def pool_for(config: CondenseConfig, data: ImageData, dtype: torch.dtype = torch.float32) -> Pool:
    """What a run with these settings takes; trained models are not where they began."""
    pool = pool_of(data, dtype)
    if config.network_init == "fresh":
        return empty(data, pool.network)
    members = [
        replace(member, params={name: 1.5 * value for name, value in member.params.items()}, settings={"seed": seed})
        for seed, member in enumerate(pool.members)
    ]
    if config.network_init == "epoch" or config.match == "trajectory":
        sizes = torch.linspace(1, 1.5, POINTS, dtype=dtype)
        points = [
            {name: torch.stack([size * value for size in sizes]) for name, value in member.params.items()}
            for member in pool.members
        ]
        members = [replace(member, epochs=epochs) for member, epochs in zip(members, points, strict=True)]
    return replace(pool, members=tuple(members))


def read_back(values: SavedState) -> SavedState:
    """A state as a checkpoint gives it back."""
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(checkpoint.pack(values, tensors)))
    return checkpoint.unpack(plain, tensors)


def states_of(data: ImageData, pool: Pool, config: CondenseConfig) -> tuple[list[SavedState], Tensor]:
    """Every state that a run could have kept, as a checkpoint gives it back, and its images."""
    setup = set_up(data, pool, config)
    state = init(setup)
    kept = [read_back(snapshot(state, setup)) for _ in loop.iterate(state, setup)]
    return kept, loop.product(state, setup).images


def finish(data: ImageData, pool: Pool, config: CondenseConfig, saved: SavedState) -> SyntheticSet:
    """The set of a run that goes on from a state."""
    setup = set_up(data, pool, config, how_it_began(saved))
    state = restore(saved, setup)
    for _ in loop.iterate(state, setup):
        pass
    return loop.product(state, setup)
