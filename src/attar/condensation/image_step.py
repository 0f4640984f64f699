"""How the images move: SGD or AdamW, after each class or once per sweep, in [0, 1] or in normalised pixels.

The images live in [0, 1]. DC, DSA and DM step z = (x − mean)/std: there the gradient is std·∂L/∂x, and a step of
z by d is one of x by std·d. For SGD that is the learning rate times std² per channel; AdamW's step knows no scale, and
is multiplied by std once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS, EPSILON, DECAY = (0.9, 0.999), 1e-8, 0.01  # of AdamW, PyTorch's defaults
HALF = 0.5
Kept = dict[str, Tensor]  # what the rule remembers besides the momentum


@dataclass(frozen=True, eq=False)
class Rule:
    """How the images move, as plain values."""

    lr: float
    momentum: float  # what a step keeps of the buffer
    reach: float = 1.0  # steps of the published loop that one step stands for, see `synthetic.sweep_factors`
    optimizer: str = "sgd"
    mean: Tensor | None = None  # [ch, 1, 1] where steps are made in normalised pixels
    std: Tensor | None = None
    patience: int = 0  # sweeps without a lower loss after which the learning rate is halved; 0: never


def start(images: Tensor, rule: Rule) -> Kept:
    """What the rule remembers before the first step: nothing, for plain SGD."""
    kept: Kept = {}
    if rule.optimizer == "adamw":
        kept |= {"square": torch.zeros_like(images), "count": images.new_zeros(())}
    if rule.patience:
        kept |= {"rate": images.new_ones(()), "best": images.new_full((), torch.inf), "stale": images.new_zeros(())}
    return kept


def move(
    images: Tensor,  # [C, ipc, ch, H, W] in [0, 1], perhaps a little outside
    momentum: Tensor,  # same shape
    gradient: Tensor,  # same shape, ∂L/∂images
    kept: Kept,
    rule: Rule,
) -> tuple[Tensor, Tensor, Kept]:
    """One step: the new images, momentum and memory. Nothing is read back from the device."""
    return (_adamw if rule.optimizer == "adamw" else _sgd)(images, momentum, gradient, kept, rule)


def _sgd(images: Tensor, momentum: Tensor, gradient: Tensor, kept: Kept, rule: Rule) -> tuple[Tensor, Tensor, Kept]:
    momentum = rule.momentum * momentum + gradient
    return images - _scaled(rule.lr * rule.reach * momentum, kept, rule), momentum, kept


def _adamw(images: Tensor, momentum: Tensor, gradient: Tensor, kept: Kept, rule: Rule) -> tuple[Tensor, Tensor, Kept]:
    first, second = BETAS
    mean, std = (0.0, 1.0) if rule.mean is None or rule.std is None else (rule.mean, rule.std)
    gradient, count = std * gradient, kept["count"] + 1
    momentum = first * momentum + (1 - first) * gradient
    square = second * kept["square"] + (1 - second) * gradient.square()
    step = (momentum / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + EPSILON)
    step = rule.lr * (std * step + DECAY * (images - mean))
    return images - kept.get("rate", 1.0) * step, momentum, kept | {"square": square, "count": count}


def _scaled(step: Tensor, kept: Kept, rule: Rule) -> Tensor:
    step = step if rule.std is None else rule.std.square() * step
    return kept["rate"] * step if "rate" in kept else step


def later(momentum: Tensor, share: Tensor, kept: Kept, rule: Rule) -> Tensor:
    """What the published loop has not yet taken off the images: `share` of the buffer, see `synthetic.pending`."""
    return _scaled(rule.lr * share * momentum, kept, rule)


def watch(kept: Kept, loss: Tensor, rule: Rule) -> Kept:
    """Halve the rate when the loss was not below its lowest for `patience` sweeps in a row (NCFM), on the device."""
    if not rule.patience:
        return kept
    better = loss < kept["best"]
    stale = torch.where(better, 0.0, kept["stale"] + 1)
    worn = stale >= rule.patience
    return kept | {
        "best": torch.where(better, loss, kept["best"]).to(kept["best"].dtype),
        "rate": torch.where(worn, HALF * kept["rate"], kept["rate"]),
        "stale": torch.where(worn, 0.0, stale),
    }


def effective_lr(lr_img: float, ipc: int, side: int, base_size: int) -> float:
    """The image learning rate lr_img · ipc/10 · (H/H₀)² (IDC's published settings)."""
    return lr_img * ipc / 10 * (side / base_size) ** 2


def sweep_factors(mom_img: float, classes: int) -> tuple[float, float]:
    """(μ^C, (1 − μ^C)/(1 − μ)): what one batched step over C classes uses in place of μ and 1.

    The published loop steps the whole tensor after every class; between two turns of its own a class's images move by
    lr·(1 + μ + … + μ^{C−1})·buffer and bring μ^{C−1}·buffer along, which the next step multiplies by μ once more.
    """
    power = mom_img**classes
    return power, (1 - power) / (1 - mom_img)


def pending(mom_img: float, classes: int) -> list[float]:
    """For each class in turn, the share of its buffer that the published loop has not yet added when a sweep ends.

    Class c of C was stepped C − c times since its turn; Σ_{j=C−c}^{C−1} μ^j of lr·buffer follows in the next sweep.
    """
    return [math.fsum(mom_img**j for j in range(classes - c, classes)) for c in range(classes)]
