"""What picking a device does to the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, threading, torch
from attar.engine.device import pick

pick("cpu")

def fill():
    for _ in range(4):
        torch.ones(64, 2**18).add_(1), torch.ones(20, 2**18).add_(1)  # 64 MB and 20 MB

def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        worker = threading.Thread(target=fill)
        worker.start(), worker.join(), fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

count()
print(count())
"""


def faults(**environment: str) -> int:
    """Fresh pages that the kernel had to give for tensors of the same sizes again and again."""
    own = {"PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=own, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU/Linux's allocator")
def test_freed_memory_is_kept_for_the_next_tensor_in_every_thread() -> None:
    given_back = faults(MALLOC_MMAP_THRESHOLD_="131072")  # what the environment says stands
    assert 10 * faults() < given_back


WHERE = """
import os, torch
from attar.engine.device import pick

pick("cpu")
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
print(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
"""


def test_compiled_code_is_kept_in_attars_cache(tmp_path: Path) -> None:
    """Also behind an optimiser, with which PyTorch names a folder of its own. Without a home that one serves."""

    def where(**environment: str) -> str:
        own = {"PATH": "/usr/bin:/bin", **environment}
        done = subprocess.run([sys.executable, "-c", WHERE], env=own, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "file").touch()
    assert where(HOME=str(tmp_path)) == str(tmp_path / ".cache" / "attar" / "inductor")
    assert where(HOME=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "own")) == str(tmp_path / "own")
    assert "torchinductor_" in where(HOME=str(tmp_path / "file"))
