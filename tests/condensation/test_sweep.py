"""Condensation against the published sequential loop, and what a run leaves alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attar
from attar import models
from attar.condensation import image_step, network_step
from attar.condensation import loop as condensation
from attar.condensation import state as state_module
from attar.condensation.gradients import Execution, ImageGradients, SweepInputs
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import check_finite
from attar.errors import UserError
from attar.settings.choices import strategy_names
from attar.training.batches import ChainDraw, make_batches
from attar.training.draws import draw
from helpers import naive
from helpers.condensation import EVERYTHING, Recorder, attar_loop, digits, naive_loop, pool_of, settings

CASES = [
    {"metric": "mse", "mom_img": 0.5, "factor": 1, "lr_img": 1.0},
    {"metric": "mse", "mom_img": 0.9, "factor": 2, "lr_img": 0.2},
    {"metric": "l1", "mom_img": 0.5, "factor": 2, "lr_img": 0.1},
    {"metric": "l1", "mom_img": 0.9, "factor": 1, "lr_img": 0.05},
    {"metric": "cos", "mom_img": 0.5, "factor": 1, "lr_img": 0.1},
    {"metric": "cos", "mom_img": 0.9, "factor": 2, "lr_img": 0.1},
    {"metric": "l1_mean", "mom_img": 0.5, "factor": 3, "decode_type": "multi", "batch_syn_max": 9, "lr_img": 5.0},
    {"metric": "mse", "mom_img": 0.9, "match": "feat", "aug_type": EVERYTHING, "lr_img": 0.1},
    {"metric": "l1", "mom_img": 0.9, "nclass_sub": 3, "phase": 1, "bias": True, "fc": True, "mix_p": 0.0},
    {"metric": "l1", "momentum": 0.0, "n_data": 40},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_all_classes_together_equal_the_sequential_loop(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = digits(5), settings(**case)
    recorder = Recorder(monkeypatch)
    initial, outers, (images, params) = attar_loop(data, pool_of(data), config, recorder)
    labels = list(range(5)) if config.phase is None else [3, 4]
    expected, theta = naive_loop(data, config, labels, initial, outers)
    assert (images - expected.clamp(0, 1)).abs().max() / expected.abs().max() < 1e-12
    # The comparison means something: the images moved, and the clamp had work to do.
    assert (expected - initial).abs().mean() > 0.02
    assert expected.min() < -1e-3 and expected.max() > 1
    for name, value in theta.items():
        torch.testing.assert_close(params[name].detach(), value.detach(), rtol=1e-9, atol=1e-11)
    steps = -(-config.n_data // 8)
    assert all(len(sweep["updates"]) == steps for outer in outers for sweep in outer["sweeps"])


@dataclass
class Given:
    """A sweep's arguments in float64, with real batches of one size or of two."""

    setup: Setup
    momentum: Tensor
    inputs: SweepInputs

    def gradients(self, rows: list[int], chunk: int) -> ImageGradients:
        return ImageGradients(
            self.setup.module,
            self.setup.gradients.matching,
            self.setup.data.normalize,
            torch.tensor(rows),
            Execution(chunk=chunk),
        )

    def swept(self, order: list[int] | None = None, chunk: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        images, params, real, draws, subsets, _ = self.inputs
        rows = list(range(5)) if order is None else order
        some = None if subsets is None else [subsets[c] for c in rows]
        drawn = {name: value[rows] for name, value in draws.items()}
        inputs = SweepInputs(images[rows], params, [real[c] for c in rows], drawn, some)
        gradient, loss = self.gradients(rows, chunk)(inputs)
        moved = image_step.move(images[rows], self.momentum[rows], gradient, {}, self.setup.image_optimizer)
        return moved[0], moved[1], loss


def given(case: dict[str, Any], *, even: bool) -> Given:
    data = digits(5)
    setup = set_up(data, pool_of(data), settings(**case))
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(5, 2, 1, 8, 8, generator=generator, dtype=torch.float64)
    momentum = torch.randn(5, 2, 1, 8, 8, generator=generator, dtype=torch.float64)
    real = [data.fetch(data.rows(c)[: 5 if even else 12]).double() for c in range(5)]
    draws = draw(strategy_names(EVERYTHING), 5, (8, 8), generator, batch=1)
    subsets = [torch.randperm(8, generator=generator)[:3] for _ in range(5)] if even else None
    return Given(setup, momentum, SweepInputs(images, setup.pool.members[0].params, real, draws, subsets))


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize("even", [True, False])
def test_the_order_of_the_classes_does_not_matter(momentum: float, even: bool) -> None:
    order, setup = [2, 4, 0, 3, 1], given({"mom_img": momentum}, even=even)
    plain, permuted = setup.swept(), setup.swept(order)
    for a, b in zip(plain[:2], permuted[:2], strict=True):
        torch.testing.assert_close(a[order], b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plain[2], permuted[2], rtol=1e-12, atol=0)
    assert (plain[0] - setup.inputs.images).abs().mean() > 1e-3


@pytest.mark.parametrize("case", [{"metric": "mse"}, {"metric": "cos", "fc": True}, {"match": "feat"}])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap has no rule for affine_grid
def test_the_grouping_of_the_classes_does_not_matter(case: dict[str, Any], even: bool) -> None:
    setup = given(case, even=even)
    alone = setup.swept()
    for chunk in (2, 5):
        for a, b in zip(alone, setup.swept(chunk=chunk), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap has no rule for affine_grid
def test_short_memory_halves_the_classes_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """A step of more than two classes does not fit; later sweeps begin with what did."""
    setup = given({}, even=True)
    sweep = setup.gradients(list(range(5)), 5)
    real, sizes = sweep.grouped[True], list[int]()

    def short(images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(images, *rest)

    sweep.grouped[True] = short
    for _ in range(2):
        expected = setup.gradients(list(range(5)), 1)(setup.inputs)
        for a, b in zip(expected, sweep(setup.inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert sizes == [5, 3, 2, 2, 2, 2]  # the class that is left over is a step of its own
    assert caplog.messages == [f"not enough memory: from now on {n} classes at once" for n in (3, 2)]


def test_memory_for_less_than_one_class_is_an_error() -> None:
    setup = given({}, even=True)
    sweep = setup.gradients(list(range(5)), 1)

    def short(*args: Any) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    sweep.step = short
    with pytest.raises(torch.OutOfMemoryError):
        sweep(setup.inputs)


def test_same_seed_same_bits_and_nothing_else_is_touched() -> None:
    data = digits()
    pool = pool_of(data, torch.float32)
    copies = [{name: value.clone() for name, value in member.params.items()} for member in pool.members]
    pixels, state = data.images.clone(), torch.get_rng_state()
    config = settings(aug_type=EVERYTHING, niter=4, inner_loop=3)
    first, again, other = (condensation.run(data, pool, c) for c in (config, config, replace(config, seed=1)))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
    assert torch.equal(data.images, pixels)
    for member, copy in zip(pool.members, copies, strict=True):
        for name, value in copy.items():
            assert torch.equal(member.params[name], value), "the pool stays"
            assert not member.params[name].requires_grad


def test_what_a_run_returns_and_yields() -> None:
    data = digits(5)
    config = settings(niter=3, inner_loop=2, nclass_sub=2, phase=1)
    setup = set_up(data, pool_of(data, torch.float32), config)
    state = state_module.init(setup)
    first = condensation.product(state, setup).images
    losses, places, seen = [], [], []
    for loss in condensation.iterate(state, setup):
        losses.append(loss)
        places.append((state.outer, state.inner))
        seen.append(condensation.product(state, setup).images)
    condensed = condensation.run(data, pool_of(data, torch.float32), config)
    assert torch.equal(condensed.images, seen[-1]), "run is iterate to the end"
    assert condensed.labels.tolist() == [2, 2, 3, 3], "global labels"
    assert condensed.images.shape == (4, 1, 8, 8) and condensed.images.dtype == torch.float32
    assert condensed.images.min() >= 0 and condensed.images.max() <= 1
    assert (condensed.factor, condensed.decode_type, condensed.ipc, condensed.nclass) == (2, "single", 2, 5)
    assert (condensed.mean, condensed.std, condensed.classes) == (data.mean, data.std, data.classes)
    assert condensed.source == "few"
    assert condensed.initial is not None and torch.equal(condensed.initial, first)
    assert (condensed.images - condensed.initial).abs().mean() > 1e-3
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise([first, *seen]))
    assert places == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)], "after every inner iteration"
    assert [loss is not None for loss in losses] == [False, True] * 3, "the mean loss of an outer iteration"
    assert all(loss > 0 for loss in losses if loss is not None)


def test_batch_norm_statistics_are_learned_from_real_batches_only() -> None:
    data = digits()
    pool = pool_of(data, torch.float32, norm_type="batch")
    for n_data, learned in ((0, False), (20, True)):
        setup = set_up(data, pool, settings(n_data=n_data))
        state = condensation.begin_outer(state_module.init(setup), setup)
        assert state.network is not None
        before = {name: value.clone() for name, value in state.network.buffers.items()}
        state, loss = condensation.step(state, setup)
        assert loss.isfinite()
        moved = [not torch.equal(before[name], value) for name, value in state.network.buffers.items()]
        for name, value in models.buffers_of(pool.build(seed=0)).items():
            assert torch.equal(dict(setup.module.named_buffers())[name], value), "the module only gives the shape"
        assert all(moved) if learned else not any(moved)


def training_by(setup: Setup, train: Callable[..., None]) -> Setup:
    """A setup whose network steps go to a function."""
    stand_in: Any = SimpleNamespace(run=train)
    return replace(setup, network_training=stand_in)


def test_the_network_sees_real_images_once_until_n_data() -> None:
    data = digits()
    config = settings(aug_type="none", mix_p=0.0, n_data=35)
    setup = set_up(data, pool_of(data), config)
    state = condensation.begin_outer(state_module.init(setup), setup)
    batches: list[tuple[Tensor, Tensor]] = []

    def collect(_: Any, rows: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        for own in rows:
            batches.extend(make_batches(data, draw(own, len(own))))

    collecting = training_by(setup, collect)
    network_step.update_network(state, collecting)
    assert [len(images) for images, _ in batches] == [8] * 5, "35 images are reached with the fifth batch of 8"
    same = (torch.cat([images for images, _ in batches])[:, None] == data.fetch(torch.arange(41))).flatten(2).all(2)
    rows = same.double().argmax(1)
    assert same.any(1).all() and len(rows.unique()) == 40, "real images, none twice"
    targets = torch.cat([targets for _, targets in batches])
    assert torch.equal(targets.argmax(1), data.labels[rows]) and (targets.amax(1) == 1).all()


@pytest.mark.parametrize("mix_p", [0.0, 0.5])
def test_the_network_trains_without_cutout_when_cutmix_is_on(mix_p: float) -> None:
    data = digits()
    setup = set_up(data, pool_of(data, torch.float32), settings(mix_p=mix_p))
    state = condensation.begin_outer(state_module.init(setup), setup)
    asked: list[ChainDraw] = []

    def ask(_: Any, rows: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        asked.extend(draw(own, len(own)) for own in rows)

    network_step.update_network(state, training_by(setup, ask))
    assert len(asked) == 3
    for one in asked:
        assert set(one.augmentation.draw) == {"color", "shift"} | (set() if mix_p else {"cutout"})
        assert (one.augmentation.boxes is not None) == (one.augmentation.order is not None) == (mix_p > 0)


def test_an_outer_iteration_clamps_draws_and_perturbs() -> None:
    data = digits()
    pool = pool_of(data, torch.float32)
    drawn = set()
    for perturbing in (False, True):
        setup = set_up(data, pool, settings(perturb=perturbing))
        state = state_module.init(setup)
        for _ in range(12):
            state.images = 3 * torch.randn(state.images.shape, generator=state.generator)
            expected = state.images.clamp(0, 1)
            state.inner = 7
            state = condensation.begin_outer(state, setup)
            assert torch.equal(state.images, expected) and state.inner == 0
            assert state.network is not None
            fit = [
                max(
                    float((value.detach() - member.params[name]).norm() / member.params[name].norm())
                    for name, value in state.network.params.items()
                    if value.ndim > 1
                )
                for member in pool.members
            ]
            if perturbing:
                assert 0 < min(fit) <= 0.18
            else:
                assert min(fit) == 0
            drawn.add((perturbing, fit.index(min(fit))))
    assert len(drawn) == 4, "every member has its turn"


@pytest.mark.parametrize(("init", "factor"), [("random", 1), ("random", 2), ("mix", 2), ("mix", 3), ("noise", 2)])
def test_initial_images(init: str, factor: int) -> None:
    data = attar.load("digits", nclass=3)
    config = settings(init=init, factor=factor, ipc=3)
    setup = set_up(data, pool_of(data, torch.float32), config)
    first, again = (state_module.init(setup) for _ in range(2))
    assert torch.equal(first.images, again.images) and not first.momentum.any()
    assert first.images.shape == first.momentum.shape == (3, 3, 1, 8, 8)
    cells, side = (factor if init == "mix" else 1), -(-8 // (factor if init == "mix" else 1))
    for c in range(3):
        real = data.images[data.rows(c)].double() / 255
        if init == "noise":
            assert len(first.images[c].unique()) > 150 and (first.images[c] < 1).all()
            continue
        condensed = torch.stack([naive.shrink(image, (side, side)) for image in real])
        actual: list[set[int]] = []
        for image in first.images[c].double():
            for i in range(cells):
                for j in range(cells):
                    patch = image[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
                    like = condensed[:, :, : patch.shape[1], : patch.shape[2]]
                    close = (like - patch).abs().amax((1, 2, 3)) < 1e-6
                    actual.append(set(close.nonzero().flatten().tolist()))
        assert all(actual), "every cell shows a real image of the class"
        if cells < 3:  # smaller patches are found in several images
            assert len({min(rows) for rows in actual}) == len(actual), "each a different one"
            assert max(min(rows) for rows in actual) > 3 * factor**2, "not the first ones in the file"


def test_every_class_has_a_draw_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data, recorder = digits(5), Recorder(monkeypatch)
    setup = set_up(data, pool_of(data), settings(aug_type="crop_rotate", n_data=0))
    state = state_module.init(setup)
    state.images, state.momentum = state.images.double(), state.momentum.double()
    state = condensation.begin_outer(state, setup)
    mixed = 0
    for _ in range(8):
        state, _loss = condensation.step(state, setup)
        matrices = [one["draw"]["affine"][0] for one in recorder.take(5)["classes"]]
        turned = [bool(matrix[0, 1] != 0) for matrix in matrices]
        mixed += any(turned) and not all(turned)
    assert mixed >= 4, "crop for some classes and rotate for others in the same sweep"


def test_matching_steps_take_a_random_part_of_a_large_set() -> None:
    data = digits()
    for most, expected in ((9, True), (10, False)):
        config = settings(decode_type="multi", batch_syn_max=most)
        setup = set_up(data, pool_of(data), config)
        assert setup.draws_subset is expected, "two stored images give ten"
    setup = set_up(data, pool_of(data), settings(decode_type="multi", batch_syn_max=4))
    state = state_module.init(setup)
    subsets = [condensation.random_subsets(state, setup) for _ in range(40)]
    assert all(len(one) == 4 and all(len(rows.unique()) == 4 for rows in one) for one in subsets)
    assert torch.cat([torch.cat(one) for one in subsets]).unique().tolist() == list(range(10))
    assert not torch.equal(subsets[0][0], subsets[0][1])


class ReadsNothing(TorchDispatchMode):
    """Single values are not read back: a GPU would be waited for at each."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_what_cannot_be_condensed() -> None:
    data = digits()
    with pytest.raises(UserError, match="class '3' has 5 images, fewer than ipc 6"):
        set_up(data, pool_of(data), settings(ipc=6))
    with pytest.raises(UserError, match="factor 9 is larger than the image"):
        set_up(data, pool_of(data), settings(factor=9))
    with pytest.raises(UserError, match=r"phase 2 does not exist: 4 classes in parts of 3 are phases 0\.\.1"):
        set_up(data, pool_of(data), settings(nclass_sub=3, phase=2))
    with pytest.raises(UserError, match="the pool is empty"):
        set_up(data, replace(pool_of(data), members=()), settings())
    with pytest.raises(UserError, match="the pool was made for"):
        set_up(data, pool_of(digits(3)), settings())
    setup = set_up(data, pool_of(data), settings())
    with pytest.raises(UserError, match="call begin_outer before step"):
        condensation.step(state_module.init(setup), setup)
    state = state_module.init(setup)
    for loss in (float("nan"), float("inf"), -float("inf")):
        state.losses = [torch.tensor(loss)]
        with pytest.raises(UserError, match=r"the matching loss is .*; lower the learning rate of the images"):
            check_finite(state, settings())
    state.losses = [torch.tensor(0.0)]
    with ReadsNothing():
        check_finite(state, settings())
