"""Evaluation: accuracies of a condensed set beside its yardsticks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.data.images import ImageData
from attar.data.load import load as load_images
from attar.engine.workers import ThreadWorkers
from attar.errors import MissingError, UserError, log
from attar.evaluation import measure
from attar.evaluation.protocol import GAINS, MEASURED, check_set_fits, chosen_networks, gains, kinds_of, protocol_of
from attar.evaluation.trained import TrainedNetworks
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.sets import foreign, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, Recipe
from attar.stages.shared import load_data, ray_workers


def evaluate(condensed: SyntheticSet | str | Path, data: Any = None, **settings: Any) -> dict[str, Any]:
    """Train fresh networks on a condensed set, and on its yardsticks, and test them on real images.

    Args:
        condensed: a set; or a run folder, whose result.json and report.html are brought up to date, a condensed file,
            or images that were exported or made elsewhere.
        data: the real images, or what `attar.load` takes; by default those that the set was made of.
        recipe: a recipe's name, or a TOML file of settings; by default those of the run that made the set.
        factor, decode_type, normalized: how images that do not say so themselves are decoded, and whether they hold
            normalised values instead of [0, 1].
        ray: the address of a Ray cluster that trains the networks.
        progress: where progress is shown; nowhere by default.
        settings: the fields of `EvaluateConfig`, such as networks=["convnet"], runs=3, and width and norm_type.

    Returns:
        What `result.json` holds: accuracies as fractions, by kind of training set and network.

    Raises:
        UserError: where set and data do not fit each other.
    """
    return evaluate_set(condensed, data, **settings)[0]


def evaluate_set(
    condensed: SyntheticSet | str | Path,
    data: Any = None,
    *,
    recipe: str | Path | None = None,
    factor: int | None = None,
    decode_type: str | None = None,
    normalized: bool = False,
    ray: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `evaluate`; what result.json holds, and what of it was measured now."""
    progress = progress or Progress()
    path = None if isinstance(condensed, SyntheticSet) else Path(condensed)
    if path is not None and not path.exists():
        raise MissingError(f"there is no run folder or file {path}")
    made_elsewhere = path is not None and foreign.is_foreign(path)
    if not made_elsewhere and (factor is not None or decode_type is not None or normalized):
        raise UserError(f"{path} says itself how it is decoded; factor, decode_type and normalized are for other sets")
    if path is not None and made_elsewhere:
        given = _made_elsewhere(path, data, recipe, settings, factor, decode_type, normalized, progress)
    else:
        given = _made_by_attar(condensed, data, recipe, settings, progress)
    check_set_fits(given.condensed, given.data)
    warn_other_images(given.fingerprint, given.data)
    folder_of = path if path is not None and path.is_dir() and not made_elsewhere else None
    with run_folder.opened(folder_of) if folder_of else nullcontext() as folder:
        small = given.condensed
        if folder is not None and folder_of is not None:
            folder.read(run_folder.CONFIG, "attar")
            small = set_files.load_set(folder_of)  # again: another process may have made the run longer meanwhile
            check_tested(folder, given.data)
        with ray_workers(ray, given.data.device, 1 if ray is not None else None) as workers:
            trained = TrainedNetworks(folder_of)
            return measure_into(folder, small, given.data, given.recipe, progress, workers, trained)


@dataclass(frozen=True, eq=False)
class Given:
    """What is evaluated, on which data, by which settings; fingerprint: of the images that the set was made of."""

    condensed: SyntheticSet
    data: ImageData
    recipe: Recipe
    fingerprint: Any


def _made_by_attar(
    condensed: SyntheticSet | str | Path,
    data: Any,
    recipe: str | Path | None,
    settings: dict[str, Any],
    progress: Progress,
) -> Given:
    small = condensed if isinstance(condensed, SyntheticSet) else set_files.load_set(Path(condensed))
    base = recipes.overlay(Recipe(), small.recipe) if small.recipe else recipes.for_data(small.source)
    if recipe is not None:
        base = layers.resolve(FLAGS["evaluate"], {}, recipe=str(recipe))
    chosen = recipes.overlay(base, layers.by_section(FLAGS["evaluate"], settings))
    return Given(small, _images(data, chosen, progress), chosen, small.fingerprint)


