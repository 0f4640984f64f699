"""A pool of early-stage models (Acc-DD section 3.2) in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.data.images import ImageData
from attar.engine.device import send
from attar.errors import UserError
from attar.models.for_data import build, describe
from attar.settings.config import NetworkConfig

KEPT = {"bf16": torch.bfloat16, "float32": torch.float32}  # the setting `keep_as`


@dataclass(frozen=True, eq=False)
class Member:
    """One early-stage model: its tensors, its training settings, and its test accuracy (None without test images).

    epochs: by parameter [epochs + 1, …], on the CPU: the start and each epoch, where they were kept; else empty.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    settings: dict[str, Any]
    accuracy: float | None  # a fraction
    name: str
    file: Path | None = None  # the file it was read from or saved in
    epochs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """How many points of its training were kept, its start included."""
        return len(next(iter(self.epochs.values()), ()))

    @cached_property
    def digest(self) -> str:
        """The first twelve hexadecimal digits of a SHA-256 of the tensors, those of the kept epochs included."""
        digest = hashlib.sha256()
        for name, value in [*sorted((self.params | self.buffers).items()), *sorted(self.epochs.items())]:
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Pool:
    """Early-stage models of one architecture, trained on one data set: what `attar.pretrain` returns.

    Attributes:
        network: the architecture.
        made_for: the data set: its name, classes, channels, size, mean and std, and a digest of its images.
        members: the models, each with `params`, `accuracy` and `epochs`; none for methods with fresh networks.
    """

    network: NetworkConfig
    made_for: dict[str, Any]  # dataset, nclass, channels, size, images (a fingerprint), mean, std
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def build(self, seed: int) -> models.Network:
        """A network of the pool's architecture with fresh weights, which `seed` determines."""
        return build(self.network, self.made_for, seed)

    def draw_index(self, generator: Generator) -> int:
        """Draw the index of a member uniformly. The generator must be on the CPU, where the index is used."""
        return int(torch.randint(len(self.members), (1,), generator=generator))

    def at(self, index: int, epoch: int | None = None) -> dict[str, Tensor]:
        """A point on a member's trajectory: its parameters after some epochs.

        Args:
            index: which member.
            epoch: 0 is the start, which is made again from the seed where it was not kept; None the end.

        Returns:
            The parameters by name, on the device of the pool.

        Raises:
            UserError: for an epoch that was not kept (`keep_epochs`), and for one that is not finite.
        """
        member = self.members[index]
        if epoch is None:
            return member.params
        if not member.epochs and epoch == 0:
            params = models.parameters_of(self.build(member.settings["seed"]))
        elif epoch >= member.points:
            raise UserError(f"{member.name} has no epoch {epoch}; `attar pretrain --keep_epochs` keeps all of a model")
        else:
            params = {name: values[epoch] for name, values in member.epochs.items()}
            if not all(bool(value.isfinite().all()) for value in params.values()):
                raise UserError(f"{member.file or member.name} is damaged: epoch {epoch} is not finite")
        return {name: send(params[name], end.device).to(end.dtype, copy=True) for name, end in member.params.items()}

    def check(self, data: ImageData) -> None:
        """Raise `UserError` when the pool was made for other images than `data`."""
        for difference in data_differences(self.made_for, describe(data)):
            raise UserError(f"the pool was made for {difference}; `attar pretrain` trains one for these data")


def empty(data: ImageData, network: NetworkConfig) -> Pool:
    """A pool of an architecture without models, for methods that condense on fresh networks."""
    return Pool(network, describe(data), ())


def data_differences(made_for: dict[str, Any], described: dict[str, Any]) -> Iterator[str]:
    """Yield each difference between the data that a model was trained on and data as `describe` gives them, as text."""
    for key in described | made_for:
        value = described.get(key)
        if made_for.get(key) != value:
            yield f"{_property_text(key, made_for.get(key))}, not for {_property_text(key, value)}"


def _property_text(key: str, value: Any) -> str:
    if key == "size":
        return f"images of {'x'.join(map(str, value)) if isinstance(value, list) else value}"
    if key == "space":
        return "images in ZCA space (--zca)" if value else "images normalised by channel"
    texts = {
        **{"dataset": "the data set '{}'", "nclass": "{} classes", "images": "the training images {}"},
        **{name: f"images normalised by the {name} {{}}" for name in ("mean", "std")},
    }
    return texts.get(key, "images of {} channels").format(value)
