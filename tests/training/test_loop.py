"""The one loop: its schedule against naive SGD, and steps that are recorded against the same steps."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from attar import models
from attar.engine.cuda_graphs import GRAPH_WARMUP
from attar.training import loop as training_loop
from attar.training.augment import BatchAugmentation
from attar.training.batches import BatchDraw
from attar.training.loop import Trainer, fit
from attar.training.train_state import start_training
from helpers.recording import Film
from helpers.training import NaiveTrainState, batches, network, same


def drawn(count: int, n: int = 5) -> list[BatchDraw]:
    """The same as drawn batches: nothing is left to make."""
    return [BatchDraw(images, targets, BatchAugmentation({}, None, None)) for images, targets in batches(count, n)]


def as_it_is(one: BatchDraw) -> tuple[Tensor, Tensor]:
    return one.source, one.labels


def test_fit_trains_for_its_epochs_with_the_schedule() -> None:
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0.01)
    twin = NaiveTrainState(parameters, 0.1, 0.9, 0.01)
    asked, after = [], []

    def epoch_batches() -> list[BatchDraw]:
        asked.append(len(after))
        return drawn(2)

    fit(Trainer(model, as_it_is), epoch_batches, 6, after_epoch=after.append)
    for rate in (1, 1, 1, 1, 0.2, 0.04):
        for images, targets in batches(2):
            twin.step(images, targets, rate)
    assert asked == after == list(range(6))
    same(model, twin)


@pytest.mark.parametrize("norm_type", ["instance", "batch"])
def test_recorded_steps_are_the_steps(said: list[str], norm_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of two steps; the last batch of an epoch is smaller, the learning rate falls twice."""
    monkeypatch.setattr(training_loop, "MAX_STEPS_PER_GRAPH", 2)
    module, parameters = network(norm_type)
    plain, recorded = (
        start_training(module, parameters, models.buffers_of(module), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(2)
    )
    film = Film(lambda: recorded)
    replayed = Trainer(recorded, as_it_is, record=film)
    epochs = 15
    seeds = iter(range(2 * epochs))

    def epoch_batches() -> list[BatchDraw]:
        """Others in every epoch: a replay has to see its new arguments."""
        seed = next(seeds) % epochs
        return [
            BatchDraw(one.source + seed / 10, one.labels, one.augmentation) for one in [*drawn(4), drawn(1, n=3)[0]]
        ]

    fit(Trainer(plain, as_it_is), epoch_batches, epochs)
    fit(replayed, epoch_batches, epochs)
    for own, wanted in ((recorded.params, plain.params), (recorded.buffers, plain.buffers)):
        assert all(torch.equal(own[name], wanted[name]) for name in wanted)
    # ten epochs at the first rate: the chains of two 4th to 20th, the last batch 4th to 10th; three, then two at others
    assert film.recorded == 4 and not said


def test_an_optimiser_that_counts_on_the_host_is_not_recorded() -> None:
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0, weight_decay=0, optimizer="adam")
    film = Film(lambda: model)
    Trainer(model, as_it_is, record=film)(drawn(2 * GRAPH_WARMUP))
    assert not film.recorded


def test_a_trainer_is_gone_when_nobody_holds_it() -> None:
    """On a GPU it holds recordings, and these much memory: not until Python looks for circles."""
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0)
    replayed = Trainer(model, as_it_is, record=Film(lambda: model))
    replayed(drawn(2 * training_loop.MAX_STEPS_PER_GRAPH))
    held = weakref.ref(next(iter(replayed.recorded.values())))
    gc.disable()
    try:
        del replayed
        assert held() is None
    finally:
        gc.enable()
