"""Early-stage models: trained and kept in a pool folder, or found for a condensation."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from attar import files
from attar.condensation.matchable import check_matchable
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, counted, log
from attar.runs import run_folder
from attar.runs.progress import Progress, shows_progress
from attar.settings import layers
from attar.settings.config import FLAGS, Recipe
from attar.settings.typed import PretrainSettings
from attar.stages.shared import DEFAULT_FOLDER, POOL_ROOT, Inputs, cluster_workers, named_folder, resolve_inputs
from attar.training import early_stage, pool_files
from attar.training.pool import Pool, empty


@shows_progress
def pretrain(
    data: Any = None,
    *,
    recipe: str | Path | None = None,
    folder: Any = None,
    ray: str | None = None,
    progress: Progress | bool | None = None,
    **settings: Unpack[PretrainSettings],
) -> Pool:
    """Train early-stage models (Acc-DD section 3.2): a few networks, each for a few epochs only.

    Args:
        data: an `ImageData`, or what `attar.load` takes.
        recipe: the name of a recipe, or a TOML file of settings.
        folder: where the models are saved, each as soon as it is trained; models that are already there are not trained
            again. None keeps them in memory only.
        ray: the address of a Ray cluster that trains the models, one task for each.
        progress: True shows bars and messages; nothing is shown by default.
        settings: fields of `PoolConfig` and `NetworkConfig`, such as epochs=2, models=5, net_type="convnet".

    Returns:
        The pool, on the device of the data.

    Raises:
        UserError: for settings or data that do not fit, or where training diverges.

    Example:
        pool = attar.pretrain("digits", epochs=2, models=5)
        small = attar.condense("digits", pool, ipc=1)
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    inputs = resolve_inputs("pretrain", data, settings, recipe=recipe, progress=progress)
    config, images = inputs.recipe, inputs.data
    if not config.condense.takes_pool:
        raise UserError(f"method {config.condense.method} takes no pool: its networks are fresh")
    explicit = inputs.explicit.get("pool", {})
    if "seed" in explicit and "models" not in explicit:  # one seed means one model
        config = replace(config, pool=replace(config.pool, models=1))
    check_matchable(config.network, images, config.condense)
    path = None
    if folder is not None:
        path = default_folder(images, config) if folder is DEFAULT_FOLDER else named_folder(folder, config)
        run_folder.check_folder(path)
    with cluster_workers(ray, images.device, 1 if ray is not None else None) as workers:
        if inputs.fitted:
            log.info(inputs.fitted)
        return train_pool(images, config, path, progress, workers=workers)


def how_to_take(pool: Pool, out: str | None, settings: Mapping[str, Any]) -> str:
    """What makes `attar condense` take a pool, in words: it finds only the models that it would train itself.

    out: the folder that the caller named; settings: those that the caller named.
    """
    same = "the same data, recipe, network and method"
    if out is None and not layers.by_section(FLAGS["pretrain"], settings).get("pool"):
        return f"`attar condense` with {same} takes these models"
    paths = [member.file for member in pool.members if member.file is not None]
    alone = len(list(paths[0].parent.glob(f"*{files.SUFFIX}"))) == len(paths)
    named = shlex.join(map(str, [paths[0].parent] if alone else paths))
    return f"`attar condense` with {same} takes these models by --model_path {named}"


def default_folder(data: ImageData, recipe: Recipe) -> Path:
    """The pool folder of a data set and a network."""
    return POOL_ROOT / pool_files.folder_name(data, recipe.network)


