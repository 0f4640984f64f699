"""Images that are equal, pixel for pixel: among training and test images, and in several classes."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attar.data.arrays import CHUNK_VALUES, chunks
from attar.data.cache.mapped import Mapped


def checksums(images: Tensor | Mapped) -> np.ndarray:
    """The checksum of each image, uint32 [N]."""
    if isinstance(images, Mapped):
        return images.checks
    flat = (images[part].cpu().contiguous().numpy().reshape(-1, math.prod(images.shape[1:])) for part in chunks(images))
    return np.fromiter((zlib.crc32(image.data) for part in flat for image in part), np.uint32, len(images))


def stamp(images: Tensor | Mapped, labels: Tensor, known: Sequence[np.ndarray] | None = None) -> str:
    """Twelve digits that stand for images, by their checksums, and for their labels.

    known: the checksums of several parts, of which these images are the last, where they are known.
    """
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(labels.cpu().numpy().tobytes())
    digest.update((checksums(images) if known is None else known[-1]).astype("<u4").tobytes())
    return digest.hexdigest()[:12]


class Equal(NamedTuple):
    """Images that are equal, pixel for pixel.

    test: test images that are among the training images; several: images, of both, that other classes have too;
    classes: two such classes.
    """

    test: int = 0
    several: int = 0
    classes: tuple[int, ...] = ()


def equal_images(
    parts: Sequence[Tensor | Mapped], labels: Sequence[Tensor], sums: Sequence[np.ndarray] | None = None
) -> Equal:
    """Count equal images.

    Args:
        parts: the training images and, where there are some, the test images, uint8 [n, ch, H, W].
        labels: of each part, int64 [n].
        sums: the checksum of each image, uint32 [n], where they are known.

    Returns:
        The counts.
    """
    every = [checksums(part) for part in parts] if sums is None else list(sums)
    _, group, sizes = np.unique(np.concatenate(every), return_inverse=True, return_counts=True)
    likely = np.split(sizes[group] > 1, [len(every[0])])
    classes: dict[bytes, list[int]] = {}  # of the images of one digest
    digests: list[list[bytes]] = []
    for part, known, rows in zip(parts, labels, map(np.flatnonzero, likely), strict=False):
        step = max(1, CHUNK_VALUES // math.prod(part.shape[1:]))
        batches = (part[torch.from_numpy(rows[at : at + step])].cpu().numpy() for at in range(0, len(rows), step))
        digests.append([hashlib.blake2b(image, digest_size=16).digest() for images in batches for image in images])
        for digest, label in zip(digests[-1], known.cpu()[rows].tolist(), strict=True):
            classes.setdefault(digest, []).append(label)
    several = [of_image for of_image in classes.values() if len(set(of_image)) > 1]
    train = set(digests[0])
    return Equal(
        sum(digest in train for part in digests[1:] for digest in part),
        sum(map(len, several)),
        tuple(sorted(set(several[0]))[:2]) if several else (),
    )
