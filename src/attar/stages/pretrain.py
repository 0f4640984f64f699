"""Early-stage models: trained into a pool, or found for a condensation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar import files
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, log
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.settings.config import Recipe
from attar.stages.shared import POOLS, named_folder, ray_workers, resolve_inputs
from attar.training import early_stage, pool_files
from attar.training.pool import Pool, empty

DEFAULT = object()  # the folder pool/<data set>-<network>


def pretrain(
    data: Any = None,
    *,
    recipe: str | Path | None = None,
    folder: Any = None,
    ray: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Pool:
    """Train early-stage models (Acc-DD section 3.2): a few networks, each for a few epochs only.

    Args:
        data: what `attar.load` takes, or an `ImageData`.
        recipe: a recipe's name, or a TOML file of settings.
        folder: where the models are kept as they are done; those that lie there already are not trained again. None
            keeps them in memory only.
        ray: the address of a Ray cluster that trains them, each in a task of its own.
        progress: where progress is shown; nowhere by default.
        settings: the fields of `PoolConfig` and `NetworkConfig`, such as epochs=2, models=5, net_type="convnet".

    Returns:
        The pool, on the device of the data.

    Raises:
        UserError: for settings or data that do not fit, and where training diverges.
    """
    progress = progress or Progress()
    inputs = resolve_inputs("pretrain", data, settings, recipe=recipe, progress=progress)
    chosen, images = inputs.recipe, inputs.data
    if chosen.condense.network_init == "fresh":
        raise UserError(f"method {chosen.condense.method} takes no pool: its networks are fresh")
    asked = inputs.explicit.get("pool", {})
    if "seed" in asked and "models" not in asked:
        chosen = replace(chosen, pool=replace(chosen.pool, models=1))
    path = (
        default_folder(images, chosen)
        if folder is DEFAULT
        else None
        if folder is None
        else named_folder(folder, chosen)
    )
    if path is not None:
        run_folder.check_folder(path)
    with ray_workers(ray, images.device, 1 if ray is not None else None) as workers:
        if inputs.fitted:
            log.info(inputs.fitted)
        return train_pool(images, chosen, path, progress, workers=workers)


def default_folder(data: ImageData, recipe: Recipe) -> Path:
    """The pool folder of a data set and a network."""
    return POOLS / pool_files.folder_name(data, recipe.network)


def train_pool(
    data: ImageData,
    recipe: Recipe,
    folder: Path | None,
    progress: Progress,
    *,
    fill: bool = False,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """The recipe's pool, with one step of progress per epoch; `fill`: other members of the folder may be part of it.

    One process at a time trains into a folder: another one waits, and finds the members there.
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
    steps = config.epochs if workers is None else 1  # of a remote member nothing is heard until it is done
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
    """The pool that `model_path` names, else that of the default folder, and the files to name for the same pool again.

    A pool that the recipe describes needs no files: the same is trained wherever it is missing. Fresh networks need
    none. explicit: settings of [pool] that were asked for; the models of a named pool have to agree with these alone.
    keep: whether models that are trained are kept in the default folder.
    """
    if recipe.condense.network_init == "fresh":
        return empty(data, recipe.network), ()
    if recipe.condense.model_path:
        pool = pool_files.load(
            [Path(name) for name in recipe.condense.model_path],
            data,
            recipe.network,
            length=length_asked_for(recipe, explicit),
            limit=recipe.pool.models if "models" in explicit else None,
        )
        log.info("pool: %d models from %s", len(pool), ", ".join(recipe.condense.model_path))
        return pool, named_files(pool)
    folder = default_folder(data, recipe) if keep else None
    pool = train_pool(data, recipe, folder, progress, fill=keep, workers=workers)
    return pool, () if early_stage.is_described(pool, recipe.pool) else named_files(pool)


def named_files(pool: Pool) -> tuple[str, ...]:
    """The files of a pool's models, of those that have one."""
    return tuple(str(member.file) for member in pool.members if member.file is not None)


def length_asked_for(recipe: Recipe, explicit: Collection[str]) -> dict[str, float]:
    """How long the models of a named pool have to be trained: what was asked for, nothing by default."""
    return {name: getattr(recipe.pool, name) for name in ("epochs", "fraction") if name in explicit}
