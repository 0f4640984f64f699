"""A naive network under training, and batches for it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from attar import models
from attar.training.train_state import TrainState
from helpers import naive


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def network(norm_type: str = "instance") -> tuple[models.Network, dict[str, Tensor]]:
    module = models.build(
        "convnet", depth=1, channels=2, nclass=3, size=(4, 4), width=4 / 128, norm_type=norm_type, seed=1
    ).double()
    return module, models.parameters_of(module)


def batches(count: int, n: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Images and soft targets."""
    return [(normal(n, 2, 4, 4, seed=i), normal(n, 3, seed=100 + i).softmax(1)) for i in range(count)]


class NaiveTrainState:
    """Plain SGD on the naive convnet."""

    def __init__(self, parameters: dict[str, Tensor], lr: float, momentum: float, decay: float) -> None:
        self.values = [value.clone() for value in parameters.values()]
        self.buffers: list[Tensor | None] = [None] * len(self.values)
        self.lr, self.momentum, self.decay = lr, momentum, decay

    def step(self, images: Tensor, targets: Tensor, rate: float = 1.0) -> Tensor:
        leaves = [value.requires_grad_() for value in self.values]
        loss = naive.cross_entropy(naive.convnet(dict(enumerate(leaves)), images), targets)
        for i, gradient in enumerate(torch.autograd.grad(loss, leaves)):
            self.values[i], self.buffers[i] = naive.sgd(
                leaves[i].detach(),
                gradient,
                self.buffers[i],
                lr=self.lr * rate,
                momentum=self.momentum,
                decay=self.decay,
            )
        return loss.detach()


def same(model: TrainState, twin: NaiveTrainState) -> None:
    for got, expected in zip(model.params.values(), twin.values, strict=True):
        torch.testing.assert_close(got.detach(), expected.detach(), rtol=1e-9, atol=1e-11)
