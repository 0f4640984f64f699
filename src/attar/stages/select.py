"""Core-sets: real images of each class, in memory or in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.errors import MissingError, UserError, choose
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress, shows_progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.selection import coresets, scores
from attar.sets import pictures, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import CORESET_NAMES, EPOCH_SCORE_NAMES, MEAN_SCORE_NAMES, SCORE_NAMES
from attar.settings.config import Recipe
from attar.settings.recipes import RECIPES
from attar.settings.typed import SelectSettings
from attar.stages.pretrain import check_pool_settings, default_folder, explicit_length, train_pool
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
from attar.training.pool import Pool, empty


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
    """A core-set: real images of each class, as a `SyntheticSet` of factor 1; `rded`: mosaics of their crops.

    Args:
        data: an `ImageData`, or what `attar.load` takes.
        method: "random"; by features "herding" (keeps the mean of the selected images near the mean of the class),
            "kcenter" (the next image is the farthest from those selected so far) or "moderate" (neither near the class
            mean nor far from it); the easiest for early-stage models by "el2n", "grand", "forgetting" or "aum"; "ccs"
            (of all degrees of difficulty but the highest); "rded" (mosaics of the crops that a model finds easiest).
        pool: early-stage models, or their file or folder; trained first by default. The first one embeds the images;
            el2n and grand are means over all; forgetting, aum and ccs need one that keeps its epochs.
        features: how images are embedded: "early" (the last features of an early-stage model, the default), "pixels",
            or the file or folder of a pool.
        recipe: the name of a recipe, or a TOML file of settings.
        folder: the run folder: settings, the set, pictures, a report. None writes nothing.
        overwrite: replace the run in `folder`.
        progress: True shows bars and messages; nothing is shown by default.
        settings: ipc and seed; factor for rded; without a pool also the fields of `NetworkConfig`, epochs and models.

    Returns:
        The core-set, on the device of the data.

    Raises:
        UserError: for an unknown method, or a class of fewer than ipc images.

    Example:
        chosen = attar.select("digits", "herding", ipc=10, features="pixels")
        result = attar.evaluate(chosen)
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    choose("core-set", method, CORESET_NAMES)
    if isinstance(pool, str | Path):
        features, pool = pool, None
    asks_features = features is not None
    features = check_features(None if features is None else str(features))
    whole: dict[str, Any] = {"factor": 1, "condense": {"match": "grad", "init": "random"}}  # others depend on these
    whole = {} if method == "rded" else whole
    inputs = resolve_inputs("select", data, {**whole, **settings}, recipe=recipe, progress=progress)
    check_takes(method, features, inputs, pool=pool, asks_features=asks_features)
    recipe_of_method = coresets.coreset_recipe(inputs.recipe, method)
    if method in EPOCH_SCORE_NAMES and (recipe is None or str(recipe) in RECIPES):
        asked, pool_settings = inputs.explicit.get("pool", {}), recipe_of_method.pool
        enough: dict[str, Any] = {"epochs": max(scores.ENOUGH_EPOCHS, pool_settings.epochs), "fraction": 1.0}
        changed = replace(pool_settings, **{name: value for name, value in enough.items() if name not in asked})
        recipe_of_method = replace(recipe_of_method, pool=changed)
    inputs = inputs.with_recipe(recipe_of_method)
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
    models: tuple[Pool, str] = (empty(inputs.data, inputs.recipe.network), "none" if method == "random" else "pixels")
    seconds: dict[str, float] = {}
    if method != "random" and features != "pixels":
        with Stopwatch() as pretraining:
            models = find_models(inputs, pool, features, progress, keep=path is not None)
        seconds["pretrain"] = pretraining.seconds
    if path is None:
        return choose_images(inputs.data, method, inputs.recipe, models[0], progress)
    with run_folder.open_run_folder(path) as opened:
        run_folder.create(path, overwrite=overwrite)
        return select_into(opened, inputs.data, method, inputs.recipe, models, progress, seconds)


def check_takes(
    method: str, features: str, inputs: Inputs, *, pool: Pool | None = None, asks_features: bool = False
) -> None:
    """Raise `UserError` for a factor, features or settings of models that have no effect on a method.

    asks_features: whether the caller named the features, or the pool.
    """
    if method != "rded" and inputs.recipe.condense.factor != 1:
        raise UserError(f"{method} selects whole images and takes no factor; leave it out")
    if method in (*SCORE_NAMES, "rded") and features == "pixels":
        raise UserError(f"{method} asks early-stage models, not pixels; leave features out, or name a pool")
    asked = [name for section in ("network", "pool") for name in inputs.explicit.get(section, {})]
    asked += ["features"] * (asks_features and method == "random")
    how = "random" if method == "random" else f"{method} by pixels"
    if asked and (method == "random" or features == "pixels"):
        raise UserError(f"{how} asks no model and takes no {', '.join(asked)}; leave {those(asked)} out")
    if "models" in asked and method not in MEAN_SCORE_NAMES:
        raise UserError(f"{method} asks one model, so the number of models does nothing; leave models out")
    if pool is not None:
        check_pool_settings(pool, inputs)


def those(names: Sequence[str]) -> str:
    """What stands for names that were named before: it or them."""
    return "it" if len(names) == 1 else "them"


def choose_images(data: ImageData, method: str, recipe: Recipe, pool: Pool, progress: Progress) -> SyntheticSet:
    """Select the images, and record the settings in the set."""
    with progress.stage("select", data.nclass) as bar:
        ipc, factor, seed = recipe.condense.ipc, recipe.condense.factor, recipe.condense.seed
        condensed = coresets.select(data, method, ipc, pool, factor=factor, seed=seed, advance=bar.advance)
        devices.wait(data.device)
    return replace(condensed, recipe=coresets.recipe_sections(recipe))


def select_into(
    folder: RunFolder,
    data: ImageData,
    method: str,
    recipe: Recipe,
    models: tuple[Pool, str],  # and what images are compared by, in words
    progress: Progress,
    seconds: dict[str, float],  # spent before, such as on pretraining
    *,
    command: str | None = None,  # that is recorded; the command of this process by default
) -> SyntheticSet:
    """Select the images and write the files of a run; result.json is written last and marks a finished run."""
    pool, features = models
    with Stopwatch() as watch:
        condensed = choose_images(data, method, recipe, pool, progress)
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


def find_models(
    inputs: Inputs, pool: Pool | None, features: str, progress: Progress, *, keep: bool
) -> tuple[Pool, str]:
    """The pool, and the name of its first model.

    keep: save a model that has to be trained in the default pool folder.
    """
    data, recipe = inputs.data, inputs.recipe
    if features != "early":
        length = explicit_length(recipe, inputs.explicit.get("pool", {}))
        limit = recipe.pool.models
        pool = pool_files.load([Path(features)], data, recipe.network, length=length, limit=limit)
    elif pool is None:
        pool = train_pool(data, recipe, default_folder(data, recipe) if keep else None, progress)
    return pool, pool.members[0].name
