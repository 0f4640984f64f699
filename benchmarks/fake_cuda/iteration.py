"""One inner iteration on the fake GPU, counted: the published loop and attar, sweep and update apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attar.condensation import loop as condensation
from attar.condensation import network_step
from attar.training.loop import MAX_STEPS_PER_GRAPH
from benchmarks.fake_cuda.emulation import FakeGPU
from benchmarks.fake_cuda.ledger import EAGER, GRAPH, Ledger
from benchmarks.step import Pair

PARTS = ("sweep", "update")
WARMUP = 1  # calls before something is recorded: counts do not depend on it


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
        first, recording, steady = ledgers[0], ledgers[WARMUP], ledgers[-1]
        found[part] = {
            "eager": first.passed[EAGER].totals(),
            "recorded": recording.passed[GRAPH].totals(),
            "beside": steady.passed[EAGER].totals(),
            "hazards": [words for phase, words in recording.hazards if phase == GRAPH]
            + [words for _, words in steady.hazards],
        }
    return found


def whole(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """What is launched beside the replays in a whole step of `condensation`, which keeps the loss as well."""
    ledgers = _noted(lambda: condensation.step(pair.state, pair.setup), WARMUP + 2, gpu)
    recorded, beside = ledgers[WARMUP].passed[GRAPH].totals(), ledgers[-1].passed[EAGER].totals()
    return {"recorded": recorded, "beside": beside}


def draws(pair: Pair, gpu: FakeGPU) -> dict[str, int]:
    """Operations that draw for one sweep, and for one chain of batches of the update."""
    setup, state = pair.setup, pair.state
    rows = torch.cat([state.update_sampler.draw() for _ in range(MAX_STEPS_PER_GRAPH)])
    batch = len(rows) // MAX_STEPS_PER_GRAPH
    sampler = network_step.augmentation_sampler(state, setup)
    functions = {"sweep": pair.inputs, "chain": lambda: sampler.draw_rows(rows, batch)}
    return {name: _noted(call, 1, gpu)[0].passed[EAGER].kernels.total() for name, call in functions.items()}


def _noted(function: Callable[[], Any], calls: int, gpu: FakeGPU) -> list[Ledger]:
    ledgers = []
    for _ in range(calls):
        with gpu.ledger() as ledger:
            function()
        ledgers.append(ledger)
    return ledgers
