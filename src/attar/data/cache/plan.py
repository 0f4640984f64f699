"""What a cache of decoded images shall hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.data.decode import Needs
from attar.data.pictures import Pictures

FORMAT = 2  # of a cache's files


@dataclass(frozen=True)
class CachePlan:
    """What a cache holds, and how its images are made. Rows of training images come first."""

    name: str
    origin: str  # where the images come from: another place is another cache
    classes: tuple[str, ...]
    labels: np.ndarray  # int64 [N + M]
    train: int  # N
    pictures: Pictures  # N + M, with stamps
    needs: Needs  # what is asked for: size and channels
    largest_side: int  # of a size that is chosen
    skip_bad: bool
    mean: Sequence[float] | None = None  # constants; computed from the training images where there are none
    std: Sequence[float] | None = None

    @property
    def place(self) -> str:
        """The name of the cache's folder."""
        key = digest(
            [self.origin, self.name, repr(self.needs), str(self.largest_side), str(self.skip_bad), *self.classes]
        )
        return f"{self.name}-{len(self.classes)}x{self.needs.size or 'own'}-{key[:10]}"

    @property
    def request(self) -> str:
        """A digest of how the images are read: parts of a cache of another request are of no use."""
        return digest([str(FORMAT), self.place])

    @cached_property
    def source(self) -> str:
        """A digest of all that decides what the cache holds."""
        assert self.pictures.stamp is not None
        labels = hashlib.sha256(self.labels.tobytes()).hexdigest()
        stamps = self.pictures.stamp(range(self.pictures.count))
        return digest([self.request, str(self.train), repr(self.mean), repr(self.std), labels, stamps])


def digest(parts: Sequence[str]) -> str:
    """sha256 of texts, one after another with their lengths."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape")  # file names are bytes
        total.update(f"{len(raw)}:".encode() + raw)
    return total.hexdigest()
