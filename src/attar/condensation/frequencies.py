"""Where two distributions of features are compared: the frequencies of their characteristic functions (NCFM section 3).

Either Gaussian, drawn anew for each sweep, or made from Gaussian noise by a small network ψ that is trained to raise
the loss which the images lower.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from attar.training import train_state
from attar.training.train_state import Learner

SLOPE = 0.2  # of the leaky ReLU
LAYERS = 3


def gaussian(count: int, features: int, generator: Generator) -> Tensor:
    """Frequencies [count, features]."""
    return torch.randn((count, features), generator=generator, device=generator.device)


def sampler(features: int, lr: float, seed: int, device: torch.device) -> Learner:
    """The network ψ from noise to frequencies, both [T, features]: linear layers, each with batch norm.

    Leaky ReLU between them, tanh at the end. Its weights come from `seed` alone, uniform as PyTorch's; the norms know
    the batch only.
    """
    layers: list[nn.Module] = []
    with torch.device("meta"):  # the shape: nothing is drawn
        for layer in range(LAYERS):
            norm = nn.BatchNorm1d(features, track_running_stats=False)
            last = layer == LAYERS - 1
            layers += [nn.Linear(features, features), norm, nn.Tanh() if last else nn.LeakyReLU(SLOPE)]
        module = nn.Sequential(*layers)
    generator, bound = Generator().manual_seed(seed), 1 / math.sqrt(features)
    params = {}
    for name, value in module.named_parameters():
        norms = isinstance(module.get_submodule(name.rpartition(".")[0]), nn.BatchNorm1d)
        start = torch.rand(value.shape, generator=generator) * 2 * bound - bound
        params[name] = (torch.full(value.shape, float(name.endswith("weight"))) if norms else start).to(device)
    return train_state.learner(module, params, {}, lr=lr, momentum=0, weight_decay=0, optimizer="adam")


def sampled(student: Learner, count: int, features: int, generator: Generator) -> Tensor:
    """Frequencies [count, features] that ψ makes; `learn` wants them with their graph."""
    return functional_call(student.module, student.params, (gaussian(count, features, generator),))


def learn(student: Learner, frequencies: Tensor, slope: Tensor) -> None:
    """One step of ψ up the loss, whose gradient for the frequencies is `slope`."""
    leaves = student.params.values()
    for leaf, grad in zip(leaves, torch.autograd.grad(frequencies, list(leaves), -slope), strict=True):
        leaf.grad = grad
    student.optimizer.step()
