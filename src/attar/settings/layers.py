"""A complete configuration from layers of settings: recipe, method, recipe file, flags; the later one wins."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attar.errors import MissingError, UserError, choose, nearest
from attar.settings import choices, methods, own_code, plugins
from attar.settings.auto import Shape
from attar.settings.config import ONLY_OF_ATTAR, SECTIONS, Recipe
from attar.settings.recipes import RECIPES, for_data, named, overlay
from attar.settings.schema import known_settings, settings_of, typed

Layer = dict[str, dict[str, Any]]  # section → field → value


def read(path: Path) -> dict[str, Any]:
    """The content of a recipe file: TOML, or JSON such as a run's `config.json`. Raises `UserError`."""
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
    values.pop("attar", None)  # in config.json: facts of the run, no settings
    return values


def to_toml(name: str, ipc: int | None = None) -> str:
    """The recipe of that name as a TOML file that starts from it; settings without a value become comments.

    ipc: as it is for so many images per class, on which settings may depend.
    """
    recipe = named(name, ipc) if ipc is None else overlay(named(name, ipc), {"condense": {"ipc": ipc}})
    lines = [f"recipe = {json.dumps(name)}", ""]
    for section, values in settings_of(recipe).items():
        lines += [f"[{section}]", *(_toml_line(key, value) for key, value in values.items()), ""]
    return "\n".join(lines).rstrip()


def _toml_line(key: str, value: Any) -> str:
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value)}"


def resolve(
    flags: Mapping[str, tuple[str, str]],  # flag → (section, field)
    overrides: Mapping[str, Any],  # flag → value, from the command line or from Python
    *,
    recipe: str | None = None,  # a name or a file
    published: bool = False,
    shape: Shape | None = None,  # of the images, for data without a recipe
) -> Recipe:
    """One complete configuration: the data set's recipe, the method's layer, the recipe file, then the overrides.

    A recipe file holds flags at its top level and any of the tables [data], [network], [pool], [condense], [evaluate];
    `recipe = "name"` in it starts from that recipe in place of the data set's. With `published`, data without published
    settings are refused. Raises `UserError` for values that are unknown, invalid or without effect.
    """
    layers = [by_section(flags, overrides)]
    explicit_layers = [by_section(flags, _without_tables(overrides))]
    if recipe is not None and recipe not in RECIPES:
        path, values, recipe = _recipe_file(recipe)
        layers.insert(0, by_section(flags, values, f"{path}: "))
        explicit_layers.insert(0, by_section(flags, _without_tables(values), f"{path}: "))
        check_one_method(path, layers)
    base = _base(layers, recipe, published=published, shape=shape)
    condense = {name: value for layer in layers for name, value in layer.get("condense", {}).items()}
    if condense.get("method", base.condense.method) != base.condense.method:
        layers.insert(0, methods.method_layer(condense["method"], base, condense.get("ipc", base.condense.ipc)))
    sections = settings_of(base)
    for layer in layers:
        merge_layer(sections, layer)
    derive(sections, base, {(section, name) for layer in layers for section in layer for name in layer[section]})
    if sections["condense"]["match"] == "trajectory" and not any("epochs" in layer.get("pool", {}) for layer in layers):
        used = overlay(base, {"condense": sections["condense"]}).condense.last_epoch
        longer = base.pool.epochs if base.condense.match == "trajectory" else 0
        sections["pool"]["epochs"] = max(used, longer)
    sections["condense"]["plugin"] = plugins.used(sections)
    resolved = overlay(base, sections)  # once, after all layers: a flag may complete a setting of the file
    own_code.remember(sections)
    for explicit in explicit_layers:
        check_explicit(explicit, sections)
    of_caller, niter = explicit_layers[-1].get("condense", {}), sections["condense"]["niter"]
    if "full_niter" in of_caller and niter is not None:
        raise UserError(f"full_niter is what speedup divides, and niter is {niter} here: add speedup, or leave it out")
    return resolved


def _recipe_file(name: str) -> tuple[str, dict[str, Any], str | None]:
    """(path, settings, the name of the recipe that it starts from) of a recipe file."""
    if not Path(name).suffix and not Path(name).is_file():
        choose("recipe", name, RECIPES)
    values = read(Path(name))
    start = values.pop("recipe", None)
    if not isinstance(start, str | None):
        raise UserError(f"{name}: recipe must be the name of a recipe, not {start!r}")
    return name, values, start


def on_top(recipe: str, flags: Mapping[str, tuple[str, str]]) -> tuple[str | None, Layer]:
    """What a recipe means for a set that has settings already: (the recipe to start from, settings on top of these).

    A recipe that is named, by the caller or by a file, is started from; a file that names none lies on top.
    """
    if recipe in RECIPES:
        return recipe, {}
    path, values, start = _recipe_file(recipe)
    return (None, by_section(flags, values, f"{path}: ")) if start is None else (recipe, {})


