"""The Python interface: what the verbs do, in memory, with settings as keyword arguments."""

from __future__ import annotations

import logging
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar import (
    checkpoint,
    condensation,
    coresets,
    embedding,
    evaluation,
    own,
    partition,
    problem,
    recipes,
    runlog,
    schedule,
    session,
    store,
)
from attar import data as sources
from attar import device as devices
from attar import pool as pools
from attar.checkpoint import Interval
from attar.config import FLAGS, Recipe
from attar.data import ImageData
from attar.embedding import Embed
from attar.errors import choose
from attar.pool import Pool
from attar.runlog import RunFolder
from attar.synthetic import SyntheticSet
from attar.version import __version__

NOTICE = logging.getLogger("attar").warning


def load(
    source: Any,
    *,
    data_dir: str | Path | None = None,
    nclass: int | None = None,
    size: int | None = None,
    device: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    test_fraction: float | None = None,
    test_seed: int = 0,
    skip_bad: bool = False,
    load_memory: bool = False,
    cache_dir: str | Path | None = None,
) -> ImageData:
    """Real images: a known name, a folder of images, parquet, or `USER/NAME` on the Hugging Face hub; a `Dataset` or
    `DatasetDict`, a torch `Dataset` of (image, label) pairs, `(images, labels)`, a dict of these with the keys train
    and test; or `ImageData`.

    nclass: only the first so many classes; size: short side in pixels, centre-cropped to a square; image_column,
    label_column: of a table, where their types do not tell; test_fraction: the share of each class that is tested on
    where there is no test set (a fifth; of `ImageData` nothing), chosen by test_seed; skip_bad: leave unreadable images
    out. What was taken or left out goes to the logger `attar`. Images of a large folder are decoded once into a file
    below `cache_dir` (~/.cache/attar) and stay there, unless `load_memory`.

    Raises `UserError` for an unknown name or unusable files, `MissingError` (a `FileNotFoundError`) when there is none.
    """
    return sources.load(
        source,
        data_dir=data_dir,
        nclass=nclass,
        size=size,
        device=devices.pick(device),
        image_column=image_column,
        label_column=label_column,
        test_fraction=test_fraction,
        test_seed=test_seed,
        skip_bad=skip_bad,
        load_memory=load_memory,
        cache_dir=cache_dir,
        notice=NOTICE,
    )


def pretrain(data: ImageData, *, recipe: str | None = None, folder: str | Path | None = None, **settings: Any) -> Pool:
    """Early-stage models for `data` (Acc-DD section 3.2); kept in `folder` where one is named.

    settings: the fields of `PoolConfig` and `NetworkConfig`, such as epochs=2, models=5, net_type="convnet".
    """
    chosen = _recipe("pretrain", data, recipe, settings)
    return pools.pretrain(data, chosen.pool, chosen.network, folder=Path(folder) if folder else None)


