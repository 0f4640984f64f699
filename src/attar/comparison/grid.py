"""The settings of a spec or of an entry: by flag or by table, each with one value or with a list as a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_origin, get_type_hints

from attar.errors import UserError, nearest
from attar.settings import layers
from attar.settings.config import FLAGS, SECTIONS, flags_of
from attar.settings.schema import known_settings

SPEC_FLAGS = flags_of("evaluate") | FLAGS["condense"]  # flags of both are those of `attar condense`
SHARED_SECTIONS = ("data", "network", "evaluate")  # have the same values for all entries

SettingKey = tuple[str, str]  # (section, field)
EntrySettings = dict[SettingKey, Any]  # lists of single values as `Grid`


class Grid(tuple[Any, ...]):
    """The values that a setting takes in turn; a plain tuple is one value."""


def items(value: Any) -> tuple[Any, ...]:
    """All values of a setting: of a grid several, otherwise one."""
    return value if isinstance(value, Grid) else (value,)


def settings_in(values: Mapping[str, Any], where: str) -> EntrySettings:
    """Flags and tables of settings as {(section, field): value}. `where` begins the messages of a `UserError`."""
    settings: EntrySettings = {}
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
                settings |= _setting(key, name.replace("-", "_"), item, f"{where}[{key}] ", where)
        elif flag in SPEC_FLAGS:
            settings |= _setting(*SPEC_FLAGS[flag], value, where, where)
        else:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, SPEC_FLAGS)}")
    return settings


def _setting(section: str, field: str, value: Any, place: str, where: str) -> EntrySettings:
    """One setting, of the right type. `place` begins the messages about grids, `where` those about types."""
    details = known_settings(SECTIONS[section]).get(field)
    if details is not None and details.not_compared:
        raise UserError(f"{place}{field} cannot be set in a comparison: {details.not_compared}")
    is_grid = isinstance(value, list) and section not in SHARED_SECTIONS and not _is_list(section, field)
    if not is_grid:
        return {(section, field): _typed(section, field, value, where)}
    if not value:
        raise UserError(f"{place}{field} is an empty list; give at least one value")
    grid = Grid(_typed(section, field, item, where) for item in value)
    for item in grid:
        if grid.count(item) > 1:
            raise UserError(f"{place}{field} names {item} twice")
    return {(section, field): grid}


def _typed(section: str, field: str, value: Any, where: str) -> Any:
    return layers.by_section(SPEC_FLAGS, {section: {field: value}}, where)[section][field]


def _is_list(section: str, field: str) -> bool:
    """Whether one value of the setting is a list."""
    hint = get_type_hints(SECTIONS[section]).get(field)
    return get_origin(hint) is tuple


def label(key: SettingKey) -> str:
    """The name of a setting in tables: with its section where the field alone would be ambiguous."""
    return key[1] if key[0] == "condense" or key[1] == "models" else f"{key[0]} {key[1]}"


@contextmanager
def named_in(where: str) -> Iterator[None]:
    """Put `where` before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from error
