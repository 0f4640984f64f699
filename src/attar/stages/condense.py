"""Condensation as users ask for it: from settings, real images and a pool to a synthetic set and its run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from attar.condensation.setup import check_planned, check_pool
from attar.condensation.state import check_images
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, counted
from attar.errors import log as logger
from attar.runs import checkpoint, existing, run_folder
from attar.runs.existing import Run
from attar.runs.progress import Progress, shows_progress
from attar.runs.run_folder import RunFolder
from attar.sets import partition, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers
from attar.settings.config import FLAGS, Recipe, fitted_to, with_role
from attar.settings.typed import CondenseSettings
from attar.stages import schedule
from attar.stages.clock import TimeLimit
from attar.stages.evaluate import evaluate_set
from attar.stages.parts import check_callback, condense_parts, discard_parts, settings_of_parts, workers_for_parts
from attar.stages.pretrain import check_pool_settings, describe_pool, find_pool, member_files, models_there, warn_chance
from attar.stages.run import Event, RunOptions, condense_in_memory, condense_run, run_options
from attar.stages.shared import (
    DEFAULT_FOLDER,
    RUN_ROOT,
    Inputs,
    Stopwatch,
    about_run,
    check_evaluated,
    check_inputs,
    check_moments,
    load_data,
    named_folder,
    resolve_inputs,
    run_name,
    say_past,
)
from attar.training import early_stage
from attar.training.pool import Pool


@shows_progress
def condense(
    data: Any = None,
    pool: Pool | str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    reproduce: bool = False,
    folder: Any = None,
    overwrite: bool = False,
    resume: bool = True,
    save_every: str = checkpoint.DEFAULT_INTERVAL,
    minutes: float | None = None,
    evaluate: bool = False,
    log: str | Sequence[str] = (),
    ray: str | None = None,
    ray_cpus: int | None = None,
    progress: Progress | bool | None = None,
    callback: Callable[[Event], object] | None = None,
    **settings: Unpack[CondenseSettings],
) -> SyntheticSet:
    """Distil real images into a small synthetic set (Acc-DD algorithm 1, or another `method`).

    Args:
        data: an `ImageData`, or what `attar.load` takes.
        pool: early-stage models to match on, or the file or folder of a pool; trained first by default. Methods with
            fresh networks take none.
        recipe: the name of a recipe, a TOML file of settings, or the config.json of a run.
        reproduce: insist on the published settings of the data set.
        folder: the run folder: settings, checkpoints, metrics, the set, pictures, a report. Models trained for it are
            kept in pool/<data set>-<network>. None writes nothing.
        overwrite: replace the run in `folder`.
        resume: resume the run in `folder`, extend it if `niter` has grown, or read it if it is finished; otherwise an
            existing run is refused.
        save_every: time ("600s", "10m", "2h") or inner iterations ("50it") between two checkpoints; "none" for never.
        minutes: end the run when this time is up, with its pool; the time of all sessions of a resumed run counts.
        evaluate: evaluate the set too, within the minutes where they are given.
        log: send the events of the run to "tensorboard", "wandb" or both as well.
        ray, ray_cpus: the address of a Ray cluster that condenses the parts of a partition (`nclass_sub`), and the CPU
            threads for each part there.
        progress: True shows bars and messages; nothing is shown by default.
        callback: called with an `Event` after each outer iteration. Where it returns False the run ends as if it had
            been asked for no more iterations. Where it raises, a run in a folder keeps a checkpoint to go on from.
        settings: fields of `CondenseConfig` (ipc=10, factor=2, ...); without a pool also of `NetworkConfig`, and epochs
            and models. `nclass_sub` without `phase` condenses all parts, in `folder`/parts/<phase>, and joins them.

    Returns:
        The condensed set, on the device of the data.

    Raises:
        UserError: for settings, data, pool and folder that do not fit; `Diverged` where numbers become infinite.

    Example:
        small = attar.condense("digits", ipc=1, folder="runs/mine")
        small.picture().save("small.png")
    """
    limit = TimeLimit(minutes, time.perf_counter(), evaluate)
    if isinstance(pool, str | Path):
        settings["model_path"], pool = str(pool), None
    options = run_options(save_every, progress, log, callback)
    limit.check(settings)
    inputs = resolve_inputs("condense", data, settings, recipe=recipe, published=reproduce, progress=options.progress)
    if pool is not None:
        check_pool_settings(pool, inputs)
        inputs = inputs.with_recipe(replace(inputs.recipe, network=pool.network))
    if evaluate:
        check_evaluated(inputs, in_folder=folder is not None)
    if folder is None:
        if ray is not None or ray_cpus is not None:
            raise UserError("ray condenses parts in run folders; name a folder, or leave ray and ray_cpus out")
        return _in_memory(inputs, pool, limit, options)
    is_default = folder is DEFAULT_FOLDER
    path = RUN_ROOT / run_name(inputs.data, inputs.recipe) if is_default else named_folder(folder, inputs.recipe)
    with workers_for_parts(ray, ray_cpus, inputs, options) as workers:
        if resume and not overwrite and (path / run_folder.CONFIG).exists():
            condensed = _resume(path, _as_fitted(RunFolder(path), inputs, limit), pool, options, workers)
        else:
            condensed = _start(path, inputs, pool, limit, options, workers, overwrite=overwrite, resume=resume)
    if evaluate:
        evaluate_set(path, inputs.data, quick=limit.quick, progress=options.progress)
    return condensed


@shows_progress
def resume_run(
    folder: str | Path,
    *,
    save_every: str = checkpoint.DEFAULT_INTERVAL,
    evaluate: bool = False,
    log: str | Sequence[str] = (),
    ray: str | None = None,
    ray_cpus: int | None = None,
    progress: Progress | bool | None = None,
    callback: Callable[[Event], object] | None = None,
    **settings: Any,
) -> SyntheticSet:
    """Resume the run in a folder, with the settings that it began with.

    Args:
        folder: the run folder.
        save_every, evaluate, log, ray, ray_cpus, progress, callback: as for `condense`.
        settings: what may change in a resumed run: its length (`niter`, …), `eval_at`, places and speed.

    Returns the condensed set. Raises `UserError` where there is no run, or for a setting that cannot change.
    """
    options = run_options(save_every, progress, log, callback)
    path = named_folder(folder)
    explicit = layers.by_section(FLAGS["condense"], settings)
    for section, values in explicit.items():
        for name in values:
            if name not in with_role(section, "length", "place", "speed", "scope") or name == "model_path":
                raise UserError(f"--{name} cannot change what a run was begun with; leave it out beside --resume")
    layers.check_length([name for name, value in explicit.get("condense", {}).items() if value is not None])
    recipe = layers.laid_over(existing.saved_recipe(RunFolder(path)), explicit)
    inputs = Inputs(recipe, load_data(recipe, options.progress), explicit, "")
    if evaluate:
        check_evaluated(inputs, in_folder=True)
    with workers_for_parts(ray, ray_cpus, inputs, options) as workers:
        condensed = _resume(path, inputs, None, options, workers)
    if evaluate:
        evaluate_set(path, inputs.data, progress=options.progress)
    return condensed


# ---- settings, data and pool of a run ----


def _as_fitted(folder: RunFolder, inputs: Inputs, limit: TimeLimit) -> Inputs:
    """The inputs with the settings that were fitted, to the data or to a time limit, when the run began."""
    saved, recipe = existing.saved_recipe(folder), inputs.recipe
    if inputs.fitted:
        recipe = existing.keep_fitted_settings(saved, recipe, fitted_to("data"), inputs.explicit)
    if limit.minutes is not None:
        recipe = existing.keep_fitted_settings(saved, recipe, fitted_to("minutes"))
    return inputs.with_recipe(recipe)


def _checked(inputs: Inputs, pool: Pool | None, limit: TimeLimit, *, keep: bool) -> Inputs:
    """The inputs of a new run after all checks, with as many iterations as the time limit allows; keep: `_pool_for`."""
    if limit.minutes is not None and inputs.recipe.condense.phase is not None:
        raise UserError("minutes would give every part another schedule; give niter, or leave phase out")
    check_inputs(inputs.data, inputs.recipe)
    is_trained = pool is not None or bool(inputs.recipe.condense.model_path)
    if not is_trained:
        check_planned(inputs.recipe.pool, inputs.recipe.condense)
    if inputs.fitted:
        logger.info(inputs.fitted)
    if limit.minutes is None:
        return inputs
    count = inputs.recipe.pool.models if is_trained else models_there(inputs.data, inputs.recipe) if keep else 0
    return inputs.with_recipe(schedule.fit_limit(inputs.data, inputs.recipe, limit, there=count))


def _pool_for(
    inputs: Inputs, pool: Pool | None, options: RunOptions, workers: ThreadWorkers | None = None, *, keep: bool = True
) -> tuple[Pool, Recipe]:
    """The pool, `pool` or else the one that the settings describe; and the settings that lead to it again.

    keep: whether models that are trained are kept in the default folder.
    """
    recipe = inputs.recipe
    if pool is not None:
        check_pool(pool, inputs.data, recipe.condense)
        names = () if early_stage.is_described(pool, recipe.pool) else member_files(pool)
    else:
        explicit = inputs.explicit.get("pool", {})
        pool, names = find_pool(inputs.data, recipe, options.progress, explicit=explicit, workers=workers, keep=keep)
    warn_chance(pool, inputs.data)
    return pool, replace(recipe, network=pool.network, condense=replace(recipe.condense, model_path=names))


# ---- a run in memory, a new one in a folder, one that is resumed ----


def _in_memory(inputs: Inputs, pool: Pool | None, limit: TimeLimit, options: RunOptions) -> SyntheticSet:
    if options.logs:
        raise UserError("log writes into the run folder; name a folder, or leave log out")
    check_callback(inputs, options)
    inputs = _checked(inputs, pool, limit, keep=False)
    pool, _ = _pool_for(inputs, pool, options, keep=False)
    recipe = replace(inputs.recipe, network=pool.network)
    parts = settings_of_parts(inputs.data, recipe) if recipe.condense.is_split else [recipe]
    if limit.minutes is not None and not recipe.condense.is_split:  # parts are to be of one length
        options = replace(options, seconds=limit.left())
    sets = [condense_in_memory(inputs.data, pool, part, options) for part in parts]
    return partition.concatenate(sets) if recipe.condense.is_split else sets[0]


def _start(
    path: Path,
    inputs: Inputs,
    pool: Pool | None,
    limit: TimeLimit,
    options: RunOptions,
    workers: ThreadWorkers | None,
    *,
    overwrite: bool,
    resume: bool,
) -> SyntheticSet:
    """Begin a run in a folder, and carry it out. All that can be refused is refused before the folder is made."""
    if (begins_with := inputs.recipe.condense.set_at_first) is not None:
        run_folder.check_not_made_of(path, begins_with)
    run_folder.check_free(path, overwrite=overwrite)
    inputs = _checked(inputs, pool, limit, keep=True)
    with Stopwatch() as pretraining:
        trained, recipe = _pool_for(inputs, pool, options, workers)
    pool_entry = {} if recipe.condense.is_split else describe_pool(trained)  # each part describes the pool itself
    about = about_run(inputs.data) | pool_entry | {"seconds": {"pretrain": pretraining.seconds}}
    if limit.minutes is not None and not recipe.condense.is_split:
        about["clock"] = {"minutes": limit.minutes, "seconds": limit.left()}
    with run_folder.open_run_folder(path) as folder:
        if overwrite or not (resume and existing.exists(folder)):
            run_folder.check_free(path, overwrite=overwrite, locked=True)
            run = existing.open_or_create(folder, recipe, about, overwrite=overwrite)
            if overwrite:
                discard_parts(path)
            return _carry_out(run, inputs.data, trained, options, workers)
    # another call began it while the models were trained
    return _resume(path, _as_fitted(RunFolder(path), inputs, limit), pool, options, workers)


def _resume(
    path: Path, inputs: Inputs, pool: Pool | None, options: RunOptions, workers: ThreadWorkers | None
) -> SyntheticSet:
    """Resume the run in a folder, or extend it; read it where it is finished."""
    with run_folder.open_run_folder(path) as folder:
        begun = existing.saved_recipe(folder).condense
        same_models = replace(inputs.recipe.condense, model_path=begun.model_path)  # whatever the pool holds by now
        run = existing.open_or_create(folder, replace(inputs.recipe, condense=same_models), about_run(inputs.data))
        check_moments(inputs.data, run.recipe, timed="clock" in run.about)
        length = run.recipe.condense.outer_iterations
        finished = length if run.finished else run.saved["outer"] if run.saved is not None else 0
        say_past(set(run.recipe.condense.eval_at) - set(begun.eval_at), finished, ended=run.finished)
        if run.finished:
            logger.info("%s is done: %s; a larger --niter makes it longer", path, counted(length, "outer iteration"))
            return set_files.load_set(path)
        if run.recipe.condense.is_split:
            logger.info("going on with the parts in %s", path / run_folder.PARTS)
        else:
            logger.info("going on with %s after %d of %s", path, finished, counted(length, "outer iteration"))
        if run.saved is not None:
            check_images(run.saved, inputs.data)
        pool, _ = _pool_for(Inputs(run.recipe, inputs.data, {}, ""), pool, options, workers)
        return _carry_out(run, inputs.data, pool, options, workers)


def _carry_out(
    run: Run, data: ImageData, pool: Pool, options: RunOptions, workers: ThreadWorkers | None
) -> SyntheticSet:
    is_split = run.recipe.condense.is_split
    return condense_parts(run, data, pool, options, workers) if is_split else condense_run(run, data, pool, options)
