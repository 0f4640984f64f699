"""Compile a function where compilation pays and the compiler supports it; run it eagerly elsewhere."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from attar import signals
from attar.engine.cuda_graphs import Shapes, layouts_of
from attar.engine.gpu_forms import GPUForms
from attar.errors import log, say_once

# Compilation takes 20 to 90 s for each shape. On a CPU it saves a constant time per call, and a time that grows with
# the activation memory (measured: docs/log.md, 25 November). On a GPU only the latter: 41 to 47 ms for ten classes
# of 1.9 GB (one H100, one H200: docs/log.md, 27 November).
SECONDS_OF_COMPILATION = 100.0  # compile only if a run saves at least this much
SECONDS_SAVED_PER_CALL = {"cpu": 3e-3, "cuda": 0.0}
SECONDS_SAVED_PER_BYTE = {"cpu": 8e-11, "cuda": 2.2e-12}  # per call and byte of `condensation.memory.class_bytes`
# For a GPU: compute what is cheap again rather than write it, since an iteration is bound by memory traffic
ON_GPU: dict[str, Any] = {
    "realize_reads_threshold": 32,
    "realize_opcount_threshold": 200,
    "realize_acc_reads_threshold": 64,
    "combo_kernels": True,  # one kernel for several small ones that do not wait for each other
}


def worth_compiling(setting: str, calls: int, size: float, device: torch.device) -> bool:
    """Whether to compile a function that one thread calls `calls` times, with `size` bytes of activations per call.

    With `auto` the answer depends on no measurement, so a run that is repeated with the same number of threads is
    always compiled or never.
    """
    if setting != "auto":
        return setting == "on"
    saved = SECONDS_SAVED_PER_CALL[device.type] + SECONDS_SAVED_PER_BYTE[device.type] * size
    return calls * saved >= SECONDS_OF_COMPILATION


class Compiled:
    """A function that is compiled at its first call with each combination of argument shapes and strides.

    For shapes where compilation fails, `eager` is called instead. When several threads call it, one compiles and the
    others wait.
    """

    def __init__(
        self, function: Callable[..., Any], eager: Callable[..., Any], device: torch.device, name: str
    ) -> None:
        self.function, self.eager, self.device = function, eager, device
        self.compiled: Callable[..., Any] | None = None  # on a CPU, for all shapes
        self.name = name
        self.by_shapes: dict[Shapes, Callable[..., Any]] = {}  # the compiled function, or `eager`
        self.compiling = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        shapes = layouts_of(args)
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
                compiled = self._compile(args)
                result = compiled(*args)
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
        self.by_shapes[shapes] = compiled
        log.info("%s", f"{self.name} is compiled: {time.perf_counter() - start:.1f} s with its first run")
        return result

    def _compile(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        if self.device.type == "cuda":
            return compiled_for_gpu(self.function, args)
        if self.compiled is None:
            # several threads call it at once, and kernels called from Python would hold the interpreter's lock
            options: dict[str, Any] = {"cpp_wrapper": True}
            self.compiled = torch.compile(self.function, fullgraph=True, dynamic=False, options=options)
        return self.compiled


def compiled_for_gpu(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """Compile a function for arguments of these shapes, with the forms of `GPUForms`."""
    import torch._inductor  # only where something is compiled: it is slow to import

    graph, tensors, structure = trace(function, args)
    compiled = torch._inductor.compile(graph, [*tensors], options=ON_GPU)

    def call(*args: Any) -> Any:
        return tree_unflatten(compiled(*_tensors(args)), structure)

    return call


def trace(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[GraphModule, list[Tensor], TreeSpec]:
    """What a function computes for arguments of these shapes, with the forms of `GPUForms`.

    Returns a graph of PyTorch's basic operations (tensors → the leaves of the result), the tensors, and the structure
    of the result.
    """
    flat, structure = tree_flatten(args)
    made: list[TreeSpec] = []

    def of_tensors(*tensors: Tensor) -> list[Any]:
        own = iter(tensors)
        values = [next(own) if isinstance(value, Tensor) else value for value in flat]
        leaves, result = tree_flatten(function(*tree_unflatten(values, structure)))
        made.append(result)
        return leaves

    tensors = _tensors(args)
    with GPUForms():
        graph = make_fx(of_tensors)(*tensors)
    graph.graph.eliminate_dead_code()  # derivatives that nobody asked for
    graph.recompile()
    return graph, tensors, made[-1]


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    return [value for value in tree_leaves(args) if isinstance(value, Tensor)]
