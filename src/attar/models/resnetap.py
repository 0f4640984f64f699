"""ResNetAP-10 and ResNetAP-18: ResNets with average pooling in place of strides (IDC, Kim et al. 2022)."""

from __future__ import annotations

from torch import nn

from attar.models.common import AveragePool, Convolution, norm_layer
from attar.models.resnet import ResNet


class ResNetAP(ResNet):
    """A `ResNet` without strides: every halving is an average pooling, after the first convolution of a block and in
    its shortcut.

    The stem depends on the shorter side of the images: up to 64, 3x3; up to 128, 3x3 and average-pool 2; above, 7x7
    and average-pool 4. Everything else, errors included, is as for `ResNet`.
    """

    name = "resnetap"
    pooled = True

    @staticmethod
    def stem_layers(channels: int, inner: int, side: int, norm_type: str) -> tuple[list[nn.Module], int]:
        """The layers before the first block for images of shorter side `side`, and how many times they shrink it."""
        norm = [norm_layer(norm_type, inner), nn.ReLU()]
        if side <= 64:
            return [Convolution(channels, inner, 3, padding=1, bias=False), *norm], 1
        if side <= 128:
            return [Convolution(channels, inner, 3, padding=1, bias=False), *norm, AveragePool(2)], 2
        return [Convolution(channels, inner, 7, padding=3, bias=False), *norm, AveragePool(4)], 4
