"""One run in its folder: from the first iteration, or the one after the checkpoint, to the report."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from attar import signals
from attar.condensation import loop
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import SavedState, State, check_same, how_it_began, init, restore
from attar.data.images import ImageData
from attar.engine.precision import matmul_precision
from attar.errors import Diverged, UserError, WriteError, counted, log
from attar.report.of_run import write_report
from attar.runs import checkpoint, existing, run_folder, sinks
from attar.runs.checkpoint import Interval
from attar.runs.existing import Run
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.sets import partition, pictures, set_files
from attar.sets.decode import decoded_count
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe
from attar.settings.schema import settings_of
from attar.signals import Interrupted
from attar.stages.clock import Clock, say_end
from attar.stages.records import Records, say_skipped
from attar.training.pool import Pool


@dataclass(frozen=True, eq=False)
class Event:
    """What a callback is told after each outer iteration.

    Attributes:
        outer: how many outer iterations are done.
        total: how many the run has.
        loss: the mean loss of this outer iteration.
        seconds: how long the run took so far, all sessions together.
        lr: the learned learning rate (`mtt`, `ftd`, `datm`); None for other methods.
        accuracy: the accuracy that was measured after this iteration (`eval_at`), a fraction; None where none was.

    Example:
        small = attar.condense("digits", ipc=1, callback=lambda event: event.seconds < 60)  # ends after a minute
    """

    outer: int
    total: int
    loss: float
    seconds: float
    lr: float | None
    accuracy: float | None
    product: Callable[[], SyntheticSet] = field(repr=False)

    @cached_property
    def condensed(self) -> SyntheticSet:
        """The set as it is now; computed when it is asked for, within the callback."""
        return self.product()


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it changes the numbers."""

    every: Interval  # between two checkpoints
    progress: Progress = field(default_factory=Progress)
    logs: tuple[str, ...] = ()  # where events go besides the run folder
    command: str | None = None  # that is recorded; the command of this process by default
    name: str = "condense"  # of the progress bar
    callback: Callable[[Event], object] | None = None  # called after each outer iteration; False ends the run
    seconds: float | None = None  # of all sessions together, after which the run ends; None: by its length


def run_options(
    save_every: str,
    progress: Progress | bool | None,
    log: str | Sequence[str],
    callback: Callable[[Event], object] | None = None,
) -> RunOptions:
    """How the run is carried out. Raises `UserError` for an interval, a sink or a callback that is none."""
    assert isinstance(progress, Progress)  # see `shows_progress`
    if callback is not None and not callable(callback):
        raise UserError(f"callback must be a function that takes an attar.Event, not {callback!r}")
    return RunOptions(checkpoint.interval(save_every), progress, sinks.check_sinks(log), callback=callback)


def condense_run(run: Run, data: ImageData, pool: Pool, options: RunOptions) -> SyntheticSet:
    """Carry out the rest of a run and write all its files, result.json last.

    A run that fails keeps its last checkpoint; without a checkpoint all its files are removed. SIGINT and SIGTERM take
    effect after the current inner iteration: a checkpoint is written and `Interrupted` raised.
    """
    with matmul_precision(run.recipe.condense.precision, data.device):
        return _condense_run(run, data, pool, options)


def _condense_run(run: Run, data: ImageData, pool: Pool, options: RunOptions) -> SyntheticSet:
    folder, recipe = run.folder, run.recipe
    setup = set_up(data, pool, recipe.condense, how_it_began(run.saved))
    if run.saved is not None:
        check_same(run.saved, setup)
    existing.begin(run)
    try:
        with sinks.open_sinks(options.logs, folder.path, settings_of(recipe)) as opened:
            run = replace(run, folder=replace(folder, sinks=opened))
            options = replace(options, seconds=run.about.get("clock", {}).get("seconds"))
            condensed, state = iterate(setup, recipe, options, run.folder, run.saved)
        asked = recipe.condense.outer_iterations if options.seconds is None else state.outer
        run = ended_early(run, state.outer)
        condensed = replace(condensed, recipe=settings_of(run.recipe), folder=folder.path)
        (folder.path / run_folder.RESULT).unlink(missing_ok=True)  # of a shorter run, whose set is replaced now
        set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    except BaseException as error:
        if not checkpoint.exists(folder.path):  # nothing to resume from
            folder.discard()
            raise
        hint = f"attar condense --resume {shlex.quote(str(folder.path))} goes on"
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, hint) from error
        if isinstance(error, WriteError):
            raise WriteError(f"{error}; with more room {hint}") from error
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {folder.path / checkpoint.CURRENT} holds the last good state") from error
        raise
    checkpoint.finish(folder.path)
    write_product(run, condensed, data, state.seconds, asked)
    return condensed


