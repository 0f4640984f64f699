"""The gradient of the matching loss for the images: all classes at one point, one after another or together.

The published loop visits the classes one after another and steps the whole image tensor after each; here all classes
are computed at one point, and one step gives the same result (`image_step`). A class's gradient is one function,
compiled once for all classes of a shape; on a GPU the whole sweep is recorded as one CUDA graph (`sweep`), and a memory
budget says how many classes are computed at once (`memory`).
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

from attar.condensation.matching import LOSSES, Matching, Pair, eager_gradient, gradient
from attar.engine.compile import Compiled
from attar.engine.precision import autocast
from attar.engine.workers import ThreadWorkers
from attar.errors import log
from attar.models import Features, Network, fixed_statistics
from attar.sets.decode import decode_class
from attar.training.augment import Draw, apply, take


class SweepInputs(NamedTuple):
    """What one sweep over the classes reads."""

    images: Tensor  # [C, ipc, ch, H, W], the stored images
    params: Mapping[str, Tensor]
    real: Sequence[Tensor]  # per class [n_c, ch, H, W], normalised; looked up class by class
    draws: Draw  # C rows
    subsets: Sequence[Tensor] | None = None  # per class int64 [m]: the decoded images that take part
    frequencies: Tensor | None = None  # [T, d], of all classes


class SweepResult(NamedTuple):
    """What one sweep gives, left on the device."""

    gradient: Tensor  # as the images
    loss: Tensor  # a scalar, summed over the classes


class ClassInputs(NamedTuple):
    """What the loss of one class reads besides its images; of several classes together, each with a dimension more."""

    params: Mapping[str, Tensor]
    real: Tensor  # [n, ch, H, W], normalised
    draw: Draw  # one row
    subset: Tensor | None  # int64 [m]
    label: Tensor  # int64, a scalar
    frequencies: Tensor | None  # [T, d]


Step = Callable[[Tensor, ClassInputs], tuple[Tensor, Tensor]]  # a class's images → (their gradient, the loss)


@dataclass(frozen=True)
class Execution:
    """How gradients are computed: the same numbers up to rounding."""

    precision: str = "float32"
    compiled: bool = False
    chunk: int = 1  # classes at once, as one batch
    side_by_side: int | None = None  # classes at once on a CPU, each in a thread; as many as threads by default
    class_bytes: int = 0  # what a class's step needs, see `memory.class_bytes`


class ImageGradients:
    """The gradients of all classes' matching losses for their stored images."""

    def __init__(
        self,
        module: Network,
        matching: Matching,
        normalize: Callable[[Tensor], Tensor],
        labels: Tensor,  # int64 [C], the label of each row of the images
        execution: Execution | None = None,
    ) -> None:
        self.module = module
        self.called: nn.Module = Features(module) if matching.features else module
        self.matching = matching
        self.normalize = normalize
        self.labels = labels
        self.execution = execution or Execution()
        self.workers = ThreadWorkers(labels.device, self.execution.side_by_side)
        self.chunk = self.execution.chunk  # smaller once the memory did not suffice
        self.per_thread = threading.local()
        step = grad_and_value(self.class_loss)
        self.step = self._compiled(step, self.eager_step)
        self.grouped: dict[bool, Step] = {}  # whether subsets are given → many classes at once
        for subset in (False, True):
            dims = ClassInputs(params=None, real=0, draw=0, subset=0 if subset else None, label=0, frequencies=None)  # type: ignore[arg-type]
            together = torch.vmap(step, in_dims=(0, dims))
            self.grouped[subset] = self._compiled(together, together)

    def _compiled(self, function: Step, eager: Step) -> Step:
        return Compiled(function, eager, self.labels.device, "the sweep") if self.execution.compiled else eager

    def forward(self, module: nn.Module, params: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits [n, C], or the last features [n, d] when features are matched; module: `called`, or a copy of it."""
        prefix = "module." if self.matching.features else ""
        named = {f"{prefix}{name}": value for name, value in params.items()}
        with autocast(self.execution.precision, images.device):
            out = functional_call(module, named, (images,))
        return out.to(images.dtype)

    def class_loss(
        self,
        images: Tensor,  # [ipc, ch, H, W], one class's stored images
        inputs: ClassInputs,
        gradient: Callable[..., dict[str, Tensor]] = gradient,
        module: nn.Module | None = None,
    ) -> Tensor:
        """The matching loss L_c of one class: a scalar."""
        m = self.matching
        forward = partial(self.forward, module or self.called)
        decoded = decode_class(images, m.factor, m.decode_type)
        if inputs.subset is not None:
            decoded = decoded[inputs.subset]
        synthetic, real = apply(self.normalize(decoded), inputs.draw), apply(inputs.real, inputs.draw)
        pair = Pair(forward, inputs.params, real, synthetic, inputs.label, inputs.frequencies, gradient)
        return LOSSES[m.match](pair, m)

    def eager_step(self, images: Tensor, inputs: ClassInputs) -> tuple[Tensor, Tensor]:
        """(∇ of `class_loss` for the images, the loss), by autograd."""
        images = images.detach().requires_grad_()
        loss = self.class_loss(images, inputs, eager_gradient, thread_module(self.per_thread, self.called))
        return torch.autograd.grad(loss, images)[0], loss.detach()

    def __call__(self, inputs: SweepInputs) -> SweepResult:
        """Gradient and loss of a sweep. Where memory is short, half the classes at once from then on."""
        while True:
            try:
                return self._sweep(inputs._replace(params=dict(inputs.params)))
            except torch.OutOfMemoryError:
                if _recording() or not self.halve():
                    raise

    def halve(self) -> bool:
        """Half the classes at once from now on, because memory was short; False where it is one already."""
        if self.chunk == 1:
            return False
        self.chunk = math.ceil(self.chunk / 2)
        log.warning("not enough memory: from now on %d classes are computed at once", self.chunk)
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
        """(image gradient, loss) of some classes: at once where their real batches have one shape."""
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
        part = slice(rows.start, rows.stop)
        draws = {name: value[part].unsqueeze(1) for name, value in inputs.draws.items()}
        stacked = None if inputs.subsets is None else torch.stack([subset for subset in subsets if subset is not None])
        together = ClassInputs(
            inputs.params, torch.stack(batches), draws, stacked, self.labels[part], inputs.frequencies
        )
        grads, losses = self.grouped[stacked is not None](inputs.images[part], together)
        return list(zip(grads.unbind(), losses.unbind(), strict=True))


def _recording() -> bool:
    """Whether a CUDA graph is being recorded, in which no memory can be given back."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def thread_module(per_thread: threading.local, module: nn.Module) -> nn.Module:
    """The calling thread's copy of a module: a functional call swaps a module's tensors while it runs."""
    if not hasattr(per_thread, "module"):
        per_thread.module = copy.deepcopy(module)
    return per_thread.module
