"""Networks of the package timm. The package is imported only when such a network is built."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import torch
from torch import nn

from attar.errors import MissingError, UserError
from attar.models.own import Make


def import_timm() -> Any:
    """The module timm. Raises `MissingError` when it is not installed or cannot be loaded."""
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # an incompatible torchvision raises RuntimeError
        if isinstance(error, ImportError) and error.name == "timm":
            raise MissingError("networks of timm need the package timm; pip install 'attar[timm]'") from error
        words = " ".join(str(error).split())
        raise MissingError(
            f"timm cannot be loaded ({words}); it needs a torchvision that fits torch {torch.__version__}"
        ) from error


def has_network(name: str) -> bool:
    """Whether timm is installed and has a network of that name."""
    try:
        return bool(import_timm().is_model(name))
    except MissingError:
        return False


def maker(name: str) -> Make:
    """Makes the untrained network of timm with that name. Its width and norms are fixed.

    Raises `MissingError` without timm, `UserError` for an unknown name.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists all"
        raise UserError(f"timm has no network '{name}'; {hint}")

    def make(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=nclass, in_chans=channels)
        return network

    return make
