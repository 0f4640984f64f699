"""Build the network for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar import models
from attar.data.images import ImageData
from attar.settings.config import NetworkConfig

SCALE_DIGITS = 6  # of mean and std: far more than matter, fewer than differ by rounding


def describe(data: ImageData) -> dict[str, Any]:
    """The properties of a data set that a network depends on, as `made_for` in the files of a pool."""
    return {
        "dataset": data.name,
        "nclass": data.nclass,
        "channels": data.channels,
        "size": list(data.size),
        "images": data.fingerprint,
        **scale_of(data.mean, data.std),
        **({"space": data.space} if data.space == "zca" else {}),
    }


def scale_of(mean: Sequence[float], std: Sequence[float]) -> dict[str, list[float]]:
    """`mean` and `std` that networks see images by, rounded; the fingerprint of the images does not hold them."""
    both = {"mean": mean, "std": std}
    return {name: [float(f"{value:.{SCALE_DIGITS}g}") for value in values] for name, values in both.items()}


def build(network: NetworkConfig, made_for: dict[str, Any], seed: int) -> models.Network:
    """The network that `network` configures, for data with the properties `made_for` (see `describe`).

    `seed` determines its initial weights.
    """
    return models.build(
        network.net_type,
        depth=network.depth,
        width=network.width,
        norm_type=network.norm_type,
        channels=made_for["channels"],
        nclass=made_for["nclass"],
        size=(made_for["size"][0], made_for["size"][1]),
        seed=seed,
    )
