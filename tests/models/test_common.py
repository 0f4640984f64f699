"""Average pooling against PyTorch's own: values, first and second derivatives, odd maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attar.models.common import AveragePool


def derivatives(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the sum of cubes, and of the squared length of that gradient."""
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x)
    return first, second


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("size", [(12, 24), (13, 12), (12, 26), (12, 264)], ids=str)
def test_the_means_are_those_of_pytorch(side: int, last: bool, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    ours, theirs = AveragePool(side)(x), nn.AvgPool2d(side)(x)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)
    for mine, wanted in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-14)


def test_a_compiler_gets_pytorchs_own_pooling_which_it_can_fuse() -> None:
    seen: list[torch.fx.GraphModule] = []

    def looked_at(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.append(graph)
        return graph

    compiled = torch.compile(AveragePool(2), backend=looked_at, fullgraph=True, dynamic=False)
    compiled(torch.randn(2, 3, 8, 8))
    called = [node.target for node in seen[0].graph.nodes if node.op == "call_function"]
    assert called == [torch._C._nn.avg_pool2d]
