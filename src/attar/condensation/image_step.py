"""The optimiser of the images: SGD or AdamW, after each class or once per sweep, in [0, 1] or in normalised pixels.

The images x are stored in [0, 1]. DC, DSA and DM step normalised images z = (x − mean)/std. The gradient with respect
to z is std·∂L/∂x, and a step of z by d is a step of x by std·d. For SGD the learning rate is therefore multiplied by
std² per channel. AdamW's step does not depend on the scale of the gradient, and is multiplied by std once.

The published loop of IDC and NCFM steps the whole tensor after each class. What that adds up to is one step of SGD (see
`sweep_factors`); AdamW has no such form, so its `turns` steps of a sweep are made one after another (`ahead`, `move`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.data.whitening import Whitening

ADAMW_BETAS, ADAMW_EPSILON = (0.9, 0.999), 1e-8  # PyTorch's defaults
PLATEAU_FACTOR = 0.5  # of the learning rate
OptimizerState = dict[str, Tensor]  # the optimiser's state besides the momentum
Moved = tuple[Tensor, Tensor, OptimizerState]  # images, momentum, state


@dataclass(frozen=True, eq=False)
class ImageOptimizer:
    """The settings of the images' optimiser."""

    lr: float
    momentum: float  # factor of the momentum buffer before each step
    step_scale: float = 1.0  # factor of the step that combines the published loop's steps, see `sweep_factors`
    optimizer: str = "sgd"
    decay: float = 0.01  # weight decay of AdamW
    turns: int = 1  # steps of AdamW in a sweep: one for each class, or 1
    mean: Tensor | None = None  # [ch, 1, 1] for steps in normalised pixels, otherwise None
    std: Tensor | None = None  # likewise
    whitening: Whitening | None = None  # for steps in whitened pixels
    patience: int = 0  # halve the learning rate after more than this many sweeps without a lower loss; 0: never


def start(images: Tensor, optimizer: ImageOptimizer) -> OptimizerState:
    """The state before the first step; empty for SGD with a constant learning rate."""
    state: OptimizerState = {}
    if optimizer.optimizer == "adamw":
        state |= {"square": torch.zeros_like(images), "count": images.new_zeros(())}
    if optimizer.patience:
        state |= {"rate": images.new_ones(()), "best": images.new_full((), torch.inf), "stale": images.new_zeros(())}
    return state


def ahead(images: Tensor, momentum: Tensor, state: OptimizerState, optimizer: ImageOptimizer) -> Tensor:
    """The images of each class when its turn comes: class c is moved by c steps of the classes before it."""
    return images if optimizer.turns == 1 else _coast(images, momentum, state, optimizer, _numbers(images))


def move(
    images: Tensor,  # [C, ipc, ch, H, W], in [0, 1] or slightly outside; as `ahead` gives them
    momentum: Tensor,  # same shape
    gradient: Tensor,  # same shape, ∂L/∂images
    state: OptimizerState,
    optimizer: ImageOptimizer,
) -> Moved:
    """The steps of a sweep. Returns the new images, momentum and state, without synchronising with the device."""
    if optimizer.optimizer == "sgd":
        return _sgd(images, momentum, gradient, state, optimizer)
    if optimizer.turns == 1:
        return _adamw(images, momentum, gradient, state, optimizer)
    (first, second), before = ADAMW_BETAS, _numbers(images)
    after = optimizer.turns - 1 - before  # steps of the classes that come later
    own = state | {"square": second**before * state["square"], "count": state["count"] + before}
    images, momentum, own = _adamw(images, first**before * momentum, gradient, own, optimizer)
    images = _coast(images, momentum, own, optimizer, after)
    own |= {"square": second**after * own["square"], "count": state["count"] + optimizer.turns}
    return images, first**after * momentum, own


def _numbers(images: Tensor) -> Tensor:
    """The number of each class, [C, 1, 1, 1, 1]."""
    return torch.arange(len(images), device=images.device, dtype=images.dtype).view(-1, 1, 1, 1, 1)


def _coast(images: Tensor, momentum: Tensor, state: OptimizerState, optimizer: ImageOptimizer, steps: Tensor) -> Tensor:
    """The images after AdamW's steps with a gradient of 0; steps: how many of each class, [C, 1, 1, 1, 1]."""
    first, second = ADAMW_BETAS
    number = torch.arange(1, optimizer.turns, device=images.device, dtype=images.dtype).view(-1, 1, 1, 1, 1, 1)
    count, rate, root = state["count"] + number, optimizer.lr * state.get("rate", 1.0), state["square"].sqrt()
    # factors of the momentum and of the root, step by step
    factors = rate * first**number / (1 - first**count), (second**number / (1 - second**count)).sqrt()
    shrink, scaled = optimizer.decay * rate, momentum if optimizer.std is None else optimizer.std * momentum
    for is_made, size, spread in zip(steps >= number, *factors, strict=True):
        centred = images if optimizer.mean is None else images - optimizer.mean
        moved = images - shrink * centred - size * scaled / (spread * root + ADAMW_EPSILON)
        images = torch.where(is_made, moved, images)
    return images


