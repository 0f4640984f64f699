"""Ray: the same functions of data and settings, computed by stateless tasks on a cluster's nodes.

The only file that imports ray. A task that dies with its worker or its node is started again elsewhere; what it needs
lies in the nodes' shared memory, put there once.
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
from attar.engine.device import cores, prepare_cpu
from attar.engine.workers import ThreadWorkers
from attar.errors import MissingError, UserError, log
from attar.sets.synthetic import SyntheticSet
from attar.signals import Interrupted
from attar.training.pool import Pool

HERE = "local"  # the address of a cluster that is started here
RETRIES = 20  # times that a task may lose its worker or node
POLL = 0.5  # seconds between two looks at a running task
NOWHERE = "http://127.0.0.1:9"
NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": NOWHERE}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's word for: nodes listen on 127.0.0.1 and nowhere else
OFFLINE = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "no_proxy": "127.0.0.1,localhost"}
JOBS = 256  # tasks that wait for the cluster at once


@dataclass(frozen=True)
class SharedData:
    """Real images in the object store: every node fetches them once, and its tasks read the same memory."""

    arrays: dict[str, Any]  # name → reference of an array
    about: dict[str, Any]
    fingerprint: str


class RayWorkers(ThreadWorkers):
    """Workers whose calls are Ray tasks.

    A call takes one GPU where the data live on one, else as many CPUs as it computes with threads: `threads` for a
    part, one for a model or a seed, as these are computed without Ray too. So the numbers are the same.
    """

    remote = True

    def __init__(self, ray: Any, device: torch.device, threads: int) -> None:
        super().__init__(device)
        self.ray, self.parallel = ray, threads
        self.put: dict[int, tuple[Any, Any]] = {}  # id → (the object, what stands for it)
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.waiting = ThreadPoolExecutor(JOBS)
        self.run = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_task)

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """The results, in order. `function` runs here, in a thread per job, and makes calls."""
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
        """`function(*args)` on a node; `many`: with all threads of a part. `idle` is called while it computes."""
        threads = self.parallel if many else 1
        wanted: dict[str, Any] = {"num_cpus": threads}
        if self.device.type == "cuda":
            wanted = {"num_cpus": 1, "num_gpus": 1}
        task = self.run.options(**wanted).remote(function, [self._stand_in(arg) for arg in args], threads)
        while not self.ray.wait([task], timeout=POLL)[0]:
            if self.stopped.is_set():
                self.ray.cancel(task)
                raise KeyboardInterrupt
            idle()
        try:
            return moved(self.ray.get(task), self.device)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise UserError(f"Ray gave a task up: {_first_line(error)}") from error

    def close(self) -> None:
        """Leave what is still running, and wait until nobody asks the cluster anything."""
        self.stopped.set()
        self.waiting.shutdown(wait=True, cancel_futures=True)

    def _stand_in(self, arg: Any) -> Any:
        """What is sent for an argument: large ones go into the object store, once."""
        if not isinstance(arg, ImageData | Pool | SyntheticSet):
            return arg
        with self.lock:
            if id(arg) not in self.put:
                sent = share(self.ray, arg) if isinstance(arg, ImageData) else self.ray.put(moved(arg, "cpu"))
                self.put[id(arg)] = arg, sent
            return self.put[id(arg)][1]


@contextmanager
def session(address: str, device: torch.device, cpus: int | None = None) -> Iterator[RayWorkers]:
    """Workers on the cluster at `address`, or on one that is started here and ends with the session.

    cpus: threads of a part, as many as PyTorch has here by default.
    Raises `MissingError` without ray, `UserError` when the cluster cannot be reached or no node of it is large enough.
    """
    threads = cpus or torch.get_num_threads()
    ray = _import(address)
    try:
        with warnings.catch_warnings(), offline() if address == HERE else nullcontext():
            warnings.simplefilter("ignore")  # ray's own, about its future
            ray.init(**_options(address, threads, device))
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise UserError(
            f"there is no Ray cluster at {address}: {_first_line(error)}; `ray start` starts one"
        ) from error
    workers = None
    try:
        _check_room(ray, threads, device)
        workers = RayWorkers(ray, device, threads)
        with own_output():
            yield workers
    finally:
        if workers is not None:
            workers.close()
        ray.shutdown()


@contextmanager
def own_output() -> Iterator[None]:
    """Keep Ray's reports, pages where a worker dies, off standard output; of each task that begins again one line."""
    before, sys.stdout = sys.stdout, Output(sys.stdout)
    try:
        yield
    finally:
        sys.stdout = before


