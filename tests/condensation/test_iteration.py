"""One inner iteration of each method against the published one, written in float64 with loops (helpers.naive)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from attar import models
from attar.condensation import image_step, network_init
from attar.condensation import loop as condensation
from attar.condensation.gradients import SweepInputs, SweepResult
from attar.condensation.image_step import pending
from attar.condensation.matching import characteristic_distance
from attar.condensation.network_init import NETWORK_INITS, InitialWeights
from attar.condensation.network_training import NetworkTraining
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import State, init
from attar.data.images import ImageData
from attar.engine import cuda_graphs
from attar.engine.cuda_graphs import GRAPH_WARMUP, CudaGraph
from attar.errors import UserError
from attar.settings.condense_config import CondenseConfig
from attar.training import loop as training_loop
from attar.training.batches import ChainDraw, make_batches
from attar.training.pool import Pool, empty
from attar.training.train_state import TrainState
from helpers import naive
from helpers.condensation import Recorder, attar_loop, digits, naive_loop, pool_of
from helpers.methods import POINTS, RUNS, SWEEPS, config_of, finish, pool_for, states_of
from helpers.recording import Film, Tape


def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run draws in float32 arrives in float64."""

    def doubled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: function(*args).double()

    def double(make: Callable[..., InitialWeights]) -> Callable[..., InitialWeights]:
        def call(*args: Any) -> InitialWeights:
            origin = make(*args)
            return replace(origin, params={name: value.double() for name, value in origin.params.items()})

        return call

    for name, make in list(NETWORK_INITS.items()):
        monkeypatch.setitem(NETWORK_INITS, name, double(make))
    monkeypatch.setattr(ImageData, "fetch", lambda data, rows: data.normalize(data.images[rows].double() / 255))


@dataclass
class Noted:
    """A run in float64 whose sweeps and network steps are noted."""

    setup: Setup
    state: State
    sweeps: list[tuple[SweepInputs, SweepResult]]
    calibrations: list[SweepInputs]
    updates: list[tuple[Tensor, Tensor]]

    def step(self) -> Tensor:
        self.sweeps.clear(), self.calibrations.clear(), self.updates.clear()
        self.state, loss = condensation.step(self.state, self.setup)
        return loss

    def images(self) -> Tensor:
        """Where the published loop has them: it has yet to make the last steps of a sweep."""
        setup = self.setup
        return self.state.images + image_step.deferred_step(
            self.state.momentum, setup.pending, self.state.optimizer, setup.image_optimizer
        )


def noted(config: CondenseConfig) -> Noted:
    data = digits(3)
    setup = set_up(data, pool_for(config, data, torch.float64), config)
    sweeps: list[tuple[SweepInputs, SweepResult]] = []
    calibrations: list[SweepInputs] = []
    updates: list[tuple[Tensor, Tensor]] = []

    def sweep(inputs: SweepInputs) -> SweepResult:
        frequencies = None if inputs.frequencies is None else inputs.frequencies.double()
        params = {name: value.clone() for name, value in inputs.params.items()}
        inputs = inputs._replace(params=params, frequencies=frequencies)
        sweeps.append((inputs, setup.sweep.run(inputs)))
        return sweeps[-1][1]

    def calibration(inputs: SweepInputs) -> SweepResult:
        assert setup.calibration is not None
        calibrations.append(inputs)
        return setup.calibration.run(inputs)

    def training(model: Any, batches: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        def watched(rows: Tensor, batch: int) -> ChainDraw:
            drawn = draw(rows, batch)
            updates.extend(make_batches(data, drawn))
            return drawn

        setup.network_training.run(model, batches, watched)

    image_optimizer = setup.image_optimizer
    if image_optimizer.std is not None:
        mean, std = (torch.tensor(value, dtype=torch.float64).view(-1, 1, 1) for value in (data.mean, data.std))
        image_optimizer = replace(image_optimizer, mean=mean, std=std)
    by_class = config.img_step == "class" and config.img_optim == "sgd"
    fractions = pending(config.mom_img, 3) if by_class else [0.0] * 3
    replaced: Any = {
        "sweep": SimpleNamespace(run=sweep),
        "calibration": None if setup.calibration is None else SimpleNamespace(run=calibration),
        "network_training": SimpleNamespace(run=training),
        "ahead": partial(image_step.ahead, optimizer=image_optimizer),
        "move": partial(image_step.move, optimizer=image_optimizer),
    }
    watched = replace(
        setup,
        **replaced,
        image_optimizer=image_optimizer,
        pending=torch.tensor(fractions, dtype=torch.float64).view_as(setup.pending),
    )
    state = init(watched)
    state.images, state.momentum = state.images.double(), state.momentum.double()
    state.optimizer = image_step.start(state.images, watched.image_optimizer)
    return Noted(watched, condensation.begin_outer(state, watched), sweeps, calibrations, updates)


SGD = {"img_optim": "sgd", "lr_img": 0.01}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("dc", {"lr": 0.05, "syn_epochs": 2}),
    ("dsa", {"lr": 0.05}),
    ("dm", {}),
    ("dm", {"factor": 2, "init": "mix", "metric": "l1"}),
    ("ncfm", {"patience": 1, "wd_img": 0.3}),
    ("ncfm", {"patience": 1, **SGD}),
    ("ncfm", {"factor": 2, "init": "mix", "mom_img": 0.9, **SGD}),
    (
        "ncfm",
        {"network_init": "pool", "perturb": True, "calibrate": 0.0, "match": "grad", "metric": "cos"}
        | {**SGD, "lr_img": 0.1},
    ),
    ("tgdd", {"calibrate_epochs": 2}),
    ("tgdd", {"factor": 2, "init": "mix", "img_space": "normalized", "img_step": "sweep", "calibrate": 0.5}),
]


