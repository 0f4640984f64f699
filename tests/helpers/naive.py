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

# ---------------------------------------------------------------- augmentation of images [..., ch, H, W], one draw


def flip(images: Tensor) -> Tensor:
    width = images.shape[-1]
    return torch.stack([images[..., width - 1 - column] for column in range(width)], dim=-1)


def color(images: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    """Brightness, then saturation, then contrast; the three numbers are the u of the method's table, in (0, 1)."""
    images = images + (brightness - 0.5)
    channels = images.shape[-3]
    grey = sum(images[..., channel, :, :] for channel in range(channels)) / channels
    saturated = [(images[..., channel, :, :] - grey) * 2 * saturation + grey for channel in range(channels)]
    images = torch.stack(saturated, dim=-3)
    level = images.sum(dim=(-3, -2, -1), keepdim=True) / math.prod(images.shape[-3:])
    return (images - level) * (contrast + 0.5) + level


def sample(images: Tensor, source: Callable[[float, float], tuple[float, float]]) -> Tensor:
    """Read the images at `source(row, column)` for every output pixel: bilinear, zeros outside.

    Coordinates are in pixels, relative to the middle of the image.
    """
    height, width = images.shape[-2:]
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
    return (images.flatten(-2) @ weights.T).reshape(images.shape)


def crop(images: Tensor, down: int, right: int) -> Tensor:
    """The window moves by (down, right) pixels: pixel (y, x) shows what stood at (y + down, x + right), else 0."""
    height, width = images.shape[-2:]
    pixels = []
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + down < height and 0 <= x + right < width
            pixels.append(images[..., y + down, x + right] if inside else torch.zeros_like(images[..., 0, 0]))
    return torch.stack(pixels, dim=-1).reshape(images.shape)


def scale(images: Tensor, by_y: float, by_x: float) -> Tensor:
    """Zoom about the middle: the point (y, x) from the middle shows what stood at (y * by_y, x * by_x)."""
    return sample(images, lambda y, x: (y * by_y, x * by_x))


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn about the middle, in pixels (so that a square stays a square on images that are not square)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return sample(images, lambda y, x: (sin * x + cos * y, cos * x - sin * y))


def cutout(images: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Set the rectangle to 0; what of it lies outside the image is nowhere."""
    keep = torch.ones(images.shape[-2:], dtype=torch.float64)
    for y in range(images.shape[-2]):
        for x in range(images.shape[-1]):
            if top <= y < top + height and left <= x < left + width:
                keep[y, x] = 0
    return images * keep


def augment(images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """The operations of one draw (tensors with a first dimension of 1), in their order, on all of `images`."""
    height, width = images.shape[-2:]
    if "taken" in drawn:  # DSA: one of all, the warps last
        order = [key for key in ("flip", "color", "cutout") if key in drawn] + ["affine"] * 4
        drawn = {key: value for key, value in drawn.items() if key == order[int(drawn["taken"])]}
    if "flip" in drawn and drawn["flip"].item():
        images = flip(images)
    if "color" in drawn:
        images = color(images, *drawn["color"][0].tolist())
    if "shift" in drawn:
        images = crop(images, *drawn["shift"][0].tolist())
    if "affine" in drawn:
        # in units of half a side, columns before rows
        (xx, xy, x0), (yx, yy, y0) = drawn["affine"][0].tolist()
        xy, yx, x0, y0 = xy * width / height, yx * height / width, x0 * width / 2, y0 * height / 2
        images = sample(images, lambda y, x: (yx * x + yy * y + y0, xx * x + xy * y + x0))
    if "cutout" in drawn:
        sides = round(height / 2), round(width / 2)
        top, left = (int(middle) - side // 2 for middle, side in zip(drawn["cutout"][0], sides, strict=True))
        images = cutout(images, top, left, *sides)
    return images


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
    """θ + a·d₁ + b·d₂; `draws`: the pairs (a, Gaussian), (b, Gaussian) of every tensor of more than one dimension."""
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
    for condensed, large in zip(cell.shape[-2:], size, strict=True):
        weights = torch.zeros(large, condensed, dtype=torch.float64)
        for i in range(large):
            position = min(max((i + 0.5) * condensed / large - 0.5, 0), condensed - 1)
            low = math.floor(position)
            weights[i, low] += 1 - (position - low)
            if low + 1 < condensed:
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


def bound_factors(count: int, factor: int, most: int = 128) -> list[int]:
    """The factor of each of `count` stored images: as large as leaves room for one image of each of those to come."""
    factors, decoded = [], 0
    for image in range(count):
        to_come = count - image - 1
        fits = [f for f in range(1, factor + 1) if decoded + f * f + to_come <= most]
        factors.append(max(fits, default=1))
        decoded += factors[-1] ** 2
    return factors


def decode(images: Tensor, factor: int, decode_type: str = "single") -> Tensor:
    """The training images of one class's stored images [n, ch, H, W]; the largest factor comes first."""
    if decode_type == "single":
        pairs = [(image, factor) for image in images]
    elif decode_type == "multi":
        pairs = [(image, f) for f in range(factor, 0, -1) for image in images]
    else:
        pairs = list(zip(images, bound_factors(len(images), factor), strict=True))
    return torch.stack([condensed for image, f in pairs for condensed in decode_image(image, f)])


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest: pixel i of n shows pixel floor(i·N/n) of N."""
    height, width = image.shape[-2:]
    condensed = torch.empty(image.shape[0], *size, dtype=image.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            condensed[:, y, x] = image[:, y * height // size[0], x * width // size[1]]
    return condensed


def mix(cells: Sequence[Tensor], factor: int) -> Tensor:
    """One stored image out of factor² real ones [ch, H, W], grid rows from the top; what lies outside it is lost."""
    channels, height, width = cells[0].shape
    stored = torch.full((channels, height, width), torch.nan, dtype=torch.float64)
    cell_y, cell_x = math.ceil(height / factor), math.ceil(width / factor)
    for i in range(factor):
        for j in range(factor):
            condensed = shrink(cells[i * factor + j], (cell_y, cell_x))
            for y in range(cell_y):
                for x in range(cell_x):
                    if i * cell_y + y < height and j * cell_x + x < width:
                        stored[:, i * cell_y + y, j * cell_x + x] = condensed[:, y, x]
    return stored


# ---------------------------------------------------------------- networks, losses, distances


def convnet(parameters: dict[str, Tensor], images: Tensor, features: bool = False) -> Tensor:
    """Logits of ConvNet-D, or what its last layer sees.

    parameters: weight, bias, scale and shift of each block, then weight and bias of the last layer, in this order.
    """
    *values, head_weight, head_bias = parameters.values()
    x = images
    for block in range(0, len(values), 4):
        weight, bias, gain, shift = values[block : block + 4]
        x = F.conv2d(x, weight, bias, padding=1)
        mean = x.mean(dim=(2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]
        x = torch.where(x > 0, x, torch.zeros_like(x))
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        x = x[:, :, :height, :width]
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return x.flatten(1) if features else x.flatten(1) @ head_weight.T + head_bias


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
            for a, b in zip(r, s, strict=True):  # filters
                total = total + (a - b).abs().sum() / a.numel()
        else:
            filters = zip(r, s, strict=True) if r.ndim > 1 else [(r, s)]  # a vector is one filter
            for a, b in filters:
                sizes = (a**2).sum().sqrt(), (b**2).sum().sqrt()
                # Rounding has no direction: the bias before an instance norm has no gradient.
                total = total + 1 - ((a * b).sum() / (sizes[0] * sizes[1]) if min(sizes) > 1e-6 else 0)
    return total


def characteristic(real: Tensor, synthetic: Tensor, frequencies: Tensor) -> Tensor:
    """300 · mean over t of √(½(|φ_r| − |φ_s|)² + ½·2(|φ_r||φ_s| − Re φ_r φ_s*)) of features scaled to unit norm."""
    total = torch.zeros((), dtype=torch.float64)
    for t in frequencies:
        means = []
        for features in (real, synthetic):
            angles = [(t * row).sum() / (row**2).sum().sqrt() for row in features]
            means.append(sum(torch.complex(a.cos(), a.sin()) for a in angles) / len(angles))
        sizes = [(mean.real**2 + mean.imag**2).sqrt() for mean in means]
        turned = 2 * (sizes[0] * sizes[1] - (means[0] * means[1].conj()).real)
        total = total + (0.5 * (sizes[0] - sizes[1]) ** 2 + 0.5 * turned.clamp(min=1e-12)).sqrt()
    return 300 * total / len(frequencies)


def label_loss(
    own: Tensor,
    parameters: dict[str, Tensor],
    drawn: dict[str, Tensor],
    label: int,
    *,
    normalize: Callable[[Tensor], Tensor],
    factor: int,
    decode_type: str,
) -> Tensor:
    """The mean cross-entropy of a network on the decoded images of one class: what calibration lowers."""
    logits = convnet(parameters, augment(normalize(decode(own, factor, decode_type)), drawn))
    return cross_entropy(logits, one_hot([label] * len(logits), logits.shape[1]))


def class_loss(
    own: Tensor,
    parameters: dict[str, Tensor],
    real: Tensor,
    drawn: dict[str, Tensor],
    label: int,
    *,
    names: Sequence[str],
    normalize: Callable[[Tensor], Tensor],
    metric: str,
    match: str,
    factor: int,
    decode_type: str,
    subset: Sequence[int] | None = None,
    frequencies: Tensor | None = None,
    network: Callable[..., Tensor] = convnet,
) -> Tensor:
    """L_c on a network: stored images `own` in [0, 1] against the normalised batch `real`, under one draw."""
    decoded = decode(own, factor, decode_type)
    if subset is not None:
        decoded = torch.stack([decoded[i] for i in subset])
    batches = augment(real, drawn), augment(normalize(decoded), drawn)
    if match == "feat":
        means = [sum(network(parameters, batch, features=True)) / len(batch) for batch in batches]
        return distance(means[:1], means[1:], metric)
    if frequencies is not None:
        return characteristic(*(convnet(parameters, batch, features=True) for batch in batches), frequencies)
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    gradients = []
    for batch in batches:
        logits = network(leaves, batch)
        loss = cross_entropy(logits, one_hot([label] * len(batch), logits.shape[1]))
        gradients.append(torch.autograd.grad(loss, [leaves[name] for name in names], create_graph=True))
    return distance([value.detach() for value in gradients[0]], gradients[1], metric)


# ---------------------------------------------------------------- optimisation


def sgd(
    value: Tensor, gradient: Tensor, buffer: Tensor | None, *, lr: float, momentum: float, decay: float
) -> tuple[Tensor, Tensor]:
    """One step of SGD with weight decay in the gradient: the new value and the new buffer."""
    gradient = gradient + decay * value
    buffer = gradient if buffer is None else momentum * buffer + gradient
    return value - lr * buffer, buffer


class Summed:
    """DC, DSA and DM: images in normalised pixels, one SGD with momentum for the sum of the classes' losses."""

    def __init__(self, images: Tensor, mean: Tensor, std: Tensor, *, lr: float, momentum: float, patience: int) -> None:
        self.z = ((images - mean) / std).detach().requires_grad_()
        self.mean, self.std, self.patience = mean, std, patience
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD([self.z], lr=lr, momentum=momentum)
        self.lowest, self.since = math.inf, 0

    def images(self) -> Tensor:
        return self.z * self.std + self.mean

    def step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=False)
        loss.backward()
        self.optimiser.step()

    def visit(self, losses: Sequence[Callable[[], Tensor]]) -> float:
        """Down the losses of all classes: what they add up to."""
        total = torch.stack([loss() for loss in losses]).sum()
        self.step(total)
        return total.item()

    def watch(self, loss: float) -> None:
        """Halve the learning rate after more than `patience` losses in a row that were not below the lowest."""
        if loss < self.lowest:
            self.lowest, self.since = loss, 0
        else:
            self.since += 1
        if self.patience and self.since > self.patience:
            self.since = 0
            self.optimiser.param_groups[0]["lr"] /= 2


class Visited(Summed):
    """NCFM: images in [0, 1], clamped with every new network, one optimiser of all of them stepped after each class."""

    def __init__(
        self, images: Tensor, *, lr: float, momentum: float, patience: int, decay: float | None = None
    ) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        super().__init__(images, zero, zero + 1, lr=lr, momentum=momentum, patience=patience)
        if decay is not None:
            self.optimiser = torch.optim.AdamW([self.z], lr=lr, weight_decay=decay)

    def visit(self, losses: Sequence[Callable[[], Tensor]]) -> float:
        total = 0.0
        for loss in losses:
            value = loss()
            self.step(value)
            total += value.item()
        return total

    def clamp(self) -> None:
        with torch.no_grad():
            self.z.clamp_(0, 1)


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
) -> tuple[Tensor, dict[str, Tensor]]:
    """The published loop: one class after another, one SGD over the *whole* image tensor after each of them.

    outers: per outer iteration {"parameters": θ at its start, "sweeps": [{"classes": [...], "updates": [...]}]}, where
    the entries of "classes" go to `class_loss` in their order and those of "updates" to `network_loss` afterwards.
    Returns the images as the last step left them, not clamped, and the last θ.
    """
    images = images.clone().requires_grad_()
    optimiser = torch.optim.SGD([images], lr=lr, momentum=momentum)
    theta: dict[str, Tensor] = {}
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
    return images.detach(), theta
