"""SIGINT and SIGTERM: deferred while a state changes, and raised where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from attar.errors import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived. The message says how to continue; the command line exits with `status`."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status by the convention of shells, 128 + signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class DeferredSignal:
    """The signal that arrived while signals were deferred, if any.

    `check` raises the first one; a second one is raised at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.raises_at_once = False

    def check(self) -> None:
        """Raise `Interrupted` if a signal arrived."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise signals at once in this block, and one that arrived earlier on entry."""
        self.check()
        self.raises_at_once = True
        try:
            yield
        finally:
            self.raises_at_once = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        again = self.received is not None
        self.received = number
        if not again and not self.raises_at_once:
            with suppress(RuntimeError):  # the signal came while a line was written
                log.warning("stopping now" if AT_ONCE else "stopping at the next safe point; again stops now")
        CUT.extend(AT_ONCE)
        if again or self.raises_at_once or AT_ONCE:
            raise Interrupted(number)


DEFERRED: list[DeferredSignal] = []  # one for each `deferred` block that is active, the innermost last
AT_ONCE: list[object] = []  # one for each `at_once` block that is active
CUT: list[object] = []  # those of them that a signal interrupted


@contextmanager
def at_once() -> Iterator[None]:
    """Signals interrupt at once while a thread is in this block, even in a `deferred` one.

    For what takes minutes and leaves nothing behind, such as compiling. The step that it belongs to is lost.
    """
    check()
    mark = object()
    AT_ONCE.append(mark)
    try:
        yield
    finally:
        AT_ONCE.remove(mark)


def check() -> None:
    """Raise `Interrupted` if a deferred signal arrived. For use within a step, which is then lost."""
    for stop in DEFERRED:
        stop.check()


@contextmanager
def deferred() -> Iterator[DeferredSignal]:
    """Defer SIGINT and SIGTERM to the end of the block. Has no effect outside the main thread (Python's rule)."""
    stop = DeferredSignal()
    DEFERRED.append(stop)
    try:
        with _handlers(stop.handle):
            yield stop
    finally:
        DEFERRED.remove(stop)
    stop.check()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make SIGTERM raise `Interrupted`, as SIGINT raises `KeyboardInterrupt`, so that `finally` blocks clean up."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handlers(handle, signal.SIGTERM):
        yield


@contextmanager
def _handlers(handle: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    """Install a handler for the signals, both by default, and restore the previous handlers at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in numbers or SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
