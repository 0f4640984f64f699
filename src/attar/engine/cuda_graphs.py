"""Record a function once as a CUDA graph and replay it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from attar.errors import log

GRAPH_WARMUP = 3  # eager calls before a CUDA graph is recorded; PyTorch requires a few
# a call → (its replay, the results that each replay overwrites)
Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
Shapes = tuple[Any, ...]


def shapes_of(args: Any) -> Shapes:
    """Shape and dtype of each tensor in nested lists, tuples and dicts, and what else they hold, as it is."""
    return tuple((value.shape, value.dtype) if isinstance(value, Tensor) else value for value in tree_leaves(args))


def layouts_of(args: Any) -> Shapes:
    """As `shapes_of`, with the strides of each tensor: what compiled code is valid for."""
    leaves = tree_leaves(args)
    return shapes_of(args) + tuple(value.stride() for value in leaves if isinstance(value, Tensor))


class CudaGraph:
    """A function of tensors of fixed shapes, recorded as a CUDA graph after a few calls and replayed from then on.

    Arguments and results are nested lists, tuples and dicts of tensors. The results are overwritten by the next call.

    Args:
        function: the function to record.
        record: replaces `record_graph`, so that tests run without a GPU.
        smaller: makes the function need less memory, and returns whether it could. It is called when recording runs
            out of memory; if it succeeds, the warm-up starts again.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        record: Record | None = None,
        *,
        smaller: Callable[[], bool] | None = None,
    ) -> None:
        self.function = function
        self.record = record or record_graph
        self.smaller = smaller
        self.calls = 0
        self.replay: Callable[[], None] | None = None
        self.static: list[Any] = []
        self.result: Any = None
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        flat, structure = tree_flatten(args)
        fits = self._fits(flat)
        if self.failed or (self.replay is not None and not fits):
            return self.function(*args)
        if fits:
            self._copy(flat)
        else:  # from the first call on in memory of its own: code is compiled for the strides that are recorded
            self.static, self.calls = [value.clone() if isinstance(value, Tensor) else value for value in flat], 0
        self.calls += 1
        if self.calls <= GRAPH_WARMUP:
            return self._warm_up(structure)
        if self.replay is None:
            reason, short = "", False
            try:
                with self._on_device():
                    self.replay, self.result = self.record(lambda: self._compute(structure))
            except RuntimeError as error:
                reason, short = " ".join(str(error).split("\n")[0].split())[:160], short_of_memory(error)
            if self.replay is None:  # outside of `except`: the traceback would keep the tensors of its frames alive
                self.static = []
                if short and self.smaller is not None and self.smaller():
                    self.calls = 0
                    return self(*args)
                log.warning("no CUDA graph could be recorded (%s); going on without it", reason)
                self.failed = True
                return self.function(*args)
        self.replay()
        return self.result

    def _compute(self, structure: TreeSpec) -> Any:
        return self.function(*tree_unflatten(self.static, structure))

    def _warm_up(self, structure: TreeSpec) -> Any:
        if self.record is not record_graph:
            return self._compute(structure)
        with self._on_device():
            return on_side_stream(lambda: self._compute(structure))

    def _on_device(self) -> AbstractContextManager[Any]:
        """Makes the GPU of the arguments the current one: streams and recordings are the current GPU's."""
        gpus = (value.device for value in self.static if isinstance(value, Tensor) and value.device.type == "cuda")
        gpu = next(gpus, None)
        return nullcontext() if gpu is None else torch.cuda.device(gpu)

    def _copy(self, flat: list[Any]) -> None:
        """Copy new arguments into the recorded memory, one call per dtype: there may be hundreds of tensors."""
        by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for static, value in zip(self.static, flat, strict=True):
            if isinstance(static, Tensor):
                old, new = by_type.setdefault(static.dtype, ([], []))
                old.append(static)
                new.append(value)
        for old, new in by_type.values():
            torch._foreach_copy_(old, new)

    def _fits(self, flat: list[Any]) -> bool:
        """Whether the graph was recorded for such shapes and dtypes, and for the same values that are not tensors."""
        if len(flat) != len(self.static):
            return False
        return all(
            shapes_of(static) == shapes_of(value) if isinstance(static, Tensor) else static == value
            for static, value in zip(self.static, flat, strict=True)
        )


def short_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it hides, is out of memory: ending a failed recording may raise another error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, torch.OutOfMemoryError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


@cache
def side_stream(gpu: int) -> Any:
    """The stream of a GPU on which all is warmed up and recorded: one, as each new stream allocates a workspace."""
    return torch.cuda.Stream(gpu)


def on_side_stream(function: Callable[[], Any]) -> Any:
    """Call a function on a side stream, synchronised with the current one, as warm-up before recording requires."""
    current, side = torch.cuda.current_stream(), side_stream(torch.cuda.current_device())
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = function()
    current.wait_stream(side)
    return result


def record_graph(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Capture one call as a CUDA graph. Returns its replay and the tensors that every replay fills."""
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=side_stream(torch.cuda.current_device())):
            result = function()
    except BaseException:
        torch.cuda.set_stream(current)  # after a failure at its end, `torch.cuda.graph` leaves its own stream current
        raise
    return graph.replay, result
