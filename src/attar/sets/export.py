"""A condensed set in other tools' formats: parquet with a data set card, PNG folders, npz, and a `.pt` pair.

Images become 8-bit, round(255 · x), except in the `.pt` pair, which holds float32 in [0, 1]. Where a format has room
for it, what `condensed.safetensors` says about the set goes along, so that `attar evaluate` needs no flags for it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attar import files
from attar.errors import MissingError, UserError, choose
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet

FORMATS = ("parquet", "imagefolder", "npz", "pt")
WHATS = ("stored", "decoded", "both")
ABOUT = "attar.json"  # in a folder of PNGs
KEY = "attar"  # of the same in npz and parquet
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

Parts = dict[str, tuple[Tensor, Tensor]]  # "stored", "decoded" → float images [n, ch, H, W] in [0, 1], labels [n]


def export_set(
    condensed: SyntheticSet, to: str, out: str | Path, *, what: str | None = None, overwrite: bool = False
) -> Path:
    """Write the set to a folder (parquet, imagefolder) or a file (npz, pt), whole or not at all. Returns its path.

    what: the images as stored, decoded, or both; by default both in parquet and decoded elsewhere, since other tools do
    not decode. Raises UserError for an unknown format, a place that is taken, and `both` in a `.pt` pair.
    """
    choose("format", to, FORMATS)
    out = Path(out)
    chosen = choose("what", what or ("both" if to == "parquet" else "decoded"), WHATS)
    if to == "pt" and chosen == "both":
        raise UserError("a .pt pair holds one set of images: choose --what stored or decoded")
    if to in ("npz", "pt"):
        out = out if out.suffix == f".{to}" else out.with_name(f"{out.name}.{to}")
    _check_free(out, folder=to in ("parquet", "imagefolder"), overwrite=overwrite)
    parts = _parts(condensed, chosen)
    if to in ("npz", "pt"):
        files.atomically(out, lambda file: (_npz if to == "npz" else _pt)(file, parts, condensed))
    else:
        _whole_folder(out, lambda folder: (_parquet if to == "parquet" else _png)(folder, parts, condensed))
    return out


def _parts(condensed: SyntheticSet, what: str) -> Parts:
    made: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "stored": lambda: (condensed.images, condensed.labels),
        "decoded": condensed.decoded,
    }
    return {name: make() for name, make in made.items() if what in (name, "both")}


def bytes_of(images: Tensor) -> np.ndarray:
    """uint8 [n, H, W] or [n, H, W, 3] of images in [0, 1]."""
    values = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return values[..., 0] if values.shape[-1] == 1 else values


def about(condensed: SyntheticSet, what: str) -> dict[str, Any]:
    """What goes along with the images: how they are decoded, and what they stand for."""
    stored = what == "stored"
    return set_files.describe(condensed) | ({} if stored else {"factor": 1, "decode_type": "single"}) | {"what": what}


def _check_free(out: Path, *, folder: bool, overwrite: bool) -> None:
    if out.exists() and out.is_dir() != folder:
        raise UserError(f"{out} is a {'folder' if out.is_dir() else 'file'}; name another place with --out")
    if not out.exists():
        return
    if folder and overwrite:  # what it replaces must be an export: nobody's run or pictures
        names = {file.name for file in out.iterdir()}
        strange = sorted(names - {"stored", "decoded", "train", "README.md", ABOUT})
        if names and (strange or not names & {"stored", "decoded", ABOUT}):
            held = f" ({strange[0]})" if strange else ""
            raise UserError(f"{out} holds something else than an export{held}; name another place with --out")
    if overwrite:
        return
    if not folder or any(out.iterdir()):
        raise UserError(
            f"{out} {'is not empty' if folder else 'exists'}; name another place with --out, or add --overwrite"
        )


def _whole_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Write into a new folder beside `out`, which takes its place when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (made / "whole").mkdir()
        write(made / "whole")
        if out.exists():
            out.rename(made / "before")
        (made / "whole").rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _npz(file: Path, parts: Parts, condensed: SyntheticSet) -> None:
    """`images` uint8 [n, H, W(, 3)], `labels` int64 [n]; of both, `decoded_images` and `decoded_labels` too."""
    first = next(iter(parts))
    arrays: dict[str, Any] = {KEY: np.array(json.dumps(about(condensed, first), sort_keys=True))}
    for name, (images, labels) in parts.items():
        prefix = "" if name == first else f"{name}_"
        arrays |= {f"{prefix}images": bytes_of(images), f"{prefix}labels": labels.cpu().numpy()}
    with file.open("wb") as opened:
        np.savez_compressed(opened, **arrays)


def _pt(file: Path, parts: Parts, condensed: SyntheticSet) -> None:
    """[images float32 [n, ch, H, W] in [0, 1], labels int64 [n]], as IDC and its successors save their sets."""
    (images, labels), *_ = parts.values()
    torch.save([images.detach().float().cpu().contiguous(), labels.cpu()], file)


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """A folder for each class: its name where names sort in label order and are fit for files, else with its number."""
    safe = [re.sub(r"[^\w.()+-]+", "_", name).strip("._") for name in classes]
    if list(classes) == safe == sorted(classes) and len(set(map(str.lower, safe))) == len(safe):
        return safe
    digits = len(str(len(classes) - 1))
    return [f"{label:0{digits}}_{name}".rstrip("_") for label, name in enumerate(safe)]


def _png(folder: Path, parts: Parts, condensed: SyntheticSet) -> None:
    """train/<class>/*.png of one kind; of both, stored/<class>/*.png and decoded/<class>/*.png."""
    names = folder_names(condensed.classes)
    for what, (images, labels) in parts.items():
        place = folder / ("train" if len(parts) == 1 else what)
        seen: dict[int, int] = {}
        for image, label in zip(bytes_of(images), labels.tolist(), strict=True):
            (place / names[label]).mkdir(parents=True, exist_ok=True)
            number = seen[label] = seen.get(label, -1) + 1
            Image.fromarray(image).save(place / names[label] / f"{number:05}.png")
    said = about(condensed, next(iter(parts))) | {"folders": names}
    files.write_json(folder / ABOUT, said)


def _parquet(folder: Path, parts: Parts, condensed: SyntheticSet) -> None:
    """<what>/train-00000-of-00001.parquet in the hub's layout, and a card that names each as a configuration."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingError("export to parquet needs pyarrow; pip install 'attar[hf]'") from error
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(condensed.classes)},
    }
    for what, (images, labels) in parts.items():
        cells = [{"bytes": _encoded(image), "path": None} for image in bytes_of(images)]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        metadata = {
            "huggingface": json.dumps({"info": {"features": features}}),
            KEY: json.dumps(about(condensed, what), sort_keys=True),
        }
        schema = pa.schema([("image", image_type), ("label", pa.int64())], metadata=metadata)
        (folder / what).mkdir()
        table = pa.table([pa.array(cells, image_type), pa.array(labels.tolist(), pa.int64())], schema=schema)
        pq.write_table(table, folder / what / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(card(parts, condensed), encoding="utf-8")


def _encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def card(parts: Mapping[str, tuple[Tensor, Tensor]], condensed: SyntheticSet) -> str:
    """README.md of a data set on the Hugging Face hub."""
    count = max(len(labels) for _, labels in parts.values())
    size = next((name for most, name in SIZES if count < most), "n>1M")
    configs = [
        f"- config_name: {what}\n  data_files: {what}/train-*.parquet"
        + ("\n  default: true" * (place == len(parts) - 1))
        for place, what in enumerate(parts)
    ]
    shape = "x".join(map(str, condensed.images.shape[1:]))
    grid = f"{condensed.factor} x {condensed.factor}"
    kinds = {
        "stored": f"`stored`: the images as they are kept, each a grid of up to {grid} images",
        "decoded": "`decoded`: the images to train on, cut out of the grids and enlarged",
    }
    made = "real" if condensed.coreset else "synthetic"
    lines = [
        "---",
        "task_categories:\n- image-classification",
        "tags:\n- dataset-distillation\n- attar",
        f"size_categories:\n- {size}",
        "configs:",
        *configs,
        "---",
        "",
        f"# {condensed.source or 'images'}, condensed",
        "",
        f"{len(condensed.labels)} {made} images of {shape}, {condensed.ipc} for each of {condensed.nclass} classes,",
        f"made by attar out of the data set `{condensed.source}` (decode type {condensed.decode_type}, factor "
        f"{condensed.factor}).",
        "",
        *(f"- {kinds[what]}: {len(labels)} images" for what, (_, labels) in parts.items()),
        "",
        f"Normalise with mean {_numbers(condensed.mean)} and standard deviation {_numbers(condensed.std)} (images in "
        "[0, 1]).",
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