def condense_in_memory(data: ImageData, pool: Pool, recipe: Recipe, options: RunOptions) -> SyntheticSet:
    """A run that leaves no files."""
    with matmul_precision(recipe.condense.precision, data.device):
        condensed, state = iterate(set_up(data, pool, recipe.condense), recipe, options)
    return replace(condensed, recipe=settings_of(of_length(recipe, state.outer)))


def iterate(
    setup: Setup,
    recipe: Recipe,
    options: RunOptions,
    folder: RunFolder | None = None,
    saved: SavedState | None = None,
) -> tuple[SyntheticSet, State]:
    """Iterate to the end, until the time is up or the callback says so; in a folder with all that a run records.

    Returns the set and the last state, with the seconds of all sessions.
    """
    config = setup.config
    start = time.perf_counter()  # includes the clustering for the first images
    state = init(setup) if saved is None else restore(saved, setup)
    start -= state.seconds
    clock = None if options.seconds is None else Clock(options.seconds, state.seconds)
    total, images = config.outer_iterations, images_per_step(setup.data, config)
    stage = options.progress.stage(options.name, total, state.outer, images=images, serial=True)
    with stage as bar, signals.deferred() as stop:
        records = Records(state, setup, recipe, folder, start, every=options.every, bar=bar, clock=clock, stop=stop)
        records.look()
        if setup.gradients.execution.compiled:
            bar.say("compiling, half a minute or more")
        bar.deadline = None if clock is None else clock.deadline
        for loss in loop.iterate(state, setup, None if clock is None else clock.more):
            if loss is not None:
                records.step(loss)
                accuracy = records.look()
                event = Event(state.outer, bar.total, loss, records.seconds(), state.lr, accuracy, records.product)
                if is_told_to_stop(options, event, records.save):
                    break
                records.report()
            records.save()
        records.end()
        records.save(now=True)
    if clock is not None and clock.is_up:
        say_end(state.outer, config.inner_loop)
    say_skipped(state, setup)
    return records.product(), state


def is_told_to_stop(options: RunOptions, event: Event, save: Callable[[bool], None]) -> bool:
    """Whether the callback returns False. Where it raises, a checkpoint is written first."""
    if options.callback is None:
        return False
    try:
        stops = options.callback(event) is False
    except BaseException:
        save(True)
        raise
    if stops:
        of_all = counted(event.total, "outer iteration")
        log.info("the callback ends the run after %d of %s", event.outer, of_all)
    return stops


def ended_early(run: Run, outer: int) -> Run:
    """The run as one of `outer` outer iterations, which config.json says too where it was to have others.

    The settings of a run that ended by the clock repeat it without one.
    """
    if outer == run.recipe.condense.outer_iterations and "clock" not in run.about:
        return run
    about = {key: value for key, value in run.about.items() if key != "clock"}
    about |= {"minutes": run.about["clock"]["minutes"]} if "clock" in run.about else {}
    run = replace(run, recipe=of_length(run.recipe, outer), about=about)
    run.folder.write(run_folder.CONFIG, settings_of(run.recipe) | {"attar": run.about})
    return run


def of_length(recipe: Recipe, outer: int) -> Recipe:
    """The settings of a run of `outer` outer iterations."""
    if outer == recipe.condense.outer_iterations:
        return recipe
    return replace(recipe, condense=replace(recipe.condense, niter=outer))


def write_product(run: Run, condensed: SyntheticSet, data: ImageData, seconds: float, asked: int) -> None:
    """Write images.png, report.html and result.json, the last file of a run that was to have `asked` iterations."""
    folder, config = run.folder, run.recipe.condense
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = describe_result(condensed, data) | {
        "accuracy": {},
        "seconds": run.about.get("seconds", {}) | {"condense": seconds},
        "inner_iterations": config.outer_iterations * config.inner_loop,
    }
    if config.outer_iterations < asked:
        result["stopped"] = {"after": config.outer_iterations, "of": asked}  # outer iterations
    write_report(folder, condensed, result, data)
    folder.write(run_folder.RESULT, result)


def images_per_step(data: ImageData, config: CondenseConfig) -> int:
    """How many images one outer iteration reads for matching, and real ones for the network update."""
    labels = partition.condensed_labels(data.classes, config)
    if config.match == "trajectory":  # the set's own images, which the students see
        decoded = len(labels) * decoded_count(config.ipc, config.factor, config.decode_type)
        return config.inner_loop * config.syn_steps * min(config.batch_syn or decoded, decoded)
    matched = sum(min(config.batch_real, data.counts[label]) for label in labels)
    return config.inner_loop * (matched + (config.n_data if config.update == "real" else 0))
