"""The demo: the embedded digits from data to report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.runs import checkpoint, existing, run_folder, sinks
from attar.runs.progress import Progress, shows_progress
from attar.sets import snapshots
from attar.settings import layers
from attar.settings.config import FLAGS
from attar.stages.evaluate import TrainedNetworks, measure_into
from attar.stages.pretrain import describe_pool, train_pool
from attar.stages.run import condense_run, run_options
from attar.stages.shared import RUN_ROOT, Stopwatch, about_run, check_inputs, load_data, named_folder


@shows_progress
def demo(
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    log: str | Sequence[str] = (),
    progress: Progress | bool | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Distil the digits, one image per class, and evaluate the set.

    Args:
        folder: the run folder; by default runs/demo, where a previous demo is replaced.
        overwrite: replace the run in `folder`.
        log: send the events of the run to "tensorboard", "wandb" or both as well.
        progress: True shows bars and messages; nothing is shown by default.
        settings: ipc, seed and device.

    Returns:
        The content of result.json, the accuracies of this evaluation, and the folder.

    Raises:
        UserError: where the folder holds another run.
    """
    options = run_options(checkpoint.DEFAULT_INTERVAL, progress, log)
    progress = options.progress
    recipe = layers.resolve(FLAGS["demo"], settings, recipe="digits")
    times = snapshots.moments(recipe.condense.outer_iterations)
    recipe = replace(recipe, condense=replace(recipe.condense, eval_at=(times[0], times[len(times) // 4], times[-1])))
    path = named_folder(folder) if folder is not None else RUN_ROOT / "demo"
    overwrite = overwrite or folder is None
    data = load_data(recipe, progress)
    run_folder.check_free(path, overwrite=overwrite)
    check_inputs(data, recipe)
    with Stopwatch() as pretraining:
        pool = train_pool(data, recipe, None, progress)
    with run_folder.open_run_folder(path) as opened:
        about = about_run(data) | describe_pool(pool) | {"seconds": {"pretrain": pretraining.seconds}}
        run = existing.open_or_create(opened, recipe, about, overwrite=overwrite)
        condensed = condense_run(run, data, pool, options)
        with sinks.open_sinks(options.logs, path, condensed.recipe, times[-1]) as event_sinks:
            folder_with_sinks = replace(opened, sinks=event_sinks)
            trained = TrainedNetworks(path)
            evaluation = measure_into(folder_with_sinks, condensed, data, recipe, progress, None, trained)
    return evaluation.to_dict(), evaluation.measured, path
