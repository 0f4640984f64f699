"""Independent items of work in separate processes, each computing with one thread."""

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

WorkItem = TypeVar("WorkItem")


def side_by_side(
    items: Sequence[WorkItem], count: int, begin: Callable[[], Callable[[WorkItem], Any]]
) -> Iterator[Any]:
    """Compute `items` in at most `count` processes, and yield the results in finishing order.

    begin: called in each process before its first item, returns the function that computes an item. It, the items and
    the results are pickled. An exception of either is raised here. When the caller stops early, the processes are
    terminated with SIGTERM and joined.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(items)
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
                    result, error = end.recv()
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
                yield result
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _work(end: Connection, begin: Callable[[], Callable[[WorkItem], Any]]) -> None:
    """The main function of a process: receive items, send results, until it or its parent is terminated."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches only the parent, which terminates this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    try:
        with signals.sigterm_raises():
            compute = None
            while True:
                item = end.recv()
                try:
                    compute = compute or begin()
                    result, error = compute(item), None
                except Exception as raised:
                    result, error = None, raised
                end.send((result, error))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass


def _die_with_parent() -> None:
    """End this process when its parent is killed, so that nothing writes into the folders any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
