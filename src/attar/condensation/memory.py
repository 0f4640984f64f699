"""Choose how many classes are computed at once, within a memory budget."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attar.engine.device import free_memory
from attar.errors import UserError, size_in_words
from attar.models import Network, fixed_statistics

# Tensors in memory at once per activation of the network: two forward passes, two backward passes, second derivatives
TENSORS_PER_ACTIVATION = 8
FREE_MEMORY_FRACTION = 0.6  # used when no budget is set


def class_bytes(module: Network, channels: int, size: tuple[int, int], images: int) -> int:
    """Estimate the memory in bytes that one class's step needs for `images` real and decoded images together.

    It counts the outputs of all layers for an image, and assumes that `TENSORS_PER_ACTIVATION` times as many numbers
    per image are in memory at the peak.
    """
    counts: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: counts.append(out.numel() if isinstance(out, Tensor) else 0))
        for layer in module.modules()
        if not list(layer.children())
    ]
    device = next(module.parameters()).device
    with torch.no_grad(), fixed_statistics(module):
        module(torch.zeros((2, channels, *size), device=device))  # batch norm of flat features takes no single one
    for hook in hooks:
        hook.remove()
    return TENSORS_PER_ACTIVATION * sum(counts) // 2 * 4 * images


def choose_chunk(per_class: int, classes: int, device: torch.device, budget_gb: float | None) -> int:
    """How many classes vmap computes at once within a budget (in GB; by default a fraction of the free memory).

    On a CPU it is one: vmap over classes turns weight gradients into grouped convolutions, which are slower there.
    `side_by_side` limits the threads instead. Raises `UserError` when the budget is too small for one class.
    """
    limit = side_by_side(per_class, budget_gb)
    if device.type == "cpu":
        return 1
    if limit is None:
        limit = max(1, int(FREE_MEMORY_FRACTION * free_memory(device) // per_class))
    limit = min(classes, limit)
    return math.ceil(classes / math.ceil(classes / limit))  # groups of about equal size: at most two shapes to compile


def side_by_side(per_class: int, budget_gb: float | None) -> int | None:
    """How many classes fit into a budget in GB; None without one. Raises `UserError` when not even one fits."""
    if budget_gb is None:
        return None
    if budget_gb * 1e9 < per_class:
        needed = size_in_words(per_class)
        raise UserError(f"a memory budget of {budget_gb:g} GB does not hold one class, which needs about {needed}")
    return int(budget_gb * 1e9 // per_class)
