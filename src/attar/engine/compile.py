"""Compile a function where compilation pays and the compiler supports it; run it eagerly elsewhere."""

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

# Compilation takes 30 to 90 s for each shape. On a CPU it saves a constant time per call, and a time that grows with
# the activation memory (measured: docs/log.md, 25 November). The threshold for a GPU is a guess.
SECONDS_OF_COMPILATION = 100.0  # compile only if a run saves at least this much
SECONDS_SAVED_PER_CALL = 3e-3
SECONDS_SAVED_PER_BYTE = 8e-11  # per call and byte of `condensation.memory.class_bytes`
MIN_CALLS_ON_GPU = 10000


def worth_compiling(setting: str, calls: int, size: float, device: torch.device) -> bool:
    """Whether to compile a function that one thread calls `calls` times, with `size` bytes of activations per call.

    With `auto` the answer depends on no measurement, so a run that is repeated with the same number of threads is
    always compiled or never.
    """
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return calls >= MIN_CALLS_ON_GPU
    return calls * (SECONDS_SAVED_PER_CALL + SECONDS_SAVED_PER_BYTE * size) >= SECONDS_OF_COMPILATION


class Compiled:
    """A function that is compiled at its first call with each combination of argument shapes.

    For shapes where compilation fails, `eager` is called instead. When several threads call it, one compiles and the
    others wait.
    """

    def __init__(
        self, function: Callable[..., Any], eager: Callable[..., Any], device: torch.device, name: str
    ) -> None:
        self.function, self.eager, self.device = function, eager, device
        self.compiled: Callable[..., Any] | None = None
        self.name = name
        self.by_shapes: dict[Shapes, Callable[..., Any]] = {}  # the compiled function, or `eager`
        self.compiling = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        shapes = shapes_of(args)
        if shapes not in self.by_shapes:
            with self.compiling:
                if shapes not in self.by_shapes:
                    return self._compile_and_call(shapes, *args)
        return self.by_shapes[shapes](*args)

    def _compile_and_call(self, shapes: Shapes, *args: Any) -> Any:
        """Compile for these shapes and call; fall back to `eager` for them when compilation fails."""
        start = time.perf_counter()
        try:
            with signals.at_once(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler warns of features that are not used here
                self.compiled = self.compiled or self._torch_compile()
                result = self.compiled(*args)
        except torch.OutOfMemoryError:  # not the compiler's fault: the caller retries with fewer classes
            raise
        except Exception as error:
            signals.check()  # Ctrl-C ends the C++ compiler's process too, which looks like a failed compilation
            reason = " ".join(str(error).split("\n")[0].split())[:160]
            say_once(
                f"compilation is not available here ({type(error).__name__}: {reason}); going on without it, as "
                f"--compile off does at once",
                logging.WARNING,
            )
            self.by_shapes[shapes] = self.eager
            return self.eager(*args)
        self.by_shapes[shapes] = self.compiled
        log.info("%s", f"{self.name} is compiled: {time.perf_counter() - start:.1f} s with its first run")
        return result

    def _torch_compile(self) -> Callable[..., Any]:
        # On a CPU several threads call it at once, and kernels called from Python would hold the interpreter's lock
        options: dict[str, Any] = {"cpp_wrapper": True} if self.device.type == "cpu" else {}
        return torch.compile(self.function, fullgraph=True, dynamic=False, options=options)
