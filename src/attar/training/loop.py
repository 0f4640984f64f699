"""None"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from attar.engine.cuda_graphs import Record, Replayed, Shapes, record_graph, shapes_of
from attar.engine.precision import Notice
from attar.training.batches import BatchDraw
from attar.training.train_state import Batch, Gradients, Learner, decay, step

LONGEST = 32  # steps in one CUDA graph


class Trainer:
    """A learner's steps. On a GPU `LONGEST` of them at a time are recorded as one CUDA graph, and replayed.

    record: how a call is recorded, in CUDA's place; None where nothing is.
    """

    def __init__(
        self,
        student: Learner,
        make: Callable[[BatchDraw], Batch],
        *,
        gradients: Gradients | None = None,
        notice: Notice,
        record: Record | None = None,
    ) -> None:
        device = next(iter(student.params.values())).device
        self.student, self.make, self.gradients, self.notice = student, make, gradients, notice
        self.record = record_graph if record is None and device.type == "cuda" else record
        if not isinstance(student.optimizer, torch.optim.SGD):  # the others count their steps on the host
            self.record = None
        self.recorded: dict[tuple[Any, ...], Replayed] = {}  # by rates and shapes

    def __call__(self, batches: Iterable[BatchDraw]) -> None:
        """A step for each batch, in order."""
        if self.record is None:
            for drawn in batches:
                step(self.student, *self.make(drawn), self.gradients)
            return
        coming = iter(batches)
        while chain := list(islice(coming, LONGEST)):
            self._replayed(chain)(chain)

    def _replayed(self, chain: list[BatchDraw]) -> Replayed:
        """The steps over batches of such shapes, at the present learning rate: a recording knows no other."""
        rates = tuple(group["lr"] for group in self.student.optimizer.param_groups)
        key: tuple[tuple[float, ...], Shapes] = (rates, shapes_of(chain))
        if key not in self.recorded:
            self.recorded = {old: kept for old, kept in self.recorded.items() if old[0] == rates}  # rates only fall
            # no method of this object: a circle would keep recordings and their memory until Python looks for circles
            steps = partial(_steps, self.student, self.make, self.gradients)
            self.recorded[key] = Replayed(steps, self.notice, self.record)
        return self.recorded[key]


def _steps(
    student: Learner, make: Callable[[BatchDraw], Batch], gradients: Gradients | None, chain: list[BatchDraw]
) -> list[Tensor]:
    """The losses of a step for each batch."""
    return [step(student, *make(drawn), gradients) for drawn in chain]


def fit(
    trainer: Trainer,
    epoch_batches: Callable[[], Iterable[BatchDraw]],
    epochs: int,
    *,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train for `epochs`, each over one call of `epoch_batches`, with the step decay of `decay`."""
    student = trainer.student
    rates = [group["lr"] for group in student.optimizer.param_groups]
    for epoch in range(epochs):
        for group, rate in zip(student.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay(epoch, epochs)
        trainer(epoch_batches())
        if after_epoch is not None:
            after_epoch(epoch)
