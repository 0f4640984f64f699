"""What each verb of the command line does, from settings to files and printed words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from attar import condensation, evaluation, recipes, report, runlog, store
from attar import data as sources
from attar import device as devices
from attar import pool as pools
from attar.api import describe_result
from attar.config import FLAGS, Recipe
from attar.data import ImageData
from attar.errors import UserError
from attar.pool import Pool
from attar.runlog import RunFolder, Watch
from attar.synthetic import SyntheticSet

POOLS = Path("pool")
RUNS = Path("runs")
SHOWN = {"accuracy": "condensed", "initial": "initial", "random_real": "random real", "whole": "whole set"}


def demo(out: str | None, given: dict[str, Any], *, overwrite: bool, quiet: bool) -> None:
    """Digits from data to report; without `out` it replaces the demo before."""
    recipe = recipes.resolve(FLAGS["demo"], given, recipe="digits")
    path = Path(out) if out else RUNS / "demo"
    overwrite = overwrite or out is None
    runlog.check_free(path, overwrite=overwrite)
    watch = Watch(quiet=quiet)
    seconds: dict[str, float] = {}
    data = load_data(recipe)
    condensation.check(data, recipe.condense)
    with stopwatch(seconds, "pretrain"):
        pool = train_pool(data, recipe, None, watch)
    folder = runlog.create(path, overwrite=overwrite)
    condense_into(folder, data, pool, recipe, watch, seconds)
    evaluate_into(folder, store.load_set(folder.path), data, recipe, watch)


def pretrain(out: str | None, given: dict[str, Any], *, recipe: str | None, quiet: bool) -> None:
    """Train members into a pool folder and show the accuracy of each."""
    chosen = recipes.resolve(FLAGS["pretrain"], given, recipe=recipe)
    if "seed" in given and not {"models", "model_num"} & given.keys():
        chosen = replace(chosen, pool=replace(chosen.pool, models=1))
    data = load_data(chosen)
    folder = Path(out) if out else POOLS / pools.folder_name(data, chosen.network)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out names a folder")
    pool = train_pool(data, chosen, folder, Watch(quiet=quiet))
    table = Table("model", "epochs", "seed", "accuracy", title=f"{folder}")
    for member in pool.members:
        settings = member.settings
        table.add_row(member.name, str(settings["epochs"]), str(settings["seed"]), f"{member.accuracy:.4f}")
    Console().print(table)


def condense(
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    published: bool,
    model_path: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
) -> None:
    """Condense into a run folder. Everything that can be refused is refused before the folder is made."""
    chosen = recipes.resolve(FLAGS["condense"], given, recipe=recipe, published=published)
    data = load_data(chosen)
    condensation.check(data, chosen.condense)
    path = Path(out) if out else RUNS / run_name(data, chosen)
    runlog.check_free(path, overwrite=overwrite)
    watch = Watch(quiet=quiet)
    seconds: dict[str, float] = {}
    with stopwatch(seconds, "pretrain"):
        pool = find_pool(data, chosen, model_path, given, watch)
    condensation.prepare(data, pool, chosen.condense)
    folder = runlog.create(path, overwrite=overwrite)
    condense_into(folder, data, pool, replace(chosen, network=pool.network), watch, seconds)
    print(f"{folder.path / store.CONDENSED}\nnext: attar evaluate {folder.path}")


def evaluate(run: str, given: dict[str, Any], *, quiet: bool) -> None:
    """Evaluate a run folder (its result.json and report.html are brought up to date) or a condensed file."""
    path = Path(run)
    if not path.exists():
        raise UserError(f"there is no run folder or file {run}")
    small = store.load_set(path)
    base = recipes.overlay(Recipe(), small.recipe)
    recipe = recipes.overlay(base, recipes.by_section(FLAGS["evaluate"], given))
    data = load_data(recipe)
    folder = RunFolder(path) if path.is_dir() else None
    evaluate_into(folder, small, data, recipe, Watch(quiet=quiet))


def load_data(recipe: Recipe) -> ImageData:
    """The real images that a recipe names, on its device."""
    wanted = recipe.data
    return sources.load(
        wanted.dataset,
        data_dir=wanted.data_dir,
        nclass=wanted.nclass,
        size=wanted.size,
        device=devices.pick(wanted.device),
    )


def run_name(data: ImageData, recipe: Recipe) -> str:
    """The default run folder's name, such as `cifar10-ipc10`."""
    phase = recipe.condense.phase
    return f"{data.name}-ipc{recipe.condense.ipc}" + ("" if phase is None else f"-phase{phase}")


def train_pool(data: ImageData, recipe: Recipe, folder: Path | None, watch: Watch) -> Pool:
    """Train the recipe's pool, with one step of progress per epoch."""
    with watch.stage("pretrain", recipe.pool.models * recipe.pool.epochs) as stage:

        def say(line: str) -> None:
            (stage.advance if ": epoch " in line else watch.say)(line)

        return pools.pretrain(data, recipe.pool, recipe.network, folder=folder, report=say)


def find_pool(
    data: ImageData, recipe: Recipe, model_path: tuple[str, ...], given: dict[str, Any], watch: Watch
) -> Pool:
    """The pool that `model_path` names; else the default folder's members, trained where they are missing."""
    epochs = recipe.pool.epochs
    if model_path:
        wanted = epochs if {"epochs", "pt_from"} & given.keys() else None
        limit = recipe.pool.models if {"models", "model_num"} & given.keys() else None
        return pools.load([Path(name) for name in model_path], data, recipe.network, epochs=wanted, limit=limit)
    folder = POOLS / pools.folder_name(data, recipe.network)
    limit = recipe.pool.models
    kept = pools.load([folder], data, recipe.network, epochs=epochs, limit=limit) if folder.is_dir() else None
    if kept is not None and len(kept) == limit:
        watch.say(f"pool: {limit} models of {epochs} epochs from {folder}")
        return kept
    watch.say(f"pool: training {limit} models of {epochs} epochs in {folder}")
    return train_pool(data, recipe, folder, watch)


