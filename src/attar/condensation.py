"""Condensation (Acc-DD algorithm 1): the state of a run, its start, one inner iteration, the whole loop.

Whatever changes during a run is in `State`; whatever does not is in `Problem`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from attar import training
from attar.augment import augment, draw, without
from attar.config import CondenseConfig, strategy_names
from attar.data import ImageData
from attar.errors import UserError
from attar.execution import Notice
from attar.perturb import perturb
from attar.pool import Pool
from attar.problem import Problem, prepare
from attar.snapshots import moments
from attar.synthetic import SyntheticSet, decoded_count, mix, noise
from attar.training import Deck, Learner

Event = Callable[[dict[str, Any]], None]
Evaluation = Callable[[SyntheticSet], dict[str, Any]]
Show = Callable[[int, SyntheticSet], None]


@dataclass
class State:
    """A run between two inner iterations."""

    images: Tensor  # float32 [C, ipc, ch, H, W]
    momentum: Tensor  # same shape
    network: Learner | None  # None before the first outer iteration
    decks: list[Deck]  # one per condensed class
    update_deck: Deck  # all real rows, for the network update
    generator: Generator  # on the data's device
    host: Generator  # on the CPU: which member of the pool is next
    outer: int = 0  # finished outer iterations
    inner: int = 0  # finished inner iterations of the current outer one


def init(problem: Problem) -> State:
    """The state before the first iteration: initial images, no momentum, fresh decks."""
    data, config = problem.data, problem.config
    generator = Generator(data.device).manual_seed(config.seed)
    host = Generator().manual_seed(config.seed)
    images = torch.stack([initial_images(data, label, config, generator) for label in problem.labels])
    return State(
        images=images,
        momentum=torch.zeros_like(images),
        network=None,
        decks=[Deck(data.rows(label), config.batch_real, generator) for label in problem.labels],
        update_deck=Deck(torch.arange(len(data.labels), device=data.device), config.batch_size, generator),
        generator=generator,
        host=host,
    )


def initial_images(data: ImageData, label: int, config: CondenseConfig, generator: Generator) -> Tensor:
    """[ipc, ch, H, W] in [0, 1]: noise, real images, or grids of real images, drawn at random without replacement.

    A class with fewer images than cells gives them again in a new order.
    """
    if config.init == "noise":
        return noise(config.ipc, data.channels, data.size, generator)
    factor = config.factor if config.init == "mix" else 1
    deck = Deck(data.rows(label), 1, generator)
    rows = torch.cat([deck.draw() for _ in range(config.ipc * factor**2)])
    return mix(data.images[rows].float() / 255, factor)


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
        state.network = training.learner(
            problem.module, params, buffers, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
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
    rows = [deck.draw() for deck in state.decks]
    draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
    params = {name: value.detach() for name, value in state.network.params.items()}
    subsets = random_subsets(state, problem) if problem.subset else None
    swept = problem.run_sweep(state.images, state.momentum, params, rows, draws, subsets)
    state.images, state.momentum, loss = (value.clone() for value in swept)  # a replay overwrites its results
    update_network(state, problem)
    state.inner += 1
    return state, loss


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


def product(state: State, problem: Problem, initial: Tensor | None = None) -> SyntheticSet:
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
        initial=None if initial is None else initial.flatten(0, 1),
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
) -> SyntheticSet:
    """Condense. `event` gets one dict per outer iteration; `evaluation` is called at `config.eval_at`.

    `show` gets the set at some moments, the first and the last included: see `snapshots.moments`.
    """
    problem = prepare(data, pool, config, notice)
    state = init(problem)
    initial = state.images.clone()
    start = time.perf_counter()
    show_at(0, state, problem, show)
    evaluate_at(0, state, problem, event, evaluation)
    while state.outer < config.outer_iterations:
        state = begin_outer(state, problem)
        losses = []
        for _ in range(config.inner_loop):
            state, loss = step(state, problem)
            losses.append(loss)
        state.outer += 1
        mean = float(torch.stack(losses).mean())  # the only value read back in an outer iteration
        check_finite(mean, config)
        seconds = time.perf_counter() - start
        event({"event": "step", "outer": state.outer, "inner": state.inner, "loss": mean, "seconds": seconds})
        show_at(state.outer, state, problem, show)
        evaluate_at(state.outer, state, problem, event, evaluation)
    return product(state, problem, initial)


def check_finite(loss: float, config: CondenseConfig) -> None:
    """Raise `UserError` when the loss is not a finite number."""
    if not math.isfinite(loss):
        rates = f"lr_img is {config.lr_img}, lr is {config.lr}"
        raise UserError(f"the matching loss is {loss}; lower the learning rate of the images or the network ({rates})")


def evaluate_at(outer: int, state: State, problem: Problem, event: Event, evaluation: Evaluation | None) -> None:
    """Call the evaluation after the outer iterations of `eval_at` (0: before the first)."""
    if evaluation is not None and outer in problem.config.eval_at:
        event({"event": "evaluation", "outer": outer, **evaluation(product(state, problem))})


def show_at(outer: int, state: State, problem: Problem, show: Show | None) -> None:
    """Hand the set over at the moments that are kept (0: before the first outer iteration)."""
    if show is not None and outer in moments(problem.config.outer_iterations):
        show(outer, product(state, problem))
