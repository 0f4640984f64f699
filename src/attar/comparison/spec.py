"""A comparison as it is asked for: a TOML file, or the same as a dict, resolved to points and cells.

An entry with lists is a grid: every combination is a *point*, and a point with a seed is a *cell*, one run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.comparison import makers
from attar.comparison.grid import PROTOCOL, SPEC_FLAGS, Grid, Key, Values, items, label, named_in, settings_in
from attar.data.images import HELD_OUT, TEST
from attar.errors import UserError, nearest
from attar.selection import coresets
from attar.settings import layers
from attar.settings.auto import Shape
from attar.settings.config import SECTIONS, EvaluateConfig, Recipe

OWN = ("recipe", "seeds", "holdout", "entry")  # what only a spec has, at its top
ENTRY = ("name", "method", "recipe", "features")  # … and in an entry
MOST_HELD_OUT = 0.5  # of the training images: with more it is another data set that is condensed
IPC, METHOD = ("condense", "ipc"), ("condense", "method")


@dataclass(frozen=True)
class Point:
    """One entry at one place of its grid."""

    entry: str
    method: str
    features: str | None  # what a core-set compares images by
    settings: dict[str, Any]  # what the grid says here, the images per class first: {"ipc": 1, "niter": 20}
    recipe: Recipe  # before seeds

    @property
    def name(self) -> str:
        """Such as `accdd ipc 1 niter 20`."""
        return f"{self.entry} {words(self.settings)}"

    def cell(self, seed: int) -> Cell:
        """The run of one seed: its own early-stage models and its own networks at the evaluation."""
        one = self.recipe
        return Cell(
            self,
            seed,
            replace(
                one,
                pool=replace(one.pool, seed=one.pool.seed + seed * one.pool.models),
                condense=replace(one.condense, seed=seed),
                evaluate=seeded(one.evaluate, seed),
            ),
        )


@dataclass(frozen=True)
class Cell:
    """One run."""

    point: Point
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.point.name} seed {self.seed}"

    @property
    def folder(self) -> str:
        """A folder's name, such as `accdd-ipc1-niter20-seed0`."""
        settings = "".join(f"-{slug(key)}{slug(str(value))}" for key, value in self.point.settings.items())
        return f"{slug(self.point.entry)}{settings}-seed{self.seed}"


@dataclass(frozen=True)
class ComparisonPlan:
    """All that a spec asks for."""

    recipe: Recipe  # data, network and evaluation, which all entries share
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    holdout: float | None  # the share of the training images that is tested on; None: the test images

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that a machine that gets slower is slower for every entry."""
        return [point.cell(seed) for seed in self.seeds for point in self.points]

    @property
    def tested_on(self) -> str:
        return TEST if self.holdout is None else HELD_OUT


def seeded(config: EvaluateConfig, seed: int) -> EvaluateConfig:
    """The networks of a condensation seed: no two seeds share one."""
    return replace(config, seed=config.seed + seed * config.runs)


def words(settings: Mapping[str, Any]) -> str:
    """Such as `ipc 1 niter 20`."""
    return " ".join(f"{key} {value}" for key, value in settings.items())


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-.")


def resolve(values: Mapping[str, Any], where: str = "", shape: Shape | None = None) -> ComparisonPlan:
    """The plan of a spec. Raises `UserError`, with `where` before its words, for all that data are not needed for.

    shape: of data that have no recipe of their own.
    """
    entries = values.get("entry")
    if not isinstance(entries, list) or not entries or not all(isinstance(one, Mapping) for one in entries):
        raise UserError(f"{where}there is no [[entry]]; a spec needs one for each method that is compared")
    known = {*SPEC_FLAGS, *SECTIONS, *OWN}
    for key in values:
        if not isinstance(key, str) or key.replace("-", "_") not in known:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(str(key), known)}")
    base = _recipe(values, where)
    common = settings_in({key: value for key, value in values.items() if key not in OWN}, where)
    if base is None and ("data", "dataset") not in common:
        raise UserError(f"{where}no data are named; say dataset or recipe at the top")
    recipe = _resolved(base, {key: value for key, value in common.items() if key[0] in PROTOCOL}, where, shape)
    points: list[Point] = []
    meant: set[Key] = set()
    for name, entry in _named(entries, where).items():
        found, known_here = _points(name, entry, base, recipe, common, f"{where}entry '{name}': ", shape)
        points, meant = points + found, meant | known_here
    for one in common:
        if one[0] not in PROTOCOL and one not in meant:
            raise UserError(f"{where}{label(one)} means nothing to any of the entries; leave it out")
    return ComparisonPlan(
        recipe, tuple(points), _seeds(values.get("seeds", 1), where), _holdout(values.get("holdout"), where)
    )


def _named(entries: Sequence[Mapping[str, Any]], where: str) -> dict[str, Mapping[str, Any]]:
    """The entries by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries, 1):
        name = entry.get("name", entry.get("method"))
        if not isinstance(name, str) or not slug(name):
            raise UserError(f"{where}entry {place} needs a name of letters or digits")
        for other in found:
            if slug(other) == slug(name):
                same = f"two entries are named '{name}'" if other == name else f"'{other}' and '{name}' are too alike"
                raise UserError(f"{where}{same}; each needs a name of its own")
        found[name] = entry
    return found


