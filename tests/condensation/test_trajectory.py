"""Trajectory matching against the graph of all steps in float64, and its runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.trajectories import tesla, unrolled

import attar
from attar.condensation import loop, trajectory_step
from attar.condensation.gradients import Execution
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import State, init, restore, snapshot
from attar.condensation.trajectory import StudentStep, TrajectoryGradients
from attar.data.images import ImageData
from attar.engine.cuda_graphs import GRAPH_WARMUP, CudaGraph
from attar.errors import Diverged, UserError
from attar.settings import methods, recipes
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig, PoolConfig
from attar.training import early_stage
from attar.training.draws import numbers
from attar.training.pool import Pool
from helpers.condensation import digits, pool_of
from helpers.methods import finish, states_of
from helpers.recording import Tape

EVERYTHING = ("color", "crop", "cutout", "flip", "scale", "rotate")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LAYERS = [  # of a ConvNet of depth 2: both blocks and the classifier, each a third
    ((0.3, 1.0), ("blocks.4.", "blocks.5.", "classifier.")),
    ((0.0, 0.3), ("blocks.0.", "blocks.1.")),
    ((0.4, 0.6), ("blocks.4.", "blocks.5.")),
    ((0.9, 1.0), ("classifier.",)),
]


@pytest.mark.parametrize(("layers", "compared"), LAYERS)
def test_only_some_layers_are_compared(layers: tuple[float, float], compared: tuple[str, ...]) -> None:
    """PAD leaves the first ones out; the student's steps are those of all parameters."""
    pool = pool_of(digits(3), norm_type="batch")
    gradients = TrajectoryGradients(pool.build(0).double(), Execution(), torch.device("cpu"), layers)
    start, target = (gradients.flat(pool.at(index)) for index in (0, 1))
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator())
    targets = torch.randn(6, 3, dtype=torch.float64, generator=generator(1)).softmax(dim=1)
    rows = [torch.randperm(6, generator=generator(number))[:4] for number in range(3)]
    steps = [StudentStep(own, numbers(("flip",), 4, generator(len(own)), batch=4)) for own in rows]
    lr = torch.tensor(0.3, dtype=torch.float64)
    actual = gradients(start, target, images, targets, steps, lr)
    expected = unrolled(gradients, start, target, images, targets, steps, lr, lambda name: name.startswith(compared))
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-8


@pytest.mark.parametrize("norm_type", ["instance", "batch"])
@pytest.mark.parametrize(("count", "batch"), [(1, 9), (5, 4), (12, 9)])
def test_the_adjoint_is_the_gradient_of_the_graph_of_all_steps(count: int, batch: int, norm_type: str) -> None:
    pool = pool_of(digits(3), norm_type=norm_type)
    module = pool.build(0).double()
    gradients = TrajectoryGradients(module, Execution(), torch.device("cpu"))
    gradients.workers.count = 1 if norm_type == "batch" else 2  # threads
    start, target = (gradients.flat(pool.at(index)) for index in (0, 1))
    images = torch.randn(9, 1, 8, 8, dtype=torch.float64, generator=generator())
    targets = torch.randn(9, 3, dtype=torch.float64, generator=generator(1)).softmax(dim=1)
    steps = []
    for number in range(count):
        rows = torch.randperm(9, generator=generator(number))[: batch - number % 2]
        steps.append(StudentStep(rows, numbers(EVERYTHING, len(rows), generator(number), batch=len(rows))))
    lr = torch.tensor(0.3, dtype=torch.float64)
    actual = gradients(start, target, images, targets, steps, lr)
    expected = unrolled(gradients, start, target, images, targets, steps, lr)
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-8
    assert float(expected[3].abs()) > 1e-6 and float(expected[1].norm()) > 1e-6
    published = tesla(gradients, start, target, images, targets, steps, lr)
    error = float((published - expected[1]).norm() / expected[1].norm())
    assert error < 1e-8 if count == 1 else error > 1e-3, "the last step is exact, the ones before are not"