def _made_elsewhere(
    path: Path,
    data: Any,
    recipe: str | Path | None,
    settings: dict[str, Any],
    factor: int | None,
    decode_type: str | None,
    normalized: bool,
    progress: Progress,
) -> Given:
    """Images that were exported or made by another tool, on the real data that the settings or they name."""
    foreign_set = foreign.read(path)
    layer = layers.by_section(FLAGS["evaluate"], settings)
    if data is None and not foreign_set.recipe and "dataset" not in layer.get("data", {}):
        raise UserError(f"{path} does not say which data it stands for; name the real data with -d")
    chosen = recipes.overlay(recipes.overlay(Recipe(), foreign_set.recipe), layer)
    images = _images(data, chosen, progress)
    if recipe is not None:
        chosen = recipes.overlay(layers.resolve(FLAGS["evaluate"], {}, recipe=str(recipe)), layer)
    elif not foreign_set.recipe:
        fitting = recipes.for_data(images.name, images.nclass, shape=auto.shape_of(images))
        chosen = recipes.overlay(fitting, layer)
    small = foreign.as_set(foreign_set, images, factor=factor, decode_type=decode_type, normalized=normalized)
    log.info("%s: %d images, factor %d, decode type %s", path, len(small.labels), small.factor, small.decode_type)
    return Given(small, images, chosen, foreign_set.meta.get("fingerprint"))


def _images(data: Any, recipe: Recipe, progress: Progress) -> ImageData:
    if data is None:
        return load_data(recipe, progress)
    return data if isinstance(data, ImageData) else load_images(data)


def check_tested(folder: RunFolder, data: ImageData) -> None:
    """Raise `UserError` where a folder's accuracies are of other images: settings are chosen by them (holdout)."""
    tested_on = folder.read(run_folder.RESULT).get("tested_on", data.tested_on)
    if tested_on != data.tested_on:
        raise UserError(
            f"the accuracies in {folder.path} are on {tested_on}, and stay so; "
            f"`attar evaluate {folder.path / set_files.CONDENSED}` tests on the {data.tested_on}, and keeps nothing"
        )


def warn_other_images(fingerprint: Any, data: ImageData) -> None:
    """Say so when a set was made of other training images: a test set taken from them may be another one now."""
    if fingerprint and fingerprint != data.fingerprint:
        log.warning(
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
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate, and bring result.json and report.html of the run folder up to date: what result.json says, and what is
    new in it.

    Each network that is trained is kept in `trained` until all are, so that an interrupted evaluation goes on.
    """
    result = describe_result(condensed, data) | {"accuracy": {}, "seconds": {}}
    if folder is not None:
        folder.events()  # a damaged file is refused before the work, not after it
        folder.snapshots()
        result |= folder.read(run_folder.RESULT, "seconds", "protocol", *MEASURED)
    protocol = protocol_of(recipe.evaluate, recipe.network, data)
    if result.get("protocol", protocol) != protocol:  # numbers of two protocols must not stand side by side
        result = {key: value for key, value in result.items() if key not in MEASURED}
    result |= describe_result(condensed, data)
    count = len(kinds_of(condensed, recipe.evaluate)) * recipe.evaluate.runs + recipe.evaluate.soft_labels
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
        )
    result["seconds"] = {**result["seconds"], "evaluate": trained.seconds}
    result["protocol"] = protocol
    for name, entries in measured.items():
        result[name] = {**result.get(name, {}), **entries}
    result = {key: value for key, value in result.items() if key not in GAINS} | gains(result)
    if folder is not None:
        event = {"event": "evaluation", "outer": None, **measured}
        if folder.events()[-1:] != [event]:  # told already, by a session that ended before its report
            folder.event(event)
        folder.write(run_folder.RESULT, result)
        write_report(folder, condensed, result)
        trained.remove_file()
    return result, measured
