"""From what a user hands over to checked tensors, and the arithmetic on whole sets of uint8 images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from attar.data.cache.mapped import Mapped
from attar.errors import UserError, choose, counted
from attar.settings.choices import CHANNEL_AXIS_NAMES

Array = np.ndarray | Tensor
USUAL_CHANNELS = (1, 3, 4)  # grey, colour, and colour with one more
CHUNK_VALUES = 1 << 22  # pixels handled at once where uint8 becomes a wider type


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device of that name, with its index; UserError when there is no such thing or it is absent here."""
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"unknown device '{device}'; valid: cpu, cuda, cuda:0, ...") from error
    try:
        return torch.empty(0, device=where).device
    except (RuntimeError, AssertionError) as error:  # an AssertionError when torch was built without CUDA
        raise UserError(f"device '{device}' is not available on this machine; use 'cpu'") from error


def check_nclass(nclass: int, available: int | None = None, name: str = "") -> None:
    """UserError unless nclass is at least 2 and not above what `name` has."""
    if nclass < 2:
        raise UserError(f"nclass must be at least 2, found {nclass}")
    if available is not None and nclass > available:
        raise UserError(f"nclass {nclass} asked for, but {name} has {available} classes")


def check_positive(std: Sequence[float]) -> None:
    """Raise `UserError` for a standard deviation of zero or less."""
    if min(std) <= 0:
        raise UserError(f"std must be positive in every channel, found {std}")


def check_holdout(fraction: float, counts: Sequence[int], classes: Sequence[str]) -> None:
    """Raise `UserError` where such a fraction cannot be held out of each class, of which there are so many images."""
    if not 0 < fraction < 1:
        raise UserError(f"the fraction held out must be between 0 and 1, found {fraction}")
    if min(counts) < 2:
        lone = classes[counts.index(1)]
        raise UserError(f"nothing can be held out of class '{lone}': it has 1 image, at least 2 are needed")


def check_size(size: int) -> None:
    """UserError unless size is at least one pixel."""
    if size < 1:
        raise UserError(f"size must be at least 1 pixel, found {size}")


