"""Export a condensed set to other tools' formats: parquet, PNG folders, npz, and a `.pt` pair, each with a card.

Images become 8-bit, round(255 · x), clipped to [0, 1], except in the `.pt` pair, which holds them as they are, float32.
All formats also hold the metadata of `condensed.safetensors`, with space and learning rate, and soft labels, so that
`attar evaluate` needs no flags for them.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attar import files
from attar.errors import MissingError, UserError, WriteError, choose, counted, log, one_line
from attar.sets import set_files, soft_files
from attar.sets.card import CARD, PICTURE, write_card
from attar.sets.places import without_places
from attar.sets.synthetic import SyntheticSet

FORMATS = ("parquet", "imagefolder", "npz", "pt")
PICTURE_CHANNELS = (1, 3)  # grey and colour: a fourth is read as opacity, and dropped
WHATS = ("stored", "decoded", "both")
ABOUT = "attar.json"  # the metadata in a folder of PNGs
KEY = "attar"  # of the metadata in npz and parquet

ExportedImages = dict[str, tuple[Tensor, Tensor]]  # "stored", "decoded" → images [n, ch, H, W] in [0, 1], labels [n]


def export_set(
    condensed: SyntheticSet | str | Path,
    to: str,
    out: str | Path,
    *,
    what: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a set to a folder (parquet, imagefolder) or a file (npz, pt), atomically, with a card for its users.

    The card is README.md in the folder, or FILE.md beside the file.

    Args:
        condensed: the set, or its file or run folder. Folders of this machine are taken out of its recipe.
        to: the format: "parquet", "imagefolder", "npz" or "pt".
        out: the folder or file; a file gets the suffix of its format.
        what: the images as "stored", "decoded", or "both". By default both in parquet and decoded elsewhere, since
            other tools do not decode.
        overwrite: replace a file, or a folder that holds nothing but an export.

    Returns:
        The path of the folder or file.

    Raises:
        UserError: for an unknown format, an `out` that exists already, "both" in a `.pt` pair, and channels that image
            files cannot hold.
        MissingError: for parquet without the package pyarrow.

    Example:
        attar.export_set("runs/mine", "imagefolder", "small-images")
        attar.export_set(small, "npz", "small.npz", what="stored")
    """
    choose("format", to, FORMATS)
    condensed, out = set_files.as_set(condensed), Path(out)
    what = choose("what", what or ("both" if to == "parquet" else "decoded"), WHATS)
    if to == "pt" and what == "both":
        raise UserError("a .pt pair holds one set of images: choose --what stored or decoded")
    if to in ("parquet", "imagefolder") and condensed.images.shape[1] not in PICTURE_CHANNELS:
        channels = condensed.images.shape[1]
        raise UserError(
            f"{to} holds PNG files, of 1 or 3 channels, and the images have {channels}; attar export --to npz or pt"
        )
    if to in ("npz", "pt"):
        out = out if out.suffix == f".{to}" else out.with_name(f"{out.name}.{to}")
    check_free(out, folder=to in ("parquet", "imagefolder"), overwrite=overwrite)
    beside = out.with_name(f"{out.name}.md")  # the card of a file
    if to in ("npz", "pt"):
        check_free(beside, folder=False, overwrite=overwrite)
    images = _images(condensed, what)
    say_what_is_lost(condensed, images, to)
    condensed = without_places(condensed)

    def with_card_beside(file: Path) -> None:
        (_npz if to == "npz" else _pt)(file, images, condensed)
        files.atomically(beside, lambda card: write_card(card, images, condensed, to, file, out.name))

    if to in ("npz", "pt"):
        files.atomically(out, with_card_beside)
    else:
        _whole_folder(out, lambda folder: _with_card(folder, images, condensed, to))
    return out


def _with_card(folder: Path, exported: ExportedImages, condensed: SyntheticSet, to: str) -> None:
    (_parquet if to == "parquet" else _png)(folder, exported, condensed)
    write_card(folder / CARD, exported, condensed, to, folder)


