"""DenseNet-121 (Huang et al. 2017) for small images: each layer sees the maps of all earlier layers of its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.errors import UserError
from attar.models.common import MIN_MAP_SIDE, AveragePool, Convolution, Network, norm_layer, scaled_channels

GROWTH = 32  # maps that each layer adds, at width 1
BOTTLENECK = 4  # a layer's 1x1 convolution has this many times `growth` output maps
LAYERS = {121: (6, 12, 24, 16)}  # depth -> layers of each dense block


class Layer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; the new maps are appended to the input maps."""

    def __init__(self, inner: int, growth: int, norm_type: str) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm_type, inner)
        self.conv1 = nn.Conv2d(inner, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = norm_layer(norm_type, BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], dim=1)


class DenseNet(Network):
    """DenseNet of `depth` 121 with a growth of 32 times `width` maps a layer, for images [n, channels, *size].

    Between dense blocks a norm, ReLU and 1x1 convolution halve the number of maps, and average-pool 2 halves their
    sides, unless they would become smaller than 2x2. The features are the averages of the last maps after a norm
    and ReLU. Convolutions start He-normal (fan-in) and have no biases. The stem depends on the shorter side: up to 64,
    3x3; up to 128, 3x3 with stride 2; above, 7x7 with stride 2, norm, ReLU and max-pool 3 with stride 2.
    Raises `UserError` for images with a side below 2.
    """

    def __init__(
        self, *, channels: int, nclass: int, size: tuple[int, int], depth: int, width: float, norm_type: str
    ) -> None:
        super().__init__()
        side = min(size)
        if side < MIN_MAP_SIDE:
            raise UserError(f"images of {size[0]}x{size[1]} are too small for densenet; sides must be at least 2")
        growth = scaled_channels(GROWTH, width)
        inner = 2 * growth
        layers, reduction = stem_layers(channels, inner, side, norm_type)
        side //= reduction
        for block, count in enumerate(LAYERS[depth]):
            if block > 0:
                layers += [norm_layer(norm_type, inner), nn.ReLU(), nn.Conv2d(inner, inner // 2, 1, bias=False)]
                inner //= 2
                if side // 2 >= MIN_MAP_SIDE:
                    layers.append(AveragePool(2))
                    side //= 2
            for _ in range(count):
                layers.append(Layer(inner, growth, norm_type))
                inner += growth
        self.blocks = nn.Sequential(*layers, norm_layer(norm_type, inner), nn.ReLU())
        self.classifier = nn.Linear(inner, nclass)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.blocks(x)
        return maps.mean((2, 3))


def stem_layers(channels: int, inner: int, side: int, norm_type: str) -> tuple[list[nn.Module], int]:
    """The layers before the first block for images of shorter side `side`, and how many times they shrink it."""
    if side <= 64:
        return [Convolution(channels, inner, 3, 1, 1, bias=False)], 1
    if side <= 128:
        return [Convolution(channels, inner, 3, 2, 1, bias=False)], 2
    convolution = Convolution(channels, inner, 7, 2, 3, bias=False)
    return [convolution, norm_layer(norm_type, inner), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 4