class Output:
    """Standard output without what Ray's threads print."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """As a stream's."""
        if not threading.current_thread().name.startswith("ray_"):
            return self.stream.write(text)
        if "will be retried" in text:
            log.info("a Ray worker or node died; its task begins again")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def share(ray: Any, data: ImageData) -> SharedData:
    """Put real images into the object store."""
    arrays = {"images": data.images[:], "labels": data.labels}
    if data.test_images is not None and data.test_labels is not None:
        arrays |= {"test_images": data.test_images[:], "test_labels": data.test_labels}
    about = {"classes": data.classes, "mean": data.mean, "std": data.std, "name": data.name}
    put = {name: ray.put(value.cpu().contiguous().numpy()) for name, value in arrays.items()}
    return SharedData(put, {**about, "device": data.device.type}, data.fingerprint)


def receive(ray: Any, shared: SharedData) -> ImageData:
    """Real images out of the object store; on a CPU they are read where they lie, without a copy."""
    arrays: dict[str, np.ndarray] = {name: ray.get(ref) for name, ref in shared.arrays.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch cannot say that a tensor is read-only; `ImageData` is never written
        tensors: dict[str, Any] = {name: torch.from_numpy(value) for name, value in arrays.items()}
    data = ImageData(**tensors, **shared.about)
    data.fingerprint = shared.fingerprint  # of the same images: not computed again
    return data


def moved(value: Any, device: torch.device | str) -> Any:
    """A value with every tensor in it on the device: tensors, containers and dataclasses of them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: moved(getattr(value, item.name), device) for item in fields(value)})
    return value


def _task(function: Callable[..., Any], args: list[Any], threads: int) -> Any:
    """What a worker runs."""
    import ray

    torch.set_num_threads(threads)
    prepare_cpu()
    received = []
    for arg in args:
        if isinstance(arg, SharedData):
            received.append(receive(ray, arg))
        else:
            received.append(ray.get(arg) if isinstance(arg, ray.ObjectRef) else arg)
    try:
        return moved(function(*received), "cpu")
    except Interrupted as error:
        if error.number == signal.SIGTERM:  # the node wants this process gone, not the task: it begins again elsewhere
            os._exit(error.status)
        raise


def _import(address: str) -> Any:
    os.environ.update(NO_REPORTS)
    if address == HERE or address.startswith(("127.", "localhost:")):
        os.environ.update(LOOPBACK)
    try:
        import ray
    except ImportError as error:
        raise MissingError("--ray needs the package ray; install it with: pip install 'attar[ray]'") from error
    return ray


@contextmanager
def offline() -> Iterator[None]:
    """Processes that are started in here reach nothing by HTTP but this machine: Ray asks clouds where it runs."""
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
    if address != HERE:
        return {"address": address, **quiet}
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    most = max(threads, cores())
    return {"address": HERE, "include_dashboard": False, "num_cpus": most, "num_gpus": gpus, **quiet}


def _check_room(ray: Any, threads: int, device: torch.device) -> None:
    """Raise `UserError` where a task would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device.type == "cuda" and not any(node.get("GPU", 0) >= 1 for node in nodes):
        raise UserError("no node of the Ray cluster has a GPU; use --device cpu")
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if device.type == "cpu" and most < threads:
        raise UserError(f"no node of the Ray cluster has {threads} CPUs for a part; use --ray_cpus {max(most, 1)}")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).strip().split("\n")[0].split())[:200] or type(error).__name__
