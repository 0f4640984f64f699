"""What several stages share: settings and real images of a call, checks before the work, workers elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.condensation.setup import check_data
from attar.data.images import ImageData
from attar.data.load import load as load_images
from attar.data.sources import written
from attar.engine import device as devices
from attar.engine.precision import check_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.evaluation import protocol
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, DataConfig, Recipe
from attar.settings.schema import settings_of

POOLS = Path("pool")
RUNS = Path("runs")


@dataclass(frozen=True, eq=False)
class Inputs:
    """The settings and the real images of a call."""

    recipe: Recipe
    data: ImageData
    explicit: dict[str, dict[str, Any]]  # {section: {field: value}} that the caller asked for
    fitted: str  # the line that says what was chosen for data of the user's own; empty where a recipe speaks of them

    def with_recipe(self, recipe: Recipe) -> Inputs:
        """The same with other settings."""
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

    data: None, where the settings name a data set; its name; or what `attar.load` takes. Where neither a recipe nor
    published settings speak of the data, settings are chosen that fit them.
    Raises `UserError` for settings of the data beside images that are loaded already.
    """
    recipe = None if recipe is None else str(recipe)
    if isinstance(data, str | Path):
        settings, data = {"dataset": str(data), **settings}, None
    flags = FLAGS[verb]
    explicit = layers.by_section(flags, settings)
    if data is None:
        chosen = layers.resolve(flags, settings, recipe=recipe, published=published)
        images = load_data(chosen, progress)
        own = recipe is None and not recipes.has_recipe(chosen.data.dataset)
    else:
        images = data if isinstance(data, ImageData) else load_images(data)
        if useless := sorted(explicit.get("data", {})):
            raise UserError(f"{useless[0]} says how images are loaded, and these are; give it to attar.load")
        own = recipe is None and not recipes.has_recipe(images.name)
        settings = {"dataset": images.name, **settings} if own else settings
        chosen = layers.resolve(flags, settings, recipe=recipe or (None if own else images.name), published=published)
        chosen = recipes.overlay(chosen, {"data": {"dataset": images.name}})
    images.say_equal_images()
    if not own:
        return Inputs(_with_size(chosen, images), images, explicit, "")
    shape = auto.shape_of(images)
    chosen = layers.resolve(flags, settings, shape=shape)
    return Inputs(_with_size(chosen, images), images, explicit, auto.summary(chosen, shape))


def _with_size(recipe: Recipe, data: ImageData) -> Recipe:
    """The recipe with the size that was chosen for images of mixed sizes: what reads them again needs the same."""
    if data.chosen_size is None:
        return recipe
    return recipes.overlay(recipe, {"data": {"size": data.chosen_size}})


def load_data(recipe: Recipe, progress: Progress) -> ImageData:
    """The real images that a recipe names, on its device; `progress` shows a cache that is built."""
    values = {name: getattr(recipe.data, name) for name in settings_of(DataConfig())}
    source, device = values.pop("dataset"), devices.pick(values.pop("device"))
    return load_images(source, device=device, progress=progress, **values)


def named_folder(out: str | Path, recipe: Recipe | None = None) -> Path:
    """The folder that --out names. Raises `UserError` for an empty name, and for one among the classes of the data."""
    if not str(out).strip():
        raise UserError("out must name a folder, and it is empty")
    if recipe is not None:
        written.refuse_among_classes(Path(out), recipe.data.dataset)
    return Path(out)


def run_name(data: ImageData, recipe: Recipe) -> str:
    """The default run folder's name, such as `cifar10-ipc10` or `cifar10-dm-ipc10`."""
    phase, method = recipe.condense.phase, recipe.condense.method
    name = data.name if method == "accdd" else f"{data.name}-{method}"
    return f"{name}-ipc{recipe.condense.ipc}" + ("" if phase is None else f"-phase{phase}")


def check(data: ImageData, recipe: Recipe) -> None:
    """Raise `UserError` for all that can be refused before a network is trained."""
    check_data(data, recipe.condense)
    check_precision(recipe.condense.precision, data.device)
    protocol.chosen_networks(recipe.evaluate, recipe.network)
    if recipe.condense.eval_at and data.test_images is None:
        raise UserError(f"eval_at needs test images, and {data.name} has none; leave it out")
    if recipe.condense.eval_at and recipe.condense.nclass_sub is not None:
        raise UserError("eval_at needs all classes, and a part has some of them; leave it out")


def about_run(data: ImageData, command: str | None = None) -> dict[str, Any]:
    """What config.json says about a run itself. command: what was typed, this process's own by default."""
    return {"command": command or run_folder.command_line(), "environment": run_folder.environment(data.device)}


@contextmanager
def ray_workers(ray: str | None, device: torch.device, cpus: int | None = None) -> Iterator[ThreadWorkers | None]:
    """Workers on the Ray cluster at the address `ray`; None, which stands for this machine's own, without one."""
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
    """The seconds of a block: `with Stopwatch() as watch: …; watch.seconds`."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self.start
