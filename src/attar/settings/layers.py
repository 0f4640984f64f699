"""Settings in layers: recipe, method, file, flags, one on top of the other."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.errors import MissingError, UserError, choose, nearest
from attar.settings import methods
from attar.settings.auto import Shape
from attar.settings.auto import shape_of as shape_of
from attar.settings.config import (
    SECTIONS,
    Recipe,
)
from attar.settings.recipes import RECIPES, for_data, named, overlay
from attar.settings.schema import settings_of, typed


def read(path: Path) -> dict[str, Any]:
    """A recipe file: TOML, or JSON such as a run's `config.json`. Raises `MissingError` or `UserError`."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(f"there is no recipe file {path}; named recipes: {', '.join(RECIPES)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no table of settings")
    values.pop("attar", None)  # what config.json says about the run itself
    return values


def as_sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The whole recipe as plain values: what `config.json` holds."""
    return settings_of(recipe)


def to_toml(name: str) -> str:
    """The recipe of that name as a TOML file that starts from it; settings that are None stand as comments."""
    lines = [f"recipe = {json.dumps(name)}", ""]
    for section, values in as_sections(named(name)).items():
        lines += [f"[{section}]", *(_toml_line(key, value) for key, value in values.items()), ""]
    return "\n".join(lines).rstrip()


def _toml_line(key: str, value: Any) -> str:
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value)}"


def resolve(
    flags: Mapping[str, tuple[str, str]],  # flag → (section, field)
    overrides: Mapping[str, Any],  # flag → value, from the command line or the caller
    *,
    recipe: str | None = None,  # a name or a file
    published: bool = False,
    shape: Shape | None = None,  # of data that may have no recipe of their own
) -> Recipe:
    """One complete configuration: the data set's recipe, the method's layer, the recipe file, then what was given.

    A recipe file holds flags at its top level and any of the tables [data], [network], [pool], [condense], [evaluate];
    `recipe = "name"` in it starts from another recipe than the data set's.
    """
    layers = [by_section(flags, overrides)]
    explicit_layers = [by_section(flags, _without_tables(overrides))]
    if recipe is not None and recipe not in RECIPES:
        if not Path(recipe).suffix and not Path(recipe).is_file():
            choose("recipe", recipe, RECIPES)
        file = read(Path(recipe))
        path, recipe = recipe, file.pop("recipe", None)
        if not isinstance(recipe, str | None):
            raise UserError(f"{path}: recipe must be the name of a recipe, not {recipe!r}")
        layers.insert(0, by_section(flags, file, f"{path}: "))
        explicit_layers.insert(0, by_section(flags, _without_tables(file), f"{path}: "))
        check_one_method(path, layers)
    asked = {name: value for layer in layers for name, value in layer.get("condense", {}).items()}
    if recipe is None:
        wanted = dict(item for layer in layers for item in layer.get("data", {}).items())
        fitted = {name: asked[name] for name in ("ipc", "method") if name in asked}
        name, nclass = wanted.get("dataset", "digits"), wanted.get("nclass")
        base = for_data(name, nclass, published=published, shape=shape, **fitted)
    elif published:
        raise UserError(f"the published settings of the data set and the recipe '{recipe}' exclude each other")
    else:
        base = named(recipe)
    sections = as_sections(base)
    if asked.get("method", base.condense.method) != base.condense.method:
        layers.insert(0, methods.method_layer(asked["method"], base, asked.get("ipc", base.condense.ipc)))
    for layer in layers:
        merge_layer(sections, layer)
    derive(sections, base, {name for layer in layers for name in layer.get("condense", {})})
    chosen = overlay(base, sections)  # once, so that a flag may complete what the file says
    for explicit in explicit_layers:
        methods.check_explicit(explicit, sections["condense"])
    return chosen


def check_one_method(path: str, layers: list[dict[str, dict[str, Any]]]) -> None:
    """Raise `UserError` when a file is for another method than the one that was given."""
    names = [layer["condense"]["method"] for layer in layers if "method" in layer.get("condense", {})]
    if len(set(names)) > 1:
        raise UserError(
            f"{path} holds settings for the method {names[0]}, and {names[1]} is asked for; leave --method or the file "
            f"out"
        )


def _without_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for by itself; a table may be a whole configuration, with settings that mean nothing in it."""
    return {key: value for key, value in values.items() if not isinstance(value, Mapping)}


def derive(sections: dict[str, dict[str, Any]], base: Recipe, overrides: set[str]) -> None:
    """The published settings that follow from others, where they were not `overrides`."""
    data, condense = sections["data"], sections["condense"]
    ipc = condense["ipc"] if isinstance(condense["ipc"], int) else 0
    if data["dataset"] != base.data.dataset and "base_size" not in overrides:
        condense["base_size"] = None  # the base's is the side of another data set
    if str(data["dataset"]).startswith("imagenet") and data["nclass"] == 100 and ipc >= 20:
        condense["decode_type"] = condense["decode_type"] if "decode_type" in overrides else "bound"
    if data["dataset"] == "mnist" and condense["factor"] == 1 and "mix_p" not in overrides:
        condense["mix_p"] = 0.5  # IDC turns CutMix off for MNIST with a factor above 1 only


def merge_layer(sections: dict[str, dict[str, Any]], layer: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the settings of a layer, and drop those below that only made sense with what it replaces."""
    for name, values in layer.items():
        below = sections[name]
        if "speedup" in values:
            below["niter"] = None
        if "net_type" in values and not _same_network(values["net_type"], below["net_type"]):
            below["depth"] = None
        below.update(values)


def _same_network(name: str, other: str) -> bool:
    """'ResNet_AP' and 'resnetap' are the same; 'convnet4' says its depth itself."""
    return re.sub("[_-]", "", name.lower()) == re.sub("[_-]", "", other.lower()) and not name[-1:].isdigit()


def by_section(
    flags: Mapping[str, tuple[str, str]], values: Mapping[str, Any], where: str = ""
) -> dict[str, dict[str, Any]]:
    """{flag: value} → {section: {field: value}}; a value that is a table is a section already.

    Hyphens and underscores are the same. Unknown names and wrong types raise `UserError`, which begins with `where`.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        flag = key.replace("-", "_")
        if isinstance(value, Mapping):
            if key not in SECTIONS:
                raise UserError(f"{where}unknown section '{key}'; {nearest(key, SECTIONS)}")
            fields = {name.replace("-", "_"): item for name, item in value.items()}
            sections.setdefault(key, {}).update(typed(SECTIONS[key], fields, f"{where}[{key}] "))
        elif flag in flags:
            section, name = flags[flag]
            sections.setdefault(section, {}).update(typed(SECTIONS[section], {name: value}, where))
        elif key in SECTIONS:
            raise UserError(f"{where}[{key}] must be a table of settings, not {value!r}")
        else:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, flags)}")
    return sections
