"""Building a cache of decoded images: a file that grows chunk by chunk, and a journal to go on from after a kill.

The journal says what the chunks hold. A later build takes over those whose source is the same and whose pixels agree
with it, up to the first that does not.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar import files
from attar.data import arrays
from attar.data.cache.mapped import Mapped, Store, check_of
from attar.data.cache.plan import FORMAT, CachePlan, digest
from attar.data.decode import Needs
from attar.data.decoding import CHUNK, Seen, decode_all
from attar.data.reading import Reading
from attar.errors import UserError, log, size_in_words

PIXELS, CHECKS, MANIFEST, JOURNAL = "images.u8", "checks.u32", "manifest.json", "journal.jsonl"


def build(work: Path, plan: CachePlan, reading: Reading) -> Path:
    """Fill a folder that this process holds, going on with what a build before left there. Returns the whole cache."""
    new = work / "cache"
    new.mkdir(exist_ok=True)
    files.clean(new, CHECKS, MANIFEST)
    said = manifest(new)
    if said is None or said["source"] != plan.source or intact(new, said) is None:
        (new / MANIFEST).unlink(missing_ok=True)
        with _File(new, plan) as sink:
            needs, seen = decode_all(plan.pictures, reading, sink.needs, sink)
        files.sync(new / PIXELS)
        checks = sink.checks
        files.atomically(new / CHECKS, lambda name: name.write_bytes(checks.astype("<u4").tobytes()))
        values = _describe(new, plan, checks, needs, seen)
        files.write_json(new / MANIFEST, values | {"seal": _seal(values)})
    (new / JOURNAL).unlink(missing_ok=True)
    return new


class _File:
    """A sink that is a file; what was begun before is in its journal."""

    def __init__(self, folder: Path, plan: CachePlan) -> None:
        self.folder, self.plan, self.step = folder, plan, 0
        self.checks = np.zeros(plan.pictures.count, np.uint32)
        self.entries = _journal(folder / JOURNAL)
        self.needs = plan.needs
        if self.entries and self.entries[0].get("plan") == plan.request:
            self.needs = Needs(*self.entries[0]["needs"])

    def __enter__(self) -> _File:
        (self.folder / PIXELS).touch()
        self.file = (self.folder / PIXELS).open("r+b")
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def begin(self, needs: Needs, shape: tuple[int, ...], step: int) -> tuple[int, Seen]:
        """Take over the chunks that journal and pixels agree on. Raises UserError where the disk is too small."""
        self.step, self.width, self.shape = step, math.prod(shape), shape
        head = {"plan": self.plan.request, "needs": list(needs), "shape": list(shape)}
        there, seen = self._there() if self.entries[:1] == [head] else (0, Seen())
        self.entries = []  # another pass begins anew
        (self.folder / JOURNAL).write_text("") if not there else None
        if there:
            total = math.ceil(self.plan.pictures.count / step)
            log.info("going on with a build that was interrupted: %d of %d parts are there", there, total)
            _keep_lines(self.folder / JOURNAL, 1 + there)
        else:
            files.append(self.folder / JOURNAL, head)
        self.file.truncate(there * step * self.width)
        missing = (self.plan.pictures.count - there * step) * self.width
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise UserError(
                f"the cache {self.folder.parent} needs {size_in_words(missing)} more, {size_in_words(free)} are free; "
                f"name another place with --cache_dir, or keep the images in memory with --load_memory"
            )
        return there, seen

    def write(self, chunk: int, images: np.ndarray, seen: Seen) -> None:
        """Write the images of a chunk, and then its line."""
        rows = self._rows(chunk)
        self.file.seek(rows.start * self.width)
        self.file.write(images.tobytes())
        self.file.flush()
        checks = [check_of(image) for image in images]
        self.checks[rows.start : rows.stop] = checks
        entry = {"stamp": self._stamp(rows), "checks": checks, "seen": asdict(seen)}
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")

    def _rows(self, chunk: int) -> range:
        return range(chunk * self.step, min((chunk + 1) * self.step, self.plan.pictures.count))

    def _stamp(self, rows: range) -> str:
        assert self.plan.pictures.stamp is not None
        return digest([self.plan.pictures.stamp(rows)])

    def _there(self) -> tuple[int, Seen]:
        """How many chunks are there, from the first on, and what was seen in them."""
        seen = Seen()
        for chunk, entry in enumerate(self.entries[1:]):
            try:
                rows, told = self._rows(chunk), Seen(**entry["seen"])
                if not rows or entry["stamp"] != self._stamp(rows):
                    return chunk, seen
                self.file.seek(rows.start * self.width)
                images = np.frombuffer(self.file.read(len(rows) * self.width), np.uint8).reshape(-1, self.width)
                if [check_of(image) for image in images] != entry["checks"]:
                    return chunk, seen
                self.checks[rows.start : rows.stop] = entry["checks"]
                seen.add(told)
            except (KeyError, TypeError, ValueError, OverflowError):
                return chunk, seen
        return len(self.entries) - 1, seen


def _journal(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, up to the first that is damaged."""
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict):
            break
        entries.append(entry)
    return entries


def _keep_lines(path: Path, count: int) -> None:
    lines = path.read_bytes().split(b"\n")[:count]
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _describe(folder: Path, plan: CachePlan, checks: np.ndarray, needs: Needs, seen: Seen) -> dict[str, Any]:
    """The manifest of a finished file of pixels, which is read once from start to end."""
    shape = (folder / PIXELS).stat().st_size // len(checks), *_shape(folder)
    store = Store(folder / PIXELS, (len(checks), *shape[1:]), checks, folder / MANIFEST)
    rows = np.setdiff1d(np.arange(plan.train), seen.bad)
    train = Mapped(store, rows, torch.device("cpu"))
    labels = torch.from_numpy(plan.labels[rows])
    mean, std = (plan.mean, plan.std) if plan.mean and plan.std else arrays.statistics(train)
    return {
        "format": FORMAT,
        "source": plan.source,
        "count": len(checks),
        "shape": list(shape[1:]),
        "needs": list(needs),
        "seen": asdict(seen),
        "mean": list(mean),
        "std": list(std),
        "fingerprint": arrays.fingerprint(train, labels, plan.classes),
        "check": _check_of_file(folder / PIXELS),
        "checks": hashlib.sha256(checks.astype("<u4").tobytes()).hexdigest(),
    }


def _check_of_file(file: Path) -> int:
    """The checksum of a file's content."""
    check = 0
    with file.open("rb") as opened:
        while raw := opened.read(CHUNK):
            check = zlib.crc32(raw, check)
    return check


def _shape(folder: Path) -> tuple[int, ...]:
    return tuple(_journal(folder / JOURNAL)[0]["shape"])


def manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest says; None when there is none, or it is not what was written."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        seal = values.pop("seal")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return values if seal == _seal(values) else None


def intact(folder: Path, said: dict[str, Any]) -> np.ndarray | None:
    """The checksums of all images, uint32 [count]; None unless the files are as long as the manifest has them."""
    try:
        raw = (folder / CHECKS).read_bytes()
        size = (folder / PIXELS).stat().st_size
    except FileNotFoundError:
        return None
    if size != said["count"] * math.prod(said["shape"]) or hashlib.sha256(raw).hexdigest() != said["checks"]:
        return None
    return np.frombuffer(raw, "<u4")


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
