"""Sets in other tools' formats, read so that they can be measured: a `.pt` pair, npz, parquet, folders of images.

The way back of `export`. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from attar import files
from attar.data.images import ImageData
from attar.data.load import load as load_data
from attar.data.sources import npz
from attar.data.sources.parquet import find_files as parquet_files
from attar.data.sources.parquet import opened_file
from attar.data.sources.tree import has_class_folders
from attar.errors import UserError, choose, log, one_line
from attar.sets import set_files, soft_files
from attar.sets.decode import DECODE, check_factor
from attar.sets.export import ABOUT, KEY, WHATS
from attar.sets.foreign_pixels import in_unit
from attar.sets.set_files import SPACES
from attar.sets.synthetic import SyntheticSet

SUFFIXES = (".pt", ".pth", ".npz", ".parquet")


@dataclass(frozen=True)
class Foreign:
    """Images [n, ch, H, W], uint8 or float, their labels [n], and what the files say about them."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None  # where the format names them
    where: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    soft: Tensor | None = None  # soft labels of the training images, float [n, C], where an export has some

    @property
    def space(self) -> str | None:
        """The space of the pixels of an export of attar; None for what other tools made."""
        return choose("space", str(self.meta.get("space", SPACES[0])), SPACES) if self.meta else None

    @property
    def lr(self) -> float | None:
        """The learning rate that was learned with the images. Raises `UserError` for one that cannot be."""
        lr = self.meta.get("lr")
        if lr is not None and not (isinstance(lr, float) and 0 < lr < math.inf):
            raise UserError(f"{self.where} is damaged: its learning rate is {lr!r}")
        return lr

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that an export of attar was made with; nothing for what other tools made."""
        recipe = self.meta.get("recipe")
        return recipe if isinstance(recipe, dict) else {}


def is_foreign(path: Path) -> bool:
    """Whether a path is something else than a run folder or a condensed file."""
    if path.is_dir():
        return not (path / set_files.CONDENSED).is_file() and (_has_images(path) or bool(parquet_files(path)))
    return path.suffix.lower() in SUFFIXES


def _has_images(path: Path) -> bool:
    return any(
        folder.is_dir() and has_class_folders(folder) for folder in (path, *(path / name for name in ("train", *WHATS)))
    )


def read(path: Path) -> Foreign:
    """The images of a file or folder; of an export that holds both kinds the stored ones.

    Raises UserError for a `.pt` that is no pair of tensors or wants to run code, and for damaged files.
    """
    if path.suffix.lower() in (".pt", ".pth"):
        return _read_pt(path)
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    data = load_data(_inner(path), test_fraction=0, load_memory=True)
    assert isinstance(data.images, Tensor)  # load_memory
    meta = _folder_meta(path)
    return Foreign(data.images, data.labels, _class_names(meta, data.classes), str(path), meta, soft_files.beside(path))


def _inner(path: Path) -> Path:
    """Where the images of a folder are; of both kinds the stored ones."""
    return path / "stored" if (path / "stored").is_dir() else path


def _folder_meta(path: Path) -> dict[str, Any]:
    """What a folder or parquet file says about its images."""
    if parquet := parquet_files(_inner(path)):
        return _meta((opened_file(parquet[0]).schema_arrow.metadata or {}).get(KEY.encode(), b"{}"), parquet[0])
    return files.read_json(path / ABOUT) if (path / ABOUT).is_file() else {}


def _class_names(meta: Mapping[str, Any], folders: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
    """The classes' own names in an export, which may have had to change them for its folders; else the folders'."""
    names = meta.get("classes")
    own = folders is None or list(folders) == meta.get("folders")
    return tuple(map(str, names)) if own and isinstance(names, list) else folders


def _meta(text: bytes | str, where: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged: what it says about its images is no JSON") from error
    return value if isinstance(value, dict) else {}


def _read_pt(path: Path) -> Foreign:
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats it may not read; what it cannot read is refused
            pair = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of torch.save, or holds more than tensors and may run code, so it is not opened; "
            f"save [images, labels], two tensors"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes lead to
        raise UserError(f"{path} is damaged or no file of torch.save: {one_line(error)}") from error
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        held = f"{len(pair)} things" if isinstance(pair, list | tuple) else f"a {type(pair).__name__}"
        raise UserError(f"{path} must hold [images, labels], two tensors; it holds {held}")
    if any(part.layout != torch.strided or part.is_meta or part.is_quantized or part.is_nested for part in pair):
        raise UserError(f"{path} must hold [images, labels], two dense tensors with values")
    meta, soft = _beside_pair(path)
    return Foreign(pair[0].detach(), pair[1].detach(), _class_names(meta), str(path), meta, soft)


def _beside_pair(path: Path) -> tuple[dict[str, Any], Tensor | None]:
    """Metadata and soft labels in the archive of an exported pair."""
    if not is_zipfile(path):  # torch.save before version 1.6
        return {}, None
    try:
        with ZipFile(path) as archive:
            names = {name.rpartition("/")[2]: name for name in archive.namelist()}
            meta = _meta(archive.read(names[ABOUT]), path) if ABOUT in names else {}
            soft = soft_files.read(archive.open(names[soft_files.FILE]), path) if soft_files.FILE in names else None
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    return meta, soft


def _read_npz(path: Path) -> Foreign:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [name for name in ("images", "labels") if name not in file]
            if missing:
                raise UserError(f"{path} must hold the arrays images and labels; it holds {', '.join(file) or 'none'}")
            images, labels = file["images"], file["labels"]
            meta = _meta(str(file[KEY]), path) if KEY in file else {}
            soft = soft_files.tensor_of(file[soft_files.SOFT], path, "soft labels") if soft_files.SOFT in file else None
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} {npz.why_unreadable(error)}") from error
    if images.dtype.kind not in "uif" or labels.dtype.kind not in "uif":
        raise UserError(f"{path} holds {images.dtype} images and {labels.dtype} labels; numbers are needed")
    x, y = soft_files.tensor_of(images, path, "images"), soft_files.tensor_of(labels, path, "labels")
    x = x.unsqueeze(1) if x.dim() == 3 else x
    return Foreign(x, y, _class_names(meta), str(path), meta, soft)


def alone(path: Path) -> SyntheticSet:
    """An export of attar as a set without the real images: its files name the classes, mean and std.

    Raises UserError for what other tools made.
    """
    refusal = UserError(f"{path} does not say what its classes, mean and std are, as exports of attar do")
    if path.suffix.lower() not in (".pt", ".pth", ".npz") and not _folder_meta(path):
        raise refusal  # before its images are read
    source = read(path)
    known = all(isinstance(source.meta.get(key), kind) for key, kind in set_files.METADATA_TYPES.items())
    if not known or not all(isinstance(value, float) for key in ("mean", "std") for value in source.meta[key]):
        raise refusal
    classes, mean, std, name = (source.meta[key] for key in ("classes", "mean", "std", "source"))
    pixels, labels = torch.zeros(len(classes), len(mean), 1, 1), torch.arange(len(classes))
    return as_set(source, ImageData(pixels, labels, classes=classes, mean=mean, std=std, name=name, channels="first"))


def as_set(
    source: Foreign,
    data: ImageData,
    *,
    factor: int | None = None,
    decode_type: str | None = None,
    normalized: bool = False,
) -> SyntheticSet:
    """The images as a set that stands for `data`, whose classes, mean and std it takes.

    factor, decode_type: how stored images are decoded, where the files do not say it (they are taken as decoded).
    normalized: float images are (x − mean) / std of `data`. Raises UserError when images and labels do not fit.
    """
    where, images, labels = source.where, source.images, source.labels
    if images.dim() != 4 or labels.shape != images.shape[:1] or not images.numel():
        shapes = f"{list(images.shape)} and {list(labels.shape)}"
        raise UserError(f"{where} must hold images [n, ch, H, W] and a whole number for each; its shapes are {shapes}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(
            f"{where} has labels of type {str(labels.dtype).removeprefix('torch.')}; whole numbers are needed"
        )
    labels = _matched(labels.long(), source.classes, data, where)
    if int(labels.min()) < 0 or int(labels.max()) >= data.nclass:
        low, high = int(labels.min()), int(labels.max())
        raise UserError(f"{where} has the labels {low}..{high}; {data.name} has the classes 0..{data.nclass - 1}")
    images = _with_channels(images, data, source)
    if normalized and source.meta:
        raise UserError(f"{where} says itself that its images are not normalised; leave --normalized out")
    if isinstance(share := source.meta.get("clipped"), float):
        log.warning("%s: %.2g %% of the values were outside [0, 1], and clipped by the export", where, 100 * share)
    pixels = in_unit(images, data, where, normalized=normalized, unbounded=source.space in SPACES[1:])
    chosen = source.meta.get("factor", 1) if factor is None else factor
    if not isinstance(chosen, int) or chosen < 1:
        raise UserError(f"factor must be a whole number from 1, not {chosen!r}")
    check_factor(chosen, (images.shape[2], images.shape[3]))
    condensed = SyntheticSet(
        images=pixels.to(data.device),
        labels=labels.to(data.device),
        factor=chosen,
        decode_type=choose("decode_type", decode_type or str(source.meta.get("decode_type", "single")), DECODE),
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
        recipe=source.recipe,
        coreset=str(source.meta.get("coreset", "")),
        space=source.space or ("unbounded" if normalized and data.space == "unit" else data.space),
        lr=source.lr,
    )
    return soft_files.with_labels(condensed, source.soft, source.meta, where)


def _matched(labels: Tensor, classes: tuple[str, ...] | None, data: ImageData, where: str) -> Tensor:
    """Labels in the order of the data's classes, by name where both have the same names."""
    if classes is None or classes == data.classes:
        return labels
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise UserError(f"{where} is damaged: it has {len(classes)} classes, and other labels")
    strangers = [name for name in classes if name not in data.classes]
    if strangers and all(name.isdecimal() for name in classes):
        return torch.tensor([int(name) for name in classes])[labels]
    if strangers:
        raise UserError(f"{where} has the class '{strangers[0]}', which {data.name} has not; name classes as there")
    return torch.tensor([data.classes.index(name) for name in classes])[labels]


def _with_channels(images: Tensor, data: ImageData, source: Foreign) -> Tensor:
    """[n, ch, H, W] with the channels of the data. Raises UserError for other channels."""
    if images.shape[1] == data.channels:
        return images
    if images.shape[3] == data.channels:
        log.info("%s has its channels last", source.where)
        return images.permute(0, 3, 1, 2)
    if images.shape[1] == 1 and data.channels == 3 and source.classes is not None:
        return images.expand(-1, 3, -1, -1)  # image files whose colours are all grey
    raise UserError(
        f"{source.where} has images of shape {list(images.shape)}, and {data.name} has {data.channels} channels: "
        f"[n, {data.channels}, H, W] or [n, H, W, {data.channels}] is needed"
    )
