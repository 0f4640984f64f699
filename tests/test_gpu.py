"""A GPU against the CPU, for the same rows and draws; under a minute in all where there is one.

What compares takes a device, so that each comparison also runs on the CPU alone, without a GPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from attar import models
from attar.condensation import loop as condensation
from attar.condensation.gradients import ImageGradients, SweepInputs
from attar.condensation.network_training import NetworkGradients
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.engine.cuda_graphs import GRAPH_WARMUP, CudaGraph
from attar.engine.precision import set_matmul_precision
from attar.settings.config import CondenseConfig, strategy_names
from attar.training import batches, train_state
from attar.training.batches import AugmentationSampler, ChainDraw, make_batches
from attar.training.draws import draw
from attar.training.loop import Trainer
from benchmarks import common
from helpers.condensation import digits, pool_of
from helpers.methods import TRAJECTORY, config_of, finish, pool_for, states_of
from helpers.recording import Tape

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CALLS = GRAPH_WARMUP + 3  # eager, recorded, replayed
NEAR = {"float32": 1e-3, "tf32": 2e-2, "bf16": 0.2}  # |a − b| / |b| of gradients that agree up to rounding
PLACES = [pytest.param(CUDA, marks=pytest.mark.gpu), pytest.param(CPU)]
STEPS = ("pretraining", "evaluation", "update")


def moved(value: Any, device: torch.device) -> Any:
    """All tensors in nested lists, tuples and dicts, on a device."""
    return tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, value)


def apart(values: Any, expected: Any) -> float:
    """|a − b| / |b| over all tensors of a list."""
    one, other = (torch.cat([value.detach().cpu().double().flatten() for value in own]) for own in (values, expected))
    return float((one - other).norm() / other.norm())


# ---- the sweep ----


def config(**changes: Any) -> CondenseConfig:
    """Smooth in the gradients: where signs count (l1) rounding turns some of them."""
    return config_of("accdd", metric="mse", compile="off", **changes)


def sweep_inputs(data: ImageData) -> SweepInputs:
    """What a sweep takes, drawn on the CPU: no subsets, no frequencies."""
    chosen = config()
    setup = set_up(data, pool_for(chosen, data), chosen)
    state = condensation.begin_outer(init(setup), setup)
    assert state.network is not None
    rows = [sampler.draw() for sampler in state.samplers]
    draws = draw(strategy_names(chosen.aug_type), len(rows), data.size, state.generator, batch=1)
    params = {name: value.detach().clone() for name, value in state.network.params.items()}
    return SweepInputs(state.images, params, rows, draws)


def sweeps(device: torch.device, given: SweepInputs, chosen: CondenseConfig, chunk: int) -> list[list[Tensor]]:
    """[gradient, loss] of every call, on the CPU."""
    data = digits(3)
    setup = set_up(data.to(device), pool_for(chosen, data), chosen)
    setup.gradients.chunk = chunk
    actual = []
    for _ in range(CALLS):
        gradient, loss = setup.sweep.run(moved(given, device))
        actual.append([gradient.cpu().clone(), loss.cpu().clone()])
    if device.type == "cuda":
        assert isinstance(setup.sweep.compute, CudaGraph) and setup.sweep.compute.replay is not None, "it is replayed"
    return actual


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        *(pytest.param(CUDA, precision, marks=pytest.mark.gpu) for precision in ("float32", "tf32", "bf16")),
        *((CPU, precision) for precision in ("float32", "bf16")),
    ],
    ids=str,
)
def test_a_sweep_is_that_of_the_cpu(precision: str, chunk: int, device: torch.device) -> None:
    given = sweep_inputs(digits(3))
    (expected, loss), *_ = sweeps(CPU, given, config(), 1)
    for gradient, own in sweeps(device, given, config(precision=precision), chunk):
        assert apart([gradient], [expected]) < NEAR[precision]
        assert apart([own], [loss]) < NEAR[precision]


@pytest.mark.gpu
def test_a_compiled_and_replayed_sweep_is_that_of_the_cpu() -> None:
    given = sweep_inputs(digits(3))
    (expected, loss), *_ = sweeps(CPU, given, config(), 1)
    for gradient, own in sweeps(CUDA, given, replace(config(), compile="on"), 3):
        assert apart([gradient], [expected]) < NEAR["float32"] and apart([own], [loss]) < NEAR["float32"]


@pytest.mark.gpu
def test_compiled_and_replayed_steps_of_the_network_are_those_of_the_cpu() -> None:
    chains = chains_of("update", digits(3))
    expected = network_after(CPU, "update", chains, config())
    assert apart(network_after(CUDA, "update", chains, replace(config(), compile="on")), expected) < NEAR["float32"]


# ---- steps of a network ----


def chains_of(what: str, data: ImageData) -> list[ChainDraw]:
    """Chains of two batches, drawn on the CPU: rows of the data, or images as an evaluation takes them."""
    generator = torch.Generator().manual_seed(0)
    sampler = AugmentationSampler(data, strategy_names("color_crop_flip_scale_rotate"), 0.5, generator)
    rows = batches.BatchSampler(torch.arange(len(data.labels)), 8, generator)

    def chain() -> ChainDraw:
        chosen = torch.cat([rows.draw(), rows.draw()])
        if what == "evaluation":
            return sampler.draw(data.fetch(chosen), data.labels[chosen], rows.batch)
        return sampler.draw_rows(chosen, rows.batch)

    return [chain() for _ in range(CALLS)]


def network_after(device: torch.device, what: str, chains: list[ChainDraw], chosen: CondenseConfig) -> list[Tensor]:
    """The parameters after all chains."""
    host = digits(3)
    data, pool = host.to(device), pool_of(host, torch.float32)
    setup = set_up(data, pool_for(chosen, host), chosen)
    module = pool.build(seed=0).to(device)
    rest = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    model = train_state.start_training(module, models.parameters_of(module), models.buffers_of(module), **rest)
    gradients = None
    if what == "update":
        gradients = NetworkGradients(setup.gradients.module, setup.gradients.execution, setup.gradients.workers)
    make = setup.network_training.make if what == "update" else partial(make_batches, data)
    trainer = Trainer(model, make, gradients=gradients)
    set_matmul_precision(chosen.precision, device)
    for chain in chains:
        trainer.run(moved(chain, device))
    if device.type == "cuda":
        assert [kept.replay is not None for kept in trainer.recorded.values()] == [True], "it is replayed"
    return [value.detach().cpu() for value in model.params.values()]


@pytest.mark.parametrize("device", PLACES, ids=str)
@pytest.mark.parametrize("what", STEPS)
def test_steps_of_a_network_are_those_of_the_cpu(what: str, device: torch.device) -> None:
    """Early-stage models, the evaluation's networks, and the network update."""
    chains = chains_of(what, digits(3))
    first = [value.detach() for value in models.parameters_of(pool_of(digits(3)).build(seed=0)).values()]
    expected = network_after(CPU, what, chains, config())
    assert apart(first, expected) > 0.01, "they learn"
    assert apart(network_after(device, what, chains, config()), expected) < 1e-3


