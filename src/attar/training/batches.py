"""Batches: rows in random order, what is drawn for them, and the images made of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.training.augment import BatchAugmentation, augmented, draw_augmentation
from attar.training.train_state import Batch


def shuffled(n: int, batch: int, generator: Generator, *, only: int | None = None) -> Iterator[Tensor]:
    """One epoch over n rows: index tensors of `batch` rows (the last may be shorter), in a random order.

    only: stop after so many rows.
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    yield from order[:only].split(batch)


class BatchSampler:
    """Rows drawn without replacement, reshuffled when the next batch is no longer full.

    A deck of fewer rows than the batch gives all its rows each time. `order` and `next` are its whole state.
    """

    def __init__(self, rows: Tensor, batch: int, generator: Generator) -> None:
        self.rows = rows  # int64 [n]
        self.batch = min(batch, len(rows))
        self.order = rows
        self.next = len(rows)
        self.generator = generator

    def draw(self) -> Tensor:
        """The next rows, int64 [min(batch, n)]."""
        if self.next + self.batch > len(self.rows):
            shuffle = torch.randperm(len(self.rows), generator=self.generator, device=self.generator.device)
            self.order, self.next = self.rows[shuffle], 0
        self.next += self.batch
        return self.order[self.next - self.batch : self.next]

    def restore(self, order: Tensor, next: int) -> None:
        """Go on where a deck of the same rows stood. Raises `ValueError` for what no such deck ever was."""
        order = order.to(self.rows)
        same = torch.equal(order.sort().values, self.rows.sort().values)
        if not (same and isinstance(next, int) and 0 <= next <= len(order)):
            raise ValueError("a deck of other rows")
        self.order, self.next = order, next


class BatchDraw(NamedTuple):
    """A training batch of which everything random is drawn, and nothing else made."""

    source: Tensor  # what the images are made of: their rows, or the images
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    augmentation: BatchAugmentation


class AugmentationSampler:
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
