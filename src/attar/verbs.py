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

from attar import condensation, evaluation, problem, recipes, report, runlog, store
from attar import data as sources
from attar import device as devices
from attar import pool as pools
from attar.api import describe_result
from attar.config import FLAGS, Recipe
from attar.data import ImageData
from attar.errors import MissingError, UserError
from attar.execution import check_precision
from attar.pool import Pool
from attar.runlog import RunFolder, Watch
from attar.synthetic import SyntheticSet

POOLS = Path("pool")
RUNS = Path("runs")
SHOWN = {"accuracy": "condensed", "initial": "initial", "random_real": "random real", "whole": "whole set"}


def demo(out: str | None, given: dict[str, Any], *, overwrite: bool, quiet: bool) -> None:
    """Digits from data to report; without `out` it replaces the demo before."""
    recipe = recipes.resolve(FLAGS["demo"], given, recipe="digits")
    path = named_folder(out) if out is not None else RUNS / "demo"
    overwrite = overwrite or out is None
    watch = Watch(quiet=quiet)
    seconds: dict[str, float] = {}
    data = load_data(recipe)
    check(data, recipe, path, overwrite=overwrite)
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
    folder = named_folder(out) if out is not None else POOLS / pools.folder_name(data, chosen.network)
    runlog.check_folder(folder)
    pool = train_pool(data, chosen, folder, Watch(quiet=quiet))
    table = Table("model", "epochs", "seed", "accuracy", title=f"{folder}")
    for member in pool.members:
        settings = member.settings
        table.add_row(member.name, str(settings["epochs"]), str(settings["seed"]), pools.shown(member.accuracy))
    Console().print(table)


