"""Training batches: draw rows, draw their augmentation, and make the augmented images from both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.training.augment import BatchAugmentation, apply_augmentation, draw_augmentation
from attar.training.train_state import Batch


def shuffled(n: int, batch: int, generator: Generator, *, limit: int | None = None) -> Iterator[Tensor]:
    """One epoch over n rows: index tensors of `batch` rows (the last may be shorter), in a random order.

    limit: use only this many of the rows.
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    yield from order[:limit].split(batch)


class BatchSampler:
    """Draws batches of rows without replacement, and reshuffles when too few rows are left for a full batch.

    If there are fewer rows than `batch`, each batch contains all rows. `order` and `next` are the whole state.
    """

    def __init__(self, rows: Tensor, batch: int, generator: Generator) -> None:
        self.rows = rows  # int64 [n]
        self.batch = min(batch, len(rows))
        self.order = rows
        self.next = len(rows)
        self.generator = generator

    def draw(self) -> Tensor:
        """The rows of the next batch, int64 [min(batch, n)]."""
        if self.next + self.batch > len(self.rows):
            shuffle = torch.randperm(len(self.rows), generator=self.generator, device=self.generator.device)
            self.order, self.next = self.rows[shuffle], 0
        self.next += self.batch
        return self.order[self.next - self.batch : self.next]

    def restore(self, order: Tensor, next: int) -> None:
        """Restore the state of a sampler of the same rows. Raises `ValueError` for the state of another sampler."""
        order = order.to(self.rows)
        same_rows = torch.equal(order.sort().values, self.rows.sort().values)
        if not (same_rows and isinstance(next, int) and 0 <= next <= len(order)):
            raise ValueError("the state of a sampler of other rows")
        self.order, self.next = order, next


class BatchDraw(NamedTuple):
    """The random draws of a training batch; no pixels are computed yet."""

    source: Tensor  # the images, or their rows in the data set
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    augmentation: BatchAugmentation


class AugmentationSampler:
    """Draws the augmentation of training batches: one draw for each image, and CutMix."""

    def __init__(self, data: ImageData, strategy: tuple[str, ...], mix_p: float, generator: Generator) -> None:
        self.data, self.strategy, self.mix_p, self.generator = data, strategy, mix_p, generator

    def draw(self, source: Tensor, labels: Tensor) -> BatchDraw:
        """Draw the augmentation of the images or rows `source`."""
        return BatchDraw(
            source, labels, draw_augmentation(self.strategy, len(labels), self.data.size, self.mix_p, self.generator)
        )

    def draw_rows(self, rows: Tensor) -> BatchDraw:
        """Draw the augmentation of real images. Images that are not in the GPU's memory are sent there as bytes."""
        data = self.data
        on_device = data.device.type != "cuda" or isinstance(data.images, Tensor)
        return self.draw(rows if on_device else data.images[rows], data.labels[rows])


def make_batch(data: ImageData, batch: BatchDraw, *, fetch: Callable[[Tensor], Tensor] | None = None) -> Batch:
    """Compute the augmented images and soft targets [n, C] of a batch, deterministically.

    fetch: source → normalised images [n, ch, H, W]. The default takes rows of the data's images (int64), raw images
    (uint8), or images that are normalised already (float).
    """
    images = (fetch or partial(_fetch, data))(batch.source)
    return apply_augmentation(images, batch.labels, batch.augmentation, data.nclass)


def _fetch(data: ImageData, source: Tensor) -> Tensor:
    """Normalised images [n, ch, H, W] of rows (int64), raw images (uint8), or normalised images (float)."""
    if source.is_floating_point():
        return source
    return data.scaled(source) if source.dtype == torch.uint8 else data.fetch(source)
