"""One supervised loop: the pool, the network update and the evaluation all train with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call

from attar.augment import Variation, draw_variation, varied
from attar.data import ImageData
from attar.errors import choose
from attar.execution import Notice, Record, Replayed, Shapes, record_graph, shapes_of

LONGEST = 32  # steps in one CUDA graph

Gradients = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
Batch = tuple[Tensor, Tensor]  # images [n, ch, H, W] normalised and augmented, targets float [n, C]


class Drawn(NamedTuple):
    """A training batch of which everything random is drawn, and nothing else made."""

    source: Tensor  # what the images are made of: their rows, or the images
    labels: Tensor  # int64 [n], or soft labels float [n, C]
    variation: Variation


@dataclass
class Learner:
    """A network under training: a module that only gives the shape, its tensors, and their optimiser.

    params: leaf tensors that the optimiser updates in place; buffers: running statistics of batch norm, if any.
    """

    module: nn.Module
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    def __call__(self, images: Tensor) -> Tensor:
        return functional_call(self.module, {**self.params, **self.buffers}, (images,))


def learner(
    module: nn.Module,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    optimizer: str = "sgd",
) -> Learner:
    """Put an optimiser (sgd, adam or adamw) on copies of `params` and `buffers`."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    copies = {name: value.detach().clone() for name, value in buffers.items()}
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(leaves.values(), lr=lr, momentum=momentum, weight_decay=weight_decay),
        "adam": lambda: torch.optim.Adam(leaves.values(), lr=lr, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW(leaves.values(), lr=lr, weight_decay=weight_decay),
    }
    return Learner(module, leaves, copies, makers[choose("optimizer", optimizer, makers)]())


def reset(student: Learner, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Start again from `params` and `buffers` with a fresh optimiser state of SGD, in the same memory."""
    with torch.no_grad():
        for own, given in ((student.params, params), (student.buffers, buffers)):
            for name, value in own.items():
                value.copy_(given[name])
        for state in student.optimizer.state.values():
            state["momentum_buffer"].zero_()  # μ·0 + g is what a first step starts from


def optimizer_state(student: Learner) -> dict[str, Tensor]:
    """What the optimiser keeps, as "parameter/what"."""
    kept = student.optimizer.state
    return {f"{name}/{key}": kept[leaf][key] for name, leaf in student.params.items() for key in kept.get(leaf, {})}


def restore_optimizer(student: Learner, values: Mapping[str, Tensor]) -> None:
    """Give the optimiser what `optimizer_state` found."""
    for path, value in values.items():
        name, _, key = path.rpartition("/")
        # Adam counts its steps on the CPU, wherever its tensors are
        student.optimizer.state[student.params[name]][key] = value.cpu() if key == "step" else value


def step(student: Learner, images: Tensor, targets: Tensor, gradients: Gradients | None = None) -> Tensor:
    """One step of the mean cross-entropy with soft targets [n, C]. Returns the loss, still on the device.

    gradients: computes (gradients, loss) in autograd's place, compiled or at another precision.
    """
    student.module.train()
    leaves = student.params
    if gradients is None:
        loss = F.cross_entropy(student(images), targets)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    else:
        plain = {name: value.detach() for name, value in leaves.items()}
        grads, loss = gradients(plain, student.buffers, images, targets)
    for name, leaf in leaves.items():
        leaf.grad = grads[name]
    student.optimizer.step()
    return loss.detach()


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


def decay(epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in `epoch` (counted from 0): ×.2 at 2/3 and again at 5/6 of `epochs`."""
    return 0.2 ** ((3 * epoch >= 2 * epochs) + (6 * epoch >= 5 * epochs))


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


@torch.no_grad()
def accuracy(student: Learner, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label (labels int64 [n] as targets)."""
    student.module.eval()
    right, count = [], 0
    for images, labels in batches:
        right.append((student(images).argmax(dim=1) == labels).sum())
        count += len(labels)
    student.module.train()
    return float(torch.stack(right).sum()) / count


def shuffled(n: int, batch: int, generator: Generator, *, only: int | None = None) -> Iterator[Tensor]:
    """One epoch over n rows: index tensors of `batch` rows (the last may be shorter), in a random order.

    only: stop after so many rows.
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    yield from order[:only].split(batch)


class Deck:
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
