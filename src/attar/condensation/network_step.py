"""How the network moves after each sweep: on real images, on the synthetic set, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from attar.condensation.setup import Problem
from attar.condensation.state import State
from attar.sets.decode import decode_class
from attar.settings.config import strategy_names
from attar.training.augment import without
from attar.training.batches import BatchDraw, BatchSampler, shuffled


def update_network(state: State, problem: Problem) -> None:
    """Train the network on, as the settings say."""
    UPDATES[problem.config.update](state, problem)


def update_on_real(state: State, problem: Problem) -> None:
    """SGD on real batches until `n_data` images were seen (IDC section 4.2)."""
    train_on_real(state, problem, problem.config.n_data)


def train_on_real(state: State, problem: Problem, count: int) -> None:
    """SGD on real batches until `count` images were seen."""
    sampler = batch_sampler(state, problem)

    def batches() -> Iterator[BatchDraw]:
        seen = 0
        while seen < count:
            rows = state.update_deck.draw()
            yield sampler.draw_rows(rows)
            seen += len(rows)

    assert state.network is not None
    problem.train(state.network, batches())


def update_on_synthetic(state: State, problem: Problem) -> None:
    """SGD for `syn_epochs` on the decoded set as it stands (DC section 3.2), but not for a network that is given up."""
    data, config = problem.data, problem.config
    if problem.spent(state.inner + 1):
        return
    images = [decode_class(own, config.factor, config.decode_type) for own in state.images]
    labels = problem.sweep.labels.repeat_interleave(len(images[0]))
    decoded = data.normalize(torch.cat(images))
    sampler = batch_sampler(state, problem)

    def batches() -> Iterator[BatchDraw]:
        for _ in range(config.syn_epochs):
            for rows in shuffled(len(labels), config.batch_size, state.generator):
                yield sampler.draw(decoded[rows], labels[rows])

    assert state.network is not None
    problem.train(state.network, batches())


def batch_sampler(state: State, problem: Problem) -> BatchSampler:
    """How the network update's batches are drawn."""
    config = problem.config
    strategy = strategy_names(config.aug_type)
    if config.mix_p > 0:
        strategy = without(strategy, "cutout")
    return BatchSampler(problem.data, strategy, config.mix_p, state.generator)


UPDATES: dict[str, Callable[[State, Problem], None]] = {
    "real": update_on_real,
    "synthetic": update_on_synthetic,
    "none": lambda state, problem: None,
}
