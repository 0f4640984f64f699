"""The head of `result.json`."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import torch

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.sets.synthetic import SyntheticSet


def describe_result(small: SyntheticSet, data: ImageData) -> dict[str, Any]:
    """The head of `result.json`."""
    real = int(torch.isin(data.labels, small.labels.to(data.labels.device)).sum())
    return describe_set(small, data.name, devices.describe(data.device), real) | {"tested_on": data.tested_on}


def describe_set(small: SyntheticSet, dataset: str, device: str, real: int | None) -> dict[str, Any]:
    """The head of `result.json`; `real`: training images of the set's classes, None where that is not known."""
    pixels = math.prod(small.images.shape[1:])
    sizes = {
        "real": {"images": real or 0, "bytes": (real or 0) * pixels},
        "stored": {"images": len(small.images), "bytes": len(small.images) * pixels},
    }  # bytes of 8-bit pixels
    return {
        "attar": version("attar"),
        "dataset": dataset,
        "ipc": small.ipc,
        "factor": small.factor,
        "method": small.method,
        "device": device,
        **({"sizes": sizes} if real is not None else {}),
    }
