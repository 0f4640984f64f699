"""Parts that all networks share: the `Network` interface, norm layers, pooling, channel counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.errors import UserError, choose

NORM_TYPES = ("instance", "batch", "layer", "group", "none")
MIN_MAP_SIDE = 2  # pixels: networks that halve their maps stop there
GROUPS = 4  # channel groups of norm_type "group"


class Network(nn.Module):
    """A classifier in two parts: `module(x) == module.classifier(module.features(x))`."""

    classifier: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """The flat features [n, d] that the classifier sees, of normalised images `x` [n, ch, H, W]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, nclass] of normalised images `x` [n, ch, H, W]."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


class Features(nn.Module):
    """A module that returns a network's features instead of its logits, for `torch.func.functional_call`."""

    def __init__(self, module: Network) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The features [n, d] of images `x` [n, ch, H, W]."""
        return self.module.features(x)


MAX_SQUARES_PER_ROW = 64  # the cost of the matrix product per value grows with them


class AveragePool(nn.Module):
    """The means of non-overlapping squares of `side`, [n, channels, h, w] → [n, channels, h // side, w // side].

    On a CPU PyTorch pools one value at a time. If `side` divides h and w and a row has few squares, one matrix product
    over rows of squares is 5 times as fast, forward and backward, and a ConvNet's training step 1.3 times. Compiled
    code for a CPU takes means over the pixels of channels-last maps instead: a product could not be fused with the
    neighbouring operations, and PyTorch's backward of pooling checks the bounds of every value (docs/log.md,
    25 November).
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, wide = x.shape
        if x.device.type != "cpu" or height % self.side or wide % self.side:
            return F.avg_pool2d(x, self.side)
        if torch.compiler.is_compiling():
            squares = (n, height // self.side, self.side, wide // self.side, self.side, channels)
            return x.permute(0, 2, 3, 1).reshape(squares).mean(dim=(2, 4)).permute(0, 3, 1, 2)
        if wide > MAX_SQUARES_PER_ROW * self.side:
            return F.avg_pool2d(x, self.side)
        means = torch.eye(wide // self.side, dtype=x.dtype).repeat_interleave(self.side, dim=0).repeat(self.side, 1)
        rows = x.reshape(-1, self.side * wide) @ (means / self.side**2)
        return rows.view(n, channels, height // self.side, wide // self.side)

    def extra_repr(self) -> str:
        """The argument in the printed network."""
        return str(self.side)


class Convolution(nn.Conv2d):
    """PyTorch's convolution, for the layer that sees the images; rewritten when it is compiled for a CPU.

    A tensor with one channel is channels-first and channels-last at the same time, and the compiler then chooses the
    slower layout, channels-first, for all later layers. A second channel of zeros makes it choose channels-last. The
    bias is added after the convolution, whose own bias gradient is slow with few channels (docs/log.md, 25 November).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.compiler.is_compiling():
            return super().forward(x)
        weight = self.weight
        if self.in_channels == 1:
            second = (0, 0, 0, 0, 0, 1)
            x, weight = F.pad(x, second), F.pad(weight, second)
        maps = self._conv_forward(x, weight, None)
        return maps if self.bias is None else maps + self.bias.to(maps.dtype)[:, None, None]


def norm_layer(norm_type: str, channels: int) -> nn.Module:
    """A normalisation with a learned scale and shift per channel, for maps [n, channels, h, w].

    `instance`: each channel of each image; `layer`: all channels of an image together; `group`: four groups of
    channels; `batch`: each channel over the batch, with running statistics; `none`: identity.
    Raises `UserError` for another name, or for `group` when four does not divide `channels`.
    """
    choose("norm_type", norm_type, NORM_TYPES)
    if norm_type == "none":
        return nn.Identity()
    if norm_type == "batch":
        return nn.BatchNorm2d(channels)
    if norm_type == "layer":
        return nn.GroupNorm(1, channels)
    if norm_type == "group":
        if channels % GROUPS:
            raise UserError(
                f"norm_type 'group' makes {GROUPS} groups of channels, which does not fit {channels} channels; "
                f"choose a width whose channel counts are multiples of {GROUPS}"
            )
        return nn.GroupNorm(GROUPS, channels)
    # The same numbers as nn.InstanceNorm2d(channels, affine=True) (within 2e-15 in float64, second derivatives
    # included), which copies scale and shift for each image and calls batch norm. With ConvNet-3, width 128, 64 images
    # of 1x28x28 and two CPU threads the gradient of a gradient took 0.81 s with GroupNorm and 0.97 s with
    # InstanceNorm2d (one thread: 1.15 s and 1.60 s); forward and first gradient took 5 % less.
    return nn.GroupNorm(channels, channels)


def scaled_channels(base: int, width: float) -> int:
    """`base` channels times `width`, rounded, at least one."""
    return max(1, round(base * width))
