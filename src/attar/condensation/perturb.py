"""Weight perturbation (Acc-DD section 3.3): parameters → parameters."""

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

    A filter is one index of a tensor's first dimension. One-dimensional tensors (biases, norm scales) come back as they
    are. The given tensors are never written to; the result shares no memory with them.
    """
    device = generator.device
    u = torch.rand(4, generator=generator, device=device)
    sizes = (vmin + (vmax - vmin) * u[:2]) * torch.where(u[2:] < 0.5, -1.0, 1.0)
    moved = {}
    for name, theta in params.items():
        moved[name] = theta.detach().clone()
        if theta.dim() > 1:
            for size in sizes:
                direction = torch.randn(theta.shape, generator=generator, device=device, dtype=theta.dtype)
                moved[name] += size.to(theta.dtype) * rescale(direction, theta.detach())
    return moved


def rescale(direction: Tensor, theta: Tensor) -> Tensor:
    """`direction` with each filter (first dimension) scaled to the norm of θ's filter; shapes as θ."""
    own, wanted = direction.flatten(1).norm(dim=1), theta.flatten(1).norm(dim=1)
    ratio = torch.where(own > 0, wanted / own, 0.0)
    return direction * ratio.view(-1, *[1] * (theta.dim() - 1))
