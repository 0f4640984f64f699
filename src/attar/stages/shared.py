"""Shared by the stages: settings and real images of a call, checks before the work starts, workers on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.condensation.given_images import images_of_set
from attar.condensation.setup import check_data
from attar.data.classes import say_repeated
from attar.data.images import ImageData
from attar.data.load import as_setting, say_equal_images
from attar.data.load import load as load_images
from attar.data.sources import written
from attar.engine.precision import check_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, counted, log
from attar.evaluation import measure, protocol
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.sets.synthetic import SyntheticSet
from attar.settings import auto, layers, recipes, schema
from attar.settings.choices import GRID_NAMES
from attar.settings.config import FLAGS, DataConfig, Recipe, with_role
from attar.settings.layers import Layer
from attar.settings.schema import settings_of

POOL_ROOT = Path("pool")
RUN_ROOT = Path("runs")
DEFAULT_FOLDER = object()  # means: the folder whose name follows from data, network, method and ipc


@dataclass(frozen=True, eq=False)
class Inputs:
    """The settings and the real images of a call."""

    recipe: Recipe
    data: ImageData
    explicit: dict[str, dict[str, Any]]  # {section: {field: value}} that the caller set
    fitted: str  # says which settings were fitted to the user's data; empty where a recipe covers the data

    def with_recipe(self, recipe: Recipe) -> Inputs:
        """A copy with other settings."""
        return replace(self, recipe=recipe)


def resolve_inputs(
    verb: str,
    data: Any,
    settings: Mapping[str, Any],
    *,
    recipe: str | Path | None = None,
    published: bool = False,
    progress: Progress,
) -> Inputs:
    """Settings and real images of a call of `verb`.

    data: None where the settings name a data set, the name of a data set, or what `attar.load` takes. Where no recipe
    covers the data, the settings are fitted to the shape of the data.
    published: insist on the published settings of the data set.
    Raises `UserError` for settings of the data beside images that are already loaded.
    """
    recipe = None if recipe is None else str(recipe)
    data, settings, flags = name_as_setting(verb, data, settings)
    explicit = layers.by_section(flags, settings)
    if data is not None:
        data = given_images(data, explicit, progress)
        settings = {**settings, "data": settings_of(_data_config(data))}
    resolved = layers.resolve(flags, settings, recipe=recipe, published=published)
    if data is None and "dataset" not in explicit.get("data", {}) and not layers.names_data(recipe):
        raise UserError("name the data: -d digits, -d path/to/images, or a recipe that names them")
    images = load_data(resolved, progress, sample=verb == "inspect") if data is None else data
    fits = recipes.fits_images(recipe, resolved.data.dataset)
    say_equal_images(images)
    if not fits:
        warn_other_recipe(recipe, images)
        return Inputs(replace(resolved, data=_data_config(images)), images, explicit, "")
    shape = auto.shape_of(images)
    resolved = replace(layers.resolve(flags, settings, recipe=recipe, shape=shape), data=_data_config(images))
    return Inputs(resolved, images, explicit, auto.summary(resolved, shape))


def recipe_of_set(condensed: SyntheticSet, where: object) -> Recipe:
    """The recipe that made a set, or that of its data. where: what the caller gave, a set or its file.

    Raises `UserError` for code that the set names and the user does not.
    """
    if not condensed.recipe:
        return recipes.for_data(condensed.source)
    named = where if isinstance(where, str | Path) else condensed.folder or "SET"
    is_run = condensed.folder is not None and (condensed.folder / run_folder.CONFIG).is_file()
    return recipes.of_file(condensed.recipe, named, handed_on=isinstance(where, str | Path) and not is_run)


def with_asked(recipe: Recipe, layer: Layer, stored: Mapping[str, Any]) -> Recipe:
    """The recipe of a set with what the caller asks for on top.

    Where that names other data than the set's settings do, what said how those are read is left out, with a line. Data
    of the same name in another place keep it, but for their table of labels: it may be another folder's.

    stored: the set's settings as its file has them. One that was handed on names no folder, and keeps them all.
    """
    before, after = stored.get("data", {}).get("dataset"), layer.get("data", {}).get("dataset")
    if before is None or after is None or _place(before) == _place(after):
        return layers.laid_over(recipe, layer)
    same_name = _place(before).name == _place(after).name
    how = ("labels_csv",) if same_name else (*with_role("data", "source"), "data_dir")
    plain = settings_of(DataConfig())
    left = [name for name in how if name != "dataset" and getattr(recipe.data, name) != plain[name]]
    if said := [name for name in left if name not in layer["data"]]:
        log.info("not used for %s, since given for %s: %s", after, before, ", ".join(said))
    return layers.laid_over(layers.laid_over(recipe, {"data": {name: plain[name] for name in left}}), layer)


def _place(dataset: str) -> Path:
    return Path(os.path.realpath(os.path.expanduser(dataset)))


def warn_other_recipe(recipe: str | None, data: ImageData) -> None:
    """Warn where a named recipe is made for another data set than `data`."""
    made_for = recipes.named(recipe).data.dataset if recipe in recipes.RECIPES and recipe != "default" else data.name
    if made_for != data.name:
        log.warning(
            "the recipe %s is made for %s, and these images are %s: its learning rates and epochs may not fit; without "
            "--recipe the settings fit the images",
            *(recipe, made_for, data.name),
        )


def name_as_setting(
    verb: str, data: Any, settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Any], dict[str, tuple[str, str]]]:
    """Data and settings of a call, a named data set being a setting; and the settings that are valid beside the data.

    Raises `UserError` for settings of the data beside images that are already loaded.
    """
    flags = FLAGS[verb]
    if isinstance(data, str | Path):
        return None, {"dataset": as_setting(data), **settings}, flags
    if not isinstance(data, ImageData):
        return data, dict(settings), flags
    of_data = {flag for flag, (section, _) in flags.items() if section == "data"}
    for key in settings:
        if key.replace("-", "_") in of_data:
            raise UserError(f"{key} belongs to attar.load(...): these images are loaded already")
    return data, dict(settings), {flag: place for flag, place in flags.items() if flag not in of_data}


def given_images(data: Any, explicit: Mapping[str, Mapping[str, Any]], progress: Progress) -> ImageData:
    """The images that a caller hands in; what is no `ImageData` is read with the settings that the caller set.

    Raises `UserError` for a sample.
    """
    if isinstance(data, ImageData) and data.sampled:
        raise UserError(f"{data.name} is a sample, good to look at; load all of it, without sample=True")
    return data if isinstance(data, ImageData) else load_images(data, progress=progress, **explicit.get("data", {}))


def _data_config(data: ImageData) -> DataConfig:
    """The settings that read the images again, with the size that was chosen for images of mixed sizes."""
    return schema.replace(DataConfig(dataset=data.name), data.loaded)


def load_data(recipe: Recipe, progress: Progress, *, sample: bool = False) -> ImageData:
    """The real images that a recipe names, on its device. `progress` shows the decoding of a large folder.

    sample: of a large folder decode some images only, see `attar.load`.
    """
    values = settings_of(recipe.data)
    return load_images(values.pop("dataset"), progress=progress, sample=sample, **values)


def named_folder(out: str | Path, recipe: Recipe | None = None) -> Path:
    """The folder that --out names. Raises `UserError` for an empty name, and for one among the classes of the data."""
    if not str(out).strip():
        raise UserError("out must name a folder, and it is empty")
    if recipe is not None:
        written.refuse_among_classes(Path(out), recipe.data.dataset)
    return Path(out)


def run_name(data: ImageData, recipe: Recipe) -> str:
    """The name of the default run folder, such as `cifar10-ipc10` or `cifar10-dm-ipc10`."""
    phase, method = recipe.condense.phase, recipe.condense.method
    name = data.name if method == "accdd" else f"{data.name}-{method}"
    return f"{name}-ipc{recipe.condense.ipc}" + ("" if phase is None else f"-phase{phase}")


def check_inputs(data: ImageData, recipe: Recipe) -> None:
    """Raise `UserError` for everything that can be refused before a network is trained; say where images repeat."""
    condense, labels = recipe.condense, check_data(data, recipe.condense)
    images_of_set(data, condense, labels)  # raises for one that does not fit
    if condense.init in GRID_NAMES:
        say_repeated(data.classes, data.counts, labels, condense.ipc, condense.factor)
    check_precision(recipe.condense.precision, data.device)
    protocol.chosen_networks(recipe.evaluate, recipe.network)
    check_moments(data, recipe)


def check_moments(data: ImageData, recipe: Recipe, *, timed: bool = False) -> None:
    """Raise `UserError` for moments of evaluation that never come, or that nothing can be measured at.

    timed: whether the run ends by the clock.
    """
    total = recipe.condense.outer_iterations
    if timed and recipe.condense.eval_at:
        raise UserError("eval_at and minutes exclude each other: evaluations take time that is not known before")
    if max(recipe.condense.eval_at, default=0) > total:
        length = counted(total, "outer iteration")
        raise UserError(f"eval_at {max(recipe.condense.eval_at)} never comes: the run has {length}")
    if recipe.condense.eval_at and data.test_images is None:
        raise UserError(f"eval_at needs test images, and {data.name} has none; leave it out")
    if recipe.condense.eval_at and recipe.condense.nclass_sub is not None:
        raise UserError("eval_at needs all classes, and a part has some of them; leave it out")


def say_past(moments: Iterable[int], finished: int, *, ended: bool) -> None:
    """Say which moments of evaluation, asked for when a run goes on, are past; of one that has ended all are."""
    if past := [str(moment) for moment in sorted(moments) if ended or moment < finished]:
        done = counted(finished, "outer iteration")
        log.warning("eval_at %s is past: the run has done %s", ", ".join(past), done)


def check_evaluated(inputs: Inputs, *, in_folder: bool) -> None:
    """Raise `UserError`, before the work starts, for a run that cannot be evaluated at its end."""
    condense = inputs.recipe.condense
    if not in_folder or condense.phase is not None or condense.only:
        raise UserError("evaluate needs a run folder with all classes; name a folder, or leave evaluate out")
    measure.check_evaluation(inputs.data, inputs.recipe.evaluate, inputs.recipe.network)


def about_run(data: ImageData, command: str | None = None) -> dict[str, Any]:
    """The entry `attar` of config.json: command (of this process by default) and environment."""
    return {"command": command or run_folder.command_line(), "environment": run_folder.environment(data.device)}


@contextmanager
def cluster_workers(ray: str | None, device: torch.device, cpus: int | None = None) -> Iterator[ThreadWorkers | None]:
    """Workers on the Ray cluster at the address `ray`; None, for the threads of this machine, without an address.

    cpus: CPU threads of each part on the cluster. Raises `UserError` where `cpus` is given without `ray`.
    """
    if ray is None:
        if cpus is not None:
            raise UserError("ray_cpus says how a Ray cluster is used; add --ray, or leave it out")
        yield None
        return
    if cpus is not None and cpus < 1:
        raise UserError(f"ray_cpus must be at least 1, not {cpus}")
    from attar.stages import cluster

    with cluster.session(ray, device, cpus) as workers:
        yield workers


class Stopwatch:
    """Measures the seconds of a block: `with Stopwatch() as watch: …; watch.seconds`."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self.start