@pytest.mark.parametrize(("method", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_inner_iteration_is_the_published_one(
    method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_double(monkeypatch)
    config = config_of(method, **changes)
    run = noted(config)
    data, slow = run.setup.data, published(run, config)
    decoding: Any = {"normalize": data.normalize, "factor": config.factor, "decode_type": "single"}
    theta: dict[str, Tensor] = {}
    for sweep in range(SWEEPS):
        loss = run.step()
        _, params, rows, draws, _, frequencies = run.sweeps[0][0]
        if sweep % 2:  # a network serves two sweeps
            for name, value in theta.items():
                torch.testing.assert_close(params[name], value, rtol=1e-8, atol=1e-10)
        elif theta:
            assert not torch.equal(params["blocks.0.weight"], theta["blocks.0.weight"])
            if isinstance(slow, naive.Visited):
                outside = not slow.images().detach().clamp(0, 1).equal(slow.images())
                assert method == "tgdd" or outside, "there is something to clamp"
                slow.clamp()

        def matched(
            c: int, params: Any = params, rows: Any = rows, draws: Any = draws, frequencies: Any = frequencies
        ) -> Tensor:
            return naive.class_loss(
                slow.images()[c],
                params,
                data.fetch(rows[c]),
                own_draw(draws, c),
                c,
                names=[name for name, value in params.items() if value.ndim == 4 or (config.fc and value.ndim > 1)],
                metric=config.metric,
                match=config.match,
                frequencies=frequencies,
                **decoding,
            )

        trained, other = run.calibrations[0][1:4:2] if config.calibrate else ({}, {})

        def labelled(c: int, trained: Any = trained, other: Any = other) -> Tensor:
            return config.calibrate * naive.label_loss(slow.images()[c], trained, own_draw(other, c), c, **decoding)

        if config.network_init == "epoch":
            points = run.setup.pool.members[run.state.member].epochs
            window = range(run.state.epoch, min(run.state.epoch + config.calibrate_epochs, POINTS))
            assert all(torch.equal(params[name], value[window[0]]) for name, value in points.items())
            assert any(all(torch.equal(trained[name], value[t]) for name, value in points.items()) for t in window)
            assert other is draws, "one augmentation for both losses"
            total = slow.visit([lambda c=c: matched(c) + labelled(c) for c in range(3)])
            torch.testing.assert_close(float(loss), total, rtol=1e-9, atol=1e-10)
        else:
            total = slow.visit([partial(matched, c) for c in range(3)])
            torch.testing.assert_close(float(loss), total, rtol=1e-9, atol=1e-10)
            if config.calibrate:
                member = run.setup.pool.members[run.state.member].params
                assert all(torch.equal(value, member[name]) for name, value in trained.items())
                assert not torch.equal(other["color"], draws["color"]), "calibration augments anew"
                total += slow.visit([partial(labelled, c) for c in range(3)])
        slow.watch(total)
        if config.patience:
            assert float(run.state.optimizer["best"]) == pytest.approx(slow.lowest, rel=1e-6)
        torch.testing.assert_close(run.images(), slow.images().detach(), rtol=1e-9, atol=1e-10)
        theta = network_after(run, params, config, last=sweep % 2 == 1)
    assert (run.state.images - run.state.initial).abs().mean() > 1e-3
    rate = slow.optimiser.param_groups[0]["lr"] / config.lr_img
    assert rate < 1 or config.patience != 1, "the learning rate was halved"


def published(run: Noted, config: CondenseConfig) -> naive.Summed:
    """The images as the papers move them."""
    moved = {"lr": config.lr_img, "momentum": config.mom_img, "patience": config.patience}
    if config.img_step == "class":
        decay = config.wd_img if config.img_optim == "adamw" else None
        return naive.Visited(run.state.images, **moved, decay=decay)
    image_optimizer = run.setup.image_optimizer
    assert image_optimizer.mean is not None and image_optimizer.std is not None
    return naive.Summed(run.state.images, image_optimizer.mean, image_optimizer.std, **moved)


def own_draw(draws: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in draws.items()}


def network_after(run: Noted, params: dict[str, Tensor], config: CondenseConfig, *, last: bool) -> dict[str, Tensor]:
    """θ after the network update, which is checked: SGD on the set as it stands, none for a network that goes."""
    network = run.state.network
    assert network is not None
    theta = {name: value.requires_grad_() for name, value in params.items()}
    assert len(run.updates) == (0 if last or config.update == "none" else 2 * config.syn_epochs)  # six images, by five
    for images, targets in run.updates:
        grads = torch.autograd.grad(naive.cross_entropy(naive.convnet(theta, images), targets), list(theta.values()))
        theta = {
            name: (value - config.lr * grad).detach().requires_grad_()
            for (name, value), grad in zip(theta.items(), grads, strict=True)
        }
    if config.aug_type == "none" and run.updates:
        seen = torch.cat([images for images, _ in run.updates])
        targets = torch.cat([targets for _, targets in run.updates]).argmax(1)
        own = run.setup.data.normalize(run.state.images.flatten(0, 1))
        same = (seen[:, None] == own).flatten(2).all(2)
        assert same.sum(0).tolist() == [config.syn_epochs] * 6, "each image once in an epoch"
        assert torch.equal(same.double().argmax(1) // 2, targets)
    for name, value in theta.items():
        torch.testing.assert_close(network.params[name].detach(), value.detach(), rtol=1e-8, atol=1e-10)
    return {name: value.detach() for name, value in theta.items()}


@pytest.mark.parametrize("method", ["idc", "idc-i"])
def test_idc_is_the_sequential_loop_on_fresh_networks(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    in_double(monkeypatch)
    monkeypatch.setattr(ImageData, "fetch", noting(recorder))
    data, config = digits(3), config_of(method, inner_loop=5, niter=3)
    initial, outers, (images, _) = attar_loop(data, pool_for(config, data), config, recorder)
    expected, _ = naive_loop(data, config, [0, 1, 2], initial, outers)
    assert (images - expected.clamp(0, 1)).abs().max() / expected.abs().max() < 1e-12
    starts = [outer["parameters"]["blocks.0.weight"] for outer in outers]
    assert not any(torch.equal(starts[i], starts[i + 1]) for i in range(2)), "a new network in every outer iteration"


def noting(recorder: Recorder) -> Callable[[ImageData, Tensor], Tensor]:
    def fetch(data: ImageData, rows: Tensor) -> Tensor:
        recorder.rows.append(rows)
        return data.normalize(data.images[rows].double() / 255)

    return fetch


# ---- where the network comes from ----


def test_fresh_networks_are_those_of_their_seed() -> None:
    data = digits(3)
    pool = empty(data, pool_of(data).network)
    cpu_generator, again = (torch.Generator().manual_seed(1) for _ in range(2))
    drawn = [network_init.fresh(pool, cpu_generator) for _ in range(3)]
    seed = int(torch.randint(network_init.MAX_SEED, (1,), generator=again))
    expected = models.parameters_of(pool.build(seed))
    assert all(torch.equal(value, expected[name]) for name, value in drawn[0].params.items())
    assert not torch.equal(drawn[0].params["blocks.0.weight"], drawn[1].params["blocks.0.weight"])
    assert drawn[0].member == -1


def test_interpolated_networks_lie_between_a_model_and_its_start() -> None:
    data = digits(3)
    pool = pool_for(config_of("ncfm"), data)
    cpu_generator, shares, members = torch.Generator().manual_seed(1), [], []
    for _ in range(100):
        origin = network_init.interpolated(pool, cpu_generator)
        trained = pool.members[origin.member].params
        first = models.parameters_of(pool.build(pool.members[origin.member].settings["seed"]))
        share = (origin.params["blocks.0.weight"] - trained["blocks.0.weight"]) / (
            first["blocks.0.weight"] - trained["blocks.0.weight"]
        )
        assert share.std() < 1e-4, "one u for all weights"
        for name, value in origin.params.items():
            torch.testing.assert_close(value, share.mean() * first[name] + (1 - share.mean()) * trained[name])
        shares.append(float(share.mean()))
        members.append(origin.member)
    assert 0 <= min(shares) < 0.05 and 0.95 < max(shares) <= 1.0001 and 0.4 < sum(shares) / 100 < 0.6
    assert 30 < sum(members) < 70, "both members are drawn"


def test_a_fresh_network_is_warmed_up_on_real_images() -> None:
    data = digits(3)
    config = config_of("idc", warmup=2, perturb=True)
    setup = set_up(data, pool_for(config, data), config)
    seen: list[int] = []

    def train(model: Any, batches: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        def watched(rows: Tensor, batch: int) -> ChainDraw:
            seen.append(len(rows))
            return draw(rows, batch)

        setup.network_training.run(model, batches, watched)

    watched = replace(setup, network_training=SimpleNamespace(run=train))  # type: ignore[arg-type]
    state = condensation.begin_outer(init(watched), watched)
    assert sum(seen) >= 2 * len(data.labels) > sum(seen) - config.batch_size
    assert state.network is not None
    buffers = [kept["momentum_buffer"] for kept in state.network.optimizer.state.values()]
    assert buffers and all(not value.any() for value in buffers), "the optimiser is new"


@pytest.mark.parametrize("kind", ["pool given", "no pool", "no seed"])
def test_pools_that_do_not_fit_are_refused(kind: str) -> None:
    data = digits(3)
    config = config_of("dm" if kind == "pool given" else "ncfm")
    pool, words = {
        "pool given": (pool_of(data), "network_init fresh takes no early-stage models; leave the pool out"),
        "no pool": (empty(data, pool_of(data).network), "the pool is empty; `attar pretrain` fills it"),
        "no seed": (pool_of(data), "network_init interpolated needs models that know their seed"),
    }[kind]
    with pytest.raises(UserError, match=words):
        set_up(data, pool, config)


# ---- characteristic functions ----


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_characteristic_distance_and_its_slopes() -> None:
    real, synthetic, points = normal(7, 4, seed=1), normal(3, 4, seed=2).requires_grad_(), normal(5, 4, seed=3)
    points.requires_grad_()

    def distance(s: Tensor, t: Tensor) -> Tensor:
        unit = [value / value.norm(dim=1, keepdim=True) for value in (real, s)]
        return characteristic_distance(*unit, t)

    torch.testing.assert_close(
        distance(synthetic, points), naive.characteristic(real, synthetic, points), rtol=1e-12, atol=0
    )
    assert torch.autograd.gradcheck(distance, (synthetic, points))


def test_characteristic_functions_that_are_equal_have_a_distance_of_nearly_nothing_and_no_steep_slope() -> None:
    features = normal(4, 3, seed=1).float().requires_grad_()
    loss = characteristic_distance(features.detach(), features, normal(8, 3, seed=2).float())
    (slope,) = torch.autograd.grad(loss, features)
    assert 0 < loss < 0.5 and slope.isfinite().all()
    zero = characteristic_distance(
        torch.tensor([[0.0]]), torch.tensor([[torch.pi / 2], [-torch.pi / 2]]), torch.ones(1, 1)
    )
    assert zero == pytest.approx(300 / 2**0.5, rel=1e-5), "φ_s = 0: a size that vanishes is no harm"


# ---- every method runs, alone and in combination ----


@pytest.mark.parametrize(("method", "changes"), RUNS, ids=str)
def test_a_run_of_any_method_goes_on_with_the_same_bits(method: str, changes: dict[str, Any]) -> None:
    data, config = digits(3), config_of(method, **changes)
    pool = pool_for(config, data)
    random = torch.get_rng_state()
    kept, images = states_of(data, pool, config)
    assert torch.equal(torch.get_rng_state(), random), "nothing is drawn from the global generator"
    for saved in kept[::3]:
        assert torch.equal(finish(data, pool, config, saved).images, images)
    assert not torch.equal(condensation.run(data, pool, replace(config, seed=1)).images, images)


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("method", ["accdd", "dm"])
def test_an_averaged_set_is_the_weighted_mean_over_the_sweeps(method: str, power: int) -> None:
    """With t(t + 1)…(t + power − 1) as the t-th weight; what moves is as without, also in a run that grew."""
    data, plain = digits(3), config_of(method, niter=3)
    pool = pool_for(plain, data)
    setup = set_up(data, pool, plain)
    state, total, weights = init(setup), torch.zeros(()), 0
    for outer in range(3):
        state = condensation.begin_outer(state, setup)
        for inner in range(SWEEPS):
            state, _ = condensation.step(state, setup)
            weight = math.prod(outer * SWEEPS + inner + 1 + more for more in range(power))
            total, weights = total + weight * condensation.product(state, setup).images.double(), weights + weight
        state.outer, state.inner = outer + 1, 0
    averaged = replace(plain, averaging_power=power)
    images = condensation.run(data, pool, averaged).images
    torch.testing.assert_close(images, (total / weights).float(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(images, condensation.run(data, pool, plain).images, atol=1e-4)
    kept, _ = states_of(data, pool, replace(averaged, niter=2))
    assert torch.equal(finish(data, pool, averaged, kept[-1]).images, images)
    broken = kept[-1] | {"mean": kept[-1]["mean"][:1]}
    with pytest.raises(UserError, match="no state of this run"):
        finish(data, pool, averaged, broken)


@pytest.mark.parametrize(("method", "changes"), RUNS[3:8], ids=str)
def test_a_recorded_sweep_gives_what_the_sweep_gives(method: str, changes: dict[str, Any]) -> None:
    """As on a GPU: tensors of fixed shapes in, results that the next call overwrites."""
    data, config = digits(3), config_of(method, niter=3, **changes)
    pool, tape = pool_for(config, data), Tape()
    plain = set_up(data, pool, config)
    recorded = replace(plain, sweep=SimpleNamespace(run=CudaGraph(plain.sweep.run, tape)))  # type: ignore[arg-type]
    if plain.calibration is not None:
        graph: Any = SimpleNamespace(run=CudaGraph(plain.calibration.run, tape))
        recorded = replace(recorded, calibration=graph)
    images = []
    for setup in (plain, recorded):
        state = init(setup)
        for _ in range(3):
            state = condensation.begin_outer(state, setup)
            for _ in range(SWEEPS):
                state, _ = condensation.step(state, setup)
        images.append(state.images)
    assert torch.equal(*images)
    assert tape.recorded == 1 + (plain.calibration is not None) and 3 * SWEEPS > GRAPH_WARMUP


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("accdd", {"n_data": 40}),
        ("idc", {"n_data": 80}),
        ("idc", {"n_data": 40, "warmup": 1}),
        ("dc", {"sweeps_per_network": 4}),
    ],
    ids=str,
)
def test_recorded_network_steps_give_what_the_steps_give(
    method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 images in batches of 8 are three chains here; DC's last batch is smaller; warm-up is a chain of its own."""
    monkeypatch.setattr(training_loop, "MAX_STEPS_PER_GRAPH", 4)
    data, config = digits(3), config_of(method, niter=3, **changes)
    pool, images = pool_for(config, data), []
    setup = set_up(data, pool, config)
    now: list[State] = []

    def network() -> TrainState:
        assert now[-1].network is not None
        return now[-1].network

    for warmup in (10**6, GRAPH_WARMUP):  # the same chains, never recorded and recorded
        monkeypatch.setattr(cuda_graphs, "GRAPH_WARMUP", warmup)
        film = Film(network)
        own = replace(setup, network_training=NetworkTraining(setup.gradients, data, film))
        now.append(init(own))
        for _ in range(4):
            condensation.begin_outer(now[-1], own)
            for _ in range(SWEEPS):
                condensation.step(now[-1], own)
        images.append(now[-1].images)
        assert (film.recorded > 0) == (warmup == GRAPH_WARMUP)
    assert torch.equal(*images)


class Watch(TorchDispatchMode):
    """Notes what would make the host wait for a GPU: values read back, shapes that depend on values, and numbers that
    are sent from memory which is not pinned (`torch.tensor`).
    """

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount")
    READS += ("lift_fresh",)

    def __init__(self, state: State) -> None:
        super().__init__()
        self.cpu_generator = state.cpu_generator
        self.own: list[Tensor] = []  # what is drawn on the host
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(
            isinstance(value, Tensor) and value.dtype == torch.bool for value in tree_leaves(args[1:2])
        )
        if (name in self.READS or masks) and not any(args[0].data_ptr() == value.data_ptr() for value in self.own):
            self.seen.append(name)
        result = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        if generator is not None and torch.equal(generator.get_state(), self.cpu_generator.get_state()):
            self.own.append(result)
        return result


@pytest.mark.parametrize(("method", "changes"), RUNS, ids=str)
def test_no_iteration_waits_for_a_value(method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    at = Pool.at

    def unwatched(*args: Any) -> Any:  # points on a trajectory are checked on the host, where they are
        with _disable_current_modes():
            return at(*args)

    monkeypatch.setattr(Pool, "at", unwatched)
    data, config = digits(3), config_of(method, **changes)
    setup = set_up(data, pool_for(config, data), config)
    state = condensation.begin_outer(init(setup), setup)
    condensation.step(state, setup)
    with Watch(state) as watch:
        for _ in range(SWEEPS - 1):
            condensation.step(state, setup)
        assert not watch.seen
        float(state.images[0].max()), state.images[state.images > 0], torch.tensor(1.0)
    assert watch.seen == ["_local_scalar_dense", "index", "lift_fresh"], "it sees them"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("method", "changes"), RUNS, ids=str)
def test_no_iteration_waits_for_the_gpu(method: str, changes: dict[str, Any]) -> None:
    data = digits(3).to("cuda")
    config = config_of(method, inner_loop=8 * (GRAPH_WARMUP + 2), **changes)
    setup = set_up(data, pool_for(config, data), config)
    state = condensation.begin_outer(init(setup), setup)
    for _ in range(4 * (GRAPH_WARMUP + 2)):  # until everything is recorded
        condensation.step(state, setup)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(4):
            condensation.step(state, setup)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("method", "changes"), RUNS[5:8], ids=str)
def test_chunks_of_classes_give_the_same(method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    in_double(monkeypatch)
    data, config = digits(3), config_of(method, batch_real=5, **changes)
    pool, actual = pool_for(config, data, torch.float64), []
    draw_frequencies = condensation.draw_frequencies
    if config.match == "ncf":
        monkeypatch.setattr(condensation, "draw_frequencies", lambda *args: draw_frequencies(*args).double())
    for chunk in (1, 2, 3):
        setup = set_up(data, pool, config)
        setup.gradients.chunk = chunk
        state = init(setup)
        state.images, state.momentum = state.images.double(), state.momentum.double()
        state = condensation.begin_outer(state, setup)
        state, loss = condensation.step(state, setup)
        actual.append((state.images, loss))
    for one in actual[1:]:
        for value, expected in zip(one, actual[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-9)


def test_bf16_stays_near_for_features() -> None:
    data = digits(3)
    for method in ("dm", "ncfm"):
        config = config_of(method, niter=1)
        pool = pool_for(config, data)
        plain, other = (condensation.run(data, pool, replace(config, precision=p)) for p in ("float32", "bf16"))
        apart = (plain.images - other.images).norm() / (plain.images - plain.start().images).norm()
        assert 0 < apart < 0.3, method


def test_each_choice_makes_other_images() -> None:
    """A setting that did nothing would repeat the first set."""
    data = digits(3)
    base = config_of(
        "ncfm", niter=1, patience=0, calibrate=0.0, perturb=False, network_init="pool", sweeps_per_network=None
    )
    changes: list[dict[str, Any]] = [
        {},
        {"network_init": "interpolated"},
        {"network_init": "fresh"},
        {"network_init": "fresh", "warmup": 1},
        {"network_init": "epoch", "sweeps_per_network": 1},
        {"network_init": "epoch", "sweeps_per_network": 1, "calibrate": 1.0},
        {"network_init": "epoch", "sweeps_per_network": 1, "calibrate": 1.0, "calibrate_epochs": 1},
        {"perturb": True},
        {"sweeps_per_network": 1},
        {"match": "feat"},
        {"match": "grad"},
        {"frequencies": 7},
        {"calibrate": 1.0},
        {"calibrate": 2.0},
        {"img_step": "sweep"},
        {"img_space": "normalized"},
        {"wd_img": 0.1},
        SGD,
        {**SGD, "img_step": "sweep"},
        {"clamp": False},
        {"lr_scaled": True},
        {"patience": 1},
        {"update": "real"},
        {"update": "synthetic"},
        {"update": "synthetic", "syn_epochs": 2},
    ]
    sets = []
    for change in changes:
        config = replace(base, **change)
        sets.append(condensation.run(data, pool_for(config, data), config).images)
    for one, change in enumerate(changes):
        for other in range(one):
            assert not torch.equal(sets[one], sets[other]), (change, changes[other])