# ---- runs ----

NETWORK = NetworkConfig(depth=2, width=0.05)
SHORT: dict[str, Any] = {
    "niter": 2,
    "inner_loop": 3,
    "ipc": 2,
    "syn_steps": 3,
    "max_start_epoch": 2,
    "expert_epochs": 1,
}


def few() -> ImageData:
    """Twelve digits of each of three classes."""
    whole = attar.load("digits", nclass=3)
    rows = torch.cat([whole.rows(c)[:12] for c in range(3)])
    return ImageData(whole.images[rows], whole.labels[rows], name="few")


@pytest.fixture(scope="module")
def experts() -> Pool:
    """Three experts of two epochs each."""
    config = PoolConfig(epochs=2, models=3, momentum=0.0, batch_size=8, lr_decay=False, keep_epochs=True, lr=0.05)
    return early_stage.pretrain(few(), config, NETWORK)


def config_of(method: str = "mtt", **changes: Any) -> CondenseConfig:
    layer = methods.method_layer(method, recipes.named("digits"), 2)["condense"]
    return replace(CondenseConfig(), **(layer | SHORT | changes))


def prepared(pool: Pool, config: CondenseConfig) -> tuple[Setup, Any]:
    setup = set_up(few(), pool, config)
    return setup, init(setup)


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("mtt", {}),
    ("mtt", {"factor": 2, "init": "mix", "batch_syn": 7, "syn_steps": 5, "img_optim": "adamw", "lr_img": 0.01}),
    ("ftd", {}),
    ("datm", {"current_max_start_epoch": 1, "expansion_end_epoch": 4, "lr_y": 0.5}),
]


@pytest.mark.parametrize(("method", "changes"), RUNS, ids=str)
def test_a_run_goes_on_from_every_state(method: str, changes: dict[str, Any], experts: Pool) -> None:
    data, config = few(), config_of(method, **changes)
    kept, images = states_of(data, experts, config)
    whole = finish(data, experts, config, kept[0])
    assert torch.equal(whole.images, images) and whole.lr is not None
    for saved in kept[1:-1]:
        again = finish(data, experts, config, saved)
        assert torch.equal(again.images, images) and again.lr == whole.lr
        assert whole.soft_labels is None or torch.equal(again.soft_labels, whole.soft_labels)
    assert whole.lr != config.lr_teacher and not torch.equal(images, whole.start().images)
    assert (whole.soft_labels is not None) == (method == "datm")


