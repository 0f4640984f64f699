"""Initial weights of a network: an early-stage model, fresh weights, or an interpolation of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attar import models
from attar.engine.device import send
from attar.training.pool import Pool

MAX_SEED = 2**31  # exclusive, of fresh networks


@dataclass(frozen=True)
class InitialWeights:
    """The initial tensors of a network, and the index of the pool's member they come from (-1: none)."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    member: int = -1


def from_pool(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """The weights of a member drawn from the pool (Acc-DD section 3.2)."""
    index = pool.draw_index(cpu_generator)
    return InitialWeights(pool.members[index].params, pool.members[index].buffers, index)


def fresh(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """Fresh weights of the pool's architecture (DC, DSA, DM, IDC)."""
    module = pool.build(int(torch.randint(MAX_SEED, (1,), generator=cpu_generator)))
    return InitialWeights(models.parameters_of(module), models.buffers_of(module))


def interpolated(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """u·θ_init + (1 − u)·θ_trained of a drawn member, u ~ U(0, 1) (NCFM). θ_init is made again from its seed."""
    index = pool.draw_index(cpu_generator)
    member, fraction = pool.members[index], float(torch.rand((), generator=cpu_generator))
    params = {}
    for name, initial in pool.start(index).items():
        trained = member.params[name]
        params[name] = fraction * send(initial, trained.device) + (1 - fraction) * trained
    return InitialWeights(params, member.buffers, index)


NETWORK_INITS: dict[str, Callable[[Pool, Generator], InitialWeights]] = {
    "pool": from_pool,
    "fresh": fresh,
    "interpolated": interpolated,
}
