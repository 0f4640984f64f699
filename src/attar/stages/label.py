"""Soft labels: a teacher, trained on the real images, labels the training images of a set, which keeps the labels."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from attar.data.images import ImageData
from attar.errors import UserError, log
from attar.evaluation.protocol import RANDOM_SOFT, SOFT, check_set_fits, chosen_networks
from attar.evaluation.results import BY_CLASS
from attar.evaluation.teacher import soft_labels
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress, shows_progress
from attar.sets import foreign, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.config import PoolConfig, Recipe
from attar.settings.schema import settings_of
from attar.settings.typed import LabelSettings
from attar.stages.pretrain import default_folder, explicit_length, member_files, train_pool
from attar.stages.shared import given_images, load_data, name_as_setting, recipe_of_set, with_asked
from attar.training import pool_files
from attar.training.pool import Pool

POOL = "pool"  # the teacher: the early-stage models of the run
OTHERWISE = 0.05  # a probability that differs by more was said by another teacher, not by rounding


@shows_progress
def label(
    condensed: SyntheticSet | str | Path,
    data: Any = None,
    *,
    teacher: str | None = None,
    temperature: float = 1.0,
    progress: Progress | bool | None = None,
    **settings: Unpack[LabelSettings],
) -> SyntheticSet:
    """Let a teacher label the training images of a set: softmax(logits / temperature), beside the hard labels.

    Args:
        condensed: a set, or a run folder or condensed file, which is written again with the labels, and its report.
        data: the real images: an `ImageData`, or what `attar.load` takes; by default those that the set was made from.
        teacher: a network such as "resnet18", trained on all real images by the protocol of the evaluation, or "pool",
            the mean of the run's early-stage models. By default the network of the run.
        temperature: from 0.001 to 1000; above 1 the labels are softer.
        progress: True shows bars and messages; nothing is shown by default.
        settings: epochs (by default `whole_epochs`, of a pool its own), models, seed; width and norm_type, fields of
            `DataConfig`.

    Returns:
        The set with `soft_labels` and `teacher`. The teacher's models are in the pool folder of its network.

    Raises:
        UserError: where set and data do not fit each other, for an export, and for labels learned with the images.

    Example:
        labelled = attar.label("runs/mine", teacher="pool", temperature=2)
        labelled.soft_labels  # float32 [n, C], beside labelled.labels
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    low, high = set_files.TEMPERATURES
    if not low <= temperature <= high:
        raise UserError(f"temperature must be between {low:g} and {high:g}, not {temperature:g}")
    path = None if isinstance(condensed, SyntheticSet) else Path(condensed)
    if path is not None and foreign.is_foreign(path):
        raise UserError(f"{path} is an export or another tool's; label the run or condensed file that it is from")
    if path is not None and path.name == set_files.CONDENSED and (path.parent / run_folder.CONFIG).is_file():
        condensed = path = path.parent  # its accuracies and report go with the labels
    is_run = path is not None and path.is_dir()
    with run_folder.open_run_folder(path) if path is not None and is_run else nullcontext() as folder:
        where, condensed = condensed, set_files.as_set(condensed)
        if condensed.learned_labels is not None:
            raise UserError(f"the labels of this set were learned with its images ({condensed.method}), and stay")
        data, asked, flags = name_as_setting("label", data, settings)
        layer = layers.by_section(flags, asked)
        recipe = with_asked(recipe_of_set(condensed, where), layer, condensed.recipe)
        images = load_data(recipe, progress) if data is None else given_images(data, layer, progress)
        check_set_fits(condensed, images)
        recipe = _recipe_of(teacher, recipe, layer.get("pool", {}))
        paths = recipe.condense.model_path if teacher == POOL else ()
        if paths:
            models, recipe = _named_pool(images, recipe, layer.get("pool", {}))
        else:
            models = train_pool(images, recipe, default_folder(images, recipe), progress)
        accuracy = statistics.fmean(member.accuracy or 0.0 for member in models.members)
        about: dict[str, Any] = {"network": settings_of(recipe.network), "pool": settings_of(recipe.pool)}
        about |= {"temperature": float(temperature), "accuracy": accuracy, "tested_on": images.tested_on}
        about |= {"model_path": list(member_files(models))} if paths else {}
        soft = soft_labels(models, condensed.decoded()[0], images, temperature).to(condensed.images.device)
        log.info("teacher: %s of %s, %.1f %% on average", recipe.pool.in_words, recipe.network.net_type, 100 * accuracy)
        condensed = replace(condensed, soft_labels=soft, teacher=about)
        if path is not None:
            set_files.save_set(path / set_files.CONDENSED if is_run else path, condensed)
        if folder is not None:  # accuracies with labels of another teacher
            result = folder.read(run_folder.RESULT, BY_CLASS)
            for kind in (SOFT, RANDOM_SOFT):
                result.pop(kind, None)
                result.get(BY_CLASS, {}).pop(kind, None)
            folder.write(run_folder.RESULT, result)
            write_report(folder, condensed, result, images)
    return condensed


def _recipe_of(teacher: str | None, recipe: Recipe, asked: Mapping[str, Any]) -> Recipe:
    """Network and training of a teacher, as settings of a pool. asked: settings of [pool] that the caller set."""
    if teacher == POOL:
        return recipe
    how = recipe.evaluate
    networks = layers.by_section({}, {"evaluate": {"networks": () if teacher is None else teacher}})
    ((_, network),) = chosen_networks(recipes.overlay(recipe, networks).evaluate, recipe.network).items()
    names = ("lr", "momentum", "weight_decay", "batch_size", "aug_type", "mix_p")
    trained = {"epochs": how.whole_epochs, "models": 1} | {name: getattr(how, name) for name in names}
    return replace(recipe, network=network, pool=PoolConfig(**trained | dict(asked)))


def _named_pool(data: ImageData, recipe: Recipe, asked: Mapping[str, Any]) -> tuple[Pool, Recipe]:
    """The models whose files a run names, `asked` of them; and the recipe with the settings that they were trained by.

    Raises `UserError` for a seed, which the models have.
    """
    if "seed" in asked:
        raise UserError(f"seed belongs to attar pretrain: the run names its models, {recipe.condense.model_path[0]}, …")
    paths, limit = [Path(name) for name in recipe.condense.model_path], asked.get("models")
    models = pool_files.load(paths, data, recipe.network, length=explicit_length(recipe, asked), limit=limit)
    known = settings_of(recipe.pool).keys() & models.members[0].settings.keys()
    trained = {name: models.members[0].settings[name] for name in known} | {"models": len(models)}
    return models, recipes.overlay(recipe, {"pool": trained})


def teacher_of(condensed: SyntheticSet, data: ImageData, progress: Progress) -> Pool | None:
    """The models that labelled a set, from their files or trained again; None for a set without a teacher."""
    about = condensed.teacher
    if not about or condensed.soft_labels is None:
        return None
    recipe = recipes.of_file({name: about[name] for name in ("network", "pool")}, "the set's teacher")
    paths = [Path(name) for name in about.get("model_path", ())]
    if paths and all(path.is_file() for path in paths):
        models = pool_files.load(paths, data, recipe.network)
    else:
        models = train_pool(data, recipe, default_folder(data, recipe), progress)
    labels = soft_labels(models, condensed.decoded()[0], data, about["temperature"])
    off = float((labels.cpu() - condensed.soft_labels.cpu()).abs().max())
    if off > OTHERWISE:
        log.warning("the set's teacher, as it is trained here, gives other labels than the set has, by up to %.2g", off)
    return models
