"""How one cell of a comparison is computed: early-stage models, a run folder, its accuracy; and the yardsticks."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar import models
from attar.comparison import makers, record
from attar.comparison.plan import Cell, ComparisonPlan, seeded, slug
from attar.comparison.record import ResultLine, SharedNetworks
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.engine.workers import ThreadWorkers
from attar.errors import Diverged, log
from attar.evaluation import protocol
from attar.evaluation.measure import evaluate
from attar.evaluation.protocol import INITIAL, RANDOM, WHOLE
from attar.files import SUFFIX, append, clean, held, mend
from attar.models import for_data
from attar.runs import existing, run_folder
from attar.runs.checkpoint import Interval
from attar.runs.progress import Progress
from attar.sets import set_files
from attar.sets.decode import decoded_count
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import EvaluateConfig, PoolConfig, Recipe
from attar.settings.schema import settings_of
from attar.stages.evaluate import measure_into
from attar.stages.run import RunOptions, condense_run
from attar.stages.select import select_into
from attar.stages.shared import about_run
from attar.training import early_stage
from attar.training.pool import Member, Pool

SECONDS_FILE = "seconds.jsonl"  # in a pool's folder: seconds until each member was finished, in finishing order


@dataclass(frozen=True)
class Context:
    """What all runs of a comparison share."""

    out: Path  # the folder of the comparison
    data: ImageData
    every: Interval  # between checkpoints
    command: str  # that started the comparison
    jobs: int  # runs at once


@dataclass(frozen=True)
class Yardstick:
    """A reference that is the same for all entries: random real images at equal storage, or the whole training set."""

    kind: str  # `protocol.RANDOM` or `protocol.WHOLE`
    ipc: int | None  # None for the whole set
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Such as `random_real ipc 1 epochs 300 seed 0`."""
        epochs = self.recipe.evaluate.whole_epochs if self.kind == WHOLE else self.recipe.evaluate.epochs
        return f"{self.kind} {'' if self.ipc is None else f'ipc {self.ipc} '}epochs {epochs} seed {self.seed}"


Task = Cell | Yardstick


def tasks(plan: ComparisonPlan, data: ImageData) -> list[Task]:
    """Everything that a comparison measures: the whole set once, random images per size and seed, then the cells."""
    config = plan.recipe.evaluate
    yardsticks: dict[str, Task] = {}

    def add(kind: str, ipc: int | None, seed: int, config: EvaluateConfig) -> None:
        yardstick = Yardstick(kind, ipc, seed, replace(plan.recipe, evaluate=config))
        yardsticks.setdefault(yardstick.name, yardstick)

    if WHOLE in config.yardsticks:
        of_points = [(point.recipe.condense, point.recipe.evaluate) for point in plan.points]
        longest = max(protocol.epochs_of(WHOLE, condense, data, own) for condense, own in of_points)
        add(WHOLE, None, 0, replace(config, whole_epochs=longest))
    for seed in plan.seeds if RANDOM in config.yardsticks else ():
        for point in plan.points:
            condense = point.recipe.condense
            epochs = protocol.epochs_of(RANDOM, condense, data, point.recipe.evaluate)
            add(RANDOM, condense.ipc, seed, replace(seeded(config, seed), epochs=epochs))
    return [*yardsticks.values(), *plan.cells]


def at_equal_steps(plan: ComparisonPlan, data: ImageData) -> ComparisonPlan:
    """The plan with epochs for every point that are as many steps as those on the largest set of its ipc."""
    largest: dict[int, tuple[int, int]] = {}  # by ipc: decoded images, and the epochs on them
    sizes = []
    for point in plan.points:
        condense = point.recipe.condense
        sizes.append(data.nclass * decoded_count(condense.ipc, condense.factor, condense.decode_type))
        epochs = protocol.epochs_for(condense, data, plan.recipe.evaluate)
        largest[condense.ipc] = max(largest.get(condense.ipc, (0, 0)), (sizes[-1], epochs))
    points = []
    for point, size in zip(plan.points, sizes, strict=True):
        images, epochs = largest[point.recipe.condense.ipc]
        equal = protocol.epochs_at_equal_steps(epochs, images, size, plan.recipe.evaluate.batch_size)
        evaluate = replace(point.recipe.evaluate, epochs=equal)
        points.append(replace(point, recipe=replace(point.recipe, evaluate=evaluate)))
    return replace(plan, points=tuple(points))


