"""Condensation as users ask for it: settings, real images and pool in; a synthetic set, and its run folder, out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.condensation import loop
from attar.condensation.setup import check_data, check_pool
from attar.condensation.state import check_images
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.errors import log as logger
from attar.runs import checkpoint, existing, run_folder, sinks
from attar.runs.existing import Run
from attar.runs.progress import Progress
from attar.runs.run_folder import RunFolder
from attar.sets import partition, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.config import FLAGS, Recipe, fitted_to, with_role
from attar.stages import schedule
from attar.stages.parts import PARTS, condense_parts, discard_parts, parts_of
from attar.stages.pretrain import find_pool, named_files
from attar.stages.run import Options, condense_run
from attar.stages.shared import (
    RUNS,
    Inputs,
    Stopwatch,
    about_run,
    check,
    load_data,
    named_folder,
    ray_workers,
    resolve_inputs,
    run_name,
)
from attar.training import early_stage
from attar.training.pool import Pool

DEFAULT = object()  # the folder runs/<data set>-ipc<ipc>


def condense(
    data: Any = None,
    pool: Pool | None = None,
    *,
    recipe: str | Path | None = None,
    reproduce: bool = False,
    folder: Any = None,
    overwrite: bool = False,
    resume: bool = True,
    save_every: str = checkpoint.EVERY,
    minutes: float | None = None,
    log: Sequence[str] = (),
    ray: str | None = None,
    ray_cpus: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> SyntheticSet:
    """Distil real images into a small synthetic set (Acc-DD algorithm 1, or another `method`).

    Args:
        data: what `attar.load` takes, or an `ImageData`.
        pool: early-stage models to match on; trained first where there are none. Methods with fresh networks take none.
        recipe: a recipe's name, a TOML file of settings, or a run's config.json.
        reproduce: insist on the published settings of the data set.
        folder: keeps a run there: settings, checkpoints, metrics, the set, pictures, a report. The models that are
            trained for it are kept in pool/<data set>-<network>. None keeps nothing.
        overwrite: replace the run that `folder` holds.
        resume: go on with the run that `folder` holds, make it longer where `niter` has grown, or read it where it is
            done; without it a run that is there is refused.
        save_every: time ("600s", "10m", "2h") or inner iterations ("50it") between two checkpoints; "none" for never.
        minutes: as many iterations as fit into them on this machine; a run that goes on keeps its own number.
        log: "tensorboard", "wandb" or both: the run's events go there as well.
        ray: the address of a Ray cluster on which the parts of a partition (`nclass_sub`) are condensed.
        ray_cpus: CPU threads of each part there.
        progress: where progress is shown; nowhere by default.
        settings: the fields of `CondenseConfig`, such as ipc=10, factor=2, speedup=10; without a pool those of
            `NetworkConfig`, epochs and models too. With `nclass_sub` and no `phase` all parts are condensed, each in
            `folder`/parts/<phase>, and joined.

    Returns:
        The condensed set, on the device of the data.

    Raises:
        UserError: for settings, data, pool and folder that do not fit; `Diverged` where numbers become infinite.
    """
    started = time.perf_counter()
    options = Options(checkpoint.interval(save_every), progress or Progress(), tuple(log))
    sinks.check(log)
    if minutes is not None and (clash := sorted(set(fitted_to("minutes")["condense"]) & settings.keys())):
        raise UserError(f"{clash[0]} and minutes exclude each other: both say how long the run is")
    inputs = resolve_inputs("condense", data, settings, recipe=recipe, published=reproduce, progress=options.progress)
    if minutes is not None and inputs.recipe.condense.phase is not None:
        raise UserError("minutes would give every part another schedule; give niter, or leave phase out")
    if pool is not None:
        inputs = inputs.with_recipe(replace(inputs.recipe, network=pool.network))
    if ray is not None and not inputs.recipe.condense.is_split:
        raise UserError("--ray spreads the parts of a partition: give --nclass_sub, and no --phase")
    if folder is None:
        return _in_memory(inputs, pool, minutes, started, options)
    path = RUNS / run_name(inputs.data, inputs.recipe) if folder is DEFAULT else named_folder(folder, inputs.recipe)
    with ray_workers(ray, inputs.data.device, ray_cpus) as workers:
        if resume and not overwrite and (path / run_folder.CONFIG).exists():
            inputs = _as_it_began(RunFolder(path), inputs, fit=minutes is not None)
            return _go_on(path, inputs, pool, options, workers)
        run_folder.check_free(path, overwrite=overwrite)
        check(inputs.data, inputs.recipe)
        if inputs.fitted:
            logger.info(inputs.fitted)
        inputs = _in_time(inputs, pool, minutes, started)
        with Stopwatch() as pretraining:
            pool, files = _pool_for(inputs, pool, options, workers)
        chosen = replace(inputs.recipe, network=pool.network)
        chosen = replace(chosen, condense=replace(chosen.condense, model_path=files))
        about = about_run(inputs.data) | _about_pool(pool, chosen) | {"seconds": {"pretrain": pretraining.seconds}}
        with run_folder.opened(path) as opened:
            run = existing.open_or_create(opened, chosen, about, overwrite=overwrite)
            if overwrite:
                discard_parts(path)
            return _carry_out(run, inputs.data, pool, options, workers)


def resume_run(
    folder: str | Path,
    *,
    save_every: str = checkpoint.EVERY,
    log: Sequence[str] = (),
    ray: str | None = None,
    ray_cpus: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> SyntheticSet:
    """Go on with the run in a folder, with the settings that it was begun with.

    Args:
        folder: the run folder.
        save_every, log, ray, ray_cpus, progress: as for `condense`.
        settings: what may change in a run that goes on: its length (`niter`, …), places and speed.

    Returns:
        The condensed set.

    Raises:
        UserError: where there is no run, or for a setting that cannot change any more.
    """
    sinks.check(log)
    options = Options(checkpoint.interval(save_every), progress or Progress(), tuple(log))
    path = named_folder(folder)
    explicit = layers.by_section(FLAGS["condense"], settings)
    for section, values in explicit.items():
        for name in values:
            if name not in with_role(section, "length", "place", "speed") or name == "model_path":
                raise UserError(f"--{name} cannot change what a run was begun with; leave it out beside --resume")
    recipe = recipes.overlay(existing.kept_recipe(RunFolder(path)), explicit)
    if ray is not None and not recipe.condense.is_split:
        raise UserError("--ray spreads the parts of a partition: give --nclass_sub, and no --phase")
    inputs = Inputs(recipe, load_data(recipe, options.progress), explicit, "")
    with ray_workers(ray, inputs.data.device, ray_cpus) as workers:
        return _go_on(path, inputs, None, options, workers)


# ---- what both share ----


def _as_it_began(folder: RunFolder, inputs: Inputs, *, fit: bool) -> Inputs:
    """The inputs with what was fitted, to the data or to a time, when the run in a folder began."""
    kept, chosen = existing.kept_recipe(folder), inputs.recipe
    if inputs.fitted:
        chosen = existing.keep_fitted(kept, chosen, fitted_to("data"), inputs.explicit)
    if fit:
        chosen = existing.keep_fitted(kept, chosen, fitted_to("minutes"))
    return inputs.with_recipe(chosen)


def _in_time(inputs: Inputs, pool: Pool | None, minutes: float | None, started: float) -> Inputs:
    """The inputs with as many iterations as fit into so many minutes, where these are named."""
    if minutes is None:
        return inputs
    check_data(inputs.data, inputs.recipe.condense)
    before = time.perf_counter() - started
    there = pool is not None or bool(inputs.recipe.condense.model_path)
    return inputs.with_recipe(schedule.fit(inputs.data, inputs.recipe, 60 * minutes, before=before, pool_there=there))


def _pool_for(
    inputs: Inputs, pool: Pool | None, options: Options, workers: ThreadWorkers | None = None, *, keep: bool = True
) -> tuple[Pool, tuple[str, ...]]:
    """The pool that was given, or the one that the settings describe, and the files that name it again."""
    recipe = inputs.recipe
    if pool is not None:
        check_pool(pool, inputs.data, recipe.condense)
        return pool, () if early_stage.is_described(pool, recipe.pool) else named_files(pool)
    explicit = inputs.explicit.get("pool", {})
    return find_pool(inputs.data, recipe, options.progress, explicit=explicit, workers=workers, keep=keep)


def _about_pool(pool: Pool, recipe: Recipe) -> dict[str, Any]:
    """What config.json says about the pool; of all parts together, each part says it."""
    if recipe.condense.is_split:
        return {}
    return {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}


def _in_memory(
    inputs: Inputs, pool: Pool | None, minutes: float | None, started: float, options: Options
) -> SyntheticSet:
    inputs = _in_time(inputs, pool, minutes, started)
    check(inputs.data, inputs.recipe)
    pool, _ = _pool_for(inputs, pool, options, keep=False)
    recipe = replace(inputs.recipe, network=pool.network)
    sets = [
        replace(loop.run(inputs.data, pool, part.condense), recipe=layers.as_sections(part))
        for part in (parts_of(inputs.data, recipe) if recipe.condense.is_split else [recipe])
    ]
    return partition.concatenate(sets) if recipe.condense.is_split else sets[0]


def _go_on(
    path: Path, inputs: Inputs, pool: Pool | None, options: Options, workers: ThreadWorkers | None
) -> SyntheticSet:
    """Continue the run in a folder, extend it, or say that it is done."""
    with run_folder.opened(path) as folder:
        kept = existing.kept_recipe(folder).condense.model_path  # the same models, whatever came to the pool
        asked = replace(inputs.recipe, condense=replace(inputs.recipe.condense, model_path=kept))
        run = existing.open_or_create(folder, asked, about_run(inputs.data))
        length = run.recipe.condense.outer_iterations
        if run.finished:
            logger.info("%s is done: %d outer iterations; a larger --niter makes it longer", path, length)
            return set_files.load_set(path)
        if run.recipe.condense.is_split:
            logger.info("going on with the parts in %s", path / PARTS)
        else:
            done = run.saved["outer"] if run.saved is not None else 0
            logger.info("going on with %s after %d of %d outer iterations", path, done, length)
        if run.saved is not None:
            check_images(run.saved, inputs.data)
        explicit: dict[str, dict[str, Any]] = {}
        pool, _ = _pool_for(Inputs(run.recipe, inputs.data, explicit, ""), pool, options, workers)
        return _carry_out(run, inputs.data, pool, options, workers)


def _carry_out(run: Run, data: ImageData, pool: Pool, options: Options, workers: ThreadWorkers | None) -> SyntheticSet:
    """All that is left of a run: of one set, or of the parts of a partition."""
    if run.recipe.condense.is_split:
        return condense_parts(run, data, pool, options, workers)
    return condense_run(run, data, pool, options)