def condense(
    data: ImageData,
    pool: Pool | None = None,
    *,
    recipe: str | None = None,
    folder: str | Path | None = None,
    save_every: str = checkpoint.EVERY,
    minutes: float | None = None,
    **settings: Any,
) -> SyntheticSet:
    """Distil `data` into a `SyntheticSet`, matching gradients on the pool's models (trained first when there is none),
    or by another `method`: "idc", "idc-i", "dc", "dsa", "dm" or "ncfm".

    folder: keeps a run there, with a checkpoint every so often (`save_every`, such as "10m" or "50it"). The same call
    again goes on with a run that was interrupted, makes one longer whose `niter` has grown, and reads one that is done.
    With `nclass_sub` and no `phase` all parts are condensed, one after another, each in `folder`/parts/<phase>.
    settings: the fields of `CondenseConfig`, such as ipc=10, factor=2, speedup=10; without a pool those of
    `NetworkConfig`, epochs and models too, or model_path. minutes: as many iterations as fit into them on this machine;
    a run that goes on keeps its own.
    """
    chosen = _recipe("condense", data, recipe, settings)
    path = None if folder is None else Path(folder)
    split = chosen.condense.nclass_sub is not None and chosen.condense.phase is None
    kept = None if path is None else _kept(path / "parts" / "0" if split else path)
    if kept is not None and recipe is None and not recipes.has_own(data.name):
        chosen = session.as_chosen(kept, chosen, own.CHOSEN, recipes.by_section(FLAGS["condense"], settings))
    if minutes is not None and kept is not None:
        chosen = session.as_chosen(kept, chosen, schedule.FITTED)
    elif minutes is not None:
        problem.check(data, chosen.condense)
        chosen = schedule.fit(data, chosen, 60 * minutes, logging.getLogger("attar").warning)
    if pool is None:
        problem.check(data, chosen.condense)
        pool = _pool(data, chosen)
    chosen = replace(chosen, network=pool.network)
    if not split:
        return _condense_one(path, data, pool, chosen, save_every)
    small = []
    for phase in range(partition.parts_of(data.nclass, chosen.condense.nclass_sub or data.nclass)):
        part = replace(chosen, condense=replace(chosen.condense, phase=phase))
        small.append(_condense_one(path and path / "parts" / str(phase), data, pool, part, save_every))
    return partition.concatenate(small)


def _pool(data: ImageData, recipe: Recipe) -> Pool:
    """The models that a recipe names or describes; none for fresh networks."""
    if recipe.condense.source == "fresh":
        return pools.empty(data, recipe.network)
    paths = [Path(name) for name in recipe.condense.model_path]
    return pools.load(paths, data, recipe.network) if paths else pools.pretrain(data, recipe.pool, recipe.network)


def _kept(path: Path) -> Recipe | None:
    """The settings of the run that a folder holds, if it holds one."""
    return session.kept_recipe(RunFolder(path)) if (path / runlog.CONFIG).exists() else None


def _condense_one(path: Path | None, data: ImageData, pool: Pool, recipe: Recipe, save_every: str) -> SyntheticSet:
    if path is not None:
        return _condense_in(path, data, pool, recipe, checkpoint.interval(save_every))
    return replace(condensation.run(data, pool, recipe.condense, notice=NOTICE), recipe=recipes.as_sections(recipe))


def _condense_in(path: Path, data: ImageData, pool: Pool, recipe: Recipe, every: Interval) -> SyntheticSet:
    problem.prepare(data, pool, recipe.condense)
    with runlog.opened(path) as folder:
        if (path / runlog.CONFIG).exists():
            begun = session.begun(folder, recipe, warnings.warn)
            recipe, about, saved = begun.recipe, begun.about, begun.saved
            if begun.finished:
                return store.load_set(path)
        else:
            runlog.create(path, overwrite=False)
            about, saved = {"environment": runlog.environment(data.device)}, None
        folder.write(runlog.CONFIG, recipes.as_sections(recipe) | {"attar": about})
        start = time.perf_counter() - (saved["seconds"] if saved is not None else 0.0)
        small = session.condense(folder, data, pool, recipe, saved=saved, every=every, notice=NOTICE)
        seconds = {"condense": time.perf_counter() - start}
        inner = recipe.condense.outer_iterations * recipe.condense.inner_loop
        result = {"accuracy": {}, "seconds": seconds, "inner_iterations": inner}
        folder.write(runlog.RESULT, describe_result(small, data) | result)
    return small


