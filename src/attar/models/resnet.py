"""ResNet-10 and ResNet-18: residual networks of basic blocks that halve their maps by strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from attar.errors import UserError
from attar.models.common import MIN_MAP_SIDE, AveragePool, Convolution, Network, norm_layer, scaled_channels

STAGES = (64, 128, 256, 512)  # channels at width 1
BLOCKS = {10: 1, 18: 2}  # depth -> basic blocks in each stage


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; halves the map with `stride` 2, or by average pooling with `pool` 2."""

    def __init__(self, inner: int, outer: int, norm_type: str, *, stride: int = 1, pool: int = 1) -> None:
        super().__init__()
        self.pool = AveragePool(pool) if pool > 1 else nn.Identity()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = norm_layer(norm_type, outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = norm_layer(norm_type, outer)
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer or stride > 1 or pool > 1:
            projection = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm_layer(norm_type, outer))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.pool(self.conv1(x))))
        # Pooling and 1x1 convolutions commute, and pooling first is a quarter of the work.
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(self.pool(x)))


class ResNet(Network):
    """ResNet of `depth` 10 or 18 with 64-128-256-512 channels times `width`, for images [n, channels, *size].

    The features are the averages of the last maps. Stages 2 to 4 each halve the map, unless it would become smaller
    than 2x2: on images of 8x8, for example, stage 4 keeps the size, because instance norm turns maps of one pixel
    into constants. Convolutions start He-normal (fan-out) and have no biases. The stem depends on the shorter side:
    up to 64, 3x3; up to 128, 3x3 with stride 2; above, 7x7 with stride 2 and max-pool 3 with stride 2.
    Raises `UserError` for images with a side below 2.
    """

    name = "resnet"
    pooled = False  # halve the maps by average pooling instead of strides

    def __init__(
        self, *, channels: int, nclass: int, size: tuple[int, int], depth: int, width: float, norm_type: str
    ) -> None:
        super().__init__()
        side = min(size)
        if side < MIN_MAP_SIDE:
            raise UserError(f"images of {size[0]}x{size[1]} are too small for {self.name}; sides must be at least 2")
        inner = scaled_channels(STAGES[0], width)
        layers, reduction = self.stem_layers(channels, inner, side, norm_type)
        self.stem = nn.Sequential(*layers)
        side //= reduction
        blocks = []
        for stage, base in enumerate(STAGES):
            outer = scaled_channels(base, width)
            for block in range(BLOCKS[depth]):
                halve = stage > 0 and block == 0 and side // 2 >= MIN_MAP_SIDE
                step = {"pool" if self.pooled else "stride": 2} if halve else {}
                blocks.append(Block(inner, outer, norm_type, **step))
                inner = outer
                side = side // 2 if halve else side
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inner, nclass)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def stem_layers(channels: int, inner: int, side: int, norm_type: str) -> tuple[list[nn.Module], int]:
        """The layers before the first block for images of shorter side `side`, and how many times they shrink it."""
        norm = [norm_layer(norm_type, inner), nn.ReLU()]
        if side <= 64:
            return [Convolution(channels, inner, 3, 1, 1, bias=False), *norm], 1
        if side <= 128:
            return [Convolution(channels, inner, 3, 2, 1, bias=False), *norm], 2
        return [Convolution(channels, inner, 7, 2, 3, bias=False), *norm, nn.MaxPool2d(3, 2, 1)], 4

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.blocks(self.stem(x))
        return maps.mean((2, 3))
