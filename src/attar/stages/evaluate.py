"""`attar evaluate`: accuracies of a condensed set beside its yardsticks."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import MissingError, UserError
from attar.evaluation import measure
from attar.evaluation.protocol import check, chosen_networks, gains, kinds_of, protocol_of
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
from attar.stages.shared import elsewhere, load_data

YARDSTICK_NAMES = {
    "accuracy": "condensed",
    "soft_labels": "soft labels",
    "initial": "initial",
    "random_real": "random real",
    "whole": "whole set",
}
GAINS = {"ior": "condensed − random real", "hlr": "whole set − condensed"}  # fractions


def evaluate(
    run: str,
    given: dict[str, Any],
    *,
    quiet: bool,
    json: bool = False,
    factor: int | None = None,
    decode_type: str | None = None,
    normalized: bool = False,
    ray: str | None = None,
) -> None:
    """Evaluate a run folder (its result.json and report.html are brought up to date), a condensed file or other images.

    factor, decode_type, normalized: how images that do not say so themselves are decoded, and whether they hold
    normalised values instead of [0, 1].
    """
    path = Path(run)
    if not path.exists():
        raise MissingError(f"there is no run folder or file {run}")
    watch = Progress(quiet=quiet, json=json)
    if foreign.is_foreign(path):
        return _evaluate_foreign(path, given, factor, decode_type, normalized, watch, ray)
    if factor is not None or decode_type is not None or normalized:
        raise UserError(f"{run} says itself how it is decoded; factor, decode_type and normalized are for other sets")
    condensed = set_files.load_set(path)
    base = recipes.overlay(Recipe(), condensed.recipe) if condensed.recipe else recipes.for_data(condensed.source)
    recipe = recipes.overlay(base, layers.by_section(FLAGS["evaluate"], given))
    data = load_data(recipe, watch)
    check(condensed, data)
    compare(condensed.fingerprint, data, watch)
    with run_folder.opened(path) if path.is_dir() else nullcontext() as folder:
        if folder is not None:
            folder.read(run_folder.CONFIG, "attar")
            condensed = set_files.load_set(path)  # again: another process may have made the run longer meanwhile
            check_tested(folder, data)
        with elsewhere(ray, data.device, watch.say, 1 if ray is not None else None) as workers:
            evaluate_into(folder, condensed, data, recipe, watch, workers)


def check_tested(folder: RunFolder, data: ImageData) -> None:
    """Raise `UserError` where a folder's accuracies are of other images: settings are chosen by them (holdout)."""
    tested_on = folder.read(run_folder.RESULT).get("tested_on", data.tested_on)
    if tested_on != data.tested_on:
        raise UserError(
            f"the accuracies in {folder.path} are on {tested_on}, and stay so; "
            f"`attar evaluate {folder.path / set_files.CONDENSED}` tests on the {data.tested_on}, and keeps nothing"
        )


def _evaluate_foreign(
    path: Path,
    given: dict[str, Any],
    factor: int | None,
    decode_type: str | None,
    normalized: bool,
    watch: Progress,
    ray: str | None,
) -> None:
    """Evaluate images that were exported or made by another tool, on the real data that `given` or they name."""
    found = foreign.read(path)
    known = found.recipe
    layer = layers.by_section(FLAGS["evaluate"], given)
    if not known and "dataset" not in given and "d" not in given:
        raise UserError(f"{path} does not say which data it stands for; name the real data with -d")
    recipe = recipes.overlay(recipes.overlay(Recipe(), known), layer)
    data = load_data(recipe, watch)
    if not known:
        recipe = recipes.overlay(recipes.for_data(recipe.data.dataset, data.nclass, shape=auto.shape_of(data)), layer)
    condensed = foreign.as_set(
        found,
        data,
        factor=factor,
        decode_type=decode_type,
        normalized=normalized,
    )
    compare(found.meta.get("fingerprint"), data, watch)
    watch.say(f"{path}: {len(condensed.labels)} images, factor {condensed.factor}, decode type {condensed.decode_type}")
    with elsewhere(ray, data.device, watch.say, 1 if ray is not None else None) as workers:
        evaluate_into(None, condensed, data, recipe, watch, workers)


