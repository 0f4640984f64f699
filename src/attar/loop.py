"""The one supervised loop: the pool, the network update and the evaluation all train with it.

What is random about a batch is drawn first (`BatchSampler`), the batch itself is made with the step that takes it
(`Trainer`): on a GPU many such steps are one CUDA graph, in which nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from attar.augment import BatchAugmentation, augmented, draw_augmentation
from attar.data import ImageData
from attar.execution import Notice, Record, Replayed, Shapes, record_graph, shapes_of
from attar.training import Batch, Gradients, Learner, decay, step

LONGEST = 32  # steps in one CUDA graph


class BatchDraw(NamedTuple):
    """A training batch of which everything random is drawn, and nothing else made."""

    source: Tensor  # what the images are made of: their rows, or the images
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    augmentation: BatchAugmentation


class BatchSampler:
    """Training batches of a data set, as far as they are drawn: per-sample augmentation, CutMix."""

    def __init__(self, data: ImageData, strategy: tuple[str, ...], mix_p: float, generator: Generator) -> None:
        self.data, self.strategy, self.mix_p, self.generator = data, strategy, mix_p, generator

    def draw(self, source: Tensor, labels: Tensor) -> BatchDraw:
        """Draw for the images of a source."""
        return BatchDraw(
            source, labels, draw_augmentation(self.strategy, len(labels), self.data.size, self.mix_p, self.generator)
        )

    def draw_rows(self, rows: Tensor) -> BatchDraw:
        """Draw for real images; those that a GPU cannot reach are sent there as bytes."""
        data = self.data
        reached = data.device.type != "cuda" or isinstance(data.images, Tensor)
        return self.draw(rows if reached else data.images[rows], data.labels[rows])


def make_batch(data: ImageData, drawn: BatchDraw, *, fetch: Callable[[Tensor], Tensor] | None = None) -> Batch:
    """Augmented images and soft targets [n, C] of what was drawn, without another draw.

    fetch: source → images [n, ch, H, W], normalised. By default sources are rows of the data's images (int64), such
    images (uint8), or images as `fetch` gives them (float).
    """
    images = (fetch or partial(_fetch, data))(drawn.source)
    return augmented(images, drawn.labels, drawn.augmentation, data.nclass)


def _fetch(data: ImageData, source: Tensor) -> Tensor:
    if source.is_floating_point():
        return source
    return data.scaled(source) if source.dtype == torch.uint8 else data.fetch(source)


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
