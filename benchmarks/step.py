"""One inner iteration: the published sequential loop and attar in turns.

`ratio`: the published loop in PyTorch as it comes over attar; `ratio_kept`: the same with attar's memory settings. On
a GPU `ratio` is that of the published loop strictly in float32, `ratio_comes` with tf32 convolutions, as PyTorch comes.

python -m benchmarks.step --device cpu --shape fashion --ipc 10 --factor 2 --json out.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.condensation import image_step, network_step
from attar.condensation import loop as condensation
from attar.condensation.gradients import SweepInputs
from attar.condensation.setup import set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.engine.device import tensor_cores
from attar.engine.precision import set_matmul_precision
from attar.models.for_data import build, describe
from attar.settings.choices import strategy_names
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig
from attar.training.augment import without
from attar.training.draws import draw
from attar.training.pool import Member, Pool
from benchmarks import common, reference

WHAT = ("sweep", "update", "iteration")


class Pair:
    """The published loop and attar, at the same parameters and images; random ones where no data are given."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, data: ImageData | None = None) -> None:
        shape = arguments.shape
        if data is None:
            data = common.random_data(shape, arguments.size, arguments.batch_real + 16, device)
        self.data = data
        network = NetworkConfig(net_type=common.SHAPES[shape][3], width=arguments.width)
        module = build(network, describe(data), 0).to(device)
        params = models.parameters_of(module)
        pool = Pool(network, describe(data), (Member(params, {}, {}, 0.0, "random"),))
        self.config = CondenseConfig(
            ipc=arguments.ipc,
            factor=arguments.factor,
            metric="mse" if shape.startswith("cifar") else "l1",
            lr_img=1e-3,
            n_data=arguments.n_data,
            batch_real=arguments.batch_real,
            precision=arguments.precision,
            compile=arguments.compile,
            memory_gb=arguments.memory_gb,
            perturb=False,
        )
        self.notes = common.Notes()
        self.setup = set_up(data, pool, self.config)
        self.state = condensation.begin_outer(init(self.setup), self.setup)
        self.strategy = strategy_names(self.config.aug_type)
        self.reference = reference.start(
            build(network, describe(data), 0).to(device),
            params,
            self.state.images,
            factor=self.config.factor,
            metric=self.config.metric,
            lr_img=self.setup.image_optimizer.lr,
            mom_img=self.config.mom_img,
            mean=data.mean,
            std=data.std,
        )
        self.generator = Generator(device).manual_seed(1)

    def inputs(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Rows of real images per class, and the draws."""
        rows = [sampler.draw() for sampler in self.state.samplers]
        return rows, draw(self.strategy, len(rows), self.data.size, self.generator, batch=1)

    def subsets(self) -> list[Tensor] | None:
        """Which decoded images of each class take part, where there are more than `batch_syn_max`."""
        count, most = self.config.ipc * self.config.factor**2, self.config.batch_syn_max
        if not self.setup.draws_subset:
            return None
        device, generator = self.data.device, self.generator
        return [torch.randperm(count, generator=generator, device=device)[:most] for _ in range(self.data.nclass)]

    def attar_sweep(self) -> None:
        rows, draws = self.inputs()
        assert self.state.network is not None
        params = {name: value.detach() for name, value in self.state.network.params.items()}
        gradient, _ = self.setup.sweep.run(SweepInputs(self.state.images, params, rows, draws, self.subsets()))
        condensation.move_images(self.state, self.setup, self.state.images, gradient)

    def reference_sweep(self) -> None:
        rows, draws = self.inputs()
        reference.sweep(self.reference, [self.data.fetch(row) for row in rows], draws, self.subsets())

    def attar_iteration(self) -> None:
        """A whole inner iteration."""
        self.attar_sweep()
        self.attar_update()

    def reference_iteration(self) -> None:
        """A whole inner iteration."""
        self.reference_sweep()
        self.reference_update()

    def attar_update(self) -> None:
        network_step.update_network(self.state, self.setup)

    def reference_update(self) -> None:
        batches = []
        for _ in range(-(-self.config.n_data // self.config.batch_size)):
            rows = self.state.update_sampler.draw()
            batches.append((self.data.fetch(rows), self.data.labels[rows]))
        reference.update(
            self.reference,
            batches,
            strategy=without(self.strategy, "cutout"),
            nclass=self.data.nclass,
            mix_p=self.config.mix_p,
            generator=self.generator,
        )

    def difference(self) -> dict[str, float]:
        """How far the images of one sweep lie apart, both from the same start with the same draws."""
        rows, draws = self.inputs()
        assert self.state.network is not None
        before = self.state.images.clone()
        params = {name: value.detach() for name, value in self.state.network.params.items()}
        subsets, device = self.subsets(), self.data.device
        set_matmul_precision("float32", device)
        reference.sweep(self.reference, [self.data.fetch(row) for row in rows], draws, subsets)
        theirs = self.reference.images.detach().view_as(before)
        set_matmul_precision(self.config.precision, device)
        gradient, _ = self.setup.sweep.run(SweepInputs(before, params, rows, draws, subsets))
        images, momentum, _ = image_step.move(before, self.state.momentum, gradient, {}, self.setup.image_optimizer)
        # the published loop has not yet made the last moves of a sweep: compare at its moment
        ours = images + self.setup.image_optimizer.lr * self.setup.pending * momentum
        apart = (ours - theirs).flatten(1).norm(dim=1)
        return {
            "max_relative_difference": float((apart / theirs.flatten(1).norm(dim=1)).max()),
            "max_relative_difference_of_the_step": float((apart / (theirs - before).flatten(1).norm(dim=1)).max()),
        }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--n_data", type=int, default=500)
    parser.add_argument("--batch_real", type=int, default=64)
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--memory_gb", type=float)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=("reference", "attar", "none"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = common.start(arguments)
    if arguments.peak:
        return print_peak(Pair(arguments, device), arguments.peak, device)
    pair = Pair(arguments, device)
    if arguments.serve:
        return common.serve({what: getattr(pair, f"reference_{what}") for what in WHAT})
    result = common.machine(device) | {
        "shape": arguments.shape,
        "size": list(pair.data.size),
        "classes": pair.data.nclass,
        **{name: getattr(arguments, name) for name in ("ipc", "factor", "width", "n_data", "precision", "compile")},
    }
    result["warmup_s"] = {"sweep": common.timed(pair.attar_sweep, device)}
    result["warmup_s"]["update"] = common.timed(pair.attar_update, device)
    fresh = Pair(arguments, device)
    fresh.setup = pair.setup  # compiled already
    result |= fresh.difference()
    seconds = turns(pair, arguments.rounds, device)
    for name in WHAT[:2]:
        result[name] = compared(seconds, name)
    result |= compared(seconds, "iteration")
    result["attar_s_per_class"] = seconds_per_class(result)
    result["floor"] = floor(pair, device, result)
    result["peak_memory_mb"] = {who: peak_of(who) for who in ("none", "reference", "attar")}
    result["notes"] = pair.notes.lines
    result["seconds_since_1970"] = round(time.time())
    result["command"] = "python -m benchmarks.step " + " ".join(sys.argv[1:])
    common.publish(result, arguments.json)


def turns(pair: Pair, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Reference and attar in turns: sweep, update and the whole iteration apart, each side at its own precision.

    On a CPU the reference runs in a process of its own, as PyTorch comes, and once more in attar's ("kept"). On a GPU
    it runs strictly in float32, and once more as PyTorch comes, with convolutions in tf32 ("comes").
    """
    functions: dict[str, Callable[[], Any]] = {}
    with common.Apart() if device.type == "cpu" else contextlib.nullcontext() as apart:
        for what in WHAT:
            near = at_precision(getattr(pair, f"reference_{what}"), "float32", device)
            functions[f"reference {what}"] = near if apart is None else partial(apart.call, what)
            if apart is not None:
                functions[f"kept {what}"] = near
            if device.type == "cuda":
                functions[f"comes {what}"] = as_it_comes(getattr(pair, f"reference_{what}"))
            functions[f"attar {what}"] = at_precision(getattr(pair, f"attar_{what}"), pair.config.precision, device)
        common.in_turns(functions, 1, device)  # nothing is new to anyone after that
        return common.in_turns(functions, rounds, device)


def at_precision(function: Callable[[], None], precision: str, device: torch.device) -> Callable[[], None]:
    """The function, with tensor cores for float32 products only where `precision` says so."""

    def run() -> None:
        set_matmul_precision(precision, device)
        function()

    return run


def as_it_comes(function: Callable[[], None]) -> Callable[[], None]:
    """The function with a GPU's tensor cores as PyTorch comes: for convolutions."""

    def run() -> None:
        tensor_cores(products=False, convolutions=True)
        function()

    return run


def compared(seconds: dict[str, list[float]], what: str) -> dict[str, Any]:
    """The summaries of what was timed, and the ratios of their medians to attar's."""
    ours = common.summary(seconds[f"attar {what}"])
    result: dict[str, Any] = {"reference_s": common.summary(seconds[f"reference {what}"]), "attar_s": ours}
    result["ratio"] = result["reference_s"]["median"] / ours["median"]
    for name in ("kept", "comes"):
        if f"{name} {what}" in seconds:
            result[f"reference_{name}_s"] = common.summary(seconds[f"{name} {what}"])
            result[f"ratio_{name}"] = result[f"reference_{name}_s"]["median"] / ours["median"]
    return result


def seconds_per_class(result: dict[str, Any]) -> float:
    """Median seconds of attar's sweep, per class."""
    return result["sweep"]["attar_s"]["median"] / result["classes"]


def floor(pair: Pair, device: torch.device, result: dict[str, Any]) -> dict[str, Any]:
    """The time that the counted products alone would take at the rate of large matrix products, measured now."""
    counted = common.flops(pair.reference_iteration)
    rates = common.matmul_rates(device, pair.config.precision)
    rate = max(rates.values())
    ours = result["attar_s"]["median"]
    return {
        "flops": counted,
        "matmul_flops_per_s": rate,
        "by_library": rates,
        "seconds": counted / rate,
        "attar_over": ours * rate / counted,
    }


def print_peak(pair: Pair, who: str, device: torch.device) -> None:
    """Two inner iterations of one side in this process, then its peak memory in MB."""
    for _ in range(2):
        if who != "none":
            getattr(pair, f"{who}_iteration")()
    print(f"peak {common.peak_memory(device)}")


def peak_of(who: str) -> float:
    """Peak memory, in MB, of a process that runs one side only ("none": neither, the data and libraries alone)."""
    arguments = list(sys.argv[1:])
    if "--json" in arguments:
        del arguments[arguments.index("--json") : arguments.index("--json") + 2]
    command = [sys.executable, "-m", "benchmarks.step", *arguments, "--peak", who]
    environment = os.environ | (common.AS_IT_COMES if who == "reference" else {})
    with contextlib.redirect_stdout(io.StringIO()):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split("peak ")[-1])


if __name__ == "__main__":
    main()
