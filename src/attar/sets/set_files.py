"""Reading and writing the file of a condensed set."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from attar.errors import MissingError, UserError, choose
from attar.files import load_tensors, save_tensors
from attar.sets.decode import DECODE, decoded_count
from attar.sets.synthetic import SyntheticSet

CONDENSED = "condensed.safetensors"
INITIAL = "initial.safetensors"
SPACES = ("unit", "unbounded", "zca")  # of `SyntheticSet.space`
TEMPERATURES = (0.001, 1000.0)  # of a teacher: beyond them numbers overflow
METADATA_TYPES = {
    **dict.fromkeys(("classes", "mean", "std"), list),
    **{"factor": int, "decode_type": str, "source": str, "recipe": dict},
}


def save_set(path: str | Path, condensed: SyntheticSet) -> None:
    """Write a condensed set to a safetensors file, the rest of it as metadata.

    Its tensors are `images` float32, `labels` int64 and, where there are some, `soft_labels` float32.

    Args:
        path: the file, which is replaced atomically. Beside a file named `condensed.safetensors` the initial images,
            if the set knows them, are written to `initial.safetensors`; else such a file is removed.
        condensed: the set.

    Raises:
        WriteError: where the file cannot be written.

    Example:
        attar.save_set("small.safetensors", small)
        small = attar.load_set("small.safetensors")
    """
    path = Path(path)
    kept = condensed.initial if path.name == CONDENSED else None
    if kept is not None:
        save_set(path.with_name(INITIAL), condensed.start())
    tensors = {"images": condensed.images.float(), "labels": condensed.labels}
    if condensed.soft_labels is not None:
        tensors["soft_labels"] = condensed.soft_labels.float()
    save_tensors(path, tensors, "set", describe(condensed) | {"initial": "" if kept is None else digest(kept)})
    if path.name == CONDENSED and kept is None:
        with suppress(OSError):  # nor would one be read that stays
            path.with_name(INITIAL).unlink()


def digest(images: Tensor) -> str:
    """Twelve digits that stand for images as they are stored."""
    values = images.detach().float().cpu().contiguous().numpy()
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()[:12]


def describe(condensed: SyntheticSet) -> dict[str, Any]:
    """The metadata of a set: everything but its tensors."""
    return {
        "factor": condensed.factor,
        "decode_type": condensed.decode_type,
        "ipc": condensed.ipc,
        "classes": list(condensed.classes),
        "mean": list(condensed.mean),
        "std": list(condensed.std),
        "source": condensed.source,
        "recipe": condensed.recipe,
        "fingerprint": condensed.fingerprint,
        "method": condensed.method,
        **({"coreset": condensed.coreset} if condensed.coreset else {}),
        **({"space": condensed.space} if condensed.space != SPACES[0] else {}),
        **({"teacher": condensed.teacher} if condensed.teacher else {}),
        **({"lr": condensed.lr} if condensed.lr is not None else {}),
    }


def load_set(path: str | Path) -> SyntheticSet:
    """Read a condensed set.

    Args:
        path: its file, or its run folder.

    Returns:
        The set, with its initial images where those are in `initial.safetensors` beside `condensed.safetensors`.

    Raises:
        MissingError: where the file is missing, or the run is not finished.
        UserError: where the file is damaged, or is no condensed set.

    Example:
        small = attar.load_set("runs/mine")
    """
    path = Path(path)
    if not path.exists():
        raise MissingError(f"there is no run folder or file {path}")
    if path.is_dir():
        if not (path / CONDENSED).is_file():
            goes_on = f"; attar condense --resume {path} finishes it" if (path / "config.json").is_file() else ""
            raise MissingError(f"{path} is no run folder, or its run is not finished: it has no {CONDENSED}{goes_on}")
        path = path / CONDENSED
    mapped, meta = load_tensors(path, "set")
    tensors = {name: value.clone() for name, value in mapped.items()}
    for key, expected in METADATA_TYPES.items():
        if not isinstance(meta.get(key), expected):
            raise UserError(f"{path} is no condensed set: its '{key}' is missing or damaged")
    if not {"images", "labels"} <= tensors.keys():
        raise UserError(
            f"{path} is no condensed set: it holds {', '.join(tensors) or 'nothing'}, not images and labels"
        )
    images, labels = tensors["images"], tensors["labels"]
    if not (images.is_floating_point() or images.dtype == torch.uint8) or labels.dtype != torch.int64:
        raise UserError(f"{path} is damaged: images are {images.dtype}, labels {labels.dtype}")
    condensed = SyntheticSet(
        images=images.float() / 255 if images.dtype == torch.uint8 else images.float(),
        labels=labels.long(),
        factor=meta["factor"],
        decode_type=choose("decode_type", meta["decode_type"], DECODE),
        classes=tuple(meta["classes"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        source=meta["source"],
        initial=_initial(path, images, meta.get("initial")),
        recipe=meta["recipe"],
        fingerprint=str(meta.get("fingerprint", "")),
        coreset=str(meta.get("coreset", "")),
        space=choose("space", meta.get("space", SPACES[0]), SPACES),
        soft_labels=tensors.get("soft_labels"),
        teacher=meta.get("teacher", {}),
        lr=meta.get("lr"),
        folder=path.parent if path.name == CONDENSED else None,
    )
    if not _is_sound(condensed):
        raise UserError(f"{path} is damaged: images {list(images.shape)}, labels and classes do not fit each other")
    return condensed


def as_set(condensed: SyntheticSet | str | Path) -> SyntheticSet:
    """The set itself, or the one in a file or run folder."""
    return condensed if isinstance(condensed, SyntheticSet) else load_set(condensed)


def _is_sound(condensed: SyntheticSet) -> bool:
    """Whether shapes, labels, classes, factor and normalisation fit each other, and all values are in range."""
    images, labels = condensed.images, condensed.labels
    if images.dim() != 4 or labels.shape != images.shape[:1] or not images.numel():
        return False
    clamped = condensed.space == SPACES[0]
    in_range = 0 <= float(images.min()) <= float(images.max()) <= 1 if clamped else bool(images.isfinite().all())
    if not in_range or not all(isinstance(n, str) for n in condensed.classes):
        return False
    if condensed.teacher != {} and not is_teacher(condensed.teacher):
        return False
    if (
        int(labels.min()) < 0
        or int(labels.max()) >= condensed.nclass
        or not 1 <= condensed.factor <= min(images.shape[2:])
    ):
        return False
    if condensed.soft_labels is not None and not fits_soft_labels(condensed, condensed.soft_labels):
        return False
    learned = () if condensed.lr is None else (condensed.lr,)
    scale = (*condensed.mean, *condensed.std, *learned)
    if not all(isinstance(value, float) and math.isfinite(value) for value in scale) or min(learned, default=1.0) <= 0:
        return False
    return len(condensed.mean) == len(condensed.std) == images.shape[1] and all(value > 0 for value in condensed.std)


def fits_soft_labels(condensed: SyntheticSet, soft: Tensor) -> bool:
    """Whether these can be the soft labels of the training images: probabilities of each class."""
    counts = torch.bincount(condensed.labels).tolist()
    decoded = sum(decoded_count(count, condensed.factor, condensed.decode_type) for count in counts)
    shape = (decoded, condensed.nclass)
    return soft.dtype == torch.float32 and soft.shape == shape and bool(((soft >= 0) & (soft <= 1)).all())


def is_teacher(about: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this says of a set's teacher all that is read of it."""
    parts = {"network": {"net_type"}, "pool": {"models", "epochs"}}
    if not isinstance(about, dict) or not all(isinstance(about.get(name), dict) for name in parts):
        return False
    if not all(keys <= about[name].keys() for name, keys in parts.items()):
        return False
    if not all(isinstance(about.get(name), float) for name in ("temperature", "accuracy")):
        return False
    paths = about.get("model_path", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return False
    return TEMPERATURES[0] <= about["temperature"] <= TEMPERATURES[1]


def _initial(path: Path, images: Tensor, expected: Any) -> Tensor | None:
    """The initial images beside a `condensed.safetensors`, where they are sound and have the shape of `images`.

    expected: their digest, "" where the set has none.
    """
    beside = path.with_name(INITIAL)
    if path.name != CONDENSED or not beside.is_file():
        return None
    initial = load_tensors(beside, "set")[0].get("images")
    if initial is None or initial.shape != images.shape or not initial.is_floating_point():
        return None
    initial = initial.float().clone()
    return initial if bool(initial.isfinite().all()) and expected == digest(initial) else None