def condense_into(
    folder: RunFolder, data: ImageData, pool: Pool, recipe: Recipe, watch: Watch, seconds: dict[str, float]
) -> None:
    """Run the condensation and leave config.json, metrics.jsonl, the set, images.png, result.json and report.html."""
    about = {
        "command": runlog.command_line(),
        "environment": runlog.environment(data.device),
        "pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members],
    }
    folder.write(runlog.CONFIG, recipes.as_sections(recipe) | {"attar": about})
    total = recipe.condense.outer_iterations
    with stopwatch(seconds, "condense"), watch.stage("condense", total) as stage:

        def event(values: dict[str, Any]) -> None:
            folder.event(values)
            if values["event"] == "step":
                stage.advance(f"loss {values['loss']:.4g}")
            else:
                watch.say(f"after {values['outer']} outer iterations: {values['accuracy']}")

        def accuracy(small: SyntheticSet) -> dict[str, Any]:
            quick = replace(recipe.evaluate, runs=1, yardsticks=(), networks=())
            measured = evaluation.evaluate(small, data, quick, recipe.network)
            return {"accuracy": {name: entry["mean"] for name, entry in measured["accuracy"].items()}}

        small = condensation.run(data, pool, recipe.condense, event=event, evaluation=accuracy)
    small = replace(small, recipe=recipes.as_sections(recipe))
    if small.initial is not None:
        store.save_set(folder.path / store.INITIAL, replace(small, images=small.initial))
    store.save_set(folder.path / store.CONDENSED, small)
    report.save_grid(folder.path / runlog.IMAGES, small.images, small.labels, small.classes)
    inner = total * recipe.condense.inner_loop
    result = describe_result(small, data) | {"accuracy": {}, "seconds": seconds, "inner_iterations": inner}
    folder.write(runlog.RESULT, result)
    write_report(folder, small, result)


def evaluate_into(folder: RunFolder | None, small: SyntheticSet, data: ImageData, recipe: Recipe, watch: Watch) -> None:
    """Evaluate, print the table, and bring result.json and report.html of the run folder up to date."""
    start = time.perf_counter()
    kinds = 1 + len(recipe.evaluate.yardsticks) - (small.initial is None and "initial" in recipe.evaluate.yardsticks)
    networks = evaluation.chosen_networks(recipe.evaluate, recipe.network)
    with watch.stage("evaluate", kinds * recipe.evaluate.runs * len(networks)) as stage:
        measured = evaluation.evaluate(small, data, recipe.evaluate, recipe.network, report=stage.advance)
    seconds = {"evaluate": time.perf_counter() - start}
    result = describe_result(small, data)
    if folder is not None and (folder.path / runlog.RESULT).exists():
        result = store.read_json(folder.path / runlog.RESULT)
    result["seconds"] = {**result.get("seconds", {}), **seconds}
    for name, entries in measured.items():
        result[name] = {**result.get(name, {}), **entries}
    print_table(result, measured)
    if folder is not None:
        folder.event({"event": "evaluation", "outer": None, **measured})
        folder.write(runlog.RESULT, result)
        write_report(folder, small, result)
        print(f"report: {folder.path / runlog.REPORT}")


def print_table(result: dict[str, Any], measured: dict[str, Any]) -> None:
    """Accuracies in percent, mean ± std over n seeds, one row per network."""
    kinds = [name for name in SHOWN if name in measured]
    title = f"{result['dataset']}, {result['ipc']} stored images per class, factor {result['factor']}: test accuracy, %"
    table = Table("network", *(SHOWN[name] for name in kinds), title=title)
    for label in measured["accuracy"]:
        table.add_row(label, *(_percent(measured[name][label]) for name in kinds))
    Console().print(table)
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    print(f"after the last epoch, mean ± std over the seeds; {spent} on {result['device']}")


def _percent(entry: dict[str, Any]) -> str:
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread} (n={entry['n']})"


def write_report(folder: RunFolder, small: SyntheticSet, result: dict[str, Any]) -> None:
    """report.html: the stored and the decoded images, the table, the settings."""
    pictures = [("stored images", picture(small.images, small.labels, small))]
    if small.factor > 1:
        pictures.append(("decoded images", picture(*small.decoded(), small)))
    if small.initial is not None:
        pictures.append(("as initialised", picture(small.initial, small.labels, small)))
    config = store.read_json(folder.path / runlog.CONFIG)
    about = config.pop("attar")
    settings = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    settings |= {f"environment.{key}": value for key, value in about["environment"].items()}
    report.write(
        folder.path / runlog.REPORT,
        result=result,
        images=pictures,
        settings=settings,
        command=about["command"],
        curve=curve(folder),
    )


def picture(images: Tensor, labels: Tensor, small: SyntheticSet) -> Any:
    """A grid of images as a PIL image."""
    return report.grid(images, labels, small.classes)


def curve(folder: RunFolder) -> list[tuple[float, float]] | None:
    """(seconds, accuracy) of the evaluations during the run."""
    points, seconds = [], 0.0
    for event in folder.events():
        if event["event"] == "step":
            seconds = event["seconds"]
        elif event["outer"] is not None:
            points.append((seconds, next(iter(event["accuracy"].values()))))
    return points or None


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put the seconds of a block into `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