def say_what_is_lost(condensed: SyntheticSet, exported: ExportedImages, to: str) -> None:
    """Log what a format cannot hold: values outside [0, 1], labels of other images; and what networks see of them."""
    share = max(outside(images) for images, _ in exported.values())
    if share and to != "pt":
        line = "%.2g %% of the values are outside [0, 1] and are clipped: %s holds bytes, --to pt keeps them"
        log.warning(line, 100 * share, to)
    if condensed.space == "zca":
        log.warning("the images are exported as they look; the networks were trained on them in ZCA space (--zca)")
    soft = condensed.soft_labels
    if soft is not None and to == "parquet" and all(len(labels) != len(soft) for _, labels in exported.values()):
        log.warning("parquet of stored images has no rows for soft labels of the decoded ones; --what both holds them")


def outside(images: Tensor) -> float:
    """The share of the values that are outside [0, 1]."""
    return float(((images < 0) | (images > 1)).float().mean())


def _images(condensed: SyntheticSet, what: str) -> ExportedImages:
    """Images and labels, by class, as soft labels are."""
    order = condensed.labels.argsort(stable=True)
    images = {"stored": (condensed.images[order], condensed.labels[order])} if what in ("stored", "both") else {}
    return images | ({"decoded": condensed.decoded()} if what in ("decoded", "both") else {})


def bytes_of(images: Tensor) -> np.ndarray:
    """uint8 [n, H, W] of images in [0, 1] with one channel; else [n, H, W, ch]."""
    values = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return values[..., 0] if values.shape[-1] == 1 else values


def about(condensed: SyntheticSet, exported: ExportedImages, what: str, *, as_bytes: bool = True) -> dict[str, Any]:
    """The metadata of exported images; decoded ones need no further decoding. `clipped` is the share of such values."""
    decoding = {} if what == "stored" else {"factor": 1, "decode_type": "single"}
    share = outside(exported[what][0]) if as_bytes else 0
    return set_files.describe(condensed) | decoding | {"what": what} | ({"clipped": share} if share else {})


def check_free(out: Path, *, folder: bool, overwrite: bool, advice: str = "name another place with --out") -> None:
    """Raise `UserError` where `out`, a folder or a file, may not be written; it ends with the advice."""
    if out.exists() and out.is_dir() != folder:
        raise UserError(f"{out} is a {'folder' if out.is_dir() else 'file'}; {advice}")
    if not out.exists():
        return
    if folder and overwrite:  # never replace a run, or other files of the user
        names = {file.name for file in out.iterdir()}
        others = sorted(names - {"stored", "decoded", "train", CARD, PICTURE, ABOUT, soft_files.FILE})
        if names and (others or not names & {"stored", "decoded", ABOUT}):
            example = f" ({others[0]})" if others else ""
            raise UserError(f"{out} holds something else than an export{example}; {advice}")
    if overwrite:
        return
    if not folder or any(out.iterdir()):
        raise UserError(f"{out} {'is not empty' if folder else 'exists'}; {advice}, or add --overwrite")


def _whole_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Write into a new folder beside `out`, which replaces `out` when it is complete. Raises `WriteError`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    before = scratch / "before"
    try:
        (scratch / "whole").mkdir()
        write(scratch / "whole")
        if out.exists():
            out.rename(before)
        (scratch / "whole").rename(out)
    except UserError:
        raise
    except OSError as error:  # it names a file in the new folder, or none
        raise WriteError(f"{out} cannot be written: {one_line(error)}") from error
    finally:
        if before.exists() and not out.exists():
            with suppress(OSError):
                before.rename(out)
        if out.exists() or not before.exists():  # what was there is never removed without a successor
            shutil.rmtree(scratch, ignore_errors=True)


def _npz(file: Path, exported: ExportedImages, condensed: SyntheticSet) -> None:
    """Arrays `images` uint8 [n, H, W(, ch)] and `labels` int64 [n]; with both kinds of images, the decoded ones are
    `decoded_images` and `decoded_labels`.
    """
    first = next(iter(exported))
    arrays: dict[str, Any] = {KEY: np.array(json.dumps(about(condensed, exported, first), sort_keys=True))}
    for name, (images, labels) in exported.items():
        prefix = "" if name == first else f"{name}_"
        arrays |= {f"{prefix}images": bytes_of(images), f"{prefix}labels": labels.cpu().numpy()}
    if condensed.soft_labels is not None:
        arrays[soft_files.SOFT] = condensed.soft_labels.cpu().numpy()
    with file.open("wb") as opened:
        np.savez_compressed(opened, **arrays)


