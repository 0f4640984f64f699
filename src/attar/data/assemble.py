"""From the splits of any source to ImageData: which split is tested on, which class a label is, one shape for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from attar.data import arrays, sample, splits
from attar.data.cache.load import Cached, read_whole
from attar.data.cache.load import find as find_cached
from attar.data.cache.load import load as load_cached
from attar.data.cache.plan import CachePlan
from attar.data.classes import to_classes
from attar.data.decode import Needs
from attar.data.decoding import InMemory, Seen, decode_all
from attar.data.images import ImageData
from attar.data.labels import UNLABELLED, Labels
from attar.data.pictures import Pictures, join
from attar.data.reading import EXAMPLES_LISTED, Reading
from attar.errors import UserError, log

CACHE_FROM = 16 << 20  # bytes of image files in a folder: reading fewer takes a second or two and little memory
MAPPED_FROM = 1 << 30  # bytes of decoded images of a table that stay in their file


@dataclass(frozen=True)
class Split:
    """One split of a source: images that are to be decoded, or uint8 [n, ch, H, W]; and their labels [n].

    groups: the split that each image says it belongs to [n], where a table has a column of splits.
    """

    images: Pictures | np.ndarray
    labels: Labels
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.count != len(self.labels):
            raise UserError(f"{self.count:,} images, but {len(self.labels):,} labels; give one label for each image")

    @property
    def count(self) -> int:
        """How many images."""
        return self.images.count if isinstance(self.images, Pictures) else len(self.images)

    def select(self, rows: np.ndarray) -> Pictures | np.ndarray:
        """The images of these rows (int64 [n], ascending)."""
        if isinstance(self.images, Pictures):
            return self.images.select(rows)
        return self.images if len(rows) == self.count else self.images[rows]

    def by_group(self) -> dict[str, Split]:
        """The splits that it is made of."""
        assert self.groups is not None
        rows = {name: np.flatnonzero(np.asarray(self.groups) == name) for name in dict.fromkeys(self.groups)}
        return {name: Split(self.select(chosen), self.labels.select(chosen)) for name, chosen in rows.items()}


@dataclass(frozen=True)
class About:
    """What is known of a source besides its splits.

    name: of the data set; origin: where it is, which tells its cache from others; kept: whether images go to a cache
    however few they are; classes: where the source fixes them and their order; channels, mean, std: likewise.
    """

    name: str
    origin: str = ""
    kept: bool = False
    classes: tuple[str, ...] | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def assemble(parts: Mapping[str, Split], about: About, reading: Reading) -> ImageData:
    """ImageData of the training split, and of the split that is tested on.

    Args:
        parts: the splits by name, in any case; a single one is for training.
        about: what is known besides.
        reading: what the caller asked for.

    Returns:
        The data, with what was not used in `left_out`, which is logged in one line.

    Raises:
        UserError: for labels and images that cannot be used.
    """
    name, only = about.name, next(iter(parts.values()))
    if len(parts) == 1 and only.groups is not None:
        parts = only.by_group()
    train, test = _halves(parts, name, reading)
    held_labels = None if test is None else parts[test].labels
    own, held, classes = to_classes(parts[train].labels, held_labels, name)
    if about.classes is not None and about.classes != classes:
        own, held, classes = _in_order(own, held, classes, about.classes)
    if reading.nclass is not None:
        arrays.check_nclass(reading.nclass, len(classes), name)
        classes = classes[: reading.nclass]
    if len(classes) < 2:
        raise UserError(f"at least 2 classes are needed, and {name} has {len(classes)}: {', '.join(classes)}")
    chosen = {train: own} if test is None or held is None else {train: own, test: held}
    pieces, marks = [], []
    for key, places in chosen.items():
        reading.left_out.add(f"images of {key} without a label", count=int((places == UNLABELLED).sum()))
        rows = np.flatnonzero((places != UNLABELLED) & (places < len(classes)))
        if len(rows):
            pieces.append(parts[key].select(rows))
            marks.append(places[rows])
    if not len(marks) or not (own[own != UNLABELLED] >= 0).any():
        raise UserError(f"{name} has no training images with a label")
    data = _decoded(pieces, marks, replace(about, classes=tuple(classes)), reading)
    data.left_out = reading.left_out
    reading.left_out.say(name)
    return data


def _halves(parts: Mapping[str, Split], name: str, reading: Reading) -> tuple[str, str | None]:
    """The names of the training split and of the first other one whose images have labels."""
    train, tests = splits.choose(list(parts), name)
    test = next((key for key in tests if parts[key].labels.present.any()), None)
    for key, part in parts.items():
        if key in (train, test):
            continue
        unlabelled = key in tests and not part.labels.present.any()
        reading.left_out.add(
            f"images of the split {key}" + (", which have no labels" if unlabelled else ""), count=part.count
        )
    return train, test


def _in_order(
    own: np.ndarray, held: np.ndarray | None, classes: tuple[str, ...], order: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The same for classes in the order of the source."""
    order = tuple(name for name in order if name in classes)
    new = np.asarray([*(order.index(name) for name in classes), UNLABELLED])
    return new[own], None if held is None else new[held], order


