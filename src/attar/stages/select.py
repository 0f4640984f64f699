"""Core-sets: real images of each class, in memory or in a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.errors import MissingError, choose
from attar.report import pictures
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.selection import coresets, embeddings
from attar.selection.embeddings import Embed
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe
from attar.stages.pretrain import default_folder, length_asked_for, train_pool
from attar.stages.shared import RUNS, Inputs, Stopwatch, about_run, check, named_folder, resolve_inputs
from attar.training import early_stage, pool_files
from attar.training.pool import Pool

DEFAULT = object()  # the folder runs/<data set>-<method>-ipc<ipc>


def select(
    data: Any,
    method: str,
    pool: Pool | None = None,
    *,
    features: str | None = None,
    recipe: str | Path | None = None,
    folder: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SyntheticSet:
    """A core-set: real images of each class, as a `SyntheticSet` of factor 1.

    Args:
        data: what `attar.load` takes, or an `ImageData`.
        method: "random", "herding" (the mean of the chosen ones follows the mean of the class) or "kcenter" (the
            farthest from those so far).
        pool: early-stage models, the first of which embeds the images; trained first where there are none.
        features: what images are compared by: "early" (the last features of an early-stage model, the default),
            "pixels", or the file or folder of a pool.
        recipe: a recipe's name, or a TOML file of settings.
        folder: writes a run there: settings, the set, pictures, a report. None keeps nothing.
        overwrite: replace the run that `folder` holds.
        progress: where progress is shown; nowhere by default.
        settings: ipc and seed; without a pool the fields of `NetworkConfig` and epochs too.

    Returns:
        The core-set, on the device of the data.

    Raises:
        UserError: for an unknown method, and for a class of fewer than ipc images.
    """
    progress = progress or Progress()
    choose("core-set", method, coresets.CORESETS)
    features = check_features(features)
    inputs = resolve_inputs("select", data, settings, recipe=recipe, progress=progress)
    inputs = inputs.with_recipe(coresets.coreset_recipe(inputs.recipe))
    if pool is not None and method != "random" and features == "early":
        pool.check(inputs.data)
        inputs = inputs.with_recipe(replace(inputs.recipe, network=pool.network))
    path = None
    if folder is not None:
        name = f"{inputs.data.name}-{method}-ipc{inputs.recipe.condense.ipc}"
        path = RUNS / name if folder is DEFAULT else named_folder(folder, inputs.recipe)
        run_folder.check_free(path, overwrite=overwrite)
    check(inputs.data, inputs.recipe)
    coresets.check_coreset(inputs.data, method, inputs.recipe.condense.ipc)
    compared_by: tuple[Embed, str] = (embeddings.pixels, "none" if method == "random" else "pixels")
    seconds: dict[str, float] = {}
    if method != "random" and features != "pixels":
        with Stopwatch() as pretraining:
            compared_by = by_model(inputs, pool, features, progress, keep=path is not None)
        seconds["pretrain"] = pretraining.seconds
    if path is None:
        return choose_images(inputs.data, method, inputs.recipe, compared_by[0], progress)
    with run_folder.opened(path) as opened:
        run_folder.create(path, overwrite=overwrite)
        return select_into(opened, inputs.data, method, inputs.recipe, compared_by, progress, seconds)


def choose_images(data: ImageData, method: str, recipe: Recipe, embed: Embed, progress: Progress) -> SyntheticSet:
    """The core-set, with the settings that made it."""
    with progress.stage("select", data.nclass) as bar:
        condensed = coresets.select(
            data, method, recipe.condense.ipc, embed, seed=recipe.condense.seed, advance=bar.advance
        )
        devices.wait(data.device)
    return replace(condensed, recipe=coresets.recipe_sections(recipe))


def select_into(
    folder: RunFolder,
    data: ImageData,
    method: str,
    recipe: Recipe,
    compared_by: tuple[Embed, str],  # and in words
    progress: Progress,
    seconds: dict[str, float],  # of what came before
    *,
    command: str | None = None,
) -> SyntheticSet:
    """Choose, and leave what a run leaves; result.json is written last: a folder that has it is done."""
    embed, words = compared_by
    with Stopwatch() as watch:
        condensed = choose_images(data, method, recipe, embed, progress)
    about = about_run(data, command) | {"method": method, "features": words}
    folder.write(run_folder.CONFIG, condensed.recipe | {"attar": about})
    set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    spent = seconds | {"select": watch.seconds}
    result = describe_result(condensed, data) | {"features": words, "accuracy": {}, "seconds": spent}
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)
    return replace(condensed, folder=folder.path)


def check_features(features: str | None) -> str:
    """What embeds the images. Raises `UserError` for a name that is none, and no path."""
    if features is None or features in coresets.FEATURE_NAMES:
        return features or "early"
    if not Path(features).exists():
        if Path(features).suffix or "/" in features:
            raise MissingError(f"there is no pool at {features}; features are early, pixels or a pool")
        choose("features", features, coresets.FEATURE_NAMES)
    return features


def by_model(inputs: Inputs, pool: Pool | None, features: str, progress: Progress, *, keep: bool) -> tuple[Embed, str]:
    """The features of an early-stage model, and its name. keep: whether one that is trained is kept."""
    data, recipe = inputs.data, inputs.recipe
    if features != "early":
        length = length_asked_for(recipe, inputs.explicit.get("pool", {}))
        pool = pool_files.load([Path(features)], data, recipe.network, length=length, limit=1)
    elif pool is None and keep:
        pool = train_pool(data, recipe, default_folder(data, recipe), progress)
    elif pool is None:
        pool = early_stage.pretrain(data, recipe.pool, recipe.network)
    return coresets.by_first_model(pool, data), pool.members[0].name
