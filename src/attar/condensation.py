"""Condensation (Acc-DD algorithm 1): one inner iteration, the whole loop.

Whatever changes during a run is in `State`; whatever does not is in `Problem`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attar import training
from attar.augment import augment, draw, without
from attar.checkpoint import Values
from attar.config import CondenseConfig, strategy_names
from attar.data import ImageData
from attar.embedding import by_network, representatives
from attar.errors import UserError
from attar.execution import Notice
from attar.perturb import perturb
from attar.pool import Pool
from attar.problem import Problem, prepare
from attar.snapshots import moments
from attar.state import State, as_begun, check_finite, init, restore, snapshot, start_network
from attar.synthetic import SyntheticSet, decoded_count

Event = Callable[[dict[str, Any]], None]
Evaluation = Callable[[SyntheticSet], dict[str, Any]]
Show = Callable[[int, SyntheticSet], None]
Keep = Callable[[Callable[[], Values], bool], None]  # keeps what the function gives if it is due, or wanted now


def begin_outer(state: State, problem: Problem) -> State:
    """Clamp the images to [0, 1]; take a member of the pool and perturb it (Acc-DD sections 3.2, 3.3)."""
    config = problem.config
    state.images = clamp(state, problem)
    member = problem.pool.draw(state.host)
    device = problem.data.device
    params = {name: value.to(device) for name, value in member.params.items()}
    if config.perturb:
        params = perturb(params, vmin=config.vmin, vmax=config.vmax, generator=state.generator)
    buffers = {name: value.to(device) for name, value in member.buffers.items()}
    if state.network is None:
        state.network = start_network(problem, params, buffers)
    training.reset(state.network, params, buffers)
    state.inner = 0
    return state


def clamp(state: State, problem: Problem) -> Tensor:
    """The images clamped at the moment of the published loop, which has not yet made the last steps of a sweep."""
    later = problem.sweep.matching.lr * problem.pending * state.momentum
    return (state.images + later).clamp(0, 1) - later


def step(state: State, problem: Problem) -> tuple[State, Tensor]:
    """One inner iteration: a sweep over the classes, then the network update. Returns the summed loss, unread."""
    data, config = problem.data, problem.config
    if state.network is None:
        raise UserError("call begin_outer before step")
    strategy = strategy_names(config.aug_type)
    rows = matched_rows(state, problem)
    draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
    params = {name: value.detach() for name, value in state.network.params.items()}
    subsets = random_subsets(state, problem) if problem.subset else None
    swept = problem.run_sweep(state.images, state.momentum, params, rows, draws, subsets)
    state.images, state.momentum, loss = (value.clone() for value in swept)  # a replay overwrites its results
    update_network(state, problem)
    state.inner += 1
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


def random_subsets(state: State, problem: Problem) -> list[Tensor]:
    """Which decoded images of each class take part in a sweep."""
    config, device = problem.config, problem.data.device
    count = decoded_count(config.ipc, config.factor, config.decode_type)
    return [
        torch.randperm(count, generator=state.generator, device=device)[: config.batch_syn_max] for _ in problem.labels
    ]


def update_network(state: State, problem: Problem) -> None:
    """SGD on real batches until `n_data` images were seen, per-sample augmentation, CutMix (IDC section 4.2)."""
    data, config = problem.data, problem.config
    strategy = strategy_names(config.aug_type)
    if config.mix_p > 0:
        strategy = without(strategy, "cutout")
    seen = 0
    while seen < config.n_data and state.network is not None:
        rows = state.update_deck.draw()
        images, targets = augment(
            data.fetch(rows),
            data.labels[rows],
            strategy=strategy,
            nclass=data.nclass,
            mix_p=config.mix_p,
            generator=state.generator,
        )
        problem.train_step(state.network, images, targets)
        seen += len(rows)


def product(state: State, problem: Problem) -> SyntheticSet:
    """The condensed set as it stands."""
    data, config = problem.data, problem.config
    images = (state.images + problem.sweep.matching.lr * problem.pending * state.momentum).clamp(0, 1)
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
    problem = prepare(data, pool, as_begun(config, saved), notice)
    state = init(problem) if saved is None else restore(saved, problem, notice)
    start = time.perf_counter() - state.seconds

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
