"""What attar itself writes: run, pool and export folders, recognised by their files, so that none is read as data."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from attar.data import splits
from attar.errors import UserError

CONDENSED, CONFIG, ABOUT, MEMBER = "condensed.safetensors", "config.json", "attar.json", ".safetensors"
BESIDE = (ABOUT, "soft_labels.npy")  # what an export has beside its folders of images
KEY = "attar"  # of config.json and attar.json
LONGEST_HEAD = 1 << 20  # bytes of a safetensors header that are read


def kind_of(folder: Path, names: Collection[str]) -> str | None:
    """What of attar's a folder is: "run", "pool", "export" or "comparison"; None for any other.

    names: of the files in it.
    """
    if CONDENSED in names or (CONFIG in names and _has_key(folder / CONFIG)):
        return "run"
    if ABOUT in names:
        return "export"
    if {"results.jsonl", "comparison.json"} <= set(names):
        return "comparison"
    if any(_is_of_pool(folder / name) for name in [name for name in names if name.endswith(MEMBER)]):
        return "pool"
    return None


def refuse_among_classes(out: Path, source: str) -> None:
    """Refuse a folder that would be taken for a class of the data.

    Args:
        out: the folder that something is to be written to.
        source: what names the data set; anything else than a folder that is there passes.

    Raises:
        UserError: where `out` lies among the class folders.
    """
    root = Path(source).expanduser()
    if not root.is_dir() or root.resolve() not in (out.resolve(), *out.resolve().parents):
        return
    inner = out.resolve().relative_to(root.resolve()).parts
    with_splits = any(splits.kind_of(name) and (root / name).is_dir() for name in os.listdir(root))
    has_parquet = any(name.lower().endswith(".parquet") for name in os.listdir(root))
    if (with_splits and not (inner and splits.kind_of(inner[0]))) or (has_parquet and inner):
        return
    raise UserError(f"{out} lies among the class folders of {source}; name a folder outside of the data with --out")


def _has_key(file: Path) -> bool:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and KEY in values


def _is_of_pool(file: Path) -> bool:
    """Whether a safetensors file has attar's metadata, but for a trained network, which may lie beside images."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > LONGEST_HEAD:
                return False
            head = json.loads(opened.read(size))
    except (OSError, ValueError, RecursionError):
        return False
    meta = head.get("__metadata__") if isinstance(head, dict) else None
    return isinstance(meta, dict) and KEY in meta and '"kind": "network"' not in str(meta[KEY])
