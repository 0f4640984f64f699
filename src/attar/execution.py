"""How a function of tensors is run: its precision, compiled or not, replayed as a CUDA graph or not.

Each of these changes speed and, at most, rounding. Where one is not available the function runs without it, after one
line that says so.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from attar import interrupts
from attar.device import tensor_cores
from attar.errors import UserError

# Compiling costs half a minute to one and a half, once per shape, and on a CPU saves a part of each call that is
# constant and one that grows with what passes through memory (docs/log.md, 25 November). On a GPU nothing is known yet.
COMPILATION = 100.0  # seconds that have to be saved: a small run is not worth the wait
SAVED = 3e-3  # seconds of a call
SAVED_PER_BYTE = 8e-11  # of `engine.class_bytes`
COMPILE_FROM = 10000  # calls, on a GPU
GRAPH_WARMUP = 3  # calls before a CUDA graph is recorded, as PyTorch asks for

Notice = Callable[[str], None]
Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]  # a call → its replay, and what it fills
Shapes = tuple[tuple[torch.Size, torch.dtype] | None, ...]
Job = TypeVar("Job")
Done = TypeVar("Done")


def check_precision(precision: str, device: torch.device) -> str | None:
    """Raise `UserError` for a precision that the device lacks; return a line of warning for one that is slow there."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if precision != "float32" and major < 8:
            name = torch.cuda.get_device_name(device)
            raise UserError(f"{name} has no {precision}; use --precision float32")
        return None
    if precision == "tf32":
        raise UserError("tf32 exists on NVIDIA GPUs only; on a CPU use --precision float32 or bf16")
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        return "this CPU has no AVX512-BF16: bf16 works here, but float32 is faster"
    return None


@contextmanager
def precise(precision: str, device: torch.device) -> Iterator[None]:
    """Run what is inside at a precision: bf16 for convolutions and products, parameters and gradients in float32."""
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    else:
        yield


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """On a GPU: tensor cores for float32 products with tf32, true float32 without."""
    if device.type == "cuda":
        tensor_cores(products=precision == "tf32", convolutions=precision == "tf32")


def worth_compiling(setting: str, calls: int, size: float, device: torch.device) -> bool:
    """Whether to compile a function that will be called so often, by one thread, with `size` bytes of activations.

    `auto` depends on nothing that is measured: the same run with as many threads is compiled every time, or never.
    """
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return calls >= COMPILE_FROM
    return calls * (SAVED + SAVED_PER_BYTE * size) >= COMPILATION


class Compiled:
    """A function that is compiled at its first call with arguments of some shapes; where the compiler refuses these,
    `plain` takes its place for them. Of several threads one compiles, and the others wait for it.
    """

    def __init__(
        self, function: Callable[..., Any], plain: Callable[..., Any], device: torch.device, notice: Notice, name: str
    ) -> None:
        self.function, self.plain, self.device = function, plain, device
        self.fast: Callable[..., Any] | None = None
        self.notice = notice
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about things it does not use
                self.fast = self.fast or self._compiler()
                result = self.fast(*args)
        except torch.OutOfMemoryError:  # no matter of the compiler
            raise
        except Exception as error:
            interrupts.check()  # a signal to all processes ends the C++ compiler's, too
            reason = " ".join(str(error).split("\n")[0].split())[:160]
            self.notice(
                f"compilation is not available here ({type(error).__name__}: {reason}); going on without it, as "
                f"--compile off does at once"
            )
            self.chosen[shapes] = self.plain
            return self.plain(*args)
        self.chosen[shapes] = self.fast
        self.notice(f"{self.name} is compiled: {time.perf_counter() - start:.1f} s with its first run")
        return result

    def _compiler(self) -> Callable[..., Any]:
        # On a CPU threads run it side by side: calls out of Python would hold its lock while they compute
        options: dict[str, Any] = {"cpp_wrapper": True} if self.device.type == "cpu" else {}
        return torch.compile(self.function, fullgraph=True, dynamic=False, options=options)


