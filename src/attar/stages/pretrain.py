"""`attar pretrain`, and the pool that a condensation uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attar import files
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.settings import layers
from attar.settings.config import FLAGS, Recipe, flags_of
from attar.stages.shared import POOLS, elsewhere, for_own, load_data, named_folder
from attar.training import early_stage, pool_files
from attar.training import pool as pool_module
from attar.training.pool import Pool


def pretrain(
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    quiet: bool,
    json: bool = False,
    ray: str | None = None,
) -> None:
    """Train members into a pool folder and show the accuracy of each."""
    chosen = layers.resolve(FLAGS["pretrain"], given, recipe=recipe)
    if chosen.condense.network_init == "fresh":
        raise UserError(f"method {chosen.condense.method} takes no pool: its networks are fresh")
    watch = Progress(quiet=quiet, json=json)
    data = load_data(chosen, watch)
    chosen, line = for_own(chosen, given, recipe, data, "pretrain")
    if "seed" in given and not {"models", "model_num"} & given.keys():
        chosen = replace(chosen, pool=replace(chosen.pool, models=1))
    folder = named_folder(out) if out is not None else POOLS / pool_files.folder_name(data, chosen.network)
    run_folder.check_folder(folder)
    with elsewhere(ray, data.device, watch.say, 1 if ray is not None else None) as workers:
        if line:
            watch.say(line)
        pool = train_pool(data, chosen, folder, watch, workers=workers)
    members = [
        {"name": member.name, "accuracy": member.accuracy, "settings": member.settings} for member in pool.members
    ]
    watch.result({"folder": str(folder), "members": members}, lambda: print_members(pool, str(folder)))


def print_members(pool: Pool, title: str) -> None:
    """How long each member was trained, its seed and accuracy."""
    table = Table("model", "epochs", "seed", "accuracy", title=title)
    for member in pool.members:
        settings, share = member.settings, member.settings.get("fraction", 1.0)
        epochs = str(settings["epochs"]) + (f" x {share:g}" if share < 1 else "")
        table.add_row(member.name, epochs, str(settings["seed"]), early_stage.shown(member.accuracy))
    Console().print(table)


def train_pool(
    data: ImageData,
    recipe: Recipe,
    folder: Path | None,
    watch: Progress,
    *,
    fill: bool = False,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """The recipe's pool, with one step of progress per epoch; `fill`: other members of the folder may be part of it.

    One process at a time trains into a folder: another one waits, and finds the members there.
    """
    if folder is not None:
        run_folder.check_folder(folder)
        with files.held(folder, wait=watch.say):
            files.clean(folder, f"*{files.SUFFIX}")
            return _train(data, recipe, folder, watch, fill=fill, workers=workers)
    return _train(data, recipe, None, watch, fill=False, workers=workers)


def _train(
    data: ImageData, recipe: Recipe, folder: Path | None, watch: Progress, *, fill: bool, workers: ThreadWorkers | None
) -> Pool:
    epochs = recipe.pool.epochs
    step, each = (": epoch ", epochs) if workers is None else (": accuracy ", 1)  # what is heard of a member
    images = round(len(data.labels) * recipe.pool.fraction) * epochs // each
    with watch.stage("pretrain", recipe.pool.models * each, images=images) as stage:

        def say(line: str) -> None:
            (stage.advance if step in line else watch.say)(line)

        if fill and folder is not None:
            return early_stage.fill(data, recipe.pool, recipe.network, folder, report=say, workers=workers)
        return early_stage.pretrain(data, recipe.pool, recipe.network, folder=folder, report=say, workers=workers)


def find_pool(
    data: ImageData, recipe: Recipe, given: dict[str, Any], watch: Progress, workers: ThreadWorkers | None = None
) -> tuple[Pool, tuple[str, ...]]:
    """The pool that `model_path` names, else that of the default folder, and the files to name for the same pool again.

    A pool that the recipe describes needs no files: the same is trained wherever it is missing. Fresh networks need
    none.
    """
    if recipe.condense.network_init == "fresh":
        return pool_module.empty(data, recipe.network), ()
    if recipe.condense.model_path:
        pool = pool_files.load(
            [Path(name) for name in recipe.condense.model_path],
            data,
            recipe.network,
            length=length(recipe, given),
            limit=recipe.pool.models if {"models", "model_num"} & given.keys() else None,
        )
        watch.say(f"pool: {len(pool)} models from {', '.join(recipe.condense.model_path)}")
    else:
        folder = POOLS / pool_files.folder_name(data, recipe.network)
        pool = train_pool(data, recipe, folder, watch, fill=True, workers=workers)
        if early_stage.is_described(pool, recipe.pool):
            return pool, ()
    return pool, tuple(str(member.file) for member in pool.members)


def length(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, float]:
    """How long the models of a named pool have to be trained: what was asked for by a flag, nothing by default."""
    asked = {name for flag, (_, name) in flags_of("pool", "epochs", "fraction").items() if flag in given}
    return {name: getattr(recipe.pool, name) for name in ("epochs", "fraction") if name in asked}
