"""What the compiler's settings and classes at once are worth on a GPU: variants compiled side by side, timed in turn.

python -m benchmarks.gpu_variants FOLDER [--shape cifar10] [--only NAMES] [--seconds 200] [--small]

Each variant is a process of its own. All compile at once, since compiling takes a minute and a machine has many cores;
a lock lets one at a time run what is timed. FOLDER/variants.json gets each reading as soon as it is known.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.engine import compile as compiler
from attar.engine import gpu_forms
from attar.engine.device import pick
from benchmarks import common
from benchmarks.gpu_parts import Parts

# Name → changes of compile.ON_GPU; "chunk": classes at once, "sgd": the optimiser's step not fused,
# "layouts": channels-last as the compiler likes, "channels": of a first layer, filled up with zeros to a multiple
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "layouts as the compiler likes": {"layouts": "free"},
    "no joined kernels": {"combo_kernels": False},
    "write more": {"realize_reads_threshold": 4, "realize_opcount_threshold": 30, "realize_acc_reads_threshold": 8},
    "tiles of two dimensions": {"triton.prefer_nd_tiling": True},
    "five classes at once": {"chunk": 5},
    "two classes at once": {"chunk": 2},
    "plain sgd": {"sgd": "plain"},
    "cudnn.benchmark": {"benchmark": True},
    "channels in eights": {"channels": 8},
    "channels in fours": {"channels": 4},
}


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Nobody else times meanwhile."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measure(name: str, lock: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A variant's milliseconds: medians of five rounds of nine calls in a row."""
    changes = dict(VARIANTS[name])
    chunk, plain, free, channels = (changes.pop(name, None) for name in ("chunk", "sgd", "layouts", "channels"))
    torch.backends.cudnn.benchmark = changes.pop("benchmark", False)
    compiler.ON_GPU.update(changes)
    if plain:
        made = torch.optim.SGD.__init__
        torch.optim.SGD.__init__ = lambda *args, **more: made(*args, **more | {"fused": None})  # type: ignore[method-assign]
    if free:
        gpu_forms.ChannelsLast.forward = staticmethod(  # type: ignore[method-assign]
            lambda x: x.contiguous(memory_format=torch.channels_last).view_as(x)
        )
    if channels:
        gpu_forms.convolution = partial(filled_up, gpu_forms.convolution, channels)
    device = pick("cpu" if arguments.small else "cuda")
    parts = Parts(device, Path(tempfile.gettempdir()), small=arguments.small, tell=lambda *_: None)
    more = {} if arguments.small else {"shape": arguments.shape}
    pair = parts.pair(precision=arguments.precision, compiled=not arguments.small, chunk=chunk, **more)
    found: dict[str, Any] = {}
    start = time.perf_counter()
    for what in ("iteration", "sweep", "update"):
        function = getattr(pair, f"attar_{what}")
        parts.clock(function, arguments.precision)  # compiled and recorded
        found["ready, s"] = round(time.perf_counter() - start, 1)
    for _ in range(2):  # twice, to see how far two readings of the same lie apart
        with alone(lock):
            for what in ("iteration", "sweep", "update"):
                found.setdefault(what, []).append(in_a_row(getattr(pair, f"attar_{what}"), device))
    if device.type == "cuda":
        found["kernels, ms"] = kernels_ms(pair, lock)
    found["peak memory, MB"] = common.peak_memory(device)
    if pair.notes.lines:
        found["notes"] = pair.notes.lines
    return found


def filled_up(convolution: Any, multiple: int, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """A convolution with so many channels of zeros more that tensor cores take them without a copy."""
    zeros = (0, 0, 0, 0, 0, -x.shape[1] % multiple)
    return convolution(F.pad(x, zeros), F.pad(weight, zeros), *rest)


def in_a_row(function: Any, device: torch.device, calls: int = 9) -> float:
    """Milliseconds of a call: the median of five times nine calls without waiting for the device in between."""

    def several() -> None:
        for _ in range(calls):
            function()

    return 1e3 * statistics.median(common.timed(several, device) for _ in range(5)) / calls


def kernels_ms(pair: Any, lock: Path) -> dict[str, float]:
    """Milliseconds in kernels, and the longest ones by name, of one iteration."""
    from torch.profiler import ProfilerActivity, profile

    with alone(lock):
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            pair.attar_iteration()
            torch.cuda.synchronize()
        averages = seen.key_averages()
    rows = sorted(((one.self_device_time_total / 1e3, one.count, one.key) for one in averages), reverse=True)
    longest = {f"{key[:110]} x{count}": round(ms, 3) for ms, count, key in rows[:40]}
    return {"all": sum(ms for ms, *_ in rows), "number": sum(count for _, count, _ in rows), **longest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--shape", default="cifar10")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", help="names of variants, separated by commas")
    parser.add_argument("--seconds", type=float, default=200.0, help="what is not ready by then is ended")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    lock = arguments.folder / "lock"
    if arguments.one:
        with contextlib.redirect_stdout(sys.stderr):
            found = measure(arguments.one, lock, arguments)
        return print(json.dumps(found))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = arguments.only.split(",") if arguments.only else list(VARIANTS)
    deadline = time.monotonic() + arguments.seconds
    running = {}
    for name in names:
        output = (arguments.folder / "log.txt").open("ab")
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(prefix="attar-variant-")}
        environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
        command = [sys.executable, "-m", "benchmarks.gpu_variants", *sys.argv[1:], "--one", name]
        running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True, env=environment)
    results: dict[str, Any] = {"command": " ".join(["python -m benchmarks.gpu_variants", *sys.argv[1:]])}
    for name, process in running.items():
        try:
            said, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            results[name] = json.loads(said) if process.returncode == 0 else f"status {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            results[name] = "not ready in time"
        (arguments.folder / "variants.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        short = results[name]
        if isinstance(short, dict):
            short = {key: value for key, value in short.items() if key not in ("kernels, ms", "notes")}
        print(f"{name}: {short}", flush=True)


if __name__ == "__main__":
    main()