def _sgd(images: Tensor, momentum: Tensor, gradient: Tensor, state: OptimizerState, optimizer: ImageOptimizer) -> Moved:
    momentum = optimizer.momentum * momentum + gradient
    return images - _in_image_units(optimizer.lr * optimizer.step_scale * momentum, state, optimizer), momentum, state


def _adamw(
    images: Tensor, momentum: Tensor, gradient: Tensor, state: OptimizerState, optimizer: ImageOptimizer
) -> Moved:
    first, second = ADAMW_BETAS
    mean, std = optimizer.mean, optimizer.std
    gradient, count = gradient if std is None else std * gradient, state["count"] + 1
    momentum = first * momentum + (1 - first) * gradient
    square = second * state["square"] + (1 - second) * gradient.square()
    step = (momentum / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + ADAMW_EPSILON)
    centred = images if mean is None else images - mean
    step = optimizer.lr * ((step if std is None else std * step) + optimizer.decay * centred)
    return images - state.get("rate", 1.0) * step, momentum, state | {"square": square, "count": count}


def _in_image_units(step: Tensor, state: OptimizerState, optimizer: ImageOptimizer) -> Tensor:
    """A step of SGD in units of the stored images, times the current factor of the learning rate."""
    if optimizer.whitening is not None:
        step = optimizer.whitening.step(step)
    elif optimizer.std is not None:
        step = optimizer.std.square() * step
    return state["rate"] * step if "rate" in state else step


def clipped(gradient: Tensor, state: OptimizerState, optimizer: ImageOptimizer, limit: float) -> Tensor:
    """Gradients [..., ch, H, W], that of an image shortened where a step by it alone would move the image too far.

    limit: the root mean square over the image's pixels, in units of the stored images. The gradient through many steps
    of a student is now and then a hundred times as long as usual, and one such step spoils an image for good.
    """
    step = _in_image_units(optimizer.lr * gradient, state, optimizer)
    moved = step.square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
    return gradient * (limit / moved).clamp(max=1)


def deferred_step(momentum: Tensor, fraction: Tensor, state: OptimizerState, optimizer: ImageOptimizer) -> Tensor:
    """Steps that the published loop would still apply after a sweep: lr · fraction · momentum, see `pending`.

    fraction: [C, 1, 1, 1, 1], one for each class.
    """
    return _in_image_units(optimizer.lr * fraction * momentum, state, optimizer)


def reduce_lr_on_plateau(state: OptimizerState, loss: Tensor, optimizer: ImageOptimizer) -> OptimizerState:
    """Halve the learning rate after more than `patience` sweeps in a row without a new lowest loss, on the device.

    As PyTorch's `ReduceLROnPlateau` (NCFM), for which a loss is lower by any amount here.
    """
    if not optimizer.patience:
        return state
    better = loss < state["best"]
    stale = torch.where(better, 0.0, state["stale"] + 1)
    plateau = stale > optimizer.patience
    return state | {
        "best": torch.where(better, loss, state["best"]).to(state["best"].dtype),
        "rate": torch.where(plateau, PLATEAU_FACTOR * state["rate"], state["rate"]),
        "stale": torch.where(plateau, 0.0, stale),
    }


def effective_lr(lr_img: float, ipc: int, side: int, base_size: int) -> float:
    """The image learning rate lr_img · ipc/10 · (H/H₀)² (IDC's published settings)."""
    return lr_img * ipc / 10 * (side / base_size) ** 2


def sweep_factors(mom_img: float, classes: int) -> tuple[float, float]:
    """The factors of momentum and step for one step over C classes: μ^C and (1 − μ^C)/(1 − μ), in place of μ and 1.

    The published loop steps the whole image tensor after every class. From one gradient of a class to its next, its
    images therefore move by lr·(1 + μ + … + μ^{C−1})·buffer, and the buffer decays to μ^C times itself.
    """
    power = mom_img**classes
    return power, (1 - power) / (1 - mom_img)


def pending(mom_img: float, classes: int) -> list[float]:
    """For each class, the fraction of its momentum that the published loop applies only after the end of a sweep.

    By then class c of C (from 0) was stepped C − c times since its gradient was computed. The remaining
    Σ_{j=C−c}^{C−1} μ^j · lr · buffer follows in the next sweep. See docs/images-during-a-sweep.md.
    """
    return [math.fsum(mom_img**j for j in range(classes - c, classes)) for c in range(classes)]