def laid_over(recipe: Recipe, layer: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """A copy of a recipe with a layer on top."""
    sections = settings_of(recipe)
    merge_layer(sections, layer)
    return overlay(recipe, sections)


def names_data(recipe: str | None) -> bool:
    """Whether a recipe, by its name or its file, says which data it is for."""
    if recipe is None or recipe in RECIPES:
        return recipe not in (None, "default")
    _, values, start = _recipe_file(recipe)
    return "dataset" in values or "dataset" in values.get("data", {}) or start not in (None, "default")


def _base(layers: list[Layer], recipe: str | None, *, published: bool, shape: Shape | None) -> Recipe:
    """The recipe below all layers: the named one, or that of the data set that the layers name."""
    condense = {name: value for layer in layers for name, value in layer.get("condense", {}).items()}
    if recipe is None or (recipe == "best" and shape is not None):
        data = {name: value for layer in layers for name, value in layer.get("data", {}).items()}
        asked = {name: condense[name] for name in ("ipc", "method") if name in condense}
        name, nclass, best = data.get("dataset", "digits"), data.get("nclass"), recipe is not None
        return for_data(name, nclass, published=published, shape=shape, best=best, **asked)
    if published:
        raise UserError(f"the published settings of the data set and the recipe '{recipe}' exclude each other")
    return named(recipe, condense.get("ipc"))


def check_one_method(path: str, layers: list[Layer]) -> None:
    """Raise `UserError` when a recipe file and the flags name different methods."""
    names = [layer["condense"]["method"] for layer in layers if "method" in layer.get("condense", {})]
    if len(set(names)) > 1:
        raise UserError(
            f"{path} holds settings for the method {names[0]}, and {names[1]} is asked for; leave --method or the file "
            f"out"
        )


def _without_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """The single settings. A table may be a complete section, in which some settings have no effect."""
    return {key: value for key, value in values.items() if not isinstance(value, Mapping)}


def derive(sections: Layer, base: Recipe, overrides: set[tuple[str, str]]) -> None:
    """Set the published values that depend on other settings, except for those in `overrides`: (section, setting)."""
    data, condense = sections["data"], sections["condense"]
    if data["dataset"] != base.data.dataset and ("condense", "base_size") not in overrides:
        condense["base_size"] = None  # the base's is the side of another data set
    published: dict[str, Any] = {}
    if data["dataset"] == "imagenet":
        published = {"decode_type": "bound"} if condense["ipc"] >= 20 and condense["factor"] >= 3 else {}
        if data["nclass"] == 100 and condense["nclass_sub"]:  # as condense_mp, which matches fewer images than condense
            published["batch_real"] = 64
    if data["dataset"] == "mnist" and condense["factor"] == 1:  # IDC has no CutMix for MNIST with a factor above 1 only
        published = {"mix_p": 0.5, "aug_type": "color_crop_cutout"}
        if ("evaluate", "mix_p") not in overrides:
            sections["evaluate"]["mix_p"] = 0.5
    if condense["init"] in choices.EPOCH_SCORE_NAMES or condense["network_init"] == "epoch":
        sections["pool"]["keep_epochs"] = True
    condense |= {name: value for name, value in published.items() if ("condense", name) not in overrides}


def merge_layer(sections: Layer, layer: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the settings of a layer on top of `sections`, and reset those that depended on a replaced value."""
    for name, values in layer.items():
        section = sections[name]
        if "speedup" in values:
            section["niter"] = None
        if "net_type" in values and not _same_network(values["net_type"], section["net_type"]):
            section.update(ONLY_OF_ATTAR if ":" in values["net_type"] else {"depth": None})
        section.update(values)


def _same_network(name: str, other: str) -> bool:
    """Whether two names mean the same network, such as 'ResNet_AP' and 'resnetap'; 'convnet4' names its depth too."""
    return re.sub("[_-]", "", name.lower()) == re.sub("[_-]", "", other.lower()) and not name[-1:].isdigit()


def by_section(flags: Mapping[str, tuple[str, str]], values: Mapping[str, Any], where: str = "") -> Layer:
    """Flags and tables {flag or section: value}, which the user gave, as {section: {field: value}}.

    Hyphens and underscores are the same. Raises `UserError` for unknown names and wrong types; its message begins with
    `where`.
    """
    sections: Layer = {}
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
    own_code.remember(sections)
    return sections


def check_length(given: Collection[str]) -> None:
    """Raise `UserError` where two settings of [condense] that were given together both say how long a run is."""
    for name in ("speedup", "full_niter"):
        if {"niter", name} <= set(given):
            raise UserError(f"niter is the number of outer iterations, and {name} changes nothing then; leave one out")


def check_explicit(explicit: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` for a setting that was given explicitly and has no effect.

    Args:
        explicit: {section: {field: value}}, only what was given; False is always accepted.
        sections: all settings, likewise.
    """
    condense, given = sections["condense"], explicit.get("condense", {})
    check_length([name for name, value in given.items() if value is not None])
    if given.get("decode_type", "single") != "single" and condense["factor"] == 1:
        decoding = f"decode_type {given['decode_type']}"
        raise UserError(f"{decoding} is for grids, and factor is 1 here: give a larger factor, or leave it out")
    for section, values in explicit.items():
        described, others = known_settings(SECTIONS[section]), {**condense, **sections[section]}
        for name, value in values.items():
            if value is False or described[name].needs is None:
                continue
            other, needed = described[name].needs or ("", ())
            if needed == choices.TRAINING_UPDATE_NAMES and condense["warmup"]:  # the warm-up trains the network too
                continue
            if needed == choices.PRETRAINED_INIT_NAMES and choices.takes_pool(
                condense["network_init"], condense["keep"], condense["init"]
            ):
                continue
            own = other == "match" and condense[other] not in choices.MATCH_NAMES and "grad" in needed  # of a plugin
            if others[other] not in needed and not (own and name in ("batch_real", "batch_syn_max")):
                has = f"{other} {_in_words(others[other])}"
                needs = f"{other} {' or '.join(map(_in_words, needed))}"
                taker = f"method {condense['method']}" if other in condense else f"[{section}]"
                raise UserError(f"{taker} takes no {name} here: it has {has}, and {name} needs {needs}; leave one out")


def _in_words(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
