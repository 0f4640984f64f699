"""Looking at a large folder: some images of each class are decoded, and stand for all of the class."""

from __future__ import annotations

import numpy as np
import torch

from attar.data import arrays
from attar.data.cache.mapped import InMemoryStore, Mapped
from attar.data.cache.plan import CachePlan
from attar.data.decoding import SOON_READ, InMemory, decode_all
from attar.data.images import ImageData
from attar.data.pictures import Pictures
from attar.data.reading import Reading
from attar.errors import UserError, counted, log

MANY = 20_000  # images, or as many as are in SOON_READ bytes of files: fewer are decoded in a few seconds
SAMPLE = 2000  # images that are decoded
LEAST = 2  # of each class


def is_large(pictures: Pictures) -> bool:
    """Whether images are so many that a sample says enough, and each can be had without those before it."""
    return pictures.jumps and (pictures.count > MANY or pictures.size_bytes > SOON_READ)


def sampled(plan: CachePlan, reading: Reading) -> ImageData:
    """Data with all labels, and a decoded sample in the place of all images.

    Args:
        plan: all images and their labels.
        reading: what the caller asked for.

    Returns:
        The data. What was not opened is logged.

    Raises:
        UserError: for unreadable images in the sample.
    """
    nclass = len(plan.classes)
    per_class = max(LEAST, SAMPLE // nclass)
    groups = plan.labels + nclass * (np.arange(len(plan.labels)) >= plan.train)  # classes of training, then of test
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups, minlength=2 * nclass)
    taken = np.minimum(counts, per_class)
    starts, slots = (np.cumsum([0, *counts])[:-1], np.cumsum([0, *taken])[:-1])
    of = groups[order]
    stands = np.empty(len(order), np.int64)  # the place in the sample that stands for each image
    stands[order] = slots[of] + (np.arange(len(order)) - starts[of]) % taken[of]
    inner = np.arange(taken.sum()) - np.repeat(slots, taken)
    chosen = order[np.repeat(starts, taken) + inner * np.repeat(counts, taken) // np.repeat(taken, taken)]
    sink, places = InMemory(len(chosen)), np.argsort(chosen)
    try:
        needs, seen = decode_all(plan.pictures.select(chosen[places]), reading, plan.needs, sink)
    except UserError as error:
        raise UserError(f"in a sample of {len(chosen):,} of {plan.pictures.count:,} images: {error}") from error
    seen.say(f"{counted(len(chosen), 'image')} of {plan.name}", needs)
    store = InMemoryStore(sink.images[np.argsort(places)])
    host, marks = torch.device("cpu"), torch.from_numpy(plan.labels)
    train, test = Mapped(store, stands[: plan.train], host), Mapped(store, stands[plan.train :], host)
    mean, std = arrays.statistics(torch.from_numpy(store.images[: taken[:nclass].sum()]))
    data = ImageData.mapped(
        train,
        marks[: plan.train],
        *((test, marks[plan.train :]) if len(test) else (None, None)),
        classes=plan.classes,
        mean=plan.mean or mean,
        std=plan.std or std,
        computed=False,
        name=plan.name,
        fingerprint="",
    )
    data.sampled = per_class
    if needs.size != plan.needs.size:
        data.loaded = {"size": needs.size}
    log.warning(
        "%s: %d images of each class are read and stand for all %s; the other files are not opened, and equal images "
        "are not counted: a run does both, as --skip_bad does here",
        *(plan.name, per_class, f"{plan.pictures.count:,}"),
    )
    return data
