"""Real images: one uint8 tensor on the device, or a file that rows are gathered from, with the rows of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.data import arrays
from attar.data.cache.mapped import Mapped, chosen
from attar.data.equal import Equal, equal_images, stamp
from attar.data.reading import LeftOut
from attar.data.torch_dataset import ImageDataset
from attar.data.whitening import Whitening, fitted
from attar.errors import UserError

TEST_PIXELS = 1 << 22  # of a batch of test images, at most
TEST, HELD_OUT = "test images", "held-out training images"  # what accuracies are measured on


class ImageData:
    """Labelled images of one shape. Treat it as immutable: every method that changes something returns a new object.

    Args:
        images, test_images: uint8, or float in [0, 1] (rounded to uint8); [N, H, W], [N, ch, H, W] or [N, H, W, ch].
            Contiguous uint8 in [N, ch, H, W] on the device is kept, not copied: do not write to it afterwards.
        labels, test_labels: integers 0..C-1, [N]. Every class needs a training image; the test set may lack classes.
        classes: names in label order, default "0", "1", ...
        mean, std: per channel, in units of [0, 1]; computed from the training images when not given.
        name: of the data set, in the names of folders and in reports.
        channels: "first" or "last"; without it the axis of length 1, 3 or 4; a shape that does not tell is refused.

    Raises:
        UserError: for other shapes, types or ranges, a class without images, or fewer than two classes.

    Example:
        data = attar.ImageData(images, labels, test_images, test_labels, classes=["cat", "dog"])
    """

    images: Tensor | Mapped  # uint8 [N, ch, H, W]
    labels: Tensor  # int64 [N]
    test_images: Tensor | Mapped | None  # uint8 [M, ch, H, W]
    test_labels: Tensor | None  # int64 [M]
    whitening: Whitening | None = None  # in place of mean and std, see `whitened`
    tested_on: str = TEST  # what the test images are
    left_out: LeftOut  # what the source holds besides
    checksums: tuple[np.ndarray, np.ndarray] | None = None  # of training and test images, where they are known
    loaded: Mapping[str, Any] = {}  # the settings of [data] that read them again, other than defaults
    _of_both = False  # mean and std are those of training and test images: a split of them
    sampled: int | None = None  # so many images of each class were decoded, and stand for all: `attar inspect`

    def __init__(
        self,
        images: arrays.Array,
        labels: arrays.Array | Sequence[int],
        test_images: arrays.Array | None = None,
        test_labels: arrays.Array | Sequence[int] | None = None,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "custom",
        device: str | torch.device = "cpu",
        channels: str | None = None,
    ) -> None:
        where = arrays.usable_device(device)
        if (test_images is None) != (test_labels is None):
            raise UserError("test_images and test_labels go together: give both or neither")
        if (mean is None) != (std is None):
            raise UserError("mean and std go together: give both or neither")
        pixels = arrays.pixels(images, "images", where, channels)
        host = arrays.integers(labels, "labels", len(pixels))
        names = arrays.class_names(host, classes)
        test_pixels = test_host = None
        if test_images is not None and test_labels is not None:
            test_pixels = arrays.pixels(test_images, "test_images", where, channels)
            test_host = arrays.integers(test_labels, "test_labels", len(test_pixels))
            arrays.check_range(test_host, "test_labels", len(names))
            shape, test_shape = list(pixels.shape[1:]), list(test_pixels.shape[1:])
            if shape != test_shape:
                raise UserError(f"training and test images must have one [ch, H, W], found {shape} and {test_shape}")
        if mean is not None and std is not None:
            count = pixels.shape[1]
            mean, std = arrays.per_channel(mean, "mean", count), arrays.per_channel(std, "std", count)
            arrays.check_positive(std)
        self._fill(pixels, host, test_pixels, test_host, names, mean, std, name)

    @classmethod
    def mapped(
        cls,
        images: Mapped,
        labels: Tensor,
        test_images: Mapped | None,
        test_labels: Tensor | None,
        *,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        computed: bool,
        name: str,
        fingerprint: str,
    ) -> ImageData:
        """Images that stay in a file; `computed`: mean and std are those of the images, not constants."""
        new = cls.__new__(cls)
        new._fill(images, labels, test_images, test_labels, arrays.class_names(labels, classes), mean, std, name)
        new._computed, new.fingerprint = computed, fingerprint
        return new

    def _fill(
        self,
        images: Tensor | Mapped,
        labels: Tensor,
        test_images: Tensor | Mapped | None,
        test_labels: Tensor | None,
        classes: tuple[str, ...],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        name: str,
    ) -> None:
        """Take over checked values, the images being where they shall live, and derive the rest from them."""
        where, host = images.device, labels.cpu()
        self.images, self.test_images, self.left_out = images, test_images, LeftOut()
        self.labels, self.test_labels = labels.to(where), None if test_labels is None else test_labels.to(where)
        self.classes, self.name = classes, name
        self._rows = [rows.to(where) for rows in host.argsort(stable=True).split(host.bincount().tolist())]
        self._computed = mean is None or std is None
        if mean is None or std is None:
            mean, std = arrays.statistics(images)
        self.mean, self.std = tuple(mean), tuple(std)
        self._constants = arrays.constants(self.mean, self.std, torch.float32, where)

    @property
    def nclass(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """Channels of an image: 1 where it is grey."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def space(self) -> str:
        """The space that networks see the images in: "zca", or "unit" where they are normalised per channel."""
        return "unit" if self.whitening is None else "zca"

    @property
    def counts(self) -> list[int]:
        """Training images per class."""
        return [len(rows) for rows in self._rows]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that stand for the training images, their labels and the names of the classes."""
        return "" if self.sampled else arrays.fingerprint(self.images, self.labels, self.classes)

    @cached_property
    def test_fingerprint(self) -> str:
        """The same for the test images and their labels; empty where there are none, and for a sample."""
        return "" if self.sampled or self.test_images is None else stamp(*self._tests(), self.checksums)

    @cached_property
    def equal(self) -> Equal:
        """Images that are equal, pixel for pixel; none are looked for in a sample."""
        test = [] if self.test_images is None else [self._tests()]
        images, labels = zip((self.images, self.labels), *test, strict=True)
        return Equal() if self.sampled else equal_images(images, labels, self.checksums if test else None)

    def rows(self, c: int) -> Tensor:
        """Rows of the training images of class c, ascending, int64 [n_c] on the device."""
        return self._rows[c]

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / std per channel for float x [..., ch, H, W] in [0, 1], or ZCA; keeps dtype and device of x."""
        if self.whitening is not None:
            return self.whitening(x)
        mean, std = self._constants
        if x.dtype != mean.dtype or x.device != mean.device:
            mean, std = arrays.constants(self.mean, self.std, x.dtype, x.device)
        return (x - mean) / std

    def fetch(self, rows: Tensor) -> Tensor:
        """Training images of these rows (int64 [n], as `rows` gives them), normalised, float32 [n, ch, H, W]."""
        return self.scaled(self.images[rows])

    def scaled(self, images: Tensor) -> Tensor:
        """uint8 images as `fetch` gives them."""
        return self.normalize(images.to(torch.float32).div_(255))

    def test_batches(self, batch: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images float32 [n, ch, H, W] and their labels int64 [n], `batch` or fewer at a time."""
        test_images, test_labels = self._tests()
        batch = max(1, min(batch, TEST_PIXELS // (self.size[0] * self.size[1])))
        for images, labels in zip(test_images.split(batch), test_labels.split(batch), strict=True):
            yield self.scaled(images), labels

    def test_dataset(self, transform: Callable[[Tensor], Any] | None = None) -> ImageDataset:
        """The test images as a torch `Dataset`, see `SyntheticSet.dataset`. Raises `UserError` where there are none."""
        return ImageDataset(*self._tests(), self.classes, normalize=self.normalize, transform=transform)

    def _tests(self) -> tuple[Tensor | Mapped, Tensor]:
        if self.test_images is None or self.test_labels is None:
            raise UserError(f"{self.name} has no test images; put them in a folder test/<class>/* beside train/")
        return self.test_images, self.test_labels

    def to(self, device: str | torch.device) -> ImageData:
        """The same data on another device; itself when it is there already."""
        where = arrays.usable_device(device)
        if where == self.device:
            return self
        test = None if self.test_images is None else self.test_images.to(where)
        moved = self._with({"device": str(where)}, rescale=False, images=self.images.to(where), test_images=test)
        vars(moved).update({name: value for name, value in vars(self).items() if "fingerprint" in name})
        return moved

    def subset(self, nclass: int) -> ImageData:
        """The first nclass classes, two or more. Mean and std, if computed, are those of what remains, as in `load`."""
        arrays.check_nclass(nclass, self.nclass, self.name)
        if nclass == self.nclass:
            return self
        keep = torch.nonzero(self.labels < nclass).squeeze(1)
        changes: dict[str, Any] = {"images": chosen(self.images, keep), "labels": self.labels[keep]}
        if self.test_images is not None and self.test_labels is not None:
            keep = torch.nonzero(self.test_labels < nclass).squeeze(1)
            kept = (chosen(self.test_images, keep), self.test_labels[keep]) if len(keep) else (None, None)
            changes |= dict(zip(("test_images", "test_labels"), kept, strict=True))
        return self._with({"nclass": nclass}, classes=self.classes[:nclass], **changes)

    def resized(self, size: int) -> ImageData:
        """Short side resized to `size` pixels (bilinear, antialiased), then the centre size x size."""
        arrays.check_size(size)
        if self.size == (size, size):
            return self
        test = None if self.test_images is None else arrays.resample(self.test_images, size)
        return self._with({"size": size}, images=arrays.resample(self.images, size), test_images=test)

    def holdout(self, fraction: float, seed: int) -> ImageData:
        """Data tested on a stratified part of the training images, at the same mean and std, not on the real test set.

        `fraction` of each class, inside (0, 1), which `seed` draws. Raises `UserError` for a class with a single image.
        """
        arrays.check_holdout(fraction, self.counts, self.classes)
        return self.split(*arrays.stratified(self.labels.cpu(), fraction, seed), HELD_OUT)

    def untested(self) -> ImageData:
        """The training images alone, without test images."""
        new = self._with(rescale=False, test_images=None, test_labels=None)
        new.fingerprint = self.fingerprint
        return new

    def at_scale(self, mean: Sequence[float], std: Sequence[float]) -> ImageData:
        """The same images, normalised by these mean and std of each channel."""
        return self._with(rescale=False, mean=mean, std=std)

    def whitened(self) -> ImageData:
        """The same images, which `normalize` whitens by ZCA. Raises UserError for images that are too large."""
        new = self._with({"zca": True})
        new.whitening = fitted(self.images, self.name)
        return new

    def split(self, kept: Tensor, out: Tensor, tested_on: str = "") -> ImageData:
        """The training images `kept`, tested on the training images `out` (rows, int64); mean and std stay."""
        kept, out = kept.to(self.device), out.to(self.device)
        changes: dict[str, Any] = {"images": chosen(self.images, kept), "labels": self.labels[kept]}
        changes |= {"test_images": chosen(self.images, out), "test_labels": self.labels[out]}
        new = self._with(rescale=False, **changes)
        new.tested_on, new._of_both = tested_on or self.tested_on, True
        return new

    def _with(self, loaded: Mapping[str, Any] | None = None, *, rescale: bool = True, **changes: Any) -> ImageData:
        names = ("images", "labels", "test_images", "test_labels", "classes", "name", "mean", "std")
        values = {name: getattr(self, name) for name in names} | changes
        if rescale and self._computed:
            both = [values["test_images"]] if self._of_both and values["test_images"] is not None else []
            values["mean"], values["std"] = arrays.statistics(values["images"], *both)
        new = ImageData.__new__(ImageData)
        new._fill(**values)
        new._computed, new._of_both, new.sampled = self._computed, self._of_both, self.sampled
        new.tested_on, new.left_out, new.loaded = self.tested_on, self.left_out, {**self.loaded, **(loaded or {})}
        if self.whitening is not None:
            new.whitening = self.whitening.to(new.device) if not rescale else fitted(new.images, new.name)
        return new

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        test = 0 if self.test_labels is None else len(self.test_labels)
        return f"ImageData({self.name}: {len(self.images)} + {test} test images of {shape}, {self.nclass} classes)"
