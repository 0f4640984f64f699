"""Where the network of a sweep comes from: an early-stage model, a fresh one, or a point on a model's way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attar import models
from attar.engine.device import send
from attar.training.pool import Pool

SEEDS = 2**31  # of fresh networks


@dataclass(frozen=True)
class InitialWeights:
    """The tensors that a network begins with; member: which one of the pool it comes from, if any."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    member: int = -1


def drawn(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """A member as it is (Acc-DD section 3.2)."""
    index = pool.draw_index(cpu_generator)
    return InitialWeights(pool.members[index].params, pool.members[index].buffers, index)


def fresh(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """New weights of the pool's architecture (DC, DSA, DM, IDC)."""
    module = pool.build(int(torch.randint(SEEDS, (1,), generator=cpu_generator)))
    return InitialWeights(models.parameters_of(module), models.buffers_of(module))


def interpolated(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """u·θ_init + (1 − u)·θ_trained of a member, u ~ U(0, 1) (NCFM); its seed gives θ_init again."""
    index = pool.draw_index(cpu_generator)
    member, share = pool.members[index], float(torch.rand((), generator=cpu_generator))
    params = {}
    for name, first in pool.start(index).items():
        trained = member.params[name]
        params[name] = share * send(first, trained.device) + (1 - share) * trained
    return InitialWeights(params, member.buffers, index)


NETWORK_INITS: dict[str, Callable[[Pool, Generator], InitialWeights]] = {
    "pool": drawn,
    "fresh": fresh,
    "interpolated": interpolated,
}
