"""A set that is handed on names no folder of the machine that it was made on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.data.load import KNOWN
from attar.data.sources import hub
from attar.data.sources.unzipped import UNZIPPED
from attar.sets.card_code import section
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of


def without_places(condensed: SyntheticSet) -> SyntheticSet:
    """The set, with defaults for the settings of its recipe that say where something lies on this machine.

    A folder of images is not named at all, so that no other of that name is taken for it; of other paths the last part
    stays, but for plugins, which are found by theirs. Raises `UserError` for a recipe whose sections are no tables.
    """
    defaults, teacher = settings_of(Recipe()), _last_parts(condensed.teacher)
    teacher.pop("model_path", None)
    recipe = {name: _last_parts(section(condensed, name)) for name in condensed.recipe}
    for name in recipe.keys() & {"data", "condense"}:
        recipe[name] |= {key: defaults[name][key] for key in with_role(name, "place") if key in recipe[name]}
    if "plugin" in recipe.get("condense", {}):
        recipe["condense"]["plugin"] = section(condensed, "condense")["plugin"]
    dataset = section(condensed, "data").get("dataset")
    if dataset not in (None, *KNOWN, *UNZIPPED) and (not hub.is_name(str(dataset)) or _is_here(str(dataset))):
        del recipe["data"]["dataset"]
    return replace(condensed, recipe=recipe, teacher=teacher)


def _is_here(dataset: str) -> bool:
    with suppress(OSError, RuntimeError):  # too long for a name; a home that nobody has
        return _is_absolute(dataset) or Path(dataset).exists()
    return False


def _is_absolute(text: str) -> bool:
    return Path(text).is_absolute() or text.startswith("~")


def _last_parts(value: Any) -> Any:
    """A value of JSON in which the last part stands for an absolute path."""
    if isinstance(value, Mapping):
        return {key: _last_parts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_last_parts(part) for part in value]
    return f"./{Path(value).name}" if isinstance(value, str) and _is_absolute(value) else value