def blank(data: ImageData, ipc: int) -> SyntheticSet:
    """A set of this size without images, for functions that only need the size. It takes no memory."""
    labels = torch.arange(data.nclass, device=data.device).repeat_interleave(ipc)
    images = torch.zeros(1, 1, 1, 1, device=data.device).expand(len(labels), data.channels, *data.size)
    return SyntheticSet(
        images, labels, classes=data.classes, mean=data.mean, std=data.std, source=data.name, space=data.space
    )


def measure(context: Context, task: Task) -> ResultLine:
    """Compute a task, or the rest of it where it was interrupted, and return its line of results."""
    return yardstick_line(context, task) if isinstance(task, Yardstick) else cell_line(context, task)


def common_values(context: Context, task: Task) -> ResultLine:
    """The values with which every line begins."""
    return {
        "cell": task.name,
        "dataset": context.data.name,
        "tested_on": context.data.tested_on,
        "seed": task.seed,
        "host": host(context.data.device, context.jobs),
    }


def host(device: torch.device, jobs: int) -> dict[str, Any]:
    """The properties of this machine that the numbers depend on, above all the seconds."""
    threads = 1 if jobs > 1 else torch.get_num_threads()
    where = {"processor": devices.processor(), "device": devices.describe(device)}
    return {**where, "threads": threads, "jobs": jobs, "cores": devices.cores(), "versions": versions(device)}


def versions(device: torch.device) -> dict[str, str]:
    """The versions of the software that computes."""
    environment = run_folder.environment(device)
    return {name: environment[name] for name in ("attar", "python", "torch")}


def yardstick_line(context: Context, task: Yardstick) -> ResultLine:
    """The accuracy of networks that were trained on random real images, or on all of them."""
    config = replace(task.recipe.evaluate, yardsticks=(task.kind,))
    trained = SharedNetworks(context.out, None)
    size, network = blank(context.data, task.ipc or 1), task.recipe.network
    measured = evaluate(size, context.data, config, network, trained=trained, yardsticks_only=True)
    values = {"yardstick": task.kind, "ipc": task.ipc, "accuracy": measured[task.kind]}
    return common_values(context, task) | values | {"seconds": {"evaluate": trained.seconds}}


def cell_line(context: Context, cell: Cell) -> ResultLine:
    """Compute a cell in its run folder, and return its line of results.

    Where the numbers of the run or of its pool became infinite, the line says so and has no accuracy.
    """
    data, point, path = context.data, cell.point, context.out / record.CELLS_FOLDER / cell.folder
    condense = point.recipe.condense
    line = common_values(context, cell) | {
        **{"entry": point.entry, "method": point.method, "point": point.settings},
        **{"ipc": condense.ipc, "factor": condense.factor, "folder": f"{record.CELLS_FOLDER}/{cell.folder}"},
        "settings": record.settings_of_line(cell.recipe),
    }
    with run_folder.open_run_folder(path, wait=True) as folder:
        try:
            condensed, seconds = make_set(context, cell, folder)
        except Diverged as error:
            return line | {"diverged": str(error), "accuracy": {}, "seconds": {}}
        yardsticks = tuple(name for name in cell.recipe.evaluate.yardsticks if name == INITIAL)
        recipe = replace(cell.recipe, evaluate=replace(cell.recipe.evaluate, yardsticks=yardsticks))
        trained = SharedNetworks(context.out, folder)
        measured = measure_into(folder, condensed, data, recipe, Progress(), None, trained).measured
        return line | {**measured, "seconds": seconds | {"evaluate": trained.seconds}}


TimedSet = tuple[SyntheticSet, dict[str, float]]  # a set, and its seconds by stage


def make_set(context: Context, cell: Cell, folder: run_folder.RunFolder) -> TimedSet:
    """The set of a cell: computed, from its checkpoint where there is one, or loaded where it is finished."""
    pool, seconds = Pool(cell.recipe.network, for_data.describe(context.data), ()), {}
    if makers.needs_pool(cell.point.method, cell.point.features, cell.recipe):
        pool, seconds["pretrain"] = early_models(context, cell.recipe)
    make = _condense if makers.maker(cell.point.method).condenses else _select
    return make(context, cell, folder, pool, seconds)


