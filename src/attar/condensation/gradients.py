"""The gradient of the matching loss with respect to the images, for all classes.

The published loop visits the classes one after another and steps the whole image tensor after each. Here the gradients
of all classes are computed for the same images, and one step gives the same result (`image_step`). The gradient of a
class is one function, compiled once for each shape. On a GPU the whole sweep over the classes is recorded as one CUDA
graph (`sweep`). A memory budget determines how many classes are computed at once (`memory`).
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.condensation.matching import LOSSES, Matching, Pair, eager_gradient, gradient, registered_loss
from attar.engine.compile import Compiled
from attar.engine.precision import autocast
from attar.engine.workers import ThreadWorkers
from attar.errors import counted, log
from attar.models import Features, Network, fixed_statistics
from attar.sets.decode import decode_class
from attar.training.augment import apply
from attar.training.draws import Draw, take


class SweepInputs(NamedTuple):
    """The inputs of one sweep over the classes."""

    images: Tensor  # [C, ipc, ch, H, W], the stored images
    params: Mapping[str, Tensor]
    real: Sequence[Tensor]  # per class [n_c, ch, H, W], normalised; each is read when its class is computed
    draws: Draw  # C rows
    subsets: Sequence[Tensor] | None = None  # per class int64 [m]: the decoded images to match; None: all
    frequencies: Tensor | None = None  # [T, d], shared by all classes; only where `match` is ncf


class SweepResult(NamedTuple):
    """The results of one sweep, on the device."""

    gradient: Tensor  # shape of the images
    loss: Tensor  # a scalar, summed over the classes


class ClassInputs(NamedTuple):
    """The inputs of one class's loss besides its images.

    For several classes at once, all but `params` and `frequencies` have a further first dimension.
    """

    params: Mapping[str, Tensor]
    real: Tensor  # [n, ch, H, W], normalised
    draw: Draw  # one row
    subset: Tensor | None  # int64 [m]
    label: Tensor  # int64, a scalar
    frequencies: Tensor | None  # [T, d]


# (images, other inputs) of a class → (image gradient, loss)
Step = Callable[[Tensor, ClassInputs], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Execution:
    """How gradients are computed. Apart from rounding it does not change the results."""

    precision: str = "float32"
    compiled: bool = False
    chunk: int = 1  # classes computed at once by vmap
    side_by_side: int | None = None  # classes at once on a CPU, each in one thread; None: one for each thread
    class_bytes: int = 0  # memory of one class's step, see `memory.class_bytes`


class ImageGradients:
    """Computes the gradients of all classes' matching losses with respect to their stored images.

    Args:
        module: the network; its own tensors are not used.
        matching: loss, distance and decoding.
        normalize: images in [0, 1] → normalised images.
        labels: int64 [C], the label of each row of the images.
        execution: precision, compilation and parallelism.
    """

    def __init__(
        self,
        module: Network,
        matching: Matching,
        normalize: Callable[[Tensor], Tensor],
        labels: Tensor,
        execution: Execution | None = None,
    ) -> None:
        self.module = module
        self.forward_module: nn.Module = Features(module) if matching.features else module
        self.matching = matching
        self.normalize = normalize
        self.labels = labels
        self.execution = execution or Execution()
        self.workers = ThreadWorkers(labels.device, self.execution.side_by_side)
        self.chunk = self.execution.chunk  # halved when memory runs out
        self.per_thread = threading.local()
        step = grad_and_value(self.class_loss)
        self.step = self._compile_if_asked(step, self.eager_step)
        self.grouped: dict[bool, Step] = {}  # whether there are subsets → the step of several classes
        for subset in (False, True):
            dims = ClassInputs(params=None, real=0, draw=0, subset=0 if subset else None, label=0, frequencies=None)  # type: ignore[arg-type]
            vectorised = torch.vmap(step, in_dims=(0, dims))
            self.grouped[subset] = self._compile_if_asked(vectorised, vectorised)

    def _compile_if_asked(self, function: Step, eager: Step) -> Step:
        return Compiled(function, eager, self.labels.device, "the sweep") if self.execution.compiled else eager

    def forward(self, module: nn.Module, params: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits [n, C], or the last features [n, d] if these are matched. module: `forward_module` or a copy."""
        prefix = "module." if self.matching.features else ""
        tensors = {f"{prefix}{name}": value for name, value in params.items()}
        with autocast(self.execution.precision, images.device):
            out = functional_call(module, tensors, (images,))
        return out.to(images.dtype)

    def class_loss(
        self,
        images: Tensor,  # [ipc, ch, H, W], one class's stored images
        inputs: ClassInputs,
        gradient: Callable[..., dict[str, Tensor]] = gradient,
        module: nn.Module | None = None,
    ) -> Tensor:
        """The matching loss L_c of one class, a scalar."""
        m = self.matching
        forward = partial(self.forward, module or self.forward_module)
        decoded = decode_class(images, m.factor, m.decode_type)
        batch = inputs.real
        if inputs.subset is not None:
            decoded = decoded[inputs.subset]
            batch = batch[inputs.subset] if m.match == "pairs" else batch
        synthetic, real = apply(self.normalize(decoded), inputs.draw), apply(batch, inputs.draw)
        pair = Pair(forward, inputs.params, real, synthetic, inputs.label, inputs.frequencies, gradient)
        return LOSSES.get(m.match, registered_loss)(pair, m)

    def eager_step(self, images: Tensor, inputs: ClassInputs) -> tuple[Tensor, Tensor]:
        """The gradient of `class_loss` with respect to the images, and the loss, by autograd."""
        images = images.detach().requires_grad_()
        loss = self.class_loss(images, inputs, eager_gradient, thread_module(self.per_thread, self.forward_module))
        return torch.autograd.grad(loss, images)[0], loss.detach()

    def __call__(self, inputs: SweepInputs) -> SweepResult:
        """Compute a sweep. When memory runs out, halve the number of classes at once, from now on, and try again."""
        while True:
            try:
                return self._sweep(inputs._replace(params=dict(inputs.params)))
            except torch.OutOfMemoryError:
                if _is_recording() or not self.halve():
                    raise

    def halve(self) -> bool:
        """Halve the number of classes at once, from now on. Returns False if it is one already."""
        if self.chunk == 1:
            return False
        self.chunk = math.ceil(self.chunk / 2)
        log.warning("not enough memory: from now on %s at once", counted(self.chunk, "class"))
        if self.labels.device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def _sweep(self, inputs: SweepInputs) -> SweepResult:
        classes = range(len(self.labels))
        groups = [classes[first : first + self.chunk] for first in classes[:: self.chunk]]
        with fixed_statistics(self.module):
            results = [pair for group in self.workers.map(partial(self._group, inputs), groups) for pair in group]
        grads, losses = zip(*results, strict=True)
        return SweepResult(torch.stack(grads), torch.stack(losses).sum())

    def _group(self, inputs: SweepInputs, rows: range) -> list[tuple[Tensor, Tensor]]:
        """(image gradient, loss) of some classes, by vmap if their real batches have the same shape."""
        batches = [inputs.real[row] for row in rows]
        subsets = [None if inputs.subsets is None else inputs.subsets[row] for row in rows]
        if len(rows) == 1 or len({len(batch) for batch in batches}) > 1:
            return [
                self.step(
                    inputs.images[row],
                    ClassInputs(
                        inputs.params, batch, take(inputs.draws, row), subset, self.labels[row], inputs.frequencies
                    ),
                )
                for row, batch, subset in zip(rows, batches, subsets, strict=True)
            ]
        group = slice(rows.start, rows.stop)
        draws = {name: value[group].unsqueeze(1) for name, value in inputs.draws.items()}
        stacked = None if inputs.subsets is None else torch.stack([subset for subset in subsets if subset is not None])
        group_inputs = ClassInputs(
            inputs.params, torch.stack(batches), draws, stacked, self.labels[group], inputs.frequencies
        )
        grads, losses = self.grouped[stacked is not None](inputs.images[group], group_inputs)
        return list(zip(grads.unbind(), losses.unbind(), strict=True))


def _is_recording() -> bool:
    """Whether a CUDA graph is being recorded; memory cannot be freed then."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def thread_module(per_thread: threading.local, module: nn.Module) -> nn.Module:
    """The calling thread's copy of a module, because `functional_call` replaces the module's tensors while it runs."""
    if not hasattr(per_thread, "module"):
        per_thread.module = copy.deepcopy(module)
    return per_thread.module
