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
class Origin:
    """The tensors that a network begins with; member: which one of the pool it comes from, if any."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    member: int = -1


def drawn(pool: Pool, host: Generator) -> Origin:
    """A member as it is (Acc-DD section 3.2)."""
    index = pool.draw_index(host)
    return Origin(pool.members[index].params, pool.members[index].buffers, index)


def fresh(pool: Pool, host: Generator) -> Origin:
    """New weights of the pool's architecture (DC, DSA, DM, IDC)."""
    module = pool.build(int(torch.randint(SEEDS, (1,), generator=host)))
    return Origin(models.parameters_of(module), models.buffers_of(module))


def interpolated(pool: Pool, host: Generator) -> Origin:
    """u·θ_init + (1 − u)·θ_trained of a member, u ~ U(0, 1) (NCFM); its seed gives θ_init again."""
    index = pool.draw_index(host)
    member, share = pool.members[index], float(torch.rand((), generator=host))
    params = {}
    for name, first in pool.start(index).items():
        trained = member.params[name]
        params[name] = share * send(first, trained.device) + (1 - share) * trained
    return Origin(params, member.buffers, index)


ORIGINS: dict[str, Callable[[Pool, Generator], Origin]] = {
    "pool": drawn,
    "fresh": fresh,
    "interpolated": interpolated,
}
