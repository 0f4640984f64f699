"""Decoded images that are kept on disk: one .npy file for a source that was slow to read."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

DAMAGED = (OSError, ValueError, KeyError, EOFError, BadZipFile)
FORMAT = "1"  # of what is kept; another one is another key


def key_of(*parts: object) -> str:
    """Twelve digits that stand for a source and how it is read."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:12]


def kept(key: str, make: Callable[[], tuple[np.ndarray, list[int]]], room: Path) -> tuple[np.ndarray, list[int]]:
    """What `make` gives: images uint8 [n, ch, H, W] and the rows left out; from the folder `room` if made before.

    A file that cannot be read is made anew; a folder that cannot be written costs the next start its time, no more.
    """
    path = room / f"{key}.npz"
    with suppress(*DAMAGED), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return file["images"], file["bad"].tolist()
    images, bad = make()
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as out:
                np.savez(out, images=images, bad=np.asarray(bad, np.int64))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return images, bad
