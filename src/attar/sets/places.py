"""A set that is handed on names no folder of the machine that it was made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.data.load import KNOWN
from attar.sets.card_code import section
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of


def without_places(condensed: SyntheticSet) -> SyntheticSet:
    """The set, with defaults for the settings of its recipe that say where something lies on this machine.

    Of other paths, such as that of a folder of images or of a network of one's own, the last part stays. Raises
    `UserError` for a recipe whose sections are no tables.
    """
    defaults, teacher = settings_of(Recipe()), _last_parts(condensed.teacher)
    recipe = {name: _last_parts(section(condensed, name)) for name in condensed.recipe}
    for name in recipe.keys() & {"data", "condense"}:
        recipe[name] |= {key: defaults[name][key] for key in with_role(name, "place") if key in recipe[name]}
    dataset = str(section(condensed, "data").get("dataset") or "")
    if dataset not in ("", *KNOWN) and Path(dataset).expanduser().exists():
        recipe["data"]["dataset"] = f"./{condensed.source}"  # no known data set
    return replace(condensed, recipe=recipe, teacher=teacher)


def _last_parts(value: Any) -> Any:
    """A value of JSON in which the last part stands for an absolute path, also for one of a function in a file."""
    if isinstance(value, Mapping):
        return {key: _last_parts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_last_parts(part) for part in value]
    is_path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return f"./{Path(value).name}" if is_path else value