def _recipe(values: Mapping[str, Any], where: str) -> str | None:
    base = values.get("recipe")
    if not isinstance(base, str | None) or base == "":
        raise UserError(f"{where}recipe must be the name of a recipe, not {base!r}")
    return base


def _points(
    name: str,
    entry: Mapping[str, Any],
    base: str | None,
    recipe: Recipe,
    common: Values,
    where: str,
    shape: Shape | None,
) -> tuple[list[Point], set[Key]]:
    """An entry's points, and the settings that mean something to one of them at least."""
    start = _recipe(entry, where) or base
    own = settings_in({key: value for key, value in entry.items() if key not in ENTRY}, where)
    for section, field in own:
        if section in PROTOCOL:
            raise UserError(f"{where}{field} is the same for all entries; it stands at the top of the spec")
    if ("condense", "speedup") in own:
        common = {key: value for key, value in common.items() if key != ("condense", "niter")}
    named, wanted = _text(entry, "method", where), _text(entry, "features", where)
    with named_in(where):
        layer: Values = {METHOD: named} if named is not None and makers.maker(named).condenses else {}
    if named is not None:
        common = {key: value for key, value in common.items() if key != METHOD}
    points: dict[str, Point] = {}
    meant: set[Key] = set()
    for place in _places(common | own):
        whole = _resolved(start, values := common | own | layer | place, where, shape)
        method = named or whole.condense.method
        with named_in(where):
            features = makers.features_of(method, wanted)
        while without := [key for key in values if not _takes(method, features, key, whole)]:
            values = {key: value for key, value in values.items() if key not in without}
            whole = _resolved(start, values, where, shape)  # in which others may mean nothing now
        meant |= values.keys()
        whole = replace(whole, data=recipe.data, network=recipe.network, evaluate=recipe.evaluate)
        settings = {"ipc": whole.condense.ipc} | {label(key): value for key, value in place.items() if key in values}
        whole = whole if makers.maker(method).condenses else coresets.coreset_recipe(whole)
        points.setdefault(words(settings), Point(name, method, features, settings, whole))
    one = next(iter(points.values()))
    for key, value in own.items():
        if key not in meant:
            with named_in(where):
                makers.check_takes(one.method, one.features, key, items(value)[0], one.recipe)
    return list(points.values()), meant


def _takes(method: str, features: str | None, key: Key, recipe: Recipe) -> bool:
    """Whether a setting means something here; what all entries share always does."""
    return key[0] in PROTOCOL or makers.takes(method, features, key, recipe)


def _places(values: Values) -> Iterator[Values]:
    """Every combination of the lists; the images per class come first, and are part of every point's name."""
    size = {IPC: Grid(items(values[IPC]))} if IPC in values else {}
    grids = size | {key: value for key, value in values.items() if isinstance(value, Grid) and key != IPC}
    for chosen in itertools.product(*grids.values()):
        yield dict(zip(grids, chosen, strict=True))


def _text(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if not isinstance(value, str | None):
        raise UserError(f"{where}{key} must be text, not {value!r}")
    return value


def value_of(point: Point, name: str) -> Any:
    """What a point has for a column that some grid names: None where its method takes no such setting."""
    if name in point.settings:
        return point.settings[name]
    sections = {"condense": point.recipe.condense, "pool": point.recipe.pool}
    keys = {label((section, field)): (section, field) for section, kind in sections.items() for field in vars(kind)}
    section, field = keys[name]
    if not makers.takes(point.method, point.features, (section, field), point.recipe):
        return None
    return point.recipe.condense.outer_iterations if name == "niter" else getattr(sections[section], field)


def _resolved(base: str | None, values: Values, where: str, shape: Shape | None) -> Recipe:
    sections: dict[str, dict[str, Any]] = {}
    for (section, field), value in values.items():
        sections.setdefault(section, {})[field] = value
    with named_in(where):
        return layers.resolve(SPEC_FLAGS, sections, recipe=base, shape=shape)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    """`seeds = 3` is [0, 1, 2]."""
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
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MOST_HELD_OUT:
        raise UserError(
            f"{where}holdout must be a share of the training images, above 0 and at most {MOST_HELD_OUT}, not {value!r}"
        )
    return float(value)


def plain(plan: ComparisonPlan) -> dict[str, Any]:
    """The plan as JSON: what must be the same when a comparison goes on."""
    sections = layers.as_sections(plan.recipe)
    points: dict[str, dict[str, Any]] = {}
    for point in plan.points:
        own = {key: value for key, value in layers.as_sections(point.recipe).items() if key not in PROTOCOL}
        points.setdefault(point.entry, {})[words(point.settings)] = {
            "method": point.method,
            "features": point.features,
            **own,
        }
    return {
        **{name: sections[name] for name in PROTOCOL},
        "holdout": plan.holdout,
        "seeds": list(plan.seeds),
        "entries": points,
    }
