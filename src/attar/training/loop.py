"""The one supervised loop: the pool, the network update and the evaluation all train with it.

What is random about a batch is drawn first (`BatchSampler`), the batch itself is made with the step that takes it
(`Trainer`): on a GPU many such steps are one CUDA graph, in which nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from attar.engine.cuda_graphs import CudaGraph, Record, Shapes, record_graph, shapes_of
from attar.training.batches import BatchDraw
from attar.training.train_state import Batch, Gradients, TrainState, decay, step

LONGEST = 32  # steps in one CUDA graph


class Trainer:
    """A learner's steps. On a GPU `LONGEST` of them at a time are recorded as one CUDA graph, and replayed.

    record: how a call is recorded, in CUDA's place; None where nothing is.
    """

    def __init__(
        self,
        model: TrainState,
        make: Callable[[BatchDraw], Batch],
        *,
        gradients: Gradients | None = None,
        record: Record | None = None,
    ) -> None:
        device = next(iter(model.params.values())).device
        self.model, self.make, self.gradients = model, make, gradients
        self.record = record_graph if record is None and device.type == "cuda" else record
        if not isinstance(model.optimizer, torch.optim.SGD):  # the others count their steps on the host
            self.record = None
        self.recorded: dict[tuple[Any, ...], CudaGraph] = {}  # by rates and shapes

    def __call__(self, batches: Iterable[BatchDraw]) -> None:
        """A step for each batch, in order."""
        if self.record is None:
            for drawn in batches:
                step(self.model, *self.make(drawn), self.gradients)
            return
        coming = iter(batches)
        while chain := list(islice(coming, LONGEST)):
            self._replayed(chain)(chain)

    def _replayed(self, chain: list[BatchDraw]) -> CudaGraph:
        """The steps over batches of such shapes, at the present learning rate: a recording knows no other."""
        rates = tuple(group["lr"] for group in self.model.optimizer.param_groups)
        key: tuple[tuple[float, ...], Shapes] = (rates, shapes_of(chain))
        if key not in self.recorded:
            self.recorded = {old: kept for old, kept in self.recorded.items() if old[0] == rates}  # rates only fall
            # no method of this object: a circle would keep recordings and their memory until Python looks for circles
            steps = partial(_steps, self.model, self.make, self.gradients)
            self.recorded[key] = CudaGraph(steps, self.record)
        return self.recorded[key]


def _steps(
    model: TrainState, make: Callable[[BatchDraw], Batch], gradients: Gradients | None, chain: list[BatchDraw]
) -> list[Tensor]:
    """The losses of a step for each batch."""
    return [step(model, *make(drawn), gradients) for drawn in chain]


def fit(
    trainer: Trainer,
    epoch_batches: Callable[[], Iterable[BatchDraw]],
    epochs: int,
    *,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train for `epochs`, each over one call of `epoch_batches`, with the step decay of `decay`."""
    model = trainer.model
    rates = [group["lr"] for group in model.optimizer.param_groups]
    for epoch in range(epochs):
        for group, rate in zip(model.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay(epoch, epochs)
        trainer(epoch_batches())
        if after_epoch is not None:
            after_epoch(epoch)
