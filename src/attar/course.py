"""The one supervised loop: the pool, the network update and the evaluation all train with it.

What is random about a batch is drawn first (`Lessons`), the batch itself is made with the step that takes it
(`Course`): on a GPU many such steps are one CUDA graph, in which nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from attar.augment import Variation, draw_variation, varied
from attar.data import ImageData
from attar.execution import Notice, Record, Replayed, Shapes, record_graph, shapes_of
from attar.training import Batch, Gradients, Learner, decay, step

LONGEST = 32  # steps in one CUDA graph


class Drawn(NamedTuple):
    """A training batch of which everything random is drawn, and nothing else made."""

    source: Tensor  # what the images are made of: their rows, or the images
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    variation: Variation


class Lessons:
    """Training batches of a data set, as far as they are drawn: per-sample augmentation, CutMix."""

    def __init__(self, data: ImageData, strategy: tuple[str, ...], mix_p: float, generator: Generator) -> None:
        self.data, self.strategy, self.mix_p, self.generator = data, strategy, mix_p, generator

    def draw(self, source: Tensor, labels: Tensor) -> Drawn:
        """Draw for the images of a source."""
        return Drawn(
            source, labels, draw_variation(self.strategy, len(labels), self.data.size, self.mix_p, self.generator)
        )

    def of_rows(self, rows: Tensor) -> Drawn:
        """Draw for real images; those that a GPU cannot reach are sent there as bytes."""
        data = self.data
        reached = data.device.type != "cuda" or isinstance(data.images, Tensor)
        return self.draw(rows if reached else data.images[rows], data.labels[rows])


def make_batch(
    data: ImageData, mix_p: float, drawn: Drawn, *, fetch: Callable[[Tensor], Tensor] | None = None
) -> Batch:
    """Augmented images and soft targets [n, C] of what was drawn, without another draw.

    fetch: source → images [n, ch, H, W], normalised. By default sources are rows of the data's images (int64), such
    images (uint8), or images as `fetch` gives them (float).
    """
    images = (fetch or partial(_fetch, data))(drawn.source)
    return varied(images, drawn.labels, drawn.variation, nclass=data.nclass, mix_p=mix_p)


def _fetch(data: ImageData, source: Tensor) -> Tensor:
    if source.is_floating_point():
        return source
    return data.scaled(source) if source.dtype == torch.uint8 else data.fetch(source)


class Course:
    """A learner's steps. On a GPU `LONGEST` of them at a time are recorded as one CUDA graph, and replayed.

    record: how a call is recorded, in CUDA's place; None where nothing is.
    """

    def __init__(
        self,
        student: Learner,
        make: Callable[[Drawn], Batch],
        *,
        gradients: Gradients | None = None,
        notice: Notice = print,
        record: Record | None = None,
    ) -> None:
        device = next(iter(student.params.values())).device
        self.student, self.make, self.gradients, self.notice = student, make, gradients, notice
        self.record = record_graph if record is None and device.type == "cuda" else record
        if not isinstance(student.optimizer, torch.optim.SGD):  # the others count their steps on the host
            self.record = None
        self.recorded: dict[tuple[Any, ...], Replayed] = {}  # by rates and shapes

    def __call__(self, batches: Iterable[Drawn]) -> None:
        """A step for each batch, in order."""
        if self.record is None:
            for drawn in batches:
                step(self.student, *self.make(drawn), self.gradients)
            return
        coming = iter(batches)
        while chain := list(islice(coming, LONGEST)):
            self._replayed(chain)(chain)

    def _replayed(self, chain: list[Drawn]) -> Replayed:
        """The steps over batches of such shapes, at the present learning rate: a recording knows no other."""
        rates = tuple(group["lr"] for group in self.student.optimizer.param_groups)
        key: tuple[tuple[float, ...], Shapes] = (rates, shapes_of(chain))
        if key not in self.recorded:
            self.recorded = {old: kept for old, kept in self.recorded.items() if old[0] == rates}  # rates only fall
            self.recorded[key] = Replayed(self._steps, self.notice, self.record)
        return self.recorded[key]

    def _steps(self, chain: list[Drawn]) -> list[Tensor]:
        return [step(self.student, *self.make(drawn), self.gradients) for drawn in chain]


def fit(
    course: Course,
    epoch_batches: Callable[[], Iterable[Drawn]],
    epochs: int,
    *,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train for `epochs`, each over one call of `epoch_batches`, with the step decay of `decay`."""
    student = course.student
    rates = [group["lr"] for group in student.optimizer.param_groups]
    for epoch in range(epochs):
        for group, rate in zip(student.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay(epoch, epochs)
        course(epoch_batches())
        if after_epoch is not None:
            after_epoch(epoch)
