"""ConvNet against a twin in explicit loops, its size by hand, and which images it accepts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attar import models
from attar.errors import UserError


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def twin(weights: dict[str, Tensor], x: Tensor, depth: int, groups: int | None, padding: int) -> Tensor:
    """Logits from the formulas: every layer is [convolution, norm of `groups` groups, ReLU, pool], then linear."""
    tensors = list(weights.values())
    for block in range(depth):
        kernel, bias = tensors.pop(0), tensors.pop(0)
        pad = padding if block == 0 else 1
        n, _, height, width = x.shape
        framed = torch.zeros(n, x.shape[1], height + 2 * pad, width + 2 * pad, dtype=x.dtype)
        framed[:, :, pad : pad + height, pad : pad + width] = x
        height, width = height + 2 * pad - 2, width + 2 * pad - 2
        out = torch.zeros(n, len(kernel), height, width, dtype=x.dtype)
        for row in range(3):
            for column in range(3):
                window = framed[:, :, row : row + height, column : column + width]
                out += torch.einsum("nihw,oi->nohw", window, kernel[:, :, row, column])
        out += bias[None, :, None, None]
        if groups is not None:
            scale, shift = tensors.pop(0), tensors.pop(0)
            each = len(kernel) // groups
            for image in range(n):
                for group in range(groups):
                    part = out[image, group * each : (group + 1) * each].clone()
                    mean = part.sum() / part.numel()
                    variance = ((part - mean) ** 2).sum() / part.numel()
                    out[image, group * each : (group + 1) * each] = (part - mean) / torch.sqrt(variance + 1e-5)
            out = out * scale[None, :, None, None] + shift[None, :, None, None]
        out = torch.where(out > 0, out, torch.zeros_like(out))
        x = torch.zeros(n, len(kernel), height // 2, width // 2, dtype=x.dtype)
        for row in range(height // 2):
            for column in range(width // 2):
                cell = out[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                x[:, :, row, column] = (cell[..., 0, 0] + cell[..., 0, 1] + cell[..., 1, 0] + cell[..., 1, 1]) / 4
    weight, bias = tensors
    return x.reshape(len(x), -1) @ weight.T + bias


@pytest.mark.parametrize(
    ("norm_type", "groups"),
    [("instance", 12), ("layer", 1), ("group", 4), ("none", None)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize(
    ("channels", "size", "depth", "padding"), [(3, (9, 13), 3, 1), (1, (28, 28), 2, 3), (1, (8, 8), 2, 1)]
)
def test_forward_equals_the_formulas(
    norm_type: str, groups: int | None, channels: int, size: tuple[int, int], depth: int, padding: int
) -> None:
    module = models.build(
        "convnet", channels=channels, nclass=5, size=size, depth=depth, width=12 / 128, norm_type=norm_type, seed=3
    ).double()
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():  # norms start as identities, which would hide their parameters
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    expected = twin(models.parameters_of(module), x, depth, groups, padding)
    assert torch.allclose(module(x), expected, rtol=1e-10, atol=1e-10)


def test_instance_norm_is_torchs_instance_norm() -> None:
    """Second derivatives included, whatever layer stands in for it."""
    module = models.build("convnet", channels=1, nclass=3, size=(8, 8), depth=2, width=0.0625, seed=0).double()
    other = models.build("convnet", channels=1, nclass=3, size=(8, 8), depth=2, width=0.0625, seed=0)
    for place in (1, 5):
        assert isinstance(other.blocks, nn.Sequential)
        other.blocks[place] = nn.InstanceNorm2d(8, affine=True)
    other.double()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    actual = []
    for network in (module, other):
        loss = nn.functional.cross_entropy(network(x), torch.tensor([0, 1, 2]))
        gradients = torch.autograd.grad(loss, [p for p in network.parameters() if p.dim() == 4], create_graph=True)
        actual.append(torch.autograd.grad(torch.stack([(g**2).sum() for g in gradients]).sum(), x)[0])
    assert actual[0].abs().max() > 0
    assert torch.allclose(actual[0], actual[1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("channels", "nclass", "size", "depth", "width", "expected"),
    [
        # 3·128·9+128, two of 128·128·9+128, three norms of 256, 128·4·4·10+10
        (3, 10, (32, 32), 3, 1.0, 3584 + 2 * 147584 + 3 * 256 + 20490),
        # 28x28 in one channel becomes 32x32, so the linear layer sees 4x4 again
        (1, 10, (28, 28), 3, 1.0, 1280 + 2 * 147584 + 3 * 256 + 20490),
        # in three channels it stays 28x28: 28, 14, 7, 3
        (3, 10, (28, 28), 3, 1.0, 3584 + 2 * 147584 + 3 * 256 + 128 * 9 * 10 + 10),
        (3, 100, (32, 32), 4, 1.0, 3584 + 3 * 147584 + 4 * 256 + 128 * 4 * 100 + 100),
        # 9x20 floors to 4x10 and 2x5; half the width is 64 channels
        (3, 7, (9, 20), 2, 0.5, (3 * 64 * 9 + 64) + (64 * 64 * 9 + 64) + 2 * 128 + 64 * 10 * 7 + 7),
        (1, 10, (8, 8), 2, 1 / 128, (9 + 1) + (9 + 1) + 2 * 2 + 4 * 10 + 10),
    ],
)
def test_parameter_counts_by_hand(
    channels: int, nclass: int, size: tuple[int, int], depth: int, width: float, expected: int
) -> None:
    module = models.build("convnet", channels=channels, nclass=nclass, size=size, depth=depth, width=width)
    assert size_of(module) == expected
    x = torch.rand(2, channels, *size)
    assert module(x).shape == (2, nclass)


def test_convnet3_on_cifar10_has_the_published_size() -> None:
    assert size_of(models.build("convnet", channels=3, nclass=10, size=(32, 32))) == 320_010


def test_only_one_channel_images_of_28_are_padded_to_32() -> None:
    maps = {}
    for channels, size in ((1, (28, 28)), (3, (28, 28)), (1, (28, 29)), (1, (32, 32))):
        module = models.build("convnet1", channels=channels, nclass=2, size=size, width=1 / 128)
        maps[channels, size] = module.features(torch.zeros(1, channels, *size)).shape[1]
    assert maps == {(1, (28, 28)): 256, (3, (28, 28)): 196, (1, (28, 29)): 196, (1, (32, 32)): 256}


def test_starts_as_torch_starts_its_layers() -> None:
    module = models.build("convnet", channels=3, nclass=10, size=(8, 8), seed=0)
    weights = models.parameters_of(module)
    inner = weights["blocks.4.weight"]
    bound = 1 / math.sqrt(128 * 9)  # uniform within ±1/√fan-in
    assert inner.abs().max() <= bound
    assert inner.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert torch.equal(weights["blocks.5.weight"], torch.ones(128))
    assert torch.equal(weights["blocks.5.bias"], torch.zeros(128))


@pytest.mark.parametrize(
    ("channels", "size", "largest"),
    [(3, (32, 32), 5), (1, (28, 28), 5), (3, (28, 28), 4), (1, (8, 8), 3), (3, (7, 200), 2), (1, (2, 2), 1)],
)
def test_the_largest_depth(channels: int, size: tuple[int, int], largest: int) -> None:
    module = models.build("convnet", channels=channels, nclass=2, size=size, depth=largest, width=0.0625)
    assert module(torch.rand(3, channels, *size)).isfinite().all()
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}; the largest depth is {largest}$"):
        models.build("convnet", channels=channels, nclass=2, size=size, depth=largest + 1)


def test_images_without_a_second_row_are_refused() -> None:
    with pytest.raises(UserError, match="1x9; both sides must be at least 2"):
        models.build("convnet", channels=3, nclass=2, size=(1, 9), depth=1)
