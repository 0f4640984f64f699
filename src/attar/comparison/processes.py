"""Independent jobs in processes of their own, each computing with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from attar import signals
from attar.errors import UserError

Job = TypeVar("Job")


def side_by_side(jobs: Sequence[Job], count: int, begin: Callable[[], Callable[[Job], Any]]) -> Iterator[Any]:
    """The results of `jobs`, as they are done, from at most `count` processes.

    begin: called once in each process, gives the function of a job; it, the jobs and the results are pickled. What a
    job raises is raised here. When this ends early the processes are terminated, as by SIGTERM, and waited for.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(count, len(waiting))):
            here, there = context.Pipe()
            workers[here] = context.Process(target=_work, args=(there, begin), daemon=True)
            workers[here].start()
            there.close()
            here.send(waiting.pop(0))
        busy = set(workers)
        while busy:
            for end in wait(list(busy)):
                assert isinstance(end, Connection)
                try:
                    done, error = end.recv()
                except EOFError as ended:
                    workers[end].join()
                    status = workers[end].exitcode
                    raise UserError(f"a process of the comparison ended with status {status}; run it again") from ended
                if error is not None:
                    raise error
                if waiting:
                    end.send(waiting.pop(0))
                else:
                    busy.remove(end)
                yield done
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _work(end: Connection, begin: Callable[[], Callable[[Job], Any]]) -> None:
    """A process: jobs from `end`, results to it, until it is terminated or the one that started it is gone."""
    if hasattr(os, "setsid"):
        os.setsid()  # the terminal's Ctrl-C is for the one that started this; it passes it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    try:
        with signals.sigterm_raises():
            run = begin()
            while True:
                job = end.recv()
                try:
                    done, error = run(job), None
                except Exception as raised:
                    done, error = None, raised
                end.send((done, error))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass


def _die_with_parent() -> None:
    """A killed comparison leaves nobody at work in its folders."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