def _pt(file: Path, exported: ExportedImages, condensed: SyntheticSet) -> None:
    """[images float32 [n, ch, H, W], labels int64 [n]], the format of IDC and its successors.

    Metadata and soft labels are in the same zip archive, where `torch.load` does not look for them.
    """
    ((what, (images, labels)),) = exported.items()
    torch.save([images.detach().float().cpu().contiguous(), labels.cpu()], file)
    with zipfile.ZipFile(file, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{ABOUT}", json.dumps(about(condensed, exported, what, as_bytes=False)))
        if condensed.soft_labels is not None:
            with archive.open(f"{folder}/{soft_files.FILE}", "w") as opened:
                np.save(opened, condensed.soft_labels.cpu().numpy())


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """The folder of each class: its name, if all names are valid and sort in label order, else its number and name."""
    safe = [re.sub(r"[^\w.()+-]+", "_", name).strip("._") for name in classes]
    if list(classes) == safe == sorted(classes) and len(set(map(str.lower, safe))) == len(safe):
        return safe
    digits = len(str(len(classes) - 1))
    return [f"{label:0{digits}}_{name}" for label, name in enumerate(safe)]  # a bare number would be sorted as one


def _png(folder: Path, exported: ExportedImages, condensed: SyntheticSet) -> None:
    """train/<class>/*.png; with both kinds of images stored/<class>/*.png and decoded/<class>/*.png."""
    names = folder_names(condensed.classes)
    for what, (images, labels) in exported.items():
        split = folder / ("train" if len(exported) == 1 else what)
        written: Counter[int] = Counter()  # label → images
        for image, label in zip(bytes_of(images), labels.tolist(), strict=True):
            (split / names[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(split / names[label] / f"{written[label]:05}.png")
            written[label] += 1
    if condensed.soft_labels is not None:
        np.save(folder / soft_files.FILE, condensed.soft_labels.cpu().numpy())
    files.write_json(folder / ABOUT, about(condensed, exported, next(iter(exported))) | {"folders": names})


def _parquet(folder: Path, exported: ExportedImages, condensed: SyntheticSet) -> None:
    """<what>/train-00000-of-00001.parquet, the layout of the hub."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingError("export to parquet needs pyarrow; pip install 'attar[hf]'") from error
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(condensed.classes)},
    }
    for what, (images, labels) in exported.items():
        cells = [{"bytes": _png_bytes(image), "path": None} for image in bytes_of(images)]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        metadata = {
            "huggingface": json.dumps({"info": {"features": features}}),
            KEY: json.dumps(about(condensed, exported, what), sort_keys=True),
        }
        columns = {"image": pa.array(cells, image_type), "label": pa.array(labels.tolist(), pa.int64())}
        soft = condensed.soft_labels
        if soft is not None and len(soft) == len(labels):  # a stored grid has several
            columns[soft_files.SOFT] = pa.array(list(soft.cpu().numpy()), pa.list_(pa.float32()))
        (folder / what).mkdir()
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, folder / what / "train-00000-of-00001.parquet")


def _png_bytes(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def in_words(condensed: SyntheticSet, to: str, what: str | None) -> str:
    """What an export in that format holds, for the user."""
    what = what or ("both" if to == "parquet" else "decoded")
    stored, decoded = len(condensed.labels), len(condensed.decoded()[1])
    images = {
        "stored": counted(stored, "stored image"),
        "decoded": f"{counted(decoded, 'image')} to train on ({stored} stored, factor {condensed.factor})",
        "both": f"{counted(decoded, 'image')} to train on, and the {stored} stored, which they are cut out of",
    }[what]
    values = "8 bits" if to != "pt" else "float32" + " in [0, 1]" * (condensed.space == "unit")
    if condensed.space == "zca":
        return f"{images}, {values}; whiten with attar.load(..., zca=True).normalize"
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (condensed.mean, condensed.std))
    return f"{images}, {values}; normalise with mean {mean}, std {std}"
