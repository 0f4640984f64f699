"""What picking a device does to the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, threading, torch
from attar.device import pick

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
