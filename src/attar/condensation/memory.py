"""How many classes are computed at once within a memory budget."""

from __future__ import annotations

import math

import torch

from attar.errors import UserError
from attar.models import Network, fixed_statistics

LIVE_MAPS = (
    8  # tensors that a class's step keeps per activation of the network (two passes, two backwards, second order)
)
FREE_MEMORY_FRACTION = 0.6  # of the free memory, when no budget is named


def class_bytes(module: Network, channels: int, size: tuple[int, int], images: int) -> int:
    """An estimate of the memory, in bytes, that one class's step needs for so many real and decoded images.

    What the layers put out for one image is counted; `LIVE_MAPS` such tensors per image are alive at the worst moment.
    """
    counts: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: counts.append(out.numel()))
        for layer in module.modules()
        if not list(layer.children())
    ]
    device = next(module.parameters()).device
    with torch.no_grad(), fixed_statistics(module):
        module(torch.zeros((1, channels, *size), device=device))
    for hook in hooks:
        hook.remove()
    return LIVE_MAPS * sum(counts) * 4 * images


def choose_chunk(per_class: int, classes: int, device: torch.device, budget_gb: float | None) -> int:
    """How many classes are computed at once within a budget (in GB; by default a share of the free memory).

    On a CPU it is one: vectorising over classes turns weight gradients into grouped convolutions, which are slower
    there, and nothing is gained; `side_by_side` says how many threads a budget allows. Raises `UserError` when a named
    budget does not hold one class.
    """
    most = side_by_side(per_class, budget_gb)
    if device.type == "cpu":
        return 1
    if most is None:
        most = max(1, int(FREE_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0] // per_class))
    most = min(classes, most)
    return math.ceil(classes / math.ceil(classes / most))  # groups of about equal size: two shapes at most to compile


def side_by_side(per_class: int, budget_gb: float | None) -> int | None:
    """How many classes a named budget (in GB) holds, None without one. Raises `UserError` when it does not hold one."""
    if budget_gb is None:
        return None
    if budget_gb * 1e9 < per_class:
        needed = f"about {per_class / 1e9:.2g} GB"
        raise UserError(f"a memory budget of {budget_gb:g} GB does not hold one class, which needs {needed}")
    return int(budget_gb * 1e9 // per_class)
