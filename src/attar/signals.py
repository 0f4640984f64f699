"""SIGINT and SIGTERM: held back while a state changes, and let through where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from attar.errors import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM. The message says how to go on; `status` is what the command line exits with."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(words)
        self.number = number

    @property
    def status(self) -> int:
        """128 and the signal's number, as shells count: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Stop:
    """What came while signals were held back. The first one waits for `check`; a second one comes through at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.open = False

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def through(self) -> Iterator[None]:
        """Signals come through at once in here, and one that came before does so now."""
        self.check()
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        again = self.received is not None
        self.received = number
        if not again and not self.open:
            with suppress(RuntimeError):  # the signal came while a line was written
                log.warning("stopping now" if AT_ONCE else "stopping at the next safe point; again stops now")
        if again or self.open or AT_ONCE:
            raise Interrupted(number)


HELD: list[Stop] = []  # those that hold signals back now
AT_ONCE: list[object] = []  # threads that are at something long which may be broken off


@contextmanager
def at_once() -> Iterator[None]:
    """Signals come through at once while a thread is in here, though they are held back: the step it serves is lost.

    For what takes minutes and leaves nothing behind, such as compiling.
    """
    check()
    mark = object()
    AT_ONCE.append(mark)
    try:
        yield
    finally:
        AT_ONCE.remove(mark)


def check() -> None:
    """Raise `Interrupted` if a signal came that is held back: from within a step, which then is lost."""
    for stop in HELD:
        stop.check()


@contextmanager
def held() -> Iterator[Stop]:
    """Hold SIGINT and SIGTERM back. Outside the main thread, where Python has no signals, nothing changes."""
    stop = Stop()
    HELD.append(stop)
    try:
        with _handlers(stop.handle):
            yield stop
    finally:
        HELD.remove(stop)
    stop.check()


@contextmanager
def raised() -> Iterator[None]:
    """SIGTERM raises `Interrupted`, as SIGINT raises `KeyboardInterrupt`, so that what is half-written is removed."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handlers(handle, signal.SIGTERM):
        yield


@contextmanager
def _handlers(handle: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers or SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
