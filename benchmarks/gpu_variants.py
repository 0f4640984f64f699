"""What the compiler's settings and classes at once are worth on a GPU: variants compiled side by side, timed in turn.

PYTHONPATH=src:. python -m benchmarks.gpu_variants FOLDER [--shape cifar10] [--only NAMES] [--seconds 300] [--small]

Each variant is a process of its own. All compile at once, since compiling takes a minute and a machine has many cores;
after its first calls a variant runs under a lock, and so alone. FOLDER/variants.json gets each reading when it is
known, log.txt what the processes say. `flock FOLDER/lock COMMAND` keeps the card for another command meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.engine import compile as compiler
from attar.engine import gpu_forms
from attar.engine.device import pick, wait
from benchmarks import common
from benchmarks.gpu import end
from benchmarks.gpu_parts import Parts
from benchmarks.step import WHAT, Pair

# Name → changes of compile.ON_GPU; "chunk": classes at once, "sgd": the optimiser's step not fused,
# "layouts": channels-last as the compiler likes, "channels": of a first layer, filled up with zeros to a multiple
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "layouts as the compiler likes": {"layouts": "free"},
    "no joined kernels": {"combo_kernels": False},
    "ten parts joined": {"max_pointwise_cat_inputs": 16},
    "write more": {"realize_reads_threshold": 4, "realize_opcount_threshold": 30, "realize_acc_reads_threshold": 8},
    "two classes at once": {"chunk": 2},
    "plain sgd": {"sgd": "plain"},
    "cudnn.benchmark": {"benchmark": True},
    "channels in eights": {"channels": 8},
}
RESULTS = "variants.json"


def change(name: str) -> int | None:
    """Make the changes of a variant. Returns the classes at once, if it names them."""
    changes = dict(VARIANTS[name])
    chunk, plain, free, channels = (changes.pop(key, None) for key in ("chunk", "sgd", "layouts", "channels"))
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
    return chunk


def filled_up(convolution: Any, multiple: int, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """A convolution with so many channels of zeros more that tensor cores take them without a copy."""
    zeros = (0, 0, 0, 0, 0, -x.shape[1] % multiple)
    return convolution(F.pad(x, zeros), F.pad(weight, zeros), *rest)


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Compile a variant, then time it twice alone, to see how far two readings of the same lie apart."""
    chunk = change(name)
    device = pick("cpu" if arguments.small else "cuda")
    parts = Parts(device, arguments.folder, small=arguments.small, tell=lambda *_: None)
    sizes = {} if arguments.small else {"shape": arguments.shape}
    pair = parts.pair(precision=arguments.precision, compiled=not arguments.small, chunk=chunk, **sizes)
    functions = {what: getattr(pair, f"attar_{what}") for what in reversed(WHAT)}
    start = time.perf_counter()
    functions["iteration"]()
    found: dict[str, Any] = {"first call, s": round(time.perf_counter() - start, 1)}
    with alone(arguments.folder):
        for function in functions.values():
            parts.clock(function, arguments.precision)  # recorded
    for _ in range(2):
        with alone(arguments.folder):
            for what, function in functions.items():
                found.setdefault(f"{what}, ms", []).append(in_a_row(function, device, small=arguments.small))
            note(arguments.folder, name, found)
    with alone(arguments.folder):
        found["peak memory, MB"] = common.peak_memory(device)
        found["kernels, ms"] = kernels_ms(pair) if device.type == "cuda" else {}
        found["notes"] = pair.notes.lines
        note(arguments.folder, name, found)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else runs on the device meanwhile."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def note(folder: Path, name: str, found: Any) -> None:
    """Keep what is known of a variant; called while it is alone."""
    path = folder / RESULTS
    results = json.loads(path.read_text(encoding="utf-8")) | {name: found}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def in_a_row(function: Callable[[], Any], device: torch.device, *, small: bool) -> float:
    """Milliseconds of a call: the median of five times nine calls without waiting for the device in between."""
    rounds, calls = (1, 1) if small else (5, 9)

    def several() -> None:
        for _ in range(calls):
            function()

    return 1e3 * statistics.median(common.timed(several, device) for _ in range(rounds)) / calls


def kernels_ms(pair: Pair) -> dict[str, float]:
    """Milliseconds in kernels of one iteration, their number, and those that take most in all, by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        pair.attar_iteration()
        wait(pair.data.device)
    rows = sorted(((one.self_device_time_total / 1e3, one.count, one.key) for one in seen.key_averages()), reverse=True)
    longest = {f"{key[:110]} x{count}": round(ms, 3) for ms, count, key in rows[:32]}
    return {"all": sum(ms for ms, *_ in rows), "number": sum(count for _, count, _ in rows), **longest}


def run_all(names: list[str], arguments: argparse.Namespace) -> None:
    """A process for each name; all are ended when the time is over."""
    deadline = time.monotonic() + arguments.seconds
    running: dict[str, subprocess.Popen[bytes]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="attar-variants-", ignore_cleanup_errors=True) as cache,
        (arguments.folder / "log.txt").open("ab") as log,
    ):
        try:
            for name in names:
                environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/{len(running)}"}
                environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
                command = [sys.executable, "-m", "benchmarks.gpu_variants", *sys.argv[1:], "--one", name]
                running[name] = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, start_new_session=True
                )
            for name, process in running.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.1, deadline - time.monotonic()))
                ended = "ended" if process.returncode == 0 else f"failed or out of time ({process.returncode})"
                print(f"{name}: {ended}", flush=True)
        finally:
            for process in running.values():
                end(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--shape", default="cifar10", choices=sorted(common.SHAPES))
    parser.add_argument("--precision", default="bf16", choices=("float32", "tf32", "bf16"))
    parser.add_argument("--only", metavar="NAMES", help="with commas between them: " + ", ".join(VARIANTS))
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="what is not ready by then is ended (default: 300)"
    )
    parser.add_argument("--small", action="store_true", help="a tiny network on a CPU, to see that all runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return measure(arguments.one, arguments)
    names = [name.strip() for name in arguments.only.split(",")] if arguments.only else list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"unknown variant '{unknown[0]}'; there are {', '.join(VARIANTS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / RESULTS
    command = shlex.join(["python", "-m", "benchmarks.gpu_variants", *sys.argv[1:]])
    path.write_text(json.dumps({"command": command}) + "\n", encoding="utf-8")
    run_all(names, arguments)
    results = json.loads(path.read_text(encoding="utf-8"))
    for name in names:
        found = results.get(name, {})
        times = {f"{what}, ms": [round(ms, 2) for ms in found.get(f"{what}, ms", [])] for what in WHAT}
        print(f"{name}: {times}")


if __name__ == "__main__":
    main()