def train_pool(
    data: ImageData,
    recipe: Recipe,
    folder: Path | None,
    progress: Progress,
    *,
    fill: bool = False,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """The pool that a recipe describes: read from the folder as far as it is there, and trained where it is not.

    Only one process at a time trains into a folder; another one waits, and then reads the models.
    fill: count models in the folder that have these settings and other seeds, too.
    """
    if folder is None:
        return _train(data, recipe, None, progress, fill=False, workers=workers)
    run_folder.check_folder(folder)
    with files.held(folder, wait=True):
        files.clean(folder, f"*{files.SUFFIX}")
        return _train(data, recipe, folder, progress, fill=fill, workers=workers)


def _train(
    data: ImageData,
    recipe: Recipe,
    folder: Path | None,
    progress: Progress,
    *,
    fill: bool,
    workers: ThreadWorkers | None,
) -> Pool:
    config, network = recipe.pool, recipe.network
    steps = config.epochs if workers is None else 1  # a model on the cluster reports only its end
    images = round(len(data.labels) * config.fraction) * config.epochs // steps
    with progress.stage("pretrain", config.models * steps, images=images) as stage:
        if fill and folder is not None:
            return early_stage.fill(data, config, network, folder, advance=stage.advance, workers=workers)
        return early_stage.pretrain(data, config, network, folder=folder, advance=stage.advance, workers=workers)


def find_pool(
    data: ImageData,
    recipe: Recipe,
    progress: Progress,
    *,
    explicit: Collection[str] = (),
    workers: ThreadWorkers | None = None,
    keep: bool = True,
) -> tuple[Pool, tuple[str, ...]]:
    """The pool of a condensation, and the files that `model_path` has to name for the same pool again.

    The pool is the one that `model_path` names, else that of the default folder; empty for fresh networks. No files are
    returned for a pool that the recipe describes completely: it would be trained again with the same bits.
    explicit: settings of [pool] that the caller set; the models of a named pool have to agree with these only.
    keep: whether models that are trained are saved in the default folder.
    """
    check_matchable(recipe.network, data, recipe.condense)
    if not recipe.condense.takes_pool:
        return empty(data, recipe.network), ()
    if recipe.condense.model_path:
        pool = pool_files.load(
            [Path(name) for name in recipe.condense.model_path],
            data,
            recipe.network,
            length=explicit_length(recipe, explicit),
            limit=recipe.pool.models if "models" in explicit else None,
        )
        unlike = pool_files.differing([member.settings for member in pool.members])
        of_both = f", of unlike settings ({unlike})" * bool(unlike)
        log.info("pool: %s from %s%s", counted(len(pool), "model"), ", ".join(recipe.condense.model_path), of_both)
        return pool, member_files(pool)
    folder = default_folder(data, recipe) if keep else None
    pool = train_pool(data, recipe, folder, progress, fill=keep, workers=workers)
    return pool, () if early_stage.is_described(pool, recipe.pool) else member_files(pool)


def models_there(data: ImageData, recipe: Recipe) -> int:
    """How many models of a recipe's pool are in the default folder, and would not be trained."""
    folder, config = default_folder(data, recipe), recipe.pool
    if not recipe.condense.takes_pool:
        return 0
    return len(pool_files.members_there(folder, data, config, recipe.network)[0])


def member_files(pool: Pool) -> tuple[str, ...]:
    """The files of a pool's models, as far as they were saved."""
    return tuple(str(member.file) for member in pool.members if member.file is not None)


def describe_pool(pool: Pool) -> dict[str, Any]:
    """The entry of config.json that names the models of a pool and their accuracies, as fractions."""
    return {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}


def explicit_length(recipe: Recipe, explicit: Collection[str]) -> dict[str, float]:
    """{setting: value} of how long the models of a named pool must have been trained; only what the caller set."""
    return {name: getattr(recipe.pool, name) for name in ("epochs", "fraction") if name in explicit}


def check_pool_settings(pool: Pool, inputs: Inputs) -> None:
    """Raise `UserError` for a setting that the caller gave and the pool does not have."""
    there = pool_files.resolved_architecture(pool.network)
    asked = pool_files.resolved_architecture(inputs.recipe.network)
    for name in inputs.explicit.get("network", {}):
        key = name if name in there else "architecture"
        if asked[key] != there[key]:
            raise UserError(f"{name} belongs to attar.pretrain(...): the pool has {key} {there[key]}, not {asked[key]}")
    for name, value in explicit_length(inputs.recipe, inputs.explicit.get("pool", {})).items():
        if any(member.settings[name] != value for member in pool.members):
            raise UserError(f"{name} belongs to attar.pretrain(...): the pool was not trained with {name} {value:g}")


def warn_chance(pool: Pool, data: ImageData) -> None:
    """Warn where a pool is not better, by two standard errors, than naming the most frequent class."""
    accuracies = [member.accuracy for member in pool.members if member.accuracy is not None]
    if not accuracies or data.test_labels is None:
        return
    mean, tested = statistics.fmean(accuracies), len(data.test_labels)
    chance = int(data.test_labels.bincount().max()) / tested
    if mean < chance + 2 * math.sqrt(chance * (1 - chance) / tested / len(accuracies)):
        log.warning(
            "the early-stage models are not clearly better than chance (%.1f %% on average of %s, %.1f %% by always "
            "naming the most frequent class): matching learns little from such; train them longer with --pt_from",
            *(100 * mean, counted(tested, "image"), 100 * chance),
        )
