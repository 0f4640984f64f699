"""The Python interface: what the verbs do, in memory, with settings as keyword arguments."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attar import condensation, evaluation, problem, recipes
from attar import data as sources
from attar import device as devices
from attar import pool as pools
from attar.config import FLAGS, Recipe
from attar.data import ImageData
from attar.pool import Pool
from attar.synthetic import SyntheticSet


def load(
    source: str | Path | ImageData,
    *,
    data_dir: str | Path | None = None,
    nclass: int | None = None,
    size: int | None = None,
    device: str = "auto",
) -> ImageData:
    """Real images: a known name, a folder with `train/<class>/*` and `test/<class>/*`, or `ImageData`.

    nclass: only the first so many classes; size: short side in pixels, centre-cropped to a square. Raises `UserError`
    for an unknown name or unusable files, `MissingError` (a `FileNotFoundError`) when nothing is found.
    """
    return sources.load(source, data_dir=data_dir, nclass=nclass, size=size, device=devices.pick(device))


def pretrain(data: ImageData, *, recipe: str | None = None, folder: str | Path | None = None, **settings: Any) -> Pool:
    """Early-stage models for `data` (Acc-DD section 3.2); kept in `folder` where one is named.

    settings: the fields of `PoolConfig` and `NetworkConfig`, such as epochs=2, models=5, net_type="convnet".
    """
    chosen = _recipe("pretrain", data, recipe, settings)
    return pools.pretrain(data, chosen.pool, chosen.network, folder=Path(folder) if folder else None)


def condense(data: ImageData, pool: Pool | None = None, *, recipe: str | None = None, **settings: Any) -> SyntheticSet:
    """Distil `data` into a `SyntheticSet`, matching gradients on the pool's models (trained first when there is none).

    settings: the fields of `CondenseConfig`, such as ipc=10, factor=2, speedup=10; without a pool those of
    `NetworkConfig`, epochs and models too, or model_path.
    """
    chosen = _recipe("condense", data, recipe, settings)
    if pool is None:
        problem.check(data, chosen.condense)
        paths = [Path(name) for name in chosen.condense.model_path]
        pool = pools.load(paths, data, chosen.network) if paths else pools.pretrain(data, chosen.pool, chosen.network)
    small = condensation.run(data, pool, chosen.condense)
    return replace(small, recipe=recipes.as_sections(replace(chosen, network=pool.network)))


def evaluate(small: SyntheticSet, data: ImageData, *, recipe: str | None = None, **settings: Any) -> dict[str, Any]:
    """Accuracies, as fractions, of fresh networks trained on `small` and tested on the test images of `data`.

    settings: the fields of `EvaluateConfig`, such as networks=["convnet"], runs=3, and width and norm_type. The rest is
    as in the run that made `small`. Returns what `result.json` holds.
    """
    sections = small.recipe if recipe is None else {}
    base = recipes.overlay(Recipe(), sections) if sections else _recipe("evaluate", data, recipe, {})
    chosen = recipes.overlay(base, recipes.by_section(FLAGS["evaluate"], settings))
    start = time.perf_counter()
    measured = evaluation.evaluate(small, data, chosen.evaluate, chosen.network)
    return describe_result(small, data) | measured | {"seconds": {"evaluate": time.perf_counter() - start}}


def describe_result(small: SyntheticSet, data: ImageData) -> dict[str, Any]:
    """The head of `result.json`."""
    return {
        "attar": version("attar"),
        "dataset": data.name,
        "ipc": small.ipc,
        "factor": small.factor,
        "method": "accdd",
        "device": devices.describe(data.device),
        "sizes": {
            "real": {"images": len(data.labels), "bytes": len(data.labels) * math.prod(small.images.shape[1:])},
            "stored": {"images": len(small.images), "bytes": small.images.numel()},
        },  # bytes of 8-bit pixels
    }


def _recipe(verb: str, data: ImageData, recipe: str | None, settings: dict[str, Any]) -> Recipe:
    name = recipe or (data.name if data.name in recipes.RECIPES else "default")
    chosen = recipes.resolve(FLAGS[verb], settings, recipe=name)
    return recipes.overlay(chosen, {"data": {"dataset": data.name}})
