"""Core-sets: real images of each class, in memory or in a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.errors import MissingError, choose
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress, shows_progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.selection import coresets, embeddings
from attar.selection.embeddings import Embed
from attar.sets import pictures, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe
from attar.settings.typed import SelectSettings
from attar.stages.pretrain import default_folder, explicit_length, train_pool
from attar.stages.shared import (
    DEFAULT_FOLDER,
    RUN_ROOT,
    Inputs,
    Stopwatch,
    about_run,
    check_inputs,
    named_folder,
    resolve_inputs,
)
from attar.training import pool_files
from attar.training.pool import Pool


@shows_progress
def select(
    data: Any,
    method: str,
    pool: Pool | str | Path | None = None,
    *,
    features: str | Path | None = None,
    recipe: str | Path | None = None,
    folder: Any = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Unpack[SelectSettings],
) -> SyntheticSet:
    """A core-set: real images of each class, as a `SyntheticSet` of factor 1.

    Args:
        data: an `ImageData`, or what `attar.load` takes.
        method: "random", "herding" (keeps the mean of the selected images near the mean of the class) or "kcenter" (the
            next image is the farthest from those selected so far).
        pool: early-stage models, the first of which embeds the images, or their file or folder; trained first by
            default.
        features: how images are embedded: "early" (the last features of an early-stage model, the default), "pixels",
            or the file or folder of a pool.
        recipe: the name of a recipe, or a TOML file of settings.
        folder: the run folder: settings, the set, pictures, a report. None writes nothing.
        overwrite: replace the run in `folder`.
        progress: True shows bars and messages; nothing is shown by default.
        settings: ipc and seed; without a pool also the fields of `NetworkConfig`, and epochs.

    Returns:
        The core-set, on the device of the data.

    Raises:
        UserError: for an unknown method, or a class of fewer than ipc images.
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    choose("core-set", method, coresets.CORESETS)
    if isinstance(pool, str | Path):
        features, pool = pool, None
    features = check_features(None if features is None else str(features))
    inputs = resolve_inputs("select", data, settings, recipe=recipe, progress=progress)
    inputs = inputs.with_recipe(coresets.coreset_recipe(inputs.recipe))
    if pool is not None and method != "random" and features == "early":
        pool.check(inputs.data)
        inputs = inputs.with_recipe(replace(inputs.recipe, network=pool.network))
    path = None
    if folder is not None:
        name = f"{inputs.data.name}-{method}-ipc{inputs.recipe.condense.ipc}"
        path = RUN_ROOT / name if folder is DEFAULT_FOLDER else named_folder(folder, inputs.recipe)
        run_folder.check_free(path, overwrite=overwrite)
    check_inputs(inputs.data, inputs.recipe)
    coresets.check_coreset(inputs.data, method, inputs.recipe.condense.ipc)
    embedding: tuple[Embed, str] = (embeddings.pixels, "none" if method == "random" else "pixels")
    seconds: dict[str, float] = {}
    if method != "random" and features != "pixels":
        with Stopwatch() as pretraining:
            embedding = by_model(inputs, pool, features, progress, keep=path is not None)
        seconds["pretrain"] = pretraining.seconds
    if path is None:
        return choose_images(inputs.data, method, inputs.recipe, embedding[0], progress)
    with run_folder.open_run_folder(path) as opened:
        run_folder.create(path, overwrite=overwrite)
        return select_into(opened, inputs.data, method, inputs.recipe, embedding, progress, seconds)


def choose_images(data: ImageData, method: str, recipe: Recipe, embed: Embed, progress: Progress) -> SyntheticSet:
    """Select the images, and record the settings in the set."""
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
    embedding: tuple[Embed, str],  # and its name
    progress: Progress,
    seconds: dict[str, float],  # spent before, such as on pretraining
    *,
    command: str | None = None,  # that is recorded; the command of this process by default
) -> SyntheticSet:
    """Select the images and write the files of a run; result.json is written last and marks a finished run."""
    embed, features = embedding
    with Stopwatch() as watch:
        condensed = choose_images(data, method, recipe, embed, progress)
    about = about_run(data, command) | {"method": method, "features": features}
    folder.write(run_folder.CONFIG, condensed.recipe | {"attar": about})
    set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = describe_result(condensed, data) | {"features": features, "accuracy": {}}
    result["seconds"] = seconds | {"select": watch.seconds}
    write_report(folder, condensed, result, data)
    folder.write(run_folder.RESULT, result)
    return replace(condensed, folder=folder.path)


def check_features(features: str | None) -> str:
    """The embedding, "early" by default. Raises `UserError` for an unknown name, `MissingError` for a missing path."""
    if features is None or features in coresets.FEATURE_NAMES:
        return features or "early"
    if not Path(features).exists():
        if Path(features).suffix or "/" in features:
            raise MissingError(f"there is no pool at {features}; features are early, pixels or a pool")
        choose("features", features, coresets.FEATURE_NAMES)
    return features


def by_model(inputs: Inputs, pool: Pool | None, features: str, progress: Progress, *, keep: bool) -> tuple[Embed, str]:
    """The embedding by the first model of a pool, and the name of the model.

    keep: save a model that has to be trained in the default pool folder.
    """
    data, recipe = inputs.data, inputs.recipe
    if features != "early":
        length = explicit_length(recipe, inputs.explicit.get("pool", {}))
        pool = pool_files.load([Path(features)], data, recipe.network, length=length, limit=1)
    elif pool is None:
        pool = train_pool(data, recipe, default_folder(data, recipe) if keep else None, progress)
    return coresets.by_first_model(pool, data), pool.members[0].name
