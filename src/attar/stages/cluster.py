"""Ray: the same functions of data and settings, computed by stateless tasks on the nodes of a cluster.

The only file that imports ray. A task that dies with its worker or its node is restarted elsewhere; its data are in the
object store of the cluster, where they are put once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from attar.data.images import ImageData
from attar.data.whitening import Whitening
from attar.engine.device import cores, prepare_cpu
from attar.engine.workers import ThreadWorkers
from attar.errors import MissingError, UserError, log
from attar.sets.synthetic import SyntheticSet
from attar.settings import plugins
from attar.signals import Interrupted
from attar.training.pool import Pool

LOCAL = "local"  # the address that means: start a cluster on this machine
MAX_RETRIES = 20  # of a task that loses its worker or node
SECONDS_BETWEEN_CHECKS = 0.5  # of a running task
UNREACHABLE = "http://127.0.0.1:9"
NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": UNREACHABLE}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # makes Ray listen on 127.0.0.1 only
OFFLINE = {"http_proxy": UNREACHABLE, "https_proxy": UNREACHABLE, "no_proxy": "127.0.0.1,localhost"}
MAX_WAITING_TASKS = 256  # tasks that are submitted at the same time


@dataclass(frozen=True)
class SharedData:
    """Real images in the object store: every node fetches them once, and its tasks share the memory."""

    arrays: dict[str, Any]  # name → reference of an array
    attributes: dict[str, Any]  # the other arguments of `ImageData`
    fingerprint: str
    whitening: dict[str, Any]  # name → reference of a tensor; empty where they are not whitened


class RayWorkers(ThreadWorkers):
    """Workers whose calls are Ray tasks.

    A task takes one GPU where the data are on one, else as many CPUs as it uses threads: `threads` for a part, one for
    a model or a seed. Without Ray they are computed with as many threads, so the numbers are the same.
    """

    remote = True

    def __init__(self, ray: Any, device: torch.device, threads: int) -> None:
        super().__init__(device)
        self.ray, self.parallel = ray, threads
        self.references: dict[int, tuple[Any, Any]] = {}  # id → (the object, its reference in the object store)
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.waiting = ThreadPoolExecutor(MAX_WAITING_TASKS)
        self.run = ray.remote(max_retries=MAX_RETRIES, retry_exceptions=False)(_task)

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """The results, in order. `function` runs here, in one thread per job; only its calls are tasks."""
        submitted = [self.waiting.submit(function, job) for job in jobs]
        try:
            for job in submitted:
                yield job.result()
        finally:
            for job in submitted:
                job.cancel()

    def call(
        self, function: Callable[..., Any], *args: Any, many: bool = False, idle: Callable[[], None] = lambda: None
    ) -> Any:
        """`function(*args)` on a node, with all threads of a part where `many`. `idle` is called while it computes."""
        threads = self.parallel if many else 1
        resources: dict[str, Any] = {"num_cpus": threads}
        if self.device.type == "cuda":
            resources = {"num_cpus": 1, "num_gpus": 1}
        sent = [self._reference(arg) for arg in args]
        task = self.run.options(**resources).remote(function, sent, threads, plugins.loaded())
        while not self.ray.wait([task], timeout=SECONDS_BETWEEN_CHECKS)[0]:
            if self.stopped.is_set():
                self.ray.cancel(task)
                raise KeyboardInterrupt
            idle()
        try:
            return to_device(self.ray.get(task), self.device)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise UserError(f"Ray gave a task up: {first_line(error)}") from error

    def close(self) -> None:
        """Cancel what still runs, and wait until no thread uses the cluster."""
        self.stopped.set()
        self.waiting.shutdown(wait=True, cancel_futures=True)

    def _reference(self, arg: Any) -> Any:
        """What is sent for an argument: a reference for large ones, which are put into the object store once."""
        if not isinstance(arg, ImageData | Pool | SyntheticSet):
            return arg
        with self.lock:
            if id(arg) not in self.references:
                if isinstance(arg, ImageData):
                    self.references[id(arg)] = arg, share(self.ray, arg)
                else:
                    self.references[id(arg)] = arg, self.ray.put(to_device(arg, "cpu"))
            return self.references[id(arg)][1]


@contextmanager
def session(address: str, device: torch.device, cpus: int | None = None) -> Iterator[RayWorkers]:
    """Workers on the cluster at `address`, or on a cluster that is started here and stopped at the end.

    cpus: threads of a part; by default as many as PyTorch uses here.
    Raises `MissingError` without ray, `UserError` when the cluster cannot be reached or no node of it is large enough.
    """
    threads = cpus or torch.get_num_threads()
    ray = _import(address)
    try:
        with warnings.catch_warnings(), offline() if address == LOCAL else nullcontext():
            warnings.simplefilter("ignore")  # deprecations inside ray
            ray.init(**_options(address, threads, device))
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise UserError(f"there is no Ray cluster at {address}: {first_line(error)}; `ray start` starts one") from error
    workers = None
    try:
        _check_room(ray, threads, device)
        workers = RayWorkers(ray, device, threads)
        with without_ray_reports():
            yield workers
    finally:
        if workers is not None:
            workers.close()
        ray.shutdown()


@contextmanager
def without_ray_reports() -> Iterator[None]:
    """Keep the reports of Ray about dead workers off standard output; log one line for each task that is restarted."""
    before, sys.stdout = sys.stdout, FilteredOutput(sys.stdout)
    try:
        yield
    finally:
        sys.stdout = before


class FilteredOutput:
    """Standard output without what the threads of Ray print."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, unless a thread of Ray does."""
        if not threading.current_thread().name.startswith("ray_"):
            return self.stream.write(text)
        if "will be retried" in text:
            log.info("a Ray worker or node died; its task begins again")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def share(ray: Any, data: ImageData) -> SharedData:
    """Put real images into the object store, on the CPU."""
    arrays = {"images": data.images[:], "labels": data.labels}
    if data.test_images is not None and data.test_labels is not None:
        arrays |= {"test_images": data.test_images[:], "test_labels": data.test_labels}
    attributes = {"classes": data.classes, "mean": data.mean, "std": data.std, "name": data.name}
    whitening = {} if data.whitening is None else vars(data.whitening)
    references, of_whitening = (
        {name: ray.put(value.cpu().contiguous().numpy()) for name, value in tensors.items()}
        for tensors in (arrays, whitening)
    )
    return SharedData(references, {**attributes, "device": data.device.type}, data.fingerprint, of_whitening)


