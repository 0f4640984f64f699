"""What the networks of an evaluation are trained on: the condensed images, or the real ones of a yardstick."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Generator, Tensor

from attar.data.cache.mapped import Mapped
from attar.data.images import ImageData
from attar.errors import UserError, counted
from attar.evaluation.protocol import INITIAL, LEARNED, RANDOM_KINDS, RANDOM_SOFT, SOFT, WHOLE
from attar.sets.synthetic import SyntheticSet

LabelledImages = tuple[
    Tensor | Mapped, Tensor
]  # uint8, or float in [0, 1], [n, ch, H, W]; labels int64 [n] or float [n, C]


def training_set(kind: str, condensed: SyntheticSet, data: ImageData, seed: int) -> LabelledImages:
    """The images and labels of one kind of training set, on the device of `data`.

    Condensed and initial images are decoded floats, real images are uint8. `seed` draws the random real images.
    """
    if kind == WHOLE:
        return data.images, data.labels
    if kind in RANDOM_KINDS:
        return random_real(data, condensed, seed)
    images, labels = (condensed.start() if kind == INITIAL else condensed).decoded()
    soft = {SOFT: condensed.soft_labels, LEARNED: condensed.learned_labels}.get(kind)
    labels = labels if soft is None else soft
    return images.to(data.device), labels.to(data.device)


def random_real(data: ImageData, condensed: SyntheticSet, seed: int) -> tuple[Tensor, Tensor]:
    """Random full-size real images, as many of each class as the set stores: the yardstick of equal storage.

    Raises `UserError` for a class that has fewer images than the set stores of it.
    """
    generator = Generator(data.device).manual_seed(seed)
    drawn = []
    for label, count in enumerate(torch.bincount(condensed.labels, minlength=data.nclass).tolist()):
        rows = data.rows(label)
        if count > len(rows):
            there = counted(len(rows), "image")
            raise UserError(f"class '{data.classes[label]}' has {there}, fewer than the set's {count}")
        drawn.append(rows[torch.randperm(len(rows), generator=generator, device=data.device)[:count]])
    selected = torch.cat(drawn)
    return data.images[selected], data.labels[selected]


def fingerprint(kind: str, condensed: SyntheticSet) -> str:
    """A digest of all that decides a training set, except the real data and the seed."""
    digest = hashlib.sha256(kind.encode())
    if kind != WHOLE:
        digest.update(condensed.labels.cpu().numpy().tobytes())
    if kind in (LEARNED, SOFT, RANDOM_SOFT):
        soft = condensed.learned_labels if kind == LEARNED else condensed.soft_labels
        digest.update(repr(condensed.lr).encode() + (b"" if soft is None else soft.cpu().numpy().tobytes()))
    if kind not in (WHOLE, *RANDOM_KINDS):
        images = condensed.start().images if kind == INITIAL else condensed.images
        digest.update(images.cpu().numpy().tobytes())
        digest.update(json.dumps([condensed.factor, condensed.decode_type, list(images.shape)]).encode())
    return digest.hexdigest()
