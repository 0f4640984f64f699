"""One cell of a comparison: early-stage models, a run folder, its accuracy; and the yardsticks beside the cells."""

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
from attar.comparison.record import Line, SharedNetworks
from attar.comparison.spec import Cell, ComparisonPlan, seeded, slug
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
from attar.selection import coresets, embeddings
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers
from attar.settings.config import EvaluateConfig, PoolConfig, Recipe
from attar.stages.evaluate import measure_into
from attar.stages.run import RunOptions, condense_run
from attar.stages.select import select_into
from attar.stages.shared import about_run
from attar.training import early_stage
from attar.training.pool import Member, Pool

SECONDS = "seconds.jsonl"  # in a pool's folder: what its members took, in the order in which they were done


@dataclass(frozen=True)
class Context:
    """What all cells of a comparison share."""

    out: Path
    data: ImageData
    every: Interval
    command: str
    jobs: int


@dataclass(frozen=True)
class Yardstick:
    """What no entry changes: random real images at equal storage, or the whole training set."""

    kind: str
    ipc: int | None
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Such as `random_real ipc 1 epochs 300 seed 0`."""
        epochs = self.recipe.evaluate.whole_epochs if self.kind == WHOLE else self.recipe.evaluate.epochs
        return f"{self.kind} {'' if self.ipc is None else f'ipc {self.ipc} '}epochs {epochs} seed {self.seed}"


Task = Cell | Yardstick


def tasks(plan: ComparisonPlan, data: ImageData) -> list[Task]:
    """All that a comparison measures: random images per size and seed, the whole set once, then the cells."""
    wanted, config = plan.recipe.evaluate.yardsticks, plan.recipe.evaluate
    found: dict[str, Task] = {}

    def add(kind: str, ipc: int | None, seed: int, config: EvaluateConfig) -> None:
        one = Yardstick(kind, ipc, seed, replace(plan.recipe, evaluate=config))
        found.setdefault(one.name, one)

    if WHOLE in wanted:
        add(WHOLE, None, 0, config)
    for seed in plan.seeds if RANDOM in wanted else ():
        for point in plan.points:
            condense = point.recipe.condense
            shape = replace(blank(data, condense.ipc), factor=condense.factor, decode_type=condense.decode_type)
            epochs = protocol.epochs_for(shape, data, config)
            add(RANDOM, condense.ipc, seed, replace(seeded(config, seed), epochs=epochs))
    return [*found.values(), *plan.cells]


def blank(data: ImageData, ipc: int) -> SyntheticSet:
    """A set without pictures, which stands for its size; it takes no memory."""
    labels = torch.arange(data.nclass, device=data.device).repeat_interleave(ipc)
    images = torch.zeros(1, 1, 1, 1, device=data.device).expand(len(labels), data.channels, *data.size)
    return SyntheticSet(images, labels, classes=data.classes, mean=data.mean, std=data.std, source=data.name)


def measure(context: Context, task: Task) -> Line:
    """The line of a task, from wherever it was left."""
    return yardstick_line(context, task) if isinstance(task, Yardstick) else cell_line(context, task)


def head(context: Context, task: Task) -> Line:
    """What every line begins with."""
    return {
        "cell": task.name,
        "dataset": context.data.name,
        "tested_on": context.data.tested_on,
        "seed": task.seed,
        "host": host(context.data.device, context.jobs),
    }


def host(device: torch.device, jobs: int) -> dict[str, Any]:
    """All of this machine that numbers depend on, seconds above all."""
    threads = 1 if jobs > 1 else torch.get_num_threads()
    where = {"processor": devices.processor(), "device": devices.describe(device)}
    return {**where, "threads": threads, "jobs": jobs, "cores": devices.cores(), "versions": versions(device)}


def versions(device: torch.device) -> dict[str, str]:
    """What computes."""
    environment = run_folder.environment(device)
    return {name: environment[name] for name in ("attar", "python", "torch")}


def yardstick_line(context: Context, task: Yardstick) -> Line:
    """Networks trained on random real images, or on all of them."""
    config = replace(task.recipe.evaluate, yardsticks=(task.kind,))
    trained = SharedNetworks(context.out, None)
    condensed = blank(context.data, task.ipc or 1)
    network = task.recipe.network
    measured = evaluate(condensed, context.data, config, network, trained=trained, yardsticks_only=True)
    values = {"yardstick": task.kind, "ipc": task.ipc, "accuracy": measured[task.kind]}
    return head(context, task) | values | {"seconds": {"evaluate": trained.seconds}}


def cell_line(context: Context, cell: Cell) -> Line:
    """A run folder with its set and its accuracy. One whose numbers did not stay finite, or whose pool's did not, has a
    line that says so.
    """
    data, point, path = context.data, cell.point, context.out / record.CELLS / cell.folder
    condense = point.recipe.condense
    line = head(context, cell) | {
        **{"entry": point.entry, "method": point.method, "point": point.settings},
        **{"ipc": condense.ipc, "factor": condense.factor, "folder": f"{record.CELLS}/{cell.folder}"},
        "settings": record.settings_of_line(cell.recipe),
    }
    with run_folder.open_run_folder(path, wait=True) as folder:
        try:
            condensed, seconds = made(context, cell, folder)
        except Diverged as error:
            return line | {"diverged": str(error), "accuracy": {}, "seconds": {}}
        wanted = tuple(name for name in cell.recipe.evaluate.yardsticks if name == INITIAL)
        recipe = replace(cell.recipe, evaluate=replace(cell.recipe.evaluate, yardsticks=wanted))
        trained = SharedNetworks(context.out, folder)
        _, measured = measure_into(folder, condensed, data, recipe, Progress(), None, trained)
        return line | {**measured, "seconds": seconds | {"evaluate": trained.seconds}}


Made = tuple[SyntheticSet, dict[str, float]]  # a set, and its seconds by stage


def made(context: Context, cell: Cell, folder: run_folder.RunFolder) -> Made:
    """The set of a cell: from the beginning, from its checkpoint, or read."""
    pool, seconds = Pool(cell.recipe.network, for_data.describe(context.data), ()), {}
    if makers.needs_pool(cell.point.method, cell.point.features, cell.recipe):
        pool, seconds["pretrain"] = early_models(context, cell.recipe)
    make = condense if makers.maker(cell.point.method).condenses else select
    return make(context, cell, folder, pool, seconds)


@contextmanager
def beginning_with(words: str) -> Iterator[None]:
    """Begin what attar logs in here with `words`."""

    def prefix(record: logging.LogRecord) -> bool:
        record.msg, record.args = words + record.getMessage(), ()
        return True

    log.filters.insert(0, prefix)  # before the filter that lets a line pass once
    try:
        yield
    finally:
        log.filters.remove(prefix)


def condense(context: Context, cell: Cell, folder: run_folder.RunFolder, pool: Pool, seconds: dict[str, float]) -> Made:
    """As `attar condense` does it."""
    files = tuple(str(member.file) for member in pool.members)
    recipe = replace(cell.recipe, condense=replace(cell.recipe.condense, model_path=files))
    pooled = {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}
    about = about_run(context.data, context.command) | pooled | {"seconds": seconds}
    run = existing.open_or_create(folder, recipe, about)
    if not run.finished:
        torch.compiler.reset()  # it counts what one process compiles, and stops after a few
        with beginning_with(f"{cell.name}: "):
            condense_run(run, context.data, pool, RunOptions(context.every, command=context.command))
    return set_files.load_set(folder.path), folder.read(run_folder.RESULT, "seconds")["seconds"]


def select(context: Context, cell: Cell, folder: run_folder.RunFolder, pool: Pool, seconds: dict[str, float]) -> Made:
    """As `attar select` does it."""
    if not (folder.path / run_folder.RESULT).exists():
        run_folder.create(folder.path, overwrite=True)
        point = cell.point
        by: tuple[embeddings.Embed, str] = embeddings.pixels, point.features or "none"
        if len(pool):
            by = coresets.by_first_model(pool, context.data), pool.members[0].name
        select_into(folder, context.data, point.method, cell.recipe, by, Progress(), seconds, command=context.command)
    return set_files.load_set(folder.path), folder.read(run_folder.RESULT, "seconds")["seconds"]


def early_models(context: Context, recipe: Recipe) -> tuple[Pool, float]:
    """The pool of a cell and the seconds that all of its members took; cells that need the same one share it.

    A member without its seconds is trained again: somebody else's time would be missing. None is tested, which would
    take time for a number that is only shown.
    """
    data, network = context.data.untested(), recipe.network
    singles = [
        replace(recipe.pool, seed=seed, models=1)
        for seed in range(recipe.pool.seed, recipe.pool.seed + recipe.pool.models)
    ]
    folder = context.out / record.POOLS / pool_name(recipe)
    with held(folder, wait=True):
        clean(folder, f"*{SUFFIX}")
        mend(folder / SECONDS)
        told = {line["member"]: float(line["seconds"]) for line in record.lines(folder / SECONDS)}
        for path in folder.glob(f"*{SUFFIX}"):
            if path.stem not in told:
                path.unlink()
        before, start, guard = max(told.values(), default=0.0), time.perf_counter(), threading.Lock()

        def one(config: PoolConfig) -> Member:
            member = early_stage.pretrain(data, config, network, folder=folder).members[0]
            with guard:
                if member.name not in told:
                    told[member.name] = before + time.perf_counter() - start
                    append(folder / SECONDS, {"member": member.name, "seconds": told[member.name]})
            return member

        members = tuple(ThreadWorkers(data.device).map(one, singles))
    return Pool(network, for_data.describe(data), members), max(told.values())


def pool_name(recipe: Recipe) -> str:
    """A folder's name that stands for all settings of a pool."""
    sections = layers.as_sections(recipe)
    digest = hashlib.sha256(json.dumps([sections["pool"], sections["network"]], sort_keys=True).encode()).hexdigest()
    network = models.label(recipe.network.net_type, recipe.network.depth, recipe.network.norm_type)
    return f"{slug(network)}-e{recipe.pool.epochs}-n{recipe.pool.models}-seed{recipe.pool.seed}-{digest[:8]}"