def condense(
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    published: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Condense into a run folder. Everything that can be refused is refused before the folder is made."""
    chosen = recipes.resolve(FLAGS["condense"], given, recipe=recipe, published=published)
    data = load_data(chosen)
    path = named_folder(out) if out is not None else RUNS / run_name(data, chosen)
    check(data, chosen, path, overwrite=overwrite)
    watch = Watch(quiet=quiet)
    seconds: dict[str, float] = {}
    with stopwatch(seconds, "pretrain"):
        pool, files = find_pool(data, chosen, given, watch)
    chosen = replace(chosen, network=pool.network, condense=replace(chosen.condense, model_path=files))
    problem.prepare(data, pool, chosen.condense)
    folder = runlog.create(path, overwrite=overwrite)
    condense_into(folder, data, pool, chosen, watch, seconds)
    part = chosen.condense.phase is not None
    then = "join all parts with attar.concatenate, then attar.evaluate" if part else f"attar evaluate {folder.path}"
    print(f"{folder.path / store.CONDENSED}\nnext: {then}")


def evaluate(run: str, given: dict[str, Any], *, quiet: bool) -> None:
    """Evaluate a run folder (its result.json and report.html are brought up to date) or a condensed file."""
    path = Path(run)
    if not path.exists():
        raise MissingError(f"there is no run folder or file {run}")
    small = store.load_set(path)
    base = recipes.overlay(Recipe(), small.recipe) if small.recipe else recipes.for_data(small.source)
    recipe = recipes.overlay(base, recipes.by_section(FLAGS["evaluate"], given))
    data = load_data(recipe)
    folder = RunFolder(path) if path.is_dir() else None
    if folder is not None:
        runlog.check_folder(path)
        folder.read(runlog.CONFIG, "attar")
    evaluate_into(folder, small, data, recipe, Watch(quiet=quiet))


def check(data: ImageData, recipe: Recipe, path: Path, *, overwrite: bool) -> None:
    """Raise `UserError` for all that can be refused before a network is trained."""
    problem.check(data, recipe.condense)
    check_precision(recipe.condense.precision, data.device)
    runlog.check_free(path, overwrite=overwrite)
    evaluation.chosen_networks(recipe.evaluate, recipe.network)
    if recipe.condense.eval_at and data.test_images is None:
        raise UserError(f"eval_at needs test images, and {data.name} has none; leave it out")
    if recipe.condense.eval_at and recipe.condense.phase is not None:
        raise UserError("eval_at needs all classes, and a phase has some of them; leave it out")


def named_folder(out: str) -> Path:
    """The folder that --out names. Raises `UserError` for an empty name."""
    if not out.strip():
        raise UserError("out must name a folder, and it is empty")
    return Path(out)


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


def train_pool(data: ImageData, recipe: Recipe, folder: Path | None, watch: Watch, *, fill: bool = False) -> Pool:
    """The recipe's pool, with one step of progress per epoch; `fill`: other members of the folder may be part of it."""
    with watch.stage("pretrain", recipe.pool.models * recipe.pool.epochs) as stage:

        def say(line: str) -> None:
            (stage.advance if ": epoch " in line else watch.say)(line)

        if fill and folder is not None:
            return pools.fill(data, recipe.pool, recipe.network, folder, report=say)
        return pools.pretrain(data, recipe.pool, recipe.network, folder=folder, report=say)


def find_pool(data: ImageData, recipe: Recipe, given: dict[str, Any], watch: Watch) -> tuple[Pool, tuple[str, ...]]:
    """The pool that `model_path` names, else that of the default folder, and the files to name for the same pool again.

    A pool that the recipe describes needs no files: the same is trained wherever it is missing.
    """
    if recipe.condense.model_path:
        pool = pools.load(
            [Path(name) for name in recipe.condense.model_path],
            data,
            recipe.network,
            epochs=recipe.pool.epochs if {"epochs", "pt_from"} & given.keys() else None,
            limit=recipe.pool.models if {"models", "model_num"} & given.keys() else None,
        )
        watch.say(f"pool: {len(pool)} models from {', '.join(recipe.condense.model_path)}")
    else:
        folder = POOLS / pools.folder_name(data, recipe.network)
        pool = train_pool(data, recipe, folder, watch, fill=True)
        if pools.is_described(pool, recipe.pool):
            return pool, ()
    return pool, tuple(str(member.file) for member in pool.members)


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

        try:
            small = condensation.run(data, pool, recipe.condense, event=event, evaluation=accuracy, notice=watch.say)
            small = replace(small, recipe=recipes.as_sections(recipe))
            store.save_set(folder.path / store.CONDENSED, small)
        except BaseException:  # a run without its product is of no use
            folder.discard()
            raise
    report.save_grid(folder.path / runlog.IMAGES, small.images, small.labels, small.classes)
    inner = total * recipe.condense.inner_loop
    result = describe_result(small, data) | {"accuracy": {}, "seconds": seconds, "inner_iterations": inner}
    folder.write(runlog.RESULT, result)
    write_report(folder, small, result)


def evaluate_into(folder: RunFolder | None, small: SyntheticSet, data: ImageData, recipe: Recipe, watch: Watch) -> None:
    """Evaluate, print the table, and bring result.json and report.html of the run folder up to date."""
    result = describe_result(small, data) | {"accuracy": {}, "seconds": {}}
    if folder is not None:
        folder.events()  # a damaged file is refused before the work, not after it
        result |= folder.read(runlog.RESULT, "seconds", "protocol", *SHOWN)
    protocol = evaluation.protocol(recipe.evaluate, recipe.network, data)
    if result.get("protocol", protocol) != protocol:  # numbers of two protocols must not stand side by side
        result = {key: value for key, value in result.items() if key not in SHOWN}
    result |= describe_result(small, data)
    start = time.perf_counter()
    kinds = 1 + len(recipe.evaluate.yardsticks) - (small.initial is None and "initial" in recipe.evaluate.yardsticks)
    networks = evaluation.chosen_networks(recipe.evaluate, recipe.network)
    with watch.stage("evaluate", kinds * recipe.evaluate.runs * len(networks)) as stage:
        measured = evaluation.evaluate(small, data, recipe.evaluate, recipe.network, report=stage.advance)
    result["seconds"] = {**result["seconds"], "evaluate": time.perf_counter() - start}
    result["protocol"] = protocol
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
    stored = f"{result['ipc']} stored image{'s' * (result['ipc'] != 1)} per class"
    title = f"{result['dataset']}, {stored}, factor {result['factor']}: test accuracy, %"
    table = Table("network", *(SHOWN[name] for name in kinds), title=title)
    for label in measured["accuracy"]:
        table.add_row(label, *(_percent(measured[name][label]) for name in kinds))
    Console().print(table)
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    entry = next(iter(measured["accuracy"].values()))
    epochs = f"{entry['epochs']} epochs"
    if "whole" in measured:
        epochs += f" (whole set {next(iter(measured['whole'].values()))['epochs']})"
    print(f"accuracy after the last of {epochs}, mean ± std, n={entry['n']}; {spent} on {result['device']}")


def _percent(entry: dict[str, Any]) -> str:
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread}"


def write_report(folder: RunFolder, small: SyntheticSet, result: dict[str, Any]) -> None:
    """report.html: the stored and the decoded images, the table, the settings."""
    pictures = [("stored images", picture(small.images, small.labels, small))]
    if small.factor > 1:
        pictures.append(("decoded images", picture(*small.decoded(), small)))
    if small.initial is not None:
        pictures.append(("as initialised", picture(small.initial, small.labels, small)))
    config = folder.read(runlog.CONFIG, "attar") or dict(small.recipe)
    about = config.pop("attar", {})
    report.write(
        folder.path / runlog.REPORT,
        result=result,
        images=pictures,
        settings=config | {"environment": about.get("environment", {})},
        command=about.get("command", runlog.command_line()),
        curve=curve(folder),
    )


def picture(images: Tensor, labels: Tensor, small: SyntheticSet) -> Any:
    """A grid of images as a PIL image."""
    return report.grid(images, labels, small.classes)


def curve(folder: RunFolder) -> list[tuple[float, float]] | None:
    """(seconds, accuracy) of the evaluations during the run."""
    points, seconds = [], 0.0
    for event in folder.events():
        if event.get("event") == "step":
            seconds = event["seconds"]
        elif event.get("outer") is not None:
            points.append((seconds, next(iter(event["accuracy"].values()))))
    return points or None


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put the seconds of a block into `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
