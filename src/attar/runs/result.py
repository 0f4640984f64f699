"""The head of `result.json`: what the set is, of which data, made by what."""

from __future__ import annotations

import math
from typing import Any

import torch

from attar import __version__
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.sets.synthetic import SyntheticSet


def describe_result(condensed: SyntheticSet, data: ImageData) -> dict[str, Any]:
    """The head of `result.json` for a set made from `data`."""
    real = int(torch.isin(data.labels, condensed.labels.to(data.labels.device)).sum())
    return describe_set(condensed, data.name, devices.describe(data.device), real) | {"tested_on": data.tested_on}


def describe_set(condensed: SyntheticSet, dataset: str, device: str, real: int | None) -> dict[str, Any]:
    """The head of `result.json`.

    dataset, device: as they are shown; real: number of training images of the set's classes, None where unknown.
    """
    pixels = math.prod(condensed.images.shape[1:])
    sizes = {
        "real": {"images": real or 0, "bytes": (real or 0) * pixels},
        "stored": {"images": len(condensed.images), "bytes": len(condensed.images) * pixels},
    }  # bytes of 8-bit pixels
    return {
        "attar": __version__,
        "dataset": dataset,
        "ipc": condensed.ipc,
        "factor": condensed.factor,
        "method": condensed.method,
        "device": device,
        **({"sizes": sizes} if real is not None else {}),
    }
