"""Networks by name: ConvNet of any depth, ResNetAP-10/18, ResNet-10/18, DenseNet-121, timm's and the user's own."""

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
from attar.models.from_timm import has_network as timm_has_network
from attar.models.from_timm import maker
from attar.models.own import OwnNetwork
from attar.models.resnet import BLOCKS, ResNet
from attar.models.resnetap import ResNetAP
from attar.settings import own
from attar.settings.own import TIMM

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
BUILD_LOCK = threading.Lock()
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DEFAULT_DEPTHS = {"convnet": 3, "resnetap": 10, "resnet": 10, "densenet": 121}
VALID_DEPTHS = {"resnetap": tuple(BLOCKS), "resnet": tuple(BLOCKS), "densenet": tuple(LAYERS)}


def parse(name: str, depth: int | None = None) -> tuple[str, int | None]:
    """The network type and depth of a name ("convnet", "ResNet_AP", "resnet18", …).

    If neither the name nor `depth` gives a depth, it is 3 for convnet, 10 for resnetap and resnet, 121 for densenet. A
    network of timm ("timm:NAME", or NAME alone if attar has no network of that name) has depth None, and so has one of
    the user's own ("module:function").
    Raises `UserError` for an unknown name, a depth that the type never has, or two different depths.
    """
    if ":" in name:
        return name.strip(), None
    match = re.fullmatch(r"(.*?)(\d*)", name.strip().lower(), re.DOTALL)
    assert match is not None  # the pattern matches every text
    stem = ALIASES.get(match[1], match[1])
    if stem not in NET_TYPES:
        if timm_has_network(name.strip()):
            return TIMM + name.strip(), None
        names = [*NET_TYPES, "resnet_ap", *(f"{kind}{default}" for kind, default in DEFAULT_DEPTHS.items())]
        choose("network", name, [*names, f"{TIMM}NAME", "module:function"])
    depth_in_name = int(match[2]) if match[2] else None
    if depth_in_name is not None and depth is not None and depth_in_name != depth:
        raise UserError(
            f"network '{name}' names depth {depth_in_name}, but depth {depth} is asked for; give one of the two"
        )
    if depth is None:
        depth = DEFAULT_DEPTHS[stem] if depth_in_name is None else depth_in_name
    if stem == "convnet" and depth < 1:
        raise UserError(f"a convnet of depth {depth} is impossible; depth must be at least 1")
    if stem in VALID_DEPTHS and depth not in VALID_DEPTHS[stem]:
        raise UserError(f"{stem} has no depth {depth}; valid: {', '.join(map(str, VALID_DEPTHS[stem]))}")
    return stem, depth


def split_norm(name: str) -> tuple[str, str | None]:
    """Split a name made by `label`, such as "resnet18-batch", into network and norm (None if it names no norm)."""
    stem, _, norm_type = name.strip().rpartition("-")
    return (stem, norm_type.lower()) if stem and norm_type.lower() in NORM_TYPES else (name, None)


def label(net_type: str, depth: int | None = None, norm_type: str = "instance") -> str:
    """A short name of the architecture: "convnet3", "resnetap10", "resnet18-batch" (norm only if not instance)."""
    kind, depth = parse(own.without_digest(net_type), depth)
    choose("norm_type", norm_type, NORM_TYPES)
    return f"{kind}{'' if depth is None else depth}" + ("" if norm_type == "instance" else f"-{norm_type}")


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

    `net_type` and `depth` are as in `parse`; `width` multiplies the channel counts. With a `seed` the same arguments
    give the same bits and no global random state changes; without one torch's global generator initialises it.
    Raises `UserError` for unknown names and for depths, widths and sizes that do not fit.
    """
    kind, parsed_depth = parse(net_type, depth)
    choose("norm_type", norm_type, NORM_TYPES)
    if not (math.isfinite(width) and width > 0):
        raise UserError(f"width {width} is impossible; it multiplies the channel counts and must be above 0")
    for what, count in (("channels", channels), ("nclass", nclass), ("size", min(size))):
        if count < 1:
            raise UserError(f"a network for {what} {count} is impossible; {what} must be at least 1")

    def make() -> Network:
        if parsed_depth is None:
            make_one = maker(kind.removeprefix(TIMM)) if kind.startswith(TIMM) else own.find(kind)
            return OwnNetwork(own.without_digest(kind), make_one, channels=channels, nclass=nclass, size=size)
        return NET_TYPES[kind](
            channels=channels, nclass=nclass, size=size, depth=parsed_depth, width=width, norm_type=norm_type
        )

    with torch.device("cpu"):
        if seed is None:
            return make()
        # one thread at a time, because the initialisers of torch.nn use the global generator
        with BUILD_LOCK, torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also reseed every CUDA device
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
    """In this block, batch norms in training mode use the statistics of the batch and do not update running ones.

    `torch.func.grad` and `torch.vmap` over a network with batch norm need this, because they cannot update a captured
    buffer. It also keeps gradient matching from changing the running statistics of the real data.
    """
    # A BatchNorm that keeps its buffers while this flag is off still uses them in evaluation mode.
    tracking = [layer for layer in module.modules() if isinstance(layer, BATCH_NORM) and layer.track_running_stats]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
