"""ZCA whitening: images whose pixels are uncorrelated over the training images, and that still look like images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.data.cache.mapped import Mapped
from attar.errors import UserError, log

EPSILON = 0.1  # added to the variances (Kornia's choice, which MTT uses), so that noise is not blown up
AT_ONCE = 4096  # images in one product
MAX_VALUES = 3 * 64 * 64  # of an image: the matrix has the square of that
CORE_SECONDS = 3.2e-10  # for the axes, times the values cubed: 3072 values take a core of an AMD EPYC 9 s, 12288 600
SAID_FROM = 60.0  # seconds


@dataclass(frozen=True, eq=False)
class Whitening:
    """z = (x − μ)·T with T = (Σ + ε)^(−1/2), of images x in [0, 1] as vectors of D values."""

    mean: Tensor  # [D]
    matrix: Tensor  # [D, D], T
    metric: Tensor  # [D, D], T⁻² = Σ + ε

    def __call__(self, images: Tensor) -> Tensor:
        """Images [..., ch, H, W] in [0, 1] → whitened ones, of the same shape and type."""
        return ((images.flatten(-3) - self.mean.to(images)) @ self.matrix.to(images)).view_as(images)

    def inverse(self, whitened: Tensor) -> Tensor:
        """Whitened images [..., ch, H, W] → those in [0, 1] that they were made of."""
        back = (self.metric @ self.matrix).to(whitened)  # T⁻² · T
        return (whitened.flatten(-3) @ back + self.mean.to(whitened)).view_as(whitened)

    def step(self, step: Tensor) -> Tensor:
        """What a step down ∂L/∂z, given as one of the same length down ∂L/∂x, is as a step of x: times T⁻²."""
        return (step.flatten(-3) @ self.metric.to(step)).view_as(step)

    def to(self, device: torch.device) -> Whitening:
        """The same on another device."""
        return Whitening(self.mean.to(device), self.matrix.to(device), self.metric.to(device))


def fitted(images: Tensor | Mapped, name: str) -> Whitening:
    """The whitening of training images, uint8 [N, ch, H, W]. Raises `UserError` for images that are too large."""
    count, size = len(images), images.shape[1:].numel()
    if size > MAX_VALUES:
        shape = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"zca whitens images of up to {MAX_VALUES} values, and those of {name} are {shape}; leave it out"
        )

    def parts() -> list[Tensor]:
        return [torch.arange(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE)]

    def vectors(rows: Tensor) -> Tensor:
        return images[rows.to(images.device)].flatten(1).float() / 255

    mean = torch.stack([vectors(rows).sum(dim=0).double() for rows in parts()]).sum(dim=0) / count
    covariance = torch.zeros(size, size, dtype=torch.float64, device=mean.device)
    for rows in parts():
        centred = vectors(rows) - mean.float()
        covariance += (centred.T @ centred).double()
    seconds = CORE_SECONDS * size**3
    if covariance.device.type == "cpu" and seconds >= SAID_FROM:
        line = "whitening images of %d values (zca) takes some %.0f minutes on one core, at each start"
        log.info(line, size, seconds / 60)
    variances, axes = torch.linalg.eigh(covariance / (count - 1))
    scale = (variances.clamp(min=0) + EPSILON).sqrt()
    return Whitening(mean.float(), ((axes / scale) @ axes.T).float(), ((axes * scale.square()) @ axes.T).float())
