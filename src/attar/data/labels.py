"""Labels as sources have them: numbers, names, one-hot rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.errors import UserError, log

SHARE = 0.5  # distinct labels per image: beyond it the labels number or describe the images
SHOWN = 5  # names in a message
LARGEST = 2.0**53  # up to here whole numbers are exact as floats
KINDS = {str: "text", bool: "True or False", int: "whole numbers"}  # of labels, in a message
UNLABELLED = -1  # the place of a row without a label


@dataclass(frozen=True)
class Labels:
    """The labels of one split.

    values: [n], whole numbers (int64) or text; names: what whole numbers stand for, in order, where the source says it;
    missing: bool [n], rows without a label.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None
    missing: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def present(self) -> np.ndarray:
        """bool [n]: rows with a label."""
        return np.ones(len(self), bool) if self.missing is None else ~self.missing

    @property
    def named(self) -> bool:
        """Whether every label has a name, by itself or by `names`."""
        return self.names is not None or self.values.dtype.kind == "U"

    def select(self, rows: np.ndarray) -> Labels:
        """The labels of these rows (int64 [n])."""
        return Labels(self.values[rows], self.names, None if self.missing is None else self.missing[rows])

    def as_text(self) -> np.ndarray:
        """The name of each label [n]; "" where there is none; a number without a name stands for itself."""
        if self.values.dtype.kind == "U":
            names = self.values
        elif self.names is None:
            names = self.values.astype(str)
        else:
            names = np.asarray([*self.names, ""], dtype=str)[np.where(self.present, self.values, len(self.names))]
        return np.where(self.present, names, "")


def read(raw: Any, where: str, names: Sequence[str] | None = None) -> Labels:
    """Labels of any usual shape: numbers, text, True and False, (N, 1), one-hot rows, whole numbers as floats.

    Args:
        raw: [n] or [n, k]; a list, an array or a tensor.
        where: what they are called in a message.
        names: what whole numbers stand for, in order.

    Returns:
        The labels; with `names`, -1 is a row without a label.

    Raises:
        UserError: for missing labels, several labels an image, numbers that are not whole, and labels beyond `names`.
    """
    values = _array(raw, where)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        values = _from_one_hot(values, where)
    if values.ndim != 1 or values.dtype.kind not in "iufbUS":
        raise UserError(f"the labels of {where} are {_words(values)}, not classes: whole numbers or names, one each")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind == "f":
        values = _whole(values, where)
    if values.dtype.kind == "U":
        distinct, inverse = np.unique(values, return_inverse=True)
        values = np.asarray([_nfc(value) for value in distinct.tolist()], dtype=str)[inverse.reshape(-1)]
        missing = np.char.strip(values) == ""
        return Labels(values, None, missing if missing.any() else None)
    if values.dtype.kind == "b" and names is None:
        names = ("False", "True")
    values = values.astype(np.int64)
    names = None if names is None else unique(tuple(_nfc(str(name)) for name in names), where)
    if names is None:
        return Labels(values, None, np.ones(len(values), bool) if len(values) and (values == -1).all() else None)
    if len(values) and (values.max() >= len(names) or values.min() < -1):
        wrong = values.max() if values.max() >= len(names) else values.min()
        raise UserError(f"{where} has the label {wrong}, and names for 0..{len(names) - 1} only: {shown(names)}")
    missing = values == -1
    return Labels(values, names, missing if missing.any() else None)


def _nfc(name: str) -> str:
    """A name in the one form of its accents."""
    return unicodedata.normalize("NFC", name)


def unique(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The names. Raises UserError when two are the same."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the class names of {where} must differ, and '{twice}' is there twice")
    return names


