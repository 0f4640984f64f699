"""`attar select`: a core-set in a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.data.images import ImageData
from attar.engine import device as devices
from attar.errors import MissingError, choose
from attar.report import pictures
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.runs.result import describe_result
from attar.runs.run_folder import RunFolder
from attar.selection import coresets, embeddings
from attar.selection.embeddings import Embed
from attar.sets import set_files
from attar.settings import layers
from attar.settings.config import FLAGS, Recipe
from attar.stages.pretrain import length, train_pool
from attar.stages.shared import POOLS, RUNS, check, for_own, load_data, named_folder, stopwatch
from attar.training import pool_files


def select(
    kind: str,
    out: str | None,
    given: dict[str, Any],
    *,
    recipe: str | None,
    features: str | None,
    overwrite: bool,
    quiet: bool,
    json: bool = False,
) -> None:
    """Choose real images of each class and leave what a run leaves: the set, config.json, result.json, report.html.

    features: `early` (an early-stage network of the default pool, trained there if it is missing), `pixels`, or the
    file or folder of a pool.
    """
    choose("core-set", kind, coresets.CORESETS)
    features = check_features(features)
    watch = Progress(quiet=quiet, json=json)
    chosen = layers.resolve(FLAGS["select"], given, recipe=recipe)
    data = load_data(chosen, watch)
    chosen, _ = for_own(chosen, given, recipe, data, "select")
    chosen = coresets.settled(chosen)
    path = named_folder(out) if out is not None else RUNS / f"{data.name}-{kind}-ipc{chosen.condense.ipc}"
    check(data, chosen, path, overwrite=overwrite)
    seconds: dict[str, float] = {}
    embed: Embed = embeddings.pixels
    words = "none" if kind == "random" else "pixels"
    if kind != "random" and features != "pixels":
        with stopwatch(seconds, "pretrain"):
            embed, words = by_model(data, chosen, features, length(chosen, given), watch)
    with run_folder.opened(path) as folder:
        run_folder.create(path, overwrite=overwrite)
        result = select_into(folder, data, kind, chosen, (embed, words), watch, seconds)
        watch.result(result, lambda: print(f"{path / set_files.CONDENSED}\nnext: attar evaluate {path}"))


def select_into(
    folder: RunFolder,
    data: ImageData,
    kind: str,
    recipe: Recipe,
    compared_by: tuple[Embed, str],  # and in words
    watch: Progress,
    seconds: dict[str, float],
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """Choose, and leave what a run leaves; what result.json says. command: what was typed, by default this process's.

    result.json is written last: a folder that has it is done.
    """
    embed, words = compared_by
    with stopwatch(seconds, "select"), watch.stage("select", data.nclass) as stage:
        condensed = coresets.select(
            data, kind, recipe.condense.ipc, embed, seed=recipe.condense.seed, report=stage.advance
        )
        devices.wait(data.device)
    settings = coresets.sections(recipe)
    condensed = replace(condensed, recipe=settings)
    about = {"command": command or run_folder.command_line(), "environment": run_folder.environment(data.device)}
    folder.write(run_folder.CONFIG, settings | {"attar": about | {"method": kind, "features": words}})
    set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = describe_result(condensed, data) | {"features": words, "accuracy": {}, "seconds": seconds}
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)
    return result


def check_features(features: str | None) -> str:
    """What embeds the images. Raises `UserError` for a name that is none, and no path."""
    if features is None or features in coresets.FEATURES:
        return features or "early"
    if not Path(features).exists():
        if Path(features).suffix or "/" in features:
            raise MissingError(f"there is no pool at {features}; features are early, pixels or a pool")
        choose("features", features, coresets.FEATURES)
    return features


def by_model(
    data: ImageData, recipe: Recipe, features: str, wanted: dict[str, float], watch: Progress
) -> tuple[Embed, str]:
    """The features of an early-stage model, and its name."""
    if features == "early":
        pool = train_pool(data, recipe, POOLS / pool_files.folder_name(data, recipe.network), watch)
    else:
        pool = pool_files.load([Path(features)], data, recipe.network, length=wanted, limit=1)
    return coresets.by_first(pool, data), pool.members[0].name
