"""All parts of a partition, each in its own run folder, and then the whole set."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from attar.condensation.setup import set_up
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.runs import existing, run_folder
from attar.runs.existing import Run
from attar.runs.progress import Progress, ProgressBar
from attar.sets import partition, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe
from attar.signals import Interrupted
from attar.stages.merge import Part, merge_into, read_part, whole_of
from attar.stages.run import Options, condense_run
from attar.stages.shared import about_run
from attar.training.pool import Pool

PARTS = "parts"  # the folder below the run's own


@dataclass(frozen=True)
class Job:
    """One part: its settings, its folder, and how it is carried out."""

    recipe: Recipe
    path: Path
    options: Options


def parts_of(data: ImageData, recipe: Recipe) -> list[Recipe]:
    """The settings of each part."""
    count = partition.part_count(data.nclass, recipe.condense.nclass_sub or data.nclass)
    return [replace(recipe, condense=replace(recipe.condense, phase=phase)) for phase in range(count)]


def condense_parts(
    run: Run, data: ImageData, pool: Pool, options: Options, workers: ThreadWorkers | None = None
) -> SyntheticSet:
    """Condense all parts, one after another here or as tasks of `workers`, and merge them. Parts that are done stay."""
    path = run.folder.path
    command = options.command or run_folder.command_line()
    jobs = [
        Job(part, path / PARTS / str(phase), replace(options, command=command, name=f"part {phase}"))
        for phase, part in enumerate(parts_of(data, run.recipe))
    ]
    set_up(data, pool, jobs[0].recipe.condense)
    existing.begin(run)
    try:
        if workers is None:
            parts = [condense_part(data, pool, job) for job in jobs]
        else:
            parts = condense_remotely(data, pool, jobs, options.progress, workers)
    except BaseException as error:
        if not any((job.path / run_folder.CONFIG).exists() for job in jobs):  # nothing was done that could go on
            run.folder.discard()
        elif isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"attar condense --resume {path} goes on") from error
        raise
    condensed = whole_of(parts)
    merge_into(run.folder, parts, condensed, run.about, run.about.get("seconds", {}))
    return replace(condensed, folder=path)


def discard_parts(path: Path) -> None:
    """Remove the run folders of the parts, as a run that is replaced is removed."""
    for old in (path / PARTS).glob("*"):
        if old.is_dir():
            with run_folder.opened(old) as folder:
                folder.discard()
            with suppress(OSError):  # other files of the user
                old.rmdir()


def condense_part(data: ImageData, pool: Pool, job: Job, *, remote: bool = False) -> Part:
    """Condense one part in its run folder: from the beginning, from its last checkpoint, or read what is done."""
    if remote:
        devices.pick(data.device.type)
    # A task that is started again may find the one before it not quite dead
    with run_folder.opened(job.path, wait=remote) as folder:
        pooled = {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}
        about = about_run(data, job.options.command) | pooled | {"seconds": {}}
        run = existing.open_or_create(folder, job.recipe, about)
        if run.finished:
            part = read_part(job.path)
            if part.condensed.fingerprint not in ("", None, data.fingerprint):
                raise UserError(f"{job.path} was made of other training images; start again with --overwrite")
            return part
        condense_run(run, data, pool, job.options)
    return read_part(job.path)


def condense_elsewhere(data: ImageData, pool: Pool, job: Job) -> Part:
    """`condense_part` in a task on another machine."""
    return condense_part(data, pool, job, remote=True)


def condense_remotely(
    data: ImageData, pool: Pool, jobs: list[Job], progress: Progress, workers: ThreadWorkers
) -> list[Part]:
    """Every part as a task, with one line of progress each."""
    names = [job.options.name for job in jobs]
    with ExitStack() as stack:
        bars = stack.enter_context(progress.stages(names, jobs[0].recipe.condense.outer_iterations))

        def one(item: tuple[Job, ProgressBar]) -> Part:
            job, bar = item
            there = replace(job, path=job.path.absolute())

            def idle() -> None:
                follow(job.path, bar)

            part = workers.call(condense_elsewhere, data, pool, there, many=True, idle=idle)
            part = replace(part, path=job.path)
            if not (job.path / set_files.CONDENSED).exists():  # the node has a disk of its own
                keep_part(part)
            follow(job.path, bar)
            return part

        return list(workers.map(one, zip(jobs, bars, strict=True)))


def follow(path: Path, bar: ProgressBar) -> None:
    """Bring a part's line of progress up to what its metrics.jsonl tells, where its disk is ours."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (path / run_folder.METRICS).read_text(encoding="utf-8").splitlines()
    steps = []
    for line in lines:
        with suppress(ValueError):  # the last one may be half-written
            event = json.loads(line)
            steps += [event] if event.get("event") == "step" else []
    for event in steps[bar.done :]:
        bar.advance(f"loss {event['loss']:.4g}")


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