@pytest.mark.parametrize("device", PLACES, ids=str)
def test_the_update_in_bf16_stays_near_the_cpu(device: torch.device) -> None:
    chains = chains_of("update", digits(3))
    first = [value.detach() for value in models.parameters_of(pool_of(digits(3)).build(seed=0)).values()]
    expected = network_after(CPU, "update", chains, config())
    actual = network_after(device, "update", chains, config(precision="bf16"))
    assert apart(actual, expected) < 0.5 * apart(first, expected)


# ---- a run ----


@pytest.mark.parametrize("device", PLACES, ids=str)
@pytest.mark.parametrize("method", ["accdd", "dm"])
def test_a_run_that_is_resumed_goes_on(method: str, device: torch.device) -> None:
    """To the bit on a CPU; up to rounding on a GPU, whose sums of many threads have no order."""
    data = digits(3)
    chosen = config_of(method, compile="off", inner_loop=GRAPH_WARMUP + 3, metric="mse")
    there, pool = data.to(device), pool_for(chosen, data)
    kept, images = states_of(there, pool, chosen)
    near = 0.0 if device.type == "cpu" else 1e-3
    for saved in (kept[1], kept[-3]):
        again = finish(there, pool, chosen, saved).images
        assert apart([again], [images]) <= near


# ---- the same bits ----

