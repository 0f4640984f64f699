"""The content of a data set, and the time and memory that distilling it takes on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.condensation.memory import class_bytes
from attar.condensation.setup import check_data
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import build, describe
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.sets import pictures
from attar.sets.decode import decoded_count
from attar.settings.config import Recipe
from attar.stages import schedule
from attar.stages.schedule import Estimate
from attar.stages.shared import resolve_inputs
from attar.stages.show import is_run

IMAGES_PER_CLASS = 8  # in the picture


@dataclass(frozen=True, eq=False)
class Inspection:
    """The data (of a large folder a sample, see `ImageData.sampled`), the recipe for them, and the estimate."""

    data: ImageData
    picture: Path
    recipe: Recipe
    fitted: str  # says which settings were fitted to the user's data; empty where a recipe covers the data
    estimate: Estimate | None
    class_bytes: int  # memory for one class in a sweep
    refused: str = ""  # why there is no estimate


def inspect(
    data: Any, *, out: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> Inspection:
    """Count the images of a data set, draw some of them, choose a recipe and time a few of its iterations.

    Args:
        data: an `ImageData`, or what `attar.load` takes.
        out: the file of the picture; inspect-<data set>.png by default.
        progress: shows progress; nothing is shown by default.
        settings: fields of `DataConfig`, ipc and method.

    Returns:
        The data, the recipe for them, and the estimate.

    Raises:
        UserError: for data that cannot be read.
    """
    if isinstance(data, str | Path) and is_run(data):
        raise UserError(f"{data} is a run, no data set; `attar show {data}` shows it")
    inputs = resolve_inputs("inspect", data, settings, progress=progress or Progress())
    images, recipe = inputs.data, inputs.recipe
    path = Path(out or f"inspect-{images.name.replace('/', '-')}.png")
    run_folder.check_folder(path.parent)
    shown = min(IMAGES_PER_CLASS, images.sampled or IMAGES_PER_CLASS)
    rows = torch.cat([images.rows(c)[:shown] for c in range(images.nclass)])
    pictures.save_grid(path, images.images[rows], images.labels[rows], images.classes)
    condense = recipe.condense
    decoded = min(decoded_count(condense.ipc, condense.factor, condense.decode_type), condense.batch_syn_max)
    module = build(recipe.network, describe(images), 0)
    memory = class_bytes(module, images.channels, images.size, condense.batch_real + decoded)
    try:
        check_data(images, condense)
    except UserError as error:
        return Inspection(images, path, recipe, inputs.fitted, None, memory, str(error))
    return Inspection(images, path, recipe, inputs.fitted, schedule.estimate(images, recipe), memory)
