"""Core-sets: real images selected at random, by their features, or by how hard they are; and mosaics of crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from attar.data.classes import check_ipc
from attar.data.images import ImageData
from attar.errors import choose
from attar.selection import rded, scores
from attar.selection.clusters import distances
from attar.selection.embeddings import Embed, by_network, embed_rows, pixels
from attar.sets.decode import mix
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import CORESET_NAMES, EPOCH_SCORE_NAMES, MEAN_SCORE_NAMES, SCORE_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of
from attar.training.pool import Pool

FEATURE_NAMES = ("early", "pixels")  # what images are compared by; the path of a pool is allowed too


def check_coreset(data: ImageData, kind: str, ipc: int) -> None:
    """Raise `UserError` for an unknown kind of core-set, and for a class of fewer than `ipc` images."""
    choose("core-set", kind, CORESET_NAMES)
    check_ipc(data.classes, data.counts, range(data.nclass), ipc)


def coreset_recipe(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with the early-stage models that a core-set needs, and with defaults for all that it does not need.

    That is one model, with its epochs where these are compared; el2n and grand are means over as many as are asked for.
    """
    factor = recipe.condense.factor if kind == "rded" else 1
    condense = CondenseConfig(ipc=recipe.condense.ipc, factor=factor, init="random", seed=recipe.condense.seed)
    models, epochs = recipe.pool.models if kind in MEAN_SCORE_NAMES else 1, kind in EPOCH_SCORE_NAMES
    pool = replace(recipe.pool, models=models, seed=condense.seed, keep_epochs=epochs)
    return replace(recipe, condense=condense, pool=pool)


def recipe_sections(recipe: Recipe) -> dict[str, dict[str, object]]:
    """The recipe for `config.json` and the set's metadata, without the settings that a core-set does not have."""
    settings = settings_of(recipe)
    return settings | {"condense": {name: settings["condense"][name] for name in with_role("condense", "set")}}


def by_first_model(pool: Pool, data: ImageData) -> Embed:
    """Embed images by the last features of the first model of a pool; by their pixels where it is empty."""
    if not len(pool):
        return pixels
    member = pool.members[0]
    return by_network(pool.build(seed=0).to(data.device), member.params, member.buffers)


def select(
    data: ImageData,
    kind: str,
    ipc: int,
    pool: Pool,
    *,
    factor: int = 1,
    seed: int = 0,
    advance: Callable[[str], None] = lambda name: None,
) -> SyntheticSet:
    """Select `ipc` real images of each class, or for `rded` mosaics of `factor` × `factor` crops.

    pool: early-stage models; where it is empty, images are compared by their pixels. seed: of what is drawn. advance:
    called with the name of each class when its images are selected. Raises `UserError` as `check_coreset` does.
    """
    check_coreset(data, kind, ipc)
    generator = Generator(data.device).manual_seed(seed)
    selected = []
    for label, name in enumerate(data.classes):
        selected.append(images_of_class(data, kind, label, ipc, factor, pool, generator))
        advance(name)
    return SyntheticSet(
        images=torch.cat(selected),
        labels=torch.arange(data.nclass, device=data.device).repeat_interleave(ipc),
        factor=factor,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
        fingerprint=data.fingerprint,
        coreset=kind,
        space=data.space,
    )


def images_of_class(
    data: ImageData, kind: str, label: int, ipc: int, factor: int, pool: Pool, generator: Generator
) -> Tensor:
    """Stored images [ipc, ch, H, W] in [0, 1] of a class, with factor² selected images in each.

    A class of too few images gives them again in the same order.
    """
    if kind == "rded":
        return rded.mosaics(data, label, ipc, factor, pool, generator)
    rows, count = data.rows(label), ipc * factor**2
    k = min(count, len(rows))
    if kind in SCORE_NAMES:
        pick = scores.stratified if kind == "ccs" else scores.easiest
        chosen = pick(scores.difficulty(kind, data, label, pool), k, generator)
    else:
        no_features = torch.empty(len(rows), 0, device=data.device)
        features = no_features if kind == "random" else embed_rows(data, rows, by_first_model(pool, data))
        chosen = coreset(kind, features, k, generator)
    return mix(data.images[rows[chosen.repeat(-(-count // k))[:count]]].float() / 255, factor)


def coreset(kind: str, features: Tensor, k: int, generator: Generator) -> Tensor:
    """The rows, int64 [k], of a core-set of features [n, d], in the order of selection; k ≤ n.

    `random` takes features of any d, even 0.
    """
    if choose("core-set", kind, ("random", *BY_FEATURES)) == "random":
        return torch.randperm(len(features), generator=generator, device=features.device)[:k]
    return BY_FEATURES[kind](features - features.mean(dim=0), k)


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


def moderate(features: Tensor, k: int) -> Tensor:
    """Rows [k] whose distance from the class mean is nearest to the median distance (Xia et al., ICLR 2023)."""
    to_mean = distances(features, features.mean(dim=0, keepdim=True))[:, 0].sqrt()
    return (to_mean - to_mean.median()).abs().argsort(stable=True)[:k]


BY_FEATURES: dict[str, Callable[[Tensor, int], Tensor]] = {"herding": herding, "kcenter": kcenter, "moderate": moderate}
