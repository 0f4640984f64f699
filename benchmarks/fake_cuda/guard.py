"""The C++ part of the emulation (guard.cpp), built once for each PyTorch and loaded before it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")


def missing() -> str | None:
    """Why there can be no fake CUDA here, in a line; None where there can."""
    if _torch() is None:
        return "fake CUDA needs PyTorch"
    if list(_libraries().glob("libtorch_cuda*")):
        return "fake CUDA needs a PyTorch that is built without CUDA; this one has its own"
    if shutil.which("g++") is None:
        return "fake CUDA needs g++, which is not here"
    return None


def load() -> None:
    """Make this process one with a fake GPU. Raises `RuntimeError` where that cannot be, or torch is there already."""
    if "torch" in sys.modules:
        raise RuntimeError("fake CUDA has to be loaded before torch, which looks for a device once")
    if reason := missing():
        raise RuntimeError(reason)
    ctypes.CDLL(str(_built()), mode=ctypes.RTLD_GLOBAL)


def _torch() -> Path | None:
    """The folder of PyTorch, which is not imported for that."""
    found = importlib.util.find_spec("torch")
    return None if found is None or found.origin is None else Path(found.origin).parent


def _libraries() -> Path:
    folder = _torch()
    assert folder is not None
    return folder / "lib"


def _built() -> Path:
    """The library for this source and this PyTorch, built (about four seconds) where it is not there yet."""
    libraries = _libraries()
    include = libraries.parent / "include"
    version = (libraries.parent / "version.py").read_bytes()
    known = hashlib.sha256(SOURCE.read_bytes() + version + str(libraries).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"attar-fake-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"guard-{known}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as own:
        fresh = Path(own) / "guard.so"
        command = ["g++", "-O1", "-std=c++20", "-shared", "-fPIC"]
        command += [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}", str(SOURCE), "-o", str(fresh)]
        command += [f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ could not build fake CUDA's guard: {done.stderr.strip()[-600:]}")
        fresh.replace(library)  # two processes may build at once
    return library
