"""Random bytes and mutated real files as input of everything in attar that reads a file.

A reader may refuse its input (UserError) or accept it with a sound result. A traceback, a hang, or a payload that ran
is a fault. Each input follows from the seed, the target and its number, so a fault can be reproduced.

    python -m benchmarks.fuzz --inputs 5000 --json benchmarks/results/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import UserError
from benchmarks.fuzz_targets import TARGETS

TIME_LIMIT = 5.0  # seconds for one input
MAX_RANDOM_BYTES = 4096  # of an input made of random bytes
UNLIKELY_VALUES = (
    "",
    "\x00",
    "\ud800",
    "a" * 5000,
    "../..",
    -1,
    0,
    1,
    2**63,
    10**400,
    1e308,
    -0.5,
    True,
    None,
    [],
    {},
    [[]],
    {"a": {}},
)
UNLIKELY_BYTES = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x80",
    b"\n",
    b"[" * 20000,
    b'{"a":' * 20000,
    b"\xed\xa0\x80",
)


class Hung(BaseException):
    """An input took longer than TIME_LIMIT. A BaseException, which no reader's `except Exception` catches."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hung inside when it takes longer."""

    def stop(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    left = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)  # of whoever else watches the time


def mutated(seeds: Sequence[bytes], evil: Sequence[bytes], random: np.random.RandomState) -> bytes:
    """Random bytes, a seed as it is, or a seed with one to four changes; one seed in ten is a payload."""
    kind = random.randint(12)
    if kind == 0:
        return random.bytes(random.randint(MAX_RANDOM_BYTES))
    sources = evil if random.rand() < 0.1 else seeds
    raw = sources[random.randint(len(sources))]
    if kind == 1:
        return raw
    if kind < 6 and (changed := _other_value(raw, random)) is not None:
        return changed
    for _ in range(random.randint(1, 5)):
        raw = _changed(raw, seeds, random)
    return raw


def _changed(raw: bytes, seeds: Sequence[bytes], random: np.random.RandomState) -> bytes:
    """One change, at the start of the file (where headers are) half of the time."""
    near = min(len(raw), 256) if random.rand() < 0.5 else len(raw)
    at = random.randint(near + 1)
    length = int(random.geometric(0.05))
    kind = random.randint(7)
    if kind == 0 and at < len(raw):  # one bit
        return raw[:at] + bytes([raw[at] ^ (1 << random.randint(8))]) + raw[at + 1 :]
    if kind == 1:
        return raw[:at]
    if kind == 2:
        return raw[:at] + raw[at + length :]
    if kind == 3:
        return raw[:at] + random.bytes(length) + raw[at + length * random.randint(2) :]
    if kind == 4:
        piece = UNLIKELY_BYTES[random.randint(len(UNLIKELY_BYTES))]
        return raw[:at] + piece + raw[at + len(piece) * random.randint(2) :]
    if kind == 5:  # a number becomes another
        numbers = list(re.finditer(rb"\d+", raw[:4096]))
        if numbers:
            spot = numbers[random.randint(len(numbers))]
            number = (b"0", b"-1", b"4294967296", b"99999999999999999999", b"1e999", b"nan")[random.randint(6)]
            return raw[: spot.start()] + number + raw[spot.end() :]
    other = seeds[random.randint(len(seeds))]
    return raw[:at] + other[random.randint(len(other) + 1) :]


def _other_value(raw: bytes, random: np.random.RandomState) -> bytes | None:
    """JSON, a line of it, or the JSON in a safetensors header with one value replaced; None where there is none."""
    if len(raw) > 8 and raw[8:9] == b"{":
        end = 8 + int.from_bytes(raw[:8], "little")
        head = _replaced(raw[8:end], random)
        return None if head is None else len(head).to_bytes(8, "little") + head + raw[end:]
    lines = raw.splitlines()
    if len(lines) > 1 and raw[:1] == b"{" and lines[0][-1:] == b"}":
        number = random.randint(len(lines))
        lines[number] = _replaced(lines[number], random) or b"[]"
        return b"\n".join(lines)
    return _replaced(raw, random)


