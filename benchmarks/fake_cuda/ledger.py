"""What passes over a fake GPU: kernels, bytes and arithmetic by phase, and what a GPU would wait for or refuse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EAGER, GRAPH, REPLAY = "eager", "graph", "replay"  # launched by the host, inside of a recording, or by its replays

# operations without a kernel: views and shapes
VIEWS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "permute", "transpose", "t", "slice", "select"),
    *("unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind", "unfold", "diagonal", "as_strided"),
    *("detach", "alias", "lift_fresh", "view_as_real"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
# operations whose result, or its shape, the host waits for
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
CONVOLUTIONS = {"convolution", "convolution_backward"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


@dataclass
class Passed:
    """What was done in one phase."""

    kernels: Counter[str] = field(default_factory=Counter)  # by operation
    bytes: Counter[str] = field(default_factory=Counter)  # in and out of each operation
    flops: int = 0  # of convolutions and products
    grouped: int = 0  # convolutions in groups

    def add(self, other: Passed) -> None:
        """Count what another has too."""
        self.kernels.update(other.kernels)
        self.bytes.update(other.bytes)
        self.flops += other.flops
        self.grouped += other.grouped

    def totals(self) -> dict[str, Any]:
        """Sums: operations, bytes, floating-point operations, grouped convolutions."""
        return {
            "operations": self.kernels.total(),
            "convolutions_and_products": sum(self.kernels[name] for name in CONVOLUTIONS | PRODUCTS),
            "grouped_convolutions": self.grouped,
            "bytes": self.bytes.total(),
            "flops": self.flops,
        }


class Ledger(TorchDispatchMode):
    """Notes every operation on the fake GPU, and hazards as (phase, words).

    A hazard is a value that the host reads, numbers sent from memory that is not pinned, and, inside of a recording
    only, a draw. capturing: whether a recording is under way.
    """

    def __init__(self, capturing: Callable[[], bool]) -> None:
        super().__init__()
        self.capturing = capturing
        self.passed: dict[str, Passed] = {phase: Passed() for phase in (EAGER, GRAPH, REPLAY)}
        self.hazards: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        phase = GRAPH if self.capturing() else EAGER
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if any(value.device.type == "cuda" for value in given + made):
            self.hazards += [(phase, words) for words in hazards(name, given, made, args, kwargs, phase)]
            if name not in VIEWS and not name.startswith("prim"):
                self._count(self.passed[phase], name, given, made, args)
        return result

    def _count(self, passed: Passed, name: str, given: list[Tensor], made: list[Tensor], args: Any) -> None:
        passed.kernels[name] += launches(name, args)
        written = [*args[0], *args[2]] if name == "_fused_sgd_" else made  # parameters and momentum, in place
        on_gpu = [value for value in given + written if value.device.type == "cuda"]
        passed.bytes[name] += sum(value.numel() * value.element_size() for value in on_gpu)
        if name in CONVOLUTIONS | PRODUCTS:
            passed.flops += flops(name, args, made)
        if name in CONVOLUTIONS:
            passed.grouped += args[-1 if name == "convolution" else -2] > 1


def hazards(
    name: str, given: list[Tensor], made: list[Tensor], args: Any, kwargs: dict[str, Any], phase: str
) -> list[str]:
    """What is wrong with an operation on a GPU, in words."""
    found = []
    copies = name in ("_to_copy", "copy_")
    host = [value for value in given if value.device.type == "cpu" and (value.dim() or copies)]
    if host and not getattr(host[0], "pinned", False):
        found.append(f"{name} from host memory {tuple(host[0].shape)} that is not pinned")
    if phase == GRAPH and host and copies:
        found.append(f"{name} from the host in a recording")
    if phase == GRAPH and kwargs.get("generator") is not None:
        found.append(f"{name} draws in a recording")
    masks = name.startswith("index") and any(
        isinstance(value, Tensor) and value.dtype == torch.bool for value in tree_leaves(args[1:2])
    )
    if name in READS or masks or any(value.device.type == "cpu" for value in made):
        found.append(f"{name} reads back")
    return found


def launches(name: str, args: Any) -> int:
    """Kernels of an operation: one for lists of tensors too, where each lies in memory as its partners do."""
    lists = [own for own in args if isinstance(own, (list, tuple)) and own and isinstance(own[0], Tensor)]
    alike = all(len({value.stride() for value in own}) == 1 for own in zip(*lists, strict=True))
    assert alike or not name.startswith("_fused"), "PyTorch refuses it"
    return 1 if alike or not name.startswith("_foreach") else len(lists[0])


def flops(name: str, args: Any, made: list[Tensor]) -> int:
    """Multiplications and additions of a convolution, its backward pass or a product.

    PyTorch's own counter takes the weight gradient of a convolution in g groups for g times what it is.
    """
    if name == "convolution":
        image, weight, transposed = args[0], args[1], args[6]
        # of every position of the smaller kernel-free side: weight [out, in / groups, k, k], or [in, out / groups, …]
        return 2 * (image if transposed else made[0]).numel() * math.prod(weight.shape[1:])
    if name == "convolution_backward":
        slope, image, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        return 2 * (image if transposed else slope).numel() * math.prod(weight.shape[1:]) * sum(wanted[:2])
    left = args[1] if name in ("addmm", "baddbmm") else args[0]
    return 2 * made[0].numel() * left.shape[-1]
