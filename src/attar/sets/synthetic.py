"""The synthetic set: stored images, and the training images that they decode to (IDC section 4, see `decode`)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageShow
from torch import Generator, Tensor

from attar.data.torch_dataset import ImageDataset
from attar.errors import UserError
from attar.sets.decode import decode_set
from attar.sets.pictures import grid
from attar.settings.choices import strategy_names
from attar.training.augment import apply
from attar.training.draws import draw

NOTEBOOK_CLASSES = 20  # of a set that a notebook shows


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A condensed data set: what `attar.condense` and `attar.select` return and `attar.load_set` reads.

    Attributes:
        images: as stored, float32 [N, ch, H, W] in units of [0, 1], see `space`.
        labels: int64 [N].
        factor: a stored image is a grid of factor × factor training images.
        decode_type: how stored images become training images: "single", "multi" or "bound".
        classes: the names of all classes of the data set.
        mean, std: per channel, of images in [0, 1].
        source: the name of the real data set.
        initial: the images before any optimisation, float32 [N, ch, H, W], or None where they are not known.
        recipe: the settings that made the set, by section.
        fingerprint: a digest of the real images; empty where it is not known.
        coreset: how real images were selected, such as "herding"; empty for synthetic images.
        space: the pixels that were optimised: "unit" ([0, 1]), "unbounded" (by mean and std) or "zca" (whitened).
            Images are in units of [0, 1] in any case, and only the first do not leave it.
        soft_labels: class probabilities of each training image, float32 [n, C], in the order of `decoded`: learned with
            the images, or those of a teacher; None where there are none.
        teacher: what labelled the training images: network, pool, temperature and its accuracy; else empty.
        lr: the learning rate that was learned with the images, for training on them; None where none was.
        folder: the run folder that the set was read from or written to, if any.
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
    space: str = "unit"
    soft_labels: Tensor | None = None
    teacher: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    folder: Path | None = None

    @property
    def nclass(self) -> int:
        """Number of classes of the data set, of which a part holds only some."""
        return len(self.classes)

    @property
    def method(self) -> str:
        """The method that made the set, or "unknown"."""
        if self.coreset:
            return self.coreset
        return str(self.recipe.get("condense", {}).get("method", "accdd")) if self.recipe else "unknown"

    @property
    def has_learned(self) -> bool:
        """Whether more than images was learned: labels, or the learning rate for training on them."""
        return self.lr is not None or self.learned_labels is not None

    @property
    def learned_labels(self) -> Tensor | None:
        """The soft labels that were learned with the images; None where there are none, or a teacher's."""
        return None if self.teacher else self.soft_labels

    @property
    def ipc(self) -> int:
        """Stored images per class."""
        return int(torch.bincount(self.labels).max())

    def decoded(self) -> tuple[Tensor, Tensor]:
        """The training images float32 [n, ch, H, W] in units of [0, 1] and their labels int64 [n].

        Example:
            images, labels = small.decoded()
        """
        return decode_set(self.images, self.labels, self.factor, self.decode_type)

    def normalize(self, images: Tensor) -> Tensor:
        """(images − mean) / std, per channel. Raises `UserError` for a set in ZCA space, which the real data whiten."""
        if self.space == "zca":
            raise UserError("this set is in ZCA space: take normalized=False, and attar.load(…, zca=True).normalize")
        mean, std = (images.new_tensor(value).view(-1, 1, 1) for value in (self.mean, self.std))
        return (images - mean) / std

    def dataset(self, transform: Callable[[Tensor], Any] | None = None, *, normalized: bool = True) -> ImageDataset:
        """The decoded images as a torch `Dataset`.

        Args:
            transform: called with each image, float32 [ch, H, W].
            normalized: normalise the images per channel, as for training; else they are in units of [0, 1].

        Returns:
            Pairs of an image and an int, with `classes`, `class_to_idx` and `targets` as torchvision's data sets have.

        Example:
            loader = torch.utils.data.DataLoader(small.dataset(), batch_size=10, shuffle=True)
        """
        images, labels = self.decoded()
        return ImageDataset(self.normalize(images) if normalized else images, labels, self.classes, transform=transform)

    def loader(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = True,
        device: str | torch.device = "cpu",
        augment: str | None = None,
        normalized: bool = True,
        soft: bool = False,
        seed: int = 0,
    ) -> Loader:
        """Batches of decoded images [n, ch, H, W] and labels [n]; all images stay on one device.

        Args:
            batch_size: images per batch; the last batch may be smaller.
            shuffle: a new random order in every epoch.
            device: where images and labels are kept, and augmentation is computed.
            augment: a strategy such as "color_crop_flip_scale_rotate", drawn again for each image and epoch.
            normalized: normalise the images per channel, as for training; else they are in units of [0, 1].
            soft: give the set's soft labels, float32 [n, C], in place of classes.
            seed: of order and augmentation.

        Returns:
            An iterable; each iteration over it is one epoch.

        Raises:
            UserError: for an unknown strategy, augmented images not normalised, and soft labels that are not there.

        Example:
            for images, labels in small.loader(batch_size=10, augment="crop_flip"):
                loss = torch.nn.functional.cross_entropy(network(images), labels)
        """
        if augment is not None and not normalized:
            raise UserError("augmentation works on normalised images; leave normalized=False or augment out")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        images, labels = self.decoded()
        if soft:
            if self.soft_labels is None:
                raise UserError("this set has no soft labels: attar label RUN makes them")
            labels = self.soft_labels
        images = self.normalize(images) if normalized else images
        strategy = strategy_names(augment or "none")
        generator = Generator(device).manual_seed(seed)
        return Loader(images.to(device), labels.to(device), batch_size, shuffle, strategy, generator)

    def picture(self) -> Image.Image:
        """The first stored images of each class, with the names of the classes, as a Pillow image.

        Example:
            small.picture().save("small.png")
        """
        return grid(self.images, self.labels, self.classes)

    def show(self) -> None:
        """Open the picture in the system's viewer. Raises `UserError` where there is none."""
        if not ImageShow.show(self.picture(), repr(self)):
            raise UserError("no program that shows pictures was found; picture().save('set.png') keeps one")

    def save(self, path: str | Path) -> None:
        """Write the set to a file, see `attar.save_set`; `attar.load_set` reads it."""
        from attar.sets.set_files import save_set

        save_set(path, self)

    def push(self, name: str, *, what: str | None = None, private: bool = False) -> str:
        """Upload the set to the Hugging Face hub, see `attar.push_set`; returns its address."""
        from attar.sets.push import push_set

        return push_set(self, name, what=what, private=private)

    def _repr_html_(self) -> str:
        """The picture, of the first classes that have images, for notebooks."""
        few = torch.isin(self.labels, self.labels.unique()[:NOTEBOOK_CLASSES])
        file = io.BytesIO()
        grid(self.images[few], self.labels[few], self.classes).save(file, format="PNG")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        return f'<div>{html.escape(repr(self))}</div><img alt="the images by class" src="{source}">'

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        kind = f"factor {self.factor}" + (f", {self.decode_type}" if self.decode_type != "single" else "")
        return f"SyntheticSet({self.source}: {len(self.labels)} images of {shape}, {self.nclass} classes, {kind})"

    def start(self) -> SyntheticSet:
        """The set as it was before it was optimised. Raises `UserError` where its initial images are not known."""
        if self.initial is None:
            raise UserError("this set does not hold its initial images")
        return replace(self.with_hard_labels(), images=self.initial)

    def with_hard_labels(self) -> SyntheticSet:
        """The set without soft labels and a learning rate that was learned, which belong to exactly these images."""
        return replace(self, lr=None, soft_labels=None, teacher={})


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of images and labels from one device, without copies between devices; see `SyntheticSet.loader`."""

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
                images = apply(images, draw(self.strategy, len(rows), _side(images), self.generator, batch=len(rows)))
            yield images, self.labels[rows]


def _side(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
