"""Core-sets: real images that stand for their class, kept as a set of factor 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator

from attar import selection
from attar.config import CondenseConfig, Recipe, settings_of
from attar.data import ImageData
from attar.embedding import Embed, by_network, embedded
from attar.errors import UserError, choose
from attar.pool import Pool
from attar.synthetic import SyntheticSet

FEATURES = ("early", "pixels")  # besides the file or folder of a pool
SETTINGS = ("ipc", "factor", "seed")  # those of a condensation that a core-set has too


def check(data: ImageData, kind: str, ipc: int) -> None:
    """Raise `UserError` for an unknown kind, and for a class of fewer images than are wanted."""
    choose("core-set", kind, selection.CORESETS)
    for name, count in zip(data.classes, data.counts, strict=True):
        if count < ipc:
            raise UserError(f"class '{name}' has {count} images, fewer than ipc {ipc}")


def settled(recipe: Recipe) -> Recipe:
    """The recipe with nothing left of a condensation but what a core-set has too, and one early-stage model."""
    condense = CondenseConfig(ipc=recipe.condense.ipc, factor=1, init="random", seed=recipe.condense.seed)
    return replace(recipe, condense=condense, pool=replace(recipe.pool, models=1, seed=condense.seed))


def sections(recipe: Recipe) -> dict[str, dict[str, object]]:
    """What `config.json` and the set say: the recipe without the settings that a core-set does not have."""
    found = settings_of(recipe)
    return found | {"condense": {name: found["condense"][name] for name in SETTINGS}}


def by_first(pool: Pool, data: ImageData) -> Embed:
    """The last features of the first model of a pool."""
    member = pool.members[0]
    return by_network(pool.build(seed=0).to(data.device), member.params, member.buffers)


def select(
    data: ImageData,
    kind: str,
    ipc: int,
    embed: Embed,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda name: None,
) -> SyntheticSet:
    """`ipc` real images of each class: at random, by herding or as k-centers in the space of `embed`.

    seed: of chance; `report` gets the name of each class that is done. Raises `UserError` as `check` does.
    """
    check(data, kind, ipc)
    generator = Generator(data.device).manual_seed(seed)
    chosen = []
    for label, name in enumerate(data.classes):
        own = data.rows(label)
        features = torch.empty(len(own), 0, device=data.device) if kind == "random" else embedded(data, own, embed)
        chosen.append(own[selection.coreset(kind, features, ipc, generator)])
        report(name)
    rows = torch.cat(chosen)
    return SyntheticSet(
        images=data.images[rows].float() / 255,
        labels=data.labels[rows],
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
        fingerprint=data.fingerprint,
        coreset=kind,
    )
