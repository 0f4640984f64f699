"""Fake tensors on cuda:0, and attar as it runs on them. `guard.load()` comes first."""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from attar.condensation import loop as condensation
from attar.condensation.network_init import NETWORK_INITS, InitialWeights, later
from attar.condensation.setup import Setup
from attar.condensation.state import State
from attar.data.images import ImageData
from attar.engine import cuda_graphs
from attar.training import loop as training_loop
from attar.training.pool import Pool
from benchmarks.fake_cuda.ledger import GRAPH, REPLAY, Ledger

DEVICE = torch.device("cuda:0")
GIB = 1 << 30
FREE, WHOLE = 70 * GIB, 80 * GIB  # of the fake GPU's memory
Plain = torch.optim.SGD


@dataclass
class FakeGPU:
    """The fake GPU while it is there."""

    mode: FakeTensorMode
    recordings: int = 0  # made so far
    capturing: bool = False
    noting: Ledger | None = None  # the last ledger that was asked for

    def ledger(self) -> Ledger:
        """A ledger to enter around what shall be noted; replays are noted in the last one."""
        self.noting = Ledger(lambda: self.capturing)
        return self.noting

    def there(self, value: Tensor) -> Tensor:
        """A real host tensor as a fake one on the GPU."""
        return self.mode.from_tensor(value).to(DEVICE)

    def data(self, data: ImageData) -> ImageData:
        """The data as they would lie on the GPU."""
        with unset_fake_temporarily():
            known = data.fingerprint
        new = copy.copy(data)
        new.images, new.labels = self.there(_tensor(data.images)), self.there(data.labels)
        if data.test_images is not None and data.test_labels is not None:
            new.test_images, new.test_labels = self.there(_tensor(data.test_images)), self.there(data.test_labels)
        new._rows = [self.there(rows) for rows in data._rows]
        new._constants = tuple(self.there(value) for value in data._constants)
        new.fingerprint = known
        return new

    def pool(self, pool: Pool) -> Pool:
        """The pool; its members stay on the host, where a run keeps them."""
        return Pool(pool.network, pool.made_for, tuple(replace(member) for member in pool.members))

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """In the place of `record_graph`: what runs now is noted as recorded, and by its replays, which do nothing."""
        self.recordings += 1
        self.capturing = True
        own = Ledger(lambda: True)
        try:
            with own:
                result = function()
        finally:
            self.capturing = False

        def replay() -> None:
            if self.noting is not None:
                self.noting.passed[REPLAY].add(own.passed[GRAPH])

        return replay, result


def _tensor(images: Any) -> Tensor:
    assert isinstance(images, Tensor), "images in a file are no matter of this emulation"
    return images


class Foreach(Plain):
    """SGD in one call for all parameters, as PyTorch chooses on a GPU, but not for fake tensors."""

    def __init__(self, *args: Any, fused: bool | None = None, **rest: Any) -> None:
        super().__init__(*args, foreach=None if fused else True, fused=fused, **rest)


META = torch.library.Library("aten", "IMPL", "Meta")  # which PyTorch lacks
META.impl("_fused_sgd_", lambda *_, **__: None)


@contextlib.contextmanager
def on(*, free: int = FREE, warmup: int | None = None) -> Iterator[FakeGPU]:
    """Inside, every new tensor is fake and PyTorch seems to have a GPU of capability 9.0 with so many bytes free.

    warmup: calls before something is recorded, in the place of `GRAPH_WARMUP`.
    """
    gpu = FakeGPU(FakeTensorMode(allow_non_fake_inputs=True))
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        for owner, name, value in (*of_torch(gpu, free), *of_attar(gpu, warmup)):
            stack.enter_context(mock.patch.object(owner, name, value, create=True))  # not every PyTorch has each
        stack.enter_context(
            mock.patch.dict(NETWORK_INITS, {name: _on_host(gpu, make) for name, make in NETWORK_INITS.items()})
        )
        stack.enter_context(gpu.mode)
        yield gpu


Patches = list[tuple[Any, str, Any]]