def shapes_of(args: Any) -> Shapes:
    """What code is compiled for: shape and type of each tensor in nested lists, tuples and dicts."""
    return tuple((value.shape, value.dtype) if isinstance(value, Tensor) else None for value in tree_leaves(args))


def to_stderr(line: str) -> None:
    """A notice where nobody else listens."""
    print(line, file=sys.stderr)


def once(notice: Notice) -> Notice:
    """`notice` that gets each line once."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            notice(line)

    return say


class Replayed:
    """A function of tensors of fixed shapes, recorded as a CUDA graph after a few calls and replayed from then on.

    Arguments and results are nested lists, tuples and dicts of tensors. The results are overwritten by the next call.
    `record` can be replaced to follow the logic without a GPU. smaller: has the function take less memory, and says
    whether it could; it is asked where memory runs short while recording, and the warm-ups begin anew.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        notice: Notice,
        record: Record | None = None,
        *,
        smaller: Callable[[], bool] | None = None,
    ) -> None:
        self.function = function
        self.notice = notice
        self.record = record or record_graph
        self.smaller = smaller
        self.side: Any = None  # one stream for all warm-ups: each has a workspace of its own
        self.calls = 0
        self.replay: Callable[[], None] | None = None
        self.static: list[Any] = []
        self.result: Any = None
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        flat, structure = tree_flatten(args)
        self.calls += 1
        if self.calls <= GRAPH_WARMUP and self.record is record_graph:
            self.side = self.side or torch.cuda.Stream()
            return on_side_stream(lambda: self.function(*args), self.side)
        if self.failed or self.calls <= GRAPH_WARMUP or (self.replay and not self._fits(flat)):
            return self.function(*args)
        if self.replay is None:
            self.static = [value.clone() if isinstance(value, Tensor) else value for value in flat]
            reason, short = "", False
            try:
                self.replay, self.result = self.record(lambda: self.function(*tree_unflatten(self.static, structure)))
            except RuntimeError as error:
                reason, short = " ".join(str(error).split("\n")[0].split())[:160], short_of_memory(error)
            if self.replay is None:  # here the error is gone, and with it what its frames held
                self.static = []
                if short and self.smaller is not None and self.smaller():
                    self.calls = 0
                    return self(*args)
                self.notice(f"no CUDA graph could be recorded ({reason}); going on without it")
                self.failed = True
                return self.function(*args)
        self._copy(flat)
        self.replay()
        return self.result

    def _copy(self, flat: list[Any]) -> None:
        """New arguments into the recorded memory: all of a type by one call, there may be hundreds of small ones."""
        by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for kept, value in zip(self.static, flat, strict=True):
            if isinstance(kept, Tensor):
                old, new = by_type.setdefault(kept.dtype, ([], []))
                old.append(kept)
                new.append(value)
        for old, new in by_type.values():
            torch._foreach_copy_(old, new)

    def _fits(self, flat: list[Any]) -> bool:
        if len(flat) != len(self.static):
            return False
        return all(
            kept.shape == value.shape and kept.dtype == value.dtype if isinstance(kept, Tensor) else kept == value
            for kept, value in zip(self.static, flat, strict=True)
        )


def short_of_memory(error: BaseException) -> bool:
    """Whether an error comes from a lack of memory: ending a recording may raise another one behind it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, torch.OutOfMemoryError):
        found = found.__cause__ or found.__context__
    return found is not None


def on_side_stream(function: Callable[[], Any], side: Any) -> Any:
    """One call on a side stream, in order with the current one: how a function is warmed up for recording."""
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = function()
    current.wait_stream(side)
    return result


def record_graph(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Capture one call as a CUDA graph. Returns its replay and the tensors that every replay fills."""
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            result = function()
    except BaseException:
        torch.cuda.set_stream(current)  # a recording whose end fails as well leaves its own
        raise
    return graph.replay, result


SUBMITTED: WeakSet[Future[Any]] = WeakSet()


def busy() -> bool:
    """Whether any worker is still at a job."""
    return any(job.running() for job in SUBMITTED)


class Workers:
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
