"""DenseNet-121: its size by hand, a forward pass written out, its maps, and tiny images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar import models
from attar.errors import UserError
from attar.models.densenet import DenseNet, Layer


def dense(width: float = 1 / 32, **changes: Any) -> DenseNet:
    given: dict[str, Any] = {"channels": 1, "nclass": 3, "size": (8, 8), "seed": 0}
    module = models.build("densenet", width=width, **(given | changes))
    assert isinstance(module, DenseNet)
    return module


def count_by_hand(channels: int, nclass: int, growth: int = 32) -> int:
    """Stem 3x3; 58 layers of 1x1 and 3x3; three transitions; norms with scale and shift; one linear layer."""
    inner, total = 2 * growth, channels * 2 * growth * 9
    for block, layers in enumerate((6, 12, 24, 16)):
        if block:
            total += 2 * inner + inner * inner // 2
            inner //= 2
        for _ in range(layers):
            total += 2 * inner + inner * 4 * growth + 2 * 4 * growth + 4 * growth * growth * 9
            inner += growth
    assert inner == 32 * growth
    return total + 2 * inner + inner * nclass + nclass


def test_parameter_counts_by_hand() -> None:
    assert count_by_hand(3, 10) == 6_956_298  # as the widely used DenseNet-121 for CIFAR-10 has
    for channels, nclass, width, growth in ((3, 10, 1.0, 32), (1, 4, 0.25, 8)):
        module = dense(width, channels=channels, nclass=nclass, size=(32, 32), norm_type="batch")
        assert sum(value.numel() for value in module.parameters()) == count_by_hand(channels, nclass, growth)
        assert not any(layer.bias is not None for layer in module.modules() if isinstance(layer, nn.Conv2d))


def test_forward_written_out() -> None:
    """Pre-activation, concatenation, halving, pooling: with nothing but the tensors, in order, in float64."""
    module = dense(1 / 16, nclass=5, size=(16, 12)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    left = iter(module.parameters())
    x = torch.randn(3, 1, 16, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def norm_relu(maps: Tensor) -> Tensor:
        return F.relu(F.instance_norm(maps, weight=next(left), bias=next(left)))

    maps = F.conv2d(x, next(left), padding=1)
    for block, layers in enumerate((6, 12, 24, 16)):
        if block:
            maps = F.conv2d(norm_relu(maps), next(left))
            maps = F.avg_pool2d(maps, 2) if min(maps.shape[2:]) >= 4 else maps
        for _ in range(layers):
            narrow = F.conv2d(norm_relu(maps), next(left))
            maps = torch.cat([maps, F.conv2d(norm_relu(narrow), next(left), padding=1)], dim=1)
    features = norm_relu(maps).mean(dim=(2, 3))
    expected = features @ next(left).T + next(left)
    assert next(left, None) is None
    with torch.no_grad():
        assert torch.allclose(module(x), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(module(x), module.classifier(module.features(x)))


@pytest.mark.parametrize(
    ("size", "sides"),
    [((32, 32), [32, 16, 8, 4]), ((96, 70), [35, 17, 8, 4]), ((224, 224), [56, 28, 14, 7]), ((8, 8), [8, 4, 2, 2])],
)
def test_maps_of_every_block(size: tuple[int, int], sides: list[int]) -> None:
    module = dense(size=size, norm_type="none")
    actual = []
    layers = [layer for layer in module.modules() if isinstance(layer, Layer)]
    hooks = [layer.register_forward_hook(lambda _, __, out: actual.append(tuple(out.shape[1:]))) for layer in layers]
    with torch.no_grad():
        assert module(torch.rand(1, 1, *size)).shape == (1, 3)
    for hook in hooks:
        hook.remove()
    ends = [actual[k - 1] for k in (6, 18, 42, 58)]
    assert [shape[0] for shape in ends] == [8, 16, 32, 32]  # with a growth of 1
    assert [min(shape[1:]) for shape in ends] == sides


@pytest.mark.parametrize("norm_type", models.NORM_TYPES)
@pytest.mark.parametrize("size", [(8, 8), (2, 3)])
def test_tiny_images(norm_type: str, size: tuple[int, int]) -> None:
    module = dense(1 / 8, size=size, norm_type=norm_type)
    x = torch.rand(4, 1, *size, requires_grad=True)
    assert torch.autograd.grad(module(x).logsumexp(1).sum(), x)[0].isfinite().all()
    assert module.features(x).std(0).max() > 1e-3


def test_starts_he_normal_and_from_the_seed() -> None:
    weights = models.parameters_of(dense(1.0, channels=3, size=(32, 32)))
    for name, tensor in weights.items():
        if tensor.dim() == 4 and tensor.numel() > 10_000:
            fan_in = tensor.shape[1] * tensor.shape[2] * tensor.shape[3]
            assert tensor.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), name
    one, same, other = (models.parameters_of(dense(seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_refusals() -> None:
    with pytest.raises(UserError, match="images of 1x9 are too small for densenet; sides must be at least 2"):
        dense(size=(1, 9))
    with pytest.raises(UserError, match="densenet has no depth 169; valid: 121"):
        models.parse("densenet169")
    assert models.parse("DenseNet") == models.parse("densenet121") == ("densenet", 121)
    assert models.label("densenet", norm_type="batch") == "densenet121-batch"
