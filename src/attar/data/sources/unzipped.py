"""Data sets by the name of the folder that they unzip to, found where those of other known names are."""

from __future__ import annotations

import os
from pathlib import Path

from attar.data.sources import locate

_SIZES = ("", "-160", "-320")
UNZIPPED = {  # name → the folder it unzips to
    **dict.fromkeys(("tiny-imagenet-200", "tiny-imagenet"), "tiny-imagenet-200"),
    **{name + size: name + size for name in ("imagenette2", "imagewoof2") for size in _SIZES},
}


def find_unzipped(name: str, data_dir: str | Path | None) -> Path:
    """The folder of one of `UNZIPPED`. Raises `MissingError` with the places that were tried."""
    folder = UNZIPPED[name]
    return locate.find(
        name,
        lambda place: place.resolve().name == folder and all(os.path.isdir(place / part) for part in ("train", "val")),
        data_dir,
        needs=f"folder {folder} with train/ and val/",
        put=f"the folder {folder}, as unzipped,",
        subfolders=() if folder == name else (folder,),
    )
