"""Evaluation: accuracies of networks trained on a condensed set, and on the sets it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from attar.data.images import ImageData
from attar.data.sources import hub
from attar.engine.workers import ThreadWorkers
from attar.errors import MissingError, UserError, counted
from attar.errors import log as logger
from attar.evaluation import measure
from attar.evaluation.protocol import (
    GAINS,
    MEASURED,
    check_set_fits,
    chosen_networks,
    gains,
    kinds_of,
    protocol_of,
)
from attar.evaluation.results import BY_CLASS, Evaluation, by_class
from attar.evaluation.trained import TrainedNetworks
from attar.report.of_run import write_report
from attar.runs import run_folder, sinks
from attar.runs.progress import Progress, shows_progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.sets import foreign, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, EvaluateConfig, Recipe
from attar.settings.layers import Layer
from attar.settings.typed import EvaluateSettings
from attar.stages.label import teacher_of
from attar.stages.schedule import QUICK
from attar.stages.shared import cluster_workers, given_images, load_data, name_as_setting, recipe_of_set, with_asked


@shows_progress
def evaluate(
    condensed: SyntheticSet | str | Path,
    data: Any = None,
    *,
    recipe: str | Path | None = None,
    factor: int | None = None,
    decode_type: str | None = None,
    normalized: bool = False,
    quick: bool = False,
    log: str | Sequence[str] = (),
    ray: str | None = None,
    progress: Progress | bool | None = None,
    **settings: Unpack[EvaluateSettings],
) -> Evaluation:
    """Train fresh networks on a condensed set, and on the sets it is compared with, and test them on real images.

    Args:
        condensed: a set, a run folder (its result.json and report.html are updated), a condensed file, or images that
            were exported or made by another tool, on disk or as USER/NAME on the Hugging Face hub.
        data: an `ImageData`, or what `attar.load` takes; by default the data that the set was made from.
        recipe: the name of a recipe, or a TOML file of settings, which go on top of those of the run that made the set
            unless the file says `recipe = "name"`.
        factor, decode_type, normalized: for images made by another tool: how they are decoded, and whether their values
            are normalised instead of in [0, 1].
        quick: one seed, and not on the whole set.
        log: send the accuracies to "tensorboard", "wandb" or both as well, where the set is in a run folder.
        ray: the address of a Ray cluster that trains the networks.
        progress: True shows bars and messages; nothing is shown by default.
        settings: fields of `EvaluateConfig`, such as networks=["convnet"] and runs=3, and width and norm_type.

    Returns:
        The accuracies: printed they are a table, as a mapping the content of `result.json`.

    Raises:
        UserError: where set and data do not fit each other.

    Example:
        result = attar.evaluate("runs/mine", networks=["convnet2", "convnet3"], runs=3)
        print(result)
        result.mean("convnet3")
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    logs = sinks.check_sinks(log)
    asked: dict[str, Any] = {**(QUICK if quick else {}), **settings}
    path = None if isinstance(condensed, SyntheticSet) else found(Path(condensed))
    data, asked, flags = name_as_setting("evaluate", data, asked)
    layer = layers.by_section(flags, asked)
    if recipe is not None:
        recipe, of_file = layers.on_top(str(recipe), FLAGS["evaluate"])
        if data is not None:  # the images are there
            of_file.pop("data", None)
        layer = {name: of_file.get(name, {}) | layer.get(name, {}) for name in of_file | layer}
    is_foreign_set = path is not None and foreign.is_foreign(path)
    if not is_foreign_set and (factor is not None or decode_type is not None or normalized):
        raise UserError(f"{path} says itself how it is decoded; factor, decode_type and normalized are for other sets")
    if path is not None and is_foreign_set:
        inputs = _foreign_set(path, data, recipe, layer, factor, decode_type, normalized, progress)
    else:
        inputs = _attar_set(condensed, data, recipe, layer, progress)
    if not inputs.recipe.evaluate.attacks and {"attack_eps", "attack_images"} & asked.keys():
        raise UserError("attack_eps and attack_images need attacks: fgsm, pgd or both")
    check_set_fits(inputs.condensed, inputs.data)
    warn_other_images(inputs.fingerprint, inputs.data)
    folder_of = path if path is not None and path.is_dir() and not is_foreign_set else None
    if logs and folder_of is None:
        raise UserError("log writes into the run folder, and this set is in none; leave log out")
    with ExitStack() as stack:
        condensed, folder = inputs.condensed, None
        if folder_of is not None:
            folder = stack.enter_context(run_folder.open_run_folder(folder_of))
            folder.read(run_folder.CONFIG, "attar")
            condensed = set_files.load_set(folder_of)  # under the lock: another process may have extended the run
            check_tested(folder, inputs.data)
            done = max((event.get("outer") or 0 for event in folder.events()), default=0)
            opened = stack.enter_context(sinks.open_sinks(logs, folder_of, condensed.recipe, done))
            folder = replace(folder, sinks=opened)
        with cluster_workers(ray, inputs.data.device, 1 if ray is not None else None) as workers:
            trained = TrainedNetworks(folder_of)
            return measure_into(folder, condensed, inputs.data, inputs.recipe, progress, workers, trained)


