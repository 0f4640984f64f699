"""A pool of early-stage models (Acc-DD section 3.2), whatever trained them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import build, describe
from attar.settings.config import NetworkConfig


@dataclass(frozen=True, eq=False)
class Member:
    """One early-stage model: its tensors, the settings it was trained with, its accuracy on the test images, if any."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    settings: dict[str, Any]
    accuracy: float | None  # a fraction
    name: str
    file: Path | None = None  # where it is kept

    @cached_property
    def digest(self) -> str:
        """Twelve digits that stand for the tensors."""
        found = hashlib.sha256()
        for name, value in sorted((self.params | self.buffers).items()):
            found.update(f"{name} {tuple(value.shape)}".encode())
            found.update(value.cpu().numpy().tobytes())
        return found.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Pool:
    """Networks of one architecture, made for one data set."""

    network: NetworkConfig
    made_for: dict[str, Any]  # dataset, nclass, channels, size, images (a fingerprint)
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def build(self, seed: int | None = None) -> models.Network:
        """A network of the pool's architecture, with fresh weights."""
        return build(self.network, self.made_for, seed)

    def draw(self, generator: Generator) -> Member:
        """A member, uniformly."""
        return self.members[self.draw_index(generator)]

    def draw_index(self, generator: Generator) -> int:
        """The number of a member, uniformly. It is drawn on the CPU, where it is needed."""
        return int(torch.randint(len(self.members), (1,), generator=generator))

    def start(self, index: int) -> dict[str, Tensor]:
        """The parameters that a member's training began with, on the CPU: its seed makes them again."""
        return models.parameters_of(self.build(self.members[index].settings["seed"]))

    def check(self, data: ImageData) -> None:
        """Raise `UserError` when the pool was made for other images than `data`."""
        for misfit in _misfits(self.made_for, describe(data)):
            raise UserError(f"the pool was made for {misfit}; `attar pretrain` trains one for these data")


def empty(data: ImageData, network: NetworkConfig) -> Pool:
    """An architecture without models, for what condenses on fresh networks."""
    return Pool(network, describe(data), ())


def _misfits(own: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Where `made_for` differs from what the data are, in words."""
    for key, value in wanted.items():
        if own.get(key) != value:
            yield f"{_words(key, own.get(key))}, not for {_words(key, value)}"


def _words(key: str, value: Any) -> str:
    if key == "size":
        return f"images of {'x'.join(map(str, value)) if isinstance(value, list) else value}"
    words = {"dataset": "the data set '{}'", "nclass": "{} classes", "images": "the training images {}"}
    return words.get(key, "images of {} channels").format(value)
