"""Checkpoints: a state as a folder of tensors, JSON and checksums, complete at every instant. No pickles.

`checkpoint/` holds the last state and `checkpoint.previous/` the one before it. A new checkpoint is written to a
temporary folder, synced to the disk, and then renamed into place.
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
from attar.signals import DeferredSignal

FORMAT = 1
CURRENT, PREVIOUS, DAMAGED = "checkpoint", "checkpoint.previous", "checkpoint.damaged"
FOLDERS = (CURRENT, PREVIOUS, DAMAGED)
TENSOR_FILE, STATE_FILE, CHECKSUM_FILE = "tensors.safetensors", "state.json", "SHA256SUMS"
TENSOR_KEY = "$tensor"  # placeholder key for a tensor in the JSON
DEFAULT_INTERVAL = "5m"
# Spend at most 2 % of the time on writing: the interval is at least this multiple of the time that a checkpoint takes.
MIN_CHECKPOINT_SPACING = 50
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are not what was written."""


@dataclass(frozen=True)
class Interval:
    """The time between two checkpoints, in seconds of wall time or in inner iterations."""

    seconds: float = math.inf
    iterations: float = math.inf


def interval(text: str) -> Interval:
    """Parse `600`, `600s`, `10m`, `2h` or `50it`; `none` means never. Raises `UserError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h|it)?", text.strip())
    if text.strip() == "none":
        return Interval()
    if match is None or (match[2] == "it" and not (match[1].isdigit() and int(match[1]))):
        raise UserError(
            f"save_every must be a time or a number of inner iterations, such as 600s, 10m, 2h, 50it or none, "
            f"not '{text}'"
        )
    if match[2] == "it":
        return Interval(iterations=int(match[1]))
    return Interval(seconds=float(match[1]) * UNIT_SECONDS[match[2] or ""])


class CheckpointWriter:
    """Writes the state of a run when the interval is over, on demand, and before a deferred signal is raised."""

    def __init__(self, run: Path, every: Interval, stop: DeferredSignal) -> None:
        self.run, self.every, self.stop = run, every, stop
        self.iterations = 0
        self.last = time.perf_counter()
        self.cost = 0.0

    def __call__(self, values: Callable[[], SavedState], now: bool = False) -> None:
        """Call this between two inner iterations. `values` is called only if a checkpoint is written.

        now: write a checkpoint in any case. Raises `Interrupted` if a signal was deferred.
        """
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
    """Write a checkpoint into a run folder. Raises `WriteError`, such as on a full disk; the old checkpoint stays."""
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
        hint = "; the one before it is whole" if exists(run) else ""
        raise WriteError(f"{current} cannot be written: {files.one_line(error)}{hint}") from error
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)


def _fill(folder: Path, values: SavedState) -> None:
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"format": FORMAT, "state": pack(values, tensors)}, indent=1, sort_keys=True)
    save_file(tensors, folder / TENSOR_FILE)
    (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")
    checksums = _checksum_text({name: _digest(folder / name) for name in (TENSOR_FILE, STATE_FILE)})
    (folder / CHECKSUM_FILE).write_text(checksums, encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        files.sync(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum_text(digests: Mapping[str, str]) -> str:
    """Checksums in the format of `sha256sum -c`."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` with a placeholder for every tensor; the tensors are added to `tensors` under their path in `value`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=contiguous_format)
        return {TENSOR_KEY: path}
    if isinstance(value, Mapping):
        return {key: pack(item, tensors, f"{path}/{key}".lstrip("/")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, tensors, f"{path}/{place}") for place, item in enumerate(value)]
    return value


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`, except that tuples come back as lists."""
    if isinstance(value, dict):
        if TENSOR_KEY in value:
            return tensors[value[TENSOR_KEY]]
        return {key: unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    return value


def exists(run: Path) -> bool:
    """Whether a run folder holds a checkpoint, damaged or not."""
    return any((run / name).exists() for name in (CURRENT, PREVIOUS))


def load(run: Path) -> SavedState | None:
    """The last complete state of a run folder, or None without a checkpoint.

    A damaged checkpoint is put aside with a warning, and the one before it is read. Raises `DamagedCheckpoint` when
    there is no other.
    """
    current, previous = run / CURRENT, run / PREVIOUS
    damage: DamagedCheckpoint | None = None
    for folder in (current, previous):
        if folder.exists():
            try:
                values = read(folder)
            except DamagedCheckpoint as error:
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
        raise DamagedCheckpoint(f"{damage}, and there is no other; start again with --overwrite")
    return None


def read(folder: Path) -> SavedState:
    """Read one checkpoint. Raises `DamagedCheckpoint` unless all checksums fit, and `UserError` for another format."""
    try:
        contents = {name: (folder / name).read_bytes() for name in (TENSOR_FILE, STATE_FILE, CHECKSUM_FILE)}
        digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in (TENSOR_FILE, STATE_FILE)}
        if contents[CHECKSUM_FILE] != _checksum_text(digests).encode():
            raise DamagedCheckpoint(f"{folder} is damaged: its checksums do not fit")
        document = json.loads(contents[STATE_FILE])
        if document["format"] != FORMAT:
            raise UserError(f"{folder} has format {document['format']}; this attar reads format {FORMAT}")
        return unpack(document["state"], load_bytes(contents[TENSOR_FILE]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise DamagedCheckpoint(f"{folder} is damaged: {files.one_line(error)}") from error


def finish(run: Path) -> None:
    """Remove all but the last checkpoint of a finished run."""
    _drop(run, PREVIOUS, DAMAGED)


def remove(run: Path) -> None:
    """Remove all checkpoints of a run folder."""
    _drop(run, *FOLDERS)


def _drop(run: Path, *names: str) -> None:
    """Remove checkpoints. They are renamed first: a half-removed one must not pass for a damaged one."""
    for name in names:
        if (run / name).exists():
            shutil.rmtree((run / name).rename(files.temporary(run / name)), ignore_errors=True)
