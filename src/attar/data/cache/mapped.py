"""Images that stay in a file: rows are gathered from a memory map when they are asked for, and checked once."""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attar.engine.device import free_memory
from attar.errors import UserError

RELEASE = 16 << 20  # bytes mapped before the map's pages are given back: they stay in the system's own cache
AROUND = 128 << 10  # bytes that are mapped beside a row, at most: the system maps 64 kB around what is read
RESIDENT = 0.5  # a GPU takes all images when they need no more than this share of its free memory


def check_of(image: np.ndarray) -> int:
    """The checksum of one image."""
    return zlib.crc32(np.ascontiguousarray(image).data)


class Store:
    """A file of N images, uint8 [N, ch, H, W] row by row, and a checksum of each, uint32 [N].

    Every row is checked when a process uses it for the first time; where it is damaged `manifest` is removed, so that
    the next start builds the file anew. Another process that is handed a store opens the file for itself.
    """

    def __init__(self, path: Path, shape: Sequence[int], checks: np.ndarray, manifest: Path) -> None:
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), math.prod(shape), access=mmap.ACCESS_READ)
        self.path, self.checks, self.manifest = path, checks, manifest
        self.images = np.frombuffer(self.map, np.uint8).reshape(tuple(shape))
        self.checked = np.zeros(len(checks), bool)
        self.gathered = 0

    def __reduce__(self) -> tuple[type[Store], tuple[object, ...]]:
        return Store, (self.path, self.images.shape, self.checks, self.manifest)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these rows (int64 [n]). Raises UserError when one of them is not what was written."""
        images = self.images[rows]
        for place in np.flatnonzero(~self.checked[rows]):
            row = rows[place]
            if check_of(images[place]) != self.checks[row]:
                with suppress(OSError):  # where the cache is read-only
                    self.manifest.unlink()
                raise UserError(f"{self.path} is damaged at image {row}; start again, and the cache is built anew")
            self.checked[row] = True
        self.gathered += images.nbytes + len(images) * AROUND
        if self.gathered > RELEASE:  # what a process has mapped counts as its memory
            self.gathered = 0
            self.map.madvise(mmap.MADV_DONTNEED)
        return images


class InMemoryStore:
    """Images that are in memory, uint8 [N, ch, H, W], in the place of a `Store`."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these rows (int64 [n])."""
        return self.images[rows]

    @property
    def checks(self) -> np.ndarray:
        """The checksum of each image, uint32 [N]."""
        return np.asarray([check_of(image) for image in self.images], np.uint32)


class Mapped:
    """Some rows of a `Store`, used as a uint8 tensor [n, ch, H, W] is: an index gives a tensor on the device."""

    def __init__(self, store: Store | InMemoryStore, rows: np.ndarray, device: torch.device) -> None:
        self.store, self.device = store, device
        self.rows = rows  # int64 [n], places in the store
        self.shape = torch.Size((len(rows), *store.images.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def checks(self) -> np.ndarray:
        """The checksum of each image, uint32 [n]."""
        return self.store.checks[self.rows]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        place = rows if isinstance(rows, slice) else rows.cpu().numpy()
        images = torch.from_numpy(self.store.gather(self.rows[place]))
        if self.device.type == "cuda":
            return images.pin_memory().to(self.device, non_blocking=True)
        return images

    def split(self, batch: int) -> Iterator[Tensor]:
        """`batch` rows at a time, in order."""
        return (self[slice(start, start + batch)] for start in range(0, len(self), batch))

    def select(self, rows: Tensor) -> Mapped:
        """These rows (int64 [n]) only, still in the file."""
        return Mapped(self.store, self.rows[rows.cpu().numpy()], self.device)

    def to(self, device: torch.device) -> Tensor | Mapped:
        """For another device: all images there when they fit well, else still in the file and moved as fetched."""
        if device.type == "cuda" and math.prod(self.shape) <= RESIDENT * free_memory(device):
            return torch.cat([part.to(device) for part in self.split(max(1, RELEASE // math.prod(self.shape[1:])))])
        return Mapped(self.store, self.rows, device)


def chosen(images: Tensor | Mapped, rows: Tensor) -> Tensor | Mapped:
    """These rows, copied from memory or left in their file."""
    return images.select(rows) if isinstance(images, Mapped) else images[rows]
