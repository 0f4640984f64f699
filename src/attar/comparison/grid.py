"""What an entry may say: settings by flag or by table, each with one value or with a list that makes a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_origin, get_type_hints

from attar.errors import UserError, nearest
from attar.settings import layers
from attar.settings.config import FLAGS, SECTIONS, flags_of
from attar.settings.schema import known_settings

SPEC_FLAGS = FLAGS["condense"] | flags_of("evaluate", "networks", "runs", "whole_epochs", "yardsticks")
PROTOCOL = ("data", "network", "evaluate")  # sections that all entries share

Key = tuple[str, str]  # section, field
Values = dict[Key, Any]


class Grid(tuple[Any, ...]):
    """Values that a setting takes one after another; a plain tuple is one value."""


def items(value: Any) -> tuple[Any, ...]:
    """The values of a setting, one where it is no grid."""
    return value if isinstance(value, Grid) else (value,)


def settings_in(values: Mapping[str, Any], where: str) -> Values:
    """Flags and tables of settings → {(section, field): value}, lists for single values as `Grid`."""
    found: Values = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{where}{key!r} is no setting; {nearest(str(key), SPEC_FLAGS)}")
        flag = key.replace("-", "_")
        if key in SECTIONS:
            if not isinstance(value, Mapping):
                raise UserError(f"{where}[{key}] must be a table of settings, not {value!r}")
            for name, item in value.items():
                if not isinstance(name, str):
                    raise UserError(f"{where}[{key}] {name!r} is no setting")
                found |= _setting(key, name.replace("-", "_"), item, f"{where}[{key}] ", where)
        elif flag in SPEC_FLAGS:
            found |= _setting(*SPEC_FLAGS[flag], value, where, where)
        else:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, SPEC_FLAGS)}")
    return found


def _setting(section: str, field: str, value: Any, told: str, where: str) -> Values:
    """One setting, of the right type. `told` begins the messages of this function, `where` those of `recipes`."""
    known = known_settings(SECTIONS[section]).get(field)
    if known is not None and known.not_compared:
        raise UserError(f"{told}{field} cannot be set in a comparison: {known.not_compared}")
    several = isinstance(value, list) and section not in PROTOCOL and not _is_list(section, field)
    if not several:
        return {(section, field): _typed(section, field, value, where)}
    if not value:
        raise UserError(f"{told}{field} is an empty list; give at least one value")
    grid = Grid(_typed(section, field, item, where) for item in value)
    for item in grid:
        if grid.count(item) > 1:
            raise UserError(f"{told}{field} names {item} twice")
    return {(section, field): grid}


def _typed(section: str, field: str, value: Any, where: str) -> Any:
    return layers.by_section(SPEC_FLAGS, {section: {field: value}}, where)[section][field]


def _is_list(section: str, field: str) -> bool:
    """Whether a list is one value of the setting."""
    hint = get_type_hints(SECTIONS[section]).get(field)
    return get_origin(hint) is tuple


def label(key: Key) -> str:
    """What a setting is called in tables."""
    return key[1] if key[0] == "condense" or key[1] == "models" else f"{key[0]} {key[1]}"


@contextmanager
def named_in(where: str) -> Iterator[None]:
    """Put `where` before the words of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from error