def join(parts: Sequence[Labels], where: str) -> Labels:
    """The labels of several files as one split, by name where the files have names of their own.

    Args:
        parts: of each file.
        where: what they are called in a message.

    Returns:
        All labels, in the order of the files.

    Raises:
        UserError: for names in one file and bare numbers in another.
    """
    if len(parts) == 1:
        return parts[0]
    missing = np.concatenate([~part.present for part in parts])
    if all(part.names == parts[0].names and part.values.dtype.kind == parts[0].values.dtype.kind for part in parts):
        return Labels(
            np.concatenate([part.values for part in parts]), parts[0].names, missing if missing.any() else None
        )
    if len({part.named for part in parts}) > 1:
        kinds = ["names" if part.named else "numbers" for part in parts]
        raise UserError(f"the files of {where} disagree: labels are {kinds[0]} in one and {_other(kinds)} in another")
    names = tuple(
        dict.fromkeys(name for part in parts for name in part.names or np.unique(part.as_text()[part.present]))
    )
    text = np.concatenate([part.as_text() for part in parts])
    places = {name: place for place, name in enumerate(names)} | {"": UNLABELLED}
    if all(part.names is None for part in parts):
        return Labels(text, None, missing if missing.any() else None)
    return Labels(
        np.asarray([places[name] for name in text.tolist()], np.int64), names, missing if missing.any() else None
    )


def _other(kinds: Sequence[str]) -> str:
    return next(kind for kind in kinds if kind != kinds[0])


def shown(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _array(raw: Any, where: str) -> np.ndarray:
    if hasattr(raw, "detach"):
        raw = raw.detach().cpu().numpy()
    if isinstance(raw, np.ndarray) and raw.dtype.kind != "O":
        return raw
    items = [item.item() if getattr(item, "ndim", None) == 0 and hasattr(item, "item") else item for item in raw]
    items = [np.asarray(item.detach().cpu()) if hasattr(item, "detach") else item for item in items]
    empty = sum(item is None or (isinstance(item, float) and item != item) for item in items)
    if empty:
        raise UserError(f"{empty:,} of {len(items):,} labels of {where} are missing; remove those rows")
    kinds = sorted({KINDS.get(type(item), type(item).__name__) for item in items if not isinstance(item, np.generic)})
    if "text" in kinds and len(kinds) > 1:
        raise UserError(
            f"the labels of {where} are {' and '.join(kinds)}; give whole numbers or names, one kind for all"
        )
    try:
        return np.asarray(items)
    except ValueError as error:
        raise UserError(
            f"the labels of {where} are lists of several lengths: several labels an image cannot be used"
        ) from error


def _from_one_hot(values: np.ndarray, where: str) -> np.ndarray:
    """The place of the 1 in each row."""
    bits = values.dtype.kind in "iufb" and bool(((values == 0) | (values == 1)).all())
    sums = values.sum(1) if bits else np.zeros(1)
    if bits and bool((sums == 1).all()):
        log.warning(
            "%s: the labels are one-hot rows of %d; the place of the 1 is taken as the class", where, values.shape[1]
        )
        return values.argmax(1)
    if bits:
        raise UserError(
            f"the labels of {where} have shape {list(values.shape)}, with {int(sums.min())} to {int(sums.max())} ones "
            f"a row: several labels an image cannot be used; choose one class for each image"
        )
    raise UserError(
        f"the labels of {where} are {_words(values)}: several values an image cannot be used; give one class for each"
    )


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    """Floats that are whole numbers, as these."""
    lost = int(np.isnan(values).sum())
    if lost:
        raise UserError(f"{lost:,} of {len(values):,} labels of {where} are missing; remove those rows")
    odd = values[(values != np.rint(values)) | (np.abs(values) > LARGEST)]
    if len(odd):
        raise UserError(
            f"the labels of {where} are {values.dtype}, not classes, such as {odd[0]:g}: targets of a regression "
            f"cannot be used; give whole numbers or names"
        )
    log.info("%s: labels are whole numbers written as %s", where, values.dtype)
    return values.astype(np.int64)


def _words(values: np.ndarray) -> str:
    return str(values.dtype) + ("" if values.ndim == 1 else f" of shape {list(values.shape)}")
