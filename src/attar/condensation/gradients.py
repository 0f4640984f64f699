"""None"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.condensation.matching import LOSSES, Matching, Pair, eager_gradient, gradient
from attar.engine.compile import Compiled
from attar.engine.precision import Notice, precise
from attar.engine.workers import Workers
from attar.models import Features, Network, fixed_statistics
from attar.sets.decode import decode_class
from attar.training.augment import Draw, apply, take

Step = Callable[..., tuple[tuple[Tensor, ...], Tensor]]  # (gradients, loss) of a class


@dataclass(frozen=True)
class Execution:
    """How it is computed: the same numbers up to rounding."""

    precision: str = "float32"
    compiled: bool = False
    chunk: int = 1  # classes at once, as one batch
    most: int | None = None  # classes side by side on a CPU, as many as threads by default
    class_bytes: int = 0  # what a class's step needs, see `class_bytes`
    notice: Notice = field(default=print)


class Sweep:
    """One sweep: images in, their gradient and the summed loss out.

    ascends: the frequencies are trained; their gradient of the summed loss comes third.
    """

    def __init__(
        self,
        module: Network,
        matching: Matching,
        normalize: Callable[[Tensor], Tensor],
        labels: Tensor,
        execution: Execution | None = None,
        *,
        ascends: bool = False,
    ) -> None:
        self.module = module
        self.called: nn.Module = Features(module) if matching.features else module
        self.matching = matching
        self.normalize = normalize
        self.labels = labels  # int64 [C], the label of each row of `images`
        self.execution = execution or Execution()
        self.workers = Workers(labels.device, self.execution.most)
        self.chunk = self.execution.chunk  # smaller once the memory did not suffice
        self.own = threading.local()
        self.ascends = ascends
        step = grad_and_value(self.class_loss, argnums=(0, 6) if ascends else (0,))
        self.step = self._executed(step, self.eager_step)
        self.grouped = {}  # whether subsets are given → many classes at once
        for subset in (False, True):
            together = torch.vmap(step, in_dims=(0, None, 0, 0, 0 if subset else None, 0, None))
            self.grouped[subset] = self._executed(together, together)

    def _executed(self, function: Step, plain: Step) -> Step:
        if not self.execution.compiled:
            return plain
        return Compiled(function, plain, self.labels.device, self.execution.notice, "the sweep")

    def forward(self, module: nn.Module, params: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits [n, C], or the last features [n, d] when features are matched; module: `called`, or a copy of it."""
        prefix = "module." if self.matching.features else ""
        named = {f"{prefix}{name}": value for name, value in params.items()}
        with precise(self.execution.precision, images.device):
            out = functional_call(module, named, (images,))
        return out.to(images.dtype)

    def class_loss(
        self,
        own: Tensor,  # [ipc, ch, H, W], one class's stored images
        params: Mapping[str, Tensor],
        real: Tensor,  # [n, ch, H, W], normalised
        drawn: Draw,  # one row
        subset: Tensor | None,  # int64 [m], which decoded images take part
        label: Tensor,  # int64, a scalar
        frequencies: Tensor | None = None,  # [T, d]
        gradient: Callable[..., dict[str, Tensor]] = gradient,
        module: nn.Module | None = None,
    ) -> Tensor:
        """The matching loss L_c of one class: a scalar."""
        m = self.matching
        forward = partial(self.forward, module or self.called)
        decoded = decode_class(own, m.factor, m.decode_type)
        if subset is not None:
            decoded = decoded[subset]
        synthetic, real = apply(self.normalize(decoded), drawn), apply(real, drawn)
        return LOSSES[m.match](Pair(forward, params, real, synthetic, label, frequencies, gradient), m)

    def eager_step(
        self,
        own: Tensor,
        params: Mapping[str, Tensor],
        real: Tensor,
        drawn: Draw,
        subset: Tensor | None,
        label: Tensor,
        frequencies: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """(∇ of `class_loss` for the images, and for frequencies that are trained; the loss), by autograd."""
        own = own.detach().requires_grad_()
        leaves = [own]
        if frequencies is not None and self.ascends:
            frequencies = frequencies.detach().requires_grad_()
            leaves.append(frequencies)
        module = own_module(self.own, self.called)
        loss = self.class_loss(own, params, real, drawn, subset, label, frequencies, eager_gradient, module)
        return torch.autograd.grad(loss, leaves), loss.detach()

    def __call__(
        self,
        images: Tensor,  # [C, ipc, ch, H, W]
        params: Mapping[str, Tensor],
        real: Sequence[Tensor],  # per class [n_c, ch, H, W], normalised; looked up class by class
        draws: Draw,  # C rows
        subsets: Sequence[Tensor] | None = None,  # per class int64 [m]
        frequencies: Tensor | None = None,  # [T, d], of all classes
    ) -> tuple[Tensor, ...]:
        """(gradient as `images`, loss, gradient of frequencies that are trained), all left on the device.

        Where memory is short, half the classes at once from then on.
        """
        while True:
            try:
                return self._sweep(images, dict(params), real, draws, subsets, frequencies)
            except torch.OutOfMemoryError:
                if self.chunk == 1 or _recording():
                    raise
            self.chunk = math.ceil(self.chunk / 2)
            self.execution.notice(f"not enough memory: from now on {self.chunk} classes are computed at once")
            if images.device.type == "cuda":
                torch.cuda.empty_cache()

    def _sweep(
        self,
        images: Tensor,
        params: dict[str, Tensor],
        real: Sequence[Tensor],
        draws: Draw,
        subsets: Sequence[Tensor] | None,
        frequencies: Tensor | None,
    ) -> tuple[Tensor, ...]:
        every = range(len(self.labels))
        groups = [every[first : first + self.chunk] for first in every[:: self.chunk]]

        def compute(rows: range) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
            return self._group(rows, images, params, real, draws, subsets, frequencies)

        results: list[tuple[Tensor, Tensor]] = []
        slope = None  # summed as it comes: one gradient of the frequencies is as large as they are
        with fixed_statistics(self.module):
            for found, steep in self.workers.map(compute, groups):
                results += found
                slope = steep if slope is None or steep is None else slope + steep
        grads, losses = zip(*results, strict=True)
        summed = torch.stack(grads), torch.stack(losses).sum()
        return summed if slope is None else (*summed, slope)

    def _group(
        self,
        rows: range,
        images: Tensor,
        params: dict[str, Tensor],
        real: Sequence[Tensor],
        draws: Draw,
        subsets: Sequence[Tensor] | None,
        frequencies: Tensor | None,
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """(image gradient, loss) of some classes, and the gradient of the frequencies: at once where their real batches
        have one shape.
        """
        batches = [real[row] for row in rows]
        chosen = [None if subsets is None else subsets[row] for row in rows]
        if len(rows) == 1 or len({len(batch) for batch in batches}) > 1:
            found = [
                self.step(images[row], params, batch, take(draws, row), subset, self.labels[row], frequencies)
                for row, batch, subset in zip(rows, batches, chosen, strict=True)
            ]
            slopes = [grads[1] for grads, _ in found] if self.ascends else []
            return [(grads[0], loss) for grads, loss in found], torch.stack(slopes).sum(dim=0) if slopes else None
        part = slice(rows.start, rows.stop)
        drawn = {name: value[part].unsqueeze(1) for name, value in draws.items()}
        together = None if subsets is None else torch.stack([subset for subset in chosen if subset is not None])
        step = self.grouped[together is not None]
        grads, losses = step(
            images[part], params, torch.stack(batches), drawn, together, self.labels[part], frequencies
        )
        slope = grads[1].sum(dim=0) if self.ascends else None
        return list(zip(grads[0].unbind(), losses.unbind(), strict=True)), slope


def _recording() -> bool:
    """Whether a CUDA graph is being recorded, in which no memory can be given back."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def own_module(own: threading.local, module: nn.Module) -> nn.Module:
    """The calling thread's copy of a module: a functional call swaps a module's tensors while it runs."""
    if not hasattr(own, "module"):
        own.module = copy.deepcopy(module)
    return own.module
