"""What several verbs share: folders, real images, checks before the work, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from attar.condensation.setup import check_data
from attar.data import load
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.engine.precision import Notice, check_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.evaluation import protocol
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.settings import auto, layers, recipes
from attar.settings.config import FLAGS, Recipe

POOLS = Path("pool")
RUNS = Path("runs")


def named_folder(out: str) -> Path:
    """The folder that --out names. Raises `UserError` for an empty name."""
    if not out.strip():
        raise UserError("out must name a folder, and it is empty")
    return Path(out)


def load_data(recipe: Recipe, watch: Progress) -> ImageData:
    """The real images that a recipe names, on its device; `watch` tells where the test set was taken from them, and of
    a cache that is built or used.
    """
    wanted = recipe.data
    return load.load(
        wanted.dataset,
        data_dir=wanted.data_dir,
        nclass=wanted.nclass,
        size=wanted.size,
        device=devices.pick(wanted.device),
        image_column=wanted.image_column,
        label_column=wanted.label_column,
        test_fraction=wanted.test_fraction,
        test_seed=wanted.test_seed,
        skip_bad=wanted.skip_bad,
        load_memory=wanted.load_memory,
        cache_dir=wanted.cache_dir,
        notice=watch.say,
        watch=watch,
    )


def for_own(
    chosen: Recipe, given: Mapping[str, Any], recipe: str | None, data: ImageData, verb: str
) -> tuple[Recipe, str]:
    """Settings that fit data of the user's own, where neither a recipe nor published settings speak of them.

    The line that says what was chosen is for after the checks.
    """
    if recipe is not None or recipes.has_own(chosen.data.dataset):
        return chosen, ""
    fitted = layers.resolve(FLAGS[verb], given, shape=auto.shape_of(data))
    return fitted, auto.words(fitted, auto.shape_of(data))


def run_name(data: ImageData, recipe: Recipe) -> str:
    """The default run folder's name, such as `cifar10-ipc10` or `cifar10-dm-ipc10`."""
    phase, method = recipe.condense.phase, recipe.condense.method
    name = data.name if method == "accdd" else f"{data.name}-{method}"
    return f"{name}-ipc{recipe.condense.ipc}" + ("" if phase is None else f"-phase{phase}")


def check(data: ImageData, recipe: Recipe, path: Path, *, overwrite: bool) -> None:
    """Raise `UserError` for all that can be refused before a network is trained."""
    check_data(data, recipe.condense)
    check_precision(recipe.condense.precision, data.device)
    run_folder.check_free(path, overwrite=overwrite)
    protocol.chosen_networks(recipe.evaluate, recipe.network)
    if recipe.condense.eval_at and data.test_images is None:
        raise UserError(f"eval_at needs test images, and {data.name} has none; leave it out")
    if recipe.condense.eval_at and recipe.condense.nclass_sub is not None:
        raise UserError("eval_at needs all classes, and a part has some of them; leave it out")


@contextmanager
def elsewhere(
    ray: str | None, device: torch.device, notice: Notice, cpus: int | None = None
) -> Iterator[ThreadWorkers | None]:
    """Workers on the Ray cluster at the address `ray`; None, which stands for this machine's own, without one."""
    if ray is None:
        if cpus is not None:
            raise UserError("ray_cpus says how a Ray cluster is used; add --ray, or leave it out")
        yield None
        return
    if cpus is not None and cpus < 1:
        raise UserError(f"ray_cpus must be at least 1, not {cpus}")
    from attar.stages import cluster

    with cluster.session(ray, device, cpus, notice) as workers:
        yield workers


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put the seconds of a block into `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
