"""Training steps of the network: gradients by several threads or compiled, and on a GPU a recorded CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.condensation.gradients import Execution, ImageGradients, thread_module
from attar.data.images import ImageData
from attar.engine.compile import Compiled
from attar.engine.cuda_graphs import Record
from attar.engine.precision import autocast
from attar.engine.workers import ThreadWorkers
from attar.models import BATCH_NORM, Network
from attar.training.batches import ChainDraw, augmented, make_batches, raw
from attar.training.loop import Trainer
from attar.training.train_state import TrainState, laid_out_like


class NetworkGradients:
    """(params, buffers, images, targets) → (gradients, mean cross-entropy), for `train_state.step`.

    A batch is split among the threads, and the results are averaged by the size of their parts. This does not work for
    networks with batch norm.
    """

    def __init__(self, module: Network, execution: Execution, workers: ThreadWorkers) -> None:
        self.module = module
        self.execution = execution
        self.workers = workers
        self.per_thread = threading.local()
        self.step: Callable[..., tuple[dict[str, Tensor], Tensor]] = self.eager_step
        if execution.compiled:
            self.step = Compiled(self.functional_step, self.eager_step, workers.device, "the network update")

    def loss(
        self, params: dict[str, Tensor], images: Tensor, targets: Tensor, module: nn.Module | None = None
    ) -> Tensor:
        """Mean cross-entropy with soft targets [n, C]."""
        with autocast(self.execution.precision, images.device):
            out = functional_call(module or self.module, params, (images,))
        return F.cross_entropy(out.to(targets.dtype), targets)

    def functional_step(
        self, params: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss by `torch.func`, which can be compiled."""
        grads, loss = grad_and_value(self.loss)(params, images, targets)
        return {name: laid_out_like(params[name], value) for name, value in grads.items()}, loss

    def eager_step(
        self, params: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss by autograd."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        loss = self.loss(leaves, images, targets, thread_module(self.per_thread, self.module))
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True)), loss.detach()

    def __call__(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss of a batch."""
        parts = min(self.workers.count, len(images))
        if parts == 1:
            return self.step(params, images, targets)
        batches = list(zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True))

        def compute(batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
            return self.step(params, *batch)

        results = list(self.workers.map(compute, batches))
        weights = [len(part) / len(images) for part, _ in batches]
        grads = {
            name: torch.stack([w * grad[name] for w, (grad, _) in zip(weights, results, strict=True)]).sum(dim=0)
            for name in params
        }
        return grads, torch.stack([w * loss for w, (_, loss) in zip(weights, results, strict=True)]).sum()


class NetworkTraining:
    """Makes the training steps of the network update, on a GPU as recorded CUDA graphs.

    A graph belongs to the tensors of one model, which stay at the same addresses during a run. record: as for
    `Trainer`.
    """

    def __init__(self, gradients: ImageGradients, data: ImageData, record: Record | None = None) -> None:
        module = gradients.module
        # The statistics of batch norm forbid splitting a batch, and buffers forbid `torch.func`
        batch_norm = any(isinstance(layer, BATCH_NORM) for layer in module.modules()) or [*module.buffers()]
        self.gradients = None if batch_norm else NetworkGradients(module, gradients.execution, gradients.workers)
        self.make = partial(make_batches, data)
        if gradients.execution.compiled and data.device.type == "cuda":  # all data would be a constant of what fetches
            plain = partial(augmented, data)
            make = Compiled(plain, plain, data.device, "the augmentation of the network update")
            self.make = partial(make_batches, data, fetch=partial(raw, data), make=make)
        self.record = record
        self.trainers: dict[int, Trainer] = {}  # by the id of the model

    def run(self, model: TrainState, batches: Iterable[Tensor], draw: Callable[[Tensor, int], ChainDraw]) -> None:
        """Make one training step for each batch of rows, in order, as `Trainer` does."""
        if id(model) not in self.trainers:
            self.trainers[id(model)] = Trainer(model, self.make, gradients=self.gradients, record=self.record)
        self.trainers[id(model)](batches, draw)
