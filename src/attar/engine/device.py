"""Where attar computes."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from attar.errors import UserError

MALLOPT = {  # of malloc.h
    "M_ARENA_MAX": (-8, 1),  # one heap for all threads: those of other threads are small, and given back
    "M_MMAP_MAX": (-4, 0),  # nothing outside of the heap
    "M_TRIM_THRESHOLD": (-1, -1),  # nor is its end given back, however long
}


def pick(name: str = "auto") -> torch.device:
    """'auto' (a GPU when there is one), 'cpu', 'cuda', 'cuda:1', … Raises `UserError` when it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device '{name}'; valid: auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device '{name}' was asked for, but PyTorch sees no CUDA GPU here; use --device cpu")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise UserError(f"device '{name}' does not exist: there are {torch.cuda.device_count()} GPUs")
    elif device != torch.device("cpu"):
        raise UserError(f"device '{name}' is not supported; valid: auto, cpu, cuda, cuda:0, ...")
    keep_compiled()
    if device.type == "cuda":  # float32 means float32, until a run asks for tf32
        tensor_cores(products=False, convolutions=False)
        torch.set_flush_denormal(True)
    else:
        prepare_cpu()
    return device


def tensor_cores(*, products: bool, convolutions: bool) -> None:
    """Whether a GPU may compute float32 products and convolutions in tf32. PyTorch comes with convolutions only.

    By the switches that every PyTorch since 1.7 has. Later ones name others, and may warn of these.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API")
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def keep_compiled() -> None:
    """Compiled code outlives the process, below ~/.cache/attar: the next start of the same shapes takes seconds.

    Not where `TORCHINDUCTOR_CACHE_DIR` names another folder, or nothing can be written. PyTorch names its own with the
    first optimiser, and makes the folder that is named.
    """
    with suppress(OSError, RuntimeError):  # there may be no home
        folder = Path.home() / ".cache" / "attar" / "inductor"
        there = next(part for part in (folder, *folder.parents) if part.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def prepare_cpu() -> None:
    """What makes PyTorch faster on a CPU, for the whole process: no denormals, and memory that is kept."""
    torch.set_flush_denormal(True)  # late gradients are full of them, and a CPU takes them slowly
    keep_memory()


def keep_memory() -> None:
    """Have the C library keep freed memory for the next tensor (GNU/Linux; elsewhere nothing changes).

    By default it gives each large tensor back to the system, which then clears every page of the next one: that takes
    up to half of a training step. A process keeps what it needed most until it ends. Not where the environment has
    settings of its own for it (`MALLOC_…`, `GLIBC_TUNABLES`).
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or own:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in MALLOPT.values():
            mallopt(setting, value)


def describe(device: torch.device) -> str:
    """'cpu', or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def send(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host goes on at once: what a GPU is sent from pageable memory would be waited for."""
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def wait(device: torch.device) -> None:
    """Wait until what was begun there is done, for a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's CPU, as far as it is known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