# What adds up in no fixed order on a GPU (docs/speed.md): the derivatives of crop, and of scale and rotate
UNORDERED = {"scatter_add_cuda_kernel", "grid_sampler_2d_backward_cuda"}


@pytest.mark.parametrize("device", PLACES, ids=str)
@pytest.mark.parametrize("method", ["accdd", "dm", "ncfm", "mtt"])
def test_what_adds_up_in_no_fixed_order_is_known(
    method: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing on a CPU, where all bits are the same again."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen = config_of(method, compile="off", **(TRAJECTORY if method == "mtt" else {}))
    data, pool = digits(3), pool_for(chosen, digits(3))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, second = (condensation.run(data.to(device), pool, chosen).images for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    names = {str(one.message).split()[0] for one in caught if "deterministic" in str(one.message)}
    assert names <= (UNORDERED if device.type == "cuda" else set()), names
    assert torch.equal(first, second) or device.type == "cuda"
    assert apart([first], [second]) < 1e-2


# ---- memory that runs short ----


@contextlib.contextmanager
def little(sweep: ImageGradients, needed: int) -> Iterator[None]:
    """Three quarters of what all classes at once need, so that half of them fit. needed: bytes beside what is there."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_reserved() + 0.75 * needed
    torch.cuda.set_per_process_memory_fraction(limit / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def as_if_little(sweep: ImageGradients, needed: int) -> Iterator[None]:
    """The same without a GPU: more than half of the classes at once are too many."""
    plain, most = sweep._sweep, sweep.chunk // 2

    def tight(*args: Any) -> Any:
        if sweep.chunk > most:
            raise torch.OutOfMemoryError("out of memory")
        return plain(*args)

    sweep._sweep = tight  # type: ignore[method-assign]
    try:
        yield
    finally:
        sweep._sweep = plain  # type: ignore[method-assign]


def halved(setup: Setup, run: Callable[..., Any], given: SweepInputs, limited: Any) -> tuple[Tensor, Tensor, int]:
    """The gradient with all classes at once, that of the last call with little memory, and the classes at once then."""
    device = given.images.device
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(GRAPH_WARMUP):
        first = run(given).gradient.clone()
    needed = torch.cuda.max_memory_allocated() - before if device.type == "cuda" else 0
    with limited(setup.gradients, needed):
        for _ in range(GRAPH_WARMUP + 3):
            last = run(given).gradient.clone()
    return first, last, setup.gradients.chunk


@pytest.mark.parametrize("device", PLACES, ids=str)
@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recording"])
def test_memory_that_runs_short_halves_the_classes_at_once(
    recorded: bool, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while the fourth call is recorded, with the memory that three calls had."""
    gpu = device.type == "cuda"
    data = common.random_data("cifar10" if gpu else "digits", None, 80, device)
    chosen = config(ipc=10, batch_real=64, base_size=None)
    pool = pool_of(data.to(CPU), torch.float32, width=0.5 if gpu else 4 / 128)
    setup = set_up(data, pool, chosen)
    setup.gradients.chunk = 10
    state = condensation.begin_outer(init(setup), setup)
    assert state.network is not None
    rows = [sampler.draw() for sampler in state.samplers]
    draws = draw(strategy_names(chosen.aug_type), len(rows), data.size, state.generator, batch=1)
    params = {name: value.detach() for name, value in state.network.params.items()}
    compute = setup.sweep.compute
    run = compute.function if isinstance(compute, CudaGraph) else compute
    if recorded:
        run = CudaGraph(run, None if gpu else Raising(), smaller=setup.gradients.halve)
    first, last, chunk = halved(
        setup, run, SweepInputs(state.images, params, rows, draws), little if gpu else as_if_little
    )
    # while a graph is recorded, PyTorch cannot give back what it keeps in reserve: half of the classes may not fit then
    assert chunk in ((5, 3) if gpu and recorded else (5,)) and "from now on 5 classes at once" in caplog.text
    assert apart([last], [first]) < NEAR["float32"]
    assert not recorded or (isinstance(run, CudaGraph) and run.replay is not None and not run.failed)


class Raising(Tape):
    """A tape on which memory that runs short is no matter of the function, as while a graph is recorded."""

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("attar.condensation.gradients._is_recording", lambda: True)
            return super().__call__(function)
