"""How a sweep over the classes is executed.

A sweep is data, draws, a loss per class and its gradient for the class's images. The published loop visits the classes
one after another and steps the whole image tensor after each; here all classes are computed at one point, and one step
gives the same result (`motion`, `synthetic.sweep_factors`). A class's gradient is one function, compiled once for all
classes of a shape; on a GPU the whole sweep is recorded as one CUDA graph, and a memory budget says how many classes
are computed at once.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.augment import Draw, apply, take
from attar.errors import UserError
from attar.execution import Compiled, Notice, Workers, precise
from attar.matching import LOSSES, Matching, Pair, eager_gradient, gradient
from attar.models import Features, Network, fixed_statistics
from attar.synthetic import decode_class

Step = Callable[..., tuple[tuple[Tensor, ...], Tensor]]  # (gradients, loss) of a class

LIVE = 8  # tensors that a class's step keeps per activation of the network (two passes, two backwards, second order)
SHARE = 0.6  # of the free memory, when no budget is named


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
                if _recording() or not self.halve():
                    raise

    def halve(self) -> bool:
        """Half the classes at once from now on, because memory was short; False where it is one already."""
        if self.chunk == 1:
            return False
        self.chunk = math.ceil(self.chunk / 2)
        self.execution.notice(f"not enough memory: from now on {self.chunk} classes are computed at once")
        if self.labels.device.type == "cuda":
            torch.cuda.empty_cache()
        return True

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


def _recording() -> bool:
    """Whether a CUDA graph is being recorded, in which no memory can be given back."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def own_module(own: threading.local, module: nn.Module) -> nn.Module:
    """The calling thread's copy of a module: a functional call swaps a module's tensors while it runs."""
    if not hasattr(own, "module"):
        own.module = copy.deepcopy(module)
    return own.module


def class_bytes(module: Network, channels: int, size: tuple[int, int], images: int) -> int:
    """An estimate of the memory, in bytes, that one class's step needs for so many real and decoded images.

    What the layers put out for one image is counted; `LIVE` such tensors per image are alive at the worst moment.
    """
    counts: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: counts.append(out.numel()))
        for layer in module.modules()
        if not list(layer.children())
    ]
    device = next(module.parameters()).device
    with torch.no_grad(), fixed_statistics(module):
        module(torch.zeros((1, channels, *size), device=device))
    for hook in hooks:
        hook.remove()
    return LIVE * sum(counts) * 4 * images


def choose_chunk(per_class: int, classes: int, device: torch.device, budget_gb: float | None) -> int:
    """How many classes are computed at once within a budget (in GB; by default a share of the free memory).

    On a CPU it is one: vectorising over classes turns weight gradients into grouped convolutions, which are slower
    there, and nothing is gained; `side_by_side` says how many threads a budget allows. Raises `UserError` when a named
    budget does not hold one class.
    """
    most = side_by_side(per_class, budget_gb)
    if device.type == "cpu":
        return 1
    if most is None:
        most = max(1, int(SHARE * torch.cuda.mem_get_info(device)[0] // per_class))
    most = min(classes, most)
    return math.ceil(classes / math.ceil(classes / most))  # groups of about equal size: two shapes at most to compile


def side_by_side(per_class: int, budget_gb: float | None) -> int | None:
    """How many classes a named budget (in GB) holds, None without one. Raises `UserError` when it does not hold one."""
    if budget_gb is None:
        return None
    if budget_gb * 1e9 < per_class:
        needed = f"about {per_class / 1e9:.2g} GB"
        raise UserError(f"a memory budget of {budget_gb:g} GB does not hold one class, which needs {needed}")
    return int(budget_gb * 1e9 // per_class)
