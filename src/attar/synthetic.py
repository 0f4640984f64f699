"""The synthetic set: stored images, and the training images they stand for (IDC section 4, multi-formation).

With factor f a stored image is an f×f grid; *decode* cuts it into f² patches of side ⌈H/f⌉ and up-samples each to H×W.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import Dataset, TensorDataset

from attar.augment import apply, draw
from attar.config import strategy_names
from attar.errors import UserError, choose

PAD = 0.5  # what a grid is padded with where the factor does not divide the side
GALLERY, GALLERY_CLASSES = 10, 20  # images and classes that a notebook shows
BOUND = 128  # decoded images per class of decode type `bound`


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A condensed data set.

    images: float32 [N, ch, H, W] in [0, 1] as stored; labels: int64 [N]; mean, std: per channel, in [0, 1] units.
    `initial` holds the images before any optimisation, where known; `fingerprint` stands for the real images; `coreset`
    says how real images were chosen, where these are some.
    """

    images: Tensor
    labels: Tensor
    factor: int = 1
    decode_type: str = "single"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    source: str = ""
    initial: Tensor | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    coreset: str = ""

    @property
    def nclass(self) -> int:
        """Classes of the data set (a part holds images of some of them only)."""
        return len(self.classes)

    @property
    def method(self) -> str:
        """The method that made the set, or "unknown"."""
        made = str(self.recipe.get("condense", {}).get("method", "accdd")) if self.recipe else "unknown"
        return self.coreset or made

    @property
    def ipc(self) -> int:
        """Stored images per class."""
        return int(torch.bincount(self.labels).max())

    def decoded(self) -> tuple[Tensor, Tensor]:
        """The training images float32 [n, ch, H, W] in [0, 1] and their labels int64 [n]."""
        return decode_set(self.images, self.labels, self.factor, self.decode_type)

    def normalize(self, images: Tensor) -> Tensor:
        """(images − mean) / std, per channel."""
        mean, std = (images.new_tensor(value).view(-1, 1, 1) for value in (self.mean, self.std))
        return (images - mean) / std

    def dataset(self, *, normalized: bool = True) -> Dataset:
        """A torch `Dataset` of decoded (image, label) pairs, normalised per channel unless told otherwise."""
        images, labels = self.decoded()
        return TensorDataset(self.normalize(images) if normalized else images, labels)

    def loader(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = True,
        device: str | torch.device = "cpu",
        augment: str | None = None,
        normalized: bool = True,
        seed: int = 0,
    ) -> Loader:
        """Batches of decoded images [n, ch, H, W] and labels [n], all on `device`, anew each time it is gone through.

        normalized: per channel, as networks are trained; else in [0, 1]. augment: a strategy such as
        "color_crop_flip_scale_rotate", drawn for each image, computed on the device. seed: of order and augmentation.
        Raises `UserError` for an unknown strategy and for augmentation of images that are not normalised.
        """
        if augment is not None and not normalized:
            raise UserError("augmentation works on normalised images; leave normalized=False or augment out")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        images, labels = self.decoded()
        images = self.normalize(images) if normalized else images
        strategy = strategy_names(augment or "none")
        generator = Generator(device).manual_seed(seed)
        return Loader(images.to(device), labels.to(device), batch_size, shuffle, strategy, generator)

    def _repr_html_(self) -> str:
        """What a notebook shows: the first stored images of each class."""
        return gallery(self.images, self.labels, self.classes, f"{self!r}")

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        kind = f"factor {self.factor}" + (f", {self.decode_type}" if self.decode_type != "single" else "")
        return f"SyntheticSet({self.source}: {len(self.labels)} images of {shape}, {self.nclass} classes, {kind})"

    def start(self) -> SyntheticSet:
        """The set as it was initialised. Raises `UserError` where that was not kept."""
        if self.initial is None:
            raise UserError("this set does not hold its initial images")
        return replace(self, images=self.initial)


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of images and labels that live on one device."""

    images: Tensor
    labels: Tensor
    batch_size: int
    shuffle: bool
    strategy: tuple[str, ...]
    generator: Generator

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.labels), self.labels.device
        order = torch.randperm(count, generator=self.generator, device=device) if self.shuffle else None
        for start in range(0, count, self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, count), device=device)
            rows = rows if order is None else order[rows]
            images = self.images[rows]
            if self.strategy:
                images = apply(images, draw(self.strategy, len(rows), _side(images), self.generator))
            yield images, self.labels[rows]


def _side(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


def gallery(images: Tensor, labels: Tensor, classes: Sequence[str], title: str) -> str:
    """HTML: one line, and for each class up to `GALLERY` images as one PNG."""
    rows = []
    for label in labels.unique().tolist()[:GALLERY_CLASSES]:
        own = (images[labels == label][:GALLERY].detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        strip = torch.cat(list(own), dim=2).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip).save(file, format="PNG")
        picture = base64.b64encode(file.getvalue()).decode()
        name = html.escape(str(classes[label]) if label < len(classes) else str(label))
        style = f"height:{max(48, own.shape[2])}px;image-rendering:pixelated"
        rows.append(
            f'<tr><td>{name}</td><td><img alt="{name}" style="{style}" src="data:image/png;base64,{picture}"></td></tr>'
        )
    return f"<div>{html.escape(title)}</div><table>{''.join(rows)}</table>"


def cell(side: int, factor: int) -> int:
    """The side of one patch: ⌈side/factor⌉ pixels."""
    return -(-side // factor)


def check_factor(factor: int, size: tuple[int, int]) -> None:
    """Raise `UserError` when a grid of `factor` × `factor` patches has less than one pixel for each."""
    if factor > min(size):
        raise UserError(f"factor {factor} is larger than the image ({size[0]}x{size[1]} pixels)")


def decode(images: Tensor, factor: int) -> Tensor:
    """images [n, ch, H, W] → [n·f², ch, H, W]: the patches of image 0 row by row, then those of image 1, …"""
    if factor == 1:
        return images
    n, channels, height, width = images.shape
    rows, columns = cell(height, factor), cell(width, factor)
    padded = F.pad(images, (0, factor * columns - width, 0, factor * rows - height), value=PAD)
    patches = padded.view(n, channels, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5)
    return F.interpolate(patches.reshape(-1, channels, rows, columns), size=(height, width), mode="bilinear")


def decode_class(images: Tensor, factor: int, decode_type: str) -> Tensor:
    """The training images of one class's stored images [ipc, ch, H, W].

    `single`: factor f only; `multi`: factors f, f−1, …, 1, all of them; `bound`: every stored image at one factor, the
    largest first, so that no more than 128 come out (or ipc, where that is more).
    """
    choose("decode_type", decode_type, DECODE)
    return torch.cat([decode(images[rows], f) for f, rows in DECODE[decode_type](len(images), factor)])


def decode_plan(ipc: int, factor: int, decode_type: str) -> list[tuple[int, slice]]:
    """Which stored images of a class are decoded at which factor."""
    return DECODE[choose("decode_type", decode_type, DECODE)](ipc, factor)


def decoded_count(ipc: int, factor: int, decode_type: str) -> int:
    """Training images per class."""
    return sum((rows.stop - rows.start) * f * f for f, rows in decode_plan(ipc, factor, decode_type))


def _single(ipc: int, factor: int) -> list[tuple[int, slice]]:
    return [(factor, slice(0, ipc))]


def _multi(ipc: int, factor: int) -> list[tuple[int, slice]]:
    return [(f, slice(0, ipc)) for f in range(factor, 0, -1)]


def _bound(ipc: int, factor: int) -> list[tuple[int, slice]]:
    plan, first, spare = [], 0, BOUND - ipc
    for f in range(factor, 0, -1):
        count = ipc - first if f == 1 else min(ipc - first, max(0, spare) // (f * f - 1))
        if count:
            plan.append((f, slice(first, first + count)))
        first, spare = first + count, spare - count * (f * f - 1)
    return plan


DECODE: dict[str, Callable[[int, int], list[tuple[int, slice]]]] = {
    "single": _single,
    "multi": _multi,
    "bound": _bound,
}


def decode_set(images: Tensor, labels: Tensor, factor: int, decode_type: str) -> tuple[Tensor, Tensor]:
    """Decode class by class: stored images and labels [N] → training images and labels [n], classes ascending."""
    decoded, repeated = [], []
    for label in labels.unique().tolist():
        patches = decode_class(images[labels == label], factor, decode_type)
        decoded.append(patches)
        repeated.append(labels.new_full((len(patches),), label))
    return torch.cat(decoded), torch.cat(repeated)


def mix(
    real: Tensor,  # [ipc·f², ch, H, W] in [0, 1]: different real images of one class
    factor: int,
) -> Tensor:
    """Grids [ipc, ch, H, W] with one real image, resized (nearest), in every cell: initialisation `mix` (IDC)."""
    count, channels, height, width = real.shape
    rows, columns = cell(height, factor), cell(width, factor)
    small = F.interpolate(real, size=(rows, columns), mode="nearest")
    grid = small.view(count // factor**2, factor, factor, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, factor * rows, factor * columns)[:, :, :height, :width].contiguous()


def noise(n: int, channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Uniform noise [n, ch, H, W] in [0, 1): initialisation `noise`."""
    return torch.rand((n, channels, *size), generator=generator, device=generator.device)


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
