"""`attar condense --nclass_sub N` without a phase: all parts, each in its own run folder, and then the whole set."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.runs import resume, run_folder, sinks
from attar.runs.checkpoint import Interval
from attar.runs.progress import Progress, ProgressBar
from attar.runs.run_folder import RunFolder
from attar.sets import partition, set_files
from attar.settings import layers
from attar.settings.config import Recipe
from attar.signals import Interrupted
from attar.stages.merge import Part, merge_into, read_part, whole_of
from attar.training.pool import Pool

PARTS = "parts"  # the folder below the run's own

CondenseInto = Callable[..., None]


def is_split(recipe: Recipe) -> bool:
    """Whether all parts of a partition are asked for."""
    return recipe.condense.nclass_sub is not None and recipe.condense.phase is None


@dataclass(frozen=True)
class Job:
    """One part: its settings, its folder, how often its state is kept, the command that asked for it, its sinks."""

    recipe: Recipe
    path: Path
    every: Interval
    command: str
    log: tuple[str, ...]  # where its events go besides its folder


def condense_parts(
    folder: RunFolder,
    data: ImageData,
    pool: Pool,
    recipe: Recipe,
    watch: Progress,
    seconds: dict[str, float],
    every: Interval,
    workers: ThreadWorkers | None,
    into: CondenseInto,
    log: Sequence[str] = (),
) -> None:
    """Condense all parts, one after another here or as tasks of `workers`, and merge them. Parts that are done stay.

    into: what condenses one recipe into one run folder.
    """
    command = run_folder.command_line()
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    if about:
        about |= {"continued": [*about.get("continued", ()), command]}
    else:
        about = {"command": command, "environment": run_folder.environment(data.device), "seconds": dict(seconds)}
    folder.write(run_folder.CONFIG, layers.as_sections(recipe) | {"attar": about})
    jobs = [
        Job(replace(recipe, condense=replace(recipe.condense, phase=phase)), path, every, command, tuple(log))
        for phase, path in enumerate(part_folders(folder.path, data, recipe))
    ]
    try:
        if workers is None:
            parts = [condense_part(data, pool, job, into, watch) for job in jobs]
        else:
            parts = condense_remotely(data, pool, jobs, into, watch, workers)
    except BaseException as error:
        if not any((job.path / run_folder.CONFIG).exists() for job in jobs):  # nothing was done that could go on
            folder.discard()
        elif isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"attar condense --resume {folder.path} goes on") from error
        raise
    merge_into(folder, parts, whole_of(parts), about, seconds)


def part_folders(path: Path, data: ImageData, recipe: Recipe) -> list[Path]:
    """The run folders of the parts."""
    count = partition.parts_of(data.nclass, recipe.condense.nclass_sub or data.nclass)
    return [path / PARTS / str(phase) for phase in range(count)]


def discard_parts(path: Path) -> None:
    """Remove the run folders of the parts, as a run that is replaced is removed."""
    for old in (path / PARTS).glob("*"):
        if old.is_dir():
            with run_folder.opened(old) as folder:
                folder.discard()
            with suppress(OSError):  # other files of the user
                old.rmdir()


def condense_part(data: ImageData, pool: Pool, job: Job, into: CondenseInto, watch: Progress | None = None) -> Part:
    """Condense one part in its run folder: from the beginning, from its last checkpoint, or read what is done."""
    remote = watch is None
    watch = watch or Progress(quiet=True)
    if remote:
        devices.pick(data.device.type)
    # A task that is started again may find the one before it not quite dead
    with run_folder.opened(job.path, wait=watch.say if remote else None) as folder:
        about, saved = None, None
        recipe = job.recipe
        if (job.path / run_folder.CONFIG).exists():
            begun = resume.open_existing(folder, recipe, watch.say)
            if begun.finished:
                part = read_part(job.path)
                if part.condensed.fingerprint not in ("", None, data.fingerprint):
                    raise UserError(f"{job.path} was made of other training images; start again with --overwrite")
                return part
            recipe, about, saved = begun.recipe, begun.about, begun.saved
        else:
            run_folder.create(job.path, overwrite=False)
        name = f"part {recipe.condense.phase}"
        seconds: dict[str, float] = {}
        with sinks.opened(job.log, job.path, layers.as_sections(recipe)) as opened:
            own = replace(folder, sinks=opened)
            into(own, data, pool, recipe, watch, seconds, job.every, about, saved, name=name, command=job.command)
    return read_part(job.path)


def condense_remotely(
    data: ImageData, pool: Pool, jobs: list[Job], into: CondenseInto, watch: Progress, workers: ThreadWorkers
) -> list[Part]:
    """Every part as a task, with one line of progress each."""
    names = [f"part {job.recipe.condense.phase}" for job in jobs]
    with ExitStack() as stack:
        stages = stack.enter_context(watch.stages(names, jobs[0].recipe.condense.outer_iterations))

        def one(item: tuple[Job, ProgressBar]) -> Part:
            job, stage = item
            there = replace(job, path=job.path.absolute())

            def idle() -> None:
                follow(job.path, stage)

            part = workers.call(condense_part, data, pool, there, into, many=True, idle=idle)
            part = replace(part, path=job.path)
            if not (job.path / set_files.CONDENSED).exists():  # the node has a disk of its own
                keep_part(part)
            follow(job.path, stage)
            return part

        return list(workers.map(one, zip(jobs, stages, strict=True)))


def follow(path: Path, stage: ProgressBar) -> None:
    """Bring a part's line of progress up to what its metrics.jsonl tells, where its disk is ours."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (path / run_folder.METRICS).read_text(encoding="utf-8").splitlines()
    steps = []
    for line in lines:
        with suppress(ValueError):  # the last one may be half-written
            event = json.loads(line)
            steps += [event] if event.get("event") == "step" else []
    for event in steps[stage.done :]:
        stage.advance(f"loss {event['loss']:.4g}")


def keep_part(part: Part) -> None:
    """Leave in a part's run folder what came back from a node."""
    with run_folder.opened(part.path) as folder:
        run_folder.create(part.path, overwrite=True)
        folder.write(run_folder.CONFIG, part.condensed.recipe | {"attar": part.about})
        for event in part.events:
            folder.event(event)
        folder.keep_snapshots(*part.snapshots)
        set_files.save_set(part.path / set_files.CONDENSED, part.condensed)
        folder.write(run_folder.RESULT, part.result)


def check_split(folder: RunFolder, wanted: Recipe) -> bool:
    """Whether the run of all parts in a folder is done. Raises `UserError` where it holds another run."""
    resume.check_same(folder, resume.kept_recipe(folder), wanted)
    return resume.is_finished(folder, wanted)
