"""The file of a condensed set."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.errors import MissingError, UserError, choose
from attar.files import load_tensors, save_tensors
from attar.sets.decode import DECODE
from attar.sets.synthetic import SyntheticSet

CONDENSED = "condensed.safetensors"
INITIAL = "initial.safetensors"
SET_META = {
    **dict.fromkeys(("classes", "mean", "std"), list),
    **{"factor": int, "decode_type": str, "source": str, "recipe": dict},
}


def save_set(path: Path, small: SyntheticSet) -> None:
    """Write a condensed set: tensors `images` float32 and `labels` int64, everything else as metadata.

    Beside `condensed.safetensors` the initial images, where known, go into `initial.safetensors`.
    """
    if path.name == CONDENSED and small.initial is not None:
        save_set(path.with_name(INITIAL), replace(small, images=small.initial))
    save_tensors(path, {"images": small.images.float(), "labels": small.labels}, "set", describe(small))


def describe(small: SyntheticSet) -> dict[str, Any]:
    """All that is known of a set besides its tensors."""
    return {
        "factor": small.factor,
        "decode_type": small.decode_type,
        "ipc": small.ipc,
        "classes": list(small.classes),
        "mean": list(small.mean),
        "std": list(small.std),
        "source": small.source,
        "recipe": small.recipe,
        "fingerprint": small.fingerprint,
        "method": small.method,
        **({"coreset": small.coreset} if small.coreset else {}),
    }


def load_set(path: Path) -> SyntheticSet:
    """Read a condensed set from its file or its run folder (with its initial images where they lie beside it)."""
    if path.is_dir():
        if not (path / CONDENSED).is_file():
            raise MissingError(f"{path} is no run folder, or its run is not finished: it has no {CONDENSED}")
        path = path / CONDENSED
    tensors, meta = load_tensors(path, "set")
    for key, kind in SET_META.items():
        if not isinstance(meta.get(key), kind):
            raise UserError(f"{path} is no condensed set: its '{key}' is missing or damaged")
    if not {"images", "labels"} <= tensors.keys():
        raise UserError(
            f"{path} is no condensed set: it holds {', '.join(tensors) or 'nothing'}, not images and labels"
        )
    images, labels = tensors["images"], tensors["labels"]
    if not (images.is_floating_point() or images.dtype == torch.uint8) or labels.dtype != torch.int64:
        raise UserError(f"{path} is damaged: images are {images.dtype}, labels {labels.dtype}")
    small = SyntheticSet(
        images=images.float() / 255 if images.dtype == torch.uint8 else images.float(),
        labels=labels.long(),
        factor=meta["factor"],
        decode_type=choose("decode_type", meta["decode_type"], DECODE),
        classes=tuple(meta["classes"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        source=meta["source"],
        initial=_initial(path, images),
        recipe=meta["recipe"],
        fingerprint=str(meta.get("fingerprint", "")),
        coreset=str(meta.get("coreset", "")),
    )
    if not _sound(small):
        raise UserError(f"{path} is damaged: images {list(images.shape)}, labels and classes do not fit each other")
    return small


def _sound(small: SyntheticSet) -> bool:
    images, labels = small.images, small.labels
    if images.dim() != 4 or labels.shape != images.shape[:1] or not images.numel():
        return False
    if not 0 <= float(images.min()) <= float(images.max()) <= 1 or not all(isinstance(n, str) for n in small.classes):
        return False
    if int(labels.min()) < 0 or int(labels.max()) >= small.nclass or not 1 <= small.factor <= min(images.shape[2:]):
        return False
    scale = (*small.mean, *small.std)
    if not all(isinstance(value, float) and math.isfinite(value) for value in scale):
        return False
    return len(small.mean) == len(small.std) == images.shape[1] and all(value > 0 for value in small.std)


def _initial(path: Path, images: Tensor) -> Tensor | None:
    beside = path.with_name(INITIAL)
    if path.name != CONDENSED or not beside.is_file():
        return None
    initial = load_tensors(beside, "set")[0].get("images")
    if initial is None or initial.shape != images.shape or not initial.is_floating_point():
        return None
    return initial.float() if bool(initial.isfinite().all()) else None
