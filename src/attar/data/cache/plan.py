"""What a cache of decoded images shall hold, where it is kept, and who is told about it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

FORMAT = 1  # of a cache's files

Notice = Callable[[str], None]


class Stage(Protocol):
    """A stage of a known number of steps."""

    def advance(self, note: str = "") -> None:
        """One step is done."""


class Watch(Protocol):
    """Who is told how a build goes on."""

    def say(self, line: str) -> None:
        """One line."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """A stage of `total` steps."""


class Silent:
    """Nobody is told."""

    def say(self, line: str) -> None:
        """Nothing."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """Steps that nobody counts."""
        return nullcontext(self)

    def advance(self, note: str = "") -> None:
        """Nothing."""


SILENT = Silent()


@dataclass(frozen=True)
class CacheOptions:
    """Where decoded images are kept, and what becomes of those that cannot be decoded.

    In memory, or in a cache below `root` when their files are large or it is named.

    root: $ATTAR_CACHE or ~/.cache/attar where None; skip_bad: leave unreadable images out; notice: gets a line about
    them.
    """

    memory: bool = False
    root: Path | None = None
    watch: Watch = SILENT
    skip_bad: bool = False
    notice: Notice = lambda line: None

    def folder(self, kind: str) -> Path:
        """The folder that holds all caches of a kind: `images` of folders, `decoded` tables."""
        named = self.root or os.environ.get("ATTAR_CACHE")
        return (Path(named).expanduser() if named else Path.home() / ".cache" / "attar") / kind


@dataclass(frozen=True)
class CachePlan:
    """What a cache holds, and how its images are made. Rows of training images come first."""

    name: str
    origin: str  # where the images come from: another folder is another cache
    size: int | None
    classes: Sequence[str]
    labels: np.ndarray  # int64 [N + M]
    train: int  # N
    stamps: Sequence[str]  # one per row; another stamp is another image
    shape: Callable[[], tuple[int, ...]]  # [ch, H, W] of all images
    decode: Callable[[int], np.ndarray]  # row -> uint8 [ch, H, W]
    mean: Sequence[float] | None = None  # constants; computed from the training images where there are none
    std: Sequence[float] | None = None

    @property
    def place(self) -> str:
        """The name of the cache's folder."""
        key = digest([self.origin, self.name, str(self.size), *self.classes])[:10]
        return f"{self.name}-{len(self.classes)}x{self.size or 'own'}-{key}"

    @property
    def source(self) -> str:
        """A digest of all that decides what the cache holds."""
        fixed = [str(FORMAT), self.place, str(self.train), repr(self.mean), repr(self.std)]
        return digest([*fixed, *map(str, self.labels.tolist()), *self.stamps])

    def without(self, rows: Sequence[int]) -> CachePlan:
        """The same without the images of these rows, which `decode` has to count without them then."""
        out = set(rows)
        stamps = [stamp for row, stamp in enumerate(self.stamps) if row not in out]
        train = self.train - sum(row < self.train for row in out)
        return replace(self, labels=np.delete(self.labels, sorted(out)), train=train, stamps=stamps)

    def halves(self) -> list[np.ndarray]:
        """The rows of the training images and those of the test images, int64."""
        return np.split(np.arange(len(self.stamps)), [self.train])


def digest(parts: Sequence[str]) -> str:
    """sha256 of texts, one after another with their lengths."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape")  # file names are bytes
        total.update(f"{len(raw)}:".encode() + raw)
    return total.hexdigest()
