"""What the tests of this folder run on a fake GPU, each in a process of its own (child.py)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.fake_cuda import emulation
from benchmarks.fake_cuda.ledger import GRAPH, REPLAY, Ledger
from torch._subclasses.fake_tensor import unset_fake_temporarily

from attar.condensation import loop as condensation
from attar.condensation.setup import set_up
from attar.condensation.state import init
from attar.evaluation.measure import TrainingJob, train_network
from attar.evaluation.protocol import CONDENSED
from attar.settings import recipes
from attar.settings.choices import METHOD_NAMES
from attar.settings.config import EvaluateConfig, NetworkConfig, PoolConfig
from attar.stages import schedule
from attar.training import early_stage
from attar.training import loop as training_loop
from benchmarks import budget, common
from helpers.condensation import digits
from helpers.methods import RUNS, TRAJECTORY, config_of, pool_for

WARMUP = 1  # calls before a recording: what is noted does not depend on it
SAME = (
    "accdd",
    "idc",
    "idc-i",
    "dsa",
    "ftd",
)  # accdd is counted at another size, the others are as one that is counted
TRAJECTORIES: list[tuple[str, dict[str, Any]]] = [("mtt", TRAJECTORY), ("datm", TRAJECTORY | {"init": "random"})]
# Operations that add up in no fixed order on a GPU, as PyTorch lists them
UNORDERED = {
    *("scatter_add", "grid_sampler_2d_backward", "upsample_bilinear2d_backward"),
    *("upsample_nearest2d_backward", "reflection_pad2d_backward", "replication_pad2d_backward", "cumsum", "put_"),
    *("avg_pool3d_backward", "max_pool3d_with_indices_backward", "_adaptive_avg_pool2d_backward", "bincount"),
}
STEPS = 5  # by then everything is recorded, also where only every second sweep trains a network


def runs() -> dict[str, Any]:
    """Every setting of RUNS: hazards inside of recordings, and those of a step when everything is recorded."""
    return {
        f"{method} {precision} {changes}": one_run(method, changes, precision)
        for precision in ("float32", "bf16")
        for method, changes in RUNS + TRAJECTORIES
    }


def one_run(method: str, changes: dict[str, Any], precision: str) -> dict[str, Any]:
    """One setting, with all classes at once."""
    host = digits(3)
    config = replace(config_of(method, inner_loop=2 * STEPS, **changes), precision=precision)
    members = pool_for(config, host)
    try:
        with emulation.on(warmup=WARMUP) as gpu:
            setup = set_up(gpu.data(host), gpu.pool(members), config)
            state = condensation.begin_outer(init(setup), setup)
            inside: list[str] = []
            for _ in range(STEPS):
                before = gpu.recordings
                with gpu.ledger() as ledger:
                    condensation.step(state, setup)
                inside += [words for phase, words in ledger.hazards if phase == GRAPH]
            return {
                "chunk": setup.gradients.chunk,
                "recordings": gpu.recordings,
                "wanted": 1 + (setup.calibration is not None) + (config.update != "none"),
                "late": gpu.recordings - before,
                "inside": inside,
                "steady": [words for _, words in ledger.hazards],
                "unordered": sorted(UNORDERED & set(ledger.passed[REPLAY].kernels)),
                "launched": ledger.passed["eager"].kernels.total(),
            }
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "attar" in frame.filename]
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in own[-2:]]
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]} ({', '.join(where)})"}


def training() -> dict[str, Any]:
    """Pretraining and evaluation on Fashion's shape, chain by chain: what is noted, the first chain first."""
    host = common.random_data("fashion", None, 40, torch.device("cpu"))
    network = NetworkConfig(net_type="convnet3", width=0.25)
    chains: list[Ledger] = []
    plain = training_loop.Trainer.__call__

    def noted(trainer: training_loop.Trainer, batches: Any, draw: Any) -> None:
        with gpu.ledger() as ledger:
            plain(trainer, batches, draw)
        chains.append(ledger)

    actual: dict[str, Any] = {}
    training_loop.Trainer.__call__ = noted  # type: ignore[method-assign]
    try:
        with emulation.on(warmup=WARMUP) as gpu:
            data = gpu.data(host)
            images, labels = torch.rand(200, 1, 28, 28, device="cuda:0"), data.labels[:200]
            job = TrainingJob("convnet3", network, CONDENSED, EvaluateConfig(runs=1, yardsticks=()), 8, 0)
            train_network(job, images, labels, data)
            actual["evaluation"] = [chain_of(ledger) for ledger in chains]
            chains.clear()
            try:
                early_stage.train_member(data, PoolConfig(epochs=8, models=1), network)
            except Exception as error:  # the accuracy is read at the end, and fake tensors have no values
                actual["ended"] = type(error).__name__
            actual["pretraining"] = [chain_of(ledger) for ledger in chains]
    finally:
        training_loop.Trainer.__call__ = plain  # type: ignore[method-assign]
    return actual


