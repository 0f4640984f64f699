"""`attar condense` and `attar demo`: a run folder from settings to report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.condensation.setup import set_up
from attar.condensation.state import Values
from attar.data.images import ImageData
from attar.engine.precision import Notice
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.evaluation import measure
from attar.report import pictures
from attar.report.of_run import write_report
from attar.runs import checkpoint, run_folder, sinks
from attar.runs import resume as sessions
from attar.runs.checkpoint import Interval
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.sets import partition, set_files, snapshots
from attar.sets.synthetic import SyntheticSet
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, CondenseConfig, Recipe
from attar.stages import schedule
from attar.stages.evaluate import evaluate_into
from attar.stages.parts import PARTS, check_split, condense_parts, discard_parts, is_split
from attar.stages.pretrain import find_pool, train_pool
from attar.stages.shared import RUNS, check, elsewhere, for_own, load_data, named_folder, run_name, stopwatch
from attar.training.pool import Pool

ON_TOP = ("niter", "memory_gb", *sessions.MOVABLE)  # flags beside --resume RUN


def demo(
    out: str | None,
    given: dict[str, Any],
    *,
    overwrite: bool,
    quiet: bool,
    json: bool = False,
    log: Sequence[str] = (),
) -> None:
    """Digits from data to report; without `out` it replaces the demo before."""
    recipe = layers.resolve(FLAGS["demo"], given, recipe="digits")
    times = snapshots.moments(recipe.condense.outer_iterations)
    recipe = replace(recipe, condense=replace(recipe.condense, eval_at=(times[0], times[len(times) // 4], times[-1])))
    path = named_folder(out) if out is not None else RUNS / "demo"
    overwrite = overwrite or out is None
    watch = Progress(quiet=quiet, json=json)
    sinks.check(log)
    seconds: dict[str, float] = {}
    data = load_data(recipe, watch)
    check(data, recipe, path, overwrite=overwrite)
    with stopwatch(seconds, "pretrain"):
        pool = train_pool(data, recipe, None, watch)
    with run_folder.opened(path) as folder:
        run_folder.create(path, overwrite=overwrite)
        with sinks.opened(log, path, layers.as_sections(recipe)) as opened:
            folder = replace(folder, sinks=opened)
            condense_into(folder, data, pool, recipe, watch, seconds, checkpoint.interval(checkpoint.EVERY))
            evaluate_into(folder, set_files.load_set(folder.path), data, recipe, watch)


def condense(
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    published: bool,
    overwrite: bool,
    quiet: bool,
    json: bool = False,
    log: Sequence[str] = (),
    resume: str | None = None,
    save_every: str | None = None,
    minutes: float | None = None,
    ray: str | None = None,
    ray_cpus: int | None = None,
) -> None:
    """Condense into a run folder: a new one, the one that `resume` names, or with `auto` whichever is the case.

    In so many minutes where they are named; a run that goes on keeps the schedule that was fitted when it began.
    Everything that can be refused is refused before the folder is made.
    """
    started = time.perf_counter()
    cluster = Cluster(ray, ray_cpus)
    every = checkpoint.interval(save_every or checkpoint.EVERY)
    watch = Progress(quiet=quiet, json=json)
    sinks.check(log)
    if resume is not None and overwrite:
        raise UserError("--resume goes on with a run, and --overwrite replaces it; leave one out")
    if resume not in (None, "auto"):
        flags = {"out": out, "recipe": recipe, "reproduce": published or None, "minutes": minutes}
        for flag in (*given, *(name for name, value in flags.items() if value is not None)):
            if FLAGS["condense"].get(flag, ("", flag))[1] not in ON_TOP:
                raise UserError(f"--{flag} cannot change what a run was begun with; leave it out beside --resume")
        path = named_folder(resume or "")
        wanted = sessions.kept_recipe(RunFolder(path))
        wanted = recipes.overlay(wanted, layers.by_section(FLAGS["condense"], given))
        go_on(path, load_data(wanted, watch), wanted, given, watch, every, cluster, log)
        return
    if minutes is not None and (clash := sorted({"niter", "speedup", "inner_loop"} & given.keys())):
        raise UserError(f"{clash[0]} and minutes exclude each other: both say how long the run is")
    wanted = layers.resolve(FLAGS["condense"], given, recipe=recipe, published=published)
    if minutes is not None and wanted.condense.phase is not None:
        raise UserError("minutes would give every part another schedule; give --niter, or leave --phase out")
    data = load_data(wanted, watch)
    wanted, line = for_own(wanted, given, recipe, data, "condense")
    path = named_folder(out) if out is not None else RUNS / run_name(data, wanted)
    if resume is not None and (path / run_folder.CONFIG).exists():
        kept = sessions.kept_recipe(RunFolder(path))
        if line:
            wanted = sessions.keep_fitted(kept, wanted, auto.CHOSEN, layers.by_section(FLAGS["condense"], given))
        if minutes is not None:
            wanted = sessions.keep_fitted(kept, wanted, schedule.FITTED)
        go_on(path, data, wanted, given, watch, every, cluster, log)
        return
    check(data, wanted, path, overwrite=overwrite)
    if line:
        watch.say(line)
    if minutes is not None:
        wanted = schedule.fit(data, wanted, 60 * minutes, watch.say, before=time.perf_counter() - started)
    seconds: dict[str, float] = {}
    with cluster.workers(wanted, data, watch) as workers:
        with stopwatch(seconds, "pretrain"):
            pool, files = find_pool(data, wanted, given, watch, workers)
        wanted = replace(wanted, network=pool.network, condense=replace(wanted.condense, model_path=files))
        first = replace(wanted.condense, phase=0) if is_split(wanted) else wanted.condense
        set_up(data, pool, first)
        with run_folder.opened(path) as folder:
            run_folder.create(path, overwrite=overwrite)
            if overwrite:
                discard_parts(path)
            if is_split(wanted):
                condense_parts(folder, data, pool, wanted, watch, seconds, every, workers, condense_into, log)
            else:
                with sinks.opened(log, path, layers.as_sections(wanted)) as opened:
                    condense_into(replace(folder, sinks=opened), data, pool, wanted, watch, seconds, every)
            say_next(folder, wanted, watch)


@dataclass(frozen=True)
class Cluster:
    """Where the parts are condensed: on a Ray cluster, or here."""

    ray: str | None
    cpus: int | None

    def workers(self, recipe: Recipe, data: ImageData, watch: Progress) -> AbstractContextManager[ThreadWorkers | None]:
        """Raises `UserError` where there are no parts to spread over a cluster."""
        if self.ray is not None and not is_split(recipe):
            raise UserError("--ray spreads the parts of a partition: give --nclass_sub, and no --phase")
        return elsewhere(self.ray, data.device, watch.say, self.cpus)


def go_on(
    path: Path,
    data: ImageData,
    wanted: Recipe,
    given: dict[str, Any],
    watch: Progress,
    every: Interval,
    cluster: Cluster,
    log: Sequence[str],
) -> None:
    """Continue the run in a folder, extend it, or say that it is done."""
    with cluster.workers(wanted, data, watch) as workers, run_folder.opened(path) as folder:
        if is_split(wanted):
            if check_split(folder, wanted):
                say_done(folder, wanted, watch)
                return
            watch.say(f"going on with the parts in {path / PARTS}")
            seconds = dict(folder.read(run_folder.CONFIG, "attar").get("attar", {}).get("seconds", {}))
            pool_files = sessions.kept_recipe(folder).condense.model_path  # the same models, whatever came to the pool
            wanted = replace(wanted, condense=replace(wanted.condense, model_path=pool_files))
            pool, files = find_pool(data, wanted, {}, watch, workers)
            wanted = replace(wanted, network=pool.network, condense=replace(wanted.condense, model_path=files))
            condense_parts(folder, data, pool, wanted, watch, seconds, every, workers, condense_into, log)
            say_next(folder, wanted, watch)
            return
        begun = sessions.open_existing(folder, wanted, watch.say)
        if begun.finished:
            say_done(folder, begun.recipe, watch)
            return
        length = begun.recipe.condense.outer_iterations
        done = begun.saved["outer"] if begun.saved is not None else 0
        watch.say(f"going on with {path} after {done} of {length} outer iterations")
        pool, files = find_pool(data, begun.recipe, {}, watch)
        recipe = replace(begun.recipe, condense=replace(begun.recipe.condense, model_path=files))
        seconds = dict(begun.about.get("seconds", {}))
        with sinks.opened(log, path, layers.as_sections(recipe)) as opened:
            folder = replace(folder, sinks=opened)
            condense_into(folder, data, pool, recipe, watch, seconds, every, begun.about, begun.saved)
        say_next(folder, recipe, watch)


def say_done(folder: RunFolder, recipe: Recipe, watch: Progress) -> None:
    """What is said where nothing is left to do."""
    length = recipe.condense.outer_iterations
    words = f"{folder.path} is done: {length} outer iterations; a larger --niter makes it longer"
    watch.result(folder.read(run_folder.RESULT), lambda: print(words))


def say_next(folder: RunFolder, recipe: Recipe, watch: Progress) -> None:
    """Where the product is, and what can be done with it."""
    path = folder.path
    part = recipe.condense.phase is not None
    then = f"attar evaluate {path}"
    if part:  # the last digits of a part's folder are usually its phase
        name = str(path).removesuffix(str(recipe.condense.phase))
        parts = f"{name}*" if name != str(path) else "PART..."
        then = f"attar merge {parts} --out DIR, when all parts are there"
    words = f"{path / set_files.CONDENSED}\nnext: {then}"
    watch.result(folder.read(run_folder.RESULT), lambda: print(words))


def condense_into(
    folder: RunFolder,
    data: ImageData,
    pool: Pool,
    recipe: Recipe,
    watch: Progress,
    seconds: dict[str, float],
    every: Interval,
    about: dict[str, Any] | None = None,
    saved: Values | None = None,
    *,
    name: str = "condense",
    command: str | None = None,
    notice: Notice | None = None,
) -> None:
    """Run the condensation and leave config.json, metrics.jsonl, checkpoint, the set, images.png, report and result.

    about, saved: what a run that goes on was begun with, and its state; name: what its line of progress begins with;
    command: what was typed, this process's own by default; notice: gets what `watch` would say about the device.
    result.json is written last: a run that has it is done.
    """
    command = command or run_folder.command_line()
    if about is None:
        about = {
            "command": command,
            "environment": run_folder.environment(data.device),
            "pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members],
            "seconds": dict(seconds),
        }
    else:
        about = about | {"continued": [*about.get("continued", ()), command]}
    folder.write(run_folder.CONFIG, layers.as_sections(recipe) | {"attar": about})
    total = recipe.condense.outer_iterations
    before = saved["seconds"] if saved is not None else 0.0
    done = saved["outer"] if saved is not None else 0
    images = real_images(data, recipe.condense)
    with stopwatch(seconds, "condense"), watch.stage(name, total, done, images=images) as stage:

        def event(values: dict[str, Any]) -> None:
            if values["event"] == "step":
                stage.advance(f"loss {values['loss']:.4g}")
            else:
                stage.accuracy = next(iter(values["accuracy"].values()))
                watch.say(f"after {values['outer']} outer iterations: {values['accuracy']}")

        def accuracy(condensed: SyntheticSet) -> dict[str, Any]:
            quick = replace(recipe.evaluate, runs=1, yardsticks=(), networks=())
            measured = measure.evaluate(condensed, data, quick, recipe.network)
            return {"accuracy": {name: entry["mean"] for name, entry in measured["accuracy"].items()}}

        condensed = sessions.condense(
            folder,
            data,
            pool,
            recipe,
            saved=saved,
            every=every,
            event=event,
            evaluation=accuracy,
            notice=notice or watch.say,
        )
    seconds["condense"] += before
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    inner = total * recipe.condense.inner_loop
    result = describe_result(condensed, data) | {"accuracy": {}, "seconds": seconds, "inner_iterations": inner}
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)


def real_images(data: ImageData, config: CondenseConfig) -> int:
    """Real images that one outer iteration reads, for matching and for the network update."""
    labels = partition.labels_of(data.nclass, config.nclass_sub, config.phase)
    matched = sum(min(config.batch_real, data.counts[label]) for label in labels)
    return config.inner_loop * (matched + (config.n_data if config.update == "real" else 0))
