"""One run in its folder, from the first iteration, or the one after its checkpoint, to the report."""

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
from attar.runs.checkpoint import Interval, Keeper
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
class Options:
    """How a run is carried out: none of it changes what comes out."""

    every: Interval  # between two checkpoints
    progress: Progress = field(default_factory=Progress)
    logs: tuple[str, ...] = ()  # where events go besides the run folder
    command: str | None = None  # what was typed; this process's own by default
    name: str = "condense"  # of the line of progress


def condense_run(run: Run, data: ImageData, pool: Pool, options: Options) -> SyntheticSet:
    """Carry out what is left of a run, and leave all that a run leaves; result.json is written last.

    A run that ends early keeps its last checkpoint; without one nothing is left. SIGINT and SIGTERM wait for the next
    inner iteration, write a checkpoint and raise `Interrupted`.
    """
    folder, recipe = run.folder, run.recipe
    setup = set_up(data, pool, recipe.condense, saved_compiled(run.saved))
    if run.saved is not None:
        check_same(run.saved, setup)
    existing.begin(run)
    try:
        with sinks.opened(options.logs, folder.path, layers.as_sections(recipe)) as opened:
            run = replace(run, folder=replace(folder, sinks=opened))
            condensed, seconds = iterate(run, setup, options)
        condensed = replace(condensed, recipe=layers.as_sections(recipe), folder=folder.path)
        (folder.path / run_folder.RESULT).unlink(missing_ok=True)  # of a shorter run: another set than the one to come
        set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    except BaseException as error:
        if not checkpoint.exists(folder.path):  # a run without a state or a product is of no use
            folder.discard()
            raise
        goes_on = f"attar condense --resume {folder.path} goes on"
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, goes_on) from error
        if isinstance(error, WriteError):
            raise WriteError(f"{error}; with more room {goes_on}") from error
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {folder.path / checkpoint.CURRENT} holds the last good state") from error
        raise
    checkpoint.finish(folder.path)
    write_product(run, condensed, data, seconds)
    return condensed


def iterate(run: Run, setup: Setup, options: Options) -> tuple[SyntheticSet, float]:
    """The iterations, with checkpoints, metrics, snapshots and evaluations; the set and the seconds of all sessions."""
    folder, config = run.folder, setup.config
    start = time.perf_counter()  # also of the clustering that the images may begin with
    state = init(setup) if run.saved is None else restore(run.saved, setup)
    start -= state.seconds
    total, images = config.outer_iterations, images_per_step(setup.data, config)
    with options.progress.stage(options.name, total, state.outer, images=images) as bar, signals.held() as stop:
        keeper = Keeper(folder.path, options.every, stop)

        def keep(now: bool = False) -> None:
            state.seconds = time.perf_counter() - start
            keeper(lambda: snapshot(state, setup), now)

        def show() -> None:  # at some moments the pictures are kept, and the set is evaluated
            if state.inner == 0 and state.outer in snapshots.moments(total):
                folder.snapshot(state.outer, loop.product(state, setup))
            if state.outer in config.eval_at and state.evaluated < state.outer:
                keep(now=True)
                with stop.through():
                    accuracy = quick_accuracy(loop.product(state, setup), setup.data, run.recipe)
                folder.event({"event": "evaluation", "outer": state.outer, "accuracy": accuracy})
                state.events, state.evaluated = state.events + 1, state.outer
                bar.accuracy = next(iter(accuracy.values()))
                log.info("after %d outer iterations: %s", state.outer, accuracy)

        show()
        for loss in loop.iterate(state, setup):
            if loss is not None:
                seconds = time.perf_counter() - start
                inner = config.inner_loop
                folder.event({"event": "step", "outer": state.outer, "inner": inner, "loss": loss, "seconds": seconds})
                state.events += 1
                bar.advance(f"loss {loss:.4g}")
                show()
            keep()
        keep(now=True)
    return loop.product(state, setup), time.perf_counter() - start


def quick_accuracy(condensed: SyntheticSet, data: ImageData, recipe: Recipe) -> dict[str, float]:
    """{network: the accuracy of one network of the run's own kind}."""
    quick = replace(recipe.evaluate, runs=1, yardsticks=(), networks=())
    measured = measure.evaluate(condensed, data, quick, recipe.network)
    return {name: entry["mean"] for name, entry in measured[CONDENSED].items()}


def write_product(run: Run, condensed: SyntheticSet, data: ImageData, seconds: float) -> None:
    """images.png, report.html and, as the last file of a run, result.json."""
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
    """Real images that one outer iteration reads, for matching and for the network update."""
    labels = partition.labels_of(data.nclass, config.nclass_sub, config.phase)
    matched = sum(min(config.batch_real, data.counts[label]) for label in labels)
    return config.inner_loop * (matched + (config.n_data if config.update == "real" else 0))
