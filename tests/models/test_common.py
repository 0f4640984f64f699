"""Average pooling and the first convolution against PyTorch's own: values, first and second derivatives, odd maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attar.models.common import AveragePool, Convolution


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
    for mine, expected in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("size", [(12, 6), (13, 12), (6, 264)], ids=str)
def test_the_compiled_means_are_those_of_pytorch(side: int, last: bool, size: tuple[int, int]) -> None:
    torch.compiler.reset()  # PyTorch gives a function up after eight shapes
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if last else x

    def slope(x: Tensor, pool: nn.Module) -> Tensor:
        return torch.func.grad(lambda x: pool(x).pow(3).sum())(x)

    def curved(x: Tensor, pool: nn.Module) -> Tensor:
        return torch.func.grad(lambda x: slope(x, pool).pow(2).sum())(x)

    for function in (lambda x, pool: pool(x), slope, curved):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
        expected = function(x, nn.AvgPool2d(side))
        torch.testing.assert_close(compiled(x, AveragePool(side)), expected, rtol=1e-12, atol=1e-14)


def test_a_compiler_gets_pooling_that_it_can_fuse() -> None:
    seen: list[torch.fx.GraphModule] = []

    def looked_at(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.append(graph)
        return graph

    torch.compile(AveragePool(2), backend=looked_at, fullgraph=True, dynamic=False)(torch.randn(2, 3, 8, 8))
    called = [node.target for node in seen[0].graph.nodes if node.op.startswith("call")]
    assert called == ["permute", "reshape", "mean", "permute"], "neither a product nor PyTorch's own"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_compiled_first_convolution_is_pytorchs(channels: int, bias: bool) -> None:
    torch.manual_seed(0)
    ours = Convolution(channels, 4, 3, stride=2, padding=3, bias=bias).double()
    x = torch.randn(2, channels, 9, 8, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=False)
    theirs = nn.functional.conv2d(x, ours.weight, ours.bias, stride=2, padding=3)
    torch.testing.assert_close(compiled(x), theirs, rtol=1e-14, atol=1e-15)
    assert torch.equal(ours(x), theirs), "as it is, nothing is added"

    def curved(weight: Tensor, x: Tensor) -> Tensor:
        """A scalar whose gradient for the images goes through a gradient for the weight, as matching does."""
        own = {"weight": weight} if not bias else {"weight": weight, "bias": ours.bias}
        return torch.func.functional_call(ours, own, (x,)).pow(3).sum()

    def outer(x: Tensor) -> Tensor:
        return torch.func.grad(curved)(ours.weight.detach(), x).pow(2).sum()

    expected = torch.func.grad(outer)(x.detach())
    fast = torch.compile(torch.func.grad(outer), backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(fast(x.detach()), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_compiled_first_convolution_stays_in_bf16(channels: int) -> None:
    ours, x = Convolution(channels, 4, 3), torch.randn(2, channels, 9, 8)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(x).dtype == ours(x).dtype == torch.bfloat16


def test_compiled_maps_of_one_channel_are_given_a_second_one() -> None:
    seen: list[torch.fx.GraphModule] = []

    def looked_at(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.append(graph)
        return graph

    for channels in (1, 3):
        torch.compile(Convolution(channels, 2, 3), backend=looked_at, fullgraph=True, dynamic=False)(
            torch.randn(1, channels, 8, 8)
        )
    padded = ["pad" in " ".join(str(node.target) for node in graph.graph.nodes) for graph in seen]
    assert padded == [True, False]
