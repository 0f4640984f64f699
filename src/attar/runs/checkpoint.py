"""Checkpoints: a state as a folder of tensors, JSON and checksums, whole at every instant. Nothing is a pickle.

`checkpoint/` holds the last state and `checkpoint.previous/` the one before it. A new one is written beside them, waits
until it is on the disk, and takes its place by renaming.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save_file
from torch import Tensor, contiguous_format

from attar import files
from attar.condensation.state import SavedState
from attar.errors import UserError, WriteError, log
from attar.signals import Stop

FORMAT = 1
CURRENT, PREVIOUS, DAMAGED = "checkpoint", "checkpoint.previous", "checkpoint.damaged"
FOLDERS = (CURRENT, PREVIOUS, DAMAGED)
TENSORS, PLAIN, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
MARK = "$tensor"  # the key that stands in the JSON where a tensor stood
EVERY = "5m"
# Spend at most 2 % of the time on writing: two checkpoints are at least so many times apart as one takes.
MIN_CHECKPOINT_SPACING = 50
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Damaged(UserError):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Interval:
    """How long to wait between two checkpoints: seconds of wall time, or inner iterations."""

    seconds: float = math.inf
    iterations: float = math.inf


def interval(text: str) -> Interval:
    """Read `600`, `600s`, `10m`, `2h` or `50it`; `none` is never. Raises `UserError` for anything else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h|it)?", text.strip())
    if text.strip() == "none":
        return Interval()
    if found is None or (found[2] == "it" and not (found[1].isdigit() and int(found[1]))):
        raise UserError(
            f"save_every must be a time or a number of inner iterations, such as 600s, 10m, 2h, 50it or none, "
            f"not '{text}'"
        )
    if found[2] == "it":
        return Interval(iterations=int(found[1]))
    return Interval(seconds=float(found[1]) * UNITS[found[2] or ""])


class Keeper:
    """Writes a run's state when it is due, when it is told to, and when a signal asks for it, which it then raises."""

    def __init__(self, run: Path, every: Interval, stop: Stop) -> None:
        self.run, self.every, self.stop = run, every, stop
        self.iterations = 0
        self.last = time.perf_counter()
        self.cost = 0.0

    def __call__(self, values: Callable[[], SavedState], now: bool = False) -> None:
        """To be called between two inner iterations; `values` makes the state if it is wanted."""
        self.iterations += 1
        start = time.perf_counter()
        wait = max(self.every.seconds, MIN_CHECKPOINT_SPACING * self.cost)
        due = start - self.last >= wait or self.iterations >= self.every.iterations
        if not (due or now or self.stop.received is not None):
            return
        write(self.run, values())
        self.iterations, self.last = 0, time.perf_counter()
        self.cost = self.last - start
        self.stop.check()


def write(run: Path, values: SavedState) -> None:
    """Make `values` the checkpoint of a run folder. Raises `WriteError` when the disk is full; the old one stays."""
    current, previous = run / CURRENT, run / PREVIOUS
    new, old = files.temporary(current), files.temporary(previous)
    try:
        new.mkdir()
        _fill(new, values)
        if current.exists():
            if previous.exists():
                previous.rename(old)
            current.rename(previous)
        new.rename(current)
        files.sync(run)
    except (OSError, SafetensorError) as error:
        kept = "; the one before it is whole" if exists(run) else ""
        raise WriteError(f"{current} cannot be written: {files.one_line(error)}{kept}") from error
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)


def _fill(folder: Path, values: SavedState) -> None:
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"format": FORMAT, "state": pack(values, tensors)}, indent=1, sort_keys=True)
    save_file(tensors, folder / TENSORS)
    (folder / PLAIN).write_text(text + "\n", encoding="utf-8")
    sums = _sums({name: _digest(folder / name) for name in (TENSORS, PLAIN)})
    (folder / SUMS).write_text(sums, encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        files.sync(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(digests: Mapping[str, str]) -> str:
    """As `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` with every tensor moved to `tensors`, under the path where it stood."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=contiguous_format)
        return {MARK: path}
    if isinstance(value, Mapping):
        return {key: pack(item, tensors, f"{path}/{key}".lstrip("/")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, tensors, f"{path}/{place}") for place, item in enumerate(value)]
    return value


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given; tuples come back as lists."""
    if isinstance(value, dict):
        if MARK in value:
            return tensors[value[MARK]]
        return {key: unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    return value


def exists(run: Path) -> bool:
    """Whether a run folder holds a checkpoint, damaged or not."""
    return any((run / name).exists() for name in (CURRENT, PREVIOUS))


def load(run: Path) -> SavedState | None:
    """The last complete state of a run folder; None where there is none.

    A damaged one is put aside, and the one before it taken, after one line. Raises `Damaged` when there is no other.
    """
    current, previous = run / CURRENT, run / PREVIOUS
    damage: Damaged | None = None
    for folder in (current, previous):
        if folder.exists():
            try:
                values = read(folder)
            except Damaged as error:
                damage = damage or error
                continue
            if folder == previous:
                if damage is not None:
                    log.warning("%s; going on from the one before it", damage)
                    _drop(run, DAMAGED)
                    current.rename(run / DAMAGED)  # the next checkpoint would push the good one out
                previous.rename(current)
            return values
    if damage is not None:
        raise Damaged(f"{damage}, and there is no other; start again with --overwrite")
    return None


def read(folder: Path) -> SavedState:
    """Read one checkpoint. Raises `Damaged` unless it is, byte for byte, what was written."""
    try:
        found = {name: (folder / name).read_bytes() for name in (TENSORS, PLAIN, SUMS)}
        sums = _sums({name: hashlib.sha256(found[name]).hexdigest() for name in (TENSORS, PLAIN)})
        if found[SUMS] != sums.encode():
            raise Damaged(f"{folder} is damaged: its checksums do not fit")
        plain = json.loads(found[PLAIN])
        if plain["format"] != FORMAT:
            raise UserError(f"{folder} has format {plain['format']}; this attar reads format {FORMAT}")
        return unpack(plain["state"], load_bytes(found[TENSORS]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise Damaged(f"{folder} is damaged: {files.one_line(error)}") from error


def finish(run: Path) -> None:
    """Keep only the last checkpoint of a run that is done."""
    _drop(run, PREVIOUS, DAMAGED)


def remove(run: Path) -> None:
    """Remove all checkpoints of a run folder."""
    _drop(run, *FOLDERS)


def _drop(run: Path, *names: str) -> None:
    """Renamed first: a half-removed checkpoint must not pass for a damaged one."""
    for name in names:
        if (run / name).exists():
            shutil.rmtree((run / name).rename(files.temporary(run / name)), ignore_errors=True)
