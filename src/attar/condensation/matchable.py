"""Whether a network that attar has not seen can be matched on: asked before a pool of it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from attar import models
from attar.condensation.matching import matched_names
from attar.data.images import ImageData
from attar.engine.precision import use_differentiable_attention
from attar.errors import UserError, counted, one_line
from attar.models import BATCH_NORM, buffers_of, fixed_statistics, parameters_of
from attar.models.for_data import build, describe
from attar.sets.decode import decoded_count
from attar.settings.choices import FEATURE_MATCH_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig

MIN_VALUES = 8  # that batch norm averages over, for the images of a class: with fewer its gradients have no bound


def check_matchable(network: NetworkConfig, data: ImageData, config: CondenseConfig) -> None:
    """Raise `UserError` for a network of the user's own or timm's on which the settings cannot match.

    Matching sees the same function for real and synthetic images, of the parameters and nothing else, and
    differentiates it twice. Batch norm takes the statistics of each batch, so its running ones may change.
    """
    if models.parse(network.net_type, network.depth)[1] is not None:
        return
    name = models.label(network.net_type)
    use_differentiable_attention()
    module, other = (build(network, describe(data), seed) for seed in (0, 1))
    if config.match not in FEATURE_MATCH_NAMES and not matched_names(
        parameters_of(module), bias=config.bias, fc=config.fc
    ):
        raise UserError(f"{name} has no weights before its last layer; --fc matches the gradients of that one")
    layers = {place.removeprefix("body."): layer for place, layer in module.named_modules()}
    norms = {place: layer for place, layer in layers.items() if isinstance(layer, BATCH_NORM)}
    _check_batch_norms(name, module, norms, data, decoded_count(config.ipc, config.factor, config.decode_type))
    before = buffers_of(module)
    with fixed_statistics(module):
        _check_function(name, module, data)
    for key, value in before.items():
        place, _, _ = key.removeprefix("body.").rpartition(".")
        same = torch.equal(value, module.get_buffer(key)) and torch.equal(value, other.get_buffer(key))
        if place not in norms and not same:
            words = "depends on the seed or changes in training, and only batch norm's may"
            raise UserError(f"{name} cannot be matched on: its buffer {key.removeprefix('body.')} {words}")


def _check_batch_norms(
    name: str, module: nn.Module, norms: Mapping[str, nn.Module], data: ImageData, images: int
) -> None:
    """Raise `UserError` for a batch norm that sees too few values of the `images` synthetic images of a class."""
    sizes: dict[nn.Module, int] = {}  # values per channel and image
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: sizes.update({layer: args[0][0, 0].numel()}))
        for layer in norms.values()
    ]
    module.eval()(torch.zeros(2, data.channels, *data.size))
    module.train()
    for hook in hooks:
        hook.remove()
    for place, layer in norms.items():
        if sizes.get(layer, MIN_VALUES) * images < MIN_VALUES:
            raise UserError(
                f"{name} cannot be matched on with {counted(images, 'image')} a class: its batch norm {place} averages "
                f"{sizes[layer] * images} values, and needs {MIN_VALUES}; more images (--ipc), or another norm there"
            )


def _check_function(name: str, module: nn.Module, data: ImageData) -> None:
    """Raise `UserError` for outputs that are random in training, or have no second derivative."""
    images = torch.randn(2, data.channels, *data.size, generator=Generator().manual_seed(0)).requires_grad_()
    try:
        logits, again = module(images), module(images)
        weights = list(module.parameters())
        first = torch.autograd.grad(_energy([logits]), weights, create_graph=True, materialize_grads=True)
        torch.autograd.grad(_energy(first), images, materialize_grads=True)
    except RuntimeError as error:
        raise UserError(f"{name} cannot be matched on: {one_line(error)}") from error
    if not torch.allclose(logits, again, rtol=1e-4, atol=1e-6):
        raise UserError(f"{name} gives other logits each time in training (dropout?); match on it without")


def _energy(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.square().sum() for value in tensors]).sum()
