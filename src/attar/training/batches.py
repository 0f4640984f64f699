"""Training batches: draw rows, draw their augmentation, and make the augmented images from both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.training.augment import Augmentation, apply_augmentation, draw_augmentation
from attar.training.draws import take
from attar.training.train_state import Batch

AT_ONCE = 1 << 28  # bytes of float32 images that are augmented at once


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


class ChainDraw(NamedTuple):
    """The random draws of consecutive training batches; no pixels are computed yet."""

    source: Tensor  # the n images of all batches, or their rows in the data set
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    augmentation: Augmentation
    batch: int  # images in a batch; the last one may have fewer


class AugmentationSampler:
    """Draws the augmentation of training batches: one draw for each image, and CutMix for each batch."""

    def __init__(self, data: ImageData, strategy: tuple[str, ...], mix_p: float, generator: Generator) -> None:
        self.data, self.strategy, self.mix_p, self.generator = data, strategy, mix_p, generator

    def draw(self, source: Tensor, labels: Tensor, batch: int) -> ChainDraw:
        """Draw the augmentation of the images or rows `source`, of one or more batches."""
        size = self.data.size
        augmentation = draw_augmentation(self.strategy, len(labels), size, self.mix_p, self.generator, batch=batch)
        return ChainDraw(source, labels, augmentation, batch)

    def draw_rows(self, rows: Tensor, batch: int) -> ChainDraw:
        """Draw the augmentation of real images. Images that are not in the GPU's memory are sent there as bytes."""
        data = self.data
        on_device = data.device.type != "cuda" or isinstance(data.images, Tensor)
        return self.draw(rows if on_device else data.images[rows], data.labels[rows], batch)


def make_batches(
    data: ImageData,
    chain: ChainDraw,
    *,
    fetch: Callable[[Tensor], Tensor] | None = None,
    make: Callable[..., Batch] | None = None,
) -> Iterator[Batch]:
    """Compute the augmented images and soft targets [n, C] of each batch, deterministically.

    Many batches are computed at once, because a GPU would wait for single ones.

    fetch: source → images [n, ch, H, W], raw (uint8) or normalised (float). The default takes rows of the data's
    images (int64), or such images themselves.
    make: computes `augmented` of the data instead, e.g. compiled.
    """
    fetch, make = fetch or partial(_fetch, data), make or partial(augmented, data)
    n, batch = len(chain.labels), chain.batch
    at_once = batch * max(1, AT_ONCE // (4 * batch * data.channels * data.size[0] * data.size[1]))
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        augmentation = _part(chain.augmentation, part, batch)
        images, targets = make(fetch(chain.source[part]), chain.labels[part], augmentation, batch)
        yield from zip(images.split(batch), targets.split(batch), strict=True)


def augmented(data: ImageData, images: Tensor, labels: Tensor, augmentation: Augmentation, batch: int) -> Batch:
    """Images [n, ch, H, W], raw or normalised, as the training steps see them, with their soft targets [n, C]."""
    images = images if images.is_floating_point() else data.scaled(images)
    return apply_augmentation(images, labels, augmentation, data.nclass, batch=batch)


def _part(augmentation: Augmentation, part: slice, batch: int) -> Augmentation:
    """The parameters of the images in `part`, which are whole batches."""
    boxes, order = augmentation.boxes, augmentation.order
    if boxes is not None and order is not None:
        boxes, order = boxes[part.start // batch : part.stop // batch], order[part] - part.start
    return Augmentation(take(augmentation.draw, part), boxes, order)


def raw(data: ImageData, source: Tensor) -> Tensor:
    """Raw images, uint8 [n, ch, H, W], of rows (int64); images as they are."""
    return data.images[source] if source.dtype == torch.int64 else source


def _fetch(data: ImageData, source: Tensor) -> Tensor:
    """Normalised images [n, ch, H, W] of rows (int64); images as they are."""
    return data.fetch(source) if source.dtype == torch.int64 else source
