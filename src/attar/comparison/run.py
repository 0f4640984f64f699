"""Methods × settings × seeds on one data set, under one protocol, in one folder."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attar import files
from attar.comparison import figure, numbers, record, spec, tables
from attar.comparison.cells import Context, Task, host, measure, tasks
from attar.comparison.numbers import Row
from attar.comparison.processes import side_by_side
from attar.comparison.record import Line
from attar.comparison.spec import ComparisonPlan
from attar.condensation.setup import check_data
from attar.data.images import ImageData
from attar.engine.precision import check_precision
from attar.errors import MissingError, UserError, log
from attar.evaluation import protocol
from attar.models import for_data
from attar.runs import checkpoint, run_folder
from attar.runs.checkpoint import Interval
from attar.runs.progress import Progress, ProgressHandler
from attar.settings import auto, layers, recipes
from attar.signals import Interrupted
from attar.stages.shared import load_data


def compare(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    jobs: int = 1,
    save_every: str = checkpoint.DEFAULT_INTERVAL,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare methods and settings as a spec says, in the folder `out`; the rows of its table, accuracies as fractions.

    spec: a TOML file, or what it holds as a dict. The same call again goes on where it was interrupted; entries, values
    and seeds may be added. jobs: so many runs at once, with one thread each (times of more runs than cores, or of
    several on one GPU, cannot be compared); a script that asks for more than one guards its own start with
    `if __name__ == "__main__"`.
    """
    return [as_dict(row) for row in run(spec, Path(out), jobs, save_every, progress or Progress())]


def as_dict(row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return dataclasses.asdict(row) | {"ior": row.ior, "hlr": row.hlr}


def run(source: str | Path | Mapping[str, Any], out: Path, jobs: int, save_every: str, progress: Progress) -> list[Row]:
    """Measure all that is missing. What can be refused is refused before anything is computed or written."""
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}")
    every = checkpoint.interval(save_every)
    figure.check()
    plan, data = prepare(source, progress)
    record.check_folder(out)
    wanted = tasks(plan, data)
    context = Context(out, data, every, run_folder.command_line(), jobs)
    with files.held(out):
        record.check_same(out, plan, data)
        record.begin(out, plan, data)
        lines = record.results(out)
        done = {line["cell"] for line in lines}
        todo = [task for task in wanted if task.name not in done]
        if todo:
            record.add_machine(out, host(data.device, jobs))
        try:
            for line in measured(context, plan, todo, progress.quiet):
                files.append(out / record.RESULTS, line)
                lines.append(line)
                log.info("%s", f"[{len(wanted) - len(todo) + len(lines) - len(done)}/{len(wanted)}] {words(line)}")
                write_tables(out, plan, lines, len(wanted) - len(lines))
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"the same command goes on with {out}") from error
        rows = write_tables(out, plan, lines, 0)
        figure.write([out / name for name in record.FIGURES], plan, rows)
    return rows


def prepare(source: str | Path | Mapping[str, Any], progress: Progress) -> tuple[ComparisonPlan, ImageData]:
    """The plan and its real images, after all checks that need no network to be trained."""
    where = "" if isinstance(source, Mapping) else f"{source}: "
    if not isinstance(source, Mapping) and not Path(source).is_file():
        raise MissingError(f"there is no spec file {source}; a spec is a TOML file with an [[entry]] for each method")
    values = source if isinstance(source, Mapping) else layers.read(Path(source))
    plan = spec.resolve(values, where)
    data = real_images(plan, progress)
    if values.get("recipe") is None and not recipes.has_own(plan.recipe.data.dataset):
        plan = spec.resolve(values, where, auto.shape_of(data))
    check(plan, data, where)
    return plan, data


def real_images(plan: ComparisonPlan, progress: Progress) -> ImageData:
    """The training images, and what is tested on."""
    data = load_data(plan.recipe, progress)
    return data if plan.holdout is None else data.holdout(plan.holdout, plan.recipe.data.test_seed)


def check(plan: ComparisonPlan, data: ImageData, where: str) -> None:
    """Raise `UserError` where data, network and the settings of any point do not fit."""
    if data.test_images is None:
        raise UserError(f"{where}{data.name} has no test images; holdout = 0.2 tests on a share of the training images")
    for_data.build(plan.recipe.network, for_data.describe(data), 0)
    for network in protocol.chosen_networks(plan.recipe.evaluate, plan.recipe.network).values():
        for_data.build(network, for_data.describe(data), 0)
    for point in plan.points:
        try:
            check_data(data, point.recipe.condense)
            check_precision(point.recipe.condense.precision, data.device)
        except UserError as error:
            raise UserError(f"{where}entry '{point.entry}': {error}") from error


def measured(context: Context, plan: ComparisonPlan, todo: Sequence[Task], quiet: bool) -> Iterator[Line]:
    """The lines of all tasks: one after another here, or side by side in processes."""
    if context.jobs == 1:
        warm_up()
        yield from (measure(context, task) for task in todo)
        return
    there = partial(begin, plan, context.out, context.every, context.command, context.jobs, quiet)
    yield from side_by_side(todo, context.jobs, there)


def warm_up() -> None:
    """What PyTorch imports at its first optimiser takes seconds, and they are no entry's."""
    torch.optim.SGD([torch.zeros(1)], lr=0.1)


def begin(
    plan: ComparisonPlan, out: Path, every: Interval, command: str, jobs: int, quiet: bool
) -> Callable[[Task], Line]:
    """In a process of its own: the real images, and the function of a task. What all say is said once, not here."""
    silent = Progress()
    with silent.listening():  # what was said of the data is said already
        data = real_images(plan, silent)
    warm_up()
    log.addHandler(Warnings(Progress(quiet=quiet)))
    return partial(measure, Context(out, data, every, command, jobs))


class Warnings(ProgressHandler):
    """Of what a process of a comparison logs, the warnings: what its device cannot do."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.setLevel(logging.WARNING)


def write_tables(out: Path, plan: ComparisonPlan, lines: Sequence[Line], left: int) -> list[Row]:
    """Bring both tables up to date."""
    rows = numbers.rows(plan, lines)
    text = tables.to_markdown(plan, rows, lines, record.hosts(out), left)
    for name, content in ((record.TABLE_MD, text), (record.TABLE_CSV, tables.to_csv(rows))):
        files.atomically(out / name, partial(_write_text, content))
    return rows


def words(line: Line) -> str:
    """What a line is about, in a few words."""
    if line.get("diverged"):
        return f"{line['cell']}: {line['diverged']}"
    accuracy = ", ".join(f"{name} {entry['mean']:.3f}" for name, entry in line["accuracy"].items())
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in line["seconds"].items())
    return f"{line['cell']}: {accuracy} ({spent})"


def _write_text(content: str, path: Path) -> None:
    path.write_text(content, encoding="utf-8")
