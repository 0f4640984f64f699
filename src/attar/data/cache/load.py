"""Folders of images decoded once: a file of uint8 pixels that later starts map into memory.

A cache is a folder <name>-<classes>x<size>-<key> with `images.u8` (training rows, then test rows), `checks.u32` (a
checksum of each row) and `manifest.json`. It is built beside its place and renamed when it is whole. A journal notes
every finished chunk with the checksums of its rows, so a build that was killed goes on (see `build`).

What is trusted: at every start the names, sizes and times of the source files, the manifest's own digest, the sizes of
the files and the digest of the checksums; each image when a process uses it first. Reading it all at every start would
take as long as an epoch.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from attar.data.cache.build import MANIFEST, PIXELS, build, intact, manifest, write
from attar.data.cache.mapped import Mapped, Store
from attar.data.cache.plan import CacheOptions, CachePlan, Watch, digest
from attar.data.decode import BadImage
from attar.data.images import ImageData
from attar.errors import UserError


def load(plan: CachePlan, cache_options: CacheOptions) -> ImageData:
    """The images of a plan from their cache, which is built first where there is none or it does not fit.

    One process builds; others wait for it. Raises UserError when the cache cannot be written, or an image not be read.
    """
    folder = cache_options.folder("images") / plan.place
    source = plan.source
    with _blamed_on(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock")
        with _locked(lock, fcntl.LOCK_SH, cache_options.watch):
            found, _ = _open(folder, plan, source)
        if found is None:
            with _locked(lock, fcntl.LOCK_EX, cache_options.watch):
                found, reason = _open(folder, plan, source)  # another process may have built it by now
                if found is None:
                    cache_options.watch.say(f"{reason}: {len(plan.stamps)} images go into the cache {folder}, once")
                    build(folder, plan, source, cache_options.watch)
                    found, reason = _open(folder, plan, source)
        if found is None:
            raise UserError(f"the cache {folder} cannot be read back ({reason}); keep the images with --load_memory")
    gigabytes = len(plan.stamps) * math.prod(found.images.shape[1:]) / 1e9
    cache_options.watch.say(f"{plan.name}: {len(plan.stamps)} images ({gigabytes:.2g} GB) from the cache {folder}")
    return found


def known_bad(plan: CachePlan, cache_options: CacheOptions, find: Callable[[], list[int]]) -> list[int]:
    """The rows of a plan whose files cannot be decoded: `find` says it once, until a file changes. Kept on disk."""
    folder = cache_options.folder("images") / plan.place
    file = folder.with_name(f"{folder.name}.bad.json")
    with _blamed_on(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        found = _listed(file, plan)
        if found is not None:
            return found
        with _locked(folder.with_name(f"{folder.name}.lock"), fcntl.LOCK_EX, cache_options.watch):
            found = _listed(file, plan)  # another process may have looked by now
            if found is None:
                cache_options.watch.say(f"{plan.name}: {len(plan.stamps)} images are tried for unreadable ones, once")
                found = find()
                write(file, json.dumps({"rows": found, "seal": digest([plan.source, *map(str, found)])}).encode())
    return found


def _listed(file: Path, plan: CachePlan) -> list[int] | None:
    """The rows in a list of unreadable files; None when there is none, it is damaged, or the files have changed."""
    try:
        said = json.loads(file.read_bytes())
        rows = [int(row) for row in said["rows"]]
        return rows if said["seal"] == digest([plan.source, *map(str, rows)]) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


@contextmanager
def _blamed_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except BadImage as error:  # how many there are would take a second reading of many images
        raise UserError(f"{error}; repair or remove it, or leave unreadable images out with --skip_bad") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be used: {error.strerror or error}; name another place with --cache_dir, "
            f"or keep the images in memory with --load_memory"
        ) from error


@contextmanager
def _locked(path: Path, kind: int, watch: Watch) -> Iterator[None]:
    """Hold a lock that ends with the process, shared or alone; a line is said when another process has it."""
    with path.open("r" if kind == fcntl.LOCK_SH and path.exists() else "a") as file:  # a cache may be read-only
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            watch.say(f"another process is at the cache {path.with_suffix('')}; waiting for it")
            fcntl.flock(file, kind)
        yield


def _open(folder: Path, plan: CachePlan, source: str) -> tuple[ImageData | None, str]:
    """The images, or None and why they are not to be had."""
    said = manifest(folder)
    if said is None:
        there = (folder / MANIFEST).exists()
        return None, f"the cache of {plan.name} is damaged" if there else f"{plan.name} has no cache yet"
    if said["source"] != source:
        return None, f"the files of {plan.name} have changed"
    shape = (len(plan.stamps), *said["shape"])
    checks = intact(folder, said, len(plan.stamps))
    if checks is None:
        return None, f"the cache of {plan.name} is damaged"
    store = Store(folder / PIXELS, shape, checks, folder / MANIFEST)
    train, test = (Mapped(store, rows, torch.device("cpu")) for rows in plan.halves())
    labels = torch.from_numpy(plan.labels)
    data = ImageData.mapped(
        train,
        labels[: plan.train],
        test if len(test) else None,
        labels[plan.train :] if len(test) else None,
        classes=plan.classes,
        mean=said["mean"],
        std=said["std"],
        computed=plan.mean is None,
        name=plan.name,
        fingerprint=said["fingerprint"],
    )
    return data, ""
