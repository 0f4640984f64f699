"""A function compiled, where that is worth its time and where the compiler can."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from attar import signals
from attar.engine.cuda_graphs import Shapes, shapes_of
from attar.errors import log, say_once

# Compiling costs half a minute to one and a half, once per shape, and on a CPU saves a part of each call that is
# constant and one that grows with what passes through memory (docs/log.md, 25 November). On a GPU nothing is known yet.
SECONDS_OF_COMPILATION = 100.0  # seconds that have to be saved: a small run is not worth the wait
SECONDS_SAVED_PER_CALL = 3e-3  # seconds of a call
SECONDS_SAVED_PER_BYTE = 8e-11  # of `engine.class_bytes`
COMPILE_FROM = 10000  # calls, on a GPU


def worth_compiling(setting: str, calls: int, size: float, device: torch.device) -> bool:
    """Whether to compile a function that will be called so often, by one thread, with `size` bytes of activations.

    `auto` depends on nothing that is measured: the same run with as many threads is compiled every time, or never.
    """
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return calls >= COMPILE_FROM
    return calls * (SECONDS_SAVED_PER_CALL + SECONDS_SAVED_PER_BYTE * size) >= SECONDS_OF_COMPILATION


class Compiled:
    """A function that is compiled at its first call with arguments of some shapes; where the compiler refuses these,
    `plain` takes its place for them. Of several threads one compiles, and the others wait for it.
    """

    def __init__(
        self, function: Callable[..., Any], plain: Callable[..., Any], device: torch.device, name: str
    ) -> None:
        self.function, self.plain, self.device = function, plain, device
        self.fast: Callable[..., Any] | None = None
        self.name = name
        self.chosen: dict[Shapes, Callable[..., Any]] = {}  # by what was tried
        self.compiling = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        shapes = shapes_of(args)
        if shapes not in self.chosen:
            with self.compiling:
                if shapes not in self.chosen:
                    return self._first(shapes, *args)
        return self.chosen[shapes](*args)

    def _first(self, shapes: Shapes, *args: Any) -> Any:
        """Find out what runs with such arguments, by running it."""
        start = time.perf_counter()
        try:
            with signals.at_once(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about things it does not use
                self.fast = self.fast or self._compiler()
                result = self.fast(*args)
        except torch.OutOfMemoryError:  # no matter of the compiler
            raise
        except Exception as error:
            signals.check()  # a signal to all processes ends the C++ compiler's, too
            reason = " ".join(str(error).split("\n")[0].split())[:160]
            say_once(
                f"compilation is not available here ({type(error).__name__}: {reason}); going on without it, as "
                f"--compile off does at once",
                logging.WARNING,
            )
            self.chosen[shapes] = self.plain
            return self.plain(*args)
        self.chosen[shapes] = self.fast
        log.info("%s", f"{self.name} is compiled: {time.perf_counter() - start:.1f} s with its first run")
        return result

    def _compiler(self) -> Callable[..., Any]:
        # On a CPU threads run it side by side: calls out of Python would hold its lock while they compute
        options: dict[str, Any] = {"cpp_wrapper": True} if self.device.type == "cpu" else {}
        return torch.compile(self.function, fullgraph=True, dynamic=False, options=options)
