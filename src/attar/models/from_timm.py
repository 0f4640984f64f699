"""Networks of the package timm, for evaluation. The package is imported only when such a network is built."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import MissingError, UserError
from attar.models.common import Network

PREFIX = "timm:"


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


class TimmNetwork(Network):
    """The untrained network of timm with that name, for images [n, channels, *size]. Its width and norms are fixed.

    Raises `MissingError` without timm, `UserError` for an unknown name or an image size that the network refuses.
    """

    def __init__(self, name: str, *, channels: int, nclass: int, size: tuple[int, int]) -> None:
        super().__init__()
        timm = import_timm()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists all"
            raise UserError(f"timm has no network '{name}'; {hint}")
        self.body: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        self.body.eval()
        try:
            with torch.no_grad():
                features: Tensor = self.body(torch.zeros(1, channels, *size))
            if features.dim() != 2:
                raise ValueError(f"its features have the shape {list(features.shape)}")
        except (RuntimeError, ValueError, AssertionError) as error:
            words = " ".join(str(error).split())
            raise UserError(f"{name} of timm does not take images of {size[0]}x{size[1]}: {words}") from error
        self.body.train()
        self.classifier = nn.Linear(features.shape[1], nclass)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features
