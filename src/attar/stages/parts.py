"""All parts of a partition, each condensed in its own run folder and then joined."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from attar.condensation.setup import set_up
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.engine.precision import matmul_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.models.for_data import scale_of
from attar.runs import existing, run_folder
from attar.runs.existing import Run
from attar.runs.progress import Progress, ProgressBar
from attar.sets import partition, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe
from attar.signals import Interrupted
from attar.stages.merge import Part, join_parts, merge_into, read_part
from attar.stages.pretrain import describe_pool
from attar.stages.run import RunOptions, condense_run
from attar.stages.shared import Inputs, about_run, cluster_workers
from attar.training.pool import Pool


@dataclass(frozen=True)
class PartJob:
    """One part to condense: its settings, its run folder, and how the run is carried out."""

    recipe: Recipe
    path: Path
    options: RunOptions


def check_spread(config: CondenseConfig) -> None:
    """Raise `UserError` for a run that has nothing to spread over a Ray cluster."""
    if config.match == "trajectory":
        raise UserError(
            "--ray has no parts to spread: match trajectory is of all classes together; `attar pretrain --method "
            f"{config.method} --ray` trains the experts on the cluster"
        )
    if not config.is_split:
        raise UserError("--ray spreads the parts of a partition: give --nclass_sub, and no --phase")


def workers_for_parts(
    ray: str | None, cpus: int | None, inputs: Inputs, options: RunOptions
) -> AbstractContextManager[ThreadWorkers | None]:
    """Workers on a Ray cluster, see `cluster_workers`. Raises `UserError` for a run without parts."""
    check_callback(inputs, options)
    if ray is not None:
        check_spread(inputs.recipe.condense)
    return cluster_workers(ray, inputs.data.device, cpus)


def check_callback(inputs: Inputs, options: RunOptions) -> None:
    """Raise `UserError` for a callback of a run in parts."""
    if options.callback is not None and inputs.recipe.condense.is_split:
        raise UserError("callback follows one run, and nclass_sub makes several; give phase, or leave callback out")


def settings_of_parts(data: ImageData, recipe: Recipe) -> list[Recipe]:
    """The settings of each part, in the order of its classes."""
    count = partition.part_count(data.nclass, recipe.condense.nclass_sub or data.nclass)
    return [replace(recipe, condense=replace(recipe.condense, phase=phase)) for phase in range(count)]


def condense_parts(
    run: Run, data: ImageData, pool: Pool, options: RunOptions, workers: ThreadWorkers | None = None
) -> SyntheticSet:
    """Condense all parts, one after another here or as tasks of `workers`, and join them. Finished parts are kept."""
    path = run.folder.path
    command = options.command or run_folder.command_line()
    jobs = [
        PartJob(part, path / run_folder.PARTS / str(phase), replace(options, command=command, name=f"part {phase}"))
        for phase, part in enumerate(settings_of_parts(data, run.recipe))
    ]
    with matmul_precision(run.recipe.condense.precision, data.device):
        set_up(data, pool, jobs[0].recipe.condense)  # raises for all that does not fit, before anything is written
    existing.begin(run)
    try:
        if workers is None:
            parts = [condense_part(data, pool, job) for job in jobs]
        else:
            parts = condense_remotely(data, pool, jobs, options.progress, workers)
    except BaseException as error:
        if not any((job.path / run_folder.CONFIG).exists() for job in jobs):  # nothing to resume from
            run.folder.discard()
        elif isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"attar condense --resume {path} goes on") from error
        raise
    condensed = join_parts(parts)
    merge_into(run.folder, parts, condensed, run.about, run.about.get("seconds", {}))
    return replace(condensed, folder=path)


def discard_parts(path: Path) -> None:
    """Remove the run folders of the parts, as part of a run that is replaced."""
    for old in (path / run_folder.PARTS).glob("*"):
        if old.is_dir():
            with run_folder.open_run_folder(old) as folder:
                folder.discard()
            with suppress(OSError):  # the user has other files in it
                old.rmdir()


def condense_part(data: ImageData, pool: Pool, job: PartJob, *, remote: bool = False) -> Part:
    """Condense one part in its run folder: from the beginning or its last checkpoint; a finished part is read.

    remote: in a task on the cluster, which may be restarted while the task before it still holds the lock.
    """
    if remote:
        devices.pick(data.device.type)
    with run_folder.open_run_folder(job.path, wait=remote) as folder:
        about = about_run(data, job.options.command) | describe_pool(pool) | {"seconds": {}}
        run = existing.open_or_create(folder, job.recipe, about)
        if run.finished:
            part = read_part(job.path)
            if part.condensed.fingerprint not in ("", None, data.fingerprint):
                raise UserError(f"{job.path} was made of other training images; start again with --overwrite")
            if scale_of(part.condensed.mean, part.condensed.std) != scale_of(data.mean, data.std):
                raise UserError(f"{job.path} was made with another mean or std; start again with --overwrite")
            return part
        condense_run(run, data, pool, job.options)
    return read_part(job.path)


def condense_elsewhere(data: ImageData, pool: Pool, job: PartJob) -> Part:
    """`condense_part` in a task on another machine."""
    return condense_part(data, pool, job, remote=True)


def condense_remotely(
    data: ImageData, pool: Pool, jobs: list[PartJob], progress: Progress, workers: ThreadWorkers
) -> list[Part]:
    """Condense each part as a task on the cluster, with a progress bar of its own."""
    names = [job.options.name for job in jobs]
    with ExitStack() as stack:
        bars = stack.enter_context(progress.stages(names, jobs[0].recipe.condense.outer_iterations))

        def one(item: tuple[PartJob, ProgressBar]) -> Part:
            job, bar = item
            remote_job = replace(job, path=job.path.absolute())

            def idle() -> None:
                follow(job.path, bar)

            part = workers.call(condense_elsewhere, data, pool, remote_job, many=True, idle=idle)
            part = replace(part, path=job.path)
            if not (job.path / set_files.CONDENSED).exists():  # the node does not share our disk
                write_part(part)
            follow(job.path, bar)
            return part

        return list(workers.map(one, zip(jobs, bars, strict=True)))


def follow(path: Path, bar: ProgressBar) -> None:
    """Advance the progress bar of a part to the steps in its metrics.jsonl, where the node shares our disk."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (path / run_folder.METRICS).read_text(encoding="utf-8").splitlines()
    steps = []
    for line in lines:
        with suppress(ValueError):  # the last line may be half-written
            event = json.loads(line)
            steps += [event] if event.get("event") == "step" else []
    for event in steps[bar.done :]:
        bar.advance(f"loss {event['loss'] / (steps[0]['loss'] or 1):.2f} of start")


def write_part(part: Part) -> None:
    """Write the run folder of a part that came back from a node."""
    with run_folder.open_run_folder(part.path) as folder:
        run_folder.create(part.path, overwrite=True)
        folder.write(run_folder.CONFIG, part.condensed.recipe | {"attar": part.about})
        for event in part.events:
            folder.event(event)
        folder.write_snapshots(*part.snapshots)
        set_files.save_set(part.path / set_files.CONDENSED, part.condensed)
        folder.write(run_folder.RESULT, part.result)
