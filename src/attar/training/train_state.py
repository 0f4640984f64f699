"""A network under training: its tensors, its optimiser, a step, the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from attar.errors import choose

Gradients = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
Batch = tuple[Tensor, Tensor]  # images [n, ch, H, W] normalised and augmented, targets float [n, C]


@dataclass
class TrainState:
    """A network under training: a module that only gives the shape, its tensors, and their optimiser.

    params: leaf tensors that the optimiser updates in place; buffers: running statistics of batch norm, if any.
    """

    module: nn.Module
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    def __call__(self, images: Tensor) -> Tensor:
        return functional_call(self.module, {**self.params, **self.buffers}, (images,))


def start_training(
    module: nn.Module,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    optimizer: str = "sgd",
) -> TrainState:
    """Put an optimiser (sgd, adam or adamw) on copies of `params` and `buffers`."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    copies = {name: value.detach().clone() for name, value in buffers.items()}
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(leaves.values(), lr=lr, momentum=momentum, weight_decay=weight_decay),
        "adam": lambda: torch.optim.Adam(leaves.values(), lr=lr, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW(leaves.values(), lr=lr, weight_decay=weight_decay),
    }
    return TrainState(module, leaves, copies, makers[choose("optimizer", optimizer, makers)]())


def reset(model: TrainState, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Start again from `params` and `buffers` with a fresh optimiser state of SGD, in the same memory."""
    with torch.no_grad():
        for own, given in ((model.params, params), (model.buffers, buffers)):
            for name, value in own.items():
                value.copy_(given[name])
        for state in model.optimizer.state.values():
            state["momentum_buffer"].zero_()  # μ·0 + g is what a first step starts from


def optimizer_state(model: TrainState) -> dict[str, Tensor]:
    """What the optimiser keeps, as "parameter/what"."""
    kept = model.optimizer.state
    return {f"{name}/{key}": kept[leaf][key] for name, leaf in model.params.items() for key in kept.get(leaf, {})}


def restore_optimizer(model: TrainState, values: Mapping[str, Tensor]) -> None:
    """Give the optimiser what `optimizer_state` found."""
    for path, value in values.items():
        name, _, key = path.rpartition("/")
        # Adam counts its steps on the CPU, wherever its tensors are
        model.optimizer.state[model.params[name]][key] = value.cpu() if key == "step" else value


def step(model: TrainState, images: Tensor, targets: Tensor, gradients: Gradients | None = None) -> Tensor:
    """One step of the mean cross-entropy with soft targets [n, C]. Returns the loss, still on the device.

    gradients: computes (gradients, loss) in autograd's place, compiled or at another precision.
    """
    model.module.train()
    leaves = model.params
    if gradients is None:
        loss = F.cross_entropy(model(images), targets)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    else:
        plain = {name: value.detach() for name, value in leaves.items()}
        grads, loss = gradients(plain, model.buffers, images, targets)
    for name, leaf in leaves.items():
        leaf.grad = grads[name]
    model.optimizer.step()
    return loss.detach()


def decay(epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in `epoch` (counted from 0): ×.2 at 2/3 and again at 5/6 of `epochs`."""
    return 0.2 ** ((3 * epoch >= 2 * epochs) + (6 * epoch >= 5 * epochs))


@torch.no_grad()
def accuracy(model: TrainState, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label (labels int64 [n] as targets)."""
    model.module.eval()
    right, count = [], 0
    for images, labels in batches:
        right.append((model(images).argmax(dim=1) == labels).sum())
        count += len(labels)
    model.module.train()
    return float(torch.stack(right).sum()) / count