def compare(fingerprint: Any, data: ImageData, watch: Progress) -> None:
    """Say so when a set was made of other training images: a test set taken from them may be another one now."""
    if fingerprint and fingerprint != data.fingerprint:
        watch.say(
            f"the set was made of other training images than {data.name} has now; "
            f"where the test images are a share of all, the set may have been made of some of them"
        )


def evaluate_into(
    folder: RunFolder | None,
    condensed: SyntheticSet,
    data: ImageData,
    recipe: Recipe,
    watch: Progress,
    workers: ThreadWorkers | None = None,
) -> None:
    """Evaluate, print the table, and bring result.json and report.html of the run folder up to date."""
    result, measured = measure_into(
        folder, condensed, data, recipe, watch, workers, TrainedNetworks(folder.path if folder else None)
    )

    def show() -> None:
        print_table(result, measured)
        if folder is not None:
            print(f"report: {folder.path / run_folder.REPORT}")

    watch.result(result, show)


def measure_into(
    folder: RunFolder | None,
    condensed: SyntheticSet,
    data: ImageData,
    recipe: Recipe,
    watch: Progress,
    workers: ThreadWorkers | None,
    seeds: TrainedNetworks,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate, and bring result.json and report.html of the run folder up to date: what result.json says, and what is
    new in it.

    Each network that is trained is kept in `seeds` until all are, so that an interrupted evaluation goes on.
    """
    result = describe_result(condensed, data) | {"accuracy": {}, "seconds": {}}
    if folder is not None:
        folder.events()  # a damaged file is refused before the work, not after it
        folder.snapshots()
        result |= folder.read(run_folder.RESULT, "seconds", "protocol", *YARDSTICK_NAMES)
    protocol = protocol_of(recipe.evaluate, recipe.network, data)
    if result.get("protocol", protocol) != protocol:  # numbers of two protocols must not stand side by side
        result = {key: value for key, value in result.items() if key not in YARDSTICK_NAMES}
    result |= describe_result(condensed, data)
    each = len(kinds_of(condensed, recipe.evaluate)) * recipe.evaluate.runs + recipe.evaluate.soft_labels
    networks = chosen_networks(recipe.evaluate, recipe.network)
    with watch.stage("evaluate", each * len(networks)) as stage:
        measured = measure.evaluate(
            condensed,
            data,
            recipe.evaluate,
            recipe.network,
            report=stage.advance,
            known=seeds.known,
            keep=seeds.keep,
            workers=workers,
        )
    result["seconds"] = {**result["seconds"], "evaluate": seeds.seconds}
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
        seeds.forget()
    return result, measured


def print_table(result: dict[str, Any], measured: dict[str, Any]) -> None:
    """Accuracies in percent, mean ± std over n seeds, one row per network."""
    kinds = [name for name in YARDSTICK_NAMES if name in measured]
    stored = f"{result['ipc']} stored image{'s' * (result['ipc'] != 1)} per class"
    title = f"{result['dataset']}, {stored}, factor {result['factor']}: accuracy on {result['tested_on']}, %"
    table = Table(Column("network", overflow="fold"), *(YARDSTICK_NAMES[name] for name in kinds), title=title)
    for label in measured["accuracy"]:
        table.add_row(label, *(_percent(measured[name][label]) for name in kinds))
    Console().print(table)
    found = gains(measured)
    for label in measured["accuracy"]:
        fractions = [f"{name.upper()} {values[label]:+.3f} ({GAINS[name]})" for name, values in found.items()]
        if fractions:
            print(f"{label}: {', '.join(fractions)}")
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    entry, used = next(iter(measured["accuracy"].values())), result["protocol"]
    epochs = f"{entry['epochs']} epochs"
    if "whole" in measured:
        epochs += f" (whole set {next(iter(measured['whole'].values()))['epochs']})"
    trained = f"augmentation {used['aug_type']}, CutMix {used['mix_p']:g}"
    print(f"accuracy after the last of {epochs}, {trained}, mean ± std, n={entry['n']}; {spent} on {result['device']}")


def _percent(entry: dict[str, Any]) -> str:
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread}"
