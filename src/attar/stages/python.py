"""None"""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.condensation import loop as condensation
from attar.condensation.setup import check_data, set_up
from attar.data.images import ImageData
from attar.data.load import load as load_data
from attar.engine import device as devices
from attar.errors import choose
from attar.evaluation import measure, protocol
from attar.runs import checkpoint, resume, run_folder
from attar.runs.checkpoint import Interval
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.selection import coresets, embeddings
from attar.selection.embeddings import Embed
from attar.sets import partition, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, Recipe
from attar.stages import schedule
from attar.training import early_stage, pool_files
from attar.training import pool as pool_module
from attar.training.pool import Pool

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
    return load_data(
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
    return early_stage.pretrain(data, chosen.pool, chosen.network, folder=Path(folder) if folder else None)


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
        chosen = resume.keep_fitted(kept, chosen, auto.CHOSEN, layers.by_section(FLAGS["condense"], settings))
    if minutes is not None and kept is not None:
        chosen = resume.keep_fitted(kept, chosen, schedule.FITTED)
    elif minutes is not None:
        check_data(data, chosen.condense)
        chosen = schedule.fit(data, chosen, 60 * minutes, logging.getLogger("attar").warning)
    if pool is None:
        check_data(data, chosen.condense)
        pool = _pool(data, chosen)
    chosen = replace(chosen, network=pool.network)
    if not split:
        return _condense_one(path, data, pool, chosen, save_every)
    condensed = []
    for phase in range(partition.parts_of(data.nclass, chosen.condense.nclass_sub or data.nclass)):
        part = replace(chosen, condense=replace(chosen.condense, phase=phase))
        condensed.append(_condense_one(path and path / "parts" / str(phase), data, pool, part, save_every))
    return partition.concatenate(condensed)


def _pool(data: ImageData, recipe: Recipe) -> Pool:
    """The models that a recipe names or describes; none for fresh networks."""
    if recipe.condense.network_init == "fresh":
        return pool_module.empty(data, recipe.network)
    paths = [Path(name) for name in recipe.condense.model_path]
    return (
        pool_files.load(paths, data, recipe.network)
        if paths
        else early_stage.pretrain(data, recipe.pool, recipe.network)
    )


def _kept(path: Path) -> Recipe | None:
    """The settings of the run that a folder holds, if it holds one."""
    return resume.kept_recipe(RunFolder(path)) if (path / run_folder.CONFIG).exists() else None


def _condense_one(path: Path | None, data: ImageData, pool: Pool, recipe: Recipe, save_every: str) -> SyntheticSet:
    if path is not None:
        return _condense_in(path, data, pool, recipe, checkpoint.interval(save_every))
    return replace(condensation.run(data, pool, recipe.condense, notice=NOTICE), recipe=layers.as_sections(recipe))


def _condense_in(path: Path, data: ImageData, pool: Pool, recipe: Recipe, every: Interval) -> SyntheticSet:
    set_up(data, pool, recipe.condense)
    with run_folder.opened(path) as folder:
        if (path / run_folder.CONFIG).exists():
            begun = resume.open_existing(folder, recipe, warnings.warn)
            recipe, about, saved = begun.recipe, begun.about, begun.saved
            if begun.finished:
                return set_files.load_set(path)
        else:
            run_folder.create(path, overwrite=False)
            about, saved = {"environment": run_folder.environment(data.device)}, None
        folder.write(run_folder.CONFIG, layers.as_sections(recipe) | {"attar": about})
        start = time.perf_counter() - (saved["seconds"] if saved is not None else 0.0)
        condensed = resume.condense(folder, data, pool, recipe, saved=saved, every=every, notice=NOTICE)
        seconds = {"condense": time.perf_counter() - start}
        inner = recipe.condense.outer_iterations * recipe.condense.inner_loop
        result = {"accuracy": {}, "seconds": seconds, "inner_iterations": inner}
        folder.write(run_folder.RESULT, describe_result(condensed, data) | result)
    return condensed


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
        run_folder.check_free(Path(folder), overwrite=False)
    embed: Embed = embeddings.pixels
    words = "none" if method == "random" else "pixels"
    if method != "random" and features == "early":
        pool = pool or early_stage.pretrain(data, chosen.pool, chosen.network)
        pool.check(data)
        chosen = replace(chosen, network=pool.network)
        embed, words = coresets.by_first(pool, data), pool.members[0].name
    start = time.perf_counter()
    condensed = coresets.select(data, method, chosen.condense.ipc, embed, seed=chosen.condense.seed)
    condensed = replace(condensed, recipe=coresets.sections(chosen))
    if folder is not None:
        with run_folder.opened(Path(folder)) as run:
            run_folder.create(run.path, overwrite=False)
            about = {"environment": run_folder.environment(data.device), "method": method, "features": words}
            run.write(run_folder.CONFIG, condensed.recipe | {"attar": about})
            set_files.save_set(run.path / set_files.CONDENSED, condensed)
            seconds = {"select": time.perf_counter() - start}
            result = {"features": words, "accuracy": {}, "seconds": seconds}
            run.write(run_folder.RESULT, describe_result(condensed, data) | result)
    return condensed


def evaluate(condensed: SyntheticSet, data: ImageData, *, recipe: str | None = None, **settings: Any) -> dict[str, Any]:
    """Accuracies, as fractions, of fresh networks trained on `condensed` and tested on the test images of `data`.

    settings: the fields of `EvaluateConfig`, such as networks=["convnet"], runs=3, and width and norm_type. The rest is
    as in the run that made `condensed`. Returns what `result.json` holds.
    """
    sections = condensed.recipe if recipe is None else {}
    base = recipes.overlay(Recipe(), sections) if sections else _recipe("evaluate", data, recipe, {})
    chosen = recipes.overlay(base, layers.by_section(FLAGS["evaluate"], settings))
    start = time.perf_counter()
    measured = measure.evaluate(condensed, data, chosen.evaluate, chosen.network)
    seconds = {"evaluate": time.perf_counter() - start}
    rest = {"protocol": protocol.protocol_of(chosen.evaluate, chosen.network, data), "seconds": seconds}
    return describe_result(condensed, data) | measured | protocol.gains(measured) | rest


def _recipe(verb: str, data: ImageData, recipe: str | None, settings: dict[str, Any]) -> Recipe:
    if recipe is None and not recipes.has_own(data.name):
        return layers.resolve(FLAGS[verb], {"dataset": data.name} | settings, shape=auto.shape_of(data))
    chosen = layers.resolve(FLAGS[verb], settings, recipe=recipe or data.name)
    return recipes.overlay(chosen, {"data": {"dataset": data.name}})