def stratified(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the rows of `labels` class by class.

    Of each class with two rows or more at least one goes to either side. Numpy's RandomState is frozen for good, so a
    seed names the same split in every version.

    Args:
        labels: int64 [n].
        fraction: the share of each class that goes out.
        seed: draws the rows.

    Returns:
        The rows that are kept and those that are out, each int64, ascending.

    Raises:
        UserError: for a seed that RandomState does not take.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed of a split, test_seed, must be between 0 and {2**32 - 1}, not {seed}")
    random, picked = np.random.RandomState(seed), torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique().tolist():
        rows = np.flatnonzero(labels.numpy() == c)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        picked[torch.from_numpy(random.permutation(rows)[:count])] = True
    return torch.nonzero(~picked).squeeze(1), torch.nonzero(picked).squeeze(1)


def crop_plan(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(new height, new width, top, left): short side to `size`, then the centre size x size of that."""
    short = min(height, width)
    tall, wide = size * height // short, size * width // short
    return tall, wide, round((tall - size) / 2), round((wide - size) / 2)


def chunks(images: Tensor | Mapped) -> Iterator[slice]:
    """Rows that are handled at once, one part after another."""
    step = max(1, CHUNK_VALUES // max(1, math.prod(images.shape[1:])))
    return (slice(start, start + step) for start in range(0, len(images), step))


def tensor(values: Array | Sequence[int], what: str) -> Tensor:
    """A tensor of these values, sharing their memory where torch can."""
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(native, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{what} must be a numpy array or a tensor of numbers, found {type(values).__name__}"
        ) from error


def channel_axis(shape: Sequence[int], channels: str | None, what: str) -> int:
    """Which axis of images [N, a, b, c] holds the channels: 1 or 3.

    Args:
        shape: the four lengths.
        channels: "first" or "last"; None goes by the rule: the axis of length 1, 3 or 4, of both the shorter one.
        what: what the images are called in a message.

    Returns:
        The axis.

    Raises:
        UserError: where the rule does not tell.
    """
    if channels is not None:
        return {"first": 1, "last": 3}[choose("channels", channels, CHANNEL_AXIS_NAMES)]
    sides = {1: (shape[2], shape[3]), 3: (shape[1], shape[2])}
    likely = sorted((shape[axis], axis) for axis in sides if shape[axis] in USUAL_CHANNELS)
    if likely and (likely[0][0] == 1 or len(likely) == 1 or likely[0][0] < likely[1][0]):
        return likely[0][1]
    (h1, w1), (h3, w3) = sides[1], sides[3]
    raise UserError(
        f"{what} have the shape {list(shape)}, which does not tell where the channels are: say channels='last' for "
        f"{shape[3]} channels of {h3}x{w3} pixels, or channels='first' for {shape[1]} of {h1}x{w1} (--channels)"
    )


def pixels(images: Array, what: str, device: torch.device, channels: str | None = None) -> Tensor:
    """Images as attar holds them.

    Args:
        images: uint8, or float in [0, 1]; [N, H, W], [N, ch, H, W] or [N, H, W, ch].
        what: what they are called in a message.
        device: where they shall live.
        channels: "first" or "last", where the shape does not tell.

    Returns:
        uint8 [N, ch, H, W].

    Raises:
        UserError: for other shapes, types and ranges.
    """
    x = tensor(images, what)
    shape = list(x.shape)
    if x.ndim not in (3, 4):
        raise UserError(f"{what} must be [N, H, W], [N, ch, H, W] or [N, H, W, ch], found shape {shape}")
    if x.numel() == 0:
        raise UserError(f"{what} must not be empty, found shape {shape}")
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif channel_axis(shape, channels, what) == 3:
        x = x.permute(0, 3, 1, 2)
    if x.dtype == torch.uint8:
        return x.to(device).contiguous()
    if not x.is_floating_point():
        raise UserError(f"{what} must be uint8, or float in [0, 1], found {_dtype(x)}")
    low, high = (float(value) for value in x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise UserError(f"floats of {what} must be finite: NaN or infinite in {bad:,} of {counted(len(x), 'image')}")
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"floats of {what} must be in [0, 1], found {low:g} to {high:g}; scale them, or give uint8 0..255"
        )
    out = torch.empty(x.shape, dtype=torch.uint8, device=device)
    for part in chunks(x):
        out[part] = (x[part].to(device, torch.float32) * 255).round()
    return out


def integers(labels: Array | Sequence[int], what: str, count: int) -> Tensor:
    """Labels as attar holds them.

    Args:
        labels: whole numbers [count].
        what: what they are called in a message.
        count: of the images.

    Returns:
        int64 [count] on the host, a copy.

    Raises:
        UserError: for other types and shapes.
    """
    y = tensor(labels, what)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"{what} must be integers, found {_dtype(y)}")
    if list(y.shape) != [count]:
        raise UserError(f"{what} must hold one integer for each of the {count} images, found shape {list(y.shape)}")
    return y.to("cpu", torch.int64, copy=True)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def check_range(labels: Tensor, what: str, nclass: int) -> None:
    """UserError unless every label is one of 0..nclass-1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= nclass:
        raise UserError(f"{what} must be 0..{nclass - 1} for {nclass} classes, found {low}..{high}")


def class_names(labels: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of all classes.

    Args:
        labels: int64 [n].
        classes: the names in label order; numbers without them.

    Returns:
        The names.

    Raises:
        UserError: for fewer than two classes, labels beyond them, a class without images, and equal names.
    """
    nclass = int(labels.max()) + 1 if classes is None else len(classes)
    check_range(labels, "labels", max(nclass, 1))
    if nclass < 2:
        raise UserError("at least 2 classes are needed, found 1")
    present = labels.unique()
    if len(present) < nclass:
        gap = next(iter(torch.nonzero(present != torch.arange(len(present))).flatten().tolist()), len(present))
        named = f" ('{classes[gap]}')" if classes is not None else ""
        raise UserError(
            f"class {gap}{named} of {nclass} has no training images; leave it out, and let the others count on"
        )
    names = tuple(str(c) for c in (range(nclass) if classes is None else classes))
    if len(set(names)) < nclass:
        raise UserError(f"the names of the classes must differ, found {', '.join(names)}")
    return names


def fingerprint(images: Tensor | Mapped, labels: Tensor, classes: Sequence[str]) -> str:
    """Twelve digits that stand for images, labels and class names."""
    digest = hashlib.sha256(repr((tuple(images.shape), tuple(classes))).encode())
    digest.update(labels.cpu().numpy().tobytes())
    for part in chunks(images):
        digest.update(images[part].cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def statistics(images: Tensor | Mapped, *more: Tensor | Mapped) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in units of [0, 1], from exact counts of the 256 values of them all."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device=images.device)
    for part in (whole[rows] for whole in (images, *more) for rows in chunks(whole)):
        for channel, values in enumerate(part.unbind(1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256)
    weight = counts.cpu().double() / counts[0].sum().item()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = weight @ level
    std = (weight * (level - mean[:, None]) ** 2).sum(1).sqrt()
    std[std < 1e-9] = 1.0  # a constant channel becomes 0 everywhere, where its own deviation would divide by 0
    return mean.tolist(), std.tolist()


def per_channel(values: Sequence[float], what: str, channels: int) -> tuple[float, ...]:
    """The values as floats; UserError unless there is one finite number per channel."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) != channels or not all(math.isfinite(value) for value in numbers):
        raise UserError(f"{what} must be {channels} finite numbers, one per channel, found {numbers}")
    return numbers


def constants(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """mean and std as tensors [ch, 1, 1]."""
    two = torch.tensor([mean, std], dtype=dtype, device=device)[..., None, None]
    return two[0], two[1]


def resample(images: Tensor | Mapped, size: int) -> Tensor:
    """uint8 [N, ch, H, W] -> uint8 [N, ch, size, size]: short side resized (bilinear, antialiased), centre cropped."""
    tall, wide, top, left = crop_plan(images.shape[2], images.shape[3], size)
    out = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8, device=images.device)
    for part in chunks(images):
        x = torch.nn.functional.interpolate(images[part].float(), (tall, wide), mode="bilinear", antialias=True)
        out[part] = x[:, :, top : top + size, left : left + size].round().clamp(0, 255)
    return out
