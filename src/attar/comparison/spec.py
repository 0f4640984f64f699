"""The spec of a comparison, a TOML file or a dict, and how it becomes a plan."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from attar.comparison import makers
from attar.comparison.grid import (
    SHARED_SECTIONS,
    SPEC_FLAGS,
    EntrySettings,
    Grid,
    SettingKey,
    items,
    label,
    named_in,
    settings_in,
)
from attar.comparison.plan import ComparisonPlan, Point, in_words, slug
from attar.errors import UserError, nearest, say_once
from attar.selection import coresets
from attar.settings import layers
from attar.settings.auto import Shape
from attar.settings.config import SECTIONS, Recipe

SPEC_KEYS = ("recipe", "seeds", "holdout", "equal_steps", "entry")  # besides settings, at the top of a spec
ENTRY_KEYS = ("name", "method", "recipe", "features")  # besides settings, in an entry
MAX_HOLDOUT = 0.5  # of the training images: with more, the remaining ones would be too different a data set
IPC, METHOD = ("condense", "ipc"), ("condense", "method")


def resolve(values: Mapping[str, Any], where: str = "", shape: Shape | None = None) -> ComparisonPlan:
    """The plan of a spec.

    Args:
        values: the content of the file.
        where: begins the message of every error, such as the name of the file.
        shape: of the images, for data without a recipe.

    Raises:
        UserError: for everything that can be refused without reading the data.
    """
    entries = values.get("entry")
    if not isinstance(entries, list) or not entries or not all(isinstance(one, Mapping) for one in entries):
        raise UserError(f"{where}there is no [[entry]]; a spec needs one for each method that is compared")
    keys = {*SPEC_FLAGS, *SECTIONS, *SPEC_KEYS}
    for key in values:
        if not isinstance(key, str) or key.replace("-", "_") not in keys:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(str(key), keys)}")
    values = {own if (own := key.replace("-", "_")) in SPEC_KEYS else key: value for key, value in values.items()}
    base = _recipe(values, where)
    common = settings_in({key: value for key, value in values.items() if key not in SPEC_KEYS}, where)
    if base is None and ("data", "dataset") not in common:
        raise UserError(f"{where}no data are named; say dataset or recipe at the top")
    recipe = _resolved(base, {key: value for key, value in common.items() if key[0] in SHARED_SECTIONS}, where, shape)
    points: list[Point] = []
    effective: set[SettingKey] = set()
    for name, entry in _named(entries, where).items():
        of_entry, effective_here = _points(name, entry, base, recipe, common, f"{where}entry '{name}': ", shape)
        points, effective = points + of_entry, effective | effective_here
    for setting in common:
        if setting[0] not in SHARED_SECTIONS and setting not in effective:
            raise UserError(f"{where}{label(setting)} means nothing to any of the entries; leave it out")
    equal_steps = values.get("equal_steps", False)
    if not isinstance(equal_steps, bool):
        raise UserError(f"{where}equal_steps must be true or false, not {equal_steps!r}")
    seeds, holdout = _seeds(values.get("seeds", 1), where), _holdout(values.get("holdout"), where)
    return ComparisonPlan(recipe, tuple(points), seeds, holdout, equal_steps)


def _named(entries: Sequence[Mapping[str, Any]], where: str) -> dict[str, Mapping[str, Any]]:
    """The entries by name."""
    named: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name", entry.get("method"))
        if not isinstance(name, str) or not slug(name):
            raise UserError(f"{where}entry {number} needs a name of letters or digits")
        for other in named:
            if slug(other) == slug(name):
                same = f"two entries are named '{name}'" if other == name else f"'{other}' and '{name}' are too alike"
                raise UserError(f"{where}{same}; each needs a name of its own")
        named[name] = entry
    return named


def _recipe(values: Mapping[str, Any], where: str) -> str | None:
    base = values.get("recipe")
    if not isinstance(base, str | None) or base == "":
        raise UserError(f"{where}recipe must be the name of a recipe, not {base!r}")
    return base


def _points(
    name: str,
    entry: Mapping[str, Any],
    base: str | None,
    shared: Recipe,
    common: EntrySettings,
    where: str,
    shape: Shape | None,
) -> tuple[list[Point], set[SettingKey]]:
    """The points of an entry, and the settings that have an effect on at least one of them."""
    base = _recipe(entry, where) or base
    settings = settings_in({key: value for key, value in entry.items() if key not in ENTRY_KEYS}, where)
    for section, field in settings:
        if section in SHARED_SECTIONS:
            raise UserError(f"{where}{field} is the same for all entries; it stands at the top of the spec")
    method, features = _text(entry, "method", where), _text(entry, "features", where)
    with named_in(where):
        layers.check_length([field for section, field in settings if section == "condense"])
    if ("condense", "speedup") in settings:
        common = {key: value for key, value in common.items() if key != ("condense", "niter")}
    layer: EntrySettings = {}
    if method is not None:
        with named_in(where):
            layer = {METHOD: method} if makers.maker(method).condenses else {}
        common = {key: value for key, value in common.items() if key != METHOD}
    points: dict[str, Point] = {}
    effective: set[SettingKey] = set()
    for combination in _combinations(common | settings):
        values = common | settings | layer | combination
        point, values = _point(name, method, features, base, values, where, shape)
        effective |= values.keys()
        if point.recipe.data.zca != shared.data.zca:
            theirs, ours = ("in ZCA space", "not") if point.recipe.data.zca else ("not in ZCA space", "in it")
            say_once(
                f"{where}the settings of {point.method} at ipc {point.recipe.condense.ipc} are for images {theirs}, "
                f"and those of this comparison are {ours}; say zca = true or zca = false at the top of the spec",
                logging.WARNING,
            )
        recipe = replace(point.recipe, data=shared.data, network=shared.network, evaluate=shared.evaluate)
        named = {label(key): value for key, value in combination.items() if key in values}
        named = {"ipc": recipe.condense.ipc} | named
        recipe = recipe if makers.maker(point.method).condenses else coresets.coreset_recipe(recipe, point.method)
        points.setdefault(in_words(named), replace(point, settings=named, recipe=recipe))
    first = next(iter(points.values()))
    for key, value in settings.items():
        if key not in effective:
            with named_in(where):
                makers.check_takes(first.method, first.features, key, items(value)[0], first.recipe)
    return list(points.values()), effective


def _point(
    name: str,
    method: str | None,
    asked_features: str | None,
    base: str | None,
    values: EntrySettings,
    where: str,
    shape: Shape | None,
) -> tuple[Point, EntrySettings]:
    """A point with these values, and those of them that have an effect on it."""
    recipe = _resolved(base, values, where, shape)
    method = method or recipe.condense.method
    with named_in(where):
        features = makers.features_of(method, asked_features)
    # Without one setting, others may have no effect any more
    while useless := [key for key in values if not _takes(method, features, key, recipe)]:
        values = {key: value for key, value in values.items() if key not in useless}
        recipe = _resolved(base, values, where, shape)
    return Point(name, method, features, {}, recipe), values


def _takes(method: str, features: str | None, key: SettingKey, recipe: Recipe) -> bool:
    """Whether a setting has an effect here; those that all entries share always have."""
    return key[0] in SHARED_SECTIONS or makers.takes(method, features, key, recipe)


def _combinations(values: EntrySettings) -> Iterator[EntrySettings]:
    """Every combination of the grids' values. Images per class come first, and are part of every point's name."""
    size = {IPC: Grid(items(values[IPC]))} if IPC in values else {}
    grids = size | {key: value for key, value in values.items() if isinstance(value, Grid) and key != IPC}
    for combination in itertools.product(*grids.values()):
        yield dict(zip(grids, combination, strict=True))


def _text(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if not isinstance(value, str | None):
        raise UserError(f"{where}{key} must be text, not {value!r}")
    return value


def _resolved(base: str | None, values: EntrySettings, where: str, shape: Shape | None) -> Recipe:
    sections: dict[str, dict[str, Any]] = {}
    for (section, field), value in values.items():
        sections.setdefault(section, {})[field] = value
    with named_in(where):
        return layers.resolve(SPEC_FLAGS, sections, recipe=base, shape=shape)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    """The condensation seeds; `seeds = 3` means [0, 1, 2]."""
    seeds = list(range(value)) if _is_whole(value) else value
    if not isinstance(seeds, list) or not seeds or not all(map(_is_whole, seeds)) or min(seeds) < 0:
        raise UserError(f"{where}seeds must be a number of seeds, or a list of whole numbers, not {value!r}")
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"{where}seeds names {seed} twice")
    return tuple(seeds)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _holdout(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_HOLDOUT:
        raise UserError(
            f"{where}holdout must be a share of the training images, above 0 and at most {MAX_HOLDOUT}, not {value!r}"
        )
    return float(value)