def test_a_recorded_trajectory_gives_what_the_trajectory_gives(experts: Pool) -> None:
    config, ends = config_of("datm", batch_syn=4, lr_y=0.5), []
    for recorded in (False, True):
        setup, state = prepared(experts, config)
        tape = Tape()
        if recorded:
            assert setup.trajectory is not None
            setup.trajectory.compute = CudaGraph(setup.trajectory.compute, tape)
        losses = []
        for _ in range(GRAPH_WARMUP + 3):
            loop.begin_outer(state, setup)
            losses.append(loop.follow_trajectory(state, setup))
        ends.append((*losses, state.images, *state.learned.values()))
        assert tape.recorded == recorded
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("method", ["mtt", "datm"])
def test_an_iteration_is_the_published_one(method: str, experts: Pool) -> None:
    """SGD with momentum of the normalised pixels, of the learning rate and of the labels, by the unrolled gradient."""
    rates = {"lr_y": 50.0, "threshold": None} if method == "datm" else {}
    config = config_of(method, lr_img=3.0, lr_lr=1e-3, aug_type="none", **rates)
    setup, state = prepared(experts, config)
    data, alpha, velocity, speed, pull = setup.data, torch.tensor(config.lr_teacher), 0.0, 0.0, 0.0
    logits = state.learned["logits"].flatten(0, 1) if method == "datm" else None
    std = torch.tensor(data.std).view(-1, 1, 1)
    pixels = data.normalize(state.images.flatten(0, 1))
    targets = F.one_hot(torch.arange(3).repeat_interleave(2), 3).float()
    for number in range(3):
        loop.begin_outer(state, setup) if number == 0 else loop.take_network(state, setup)
        state.inner = number
        twin = torch.Generator()
        twin.set_state(state.generator.get_state())
        steps = [StudentStep(torch.randperm(6, generator=twin), {}) for _ in range(3)]
        assert setup.trajectory is not None
        ends = [setup.trajectory.flat(experts.at(state.member, state.epoch + more)) for more in (0, 1)]
        soft = targets if logits is None else logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        loss, of_images, of_soft, of_alpha = unrolled(setup.trajectory, *ends, pixels, soft, steps, alpha)
        velocity, speed = 0.5 * velocity + of_images, 0.5 * speed + of_alpha
        pixels, alpha = pixels - 3.0 * velocity, alpha - 1e-3 * speed
        actual = loop.follow_trajectory(state, setup)
        torch.testing.assert_close(actual, loss)
        torch.testing.assert_close(data.normalize(state.images.flatten(0, 1)), pixels, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.learned["lr"], alpha)
        if logits is not None:  # through the softmax, by hand
            pull = 0.9 * pull + soft * (of_soft - (soft * of_soft).sum(dim=1, keepdim=True))
            before, logits = logits, logits - 50.0 * pull
            assert float((logits - before).abs().max()) > 1e-2
            torch.testing.assert_close(state.learned["logits"].flatten(0, 1), logits, rtol=1e-4, atol=1e-4)
    assert float((std * velocity).abs().max()) > 0


def test_experts_and_epochs_are_drawn_as_published(experts: Pool) -> None:
    """All experts before any again; epochs over a window that grows."""
    setup, state = prepared(experts, config_of(niter=100, max_start_epoch=2))
    drawn = []
    for _ in range(30):
        start = trajectory_step.starting_point(state, setup)
        drawn.append((start.member, start.epoch))
    assert all(sorted(member for member, _ in drawn[at : at + 3]) == [0, 1, 2] for at in range(0, 30, 3))
    assert {epoch for _, epoch in drawn} == {0, 1}
    config = config_of(min_start_epoch=1, max_start_epoch=9, current_max_start_epoch=3, expansion_end_epoch=4)
    assert [config.latest_start(number) for number in (0, 1, 2, 3, 4, 99)] == [3, 4, 6, 7, 9, 9]
    assert (config.last_epoch, config_of().last_epoch) == (9, 2)


def test_students_start_within_a_window_that_grows(experts: Pool) -> None:
    """From min_start_epoch on, and before an epoch that grows from one iteration to the next (DATM)."""
    window = {"min_start_epoch": 1, "current_max_start_epoch": 2, "max_start_epoch": 5, "expansion_end_epoch": 4}
    longer = [
        replace(member, epochs={name: value[[0, 0, 1, 1, 2, 2]] for name, value in member.epochs.items()})
        for member in experts.members
    ]
    setup, state = prepared(replace(experts, members=tuple(longer)), config_of("datm", **window))
    for iteration, expected in enumerate([{1}, {1}, {1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 2, 3, 4}]):
        state.outer, state.inner = divmod(iteration, 3)  # of inner_loop
        starts = [trajectory_step.starting_point(state, setup) for _ in range(40)]
        assert {start.epoch for start in starts} == expected, iteration
    for name, value in starts[-1].params.items():
        assert torch.equal(value, longer[starts[-1].member].epochs[name][starts[-1].epoch].float())


def test_a_student_sees_all_images_before_any_again_and_a_short_batch_first(experts: Pool) -> None:
    setup, state = prepared(experts, config_of(batch_syn=4, syn_steps=7))
    rows = [step.rows.tolist() for step in trajectory_step.draw_steps(6, state, setup)]
    assert [len(one) for one in rows] == [2, 4, 2, 4, 2, 4, 2]
    orders = [(*rows[at], *rows[at + 1]) for at in (0, 2, 4)]
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in orders) and len({*orders}) == 3


