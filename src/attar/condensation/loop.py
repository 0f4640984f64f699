"""None"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attar.condensation import frequencies, image_step
from attar.condensation.network_init import ORIGINS
from attar.condensation.network_step import train_on_real, update_network
from attar.condensation.perturb import perturb
from attar.condensation.setup import Problem, prepare
from attar.condensation.state import State, Values, as_begun, check_finite, init, restore, snapshot, start_network
from attar.data.images import ImageData
from attar.engine.device import send
from attar.engine.precision import Notice
from attar.errors import UserError
from attar.selection.embeddings import by_network, representatives
from attar.sets.decode import decoded_count
from attar.sets.snapshots import moments
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import CondenseConfig, strategy_names
from attar.training import train_state
from attar.training.augment import draw
from attar.training.pool import Pool

Event = Callable[[dict[str, Any]], None]
Evaluation = Callable[[SyntheticSet], dict[str, Any]]
Show = Callable[[int, SyntheticSet], None]
Keep = Callable[[Callable[[], Values], bool], None]  # keeps what the function gives if it is due, or wanted now


def begin_outer(state: State, problem: Problem) -> State:
    """Clamp the images to [0, 1] and take a network."""
    state.images = clamp(state, problem)
    take_network(state, problem)
    state.inner = 0
    return state


def take_network(state: State, problem: Problem) -> None:
    """A network from where the settings say, perturbed if they say so (Acc-DD sections 3.2, 3.3), its optimiser new."""
    data, config = problem.data, problem.config
    origin = ORIGINS[config.source](problem.pool, state.host)
    params, buffers = (
        {name: send(value, data.device) for name, value in tensors.items()}
        for tensors in (origin.params, origin.buffers)
    )
    if state.network is None:
        state.network = start_network(problem, params, buffers)
    if config.warmup:
        params, buffers = warmed_up(state, problem, params, buffers)
    if config.perturb:
        params = perturb(params, vmin=config.vmin, vmax=config.vmax, generator=state.generator)
    train_state.reset(state.network, params, buffers)
    state.member = origin.member


def warmed_up(
    state: State, problem: Problem, params: dict[str, Tensor], buffers: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a fresh network has become after a few epochs on real images (IDC on ImageNet)."""
    assert state.network is not None
    train_state.reset(state.network, params, buffers)
    train_on_real(state, problem, problem.config.warmup * len(problem.data.labels))
    learned = state.network.params, state.network.buffers
    trained, statistics = ({name: value.detach().clone() for name, value in tensors.items()} for tensors in learned)
    return trained, statistics


def clamp(state: State, problem: Problem) -> Tensor:
    """The images clamped at the moment of the published loop, which has not yet made the last steps of a sweep."""
    later = image_step.later(state.momentum, problem.pending, state.motion, problem.rule)
    return (state.images + later).clamp(0, 1) - later


def step(state: State, problem: Problem) -> tuple[State, Tensor]:
    """One inner iteration: a sweep over the classes, then the network update. Returns the summed loss, unread."""
    data, config = problem.data, problem.config
    if state.network is None:
        raise UserError("call begin_outer before step")
    if state.inner and config.renew and state.inner % config.renew == 0:
        if config.img_space == "unit":  # NCFM clamps with each network; DC, DSA and DM never do
            state.images = clamp(state, problem)
        take_network(state, problem)
    strategy = strategy_names(config.aug_type)
    rows = matched_rows(state, problem)
    draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
    params = {name: value.detach() for name, value in state.network.params.items()}
    subsets = random_subsets(state, problem) if problem.subset else None
    points = draw_frequencies(state, problem)
    wanted = None if points is None else points.detach()
    gradient, loss, *slope = problem.run_sweep(state.images, params, rows, draws, subsets, wanted)
    loss = loss.clone()  # a replay overwrites its results
    lowered = loss
    move_images(state, problem, gradient)
    if state.sampler is not None and points is not None:
        frequencies.learn(state.sampler, points, slope[0])
    if problem.calibrate is not None:
        trained = problem.pool.members[state.member].params
        params = {name: send(value, data.device) for name, value in trained.items()}
        draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
        gradient, entropy = problem.calibrate(state.images, params, draws, subsets)
        lowered = loss + config.calibrate * entropy
        move_images(state, problem, config.calibrate * gradient)
    watch_loss(state, problem, lowered)
    update_network(state, problem)
    state.inner += 1
    take_mean(state, problem)
    return state, loss


def matched_rows(state: State, problem: Problem) -> list[Tensor]:
    """The real images of each class that this iteration matches: drawn, or the representatives of clusters (DREAM)."""
    if problem.config.select == "random":
        return [deck.draw() for deck in state.decks]
    if state.inner % problem.config.select_every == 0:
        state.picks = clustered(state, problem)
    return state.picks


def clustered(state: State, problem: Problem) -> list[Tensor]:
    """The images of each class nearest the centres of its clusters, as the network sees them now."""
    data, config = problem.data, problem.config
    if state.network is None:
        raise UserError("call begin_outer before clustered")
    embed = by_network(problem.module, state.network.params, state.network.buffers, config.precision)
    return [
        representatives(data, label, config.batch_real, embed, state.generator, config.select_from)
        for label in problem.labels
    ]