def evaluate_set(
    condensed: SyntheticSet | str | Path, data: Any = None, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `evaluate`; returns the content of result.json, and the accuracies of this evaluation alone."""
    evaluation = evaluate(condensed, data, **options)
    return evaluation.to_dict(), evaluation.measured


@dataclass(frozen=True, eq=False)
class EvaluationInputs:
    """A set, the data it is tested on, and the settings."""

    condensed: SyntheticSet
    data: ImageData
    recipe: Recipe
    fingerprint: Any  # of the training images that the set was made from, if recorded


def _attar_set(
    condensed: SyntheticSet | str | Path,
    data: Any,
    recipe: str | Path | None,
    layer: Layer,  # what the caller set, in a file too
    progress: Progress,
) -> EvaluationInputs:
    where, condensed = condensed, set_files.as_set(condensed)
    if recipe is not None:
        resolved = layers.laid_over(layers.resolve(FLAGS["evaluate"], {}, recipe=str(recipe)), layer)
    else:
        resolved = with_asked(recipe_of_set(condensed, where), layer, condensed.recipe)
    images = load_data(resolved, progress) if data is None else given_images(data, layer, progress)
    return EvaluationInputs(condensed, images, resolved, condensed.fingerprint)


def _foreign_set(
    path: Path,
    data: Any,
    recipe: str | Path | None,
    layer: Layer,  # what the caller set, in a file too
    factor: int | None,
    decode_type: str | None,
    normalized: bool,
    progress: Progress,
) -> EvaluationInputs:
    """Images that were exported or made by another tool, and the real data that the settings or the files name."""
    foreign_set = foreign.read(path)
    stored = foreign_set.recipe.get("data")
    names_data = isinstance(stored, Mapping) and "dataset" in stored
    if data is None and not names_data and "dataset" not in layer.get("data", {}):
        raise UserError(f"{path} does not say which data it stands for; name the real data with -d")
    resolved = with_asked(recipes.of_file(foreign_set.recipe, path, handed_on=True), layer, foreign_set.recipe)
    images = load_data(resolved, progress) if data is None else given_images(data, layer, progress)
    if recipe is not None:
        resolved = layers.laid_over(layers.resolve(FLAGS["evaluate"], {}, recipe=str(recipe)), layer)
    elif not foreign_set.recipe:
        fitting = recipes.for_data(images.name, images.nclass, shape=auto.shape_of(images))
        resolved = layers.laid_over(fitting, layer)
    condensed = foreign.as_set(foreign_set, images, factor=factor, decode_type=decode_type, normalized=normalized)
    logger.info(
        "%s: %s, factor %d, decode type %s",
        *(path, counted(len(condensed.labels), "image"), condensed.factor, condensed.decode_type),
    )
    return EvaluationInputs(condensed, images, resolved, foreign_set.meta.get("fingerprint"))


def found(path: Path) -> Path:
    """A path that is there, or the files of a set that is called so on the Hugging Face hub, USER/NAME.

    Raises `MissingError` where there is neither, `UserError` for a data set of the hub without images.
    """
    if path.exists():
        return path
    if not hub.is_name(path.as_posix()) or ":" in str(path) or path.parent.exists():
        raise MissingError(f"there is no run folder or file {path}")
    folder = hub.snapshot(path.as_posix())
    if not foreign.is_foreign(folder):
        raise UserError(f"{path} on the Hugging Face hub holds neither parquet files nor folders of images")
    return folder


def check_tested(folder: RunFolder, data: ImageData) -> None:
    """Raise `UserError` where the accuracies in a folder are on other test images, such as a holdout for tuning."""
    tested_on = folder.read(run_folder.RESULT).get("tested_on", data.tested_on)
    if tested_on != data.tested_on:
        raise UserError(
            f"the accuracies in {folder.path} are on {tested_on}, and stay so; "
            f"`attar evaluate {folder.path / set_files.CONDENSED}` tests on the {data.tested_on}, and keeps nothing"
        )


def warn_other_images(fingerprint: Any, data: ImageData) -> None:
    """Warn when a set was made from other training images: a test split taken from them may overlap with these."""
    if fingerprint and fingerprint != data.fingerprint:
        logger.warning(
            "the set was made of other training images (fingerprint %s) than %s has now (%s); where the test images "
            "are a share of all, the set may have been made of some of them",
            *(fingerprint, data.name, data.fingerprint),
        )


def measure_into(
    folder: RunFolder | None,
    condensed: SyntheticSet,
    data: ImageData,
    recipe: Recipe,
    progress: Progress,
    workers: ThreadWorkers | None,
    trained: TrainedNetworks,
) -> Evaluation:
    """Evaluate, and update result.json and report.html of the run folder, if there is one.

    `trained` records each network, so that an interrupted evaluation resumes with the next one.
    """
    result = describe_result(condensed, data) | {"accuracy": {}, "seconds": {}}
    if folder is not None:
        folder.events()  # raises for a damaged file now, not after the work
        folder.snapshots()
        result |= folder.read(run_folder.RESULT, "seconds", "protocol", BY_CLASS, *MEASURED)
    protocol = protocol_of(recipe.evaluate, recipe.network, data)
    if result.get("protocol", protocol) != protocol:  # numbers of two protocols cannot be compared
        if result.get("accuracy"):
            logger.warning("accuracies of another protocol that were in the folder are replaced")
        result = {key: value for key, value in result.items() if key not in (BY_CLASS, *MEASURED)}
    result |= describe_result(condensed, data)
    count = len(kinds_of(condensed, recipe.evaluate)) * recipe.evaluate.runs
    teacher = teacher_of(condensed, data, progress)
    networks = chosen_networks(recipe.evaluate, recipe.network)
    with progress.stage("evaluate", count * len(networks)) as stage:
        measured = measure.evaluate(
            condensed,
            data,
            recipe.evaluate,
            recipe.network,
            advance=stage.advance,
            trained=trained,
            workers=workers,
            teacher=teacher,
        )
    result["seconds"] = {**result["seconds"], "evaluate": trained.seconds}
    result["protocol"] = protocol
    assert data.test_labels is not None  # see `check_set_fits`
    measures, earlier = by_class(measured.predictions, data.test_labels, data.classes), result.pop(BY_CLASS, {})
    for name, entries in measured.items():
        before = result.get(name, {})
        if fewer := [network for network, entry in entries.items() if entry["n"] < before.get(network, entry)["n"]]:
            logger.warning("%s, %s: replaced by fewer networks than before", MEASURED[name][0], ", ".join(fewer))
        result[name] = {**before, **entries}
        kept = {network: value for network, value in earlier.get(name, {}).items() if network not in entries}
        measures[name] = kept | measures.get(name, {})
    result[BY_CLASS] = earlier | {name: entries for name, entries in measures.items() if entries}
    own = next(iter(chosen_networks(EvaluateConfig(), recipe.network)))
    result = {key: value for key, value in result.items() if key not in GAINS} | gains(result, own)
    if folder is not None:
        event = {"event": "evaluation", "outer": None, **measured}
        if folder.events()[-1:] != [event]:  # a session that was interrupted later has written it
            folder.event(event)
        folder.write(run_folder.RESULT, result)
        write_report(folder, condensed, result, data)
        trained.remove_file()
    return Evaluation(result, measured, measured.predictions, data.test_labels)
