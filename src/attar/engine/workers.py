"""Jobs side by side: a thread for each core on a CPU, one after another elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

import torch

Job = TypeVar("Job")
Done = TypeVar("Done")
SUBMITTED: WeakSet[Future[Any]] = WeakSet()


def busy() -> bool:
    """Whether any worker is still at a job."""
    return any(job.running() for job in SUBMITTED)


class ThreadWorkers:
    """Threads that compute independent jobs side by side, each on one core.

    On a CPU there are as many as PyTorch has threads: one thread per job loses nothing to the barriers between small
    operations, keeps its speed where others use the machine too, and gives each job the same numbers however many
    run beside it. On a GPU the jobs run one after another in the calling thread. Threads that other code starts later
    compute with one thread too, unless they ask for more (`torch.set_num_threads`).

    A few jobs more than threads begin together and share the cores: three on two cores take the time of one and a
    half, where the third alone at the end would make it two. Not where `most` says how many jobs may run at once.
    """

    remote = False  # whether calls are computed elsewhere

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self.device = device
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.count = threads if most is None else min(threads, most)
        self.bounded = most is not None
        self.threads: dict[int, ThreadPoolExecutor] = {}  # by how many jobs run at once

    def map(self, function: Callable[[Job], Done], jobs: Iterable[Job]) -> Iterator[Done]:
        """The results, in order. What a job raises is raised here; jobs that have not begun are then left."""
        if self.count == 1:
            yield from map(function, jobs)
            return
        jobs = list(jobs)
        at_once = len(jobs) if self.count < len(jobs) < 2 * self.count and not self.bounded else self.count
        if at_once not in self.threads:
            self.threads[at_once] = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,))
        waiting = [self.threads[at_once].submit(function, job) for job in jobs]
        SUBMITTED.update(waiting)
        try:
            for job in waiting:
                yield job.result()
        finally:
            for job in waiting:
                job.cancel()

    def call(
        self, function: Callable[..., Any], *args: Any, many: bool = False, idle: Callable[[], None] = lambda: None
    ) -> Any:
        """`function(*args)`: here, in the job's own thread. Workers elsewhere heed `many` (threads) and `idle`."""
        return function(*args)
