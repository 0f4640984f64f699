"""Trajectory matching (MTT): a student's steps on the set are to end where an expert's epochs ended.

With θ_{i+1} = θ_i − α·g_i over N steps and L = ‖θ_N − θ*‖² / ‖θ_0 − θ*‖², of all parameters or those of some layers
(PAD), the gradient of L is computed by the adjoint method: forward only the θ_i are kept, then the steps are taken
again one by one from the last, each with its own graph. The result is that of the graph of all steps, and the memory
that of one (docs/trajectories.md).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from attar.condensation.gradients import Execution, thread_module
from attar.engine.cuda_graphs import CudaGraph
from attar.engine.precision import autocast
from attar.engine.workers import ThreadWorkers
from attar.models import BATCH_NORM, Network, fixed_statistics
from attar.training.augment import apply
from attar.training.draws import Draw, parameters, take


class StudentStep(NamedTuple):
    """The random draws of one step of a student."""

    rows: Tensor  # int64 [m], of the training images that the set decodes to
    numbers: dict[str, Tensor]  # of its augmentation, see `draws.numbers`


class StepInputs(NamedTuple):
    """A batch of the set before its augmentation."""

    images: Tensor  # [m, ch, H, W], normalised
    targets: Tensor  # [m, C]
    draw: Draw  # m rows


class Matched(NamedTuple):
    """The loss of a trajectory, and its derivatives."""

    loss: Tensor  # a scalar
    images: Tensor  # shape of the images
    targets: Tensor  # shape of the targets
    lr: Tensor  # a scalar


class TrajectoryGradients:
    """Computes the loss of a student's trajectory and its exact gradient, at the memory of one step's graph.

    On a CPU each batch is split among the threads, on a GPU all is recorded as one CUDA graph.
    """

    def __init__(
        self,
        module: Network,
        execution: Execution,
        device: torch.device,
        layers: tuple[float, float] = (0.0, 1.0),  # whose parameters are compared, as shares from the input on (PAD)
    ) -> None:
        self.module, self.precision = module, execution.precision
        self.shapes = {name: value.shape for name, value in module.named_parameters()}
        self.compared = span(self.shapes, layers)
        self.per_thread = threading.local()
        batch_norm = any(isinstance(layer, BATCH_NORM) for layer in module.modules())
        self.workers = ThreadWorkers(device, 1 if batch_norm else None)
        # not a bound method: a reference cycle would keep the graph and its memory until the garbage collector runs
        this = weakref.proxy(self)
        recorded = CudaGraph(lambda *args: this._matched(*args)) if device.type == "cuda" else None
        self.compute: Callable[..., Matched] = recorded or self._matched

    def flat(self, params: Mapping[str, Tensor]) -> Tensor:
        """Parameters as one vector [P]."""
        return torch.cat([params[name].detach().flatten() for name in self.shapes])

    def __call__(
        self,
        start: Tensor,  # [P]
        target: Tensor,  # [P]
        images: Tensor,  # [n, ch, H, W], normalised
        targets: Tensor,  # [n, C], class probabilities
        steps: Sequence[StudentStep],
        lr: Tensor,  # a scalar
    ) -> Matched:
        """The loss, and its derivatives with respect to images, targets and learning rate; the next call changes them.

        On a GPU the batches have the same sizes in each call.
        """
        return self.compute(start, target, images, targets, steps, lr)

    def _matched(
        self, start: Tensor, target: Tensor, images: Tensor, targets: Tensor, steps: Sequence[StudentStep], lr: Tensor
    ) -> Matched:
        with fixed_statistics(self.module):
            thetas, size = [start], (images.shape[2], images.shape[3])
            draws = [parameters(step.numbers, size, n := len(step.rows), batch=n) for step in steps]
            for step, draw in zip(steps, draws, strict=True):
                inputs = StepInputs(images[step.rows], targets[step.rows], draw)
                thetas.append(thetas[-1] - lr * self._of_batch("gradient", inputs, thetas[-1]))
            scale = self._of_compared(start - target).square().sum()
            gap = self._of_compared(thetas.pop() - target)
            adjoint = 2 * gap / scale
            of_images, of_targets, of_lr = torch.zeros_like(images), torch.zeros_like(targets), torch.zeros_like(lr)
            for theta, step, draw in zip(reversed(thetas), reversed(steps), reversed(draws), strict=True):
                inputs = StepInputs(images[step.rows], targets[step.rows], draw)
                along, of_theta, of_batch, of_labels = self._of_batch("derivatives", inputs, theta, adjoint)
                of_lr = of_lr - along
                of_images.index_add_(0, step.rows, of_batch, alpha=-1)
                of_targets.index_add_(0, step.rows, of_labels, alpha=-1)
                adjoint = adjoint - lr * of_theta
        return Matched(gap.square().sum() / scale, lr * of_images, lr * of_targets, of_lr)

    def _of_compared(self, vector: Tensor) -> Tensor:
        """The vector [P] with zeros for the parameters that are not compared."""
        first, last = self.compared
        whole = (first, last) == (0, len(vector))
        return vector if whole else F.pad(vector[first:last], (first, len(vector) - last))

    def _loss(self, theta: Tensor, inputs: StepInputs, module: nn.Module) -> Tensor:
        """Mean cross-entropy of a batch of the set at the parameters θ [P]."""
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        params = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        images = apply(inputs.images, inputs.draw)
        with autocast(self.precision, images.device):
            out = functional_call(module, params, (images,))
        return F.cross_entropy(out.to(images.dtype), inputs.targets)

    def gradient(self, inputs: StepInputs, theta: Tensor) -> Tensor:
        """g: the gradient [P] of the loss of a batch."""
        theta = theta.detach().requires_grad_()
        loss = self._loss(theta, inputs, thread_module(self.per_thread, self.module))
        return torch.autograd.grad(loss, theta)[0]

    def derivatives(self, inputs: StepInputs, theta: Tensor, adjoint: Tensor) -> tuple[Tensor, ...]:
        """⟨λ, g⟩ and its derivatives with respect to θ, images and targets."""
        leaves = [value.detach().requires_grad_() for value in (theta, inputs.images, inputs.targets)]
        batch = StepInputs(leaves[1], leaves[2], inputs.draw)
        loss = self._loss(leaves[0], batch, thread_module(self.per_thread, self.module))
        along = torch.autograd.grad(loss, leaves[0], create_graph=True)[0] @ adjoint
        return (along.detach(), *torch.autograd.grad(along, leaves, materialize_grads=True))

    def _of_batch(self, name: str, inputs: StepInputs, *vectors: Tensor) -> Any:
        """`gradient` or `derivatives` of a whole batch, from those of its parts, weighted with their sizes."""
        function, count = getattr(self, name), len(inputs.images)
        parts = min(self.workers.count, count)
        if parts == 1:
            return function(inputs, *vectors)
        size = -(-count // parts)
        slices = [slice(first, first + size) for first in range(0, count, size)]

        def of_part(part: slice) -> Any:
            own = StepInputs(inputs.images[part], inputs.targets[part], take(inputs.draw, part))
            return function(own, *vectors)

        of_parts = list(self.workers.map(of_part, slices))
        weights = [len(inputs.images[part]) / count for part in slices]
        if name == "gradient":
            return _weighted(of_parts, weights)
        along, of_theta, of_images, of_targets = zip(*of_parts, strict=True)
        each = [
            torch.cat([w * value for w, value in zip(weights, values, strict=True)])
            for values in (of_images, of_targets)
        ]
        return _weighted(along, weights), _weighted(of_theta, weights), *each


def span(shapes: Mapping[str, torch.Size], layers: tuple[float, float]) -> tuple[int, int]:
    """Where the parameters of some layers begin and end in the vector of all; at least one layer is left.

    A layer is a weight of two or more dimensions with all that follows it up to the next one: its bias, its norm.
    """
    offsets = [0, *accumulate(shape.numel() for shape in shapes.values())]
    starts = [offset for offset, shape in zip(offsets, shapes.values(), strict=False) if len(shape) > 1]
    first = min(round(layers[0] * len(starts)), len(starts) - 1)
    last = max(first + 1, round(layers[1] * len(starts)))
    return 0 if first == 0 else starts[first], offsets[-1] if last >= len(starts) else starts[last]


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)
