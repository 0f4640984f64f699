"""Soft labels in exports: an array of npz, a file beside folders of PNGs and within a `.pt`, a column of parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from attar.data.sources.parquet import find_files as parquet_files
from attar.errors import UserError, log
from attar.sets.set_files import fits_soft_labels, is_teacher
from attar.sets.synthetic import SyntheticSet

SOFT = "soft_labels"  # of the training images: the array, and the column
FILE = f"{SOFT}.npy"  # beside folders


def tensor_of(array: np.ndarray, where: Path, what: str) -> Tensor:
    """The numbers of an array, of any byte order. Raises `UserError` for what torch has no numbers for."""
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise UserError(f"{where} holds {what} of type {array.dtype}; whole numbers or float32 are needed") from error


def read(file: Path | IO[bytes], where: Path) -> Tensor:
    """The labels in an npy file. Raises `UserError` for a damaged one."""
    try:
        return tensor_of(np.load(file, allow_pickle=False), where, "soft labels")
    except UserError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        raise UserError(f"{where / FILE} is damaged or no npy file: {' '.join(str(error).split())}") from error


def beside(path: Path) -> Tensor | None:
    """The labels in an exported folder; those in parquet are with the decoded images.

    Raises `UserError` for a damaged file of labels.
    """
    if (path / FILE).is_file():
        return read(path / FILE, path)
    parquet = parquet_files(path / "decoded") or parquet_files(path)
    if not parquet:
        return None
    import pyarrow.parquet as pq

    if SOFT not in pq.read_schema(parquet[0]).names:
        return None
    try:
        return torch.tensor(pq.read_table(parquet[0], columns=[SOFT])[SOFT].to_pylist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{parquet[0]}: its {SOFT} are not a row of numbers for each image") from error


def with_labels(condensed: SyntheticSet, soft: Tensor | None, meta: Mapping[str, Any], where: str) -> SyntheticSet:
    """The set with the labels that were read, where they fit its images, and the classes are in the same order.

    Without a teacher they were learned with the images.
    """
    if soft is None:
        return condensed
    soft, teacher = soft.to(condensed.labels.device), meta.get("teacher", {})
    known = teacher == {} or is_teacher(teacher)
    if not known or list(condensed.classes) != meta.get("classes") or not fits_soft_labels(condensed, soft):
        log.warning("%s: its soft labels do not fit its images and the data's classes, and are left out", where)
        return condensed
    about = {name: value for name, value in teacher.items() if name != "model_path"}  # a place on another machine
    return replace(condensed, soft_labels=soft, teacher=about)
