"""Tables with an image and a label column: which columns they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from attar.data import splits
from attar.errors import UserError, nearest, say_once

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
TEXT = ("string", "large_string", "string_view")
FLOATS = ("float16", "float32", "float64", "halffloat", "float", "double")  # whole numbers, after a look
IDS = "class_id"  # the column of labels beside other columns, in distilled sets on the hub
LISTS = ("List", "Sequence", "LargeList")


class Columns(NamedTuple):
    """The columns, and the names of the classes where the table gives them."""

    image: str
    label: str
    classes: tuple[str, ...] | None
    split: str | None = None  # of text


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

    The image column is the one of type Image; the label column is the ClassLabel, else `class_id`, else the only one
    of whole numbers or text that is not called as columns of splits are, else the only one of floats or of lists of
    numbers, which are looked at.

    Args:
        features: what each column holds, see `features_of`.
        image, label: the names, where the user gave them.
        where: what has the columns, in a message.

    Returns:
        The columns.

    Raises:
        UserError: where a name is not there, and where no column fits or several do.
    """
    asked = image, label
    for flag, name in (("image_column", image), ("label_column", label)):
        if name is not None and name not in features:
            raise UserError(f"{where} has no column '{name}' for {flag}; {nearest(name, features)}")
    if image is None:
        image = _only([name for name in features if _type(features[name]) == "Image"], "image", features, where)
    elif _type(features[image]) != "Image":
        raise UserError(f"column '{image}' of {where} holds {_words(features[image])}, not images; name one that does")
    split = splits.column_of(name for name in features if name != label and _words(features[name]) in TEXT)
    if label is None:
        named = [name for name in features if _type(features[name]) == "ClassLabel"]
        others = [name for name in features if name not in (image, split)]
        plain = [name for name in others if _is_label(features[name])]
        likely = [name for name in others if _may_be_label(features[name])]
        ids = [name for name in plain if name == IDS]
        label = _only(named or ids or plain or likely, "label", features, where)
    elif not (_is_label(features[label]) or _may_be_label(features[label])):
        raise UserError(
            f"column '{label}' of {where} holds {_words(features[label])}, not classes; "
            f"a label is a class name or a whole number"
        )
    if asked != (image, label) and len(features) > 2 + (split is not None):
        say_once(f"{where}: images from the column {image}, labels from {label}")
    names = features[label].get("names")
    return Columns(image, label, tuple(map(str, names)) if names else None, split)


def _type(feature: Any) -> str:
    return str(feature.get("_type")) if isinstance(feature, Mapping) else "List"


def _is_label(feature: Any) -> bool:
    return _type(feature) == "ClassLabel" or (_type(feature) == "Value" and feature.get("dtype") in (*WHOLE, *TEXT))


def _may_be_label(feature: Any) -> bool:
    """Whether a column can be whole numbers written as floats, or one-hot rows."""
    if _type(feature) in LISTS:
        inner = (
            feature[0]
            if isinstance(feature, list) and feature
            else feature.get("feature", {})
            if isinstance(feature, Mapping)
            else {}
        )
        return _type(inner) == "Value" and inner.get("dtype") in (*WHOLE, *FLOATS)
    kind = str(feature.get("dtype")) if _type(feature) == "Value" else ""
    return kind in FLOATS or (kind.startswith(("list<", "fixed_size_list<", "large_list<")) and "string" not in kind)


def _words(feature: Any) -> str:
    return str(feature.get("dtype") if _type(feature) == "Value" else _type(feature))


def _only(names: list[str], kind: str, features: Mapping[str, Any], where: str) -> str:
    if len(names) == 1:
        return names[0]
    have = ", ".join(f"{name} ({_words(feature)})" for name, feature in features.items())
    if not names:
        raise UserError(f"{where} has no {kind} column; its columns are {have}; name one with --{kind}_column")
    raise UserError(f"{where} has {len(names)} {kind} columns, {', '.join(names)}; name one with --{kind}_column")
