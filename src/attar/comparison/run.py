"""Compare methods, settings and seeds on one data set under one protocol, in one folder."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attar import files
from attar.comparison import figure, numbers, page, record, tables
from attar.comparison import spec as specs
from attar.comparison.cells import Context, Task, at_equal_steps, host, measure, tasks
from attar.comparison.numbers import Row
from attar.comparison.plan import ComparisonPlan
from attar.comparison.processes import side_by_side
from attar.comparison.record import ResultLine
from attar.condensation.setup import check_data, check_planned
from attar.data.images import ImageData
from attar.engine.precision import check_precision
from attar.errors import MissingError, UserError, log
from attar.evaluation import protocol
from attar.models import for_data
from attar.runs import checkpoint, run_folder
from attar.runs.checkpoint import Interval
from attar.runs.progress import Progress, ProgressHandler, shows_progress
from attar.settings import auto, layers, plugins, recipes
from attar.signals import Interrupted
from attar.stages.shared import load_data


@shows_progress
def compare(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    jobs: int = 1,
    save_every: str = checkpoint.DEFAULT_INTERVAL,
    progress: Progress | bool | None = None,
) -> list[dict[str, Any]]:
    """Compare methods and settings on one data set, over several seeds and under one protocol.

    The same call again continues an interrupted comparison; entries, values of lists and seeds may be added.

    Args:
        spec: a TOML file, or its content as a dict.
        out: the folder of the comparison.
        jobs: runs at once, with one thread each. The times of more runs than cores, or of several on one GPU, cannot be
            compared. A script that asks for more than one guards its start with `if __name__ == "__main__"`.
        save_every: time or inner iterations between the checkpoints of a run, as for `condense`.
        progress: True shows bars and messages; nothing is shown by default.

    Returns:
        The rows of the table, one for each point and network; accuracies are fractions.

    Raises:
        UserError: for a spec, data or folder that cannot be used, before anything is computed.

    Example:
        spec = {"dataset": "digits", "ipc": 1, "entry": [{"method": "dm"}, {"method": "random"}]}
        rows = attar.compare(spec, out="runs/compared")
        {row["entry"]: row["accuracy"]["mean"] for row in rows}
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    return [as_dict(row) for row in run(spec, Path(out), jobs, save_every, progress)]


def as_dict(row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return dataclasses.asdict(row) | {"ior": row.ior, "hlr": row.hlr}


def run(source: str | Path | Mapping[str, Any], out: Path, jobs: int, save_every: str, progress: Progress) -> list[Row]:
    """Compute all runs that are missing, and return the rows of the table.

    Raises `UserError` before anything is computed or written, and `Interrupted` on SIGINT and SIGTERM.
    """
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}")
    interval = checkpoint.interval(save_every)
    figure.check()
    plan, data = prepare(source, progress)
    record.check_folder(out)
    every_task = tasks(plan, data)
    context = Context(out, data, interval, run_folder.command_line(), jobs)
    with files.held(out):
        record.check_same(out, plan, data)
        record.create(out, plan, data)
        lines = record.results(out)
        finished = {line["cell"] for line in lines}
        todo = [task for task in every_task if task.name not in finished]
        if todo:
            record.add_machine(out, host(data.device, jobs))
        left, start = len(todo), time.perf_counter()
        try:
            for line in measured(context, plan, todo):
                left -= 1
                files.append(out / record.RESULTS_FILE, line)
                lines.append(line)
                ended = time.perf_counter() - start
                wait = f"; about {ended / (len(todo) - left) * left:.0f} s left" if left else ""
                log.info("[%d/%d] %s%s", len(every_task) - left, len(every_task), in_words(line), wait)
                write_tables(out, plan, lines, left)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"the same command goes on with {out}") from error
        rows = write_tables(out, plan, lines, 0)
        figure.write([out / name for name in record.FIGURES], plan, rows)
        page.write(out / record.PAGE, plan, rows)
    return rows


