"""The embedded digits from data to report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.runs import checkpoint, existing, run_folder, sinks
from attar.runs.progress import Progress
from attar.sets import snapshots
from attar.settings import layers
from attar.settings.config import FLAGS
from attar.stages.evaluate import TrainedNetworks, measure_into
from attar.stages.pretrain import train_pool
from attar.stages.run import Options, condense_run
from attar.stages.shared import RUNS, Stopwatch, about_run, check, load_data, named_folder


def demo(
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    log: Sequence[str] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Distil the digits, one image per class, and evaluate.

    Args:
        folder: where the run is kept; by default runs/demo, in place of the demo before.
        overwrite: replace the run that `folder` holds.
        log: "tensorboard", "wandb" or both.
        progress: where progress is shown; nowhere by default.
        settings: ipc, seed and device.

    Returns:
        What result.json holds, what of it was measured, and the folder.

    Raises:
        UserError: where the folder holds another run.
    """
    progress = progress or Progress()
    recipe = layers.resolve(FLAGS["demo"], settings, recipe="digits")
    times = snapshots.moments(recipe.condense.outer_iterations)
    recipe = replace(recipe, condense=replace(recipe.condense, eval_at=(times[0], times[len(times) // 4], times[-1])))
    path = named_folder(folder) if folder is not None else RUNS / "demo"
    overwrite = overwrite or folder is None
    sinks.check(log)
    data = load_data(recipe, progress)
    run_folder.check_free(path, overwrite=overwrite)
    check(data, recipe)
    with Stopwatch() as pretraining:
        pool = train_pool(data, recipe, None, progress)
    with run_folder.opened(path) as opened:
        pooled = {"pool": [{"name": member.name, "accuracy": member.accuracy} for member in pool.members]}
        about = about_run(data) | pooled | {"seconds": {"pretrain": pretraining.seconds}}
        run = existing.open_or_create(opened, recipe, about, overwrite=overwrite)
        options = Options(checkpoint.interval(checkpoint.EVERY), progress, tuple(log))
        condensed = condense_run(run, data, pool, options)
        with sinks.opened(log, path, layers.as_sections(recipe)) as sent:
            told = replace(opened, sinks=sent)
            result, measured = measure_into(told, condensed, data, recipe, progress, None, TrainedNetworks(path))
    return result, measured, path
