"""One inner iteration on the fake GPU, counted: the published loop and attar, sweep and update apart."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from attar import models
from attar.condensation import loop as condensation
from attar.condensation import network_step
from attar.condensation.network_training import NetworkGradients
from attar.condensation.setup import set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.models.for_data import describe
from attar.settings import methods, recipes
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig
from attar.settings.schema import replace
from attar.training.batches import ChainDraw, make_batches, raw
from attar.training.loop import MAX_STEPS_PER_GRAPH
from attar.training.pool import Member, Pool, empty
from attar.training.train_state import Batch
from benchmarks import common
from benchmarks.fake_cuda import emulation
from benchmarks.fake_cuda.emulation import FakeGPU
from benchmarks.fake_cuda.ledger import EAGER, GRAPH, REPLAY, Ledger
from benchmarks.step import Pair

PARTS = ("sweep", "update")
WARMUP = 1  # calls before something is recorded: counts do not depend on it
STEPS = 4  # of a whole method, by which everything is recorded


def published(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """What the published loop launches in one iteration: all of it eagerly."""
    found = {}
    for part in PARTS:
        (ledger,) = _noted(getattr(pair, f"reference_{part}"), 1, gpu)
        found[part] = {"eager": ledger.passed[EAGER].totals()}
    return found


def ours(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """attar's sweep and update: all eager, then what a recording holds ("recorded") and what is launched beside it.

    hazards: what a GPU would wait for once everything is recorded, or what no recording may hold.
    """
    found: dict[str, Any] = {"chunk": pair.setup.gradients.chunk}
    for part in PARTS:
        ledgers = _noted(getattr(pair, f"attar_{part}"), WARMUP + 2, gpu)
        found[part] = {"eager": ledgers[0].passed[EAGER].totals()} | _steady(ledgers)
    return found


def whole(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """What is launched beside the replays in a whole step of `condensation`, which keeps the loss as well."""
    ledgers = _noted(lambda: condensation.step(pair.state, pair.setup), WARMUP + 2, gpu)
    return _steady(ledgers)


def of_method(arguments: argparse.Namespace, host: ImageData) -> dict[str, Any]:
    """A whole step of any method with the settings of the shape's recipe: recorded, beside the replays, hazards.

    It enters the fake GPU itself, since early-stage models are real and on the host.
    """
    config = config_for(arguments)
    pool = pool_for(arguments, config, host)
    with emulation.on(warmup=WARMUP) as gpu:
        setup = set_up(gpu.data(host), gpu.pool(pool), config)
        state = condensation.begin_outer(init(setup), setup)
        ledgers = _noted(lambda: condensation.step(state, setup), STEPS, gpu)
    return {"chunk": setup.gradients.chunk, "iteration": _steady(ledgers)}


def _steady(ledgers: list[Ledger]) -> dict[str, Any]:
    """The last call, in which everything is replayed; hazards also of recordings."""
    return {
        "recorded": ledgers[-1].passed[REPLAY].totals(),
        "beside": ledgers[-1].passed[EAGER].totals(),
        "hazards": [words for ledger in ledgers for phase, words in ledger.hazards if phase == GRAPH]
        + [words for _, words in ledgers[-1].hazards],
    }


def config_for(arguments: argparse.Namespace) -> CondenseConfig:
    """The settings of a method for a shape, uncompiled; networks that are trained last for some steps."""
    base = recipes.named(arguments.shape)
    layer = methods.method_layer(arguments.method, base, arguments.ipc)["condense"]
    asked = {name: getattr(arguments, name) for name in ("ipc", "n_data", "batch_real", "precision")}
    long = {"inner_loop": 2 * STEPS, "niter": 1, "compile": "off"}
    config = replace(base.condense, layer | asked | long)
    if config.init == "correct":  # chosen on the host, before the first iteration
        config = replace(config, {"init": "random"})
    if config.sweeps_per_network is None or config.update == "none":
        return config
    return replace(config, {"sweeps_per_network": 2 * STEPS})


def pool_for(arguments: argparse.Namespace, config: CondenseConfig, host: ImageData) -> Pool:
    """Untrained models, as many as the method takes, with all epochs where trajectories are matched."""
    network = NetworkConfig(net_type=common.SHAPES[arguments.shape][3], width=arguments.width)
    if config.network_init == "fresh":
        return empty(host, network)
    pool = Pool(network, describe(host), ())
    params = models.parameters_of(pool.build(seed=0))
    points = config.last_epoch + 1
    epochs = {name: value.expand(points, *value.shape) for name, value in params.items()}
    return Pool(network, describe(host), (Member(params, {}, {"seed": 0}, 0.0, "random", epochs=epochs),))


def around_compiled(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """What the replays of an update do beside what is compiled: augmentation, and the gradients of the batches."""

    def given(own: Any, params: dict[str, Tensor], buffers: Any, images: Tensor, targets: Tensor) -> Any:
        return params, targets[0, 0]

    def unchanged(data: ImageData, images: Tensor, labels: Tensor, augmentation: Any, batch: int) -> Batch:
        return images, images.new_empty((len(images), data.nclass), dtype=torch.float32)

    own, make = partial(raw, pair.data), partial(unchanged, pair.data)
    pair.setup.network_training.make = partial(make_batches, pair.data, fetch=own, make=make)
    with mock.patch.object(NetworkGradients, "__call__", given):
        return _noted(pair.attar_update, WARMUP + 2, gpu)[-1].passed[REPLAY].totals()


def draws(pair: Pair, gpu: FakeGPU) -> dict[str, int]:
    """Operations that draw for one sweep, and for one chain of batches of the update."""
    functions = {"sweep": pair.inputs, "chain": lambda: chain_of(pair)}
    return {name: _noted(call, 1, gpu)[0].passed[EAGER].kernels.total() for name, call in functions.items()}


def chain_of(pair: Pair) -> ChainDraw:
    """A chain of batches of the update, as it is drawn."""
    rows = [pair.state.update_sampler.draw() for _ in range(MAX_STEPS_PER_GRAPH)]
    return network_step.augmentation_sampler(pair.state, pair.setup).draw_rows(torch.cat(rows), len(rows[0]))


def _noted(function: Callable[[], Any], calls: int, gpu: FakeGPU) -> list[Ledger]:
    ledgers = []
    for _ in range(calls):
        with gpu.ledger() as ledger:
            function()
        ledgers.append(ledger)
    return ledgers
