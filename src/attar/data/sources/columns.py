"""Tables with an image and a label column: which columns they are, and how labels become classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from attar.errors import UserError, nearest

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
TEXT = ("string", "large_string")
SHARE = 0.5  # distinct labels per image: beyond it the column numbers or describes the images


class Columns(NamedTuple):
    """The two columns, and the names of the classes where the table gives them."""

    image: str
    label: str
    classes: tuple[str, ...] | None


def features_of(schema: Any) -> dict[str, Any]:
    """What a pyarrow schema says about its columns, in the words of Hugging Face, such as {"_type": "Image"}."""
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    known = said.get("info", {}).get("features") or {}
    return {field.name: known.get(field.name) or _guess(field) for field in schema}


def _guess(field: Any) -> dict[str, Any]:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    inner = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    if "bytes" in inner or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return {"_type": "Image"}
    return {"_type": "Value", "dtype": str(kind)}


def choose(features: Mapping[str, Any], image: str | None, label: str | None, where: str) -> Columns:
    """The image and the label column, by their types, where they are not named.

    The image column is the one of type Image; the label column is the ClassLabel, else the only one of whole numbers or
    text. Raises UserError when there is none or there are several.
    """
    for flag, name in (("image_column", image), ("label_column", label)):
        if name is not None and name not in features:
            raise UserError(f"{where} has no column '{name}' for {flag}; {nearest(name, features)}")
    if image is None:
        image = _only([name for name in features if _type(features[name]) == "Image"], "image", features, where)
    elif _type(features[image]) != "Image":
        raise UserError(f"column '{image}' of {where} holds {_words(features[image])}, not images; name one that does")
    if label is None:
        named = [name for name in features if _type(features[name]) == "ClassLabel"]
        plain = [name for name in features if name != image and _is_label(features[name])]
        label = _only(named or plain, "label", features, where)
    elif not _is_label(features[label]):
        raise UserError(
            f"column '{label}' of {where} holds {_words(features[label])}, not classes; "
            f"a label is a class name or a whole number"
        )
    names = features[label].get("names")
    return Columns(image, label, tuple(map(str, names)) if names else None)


def _type(feature: Any) -> str:
    return str(feature.get("_type")) if isinstance(feature, Mapping) else "List"


def _is_label(feature: Any) -> bool:
    return _type(feature) == "ClassLabel" or (_type(feature) == "Value" and feature.get("dtype") in (*WHOLE, *TEXT))


def _words(feature: Any) -> str:
    return str(feature.get("dtype") if _type(feature) == "Value" else _type(feature))


def _only(names: list[str], kind: str, features: Mapping[str, Any], where: str) -> str:
    if len(names) == 1:
        return names[0]
    have = ", ".join(f"{name} ({_words(feature)})" for name, feature in features.items())
    if not names:
        raise UserError(f"{where} has no {kind} column; its columns are {have}; name one with --{kind}_column")
    raise UserError(f"{where} has {len(names)} {kind} columns, {', '.join(names)}; name one with --{kind}_column")


def to_classes(
    train: Sequence[Any] | np.ndarray,
    test: Sequence[Any] | np.ndarray | None,
    names: Sequence[str] | None,
    where: str,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Labels as int64 places in the classes, and the classes' names.

    With `names` labels are places already; else the classes are the distinct labels in ascending order. Raises
    UserError for missing labels, for numbers that are not whole, and for almost as many labels as images.
    """
    values = _plain(train, where)
    held = None if test is None else _plain(test, where)
    if names is not None and values.dtype.kind in "iu":
        return values.astype(np.int64), None if held is None else held.astype(np.int64), tuple(names)
    distinct, places = np.unique(values, return_inverse=True)
    if len(distinct) > max(2, SHARE * len(values)):
        raise UserError(
            f"the labels of {where} are no classes: {len(distinct):,} different values in {len(values):,} images; "
            f"name the column of classes with --label_column"
        )
    if held is not None:
        strange = np.setdiff1d(held, distinct) if held.dtype.kind == values.dtype.kind else held
        if len(strange):
            raise UserError(f"the test images of {where} have the class '{strange[0]}', which no training image has")
        held = np.searchsorted(distinct, held).astype(np.int64)
    return places.reshape(-1).astype(np.int64), held, tuple(str(value) for value in distinct.tolist())


def _plain(labels: Sequence[Any] | np.ndarray, where: str) -> np.ndarray:
    """Labels [n] as one array of whole numbers or of text."""
    values = labels if isinstance(labels, np.ndarray) else np.asarray(labels)
    if values.dtype.kind == "O":
        missing = sum(value is None for value in values.tolist())
        if missing:
            raise UserError(f"{missing:,} of {len(values):,} labels of {where} are missing; remove those rows")
        values = np.asarray(values.tolist())
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        shape = "" if values.ndim == 1 else f" of shape {list(values.shape)}"
        raise UserError(
            f"the labels of {where} are {values.dtype}{shape}, not classes: whole numbers or names, one each"
        )
    return values
