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
OptimizerState = dict[str, Tensor]  # what the rule remembers besides the momentum


@dataclass(frozen=True, eq=False)
class ImageOptimizer:
    """How the images move, as plain values."""

    lr: float
    momentum: float  # what a step keeps of the buffer
    step_scale: float = 1.0  # steps of the published loop that one step stands for, see `synthetic.sweep_factors`
    optimizer: str = "sgd"
    mean: Tensor | None = None  # [ch, 1, 1] where steps are made in normalised pixels
    std: Tensor | None = None
    patience: int = 0  # sweeps without a lower loss after which the learning rate is halved; 0: never


def start(images: Tensor, optimizer: ImageOptimizer) -> OptimizerState:
    """What the rule remembers before the first step: nothing, for plain SGD."""
    kept: OptimizerState = {}
    if optimizer.optimizer == "adamw":
        kept |= {"square": torch.zeros_like(images), "count": images.new_zeros(())}
    if optimizer.patience:
        kept |= {"rate": images.new_ones(()), "best": images.new_full((), torch.inf), "stale": images.new_zeros(())}
    return kept


def move(
    images: Tensor,  # [C, ipc, ch, H, W] in [0, 1], perhaps a little outside
    momentum: Tensor,  # same shape
    gradient: Tensor,  # same shape, ∂L/∂images
    kept: OptimizerState,
    optimizer: ImageOptimizer,
) -> tuple[Tensor, Tensor, OptimizerState]:
    """One step: the new images, momentum and memory. Nothing is read back from the device."""
    return (_adamw if optimizer.optimizer == "adamw" else _sgd)(images, momentum, gradient, kept, optimizer)


def _sgd(
    images: Tensor, momentum: Tensor, gradient: Tensor, kept: OptimizerState, optimizer: ImageOptimizer
) -> tuple[Tensor, Tensor, OptimizerState]:
    momentum = optimizer.momentum * momentum + gradient
    return images - _scaled(optimizer.lr * optimizer.step_scale * momentum, kept, optimizer), momentum, kept


def _adamw(
    images: Tensor, momentum: Tensor, gradient: Tensor, kept: OptimizerState, optimizer: ImageOptimizer
) -> tuple[Tensor, Tensor, OptimizerState]:
    first, second = BETAS
    mean, std = (0.0, 1.0) if optimizer.mean is None or optimizer.std is None else (optimizer.mean, optimizer.std)
    gradient, count = std * gradient, kept["count"] + 1
    momentum = first * momentum + (1 - first) * gradient
    square = second * kept["square"] + (1 - second) * gradient.square()
    step = (momentum / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + EPSILON)
    step = optimizer.lr * (std * step + DECAY * (images - mean))
    return images - kept.get("rate", 1.0) * step, momentum, kept | {"square": square, "count": count}


def _scaled(step: Tensor, kept: OptimizerState, optimizer: ImageOptimizer) -> Tensor:
    step = step if optimizer.std is None else optimizer.std.square() * step
    return kept["rate"] * step if "rate" in kept else step


def deferred_step(momentum: Tensor, share: Tensor, kept: OptimizerState, optimizer: ImageOptimizer) -> Tensor:
    """What the published loop has not yet taken off the images: `share` of the buffer, see `synthetic.pending`."""
    return _scaled(optimizer.lr * share * momentum, kept, optimizer)


def reduce_lr_on_plateau(kept: OptimizerState, loss: Tensor, optimizer: ImageOptimizer) -> OptimizerState:
    """Halve the rate when the loss was not below its lowest for `patience` sweeps in a row (NCFM), on the device."""
    if not optimizer.patience:
        return kept
    better = loss < kept["best"]
    stale = torch.where(better, 0.0, kept["stale"] + 1)
    worn = stale >= optimizer.patience
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
