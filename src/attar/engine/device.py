"""Choose the device, and set up PyTorch and the C library for it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.errors import UserError

ALIGNED = 64  # elements: where each of several tensors in one block of memory starts
MALLOPT = {  # name → (number in malloc.h, value)
    "M_ARENA_MAX": (-8, 1),  # one heap for all threads, because heaps of other threads are always given back
    "M_MMAP_MAX": (-4, 0),  # allocate everything in the heap
    "M_TRIM_THRESHOLD": (-1, -1),  # never give the end of the heap back
}


def pick(name: str = "auto") -> torch.device:
    """The device of a name, prepared for computing: 'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', …

    Raises `UserError` for an unknown name and for a device that does not exist.
    """
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
    cache_compiled_code()
    if device.type == "cuda":  # float32 means float32, until a run asks for tf32
        tensor_cores(products=False, convolutions=False)
        torch.set_flush_denormal(True)
    else:
        prepare_cpu()
    return device


def tensor_cores(*, products: bool, convolutions: bool) -> None:
    """Set whether a GPU computes float32 products and convolutions in tf32. PyTorch's default: convolutions only.

    It uses the switches that every PyTorch since 1.7 has; newer versions may warn that these are deprecated.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API")
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def cache_compiled_code() -> None:
    """Cache compiled code in ~/.cache/attar, so that a later process compiles the same shapes in seconds.

    Does nothing where `TORCHINDUCTOR_CACHE_DIR` is set or the folder cannot be written. It must run before the first
    optimiser is made, because PyTorch then sets that variable itself. PyTorch creates the folder.
    """
    with suppress(OSError, RuntimeError):  # there may be no home folder
        folder = Path.home() / ".cache" / "attar" / "inductor"
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if existing.is_dir() and os.access(existing, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compiled_code() -> tuple[Path, int]:
    """The folder where compiled code is kept between runs, and its bytes; no bytes where nothing is kept yet."""
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", os.devnull))
    return folder, sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def prepare_cpu() -> None:
    """Make PyTorch faster on a CPU, for the whole process: flush denormals to zero, and keep freed memory."""
    torch.set_flush_denormal(True)  # gradients late in a run contain many denormals, which a CPU handles slowly
    keep_memory()


def keep_memory() -> None:
    """Have the C library keep freed memory for the next tensor (GNU/Linux; elsewhere nothing changes).

    By default it returns the memory of each large tensor to the system, which clears every page of the next one; this
    can take half of a training step. The process then keeps its peak memory until it ends. Does nothing where the
    environment already configures malloc (`MALLOC_…`, `GLIBC_TUNABLES`).
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    configured = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in tunables
    if sys.platform != "linux" or configured:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in MALLOPT.values():
            mallopt(setting, value)


def describe(device: torch.device) -> str:
    """'cpu', or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def send(value: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without blocking: from pageable memory the CPU would wait for a copy to a GPU."""
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def send_all(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy tensors to a device as `send` does, those of one dtype in one copy: each copy to a GPU costs a launch."""
    sent = {name: value.to(device) for name, value in tensors.items()} if device.type == "cpu" else dict(tensors)
    by_dtype: dict[torch.dtype, dict[str, Tensor]] = {}
    for name, value in sent.items():
        if value.device != device:
            by_dtype.setdefault(value.dtype, {})[name] = value
    for moved in by_dtype.values():
        padded = [F.pad(value.flatten(), (0, -value.numel() % ALIGNED)) for value in moved.values()]
        parts = send(torch.cat(padded), device).split([len(part) for part in padded])
        for (name, value), part in zip(moved.items(), parts, strict=True):
            sent[name] = part[: value.numel()].view(value.shape)
    return sent


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free, or that this process has reserved and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def wait(device: torch.device) -> None:
    """Wait until all work queued on a GPU is done, before a time is taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's CPU; its architecture where the system does not tell the name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