def _replaced(text: bytes, random: np.random.RandomState) -> bytes | None:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None
    places = [
        (holder, key)
        for holder in _holders(tree)
        for key in (holder if isinstance(holder, dict) else range(len(holder)))
    ]
    if not places:
        return None
    holder, key = places[random.randint(len(places))]
    if isinstance(holder[key], str) and holder[key][:1] == "{" and random.rand() < 0.9:  # JSON in JSON
        inner = _replaced(holder[key].encode(), random)
        holder[key] = inner.decode() if inner else ""
    elif isinstance(holder, dict) and random.rand() < 0.2:
        del holder[key]
    else:
        holder[key] = UNLIKELY_VALUES[random.randint(len(UNLIKELY_VALUES))]
    return json.dumps(tree).encode()


def _holders(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(value)


class Payload:
    """A pickle that runs a program when it is read as pickles usually are."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.canary}",)


def payloads(canary: Path) -> list[bytes]:
    """Pickles with code in them, in each protocol."""
    evil: list[Any] = [Payload(canary), {"data": Payload(canary), "labels": [1]}, {b"data": [Payload(canary)]}]
    code = f"cbuiltins\nexec\n(S'open({str(canary)!r}, \"w\").close()'\ntR.".encode()
    return [pickle.dumps(value, protocol) for value in evil for protocol in range(6)] + [code]


@dataclass
class Tally:
    """What became of the inputs of one target."""

    inputs: int = 0
    refused: int = 0
    taken: int = 0
    slowest_s: float = 0.0


def feed(read: Callable[[bytes], None], raw: bytes, tally: Tally) -> str | None:
    """One input. Returns what is wrong with how it was received, if anything."""
    start = time.perf_counter()
    tally.inputs += 1
    try:
        with limited(TIME_LIMIT), warnings.catch_warnings():
            warnings.simplefilter("error")
            read(raw)
        tally.taken += 1
        return None
    except UserError as error:
        tally.refused += 1
        return f"a message of several lines: {error!s:.200}" if "\n" in str(error) else None
    except Hung:
        return f"longer than {TIME_LIMIT} s"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}" if last else "?"
        return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]}"
    finally:
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - start)


def fuzz(inputs: int, seed: int = 0, only: Sequence[str] = ()) -> dict[str, Any]:
    """Feed `inputs` inputs, shared among the targets. Returns counts and faults."""
    names = [name for name in TARGETS if not only or name in only]
    tallies, faults = {name: Tally() for name in names}, []
    root = Path(tempfile.mkdtemp(prefix="attar-fuzz-"))
    canary = root / "canary"
    try:
        with chdir(root):
            for position, name in enumerate(names):
                (root / name).mkdir()
                seeds, read = TARGETS[name](root / name)
                evil = [*payloads(canary), b""]
                for number in range(inputs // len(names) + (position < inputs % len(names))):
                    raw = mutated(seeds, evil, np.random.RandomState([seed, list(TARGETS).index(name), number]))
                    wrong = feed(read, raw, tallies[name])
                    if canary.exists():
                        wrong = "a payload ran"
                        canary.unlink()
                    if wrong is not None:
                        faults.append({"target": name, "number": number, "fault": wrong})
    finally:
        shutil.rmtree(root, ignore_errors=True)
    totals = {key: sum(vars(tally)[key] for tally in tallies.values()) for key in ("inputs", "refused", "taken")}
    targets = {name: {**vars(tally), "slowest_s": round(tally.slowest_s, 3)} for name, tally in tallies.items()}
    return {"seed": seed, **totals, "faults": faults, "targets": targets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help=f"some of: {', '.join(TARGETS)}")
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args()
    logging.getLogger("attar").setLevel(logging.ERROR)  # a warning for every damaged input would hide the rest
    start = time.perf_counter()
    result = fuzz(options.inputs, options.seed, options.only)
    text = json.dumps({**result, "seconds": round(time.perf_counter() - start, 1)}, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
