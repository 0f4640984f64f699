"""What the benchmarks share: shapes, timing in turns, the arithmetic floor, what is said about the machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attar.data.images import ImageData
from attar.engine.device import processor, wait
from attar.engine.precision import set_matmul_precision
from attar.errors import log

# name → channels, side, classes, network
SHAPES: dict[str, tuple[int, int, int, str]] = {
    "digits": (1, 8, 10, "convnet2"),
    "fashion": (1, 28, 10, "convnet3"),
    "cifar10": (3, 32, 10, "convnet3"),
    "cifar100": (3, 32, 100, "convnet3"),
    "imagenet10": (3, 224, 10, "resnetap10"),
}


class Notes(logging.Handler):
    """What attar logs, from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        log.addHandler(self)
        log.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.lines.append(record.getMessage())


def random_data(shape: str, size: int | None, per_class: int, device: torch.device) -> ImageData:
    """Random images of a shape: speed does not depend on what they show."""
    channels, side, classes, _ = SHAPES[shape]
    side = size or side
    generator = torch.Generator().manual_seed(0)
    n = classes * per_class
    images = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % classes
    return ImageData(images, labels, images[:classes], labels[:classes], name=shape, device=device)


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def in_turns(functions: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every function, A B A B …, so that a ratio survives a machine that others use too."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            seconds[name].append(timed(function, device))
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, minimum and count."""
    return {"median": statistics.median(seconds), "min": min(seconds), "n": len(seconds)}


def flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of the convolutions and products in one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, precision: str, side: int | None = None) -> float:
    """FLOP/s of large square matrix products at a precision: of the fastest of `matmul_rates`."""
    return max(matmul_rates(device, precision, side).values())


def matmul_rates(device: torch.device, precision: str, side: int | None = None) -> dict[str, float]:
    """FLOP/s of square matrix products in a row, the best of several rows, by what computes them.

    On a GPU ten of 8192 x 8192, next to which launches and waiting are nothing. On a CPU PyTorch has two libraries, of
    which either may be the faster one: that of products, and that of convolutions ("convolution", of one pixel).
    """
    gpu = device.type == "cuda"
    side = side or (8192 if gpu else 2048)
    row, rounds = (10, 3) if gpu else (2, 3)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    set_matmul_precision(precision, device)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    functions: dict[str, Callable[[], Tensor]] = {"product": lambda: a @ b}
    if not gpu:
        images, kernel = as_convolution(a, b)
        functions["convolution"] = lambda: F.conv2d(images, kernel)

    def in_a_row(function: Callable[[], Tensor]) -> None:
        for _ in range(row):
            function()

    found = {}
    for name, function in functions.items():
        in_a_row(function)
        seconds = min(timed(partial(in_a_row, function), device) for _ in range(rounds))
        found[name] = 2 * side**3 * row / seconds
    return found


def as_convolution(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The product of two square matrices as a convolution: a's rows are pixels of 8 x 8, in channels last."""
    side = len(a)
    return a.view(side // 64, 8, 8, side).permute(0, 3, 1, 2), b.t().reshape(side, side, 1, 1)


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process so far, in MB: on a GPU what PyTorch allocated, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # not getrusage: its maximum is inherited from the process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": device.type,
        "hardware": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that all benchmarks take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", default="cpu")
    made.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
    made.add_argument("--shape", choices=sorted(SHAPES), default="fashion")
    made.add_argument("--size", type=int, help="another side than the shape's")
    made.add_argument("--ipc", type=int, default=10)
    made.add_argument("--factor", type=int, default=2)
    made.add_argument("--width", type=float, default=1.0)
    made.add_argument("--json", type=Path, help="write the result here too")
    made.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return made


def start(arguments: argparse.Namespace) -> torch.device:
    """Device and threads as the flags say."""
    from attar.engine.device import pick

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return pick(arguments.device)


# glibc's own default, and so nothing but a word to `attar.engine.device.keep_memory` that the environment decides
AS_IT_COMES = {"MALLOC_ARENA_TEST": "8"}


class Apart:
    """A benchmark's reference in a process of its own, whose memory PyTorch handles as it comes.

    attar has its process keep freed memory, which speeds up the reference beside it as well. The process is the same
    module with the same flags and `--serve`; between its turns it waits.
    """

    def __init__(self) -> None:
        spec = sys.modules["__main__"].__spec__
        assert spec is not None, "run it as a module"
        line = [sys.executable, "-m", spec.name, *sys.argv[1:], "--serve"]
        self.process = subprocess.Popen(
            line, env=os.environ | AS_IT_COMES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer("ready")

    def call(self, name: str) -> None:
        """Have it run one of its functions."""
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        self.answer(f"done {name}")

    def answer(self, wanted: str) -> None:
        """Wait for a line."""
        assert self.process.stdout is not None
        if (found := self.process.stdout.readline().strip()) != wanted:
            raise RuntimeError(f"the reference's process said '{found}', not '{wanted}'")

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def serve(functions: dict[str, Callable[[], Any]]) -> None:
    """The other end of `Apart`: run the functions that are named, until nobody asks any more."""
    print("ready", flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):  # what they say is no answer
            functions[line.strip()]()
        print(f"done {line.strip()}", flush=True)


def publish(result: dict[str, Any], path: Path | None) -> None:
    """Print the result, and write it where a path is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
