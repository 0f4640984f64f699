"""The convolutions of a GPU against PyTorch's own: first and second derivatives, one class and several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from attar.engine.compile import trace
from attar.engine.gpu_forms import GPUForms, convolution
from attar.models.convnet import ConvNet
from attar.models.resnet import ResNet


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((6, 6), 3, 1, 1), ((7, 5), 3, 2, 1), ((6, 5), 1, 2, 0), ((5, 5), 3, 1, 3), ((8, 7), 5, 3, 2)],
)
def test_derivatives_of_any_convolution(size: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    x, weight, bias = randn(2, 3, *size), randn(4, 3, kernel, kernel, seed=1), randn(4, seed=2)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, weight, bias, (stride, stride), (padding, padding))

    torch.testing.assert_close(ours(x, weight, bias), F.conv2d(x, weight, bias, stride, padding))
    inputs = tuple(value.requires_grad_() for value in (x, weight, bias))
    assert torch.autograd.gradcheck(ours, inputs) and torch.autograd.gradgradcheck(ours, inputs)


def matching(net: str) -> tuple[Any, tuple[Tensor, Tensor, Tensor]]:
    """The gradient of the distance of gradients for the images, of several classes at once; and its arguments."""
    options: dict[str, Any] = {"channels": 3, "nclass": 4, "size": (16, 16), "width": 0.1, "norm_type": "instance"}
    torch.manual_seed(0)
    module = (ConvNet if net == "convnet" else ResNet)(**options, depth=2 if net == "convnet" else 10).double()
    params = {name: value.detach() for name, value in module.named_parameters()}

    def loss(params: dict[str, Tensor], images: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, params, (images,)), label.expand(len(images)))

    def distance(images: Tensor, real: Tensor, label: Tensor) -> Tensor:
        target, own = (grad(loss)(params, batch, label) for batch in (real, images))
        return sum(((value.detach() - own[name]) ** 2).sum() for name, value in target.items())  # type: ignore[return-value]

    return vmap(grad(distance)), (randn(4, 2, 3, 16, 16), randn(4, 3, 3, 16, 16, seed=1), torch.arange(4))


@pytest.mark.parametrize("net", ["convnet", "resnet"])
def test_the_sweep_of_several_classes_is_the_same_without_grouped_convolutions(net: str) -> None:
    function, args = matching(net)
    expected = function(*args)
    with GPUForms():
        torch.testing.assert_close(function(*args), expected, rtol=1e-9, atol=1e-12)
    graph, tensors, structure = trace(function, args)
    assert len(tensors) == 3 and structure.num_leaves == 1
    torch.testing.assert_close(graph(*tensors)[0], expected, rtol=1e-9, atol=1e-12)
    groups = [
        node.args[-1 if "backward" not in str(node.target) else -2]
        for node in graph.graph.nodes
        if "convolution" in str(node.target)
    ]
    assert groups and set(groups) == {1}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_norm_and_pooling_are_pytorchs_own(groups: int) -> None:
    x, weight, bias = randn(1, 4, 2, 4), randn(4, seed=1), randn(4, seed=2)

    def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.avg_pool2d(F.group_norm(x, groups, weight, bias, 1e-5), 2)

    inputs = tuple(value.requires_grad_() for value in (x, weight, bias))
    expected = layers(*inputs)
    with GPUForms():
        torch.testing.assert_close(layers(*inputs), expected)
        assert F.avg_pool2d(randn(1, 1, 5, 4), 2).shape == (1, 1, 2, 2), "a side that is not divided is floored"
        assert torch.autograd.gradcheck(layers, inputs) and torch.autograd.gradgradcheck(layers, inputs)


@pytest.mark.parametrize(("groups", "does"), [(4, False), (2, True)])
def test_a_bias_before_an_instance_norm_does_nothing(groups: int, does: bool) -> None:
    convolution, norm = torch.nn.Conv2d(3, 4, 3).double(), torch.nn.GroupNorm(groups, 4).double()
    x = randn(2, 3, 8, 8)
    with GPUForms():
        maps = norm(convolution(x))
        gradient = torch.autograd.grad(maps.pow(3).sum(), convolution.bias, allow_unused=True)[0]
    torch.testing.assert_close(maps, norm(convolution(x)))
    assert (gradient is not None) == does


def test_what_is_no_plain_convolution_is_left_alone() -> None:
    x = randn(2, 4, 6, 6)
    for options in ({"groups": 2}, {"dilation": 2}, {"padding": "same"}):
        groups = options.get("groups", 1)
        layer = torch.nn.Conv2d(4, 4, 3, **options).double()  # type: ignore[arg-type]
        expected = layer(x)
        with GPUForms():
            assert torch.equal(layer(x), expected), groups
