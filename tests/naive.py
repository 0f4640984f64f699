"""Naive twins of attar's mathematics: plain loops in float64, written from the method and not from attar's code.

Nothing here imports attar. Everything random arrives as an argument, so a test can feed the same draw to both sides.
Images are float64 tensors [n, ch, H, W]. What has to be differentiable is written as a matrix built by loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- augmentation, one image [ch, H, W] at a time


def flip(image: Tensor) -> Tensor:
    width = image.shape[-1]
    return torch.stack([image[:, :, width - 1 - column] for column in range(width)], dim=-1)


def color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    """Brightness, then saturation, then contrast; the three numbers are the u of the method's table, in (0, 1)."""
    image = image + (brightness - 0.5)
    grey = sum(image[channel] for channel in range(len(image))) / len(image)
    image = torch.stack([(image[channel] - grey) * 2 * saturation + grey for channel in range(len(image))])
    level = image.sum() / image.numel()
    return (image - level) * (contrast + 0.5) + level


def sample(image: Tensor, source: Callable[[float, float], tuple[float, float]]) -> Tensor:
    """Read the image at `source(row, column)` for every output pixel: bilinear, zeros outside the image.

    Coordinates are in pixels, relative to the middle of the image.
    """
    channels, height, width = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    weights = torch.zeros(height * width, height * width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            y, x = source(row - middle_y, column - middle_x)
            y, x = y + middle_y, x + middle_x
            for near_y in (math.floor(y), math.floor(y) + 1):
                for near_x in (math.floor(x), math.floor(x) + 1):
                    if 0 <= near_y < height and 0 <= near_x < width:
                        share = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                        weights[row * width + column, near_y * width + near_x] += share
    return (image.reshape(channels, -1) @ weights.T).reshape(channels, height, width)


def crop(image: Tensor, down: int, right: int) -> Tensor:
    """The window moves by (down, right) pixels: pixel (y, x) shows what stood at (y + down, x + right), else 0."""
    channels, height, width = image.shape
    rows = []
    for y in range(height):
        pixels = []
        for x in range(width):
            inside = 0 <= y + down < height and 0 <= x + right < width
            pixels.append(image[:, y + down, x + right] if inside else torch.zeros(channels, dtype=image.dtype))
        rows.append(torch.stack(pixels, dim=-1))
    return torch.stack(rows, dim=-2)


def scale(image: Tensor, by_y: float, by_x: float) -> Tensor:
    """Zoom about the middle: the point (y, x) from the middle shows what stood at (y * by_y, x * by_x)."""
    return sample(image, lambda y, x: (y * by_y, x * by_x))


def rotate(image: Tensor, degrees: float) -> Tensor:
    """Turn about the middle, in pixels (so that a square stays a square on images that are not square)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return sample(image, lambda y, x: (sin * x + cos * y, cos * x - sin * y))


def cutout(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Set the rectangle to 0; what of it lies outside the image is nowhere."""
    keep = torch.ones(image.shape[-2:], dtype=torch.float64)
    for y in range(image.shape[-2]):
        for x in range(image.shape[-1]):
            if top <= y < top + height and left <= x < left + width:
                keep[y, x] = 0
    return image * keep


def cutmix(images: Tensor, box: tuple[int, int, int, int], order: Sequence[int]) -> tuple[Tensor, float]:
    """Paste rows top:bottom, columns left:right of image order[i] into image i; also the share that image i keeps."""
    top, bottom, left, right = box
    mixed = images.clone()
    pasted = 0
    for y in range(images.shape[-2]):
        for x in range(images.shape[-1]):
            if top <= y < bottom and left <= x < right:
                pasted += 1
                for i in range(len(images)):
                    mixed[i, :, y, x] = images[order[i], :, y, x]
    return mixed, 1 - pasted / (images.shape[-2] * images.shape[-1])


def mixed_targets(labels: Sequence[int], order: Sequence[int], share: float, nclass: int) -> Tensor:
    targets = torch.zeros(len(labels), nclass, dtype=torch.float64)
    for i in range(len(labels)):
        targets[i, labels[i]] += share
        targets[i, labels[order[i]]] += 1 - share
    return targets


# ---------------------------------------------------------------- perturbation


def perturb(parameters: dict[str, Tensor], draws: dict[str, Sequence[tuple[float, Tensor]]]) -> dict[str, Tensor]:
    """θ + a·d₁ + b·d₂; `draws` has the pairs (a, Gaussian) and (b, Gaussian) of every tensor of more than one dimension."""
    moved = {}
    for name, value in parameters.items():
        result = value.detach().double().clone()
        if value.ndim > 1:
            for size, gaussian in draws[name]:
                for row in range(len(value)):
                    weight, noise = value[row].detach().double(), gaussian[row].double()
                    result[row] += size * noise * math.sqrt((weight**2).sum()) / math.sqrt((noise**2).sum())
        moved[name] = result
    return moved


# ---------------------------------------------------------------- the synthetic set


def upsample(cell: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, borders repeated. cell [ch, h, w] -> [ch, H, W]."""
    matrices = []
    for small, large in zip(cell.shape[-2:], size, strict=True):
        weights = torch.zeros(large, small, dtype=torch.float64)
        for i in range(large):
            position = min(max((i + 0.5) * small / large - 0.5, 0), small - 1)
            low = math.floor(position)
            weights[i, low] += 1 - (position - low)
            if low + 1 < small:
                weights[i, low + 1] += position - low
        matrices.append(weights)
    return torch.stack([matrices[0] @ channel @ matrices[1].T for channel in cell])


def decode_image(image: Tensor, factor: int) -> list[Tensor]:
    """The factor² images of one stored image [ch, H, W], grid rows from the top, each row from the left."""
    channels, height, width = image.shape
    cell_y, cell_x = math.ceil(height / factor), math.ceil(width / factor)
    right = torch.full((channels, height, cell_x * factor - width), 0.5, dtype=image.dtype)
    padded = torch.cat([image, right], dim=2)
    below = torch.full((channels, cell_y * factor - height, cell_x * factor), 0.5, dtype=image.dtype)
    padded = torch.cat([padded, below], dim=1)
    return [
        upsample(padded[:, i * cell_y : (i + 1) * cell_y, j * cell_x : (j + 1) * cell_x], (height, width))
        for i in range(factor)
        for j in range(factor)
    ]


def decode(images: Tensor, factors: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """For every stored image its small images under each of its own factors."""
    return [
        [small for factor in own for small in decode_image(image, factor)]
        for image, own in zip(images, factors, strict=True)
    ]


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest: pixel i of n shows pixel floor(i·N/n) of N."""
    height, width = image.shape[-2:]
    small = torch.empty(image.shape[0], *size, dtype=image.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            small[:, y, x] = image[:, y * height // size[0], x * width // size[1]]
    return small


def mix(cells: Sequence[Tensor], factor: int) -> Tensor:
    """One stored image out of factor² real ones [ch, H, W], grid rows from the top; cells cut by the border are smaller."""
    channels, height, width = cells[0].shape
    stored = torch.full((channels, height, width), torch.nan, dtype=torch.float64)
    cell_y, cell_x = math.ceil(height / factor), math.ceil(width / factor)
    for i in range(factor):
        for j in range(factor):
            top, left = min(i * cell_y, height), min(j * cell_x, width)
            bottom, right = min(top + cell_y, height), min(left + cell_x, width)
            if bottom > top and right > left:
                small = shrink(cells[i * factor + j], (bottom - top, right - left))
                stored[:, top:bottom, left:right] = small
    return stored


# ---------------------------------------------------------------- networks, losses, distances


def convnet(blocks: Sequence[Sequence[Tensor]], head: Sequence[Tensor], images: Tensor, pad: int = 1) -> Tensor:
    """Logits of ConvNet-D. blocks: (weight, bias, scale, shift) of each block; head: (weight, bias)."""
    x = images
    for depth, (weight, bias, gain, shift) in enumerate(blocks):
        x = F.conv2d(x, weight, bias, padding=pad if depth == 0 else 1)
        mean = x.mean(dim=(2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]
        x = torch.where(x > 0, x, torch.zeros_like(x))
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        x = x[:, :, :height, :width]
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return x.flatten(1) @ head[0].T + head[1]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch; targets are weights [n, C]."""
    total = torch.zeros((), dtype=logits.dtype)
    for row, target in zip(logits, targets, strict=True):
        total = total + (target * (torch.logsumexp(row, 0) - row)).sum()
    return total / len(logits)


def one_hot(labels: Sequence[int], nclass: int) -> Tensor:
    return mixed_targets(labels, range(len(labels)), 1.0, nclass)


def distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], metric: str) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for r, s in zip(real, synthetic, strict=True):
        if metric == "mse":
            total = total + ((r - s) ** 2).sum()
        elif metric == "l1":
            total = total + (r - s).abs().sum()
        elif metric == "l1_mean":
            total = total + (r - s).abs().sum() / r.numel()
        else:
            for a, b in zip(r, s, strict=True):
                total = total + 1 - (a * b).sum() / ((a**2).sum().sqrt() * (b**2).sum().sqrt())
    return total


# ---------------------------------------------------------------- optimisation


def sgd(
    value: Tensor, gradient: Tensor, buffer: Tensor | None, *, lr: float, momentum: float, decay: float
) -> tuple[Tensor, Tensor]:
    """One step of SGD with weight decay in the gradient: the new value and the new buffer."""
    gradient = gradient + decay * value
    buffer = gradient if buffer is None else momentum * buffer + gradient
    return value - lr * buffer, buffer


def sequential(
    images: Tensor,
    outers: Sequence[dict],
    *,
    class_loss: Callable[[Tensor, dict[str, Tensor], dict], Tensor],
    network_loss: Callable[[dict[str, Tensor], dict], Tensor],
    lr: float,
    momentum: float,
    lr_net: float,
    momentum_net: float,
    decay_net: float,
) -> Tensor:
    """The published loop: one class after another, one SGD over the *whole* image tensor after each of them.

    outers: per outer iteration {"parameters": θ at its start, "sweeps": [{"classes": [...], "updates": [...]}]}, where
    the entries of "classes" go to `class_loss` in their order and those of "updates" to `network_loss` afterwards.
    """
    images = images.clone().requires_grad_()
    optimiser = torch.optim.SGD([images], lr=lr, momentum=momentum)
    for outer in outers:
        with torch.no_grad():
            images.clamp_(0, 1)
        theta = {name: value.detach().clone().requires_grad_() for name, value in outer["parameters"].items()}
        buffers: dict[str, Tensor | None] = dict.fromkeys(theta)
        for sweep in outer["sweeps"]:
            for one in sweep["classes"]:
                optimiser.zero_grad(set_to_none=False)
                (images.grad,) = torch.autograd.grad(class_loss(images, theta, one), images)
                optimiser.step()
            for batch in sweep["updates"]:
                gradients = torch.autograd.grad(network_loss(theta, batch), list(theta.values()))
                for (name, value), gradient in zip(list(theta.items()), gradients, strict=True):
                    moved, buffers[name] = sgd(
                        value.detach(), gradient, buffers[name], lr=lr_net, momentum=momentum_net, decay=decay_net
                    )
                    theta[name] = moved.requires_grad_()
    return images.detach()
