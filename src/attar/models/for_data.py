"""The network that fits some data."""

from __future__ import annotations

from typing import Any

from attar import models
from attar.data.images import ImageData
from attar.settings.config import NetworkConfig


def describe(data: ImageData) -> dict[str, Any]:
    """What a network depends on in a data set."""
    return {
        "dataset": data.name,
        "nclass": data.nclass,
        "channels": data.channels,
        "size": list(data.size),
        "images": data.fingerprint,
    }


def build(network: NetworkConfig, made_for: dict[str, Any], seed: int | None) -> models.Network:
    """The network of `network` for images as `made_for` says; `seed` fixes its weights."""
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
