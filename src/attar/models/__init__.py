"""Networks by name: ConvNet of any depth, ResNetAP-10/18, ResNet-10/18, DenseNet-121, and those of timm."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attar.errors import UserError, choose
from attar.models.common import NORM_TYPES, Features, Network
from attar.models.convnet import ConvNet
from attar.models.densenet import LAYERS, DenseNet
from attar.models.from_timm import PREFIX, TimmNetwork
from attar.models.from_timm import has as timm_has
from attar.models.resnet import BLOCKS, ResNet
from attar.models.resnetap import ResNetAP

__all__ = [
    "NET_TYPES",
    "NORM_TYPES",
    "Features",
    "Network",
    "buffers_of",
    "build",
    "fixed_statistics",
    "label",
    "parameters_of",
    "parse",
    "split_norm",
]

NET_TYPES: dict[str, type[ConvNet] | type[ResNet] | type[DenseNet]] = {
    "convnet": ConvNet,
    "resnetap": ResNetAP,
    "resnet": ResNet,
    "densenet": DenseNet,
}
ALIASES = {"resnet_ap": "resnetap", "resnet-ap": "resnetap"}
BUILDING = threading.Lock()
DEPTHS = {"convnet": 3, "resnetap": 10, "resnet": 10, "densenet": 121}  # the defaults
VALID = {"resnetap": tuple(BLOCKS), "resnet": tuple(BLOCKS), "densenet": tuple(LAYERS)}


def parse(name: str, depth: int | None = None) -> tuple[str, int | None]:
    """The network type and depth meant by `name` ("convnet", "ResNet_AP", "resnet18", …) and perhaps `depth`.

    Without a depth in either place it is 3 for convnet, 10 for resnetap and resnet, 121 for densenet. A network of timm
    ("timm:NAME", or its name alone where it is no other) has none.
    Raises `UserError` for an unknown name, a depth that the type never has, or two different depths.
    """
    if name.strip().startswith(PREFIX):
        return name.strip(), None
    match = re.fullmatch(r"(.*?)(\d*)", name.strip().lower(), re.DOTALL)
    assert match is not None  # the pattern matches every text
    stem = ALIASES.get(match[1], match[1])
    if stem not in NET_TYPES:
        if timm_has(name.strip()):
            return PREFIX + name.strip(), None
        known = [*NET_TYPES, "resnet_ap", *(f"{kind}{default}" for kind, default in DEPTHS.items())]
        choose("network", name, [*known, f"{PREFIX}NAME"])
    named = int(match[2]) if match[2] else None
    if named is not None and depth is not None and named != depth:
        raise UserError(f"network '{name}' names depth {named}, but depth {depth} is asked for; give one of the two")
    asked = named if depth is None else depth
    chosen = DEPTHS[stem] if asked is None else asked
    if stem == "convnet" and chosen < 1:
        raise UserError(f"a convnet of depth {chosen} is impossible; depth must be at least 1")
    if stem in VALID and chosen not in VALID[stem]:
        raise UserError(f"{stem} has no depth {chosen}; valid: {', '.join(map(str, VALID[stem]))}")
    return stem, chosen


def split_norm(name: str) -> tuple[str, str | None]:
    """A name as `label` gives it, "resnet18-batch", in its parts; None where it names no norm."""
    stem, _, norm_type = name.strip().rpartition("-")
    return (stem, norm_type.lower()) if stem and norm_type.lower() in NORM_TYPES else (name, None)


def label(net_type: str, depth: int | None = None, norm_type: str = "instance") -> str:
    """A short name of the architecture: "convnet3", "resnetap10", "resnet18-batch" (norm only if not instance)."""
    kind, chosen = parse(net_type, depth)
    choose("norm_type", norm_type, NORM_TYPES)
    return f"{kind}{'' if chosen is None else chosen}" + ("" if norm_type == "instance" else f"-{norm_type}")


def build(
    net_type: str,
    *,
    channels: int,
    nclass: int,
    size: tuple[int, int],
    depth: int | None = None,
    width: float = 1.0,
    norm_type: str = "instance",
    seed: int | None = None,
) -> Network:
    """A freshly initialised network on the CPU for images [n, channels, *size] and `nclass` outputs.

    `net_type` and `depth` as in `parse`, `width` multiplies the channel counts. With a `seed` the same arguments give
    the same bits and no global random state is touched; without one the start comes from torch's global generator.
    Raises `UserError` for unknown names and for depths, widths and sizes that do not fit.
    """
    kind, chosen = parse(net_type, depth)
    choose("norm_type", norm_type, NORM_TYPES)
    if not (math.isfinite(width) and width > 0):
        raise UserError(f"width {width} is impossible; it multiplies the channel counts and must be above 0")
    for what, count in (("channels", channels), ("nclass", nclass), ("size", min(size))):
        if count < 1:
            raise UserError(f"a network for {what} {count} is impossible; {what} must be at least 1")

    def make() -> Network:
        if chosen is None:
            return TimmNetwork(kind.removeprefix(PREFIX), channels=channels, nclass=nclass, size=size)
        return NET_TYPES[kind](
            channels=channels, nclass=nclass, size=size, depth=chosen, width=width, norm_type=norm_type
        )

    with torch.device("cpu"):
        if seed is None:
            return make()
        # one thread at a time: the initialisers of torch.nn draw from the one global generator
        with BUILDING, torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would reseed every CUDA device as well
            torch.default_generator.manual_seed(seed)
            return make()


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, detached, in the form `torch.func.functional_call` takes."""
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers (the running statistics of batch norm), detached."""
    return {name: tensor.detach().clone() for name, tensor in module.named_buffers()}


@contextlib.contextmanager
def fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode use the statistics of the batch but leave their running ones alone.

    `torch.func.grad` and `torch.vmap` over a network with batch norm need this, because updating a captured buffer is
    an error there; it also keeps gradient matching from changing what a network knows of the real data.
    """
    # A BatchNorm that keeps its buffers while this flag is off still uses them in evaluation mode.
    tracking = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
