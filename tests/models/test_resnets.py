"""The structure of ResNetAP and ResNet, their sizes by hand, and tiny images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar import models
from attar.errors import UserError
from attar.models.common import AveragePool
from attar.models.resnet import Block


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stage_maps(module: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Shape [channels, h, w] after the stem and after every block."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        part.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
        for name, part in module.named_modules()
        if name == "stem" or isinstance(part, Block)
    ]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return shapes


# Convolutions and norms after the stem, without and with a second block per stage, at width 1.
STAGE1 = 2 * 64 * 64 * 9 + 2 * 128
STAGE2 = 64 * 128 * 9 + 128 * 128 * 9 + 64 * 128 + 3 * 256
STAGE3 = 128 * 256 * 9 + 256 * 256 * 9 + 128 * 256 + 3 * 512
STAGE4 = 256 * 512 * 9 + 512 * 512 * 9 + 256 * 512 + 3 * 1024
SECOND = sum(2 * c * c * 9 + 2 * 2 * c for c in (64, 128, 256, 512))
TEN = STAGE1 + STAGE2 + STAGE3 + STAGE4


@pytest.mark.parametrize("kind", ["resnetap", "resnet"])
@pytest.mark.parametrize(
    ("channels", "size", "kernel"), [(3, (32, 32), 3), (1, (64, 80), 3), (3, (65, 300), 3), (3, (129, 140), 7)]
)
def test_parameter_counts_by_hand(kind: str, channels: int, size: tuple[int, int], kernel: int) -> None:
    """Averages have no parameters, so both kinds have the same number."""
    stem = channels * 64 * kernel**2 + 128
    build: dict[str, Any] = {"channels": channels, "nclass": 10, "size": size}
    assert size_of(models.build(kind, depth=10, **build)) == stem + TEN + 512 * 10 + 10
    assert size_of(models.build(kind, depth=18, **build)) == stem + TEN + SECOND + 512 * 10 + 10


def test_resnet18_on_cifar10_has_the_published_size() -> None:
    module = models.build("resnet18", channels=3, nclass=10, size=(32, 32), norm_type="batch")
    assert size_of(module) == 11_173_962


@pytest.mark.parametrize(
    ("side", "maps"),
    [
        (32, [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        (64, [(64, 64, 64), (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]),
        (65, [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        (128, [(64, 64, 64), (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]),
        (224, [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]),
    ],
)
def test_maps_of_resnetap10(side: int, maps: list[tuple[int, int, int]]) -> None:
    module = models.build("resnetap10", channels=1, nclass=2, size=(side, side), width=1 / 64)
    assert stage_maps(module, torch.rand(1, 1, side, side)) == [(channels // 64, *shape) for channels, *shape in maps]


def test_channels_are_64_128_256_512() -> None:
    for kind in ("resnetap10", "resnetap18", "resnet10", "resnet18"):
        module = models.build(kind, channels=3, nclass=2, size=(16, 16))
        widths = [part.conv2.out_channels for part in module.modules() if isinstance(part, Block)]
        assert widths == sorted([64, 128, 256, 512] * (2 if "18" in kind else 1))


@pytest.mark.parametrize("side", [32, 96, 224])
@pytest.mark.parametrize("depth", [10, 18])
def test_resnetap_never_strides_but_in_average_pools(side: int, depth: int) -> None:
    module = models.build("resnetap", depth=depth, channels=3, nclass=2, size=(side, side), width=1 / 64)
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    assert all(part.stride == (1, 1) and part.bias is None for part in convolutions)
    assert not any(isinstance(part, nn.MaxPool2d | nn.AvgPool2d) for part in module.modules())
    pools = [part.side for part in module.modules() if isinstance(part, AveragePool)]
    assert pools == {32: [], 96: [2], 224: [4]}[side] + [2, 2, 2]


def test_resnet_strides_where_resnetap_pools() -> None:
    module = models.build("resnet18", channels=3, nclass=2, size=(224, 224), width=1 / 64)
    assert not any(isinstance(part, AveragePool | nn.AvgPool2d) for part in module.modules())
    assert [tuple(shape[1:]) for shape in stage_maps(module, torch.rand(1, 3, 224, 224))] == [
        (side, side) for side in (56, 56, 56, 28, 28, 14, 14, 7, 7)
    ]


def test_a_halving_resnetap_block_equals_its_definition() -> None:
    """Average pooling after the first convolution and, in the shortcut, after the 1x1 convolution."""
    torch.manual_seed(0)
    block = Block(4, 6, "instance", pool=2).double()
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    assert isinstance(block.shortcut, nn.Sequential)
    projection, shortcut_norm = block.shortcut
    assert isinstance(projection, nn.Conv2d)

    def norm(maps: Tensor, layer: nn.Module) -> Tensor:
        return F.instance_norm(maps, weight=layer.weight, bias=layer.bias)  # type: ignore[arg-type]

    main = F.relu(norm(F.avg_pool2d(F.conv2d(x, block.conv1.weight, padding=1), 2), block.norm1))
    main = norm(F.conv2d(main, block.conv2.weight, padding=1), block.norm2)
    beside = norm(F.avg_pool2d(F.conv2d(x, projection.weight), 2), shortcut_norm)
    assert torch.allclose(block(x), F.relu(main + beside), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["resnetap10", "resnet10"])
def test_starts_he_normal_by_fan_out(kind: str) -> None:
    weights = models.parameters_of(models.build(kind, channels=3, nclass=10, size=(32, 32), seed=0))
    convolutions = {name: tensor for name, tensor in weights.items() if tensor.dim() == 4}
    assert len(convolutions) == 12  # stem, 4·2, three shortcuts
    for name, tensor in convolutions.items():
        fan_out = tensor.shape[0] * tensor.shape[2] * tensor.shape[3]
        assert tensor.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.08), name


def test_features_are_the_averages_of_the_last_maps() -> None:
    module = models.build("resnetap10", channels=3, nclass=4, size=(20, 17), width=1 / 16, seed=0)
    x = torch.rand(2, 3, 20, 17)
    maps = module.blocks(module.stem(x))  # type: ignore[operator]
    assert torch.allclose(module.features(x), maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3]))
    assert module.features(x).shape == (2, 32)


@pytest.mark.parametrize("norm_type", models.NORM_TYPES)
@pytest.mark.parametrize("kind", ["resnetap10", "resnet10", "resnet18"])
@pytest.mark.parametrize("size", [(8, 8), (2, 2), (3, 5)])
def test_tiny_images(kind: str, norm_type: str, size: tuple[int, int]) -> None:
    """One image at a time too, and never so small a map that a norm per channel makes it a constant."""
    module = models.build(kind, channels=1, nclass=3, size=size, width=1 / 16, norm_type=norm_type, seed=0)
    x = torch.rand(1, 1, *size, requires_grad=True)
    assert torch.autograd.grad(module(x).logsumexp(1).sum(), x)[0].isfinite().all()
    features = module.features(torch.rand(4, 1, *size))
    assert features.isfinite().all()
    assert features.std(0).max() > 1e-3
    assert min(stage_maps(module, x)[-1][1:]) >= 2


def test_8x8_halves_twice() -> None:
    module = models.build("resnetap10", channels=1, nclass=10, size=(8, 8), width=1 / 64)
    assert stage_maps(module, torch.rand(1, 1, 8, 8)) == [(1, 8, 8), (1, 8, 8), (2, 4, 4), (4, 2, 2), (8, 2, 2)]


@pytest.mark.parametrize("kind", ["resnetap", "resnet"])
def test_images_without_a_second_row_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"1x9 are too small for {kind}; sides must be at least 2"):
        models.build(kind, channels=3, nclass=2, size=(1, 9))