def of_attar(gpu: FakeGPU, warmup: int | None) -> Patches:
    """What of attar is replaced: how it records, and what it does on the host. Names of its modules stand here only."""
    draw, at = Pool.draw_index, Pool.at

    def draw_index(pool: Pool, generator: torch.Generator) -> int:
        with unset_fake_temporarily():
            return draw(pool, generator)

    def point(pool: Pool, index: int, epoch: int | None = None) -> dict[str, Tensor]:
        with unset_fake_temporarily():
            found = at(pool, index, epoch)
        return {name: gpu.mode.from_tensor(value) for name, value in found.items()}

    def starting_point(state: State, setup: Setup) -> InitialWeights:  # the first, in place of one that is drawn
        epoch = setup.config.min_start_epoch
        return InitialWeights(setup.pool.at(0, epoch), setup.pool.members[0].buffers, 0, epoch)

    patches: Patches = [
        (Pool, "at", point),
        (condensation, "starting_point", starting_point),
        (cuda_graphs, "record_graph", gpu.record),
        (training_loop, "record_graph", gpu.record),
        (cuda_graphs, "on_side_stream", lambda function, *_: function()),
        (Pool, "draw_index", draw_index),
        (condensation, "later", _on_host(gpu, later)),
    ]
    return patches if warmup is None else [*patches, (cuda_graphs, "GRAPH_WARMUP", warmup)]


def _on_host(gpu: FakeGPU, make: Callable[..., InitialWeights]) -> Callable[..., InitialWeights]:
    """A network's origin works with the real tensors of the pool on the host."""

    def call(*args: Any) -> InitialWeights:
        with unset_fake_temporarily():
            found = make(*args)
        params, buffers = (
            {
                name: value if isinstance(value, FakeTensor) else gpu.mode.from_tensor(value)
                for name, value in own.items()
            }
            for own in (found.params, found.buffers)
        )
        return replace(found, params=params, buffers=buffers)

    return call


def of_torch(gpu: FakeGPU, free: int) -> Patches:
    """What of PyTorch is replaced: what it asks the device, and what fake tensors do not allow."""
    plain = torch.tensor

    def tensor(values: Any, *, device: Any = None, **rest: Any) -> Tensor:
        if device is None:
            return plain(values, **rest)
        with unset_fake_temporarily():  # the copy to a device is hidden from Python
            made = plain(values, **rest)
        return gpu.mode.from_tensor(made).to(device)

    cuda = torch.cuda
    return [
        (cuda, "is_available", lambda: True),
        (cuda, "device_count", lambda: 1),
        (cuda, "current_device", lambda: 0),
        (cuda, "get_device_capability", lambda *_: (9, 0)),
        (cuda, "get_device_name", lambda *_: "fake GPU"),
        (cuda, "mem_get_info", lambda *_: (free, WHOLE)),
        (cuda, "memory_reserved", lambda *_: 0),
        (cuda, "memory_allocated", lambda *_: 0),
        (cuda, "device", lambda *_: contextlib.nullcontext()),
        (cuda, "synchronize", lambda *_: None),
        (cuda, "Stream", lambda *_: object()),
        (cuda, "empty_cache", lambda: None),
        (cuda, "is_bf16_supported", lambda *_, **__: True),
        (cuda, "is_current_stream_capturing", lambda: gpu.capturing),
        (cuda, "_lazy_init", lambda: None),
        (torch._C, "_conv_determine_backend_memory_format", _layout),
        (FakeTensorMode, "init_gpu_context", lambda mode, device: None),
        (torch, "tensor", tensor),
        (Tensor, "new_tensor", lambda own, values: tensor(values, dtype=own.dtype, device=own.device)),
        (Tensor, "pin_memory", _pinned),
        (nn.Module, "to", _moved),
        (torch.optim, "SGD", Foreach),
        (importlib.import_module("torch.optim.adam"), "_get_value", _count_of_steps),  # its package hides it
    ]


def _layout(images: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """Of a convolution's result: cuDNN keeps channels last, which a PyTorch without CUDA does not know."""
    last = torch.channels_last
    kept = any(value.is_contiguous(memory_format=last) and value.shape[1] > 1 for value in (images, weight))
    return last if kept else torch.contiguous_format


def _count_of_steps(value: Any) -> Any:
    """Adam counts its steps on the host, also on a GPU: what it reads there is no matter of the device."""
    return 1.0 if isinstance(value, Tensor) and value.device.type == "cpu" else value


def _pinned(value: Tensor, *_: Any) -> Tensor:
    found = value.clone()
    found.pinned = True  # type: ignore[attr-defined]
    return found


def _moved(module: nn.Module, device: Any) -> nn.Module:
    """`Module.to`, which swaps tensors, as fake ones do not allow."""
    for layer in module.modules():
        for name, value in list(layer._parameters.items()):
            if value is not None:
                layer._parameters[name] = nn.Parameter(value.detach().to(device), value.requires_grad)
        for name, buffer in list(layer._buffers.items()):
            if buffer is not None:
                layer._buffers[name] = buffer.to(device)
    return module