def _decoded(pieces: list[Pictures | np.ndarray], marks: list[np.ndarray], about: About, reading: Reading) -> ImageData:
    if all(isinstance(piece, Pictures) for piece in pieces):
        return _from_pictures([piece for piece in pieces if isinstance(piece, Pictures)], marks, about, reading)
    ready = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    assert len(ready) == len(pieces)  # a source gives one kind
    if len({len(images[0]) for images in ready}) > 1:  # grey ones beside colour ones
        ready = [images.repeat(3, 1) if images.shape[1] == 1 else images for images in ready]
    tests = (ready[1], marks[1]) if len(ready) > 1 else (None, None)
    return ImageData(ready[0], marks[0], *tests, classes=about.classes, name=about.name, channels="first")


def _from_pictures(pieces: list[Pictures], marks: list[np.ndarray], about: About, reading: Reading) -> ImageData:
    assert about.classes is not None
    pictures = join(pieces)
    plan = CachePlan(
        name=about.name,
        origin=about.origin,
        classes=about.classes,
        labels=np.concatenate(marks),
        train=len(marks[0]),
        pictures=pictures,
        needs=Needs(about.channels, reading.size),
        largest_side=reading.largest_side,
        skip_bad=reading.skip_bad,
        mean=about.mean,
        std=about.std,
    )
    large = about.kept or reading.root is not None or pictures.size_bytes >= CACHE_FROM
    if reading.sample and not reading.skip_bad and sample.is_large(pictures) and find_cached(plan, reading) is None:
        return sample.sampled(plan, reading)
    if pictures.stamp is None or reading.memory or not large:
        sink = InMemory(pictures.count)
        needs, seen = decode_all(pictures, reading, plan.needs, sink)
        return _finished(sink.images, plan, needs, seen, reading)
    cached = load_cached(plan, reading)
    if not about.kept or reading.root is not None or cached.store.images.nbytes >= MAPPED_FROM:
        return _mapped(cached, plan, reading)
    whole = read_whole(cached)
    if whole is None:
        cached.store.manifest.unlink(missing_ok=True)
        log.warning("the cache of %s is damaged, and is built anew", about.name)
        return _from_pictures(pieces, marks, about, reading)
    return _finished(whole, plan, cached.needs, cached.seen, reading, cached)


def _rows(plan: CachePlan, seen: Seen, needs: Needs, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the readable training and test images. Logs what was seen, and refuses a class without images."""
    seen.say(plan.name, needs)
    for row in seen.bad[:EXAMPLES_LISTED]:
        reading.left_out.add("unreadable images", next(plan.pictures.items(row))[0])
    reading.left_out.add("unreadable images", count=len(seen.bad[EXAMPLES_LISTED:]))
    readable = np.delete(np.arange(len(plan.labels)), seen.bad)
    train, test = readable[readable < plan.train], readable[readable >= plan.train]
    lost = np.flatnonzero(np.bincount(plan.labels[train], minlength=len(plan.classes)) == 0).tolist()
    if lost:
        raise UserError(f"the class '{plan.classes[lost[0]]}' of {plan.name} has no readable training images")
    return train, test


def _finished(
    images: np.ndarray,
    plan: CachePlan,
    needs: Needs,
    seen: Seen,
    reading: Reading,
    known: Cached | None = None,
) -> ImageData:
    train, test = _rows(plan, seen, needs, reading)
    whole = torch.from_numpy(images)
    halves = [whole[: plan.train], whole[plan.train :]] if not seen.bad else [whole[train], whole[test]]
    marks = torch.from_numpy(plan.labels)
    tests = (halves[1], marks[test]) if len(test) else (None, None)
    mean, std = (plan.mean, plan.std) if known is None else (known.mean, known.std)
    data = ImageData(
        halves[0], marks[train], *tests, classes=plan.classes, mean=mean, std=std, name=plan.name, channels="first"
    )
    if known is not None:
        data.fingerprint, data._computed = known.fingerprint, plan.mean is None
        data.checksums = (known.store.checks[train], known.store.checks[test])
    return _sized(data, plan, needs)


def _mapped(cached: Cached, plan: CachePlan, reading: Reading) -> ImageData:
    train, test = _rows(plan, cached.seen, cached.needs, reading)
    marks = torch.from_numpy(plan.labels)
    data = ImageData.mapped(
        cached.rows(train),
        marks[train],
        cached.rows(test) if len(test) else None,
        marks[test] if len(test) else None,
        classes=plan.classes,
        mean=cached.mean,
        std=cached.std,
        computed=plan.mean is None,
        name=plan.name,
        fingerprint=cached.fingerprint,
    )
    return _sized(data, plan, cached.needs)


def _sized(data: ImageData, plan: CachePlan, needs: Needs) -> ImageData:
    if needs.size != plan.needs.size:
        data.loaded = {"size": needs.size}
    return data


def origin_of(path: Path) -> str:
    """What stands for a place on disk."""
    return str(path.resolve())
