"""Run independent jobs in parallel: a thread for each core on a CPU, one after another on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

import torch

JobInput = TypeVar("JobInput")
JobResult = TypeVar("JobResult")
SUBMITTED_JOBS: WeakSet[Future[Any]] = WeakSet()


def busy() -> bool:
    """Whether any thread is still running a job."""
    return any(job.running() for job in SUBMITTED_JOBS)


class ThreadWorkers:
    """Threads that compute independent jobs side by side, each on one core.

    On a CPU there are as many as PyTorch has threads, and each job computes with one thread. That avoids the barriers
    between small operations, stays fast on a machine that is shared, and gives each job the same numbers however many
    others run at the same time. On a GPU the jobs run one after another in the calling thread. As a side effect,
    threads that other code starts later also compute with one thread, unless they call `torch.set_num_threads`.

    If there are fewer than twice as many jobs as threads, all start together and share the cores: three jobs on two
    cores then take the time of 1.5 jobs, where a third job alone at the end would make it 2. This does not apply if
    `max_at_once` limits how many jobs run at once.
    """

    remote = False  # whether jobs run on other machines

    def __init__(self, device: torch.device, max_at_once: int | None = None) -> None:
        self.device = device
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.count = threads if max_at_once is None else min(threads, max_at_once)
        self.bounded = max_at_once is not None
        self.threads: dict[int, ThreadPoolExecutor] = {}  # by the number of jobs at once

    def map(self, function: Callable[[JobInput], JobResult], inputs: Iterable[JobInput]) -> Iterator[JobResult]:
        """Yield `function` of each input, in order. An error in a job is raised here and cancels the waiting jobs."""
        if self.count == 1:
            yield from map(function, inputs)
            return
        inputs = list(inputs)
        at_once = len(inputs) if self.count < len(inputs) < 2 * self.count and not self.bounded else self.count
        if at_once not in self.threads:
            self.threads[at_once] = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,))
        jobs = [self.threads[at_once].submit(function, value) for value in inputs]
        SUBMITTED_JOBS.update(jobs)
        try:
            for job in jobs:
                yield job.result()
        finally:
            for job in jobs:
                job.cancel()

    def call(
        self, function: Callable[..., Any], *args: Any, many: bool = False, idle: Callable[[], None] = lambda: None
    ) -> Any:
        """Call `function(*args)` in the current thread.

        Remote workers use `many` (the call computes with several threads) and `idle` (called while they wait).
        """
        return function(*args)
