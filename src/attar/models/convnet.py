"""ConvNet: equal blocks of 3x3 convolution, normalisation, ReLU and average pooling, then one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from attar.errors import UserError
from attar.models.common import AveragePool, Convolution, Network, norm_layer, scaled_channels

CHANNELS = 128  # of every block at width 1


class ConvNet(Network):
    """`depth` blocks of [3x3 convolution, norm, ReLU, average-pool 2] on images [n, channels, *size].

    Every block has 128·`width` channels and halves the map (odd sides are floored). The convolutions have biases and
    the initialisation is PyTorch's. One-channel images of 28x28 are padded to 32x32 by the first convolution.
    Raises `UserError` when `depth` is too large for the images: the map would have no pixel left.
    """

    def __init__(
        self, *, channels: int, nclass: int, size: tuple[int, int], depth: int, width: float, norm_type: str
    ) -> None:
        super().__init__()
        # padding 3 instead of 1 makes a map of 32x32 out of MNIST's 28x28, which then halves evenly
        extra = 2 if channels == 1 and tuple(size) == (28, 28) else 0
        height, wide = (side + 2 * extra for side in size)
        largest = min(height, wide).bit_length() - 1  # how often the shorter side can be halved
        if depth > largest:
            raise UserError(
                f"a convnet of depth {depth} leaves nothing of images of {size[0]}x{size[1]}; "
                + (f"the largest depth is {largest}" if largest else "both sides must be at least 2")
            )
        inner = scaled_channels(CHANNELS, width)
        layers: list[nn.Module] = []
        for block in range(depth):
            convolution = Convolution(inner if block else channels, inner, 3, padding=1 if block else 1 + extra)
            layers += [convolution, norm_layer(norm_type, inner), nn.ReLU(), AveragePool(2)]
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(inner * (height >> depth) * (wide >> depth), nclass)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.blocks(x)
        return maps.flatten(1)
