"""What a setting is: a field with its flag, its help and its checks; and how values are read from text and tables."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar, get_type_hints

from attar.errors import UserError, nearest

Config = TypeVar("Config")
# No number is larger: up to here whole numbers are exact as floats, and seeds have room to count up.
LARGEST_NUMBER = 2**53

# What a setting decides, and so where it may differ:
#   set       what any set has, a core-set too: fixed when a run goes on
#   images    the condensed images: fixed when a run goes on, the same for all parts of a partition
#   source    which real images, by name: fixed when a run goes on; parts may have found the same images elsewhere
#   part      which part of a partition
#   length    how long a run is: may change when it goes on
#   speed     how fast it is, and the rounding: may change
#   place     where files and devices are: may change
#   protocol  an accuracy: the same for all accuracies that stand side by side
#   scope     which accuracies are measured, and how many
ROLES = ("set", "images", "source", "part", "length", "speed", "place", "protocol", "scope")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and default."""

    help: str
    names: tuple[str, ...]  # flags, besides the field's own
    role: str
    needs: tuple[str, tuple[Any, ...]] | None  # a setting of [condense], and which values of it give this one a meaning
    of_method: bool  # only a method decides it: a recipe in which it has its default can be the base of any
    fitted_to: tuple[str, ...]  # what may choose it where the user does not: "data" of their own, "minutes"
    not_compared: str  # why the spec of a comparison cannot set it; empty where it can


def setting(
    default: Any,
    help: str,
    *names: str,
    role: str = "images",
    needs: tuple[str, tuple[Any, ...]] | None = None,
    of_method: bool = False,
    fitted_to: tuple[str, ...] = (),
    not_compared: str = "",
) -> Any:
    """A dataclass field that says all that is known of a setting, see `Setting`; the only place that does."""
    assert role in ROLES, role
    known = Setting(help, names, role, needs, of_method, fitted_to, not_compared)
    return field(default=default, metadata={"setting": known})


def known_settings(section: type) -> dict[str, Setting]:
    """{field: what is known of it} of a class of settings."""
    return {item.name: item.metadata["setting"] for item in fields(section)}


def at_least(config: Any, low: float, *names: str) -> None:
    """Raise `UserError` when a named field (or an item of it) is below `low` or out of all reason; None passes."""
    for name in names:
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and not low <= item <= LARGEST_NUMBER:
                wanted = f"at most {LARGEST_NUMBER:g}" if item > LARGEST_NUMBER else f"at least {low}"
                raise UserError(f"{name} must be {wanted}, not {item}")


def above_zero(config: Any, *names: str) -> None:
    """Raise `UserError` when a named field is not above zero, or out of all reason."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value <= LARGEST_NUMBER:
            wanted = f"at most {LARGEST_NUMBER:g}" if value > LARGEST_NUMBER else "above 0"
            raise UserError(f"{name} must be {wanted}, not {value}")


def probability(config: Any, *names: str) -> None:
    """Raise `UserError` when a named field is not between 0 and 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} must be between 0 and 1, not {getattr(config, name)}")


def replace(config: Config, values: Mapping[str, Any], where: str = "") -> Config:
    """`config` with `values` on top. Unknown keys and values of the wrong type raise `UserError`."""
    return dataclasses.replace(config, **typed(type(config), values, where))  # type: ignore[type-var]


def typed(section: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`values` with the types of the fields of `section`. `where` begins the message of the `UserError`."""
    hints = get_type_hints(section)
    for key in values:
        if key not in hints:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, hints)}")
    return {key: coerce(key, value, hints[key], where) for key, value in values.items()}


def coerce(key: str, value: Any, hint: Any, where: str = "") -> Any:
    """`value` as the annotation `hint` wants it (whole numbers pass as floats, lists as tuples), or `UserError`."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if all(_is(item, typing.get_args(kind)[0]) for item in items):
            return tuple(items)
    elif kind is float and _is(value, int) and value.bit_length() < 1000:
        return float(value)
    elif _is(value, kind):
        return value
    raise UserError(f"{where}{key} must be {_words(kind)}, not {value!r}")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and value != "" and (kind is bool or not isinstance(value, bool))


def _words(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind) or "a list of " + {int: "whole numbers", str: "names"}[typing.get_args(kind)[0]]


def settings_of(config: Any) -> dict[str, Any]:
    """The fields of a config as plain values, ready for JSON."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    return list(value) if isinstance(value, tuple) else value