def prepare(source: str | Path | Mapping[str, Any], progress: Progress) -> tuple[ComparisonPlan, ImageData]:
    """The plan of a spec and its real images, after all checks that need no trained network."""
    where = "" if isinstance(source, Mapping) else f"{source}: "
    if not isinstance(source, Mapping) and not Path(source).is_file():
        raise MissingError(f"there is no spec file {source}; a spec is a TOML file with an [[entry]] for each method")
    values = source if isinstance(source, Mapping) else layers.read(Path(source))
    plan = specs.resolve(values, where)
    data = real_images(plan, progress)
    if values.get("recipe") is None and not recipes.has_recipe(plan.recipe.data.dataset):
        plan = specs.resolve(values, where, auto.shape_of(data))
    check(plan, data, where)
    return at_equal_steps(plan, data) if plan.equal_steps else plan, data


def real_images(plan: ComparisonPlan, progress: Progress) -> ImageData:
    """The training images of a plan, with the images that are tested on."""
    data = load_data(plan.recipe, progress)
    return data if plan.holdout is None else data.holdout(plan.holdout, plan.recipe.data.test_seed)


def check(plan: ComparisonPlan, data: ImageData, where: str) -> None:
    """Raise `UserError` where data, network and the settings of a point do not fit each other."""
    if data.test_images is None:
        raise UserError(f"{where}{data.name} has no test images; holdout = 0.2 tests on a share of the training images")
    for_data.build(plan.recipe.network, for_data.describe(data), 0)
    for network in protocol.chosen_networks(plan.recipe.evaluate, plan.recipe.network).values():
        for_data.build(network, for_data.describe(data), 0)
    for point in plan.points:
        try:
            check_data(data, point.recipe.condense)
            check_planned(point.recipe.pool, point.recipe.condense)
            check_precision(point.recipe.condense.precision, data.device)
            check_precision(point.recipe.pool.precision, data.device)
        except UserError as error:
            raise UserError(f"{where}entry '{point.entry}': {error}") from error


def measured(context: Context, plan: ComparisonPlan, todo: Sequence[Task]) -> Iterator[ResultLine]:
    """The lines of results of all tasks: one after another in this process, or side by side in others."""
    if context.jobs == 1:
        warm_up()
        for task in todo:
            with only_warnings():  # the messages of each run would hide those of the comparison
                line = measure(context, task)
            yield line
        return
    start = partial(begin, plan, context.out, context.every, context.command, context.jobs, plugins.loaded())
    yield from side_by_side(todo, context.jobs, start)


def warm_up() -> None:
    """Make PyTorch import what its first optimiser needs: these seconds must not count for an entry."""
    torch.optim.SGD([torch.zeros(1)], lr=0.1)


def begin(
    plan: ComparisonPlan, out: Path, interval: Interval, command: str, jobs: int, own: list[str]
) -> Callable[[Task], ResultLine]:
    """In a new process: load plugins and real images, and return the function that computes a task."""
    plugins.as_text(own)
    log.disabled = True  # the parent has already logged this
    data = real_images(plan, Progress())
    log.disabled = False
    warm_up()
    log.addHandler(Warnings(Progress()))
    return partial(measure, Context(out, data, interval, command, jobs))


@contextmanager
def only_warnings() -> Iterator[None]:
    """Let attar log only warnings in the context, such as what the device cannot do."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


class Warnings(ProgressHandler):
    """The warnings that a process of a comparison logs, such as what its device cannot do."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.setLevel(logging.WARNING)


def write_tables(out: Path, plan: ComparisonPlan, lines: Sequence[ResultLine], left: int) -> list[Row]:
    """Write both tables. left: runs that are not finished yet."""
    rows = numbers.rows(plan, lines)
    text = tables.to_markdown(plan, rows, lines, record.hosts(out), left)
    for name, content in ((record.TABLE_MD, text), (record.TABLE_CSV, tables.to_csv(rows))):
        files.atomically(out / name, partial(_write_text, content))
    return rows


def in_words(line: ResultLine) -> str:
    """A line of results for the log."""
    if line.get("diverged"):
        return f"{line['cell']}: {line['diverged']}"
    accuracy = ", ".join(f"{name} {100 * entry['mean']:.1f} %" for name, entry in line["accuracy"].items())
    times = ", ".join(f"{name} {value:.1f} s" for name, value in line["seconds"].items())
    return f"{line['cell']}: {accuracy} ({times})"


def _write_text(content: str, path: Path) -> None:
    path.write_text(content, encoding="utf-8")
