"""The supervised training loop of the pool, the network update and the evaluation.

The random draws of a chain of batches are made first (`batches.ChainDraw`), and their images are computed together with
the training steps (`Trainer`), because on a GPU the whole chain is one CUDA graph, in which no random numbers can be
drawn. A chain is drawn and augmented at once: single batches are too small to keep a GPU busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from attar.engine.cuda_graphs import CudaGraph, Record, Shapes, record_graph, shapes_of
from attar.models.own import OwnNetwork, in_one_line
from attar.training.batches import ChainDraw
from attar.training.train_state import Batch, Gradients, TrainState, decay, step

MAX_STEPS_PER_GRAPH = 32  # training steps in one CUDA graph


class Trainer:
    """Trains a model by one step per batch. On a GPU up to `MAX_STEPS_PER_GRAPH` steps are one recorded CUDA graph.

    Args:
        model: the network under training, which is changed in place.
        make: computes the images and targets of each batch of a chain.
        gradients: as for `train_state.step`.
        record: replaces the recording of a CUDA graph, in tests. By default steps are recorded on a GPU only.
    """

    def __init__(
        self,
        model: TrainState,
        make: Callable[[ChainDraw], Iterable[Batch]],
        *,
        gradients: Gradients | None = None,
        record: Record | None = None,
    ) -> None:
        device = next(iter(model.params.values())).device
        self.model, self.make, self.gradients = model, make, gradients
        self.record = record_graph if record is None and device.type == "cuda" else record
        if not isinstance(model.optimizer, torch.optim.SGD):  # Adam counts its steps on the CPU
            self.record = None
        self.recorded: dict[tuple[Any, ...], CudaGraph] = {}  # by learning rates and shapes

    def __call__(self, batches: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        """Make one training step for each batch of rows, in order.

        Args:
            batches: rows int64 of the training images; the batches have the same size, but the last may be shorter.
            draw: (rows of consecutive batches, images in a batch) → what is random about them.
        """
        remaining = iter(batches)
        while rows := list(islice(remaining, MAX_STEPS_PER_GRAPH if self.record else 1)):
            self.run(draw(torch.cat(rows), len(rows[0])))

    def run(self, chain: ChainDraw) -> None:
        """Make the training steps of a chain that is drawn."""
        if self.record is None:
            _steps(self.model, self.make, self.gradients, chain)
        else:
            self._graph_of(chain)(chain)

    def _graph_of(self, chain: ChainDraw) -> CudaGraph:
        """The CUDA graph of steps over batches of these shapes, at the current learning rate, which is recorded too."""
        rates = tuple(group["lr"] for group in self.model.optimizer.param_groups)
        key: tuple[tuple[float, ...], Shapes] = (rates, shapes_of(chain))
        if key not in self.recorded:
            # learning rates only fall, so graphs of earlier ones are not used again
            self.recorded = {other: graph for other, graph in self.recorded.items() if other[0] == rates}
            # not a bound method: a reference cycle would keep graphs and their memory until the garbage collector runs
            steps = partial(_steps, self.model, self.make, self.gradients)
            self.recorded[key] = CudaGraph(steps, self.record)
        return self.recorded[key]


def _steps(
    model: TrainState,
    make: Callable[[ChainDraw], Iterable[Batch]],
    gradients: Gradients | None,
    chain: ChainDraw,
) -> list[Tensor]:
    """Make one training step for each batch. Returns the losses."""
    return [step(model, images, targets, gradients) for images, targets in make(chain)]


def fit(
    trainer: Trainer,
    epoch_batches: Callable[[], Iterable[Tensor]],
    draw: Callable[[Tensor, int], ChainDraw],
    epochs: int,
    *,
    after_epoch: Callable[[int], None] | None = None,
    decay: Callable[[int, int], float] = decay,
) -> None:
    """Train for some epochs, with the step decay of `train_state.decay`.

    Args:
        trainer: makes the training steps.
        epoch_batches: called once for each epoch; gives its batches, as for `Trainer`.
        draw: as for `Trainer`.
        epochs: how many epochs.
        after_epoch: called after each epoch with its number, from 0.
        decay: another schedule: (epoch, epochs) → factor of the learning rate.

    Raises:
        UserError: where a network of the user's own raises, such as batch norm in a batch of one image.
    """
    model = trainer.model
    rates = [group["lr"] for group in model.optimizer.param_groups]
    for epoch in range(epochs):
        for group, rate in zip(model.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay(epoch, epochs)
        own = isinstance(model.module, OwnNetwork)
        with in_one_line(f"{model.module.name} fails in training") if own else nullcontext():
            trainer(epoch_batches(), draw)
        if after_epoch is not None:
            after_epoch(epoch)