def draw_frequencies(state: State, problem: Problem) -> Tensor | None:
    """Where characteristic functions are compared in a sweep, if they are: [T, d]."""
    config = problem.config
    if config.match != "ncf":
        return None
    if state.sampler is not None:
        return frequencies.sampled(state.sampler, config.frequencies, problem.features, state.generator)
    return frequencies.gaussian(config.frequencies, problem.features, state.generator)


def move_images(state: State, problem: Problem, gradient: Tensor) -> None:
    """One step of the images."""
    state.images, state.momentum, state.motion = image_step.move(
        state.images, state.momentum, gradient, state.motion, problem.rule
    )


def watch_loss(state: State, problem: Problem, loss: Tensor) -> None:
    """Perhaps halve the images' learning rate, and so that of the steps which the published loop has yet to make."""
    if not problem.rule.patience:
        return
    before = image_step.later(state.momentum, problem.pending, state.motion, problem.rule)
    state.motion = image_step.watch(state.motion, loss, problem.rule)
    state.images = state.images + before - image_step.later(state.momentum, problem.pending, state.motion, problem.rule)


def take_mean(state: State, problem: Problem) -> None:
    """Take the images of this sweep into their mean: polynomial decay (Shamir & Zhang, ICML 2013, section 4).

    With the power η the t-th sweep of T weighs t(t + 1)…(t + η − 1), whatever T is, so that a run can grow.
    """
    power = problem.config.average
    if power:
        count = state.outer * problem.config.inner_loop + state.inner
        now = current(state, problem)
        state.mean = now if state.mean is None else torch.lerp(state.mean, now, (power + 1) / (count + power))


def current(state: State, problem: Problem) -> Tensor:
    """The images in [0, 1], with the last steps that the published loop has yet to make."""
    later = image_step.later(state.momentum, problem.pending, state.motion, problem.rule)
    return (state.images + later).clamp(0, 1)


def random_subsets(state: State, problem: Problem) -> list[Tensor]:
    """Which decoded images of each class take part in a sweep."""
    config, device = problem.config, problem.data.device
    count = decoded_count(config.ipc, config.factor, config.decode_type)
    return [
        torch.randperm(count, generator=state.generator, device=device)[: config.batch_syn_max] for _ in problem.labels
    ]


def product(state: State, problem: Problem) -> SyntheticSet:
    """The condensed set as it stands."""
    data, config = problem.data, problem.config
    images = current(state, problem) if state.mean is None else state.mean
    return SyntheticSet(
        images=images.flatten(0, 1),
        labels=torch.tensor(problem.labels, device=data.device).repeat_interleave(config.ipc),
        factor=config.factor,
        decode_type=config.decode_type,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
        initial=state.initial.flatten(0, 1),
        fingerprint=data.fingerprint,
    )


def run(
    data: ImageData,
    pool: Pool,
    config: CondenseConfig,
    *,
    event: Event = lambda values: None,
    evaluation: Evaluation | None = None,
    show: Show | None = None,
    notice: Notice = lambda line: None,
    keep: Keep = lambda values, now: None,
    saved: Values | None = None,
) -> SyntheticSet:
    """Condense, or go on from what `keep` was given last (`saved`), with the same bits as without a pause.

    `event` gets one dict per outer iteration; `evaluation` is called after the outer iterations of `eval_at` (0: before
    the first); `show` gets the set at some moments, the first and the last included (`snapshots.moments`); `keep` may
    keep the state after every inner iteration, and should before an evaluation and at the end.
    Raises `Diverged` when a loss or an image is not finite.
    """
    start = time.perf_counter()  # also of the clustering that the images may begin with
    problem = prepare(data, pool, as_begun(config, saved), notice)
    state = init(problem) if saved is None else restore(saved, problem, notice)
    start -= state.seconds

    def tell(values: dict[str, Any]) -> None:
        event(values)
        state.events += 1

    def save(now: bool) -> None:
        state.seconds = time.perf_counter() - start
        keep(lambda: snapshot(state, problem), now)

    def evaluate() -> None:
        if evaluation is not None and state.outer in config.eval_at and state.evaluated < state.outer:
            save(True)
            tell({"event": "evaluation", "outer": state.outer, **evaluation(product(state, problem))})
            state.evaluated = state.outer

    show_at(state, problem, show)
    evaluate()
    while state.outer < config.outer_iterations:
        if state.inner == 0:
            begin_outer(state, problem)
        while state.inner < config.inner_loop:
            _, loss = step(state, problem)
            state.losses.append(loss)
            save(False)
        state.outer += 1
        check_finite(state, config)  # reads the losses, for the only time in an outer iteration
        mean = float(torch.stack(state.losses).mean())
        seconds = time.perf_counter() - start
        tell({"event": "step", "outer": state.outer, "inner": state.inner, "loss": mean, "seconds": seconds})
        state.inner, state.losses = 0, []
        show_at(state, problem, show)
        evaluate()
    save(True)
    return product(state, problem)


def show_at(state: State, problem: Problem, show: Show | None) -> None:
    """Hand the set over at the moments that are kept (0: before the first outer iteration), never within one."""
    if show is not None and state.inner == 0 and state.outer in moments(problem.config.outer_iterations):
        show(state.outer, product(state, problem))