def chain_of(ledger: Ledger) -> dict[str, Any]:
    """What one epoch did."""
    return {
        "hazards": ledger.hazards,
        "recorded": ledger.passed[GRAPH].kernels.total(),
        "launched": ledger.passed["eager"].kernels.total(),
    }


def minutes() -> dict[str, Any]:
    """How many recordings there are when a clock of `--minutes` starts and when it stops: pool, then condensation."""
    host = common.random_data("digits", None, 40, torch.device("cpu"))
    recipe = recipes.named("digits")
    smaller = replace(recipe.condense, n_data=64)
    recipe = replace(recipe, network=replace(recipe.network, width=0.1), condense=smaller)
    seen: list[int] = []
    short = mock.patch.object(schedule, "MAX_STEPS_PER_GRAPH", 2)  # steps in a chain
    clock = mock.patch.object(schedule, "wait", lambda device: seen.append(gpu.recordings))
    with emulation.on() as gpu, short, clock:
        actual = schedule.estimate(gpu.data(host), recipe)
    return {"seen": seen, "inner": actual.inner}


def hazards() -> dict[str, Any]:
    """One of each hazard, so that the ledger is known to see it; and what a GPU refuses raises."""
    actual: dict[str, Any] = {}
    host, flag = torch.rand(3), torch.tensor([True, False, True])
    with emulation.on() as gpu:
        there, mask = gpu.there(host), gpu.there(flag)
        generator = torch.Generator("cuda")
        hidden = gpu.mode.from_tensor(host)
        provoked = {
            "copy": lambda: hidden.to("cuda"),
            "pinned": lambda: hidden.pin_memory().to("cuda", non_blocking=True),
            "draw": lambda: gpu.record(lambda: torch.rand(3, generator=generator, device="cuda")),
            "draw outside": lambda: torch.rand(3, generator=generator, device="cuda"),
            "copy inside": lambda: gpu.record(lambda: hidden.pin_memory().to("cuda", non_blocking=True)),
            "to the host": lambda: there.cpu(),
            "item": lambda: float(there.sum()),
            "mask": lambda: there[mask],
            "two devices": lambda: there + hidden,
        }
        for name, provoke in provoked.items():
            with gpu.ledger() as ledger:
                try:
                    provoke()
                except Exception as error:
                    actual[name] = [type(error).__name__]
                    continue
            actual[name] = [words for _, words in ledger.hazards]
    with unset_fake_temporarily():
        actual["after"] = [str(torch.cuda.is_available()), str(torch.rand(2).device)]
    return actual


def budgets() -> dict[str, Any]:
    """The figures of `benchmarks.budget`: accdd's own as published, the other methods' on digits.

    Compiled code is counted where triton is installed.
    """
    small = ["--shape", "digits", "--width", "0.25", "--n_data", "256", "--batch_real", "16", "--ipc", "2"]
    given = {name: ["--method", name, *small] for name in METHOD_NAMES if name not in SAME}
    counted = {name: budget.counted(budget.parsed(words)) for name, words in given.items()}
    counted["accdd"] = budget.counted(budget.parsed(["--precision", "bf16"]))
    return {
        "torch": torch.__version__,
        "triton": counted["accdd"].get("triton"),
        "figures": {name: budget.figures(one) for name, one in counted.items()},
        "hazards": [
            words
            for one in counted.values()
            for part in ("sweep", "update", "iteration")
            for words in one["attar"].get(part, {}).get("hazards", [])
        ],
        "published": counted["accdd"]["published"],
    }


WHAT: dict[str, Callable[..., dict[str, Any]]] = {
    "runs": runs,
    "training": training,
    "minutes": minutes,
    "hazards": hazards,
    "budgets": budgets,
}
