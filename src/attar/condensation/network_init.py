"""Initial weights of a network: an early-stage model, as it ended or on its way, fresh ones, or between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attar import models
from attar.training.pool import Pool

MAX_SEED = 2**31  # exclusive, of fresh networks


@dataclass(frozen=True)
class InitialWeights:
    """The initial tensors of a network, the index of the pool's member they come from (-1: none), and its epoch."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    member: int = -1
    epoch: int = 0  # where they are a point on a trajectory


def from_pool(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """The weights of a member drawn from the pool (Acc-DD section 3.2)."""
    index = pool.draw_index(cpu_generator)
    return InitialWeights(pool.at(index), pool.members[index].buffers, index)


def fresh(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """Fresh weights of the pool's architecture (DC, DSA, DM, IDC)."""
    module = pool.build(int(torch.randint(MAX_SEED, (1,), generator=cpu_generator)))
    return InitialWeights(models.parameters_of(module), models.buffers_of(module))


def interpolated(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """u·θ_init + (1 − u)·θ_trained of a drawn member, u ~ U(0, 1) (NCFM)."""
    index = pool.draw_index(cpu_generator)
    fraction, start, end = float(torch.rand((), generator=cpu_generator)), pool.at(index, 0), pool.at(index)
    params = {name: fraction * start[name] + (1 - fraction) * value for name, value in end.items()}
    return InitialWeights(params, pool.members[index].buffers, index)


def at_epoch(pool: Pool, cpu_generator: Generator) -> InitialWeights:
    """The weights of a drawn member after a number of epochs, uniform from its start to its end (TGDD)."""
    index = pool.draw_index(cpu_generator)
    return _within(pool, index, 0, pool.members[index].points, cpu_generator)


def later(pool: Pool, index: int, epoch: int, count: int, cpu_generator: Generator) -> InitialWeights:
    """The weights of a member after one of `count` epochs from `epoch` on, as far as there are so many (TGDD)."""
    return _within(pool, index, epoch, min(epoch + count, pool.members[index].points), cpu_generator)


def _within(pool: Pool, index: int, low: int, high: int, cpu_generator: Generator) -> InitialWeights:
    epoch = int(torch.randint(low, high, (1,), generator=cpu_generator))
    return InitialWeights(pool.at(index, epoch), pool.members[index].buffers, index, epoch)


NETWORK_INITS: dict[str, Callable[[Pool, Generator], InitialWeights]] = {
    "pool": from_pool,
    "fresh": fresh,
    "interpolated": interpolated,
    "epoch": at_epoch,
}