def test_the_gate_keeps_everything_where_the_loss_is_high(experts: Pool) -> None:
    """Images, learning rate, labels and the momenta of all three."""
    setup, state = prepared(experts, config_of("datm", threshold=1e9, lr_y=0.5))
    loop.begin_outer(state, setup)
    closed = replace(setup, config=replace(setup.config, threshold=1e-9))
    for one, moves in ((setup, True), (closed, False), (setup, True)):
        before = (state.images, state.momentum, *state.learned.values())
        loop.follow_trajectory(state, one)
        after = (state.images, state.momentum, *state.learned.values())
        same = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
        assert same == [not moves] * 6


def test_what_the_gate_skipped_is_counted_over_a_resume(experts: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_loss(state: State, setup: Setup) -> trajectory_step.Matched:
        loss = (2.0, 1.0, 2.0, 1.0, 3.0, 0.5)[3 * state.outer + state.inner]
        return trajectory_step.match(state, setup)._replace(loss=torch.tensor(loss))

    monkeypatch.setattr(loop, "match", with_loss)
    setup, state = prepared(experts, config_of("datm", threshold=1.0))
    kept = [snapshot(state, setup) for _ in loop.iterate(state, setup)]
    for saved in kept:
        state = restore(saved, setup)
        for _ in loop.iterate(state, setup):
            pass
        assert state.skipped == 3


def test_a_gradient_that_explodes_moves_no_image_far(experts: Pool) -> None:
    """Of two runs at a rate that spoils the images, the one with shortened gradients moves them as far as it may."""
    limit, changes = 0.01, {"lr_img": 1e6, "mom_img": 0.0, "niter": 1, "inner_loop": 1, "clamp": False}
    for clip, far in ((None, True), (limit, False)):
        condensed = loop.run(few(), experts, config_of(clip_img=clip, **changes))
        shift = (condensed.images - condensed.start().images).square().mean(dim=(1, 2, 3)).sqrt()
        assert shift.min() > 10 * limit if far else shift.tolist() == pytest.approx([limit] * 6, rel=1e-3)


def test_datm_starts_from_what_experts_have_right(experts: Pool) -> None:
    """Real images that the first expert has right, then those of the second; labels by those that are right."""
    untrained = replace(experts.members[0], params=experts.at(0, 0))
    pool, data = replace(experts, members=(untrained, *experts.members[1:])), few()
    module, pixels = pool.build(0), data.normalize(data.images.float() / 255)
    with torch.no_grad():
        out = torch.stack([torch.func.functional_call(module, pool.at(index), (pixels,)) for index in range(3)])
    right = out.argmax(dim=2) == data.labels  # [models, images]
    rank = [next((index for index in range(3) if right[index, row]), 3) for row in range(36)]
    _, state = prepared(pool, config_of("datm", lr_y=1.0))
    images, logits = state.images.flatten(0, 1), state.learned["logits"].flatten(0, 1)
    rows = [next(row for row in range(36) if torch.equal(data.images[row].float() / 255, one)) for one in images]
    assert data.labels[rows].tolist() == [0, 0, 1, 1, 2, 2] and len({*rows}) == 6
    of_class = [sorted(rank[row] for row in data.rows(label).tolist()) for label in range(3)]
    for label, ranks in enumerate(of_class):
        assert sorted(rank[row] for row in rows[2 * label : 2 * label + 2]) == ranks[:2]
    assert sum(ranks[-1] > ranks[1] for ranks in of_class) >= 2, "images at random would have others"
    for row, actual in zip(rows, logits, strict=True):
        knows = [index for index in range(3) if right[index, row]] or [0, 1, 2]
        torch.testing.assert_close(actual, out[knows, row].mean(dim=0), rtol=1e-4, atol=1e-4)
    assert any(0 < int(right[:, row].sum()) < 3 for row in rows), "a mean over all would be another"


def test_a_state_of_other_epochs_is_refused(experts: Pool) -> None:
    """The ends are the same; other points on the way are another pool."""
    setup, state = prepared(experts, config_of())
    loop.begin_outer(state, setup)
    saved, first = snapshot(state, setup), experts.members[0]
    restore(saved, setup)
    name = next(iter(first.epochs))
    for changed in (first.epochs[name].float(), first.epochs[name] + 1):  # kept in float32, and altered
        other = replace(first, epochs={**first.epochs, name: changed})
        with pytest.raises(UserError, match="the checkpoint was made with another pool"):
            restore(saved, prepared(replace(experts, members=(other, *experts.members[1:])), config_of())[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_start_epoch": 3}, r"keeps epochs 0 to 2, and match trajectory needs those to 3 \(max_start_epoch - 1"),
        ({"expert_epochs": 9}, r"`attar pretrain --keep_epochs --pt_from 10` keeps them"),
    ],
)
def test_pools_that_do_not_reach_are_refused(changes: dict[str, Any], words: str, experts: Pool) -> None:
    with pytest.raises(UserError, match=words):
        prepared(experts, config_of(**changes))
    bare = replace(experts, members=tuple(replace(member, epochs={}) for member in experts.members))
    with pytest.raises(UserError, match="keeps no epochs, and match trajectory needs those to"):
        prepared(bare, config_of(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_start_epoch": 2}, r"max_start_epoch \(2\) must be above min_start_epoch \(2\)"),
        (
            {"current_max_start_epoch": 3},
            r"current_max_start_epoch \(3\) must be above min_start_epoch",
        ),
        (
            {"nclass_sub": 2, "phase": 0},
            "match trajectory cannot condense in parts: its loss is of networks that",
        ),
        ({"only": ("1",)}, "match trajectory cannot condense in parts"),
        ({"update": "real"}, "match trajectory needs update none, not real"),
        ({"network_init": "fresh"}, "match trajectory needs network_init pool, not fresh"),
        ({"lr_y": 1.0, "factor": 2}, r"learned labels \(lr_y\) need factor 1"),
        ({"init": "correct", "factor": 2}, "init correct takes whole images: it needs factor 1"),
        ({"init": "correct", "select": "cluster"}, "match trajectory with init correct takes none; leave it out"),
        ({"keep": "easiest:0.8"}, "keep chooses the real images of a batch, and match trajectory takes none"),
        ({"clip_img": 0.1, "img_optim": "adamw"}, "clip_img is for img_optim sgd"),
        ({"lr_lr": float("nan")}, "lr_lr must be at least 0, not nan"),
    ],
)
def test_settings_that_exclude_each_other(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config_of(**changes)


def test_experts_that_stand_still_are_named(experts: Pool) -> None:
    """As those of a tiny learning rate: parameters of 0 move all the same, by next to nothing."""
    still = [
        replace(member, epochs={name: value[[0, 0, 0]] for name, value in member.epochs.items()})
        for member in experts.members
    ]
    words = (
        r"the expert \S+ hardly moved between its epochs (0 and 1|1 and 2), .* higher lr \(theirs is 0.05\), or raise"
    )
    for member in still:
        for value in member.epochs.values():
            value[1:] += 1e-9
    with pytest.raises(UserError, match=words):
        loop.run(few(), replace(experts, members=tuple(still)), config_of())


@pytest.mark.parametrize(
    "rates", [{"lr_lr": 1e3, "lr_teacher": 1e-6}, {"lr_teacher": 1e12}, {"lr_lr": 1e8, "threshold": 1.5}], ids=str
)
def test_rates_that_are_too_high_are_named(rates: dict[str, Any], experts: Pool) -> None:
    words = (
        r"the (learned learning rate is -?[\w.+]+, and must stay above 0 and below [\de+]+|matching loss is (nan|inf))"
    )
    with pytest.raises(Diverged, match=words + r".*; lower the .*\(lr_img is [\de.+]+, lr_lr is [\de.+]+"):
        loop.run(few(), experts, config_of(**rates))