def select(
    data: ImageData,
    method: str,
    pool: Pool | None = None,
    *,
    features: str = "early",
    recipe: str | None = None,
    folder: str | Path | None = None,
    **settings: Any,
) -> SyntheticSet:
    """A core-set: real images of `data` chosen by method random, herding (the mean of the chosen ones follows the mean
    of the class) or kcenter (the farthest from those so far), as a `SyntheticSet` of factor 1.

    features: what the images are compared by, early (the last features of an early-stage network, the first model of
    `pool` or one that is trained) or pixels. settings: ipc and seed; without a pool those of `NetworkConfig` and epochs
    too. folder: writes a run there. Raises `UserError` for an unknown method and a class of fewer than ipc images.
    """
    chosen = coresets.settled(_recipe("select", data, recipe, settings))
    coresets.check(data, method, chosen.condense.ipc)
    choose("features", features, coresets.FEATURES)
    if folder is not None:
        runlog.check_free(Path(folder), overwrite=False)
    embed: Embed = embedding.pixels
    words = "none" if method == "random" else "pixels"
    if method != "random" and features == "early":
        pool = pool or pools.pretrain(data, chosen.pool, chosen.network)
        pool.check(data)
        chosen = replace(chosen, network=pool.network)
        embed, words = coresets.by_first(pool, data), pool.members[0].name
    start = time.perf_counter()
    small = coresets.select(data, method, chosen.condense.ipc, embed, seed=chosen.condense.seed)
    small = replace(small, recipe=coresets.sections(chosen))
    if folder is not None:
        with runlog.opened(Path(folder)) as run:
            runlog.create(run.path, overwrite=False)
            about = {"environment": runlog.environment(data.device), "method": method, "features": words}
            run.write(runlog.CONFIG, small.recipe | {"attar": about})
            store.save_set(run.path / store.CONDENSED, small)
            seconds = {"select": time.perf_counter() - start}
            result = {"features": words, "accuracy": {}, "seconds": seconds}
            run.write(runlog.RESULT, describe_result(small, data) | result)
    return small


def evaluate(small: SyntheticSet, data: ImageData, *, recipe: str | None = None, **settings: Any) -> dict[str, Any]:
    """Accuracies, as fractions, of fresh networks trained on `small` and tested on the test images of `data`.

    settings: the fields of `EvaluateConfig`, such as networks=["convnet"], runs=3, and width and norm_type. The rest is
    as in the run that made `small`. Returns what `result.json` holds.
    """
    sections = small.recipe if recipe is None else {}
    base = recipes.overlay(Recipe(), sections) if sections else _recipe("evaluate", data, recipe, {})
    chosen = recipes.overlay(base, recipes.by_section(FLAGS["evaluate"], settings))
    start = time.perf_counter()
    measured = evaluation.evaluate(small, data, chosen.evaluate, chosen.network)
    seconds = {"evaluate": time.perf_counter() - start}
    rest = {"protocol": evaluation.protocol(chosen.evaluate, chosen.network, data), "seconds": seconds}
    return describe_result(small, data) | measured | evaluation.gains(measured) | rest


def describe_result(small: SyntheticSet, data: ImageData) -> dict[str, Any]:
    """The head of `result.json`."""
    real = int(torch.isin(data.labels, small.labels.to(data.labels.device)).sum())
    return describe_set(small, data.name, devices.describe(data.device), real) | {"tested_on": data.tested_on}


def describe_set(small: SyntheticSet, dataset: str, device: str, real: int | None) -> dict[str, Any]:
    """The head of `result.json`; `real`: training images of the set's classes, None where that is not known."""
    pixels = math.prod(small.images.shape[1:])
    sizes = {
        "real": {"images": real or 0, "bytes": (real or 0) * pixels},
        "stored": {"images": len(small.images), "bytes": len(small.images) * pixels},
    }  # bytes of 8-bit pixels
    return {
        "attar": __version__,
        "dataset": dataset,
        "ipc": small.ipc,
        "factor": small.factor,
        "method": small.method,
        "device": device,
        **({"sizes": sizes} if real is not None else {}),
    }


def _recipe(verb: str, data: ImageData, recipe: str | None, settings: dict[str, Any]) -> Recipe:
    if recipe is None and not recipes.has_own(data.name):
        return recipes.resolve(FLAGS[verb], {"dataset": data.name} | settings, shape=recipes.shape_of(data))
    chosen = recipes.resolve(FLAGS[verb], settings, recipe=recipe or data.name)
    return recipes.overlay(chosen, {"data": {"dataset": data.name}})
