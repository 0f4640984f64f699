"""One run in its folder: from the first iteration, or the one after the checkpoint, to the report."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field, replace

from attar import signals
from attar.condensation import loop
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import check_same, init, restore, saved_compiled, snapshot
from attar.data.images import ImageData
from attar.errors import Diverged, WriteError, log
from attar.evaluation import measure
from attar.evaluation.protocol import CONDENSED
from attar.report import pictures
from attar.report.of_run import write_report
from attar.runs import checkpoint, existing, run_folder, sinks
from attar.runs.checkpoint import CheckpointWriter, Interval
from attar.runs.existing import Run
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.sets import partition, set_files, snapshots
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe
from attar.signals import Interrupted
from attar.training.pool import Pool


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it changes the numbers."""

    every: Interval  # between two checkpoints
    progress: Progress = field(default_factory=Progress)
    logs: tuple[str, ...] = ()  # where events go besides the run folder
    command: str | None = None  # that is recorded; the command of this process by default
    name: str = "condense"  # of the progress bar


def condense_run(run: Run, data: ImageData, pool: Pool, options: RunOptions) -> SyntheticSet:
    """Carry out the rest of a run and write all its files, result.json last.

    A run that fails keeps its last checkpoint; without a checkpoint all its files are removed. SIGINT and SIGTERM take
    effect after the current inner iteration: a checkpoint is written and `Interrupted` raised.
    """
    folder, recipe = run.folder, run.recipe
    setup = set_up(data, pool, recipe.condense, saved_compiled(run.saved))
    if run.saved is not None:
        check_same(run.saved, setup)
    existing.begin(run)
    try:
        with sinks.open_sinks(options.logs, folder.path, layers.as_sections(recipe)) as opened:
            run = replace(run, folder=replace(folder, sinks=opened))
            condensed, seconds = iterate(run, setup, options)
        condensed = replace(condensed, recipe=layers.as_sections(recipe), folder=folder.path)
        (folder.path / run_folder.RESULT).unlink(missing_ok=True)  # of a shorter run, whose set is replaced now
        set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    except BaseException as error:
        if not checkpoint.exists(folder.path):  # nothing to resume from
            folder.discard()
            raise
        hint = f"attar condense --resume {folder.path} goes on"
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, hint) from error
        if isinstance(error, WriteError):
            raise WriteError(f"{error}; with more room {hint}") from error
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {folder.path / checkpoint.CURRENT} holds the last good state") from error
        raise
    checkpoint.finish(folder.path)
    write_product(run, condensed, data, seconds)
    return condensed


def iterate(run: Run, setup: Setup, options: RunOptions) -> tuple[SyntheticSet, float]:
    """Iterate with checkpoints, metrics, snapshots and evaluations; returns the set and the seconds of all sessions."""
    folder, config = run.folder, setup.config
    start = time.perf_counter()  # includes the clustering for the first images
    state = init(setup) if run.saved is None else restore(run.saved, setup)
    start -= state.seconds
    total, images = config.outer_iterations, images_per_step(setup.data, config)
    with options.progress.stage(options.name, total, state.outer, images=images) as bar, signals.deferred() as stop:
        write_if_due = CheckpointWriter(folder.path, options.every, stop)

        def save(now: bool = False) -> None:
            state.seconds = time.perf_counter() - start
            write_if_due(lambda: snapshot(state, setup), now)

        def look() -> None:  # after some outer iterations the images are recorded, or the set is evaluated
            if state.inner == 0 and state.outer in snapshots.moments(total):
                folder.snapshot(state.outer, loop.product(state, setup))
            if state.outer in config.eval_at and state.evaluated < state.outer:
                save(now=True)
                with stop.allowed():
                    accuracy = quick_accuracy(loop.product(state, setup), setup.data, run.recipe)
                folder.event({"event": "evaluation", "outer": state.outer, "accuracy": accuracy})
                state.events, state.evaluated = state.events + 1, state.outer
                bar.accuracy = next(iter(accuracy.values()))
                log.info("after %d outer iterations: %s", state.outer, accuracy)

        look()
        for loss in loop.iterate(state, setup):
            if loss is not None:
                seconds = time.perf_counter() - start
                inner = config.inner_loop
                folder.event({"event": "step", "outer": state.outer, "inner": inner, "loss": loss, "seconds": seconds})
                state.events += 1
                bar.advance(f"loss {loss:.4g}")
                look()
            save()
        save(now=True)
    return loop.product(state, setup), time.perf_counter() - start


def quick_accuracy(condensed: SyntheticSet, data: ImageData, recipe: Recipe) -> dict[str, float]:
    """{network: accuracy} of one network of the kind that the run matches on, a fraction."""
    quick = replace(recipe.evaluate, runs=1, yardsticks=(), networks=())
    measured = measure.evaluate(condensed, data, quick, recipe.network)
    return {name: entry["mean"] for name, entry in measured[CONDENSED].items()}


def write_product(run: Run, condensed: SyntheticSet, data: ImageData, seconds: float) -> None:
    """Write images.png, report.html and result.json, the last file of a run."""
    folder, config = run.folder, run.recipe.condense
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = describe_result(condensed, data) | {
        "accuracy": {},
        "seconds": run.about.get("seconds", {}) | {"condense": seconds},
        "inner_iterations": config.outer_iterations * config.inner_loop,
    }
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)


def images_per_step(data: ImageData, config: CondenseConfig) -> int:
    """How many real images one outer iteration reads, for matching and for the network update."""
    labels = partition.labels_of(data.nclass, config.nclass_sub, config.phase)
    matched = sum(min(config.batch_real, data.counts[label]) for label in labels)
    return config.inner_loop * (matched + (config.n_data if config.update == "real" else 0))
