"""What a comparison measures: points and cells.

An entry with lists is a grid: every combination of their values is a *point*, and a point with a seed is a *cell*, one
run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attar.comparison import makers
from attar.comparison.grid import SHARED_SECTIONS, label
from attar.data.images import HELD_OUT, TEST
from attar.settings.config import EvaluateConfig, Recipe
from attar.settings.schema import settings_of


@dataclass(frozen=True)
class Point:
    """An entry with one combination of the values of its grid."""

    entry: str
    method: str
    features: str | None  # by which a core-set compares images
    settings: dict[str, Any]  # the values of the grid, images per class first: {"ipc": 1, "niter": 20}
    recipe: Recipe  # without the seeds of a cell

    @property
    def name(self) -> str:
        """Such as `accdd ipc 1 niter 20`."""
        return f"{self.entry} {in_words(self.settings)}"

    def cell(self, seed: int) -> Cell:
        """The run with one seed. No two seeds share early-stage models or networks of the evaluation."""
        pool = replace(self.recipe.pool, seed=self.recipe.pool.seed + seed * self.recipe.pool.models)
        condense = replace(self.recipe.condense, seed=seed)
        evaluate = seeded(self.recipe.evaluate, seed)
        return Cell(self, seed, replace(self.recipe, pool=pool, condense=condense, evaluate=evaluate))


@dataclass(frozen=True)
class Cell:
    """One run: a point with a seed."""

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
    """A resolved spec."""

    recipe: Recipe  # its data, network and evaluation are those of all entries
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    holdout: float | None  # the share of the training images that is tested on; None for the test images
    equal_steps: bool  # whether networks have as many steps on every set of an ipc, not as many epochs

    @property
    def cells(self) -> list[Cell]:
        """All runs, seed by seed: a machine that gets slower is then slower for every entry."""
        return [point.cell(seed) for seed in self.seeds for point in self.points]

    @property
    def tested_on(self) -> str:
        return TEST if self.holdout is None else HELD_OUT


def seeded(config: EvaluateConfig, seed: int) -> EvaluateConfig:
    """The evaluation for a condensation seed: no two seeds share a network."""
    return replace(config, seed=config.seed + seed * config.runs)


def in_words(settings: Mapping[str, Any]) -> str:
    """Such as `ipc 1 niter 20`."""
    return " ".join(f"{key} {value}" for key, value in settings.items())


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-.")


def value_of(point: Point, name: str) -> Any:
    """The value of a point for a setting that some grid names; None where the method takes no such setting."""
    if name in point.settings:
        return point.settings[name]
    sections = {"condense": point.recipe.condense, "pool": point.recipe.pool}
    keys = {label((section, field)): (section, field) for section, kind in sections.items() for field in vars(kind)}
    section, field = keys[name]
    if not makers.takes(point.method, point.features, (section, field), point.recipe):
        return None
    return point.recipe.condense.outer_iterations if name == "niter" else getattr(sections[section], field)


def as_json(plan: ComparisonPlan) -> dict[str, Any]:
    """The plan as plain values: what must be the same when a comparison is resumed."""
    sections = settings_of(plan.recipe)
    points: dict[str, dict[str, Any]] = {}
    for point in plan.points:
        makes = {key: value for key, value in settings_of(point.recipe).items() if key not in SHARED_SECTIONS}
        points.setdefault(point.entry, {})[in_words(point.settings)] = {
            "method": point.method,
            "features": point.features,
            "epochs": point.recipe.evaluate.epochs,
            **makes,
        }
    return {
        **{name: sections[name] for name in SHARED_SECTIONS},
        "holdout": plan.holdout,
        "seeds": list(plan.seeds),
        "entries": points,
    }
