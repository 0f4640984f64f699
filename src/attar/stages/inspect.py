"""`attar inspect`: what is in a data set, and what distilling it will take on this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from attar import models
from attar.condensation.memory import class_bytes
from attar.condensation.setup import check_data
from attar.data.images import ImageData
from attar.evaluation import protocol
from attar.models.for_data import build, describe
from attar.report import pictures
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.sets.decode import decoded_count
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, Recipe
from attar.stages import schedule
from attar.stages.shared import load_data

IMAGES_PER_CLASS = 8  # images of each class in the picture
MAX_CLASSES_LISTED = 20  # classes in the table
MEGABYTE = 1e6


def inspect(source: str, out: str | None, given: dict[str, Any], *, quiet: bool) -> None:
    """Print counts, sizes, mean and std, write a picture, choose a recipe and measure a few iterations of it."""
    watch = Progress(quiet=quiet)
    given = {"dataset": source, **given}
    recipe = layers.resolve(FLAGS["inspect"], given)
    data = load_data(recipe, watch)
    shape = auto.shape_of(data)
    if not recipes.has_own(recipe.data.dataset):
        recipe = layers.resolve(FLAGS["inspect"], given, shape=shape)
    path = Path(out or f"inspect-{data.name.replace('/', '-')}.png")
    run_folder.check_folder(path.parent)
    _describe(data)
    rows = torch.cat([data.rows(c)[:IMAGES_PER_CLASS] for c in range(data.nclass)])
    pictures.save_grid(path, data.images[rows], data.labels[rows], data.classes)
    print(f"picture: {path}")
    print(_named(recipe) if recipes.has_own(recipe.data.dataset) else auto.words(recipe, shape))
    check_data(data, recipe.condense)
    _estimate(data, recipe)


def _named(recipe: Recipe) -> str:
    network, name = recipe.network, recipe.data.dataset
    label = models.label(network.net_type, network.depth, network.norm_type)
    return (
        f"recipe {name}: {label} of width {network.width:g}, factor {recipe.condense.factor}, image learning rate "
        f"{recipe.condense.lr_img:g}; `attar recipes {name}` shows all"
    )


def _describe(data: ImageData) -> None:
    table = Table("class", "training images", "test images", title=data.name)
    tested = (
        [0] * data.nclass if data.test_labels is None else data.test_labels.bincount(minlength=data.nclass).tolist()
    )
    for name, count, test in list(zip(data.classes, data.counts, tested, strict=True))[:MAX_CLASSES_LISTED]:
        table.add_row(name, f"{count:,}", f"{test:,}")
    if data.nclass > MAX_CLASSES_LISTED:
        table.add_row(f"... {data.nclass - MAX_CLASSES_LISTED} more", "", "")
    table.add_row("all", f"{sum(data.counts):,}", f"{sum(tested):,}")
    Console().print(table)
    counts = data.counts
    print(f"{data.nclass} classes of {min(counts):,} to {max(counts):,} training images")
    size = sum(counts) * math.prod(data.images.shape[1:])
    kind = "grey" if data.channels == 1 else "colour"
    print(f"{kind} images of {data.size[1]}x{data.size[0]} pixels, {size / MEGABYTE:,.1f} MB for training")
    print(f"mean {_numbers(data.mean)}, std {_numbers(data.std)} per channel, in [0, 1]")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _estimate(data: ImageData, recipe: Recipe) -> None:
    found = schedule.estimate(data, recipe)
    condense = recipe.condense
    decoded = min(decoded_count(condense.ipc, condense.factor, condense.decode_type), condense.batch_syn_max)
    module = build(recipe.network, describe(data), 0)
    working = class_bytes(module, data.channels, data.size, condense.batch_real + decoded)
    count = condense.outer_iterations * condense.inner_loop
    pool, total = _time(found.pool(recipe.pool)), _time(found.total(recipe))
    print(
        f"estimate for ipc {condense.ipc} on this machine, from {schedule.MEASURED_CALLS} iterations measured now: "
        f"pool {pool}, {count:,} iterations of {found.inner:.2g} s {_time(found.inner * count)}; together "
        f"{total}, without the evaluation"
    )
    network = ", ".join(protocol.chosen_networks(recipe.evaluate, recipe.network))
    together = min(found.at_once, data.nclass)
    classes = "one class" if together == 1 else f"{together} classes"
    megabytes = together * working / MEGABYTE
    print(f"memory: about {megabytes:,.0f} MB for {classes} at a time with {network}, besides the images")


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