def receive(ray: Any, shared: SharedData) -> ImageData:
    """Real images from the object store; on a CPU without a copy."""
    arrays: dict[str, np.ndarray] = {name: ray.get(ref) for name, ref in shared.arrays.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch cannot say that a tensor is read-only; `ImageData` is never written
        tensors: dict[str, Any] = {name: torch.from_numpy(value) for name, value in arrays.items()}
    data = ImageData(**tensors, **shared.attributes)
    data.fingerprint = shared.fingerprint  # of the same images: need not be computed again
    if shared.whitening:
        parts = {name: torch.tensor(ray.get(ref)) for name, ref in shared.whitening.items()}
        data.whitening = Whitening(**parts).to(data.device)
    return data


def to_device(value: Any, device: torch.device | str) -> Any:
    """A copy with every tensor on the device; walks through dicts, lists, tuples and dataclasses."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_device(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: to_device(getattr(value, item.name), device) for item in fields(value)})
    return value


def _task(function: Callable[..., Any], args: list[Any], threads: int, own: list[str]) -> Any:
    """The task: fetch the arguments, compute, return the result on the CPU. own: plugins, see `plugins.loaded`."""
    import ray

    plugins.as_text(own)
    torch.set_num_threads(threads)
    prepare_cpu()
    received = []
    for arg in args:
        if isinstance(arg, SharedData):
            received.append(receive(ray, arg))
        else:
            received.append(ray.get(arg) if isinstance(arg, ray.ObjectRef) else arg)
    try:
        return to_device(function(*received), "cpu")
    except Interrupted as error:
        if error.number == signal.SIGTERM:  # the node ends this process, and Ray restarts the task elsewhere
            os._exit(error.status)
        raise


def _import(address: str) -> Any:
    os.environ.update(NO_REPORTS)
    if address == LOCAL or address.startswith(("127.", "localhost:")):
        os.environ.update(LOOPBACK)
    try:
        import ray
    except ImportError as error:
        raise MissingError("--ray needs the package ray; install it with: pip install 'attar[ray]'") from error
    return ray


@contextmanager
def offline() -> Iterator[None]:
    """Processes started in this block reach only this machine by HTTP: Ray asks cloud services where it runs."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(OFFLINE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _options(address: str, threads: int, device: torch.device) -> dict[str, Any]:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address != LOCAL:
        return {"address": address, **quiet}
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    cpus = max(threads, cores())
    return {"address": LOCAL, "include_dashboard": False, "num_cpus": cpus, "num_gpus": gpus, **quiet}


def _check_room(ray: Any, threads: int, device: torch.device) -> None:
    """Raise `UserError` where no node is large enough for a task, which would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device.type == "cuda" and not any(node.get("GPU", 0) >= 1 for node in nodes):
        raise UserError("no node of the Ray cluster has a GPU; use --device cpu")
    cpus = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if device.type == "cpu" and cpus < threads:
        raise UserError(f"no node of the Ray cluster has {threads} CPUs for a part; use --ray_cpus {max(cpus, 1)}")


def first_line(error: BaseException) -> str:
    return " ".join(str(error).strip().split("\n")[0].split())[:200] or type(error).__name__
