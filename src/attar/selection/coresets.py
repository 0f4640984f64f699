"""Core-sets: real images chosen by herding, k-center or at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.errors import UserError, choose
from attar.selection.clusters import distances
from attar.selection.embeddings import Embed, by_network, embedded
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of
from attar.training.pool import Pool

FEATURES = ("early", "pixels")  # besides the file or folder of a pool


def check(data: ImageData, kind: str, ipc: int) -> None:
    """Raise `UserError` for an unknown kind, and for a class of fewer images than are wanted."""
    choose("core-set", kind, CORESETS)
    for name, count in zip(data.classes, data.counts, strict=True):
        if count < ipc:
            raise UserError(f"class '{name}' has {count} images, fewer than ipc {ipc}")


def settled(recipe: Recipe) -> Recipe:
    """The recipe with nothing left of a condensation but what a core-set has too, and one early-stage model."""
    condense = CondenseConfig(ipc=recipe.condense.ipc, factor=1, init="random", seed=recipe.condense.seed)
    return replace(recipe, condense=condense, pool=replace(recipe.pool, models=1, seed=condense.seed))


def sections(recipe: Recipe) -> dict[str, dict[str, object]]:
    """What `config.json` and the set say: the recipe without the settings that a core-set does not have."""
    settings = settings_of(recipe)
    return settings | {"condense": {name: settings["condense"][name] for name in with_role("condense", "set")}}


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
    advance: Callable[[str], None] = lambda name: None,
) -> SyntheticSet:
    """`ipc` real images of each class: at random, by herding or as k-centers in the space of `embed`.

    seed: of chance; `advance` gets the name of each class that is done. Raises `UserError` as `check` does.
    """
    check(data, kind, ipc)
    generator = Generator(data.device).manual_seed(seed)
    chosen = []
    for label, name in enumerate(data.classes):
        own = data.rows(label)
        features = torch.empty(len(own), 0, device=data.device) if kind == "random" else embedded(data, own, embed)
        chosen.append(own[coreset(kind, features, ipc, generator)])
        advance(name)
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


CORESETS = ("random", "herding", "kcenter")


def coreset(kind: str, features: Tensor, k: int, generator: Generator) -> Tensor:
    """The rows, int64 [k], of a core-set of that kind, in the order of choice; k ≤ n. `random` needs no d."""
    if choose("core-set", kind, CORESETS) == "random":
        return torch.randperm(len(features), generator=generator, device=features.device)[:k]
    features = features - features.mean(dim=0)
    return herding(features, k) if kind == "herding" else kcenter(features, k)


def herding(features: Tensor, k: int) -> Tensor:
    """Greedily the images whose mean is nearest the mean of all (Welling 2009, as in iCaRL): rows [k]."""
    squares, mean = features.square().sum(dim=1), features.mean(dim=0)
    total = torch.zeros_like(mean)
    left = torch.zeros_like(squares)  # infinite for what was taken
    rows: list[Tensor] = []
    for count in range(1, k + 1):
        # |mean − (total + x)/count| is smallest where x is nearest to count·mean − total
        far = distances(features, (count * mean - total)[None], squares)[:, 0]
        rows.append((far + left).argmin().view(1))
        left = left.index_fill(0, rows[-1], torch.inf)
        total = total + features[rows[-1]][0]
    return torch.cat(rows)


def kcenter(features: Tensor, k: int) -> Tensor:
    """Greedily the image farthest from those so far (Sener & Savarese 2018), first that nearest the mean: rows [k]."""
    squares = features.square().sum(dim=1)
    row = distances(features, features.mean(dim=0, keepdim=True), squares)[:, 0].argmin().view(1)
    far = torch.full_like(squares, torch.inf)
    rows: list[Tensor] = []
    for _ in range(k):
        rows.append(row)
        far = torch.minimum(far, distances(features, features[row], squares)[:, 0]).index_fill(0, row, -1)
        row = far.argmax().view(1)
    return torch.cat(rows)
