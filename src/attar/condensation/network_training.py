"""How steps of the network are computed: their gradients, side by side or compiled, and on a GPU recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.condensation.gradients import Execution, Sweep, own_module
from attar.data.images import ImageData
from attar.engine.compile import Compiled
from attar.engine.cuda_graphs import Record
from attar.engine.precision import Notice, precise
from attar.engine.workers import Workers
from attar.models import Network
from attar.settings.config import CondenseConfig
from attar.training.batches import BatchDraw, make_batch
from attar.training.loop import Trainer
from attar.training.train_state import Learner


class NetworkGradients:
    """(params, buffers, images, targets) → (gradients, mean cross-entropy), for `training.step`.

    A batch is split among the workers, each part's mean weighted by its share: not for networks with batch statistics.
    """

    def __init__(self, module: Network, execution: Execution, workers: Workers) -> None:
        self.module = module
        self.execution = execution
        self.workers = workers
        self.own = threading.local()
        step = grad_and_value(self.loss)
        self.step: Callable[..., tuple[dict[str, Tensor], Tensor]] = self.eager_step
        if execution.compiled:
            self.step = Compiled(step, self.eager_step, workers.device, execution.notice, "the network update")

    def loss(
        self, params: dict[str, Tensor], images: Tensor, targets: Tensor, module: nn.Module | None = None
    ) -> Tensor:
        """The mean cross-entropy with soft targets [n, C]."""
        with precise(self.execution.precision, images.device):
            out = functional_call(module or self.module, params, (images,))
        return F.cross_entropy(out.to(targets.dtype), targets)

    def eager_step(
        self, params: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss by autograd."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        loss = self.loss(leaves, images, targets, own_module(self.own, self.module))
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)), loss.detach()

    def __call__(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss of a batch."""
        parts = min(self.workers.count, len(images))
        if parts == 1:
            return self.step(params, images, targets)
        jobs = list(zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True))

        def compute(job: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
            return self.step(params, *job)

        done = list(self.workers.map(compute, jobs))
        shares = [len(part) / len(images) for part, _ in jobs]
        grads = {
            name: torch.stack([share * grad[name] for share, (grad, _) in zip(shares, done, strict=True)]).sum(dim=0)
            for name in params
        }
        return grads, torch.stack([share * loss for share, (_, loss) in zip(shares, done, strict=True)]).sum()


def network_training(
    sweep: Sweep, data: ImageData, config: CondenseConfig, notice: Notice, record: Record | None = None
) -> Callable[[Learner, Iterable[BatchDraw]], None]:
    """The steps of the network update; on a GPU recorded for the learner, which keeps its memory during a run.

    record: as for `Trainer`.
    """
    running = any(True for _ in sweep.module.buffers())  # batch statistics: neither split nor functional
    gradients = None if running else NetworkGradients(sweep.module, sweep.execution, sweep.workers)
    make = partial(make_batch, data)
    trainers: dict[int, Trainer] = {}  # a recording writes to its learner's own memory

    def train(student: Learner, batches: Iterable[BatchDraw]) -> None:
        if id(student) not in trainers:
            trainers[id(student)] = Trainer(student, make, gradients=gradients, notice=notice, record=record)
        trainers[id(student)](batches)

    return train
