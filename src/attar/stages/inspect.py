"""What is in a data set, and what distilling it will take on this machine."""

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
from attar.report import pictures
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.sets.decode import decoded_count
from attar.settings.config import Recipe
from attar.stages import schedule
from attar.stages.schedule import Estimate
from attar.stages.shared import resolve_inputs

IMAGES_PER_CLASS = 8  # in the picture


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found."""

    data: ImageData
    picture: Path
    recipe: Recipe
    fitted: str  # the line that says what was chosen for data of the user's own; empty where a recipe speaks of them
    estimate: Estimate | None
    class_bytes: int  # of memory that a class's step needs
    refused: str = ""  # why no estimate was made


def inspect(
    data: Any, *, out: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> Inspection:
    """Count a data set, draw some of it, choose a recipe and measure a few iterations of it.

    Args:
        data: what `attar.load` takes.
        out: the picture's file; inspect-<data set>.png by default.
        progress: where progress is shown; nowhere by default.
        settings: of the data, and ipc and method.

    Returns:
        What was found.

    Raises:
        UserError: for data that cannot be read.
    """
    inputs = resolve_inputs("inspect", data, settings, progress=progress or Progress())
    images, recipe = inputs.data, inputs.recipe
    path = Path(out or f"inspect-{images.name.replace('/', '-')}.png")
    run_folder.check_folder(path.parent)
    rows = torch.cat([images.rows(c)[:IMAGES_PER_CLASS] for c in range(images.nclass)])
    pictures.save_grid(path, images.images[rows], images.labels[rows], images.classes)
    condense = recipe.condense
    decoded = min(decoded_count(condense.ipc, condense.factor, condense.decode_type), condense.batch_syn_max)
    module = build(recipe.network, describe(images), 0)
    working = class_bytes(module, images.channels, images.size, condense.batch_real + decoded)
    try:
        check_data(images, condense)
    except UserError as error:
        return Inspection(images, path, recipe, inputs.fitted, None, working, str(error))
    return Inspection(images, path, recipe, inputs.fitted, schedule.estimate(images, recipe), working)
