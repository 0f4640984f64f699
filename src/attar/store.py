"""Files: safetensors with one sorted JSON string of metadata, JSON, and writes that are whole or not there.

Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.errors import MissingError, UserError, WriteError, choose
from attar.synthetic import DECODE, SyntheticSet

VERSION = 1  # of the file format
SUFFIX = ".safetensors"
CONDENSED = "condensed.safetensors"
INITIAL = "initial.safetensors"
SET_META = {
    **dict.fromkeys(("classes", "mean", "std"), list),
    **{"factor": int, "decode_type": str, "source": str, "recipe": dict},
}


def temporary(path: Path) -> Path:
    """A name beside `path` for what is not complete yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def clean(folder: Path, *names: str) -> None:
    """Remove what a killed process left of `names` ('*.safetensors' and the like) under a temporary name."""
    for path in folder.iterdir():
        found = re.fullmatch(r"\.(.+)\.[0-9a-f]{12}", path.name)
        if found and any(Path(found[1]).match(name) for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # cannot be, and need not
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: readers see the old file or the new one.

    Raises `WriteError` when it cannot be written, such as on a full disk.
    """
    new = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.touch(exist_ok=False)
        mode = new.stat().st_mode  # what the umask leaves; a writer may make a file of its own for itself alone
        write(new)
        new.chmod(mode)
        sync(new)
        new.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True)
        raise WriteError(f"{path} cannot be written: {one_line(error)}") from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    atomically(path, lambda name: name.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `MissingError` or `UserError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"there is no {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, meta: Mapping[str, Any]) -> None:
    """Write tensors and metadata of a `kind` ('set', 'member') to one safetensors file, atomically."""
    text = json.dumps({"format": VERSION, "kind": kind, **meta}, sort_keys=True)
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    atomically(path, lambda name: save_file(whole, name, metadata={"attar": text}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. A missing, corrupt or foreign file raises `MissingError` or `UserError`."""
    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("attar")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        meta = json.loads(text) if text is not None else None
    except (SafetensorError, ValueError, OSError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {one_line(error)}") from error
    if not isinstance(meta, dict) or "format" not in meta:
        raise UserError(f"{path} was not written by attar (it has no 'attar' metadata)")
    if meta["format"] != VERSION:
        raise UserError(f"{path} has format {meta['format']}; this attar reads format {VERSION}")
    if meta.get("kind") != kind:
        raise UserError(f"{path} holds a {meta.get('kind')}, not a {kind}")
    return tensors, meta


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


def one_line(error: BaseException) -> str:
    """What an error says, as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
