"""What a setting is: a dataclass field with its flag, help, role and valid values, and how values are read from text.

All that attar knows of a setting is said at its field, so a new one is added in one line.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

from attar.errors import UserError, choose, nearest
from attar.settings import plugins

Config = TypeVar("Config")
# The largest value of any number: up to here whole numbers are exact as floats, and seeds have room to count up.
LARGEST_NUMBER = 2**53

# What a setting decides, and so where its value may differ:
#   set       a property of every set, core-sets included; fixed when a run is resumed
#   images    the condensed images; fixed when a run is resumed, the same for all parts of a partition
#   source    the name of the real images; fixed when a run is resumed, but parts may name the same images differently
#   part      which part of a partition
#   length    how long a run is; may change when it is resumed
#   speed     how fast a run is, up to rounding; may change when it is resumed
#   place     where files and devices are; may change when a run is resumed
#   protocol  how an accuracy is measured; accuracies that are compared must share it
#   scope     which accuracies are measured, and how often; may change when a run is resumed
ROLES = ("set", "images", "source", "part", "length", "speed", "place", "protocol", "scope")


@dataclass(frozen=True)
class Limits:
    """The range of a number, from `low` to `high`."""

    low: float
    high: float = LARGEST_NUMBER
    low_included: bool = True
    high_included: bool = True

    def check(self, name: str, value: float) -> None:
        """Raise `UserError` when the value of the setting `name` is out of range; NaN always is."""
        high_enough = self.low <= value if self.low_included else self.low < value
        low_enough = value <= self.high if self.high_included else value < self.high
        if not (high_enough and low_enough):
            raise UserError(f"{name} must be {self._in_words(too_high=value > self.low)}, not {value}")

    def _in_words(self, *, too_high: bool) -> str:
        """The range, or only the side that a value is beyond where the other has no bound worth telling."""
        low = f"{'at least' if self.low_included else 'above'} {self.low:g}"
        high = f"{'at most' if self.high_included else 'below'} {self.high:.16g}"
        if self.high == LARGEST_NUMBER:
            return high if too_high else low
        if self.low_included and self.high_included:
            return f"between {self.low:g} and {self.high:g}"
        return f"{low} and {high}"


ABOVE_ZERO = Limits(0, low_included=False)
AT_LEAST_ZERO = Limits(0)
AT_LEAST_ONE = Limits(1)
PROBABILITY = Limits(0, 1)


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and default."""

    help: str
    names: tuple[str, ...]  # flags, besides the field's own name
    role: str  # one of ROLES
    limits: Limits | None  # the range of a number, or of each number of a list
    choices: tuple[str, ...]  # the valid names; empty where any text is valid
    needs: (
        tuple[str, tuple[Any, ...]] | None
    )  # (setting of its section or of [condense], the values of it with which this one has an effect)
    of_method: bool  # belongs to a method: a recipe with its default can be the base of every method
    fitted_to: tuple[str, ...]  # what chooses the value where the user does not: "data" (the user's own), "minutes"
    not_compared: str  # why the spec of a comparison cannot set it; empty where it can
    read: Callable[[Any], Any] | None  # makes text of what users give, such as a function
    panel: str  # the panel of `attar VERB --help-all` that this setting begins; empty: the one before goes on


def setting(
    default: Any,
    help: str,
    *names: str,
    role: str = "images",
    limits: Limits | None = None,
    choices: tuple[str, ...] = (),
    needs: tuple[str, tuple[Any, ...]] | None = None,
    of_method: bool = False,
    fitted_to: tuple[str, ...] = (),
    not_compared: str = "",
    read: Callable[[Any], Any] | None = None,
    panel: str = "",
) -> Any:
    """A dataclass field that carries a `Setting` with these values in its metadata."""
    assert role in ROLES, role
    details = Setting(help, names, role, limits, choices, needs, of_method, fitted_to, not_compared, read, panel)
    return field(default=default, metadata={"setting": details})


def known_settings(section: type) -> dict[str, Setting]:
    """{field: its `Setting`} of a class of settings."""
    return {item.name: item.metadata["setting"] for item in fields(section)}


def panels(section: type) -> dict[str, str]:
    """{field: the panel of the help that it stands in} of a class of settings."""
    panel, panels = "", {}
    for name, details in known_settings(section).items():
        panels[name] = panel = details.panel or panel
    return panels


def check_values(config: Any) -> None:
    """Raise `UserError` for a number outside its limits and for a name that is none of the choices; None is valid."""
    for name, details in known_settings(type(config)).items():
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and details.limits is not None:
                details.limits.check(name, item)
            if item is not None and details.choices:
                choose(name, item, (*details.choices, *plugins.names(name)))


def replace(config: Config, values: Mapping[str, Any], where: str = "") -> Config:
    """A copy of `config` with `values`. Unknown keys and values of the wrong type raise `UserError`."""
    return dataclasses.replace(config, **typed(type(config), values, where))  # type: ignore[type-var]


def typed(section: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`values` with the types of the fields of `section`. The message of a `UserError` begins with `where`."""
    hints, known = _hints(section), known_settings(section)
    for key in values:
        if key not in hints:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, hints)}")
    texts = {key: known[key].read or (lambda value: value) for key in values}
    return {key: coerce(key, texts[key](value), hints[key], where) for key, value in values.items()}


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    """The types of the fields of a section."""
    return get_type_hints(section)


def coerce(key: str, value: Any, hint: Any, where: str = "") -> Any:
    """`value` as the type `hint`, or a `UserError`. Whole numbers are valid floats, lists become tuples."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if all(_has_type(item, typing.get_args(kind)[0]) for item in items):
            return tuple(items)
    elif kind is float and _has_type(value, int) and value.bit_length() < 1000:
        return float(value)
    elif _has_type(value, kind):
        return value
    raise UserError(f"{where}{key} must be {_type_in_words(kind)}, not {value!r}")


def _has_type(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and value != "" and (kind is bool or not isinstance(value, bool))


def _type_in_words(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind) or "a list of " + {int: "whole numbers", str: "names"}[typing.get_args(kind)[0]]


def settings_of(config: Any) -> dict[str, Any]:
    """The fields of a config as plain values that JSON can hold; nested configs become nested dicts."""
    return {item.name: _json_value(getattr(config, item.name)) for item in fields(config)}


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    return list(value) if isinstance(value, tuple) else value
