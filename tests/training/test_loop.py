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
from attar.training.augment import Augmentation
from attar.training.batches import ChainDraw
from attar.training.loop import Trainer, fit
from attar.training.train_state import start_training
from helpers.recording import Film
from helpers.training import NaiveTrainState, batches, network, same


def as_they_are(chain: ChainDraw) -> list[tuple[Tensor, Tensor]]:
    return list(zip(chain.source.split(chain.batch), chain.labels.split(chain.batch), strict=True))


class Drawn:
    """The images and targets of `batches`, of which a chain draws nothing."""

    def __init__(self, *made: tuple[Tensor, Tensor]) -> None:
        self.images, self.targets = (torch.cat(values) for values in zip(*made, strict=True))
        self.rows = torch.arange(len(self.images)).split(len(made[0][0]))
        self.shift = 0.0

    def __call__(self, rows: Tensor, batch: int) -> ChainDraw:
        return ChainDraw(self.images[rows] + self.shift, self.targets[rows], Augmentation({}, None, None), batch)


def test_fit_trains_for_its_epochs_with_the_schedule() -> None:
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0.01)
    twin = NaiveTrainState(parameters, 0.1, 0.9, 0.01)
    asked, after = [], []

    draw = Drawn(*batches(2))

    def epoch_batches() -> tuple[Tensor, ...]:
        asked.append(len(after))
        return draw.rows

    fit(Trainer(model, as_they_are), epoch_batches, draw, 6, after_epoch=after.append)
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
    replayed = Trainer(recorded, as_they_are, record=film)
    epochs = 15
    for trainer in (Trainer(plain, as_they_are), replayed):
        draw = Drawn(*batches(4), *batches(1, n=3))

        def epoch_batches(draw: Drawn = draw) -> tuple[Tensor, ...]:
            """Others in every epoch: a replay has to see its new arguments."""
            draw.shift += 0.1
            return draw.rows

        fit(trainer, epoch_batches, draw, epochs)
    for own, expected in ((recorded.params, plain.params), (recorded.buffers, plain.buffers)):
        assert all(torch.equal(own[name], expected[name]) for name in expected)
    # ten epochs at the first rate: the chains of two 4th to 20th, the last batch 4th to 10th; three, then two at others
    assert film.recorded == 4 and not said


def test_an_optimiser_that_counts_on_the_host_is_not_recorded() -> None:
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0, weight_decay=0, optimizer="adam")
    film = Film(lambda: model)
    draw = Drawn(*batches(2 * GRAPH_WARMUP))
    Trainer(model, as_they_are, record=film)(draw.rows, draw)
    assert not film.recorded


def test_a_trainer_is_gone_when_nobody_holds_it() -> None:
    """On a GPU it holds recordings, and these much memory: not until Python looks for circles."""
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0)
    replayed = Trainer(model, as_they_are, record=Film(lambda: model))
    draw = Drawn(*batches(2 * training_loop.MAX_STEPS_PER_GRAPH))
    replayed(draw.rows, draw)
    held = weakref.ref(next(iter(replayed.recorded.values())))
    gc.disable()
    try:
        del replayed
        assert held() is None
    finally:
        gc.enable()
