"""What attar itself writes: run, pool and export folders, recognised by their files, so that none is read as data."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

CONDENSED, CONFIG, ABOUT, MEMBER = "condensed.safetensors", "config.json", "attar.json", ".safetensors"
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
    if any(name.endswith(MEMBER) and _is_ours(folder / name) for name in names):
        return "pool"
    return None


def _has_key(file: Path) -> bool:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and KEY in values


def _is_ours(file: Path) -> bool:
    """Whether a safetensors file has attar's metadata."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > LONGEST_HEAD:
                return False
            head = json.loads(opened.read(size))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and isinstance(head.get("__metadata__"), dict) and KEY in head["__metadata__"]