@contextmanager
def log_prefix(prefix: str) -> Iterator[None]:
    """Let every line that attar logs in the context begin with `prefix`."""

    def add_prefix(record: logging.LogRecord) -> bool:
        record.msg, record.args = prefix + record.getMessage(), ()
        return True

    log.filters.insert(0, add_prefix)  # before the filter that lets a line pass once
    try:
        yield
    finally:
        log.filters.remove(add_prefix)


def _condense(
    context: Context, cell: Cell, folder: run_folder.RunFolder, pool: Pool, seconds: dict[str, float]
) -> TimedSet:
    """Condense as `attar condense` does."""
    files = tuple(str(member.file) for member in pool.members)
    recipe = replace(cell.recipe, condense=replace(cell.recipe.condense, model_path=files, curve=False))
    pooled = {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}
    about = about_run(context.data, context.command) | pooled | {"seconds": seconds}
    run = existing.open_or_create(folder, recipe, about)
    if not run.finished:
        torch.compiler.reset()  # the compiler stops after a few compilations in one process
        with log_prefix(f"{cell.name}: "):
            condense_run(run, context.data, pool, RunOptions(context.every, command=context.command))
    return set_files.load_set(folder.path), folder.read(run_folder.RESULT, "seconds")["seconds"]


def _select(
    context: Context, cell: Cell, folder: run_folder.RunFolder, pool: Pool, seconds: dict[str, float]
) -> TimedSet:
    """Select real images as `attar select` does."""
    if not (folder.path / run_folder.RESULT).exists():
        run_folder.create(folder.path, overwrite=True)
        point = cell.point
        by = pool, pool.members[0].name if len(pool) else point.features or "none"
        select_into(folder, context.data, point.method, cell.recipe, by, Progress(), seconds, command=context.command)
    return set_files.load_set(folder.path), folder.read(run_folder.RESULT, "seconds")["seconds"]


def early_models(context: Context, recipe: Recipe) -> tuple[Pool, float]:
    """The pool of a cell and the seconds of all of its members. Cells with the same settings of a pool share it.

    A member whose seconds are not recorded is trained again. Members are not tested: that would take time, and
    no number of a comparison depends on it.
    """
    data, network = context.data.untested(), recipe.network
    singles = [
        replace(recipe.pool, seed=seed, models=1)
        for seed in range(recipe.pool.seed, recipe.pool.seed + recipe.pool.models)
    ]
    folder = context.out / record.POOLS_FOLDER / pool_name(recipe)
    with held(folder, wait=True):
        clean(folder, f"*{SUFFIX}")
        mend(folder / SECONDS_FILE)
        recorded = {line["member"]: float(line["seconds"]) for line in record.lines(folder / SECONDS_FILE)}
        for path in folder.glob(f"*{SUFFIX}"):
            if path.stem not in recorded:
                path.unlink()
        before, start, lock = max(recorded.values(), default=0.0), time.perf_counter(), threading.Lock()

        def train(config: PoolConfig) -> Member:
            member = early_stage.pretrain(data, config, network, folder=folder).members[0]
            with lock:
                if member.name not in recorded:
                    recorded[member.name] = before + time.perf_counter() - start
                    append(folder / SECONDS_FILE, {"member": member.name, "seconds": recorded[member.name]})
            return member

        members = tuple(ThreadWorkers(data.device).map(train, singles))
    return Pool(network, for_data.describe(data), members), max(recorded.values())


def pool_name(recipe: Recipe) -> str:
    """The folder name of a pool, different for all different settings."""
    sections = settings_of(recipe)
    digest = hashlib.sha256(json.dumps([sections["pool"], sections["network"]], sort_keys=True).encode()).hexdigest()
    network = models.label(recipe.network.net_type, recipe.network.depth, recipe.network.norm_type)
    return f"{slug(network)}-e{recipe.pool.epochs}-n{recipe.pool.models}-seed{recipe.pool.seed}-{digest[:8]}"
