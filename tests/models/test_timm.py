"""Networks of timm, by a module that stands for the package: it is no part of the tests' environment."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attar
from attar import models
from attar.errors import MissingError, UserError
from attar.evaluation import measure, protocol
from attar.settings.config import EvaluateConfig, NetworkConfig

BUILD: dict[str, Any] = {"channels": 1, "nclass": 10, "size": (8, 8)}


class Network(nn.Module):
    """As timm makes them: a last layer of any name; images of at least 8 pixels."""

    def __init__(self, channels: int, nclass: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, nclass)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 8:
            raise AssertionError("Input height doesn't match\nmodel.")
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the package; what `create_model` was asked for."""
    asked: list[dict[str, Any]] = []
    names = ["tinynet_b0", "vit_flat", "resnet18"]

    def create_model(name: str, **given: Any) -> nn.Module:
        asked.append({"name": name, **given})
        return nn.Conv2d(1, 10, 8) if name == "vit_flat" else Network(given["in_chans"], given["num_classes"])

    module = ModuleType("timm")
    monkeypatch.setattr(module, "create_model", create_model, raising=False)
    monkeypatch.setattr(module, "is_model", lambda name: name in names, raising=False)
    monkeypatch.setattr(module, "list_models", lambda: names, raising=False)
    monkeypatch.setitem(sys.modules, "timm", module)
    return asked


def test_built_untrained_for_the_images(timm: list[dict[str, Any]]) -> None:
    module = models.build("timm:tinynet_b0", seed=3, **BUILD)
    assert timm == [{"name": "tinynet_b0", "pretrained": False, "num_classes": 10, "in_chans": 1}]
    x = torch.rand(4, 1, 8, 8)
    assert module.training and module.features(x).shape == (4, 6)
    module.eval()
    assert torch.equal(module(x), module.classifier(module.features(x)))
    assert list(models.parameters_of(module))[-2:] == ["classifier.weight", "classifier.bias"]
    assert int(models.buffers_of(module)["body.norm.num_batches_tracked"]) == 1, "the trial changed nothing"
    with pytest.raises(UserError, match=r"depth is for attar's own networks; timm:tinynet_b0 says its own"):
        NetworkConfig(net_type="timm:tinynet_b0", depth=3)
    before = torch.get_rng_state()
    same, other = (models.parameters_of(models.build("timm:tinynet_b0", seed=seed, **BUILD)) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in models.parameters_of(module).items():
        assert torch.equal(tensor, same[name])
    assert not torch.equal(same["body.conv.weight"], other["body.conv.weight"])


def test_names(timm: list[dict[str, Any]]) -> None:
    """timm's own names too, where they are no network of attar's; width and norms are the network's own."""
    assert models.parse("timm:resnet18") == ("timm:resnet18", None)
    assert models.parse("resnet18") == ("resnet", 18)
    assert models.parse("tinynet_b0") == ("timm:tinynet_b0", None)
    own = NetworkConfig(width=0.05, norm_type="batch", depth=2)
    chosen = protocol.chosen_networks(EvaluateConfig(networks=("tinynet_b0", "convnet")), own)
    assert list(chosen) == ["timm:tinynet_b0", "convnet2-batch"]
    assert (chosen["timm:tinynet_b0"].width, chosen["timm:tinynet_b0"].depth) == (1.0, None)
    with pytest.raises(UserError, match=r"unknown network 'tinynet_b1'; valid: convnet, .*timm:NAME"):
        models.parse("tinynet_b1")


def test_evaluated_like_any_other(timm: list[dict[str, Any]]) -> None:
    data = attar.load("digits")
    rows = torch.cat([data.rows(c)[:2] for c in range(10)])
    condensed = attar.SyntheticSet(
        data.images[rows].float() / 255, data.labels[rows], classes=data.classes, mean=data.mean, std=data.std
    )
    config = EvaluateConfig(networks=("timm:tinynet_b0",), runs=2, epochs=3, aug_type="none", mix_p=0, yardsticks=())
    first, again = (measure.evaluate(condensed, data, config, NetworkConfig(width=0.5)) for _ in range(2))
    entry = first["accuracy"]["timm:tinynet_b0"]
    assert first == again and (entry["n"], entry["width"]) == (2, 1.0)
    with pytest.raises(UserError, match=r"timm has no network 'tinynet_b1'; did you mean 'tinynet_b0'\?"):
        measure.evaluate(condensed, data, replace(config, networks=("timm:tinynet_b1",)), NetworkConfig())


def test_images_that_do_not_fit(timm: list[dict[str, Any]]) -> None:
    words = "timm:tinynet_b0 does not take images of 1x4x4: AssertionError: Input height doesn't match model."
    with pytest.raises(UserError, match=words):
        models.build("timm:tinynet_b0", **{**BUILD, "size": (4, 4)})
    with pytest.raises(UserError, match=r"timm:vit_flat gives \[2, 10, 1, 1\] for 2 images of 1x8x8"):
        models.build("timm:vit_flat", **BUILD)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"),
            r"need the package timm; pip install 'attar\[timm\]'",
        ),
        (
            ModuleNotFoundError("No module named 'torchvision'", name="torchvision"),
            "timm cannot be loaded .No module named 'torchvision'.; it needs a torchvision that fits torch",
        ),
        (
            RuntimeError("operator torchvision::nms\ndoes not exist"),
            "timm cannot be loaded .operator torchvision::nms does",
        ),
    ],
)
def test_without_timm(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fail(name: str, *rest: Any) -> Any:
        if name == "timm":
            raise error
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingError, match=words) as caught:
        models.build("timm:efficientnet_b0", **BUILD)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"unknown network 'efficientnet_b0'; .*timm:NAME"):
        models.parse("efficientnet_b0")
