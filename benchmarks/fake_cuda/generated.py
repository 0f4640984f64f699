"""What the compiler would run on a GPU: counted in the source that it generates for CUDA, which is not compiled here.

Needs triton, as far as its Python part; where that is not installed `missing` says so. Private names of PyTorch's
compiler are replaced in this file only: a new version of PyTorch may want others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import tempfile
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves, tree_map

from attar.condensation.gradients import ClassInputs
from attar.condensation.network_training import NetworkGradients
from attar.engine.compile import ON_GPU, Compiled, trace
from benchmarks.fake_cuda.emulation import FakeGPU
from benchmarks.fake_cuda.iteration import chain_of
from benchmarks.fake_cuda.ledger import CONVOLUTIONS, PRODUCTS, flops
from benchmarks.step import Pair

PLAIN_TENSOR = torch.tensor
PROPERTIES = types.SimpleNamespace(  # of an H100
    name="fake GPU",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 << 30,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    clock_rate=1980000,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
    gcnArchName="",
    uuid="0",
)


class Generated(Exception):
    """The compiler has generated its source: that is all that is wanted."""

    def __init__(self, source: str, moved: int) -> None:
        super().__init__("generated")
        self.source, self.moved = source, moved


def missing() -> str | None:
    """Why nothing can be generated here, in a line."""
    if importlib.util.find_spec("triton") is None:
        return "triton is missing: pip install --no-deps --target FOLDER triton, and put FOLDER on PYTHONPATH"
    return None


def sweep(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """The compiled sweep: of all classes that are computed at once."""
    setup, state = pair.setup, pair.state
    rows, drawn = pair.inputs()
    assert state.network is not None
    params = {name: value.detach() for name, value in state.network.params.items()}
    gradients = setup.gradients
    chunk, labels = gradients.chunk, gradients.labels
    real = [pair.data.fetch(row) for row in rows[:chunk]]
    if chunk > 1:
        some = {name: value[:chunk].unsqueeze(1) for name, value in drawn.items()}
        step: Any = gradients.grouped[False]
        inputs = ClassInputs(params, torch.stack(real), some, None, labels[:chunk], None)
        arguments: tuple[Any, ...] = (state.images[:chunk], inputs)
    else:
        some = {name: value[:1] for name, value in drawn.items()}
        step = gradients.step
        arguments = (state.images[0], ClassInputs(params, real[0], some, None, labels[0], None))
    calls = -(-len(rows) // chunk)
    return {"what": f"{chunk} classes", "calls": calls, **_generated(step, arguments, gpu)}


def network_gradient(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """The compiled gradient of one batch of the update."""
    setup, state = pair.setup, pair.state
    assert state.network is not None
    ours = setup.gradients
    gradients = NetworkGradients(ours.module, ours.execution, ours.workers)
    params = {name: value.detach() for name, value in state.network.params.items()}
    images = pair.data.fetch(state.update_sampler.draw())
    targets = torch.rand(len(images), pair.data.nclass, device=images.device)
    calls = -(-pair.config.n_data // pair.config.batch_size)
    return {"what": "a batch", "calls": calls, **_generated(gradients.step, (params, images, targets), gpu)}


def augmentation(pair: Pair, gpu: FakeGPU) -> dict[str, Any]:
    """The compiled augmentation of a chain of batches of the update."""
    chain = chain_of(pair)
    images = pair.data.images[chain.source]
    make = pair.setup.network_training.make.keywords["make"]
    found = _generated(make, (images, chain.labels, chain.augmentation, chain.batch), gpu)
    return {"what": "augmentation of a chain", "calls": 1, **found}


def _generated(compiled: Any, arguments: tuple[Any, ...], gpu: FakeGPU) -> dict[str, Any]:
    """Kernels, library calls, bytes and arithmetic of one call, and whether channels last was chosen."""
    assert isinstance(compiled, Compiled), "counted as it is compiled: compile is on"
    graph, tensors, _ = trace(compiled.function, arguments)
    layouts: list[bool] = []
    source, moved = _source(graph, tensors, gpu, layouts)
    body = source.split("def call(")[-1]
    library = Counter(re.findall(r"(extern_kernels\.\w+|torch\.ops\.\w+\.\w+)(?:\.\w+)?\(", body))
    kernels = re.findall(r"triton_\w+\.run\(", body)
    return {
        "operations": len(kernels) + library.total(),
        "triton_kernels": len(kernels),
        "library_calls": library.total(),
        "library": dict(library),
        "bytes": moved,
        "flops": _flops(graph),
        "channels_last": any(layouts),
        "grouped_convolutions": sum(_name(node) in CONVOLUTIONS and _groups(node) > 1 for node in graph.graph.nodes),
    }


def _name(node: Node) -> str:
    return node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else ""


def _groups(node: Node) -> int:
    """Of a convolution, or of its backward, whose last argument says what is wanted."""
    return int(node.args[8] if _name(node) == "convolution" else node.args[9])


def _flops(graph: GraphModule) -> int:
    total = 0
    for node in graph.graph.nodes:
        if _name(node) in CONVOLUTIONS | PRODUCTS:
            arguments = tree_map(lambda value: value.meta["val"] if isinstance(value, Node) else value, list(node.args))
            made = [value for value in tree_leaves(node.meta["val"]) if isinstance(value, Tensor)]
            total += flops(_name(node), arguments, made)
    return total


def _source(graph: GraphModule, tensors: list[Tensor], gpu: FakeGPU, layouts: list[bool]) -> tuple[str, int]:
    """The source that is generated, and the bytes that its kernels and library calls move."""
    from torch._inductor.compile_fx import compile_fx

    with _stubbed(layouts), tracing(TracingContext(gpu.mode)), unset_fake_temporarily():
        try:
            compile_fx(graph, tensors)(*tensors)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, Generated):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            return cause.source, cause.moved
    raise AssertionError("the compiler went on behind its source")


@contextlib.contextmanager
def _stubbed(layouts: list[bool]) -> Iterator[None]:
    """A compiler that believes in the GPU and stops at the source; layouts: gets each choice of channels last."""
    import torch._inductor.fx_passes.fuse_attention as attention
    import torch._inductor.fx_passes.misc_patterns as patterns
    import torch._inductor.fx_passes.pad_mm as padding
    import torch._inductor.graph as graphs
    import torch.utils._triton as triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.scheduler import ExternKernelSchedulerNode
    from torch._inductor.virtualized import V

    lowering, decide = graphs.GraphLowering, graphs.GraphLowering.decide_layout_opt

    def stop(own: Any) -> Any:
        code = own.codegen()[0]
        with V.set_graph_handler(own):
            moved, nodes, _ = own.count_bytes()
        for node, quarter in nodes:  # of a slice that a library call reads, the compiler counts the whole
            if isinstance(node, ExternKernelSchedulerNode) and isinstance(node.node, ExternKernel):
                moved += sum(map(_size_of, [*tree_leaves(node.node.inputs), node.node])) - 4 * quarter
        raise Generated(code if isinstance(code, str) else code.value, int(moved))

    def decided(graph: GraphModule, *, is_inference: bool) -> bool:
        layouts.append(decide(graph, is_inference=is_inference))
        return layouts[-1]

    def nothing(*_: Any, **__: Any) -> None:
        return None

    properties = staticmethod(lambda *_: PROPERTIES)
    cuda = torch.cuda
    stubs: list[tuple[Any, str, Any]] = [
        (cuda, "get_device_properties", lambda *_: PROPERTIES),
        (cuda, "get_rng_state", lambda *_: torch.zeros(1, dtype=torch.uint8)),
        (cuda, "is_initialized", lambda: True),
        *((cuda, name, nothing) for name in ("set_rng_state", "set_device")),
        *((cuda, name, lambda *_: 0) for name in ("_exchange_device", "_maybe_exchange_device")),
        (cuda, "Stream", None),
        (torch, "tensor", PLAIN_TENSOR),
        (torch.version, "cuda", "13.0"),
        (CudaInterface, "get_device_properties", properties),
        (CudaInterface.Worker, "get_device_properties", properties),
        (CudaInterface.Worker, "current_device", staticmethod(lambda: 0)),
        (CudaInterface, "get_compute_capability", staticmethod(lambda *_: 90)),
        (CudaInterface, "is_available", staticmethod(lambda: True)),
        (triton, "triton_hash_with_backend", lambda *_: "fake"),
        *((module, f"_{name}_init", nothing) for module, name in _patterns(attention, padding, patterns)),
        (lowering, "compile_to_module", stop),
        (lowering, "_compile_to_module", stop),
        (lowering, "decide_layout_opt", staticmethod(decided)),
    ]
    settings = ON_GPU | {
        "joint_graph_constant_folding": False,
        "pattern_matcher": False,
        "compile_threads": 1,
        "fx_graph_cache": False,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the compiler's own advice about the fake GPU
        own = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": own}))
        stack.enter_context(config.patch(settings))
        for owner, name, value in stubs:
            stack.enter_context(mock.patch.object(owner, name, value, create=True))
        yield


def _size_of(value: Any) -> int:
    """Bytes of what a library call reads or makes; 0 of what is no tensor."""
    layout = value.maybe_get_layout() if hasattr(value, "maybe_get_layout") else None
    sizes, dtype = getattr(layout, "size", None), getattr(layout, "dtype", None)
    return 0 if sizes is None or dtype is None else math.prod(map(int, sizes)) * dtype.itemsize


def _patterns(attention: Any, padding: Any, patterns: Any) -> list[tuple[Any, str]]:
    """Modules with patterns that are traced on the device, and the names of their first calls."""
    return [(attention, "sfdp"), (padding, "pad_mm"), (patterns, "misc_patterns")]


Counts = Callable[[Pair, FakeGPU], dict[str, Any]]
WHAT: dict[str, tuple[Counts, ...]] = {"sweep": (sweep,), "update": (network_gradient, augmentation)}
