"""Building a cache of decoded images: many threads, a journal to go on from after a kill, one rename at the end.

The folder is made beside its place. The journal notes every finished chunk with the checksums of its rows; a later
build takes over the chunks whose source files are the same and whose pixels agree with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.data import arrays
from attar.data.cache.mapped import Mapped, Store, check_of
from attar.data.cache.plan import FORMAT, CachePlan, Watch, digest
from attar.engine.device import cores
from attar.errors import UserError

CHUNK = 4 << 20  # bytes of pixels that are built, and built again after a kill, as one piece
PIXELS, CHECKS, MANIFEST, JOURNAL = "images.u8", "checks.u32", "manifest.json", "journal.jsonl"


def build(folder: Path, plan: CachePlan, source: str, watch: Watch) -> None:
    """Make the cache beside its place, going on with what an earlier build left there, and move it to its place."""
    shape = plan.shape()
    work = folder.with_name(f"{folder.name}.building")
    work.mkdir(exist_ok=True)
    whole = manifest(work)
    if whole is None or whole["source"] != source or intact(work, whole, len(plan.stamps)) is None:
        (work / MANIFEST).unlink(missing_ok=True)
        checks = _fill(work, plan, shape, watch)
        write(work / CHECKS, checks.astype("<u4").tobytes())
        write(work / MANIFEST, json.dumps(_describe(work, plan, source, shape, checks), indent=2).encode())
    (work / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    _sync(folder.parent)


def _fill(work: Path, plan: CachePlan, shape: tuple[int, ...], watch: Watch) -> np.ndarray:
    """Decode all images into the file of pixels, many at once. Returns the checksum of each, uint32 [N + M]."""
    width, count = math.prod(shape), len(plan.stamps)
    step = max(1, CHUNK // width)
    chunks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    stamps = [digest([repr(shape), *(plan.stamps[row] for row in rows)]) for rows in chunks]
    checks = np.zeros(count, np.uint32)
    pixels = os.open(work / PIXELS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _reserve(pixels, work, count * width)
        done = _resumed(work, pixels, chunks, stamps, width)
        if done:
            watch.say(f"going on with a build that was interrupted: {len(done)} of {len(chunks)} parts are there")

        def one(number: int) -> np.ndarray:
            if number in done:
                return done[number]
            images = np.ascontiguousarray(np.stack([plan.decode(row) for row in chunks[number]]))
            view = images.data.cast("B")
            place = chunks[number].start * width
            while view:
                written = os.pwrite(pixels, view, place)
                view, place = view[written:], place + written
            return np.array([check_of(image) for image in images], np.uint32)

        with (work / JOURNAL).open("a") as journal, watch.stage("cache", len(chunks)) as stage:
            journal.write("\n")  # a kill may have left half a line
            with ThreadPoolExecutor(cores()) as threads:
                try:
                    for number, found in enumerate(threads.map(one, range(len(chunks)))):
                        checks[chunks[number].start : chunks[number].stop] = found
                        if number not in done:
                            line = {"chunk": number, "stamp": stamps[number], "checks": found.tolist()}
                            journal.write(json.dumps(line) + "\n")
                            journal.flush()
                        stage.advance()
                except BaseException:
                    threads.shutdown(cancel_futures=True)
                    raise
        os.fsync(pixels)
    finally:
        os.close(pixels)
    return checks


def _reserve(pixels: int, work: Path, size: int) -> None:
    """Give the file its size. Raises UserError when the disk has no room for it."""
    missing = size - os.fstat(pixels).st_blocks * 512
    free = shutil.disk_usage(work).free
    if missing > free:
        raise UserError(
            f"the cache {work.with_suffix('')} needs {missing / 1e9:.2g} GB more, {free / 1e9:.2g} GB are free; name "
            f"another place with --cache_dir, or keep the images in memory with --load_memory"
        )
    os.ftruncate(pixels, size)


def _resumed(
    work: Path, pixels: int, chunks: Sequence[range], stamps: Sequence[str], width: int
) -> dict[int, np.ndarray]:
    """The finished chunks, with the checksums of their rows: those the journal and the pixels agree on."""
    done: dict[int, np.ndarray] = {}
    try:
        lines = (work / JOURNAL).read_bytes().split(b"\n")
    except FileNotFoundError:
        return done
    for line in lines:
        try:
            entry = json.loads(line)
            number, checks = entry["chunk"], np.array(entry["checks"], np.uint32)
            rows = chunks[number] if entry["stamp"] == stamps[number] else range(0)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
            continue
        raw = os.pread(pixels, len(rows) * width, rows.start * width)
        images = np.frombuffer(raw, np.uint8).reshape(-1, width)
        if rows and len(images) == len(rows) and [check_of(image) for image in images] == checks.tolist():
            done[number] = checks
    return done


def _describe(work: Path, plan: CachePlan, source: str, shape: tuple[int, ...], checks: np.ndarray) -> dict[str, Any]:
    """The manifest of a finished file of pixels, which is read once from start to end."""
    store = Store(work / PIXELS, (len(plan.stamps), *shape), checks, work / MANIFEST)
    train = Mapped(store, plan.halves()[0], torch.device("cpu"))
    labels = torch.from_numpy(plan.labels[: plan.train])
    mean, std = (plan.mean, plan.std) if plan.mean and plan.std else arrays.statistics(train)
    values = {
        "format": FORMAT,
        "source": source,
        "name": plan.name,
        "classes": list(plan.classes),
        "train": plan.train,
        "test": len(plan.stamps) - plan.train,
        "shape": list(shape),
        "mean": list(mean),
        "std": list(std),
        "fingerprint": arrays.fingerprint(train, labels, plan.classes),
        "checks": hashlib.sha256(checks.astype("<u4").tobytes()).hexdigest(),
    }
    return values | {"seal": _seal(values)}


def write(path: Path, raw: bytes) -> None:
    """Write a file whole or not at all. Its temporary name is always the same: nothing is left by a build that ends."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make renames in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest says; None when there is none, or it is not what was written."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        seal = values.pop("seal")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return values if seal == _seal(values) else None


def intact(folder: Path, said: dict[str, Any], count: int) -> np.ndarray | None:
    """The checksums of all images, uint32 [count]; None unless the files are as long as the manifest has them."""
    try:
        raw = (folder / CHECKS).read_bytes()
        size = (folder / PIXELS).stat().st_size
    except FileNotFoundError:
        return None
    if size != count * math.prod(said["shape"]) or hashlib.sha256(raw).hexdigest() != said["checks"]:
        return None
    return np.frombuffer(raw, "<u4")


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
