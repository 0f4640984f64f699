"""`attar condense` and `attar demo`: a run folder from settings to report."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from attar import condensation, evaluation, problem, recipes, report, runlog, schedule, store
from attar.api import describe_result
from attar.config import FLAGS, Recipe
from attar.data import ImageData
from attar.pool import Pool
from attar.runlog import RunFolder, Watch
from attar.synthetic import SyntheticSet
from attar.verbs.measure import evaluate_into
from attar.verbs.page import write_report
from attar.verbs.pools import find_pool, train_pool
from attar.verbs.shared import RUNS, check, for_own, load_data, named_folder, run_name, stopwatch


def demo(out: str | None, given: dict[str, Any], *, overwrite: bool, quiet: bool) -> None:
    """Digits from data to report; without `out` it replaces the demo before."""
    recipe = recipes.resolve(FLAGS["demo"], given, recipe="digits")
    path = named_folder(out) if out is not None else RUNS / "demo"
    overwrite = overwrite or out is None
    watch = Watch(quiet=quiet)
    seconds: dict[str, float] = {}
    data = load_data(recipe, watch)
    check(data, recipe, path, overwrite=overwrite)
    with stopwatch(seconds, "pretrain"):
        pool = train_pool(data, recipe, None, watch)
    folder = runlog.create(path, overwrite=overwrite)
    condense_into(folder, data, pool, recipe, watch, seconds)
    evaluate_into(folder, store.load_set(folder.path), data, recipe, watch)


def condense(
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    published: bool,
    overwrite: bool,
    quiet: bool,
    minutes: float | None = None,
) -> None:
    """Condense into a run folder, in so many minutes where they are named.

    Everything that can be refused is refused before the folder is made.
    """
    started = time.perf_counter()
    watch = Watch(quiet=quiet)
    chosen = recipes.resolve(FLAGS["condense"], given, recipe=recipe, published=published)
    data = load_data(chosen, watch)
    chosen, line = for_own(chosen, given, recipe, data, "condense")
    path = named_folder(out) if out is not None else RUNS / run_name(data, chosen)
    check(data, chosen, path, overwrite=overwrite)
    if line:
        watch.say(line)
    if minutes is not None:
        chosen = schedule.fit(data, chosen, 60 * minutes - (time.perf_counter() - started), watch.say)
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
