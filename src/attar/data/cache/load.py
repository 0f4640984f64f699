"""Images decoded once: a file of uint8 pixels that later starts map into memory, or read.

A cache is a folder <name>-<classes>x<size>-<key> with `images.u8` (training rows, then test rows), `checks.u32` (a
checksum of each row) and `manifest.json`. It is built beside its place and renamed when it is whole. A build that was
killed goes on (see `build`).

What is trusted: at every start the stamps of the source (names, sizes and times of files), the manifest's own digest,
the sizes of the files and the digest of the checksums; each image when a process uses it first. Reading it all at every
start would take as long as an epoch.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from attar import files
from attar.data.cache.build import PIXELS, build, intact, manifest
from attar.data.cache.mapped import Mapped, Store
from attar.data.cache.plan import CachePlan
from attar.data.decode import Needs
from attar.data.decoding import Seen
from attar.data.reading import Reading
from attar.errors import UserError, WriteError, counted, log, size_in_words


class Cached(NamedTuple):
    """A cache that fits its plan.

    store: all rows, uint8 [N + M, ch, H, W]; mean, std: per channel; needs, seen: when they were decoded.
    """

    store: Store
    mean: list[float]
    std: list[float]
    fingerprint: str
    needs: Needs
    seen: Seen
    check: int  # the checksum of all pixels

    def rows(self, rows: np.ndarray) -> Mapped:
        """Some of the images, still in their file."""
        return Mapped(self.store, rows, torch.device("cpu"))


def load(plan: CachePlan, reading: Reading) -> Cached:
    """The images of a plan from their cache, which is built first where there is none or it does not fit.

    One process builds; others wait for it.

    Args:
        plan: what the cache holds.
        reading: where caches lie, and whether unreadable images are skipped.

    Returns:
        The cache.

    Raises:
        UserError: when the cache cannot be written, or an image not be read.
    """
    folder = reading.caches / plan.place
    with _blamed_on(folder):
        cached, _ = _open(folder, plan)
        if cached is None:
            work = folder.with_name(f"{folder.name}.building")
            with files.held(work, wait=True):
                cached, reason = _open(folder, plan)  # another process may have built it by now
                if cached is None:
                    count = counted(plan.pictures.count, "image")
                    log.info("%s: %s to put into the cache %s, once", reason, count, folder)
                    whole = build(work, plan, reading)
                    shutil.rmtree(folder, ignore_errors=True)
                    whole.rename(folder)
                    files.sync(folder.parent)
                    cached, reason = _open(folder, plan)
            with suppress(OSError):
                work.rmdir()  # where a killed build had made it
        if cached is None:
            raise UserError(f"the cache {folder} cannot be read back ({reason}); keep the images with --load_memory")
    size = size_in_words(cached.store.images.nbytes)
    count = counted(plan.pictures.count, "image")
    log.info("%s: %s (%s) from the cache %s", plan.name, count, size, folder)
    return cached


def find(plan: CachePlan, reading: Reading) -> Cached | None:
    """The cache of a plan, where there is one that fits."""
    return _open(reading.caches / plan.place, plan)[0]


def read_whole(cached: Cached) -> np.ndarray | None:
    """All rows of a cache, uint8 [n, ch, H, W]; None when they are not what was written."""
    store = cached.store
    whole = np.fromfile(store.path, np.uint8)
    return whole.reshape(store.images.shape) if zlib.crc32(whole.data) == cached.check else None


@contextmanager
def _blamed_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except WriteError as error:
        raise UserError(f"{error}; name another place with --cache_dir, or use --load_memory") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be used: {error.strerror or error}; name another place with --cache_dir, "
            f"or keep the images in memory with --load_memory"
        ) from error


def _open(folder: Path, plan: CachePlan) -> tuple[Cached | None, str]:
    """The cache, or None and why it is not to be had."""
    said = manifest(folder)
    if said is None:
        there = folder.exists()
        return None, f"the cache of {plan.name} is damaged" if there else f"{plan.name} has no cache yet"
    if said["source"] != plan.source:
        return None, f"the files of {plan.name} have changed"
    checks = intact(folder, said)
    if checks is None:
        return None, f"the cache of {plan.name} is damaged"
    store = Store(folder / PIXELS, (len(checks), *said["shape"]), checks, folder / "manifest.json")
    needs, seen = Needs(*said["needs"]), Seen(**said["seen"])
    return Cached(store, said["mean"], said["std"], said["fingerprint"], needs, seen, said["check"]), ""
