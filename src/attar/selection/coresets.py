"""Core-sets: real images selected by herding, k-center or at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.errors import UserError, choose
from attar.selection.clusters import distances
from attar.selection.embeddings import Embed, by_network, embed_rows
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of
from attar.training.pool import Pool

CORESETS = ("random", "herding", "kcenter")
FEATURE_NAMES = ("early", "pixels")  # what images are compared by; the path of a pool is allowed too


def check_coreset(data: ImageData, kind: str, ipc: int) -> None:
    """Raise `UserError` for an unknown kind of core-set, and for a class of fewer than `ipc` images."""
    choose("core-set", kind, CORESETS)
    for name, count in zip(data.classes, data.counts, strict=True):
        if count < ipc:
            raise UserError(f"class '{name}' has {count} images, fewer than ipc {ipc}")


def coreset_recipe(recipe: Recipe) -> Recipe:
    """The recipe with one early-stage model, and with defaults for all that only a condensation needs."""
    condense = CondenseConfig(ipc=recipe.condense.ipc, factor=1, init="random", seed=recipe.condense.seed)
    return replace(recipe, condense=condense, pool=replace(recipe.pool, models=1, seed=condense.seed))


def recipe_sections(recipe: Recipe) -> dict[str, dict[str, object]]:
    """The recipe for `config.json` and the set's metadata, without the settings that a core-set does not have."""
    settings = settings_of(recipe)
    return settings | {"condense": {name: settings["condense"][name] for name in with_role("condense", "set")}}


def by_first_model(pool: Pool, data: ImageData) -> Embed:
    """Embed images by the last features of the first model of a pool."""
    member = pool.members[0]
    return by_network(pool.build(seed=0).to(data.device), member.params, member.buffers)


def select(
    data: ImageData,
    kind: str,
    ipc: int,
    embed: Embed,
    *,
    seed: int = 0,
    advance: Callable[[str], None] = lambda name: None,
) -> SyntheticSet:
    """Select `ipc` real images of each class: at random, by herding, or as k-centers, in the space of `embed`.

    seed: of the random selection. advance: called with the name of each class when its images are selected.
    Raises `UserError` as `check_coreset` does.
    """
    check_coreset(data, kind, ipc)
    generator = Generator(data.device).manual_seed(seed)
    selected = []
    for label, name in enumerate(data.classes):
        of_class = data.rows(label)
        no_features = torch.empty(len(of_class), 0, device=data.device)
        features = no_features if kind == "random" else embed_rows(data, of_class, embed)
        selected.append(of_class[coreset(kind, features, ipc, generator)])
        advance(name)
    rows = torch.cat(selected)
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


def coreset(kind: str, features: Tensor, k: int, generator: Generator) -> Tensor:
    """The rows, int64 [k], of a core-set of features [n, d], in the order of selection; k ≤ n.

    `random` takes features of any d, even 0.
    """
    if choose("core-set", kind, CORESETS) == "random":
        return torch.randperm(len(features), generator=generator, device=features.device)[:k]
    features = features - features.mean(dim=0)
    return herding(features, k) if kind == "herding" else kcenter(features, k)


def herding(features: Tensor, k: int) -> Tensor:
    """Rows [k], selected greedily so that their mean is nearest to the mean of all images (Welling 2009, iCaRL)."""
    squares, mean = features.square().sum(dim=1), features.mean(dim=0)
    total = torch.zeros_like(mean)
    taken = torch.zeros_like(squares)  # infinite for images that are selected
    rows: list[Tensor] = []
    for count in range(1, k + 1):
        # |mean − (total + x)/count| is smallest where x is nearest to count·mean − total
        to_target = distances(features, (count * mean - total)[None], squares)[:, 0]
        rows.append((to_target + taken).argmin().view(1))
        taken = taken.index_fill(0, rows[-1], torch.inf)
        total = total + features[rows[-1]][0]
    return torch.cat(rows)


def kcenter(features: Tensor, k: int) -> Tensor:
    """Rows [k] by greedy k-center (Sener & Savarese 2018): always the image farthest from those selected so far.

    The first is the image nearest to the mean.
    """
    squares = features.square().sum(dim=1)
    row = distances(features, features.mean(dim=0, keepdim=True), squares)[:, 0].argmin().view(1)
    to_nearest = torch.full_like(squares, torch.inf)
    rows: list[Tensor] = []
    for _ in range(k):
        rows.append(row)
        to_nearest = torch.minimum(to_nearest, distances(features, features[row], squares)[:, 0])
        to_nearest = to_nearest.index_fill(0, row, -1)
        row = to_nearest.argmax().view(1)
    return torch.cat(rows)
