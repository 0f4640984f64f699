"""Weight perturbation (Acc-DD section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor


def perturb(
    params: Mapping[str, Tensor],
    *,
    vmin: float,  # |a|, |b| ~ U(vmin, vmax)
    vmax: float,
    generator: Generator,  # on the parameters' device
) -> dict[str, Tensor]:
    """θ + a·d₁ + b·d₂ with two independent Gaussian directions, rescaled per filter to the norm of θ's filter.

    A filter is one index of a tensor's first dimension. One-dimensional tensors (biases, norm scales) are returned
    unchanged. The result shares no memory with `params`, which are not changed.
    """
    device = generator.device
    u = torch.rand(4, generator=generator, device=device)
    sizes = (vmin + (vmax - vmin) * u[:2]) * torch.where(u[2:] < 0.5, -1.0, 1.0)
    perturbed = {}
    for name, theta in params.items():
        perturbed[name] = theta.detach().clone()
        if theta.dim() > 1:
            for size in sizes:
                direction = torch.randn(theta.shape, generator=generator, device=device, dtype=theta.dtype)
                perturbed[name] += size.to(theta.dtype) * rescale(direction, theta.detach())
    return perturbed


def rescale(direction: Tensor, theta: Tensor) -> Tensor:
    """`direction` with each filter (first dimension) scaled to the norm of θ's filter; shapes as θ."""
    direction_norm, weight_norm = direction.flatten(1).norm(dim=1), theta.flatten(1).norm(dim=1)
    ratio = torch.where(direction_norm > 0, weight_norm / direction_norm, 0.0)
    return direction * ratio.view(-1, *[1] * (theta.dim() - 1))
