"""The folder of a comparison: its spec, and one line for every finished run.

| file | content |
|---|---|
| `comparison.json` | the resolved spec, fingerprints of training and test images, mean and std, and the machines |
| `results.jsonl` | one line per finished cell and per yardstick |
| `evaluation.jsonl` | the accuracy of every network that was trained: cells that need the same one share it |
| `cells/`, `pools/` | a run folder per cell; early-stage models with their seconds |
| `table.md`, `table.csv`, `accuracy-vs-time.svg`, `.png`, `.html` | the result |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attar import files
from attar.comparison.grid import SHARED_SECTIONS, label
from attar.comparison.plan import ComparisonPlan, as_json
from attar.data.images import ImageData
from attar.errors import UserError
from attar.evaluation.trained import TrainedNetwork, TrainedNetworks
from attar.models.for_data import scale_of
from attar.runs import run_folder
from attar.runs.run_folder import RunFolder
from attar.settings.config import SECTIONS, Recipe, with_role
from attar.settings.schema import settings_of

COMPARISON_FILE = "comparison.json"
OF_DATA = {"images": "other images", "tests": "other test images", "scale": "images of another mean or std"}
RESULTS_FILE = "results.jsonl"
NETWORKS_FILE = "evaluation.jsonl"
CELLS_FOLDER, POOLS_FOLDER = "cells", "pools"
TABLE_MD, TABLE_CSV = "table.md", "table.csv"
FIGURES = ("accuracy-vs-time.svg", "accuracy-vs-time.png")
PAGE = "accuracy-vs-time.html"
REPLACED_FILES = (COMPARISON_FILE, TABLE_MD, TABLE_CSV, *FIGURES, PAGE)  # written anew, and atomically, every time

ResultLine = dict[str, Any]


class SharedNetworks(TrainedNetworks):
    """The networks that the evaluations of this cell and of all other cells have trained."""

    def __init__(self, out: Path, folder: RunFolder | None) -> None:
        super().__init__(folder.path if folder else None)
        self.all = out / NETWORKS_FILE
        for values in lines(self.all):
            with suppress(KeyError, TypeError, ValueError):  # the network of a damaged line is trained again
                accuracy, images = float(values["accuracy"]), int(values["images"])
                self.results[str(values["key"])] = TrainedNetwork(accuracy, images, attacked=values["attacked"])

    def add(self, key: str, result: TrainedNetwork) -> None:
        """Remember the result of a network, for this cell and for all others."""
        super().add(key, result)
        with self.lock:
            kept = {"accuracy": result.accuracy, "images": result.images, "attacked": result.attacked}
            files.append(self.all, {"key": key, **kept})


def results(out: Path) -> list[ResultLine]:
    """The lines of all finished runs and yardsticks."""
    return [line for line in lines(out / RESULTS_FILE) if isinstance(line.get("cell"), str)]


def lines(path: Path) -> Iterator[ResultLine]:
    """The JSON objects of a file, one a line; damaged lines are left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            values = json.loads(line)
            if isinstance(values, dict):
                yield values


def check_folder(out: Path) -> None:
    """Raise `UserError` for a folder that holds other files or cannot be written."""
    run_folder.check_folder(out)
    if out.is_dir() and not (out / COMPARISON_FILE).exists():
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if names:
            raise UserError(f"{out} holds other files ({names[0]}); name another folder with --out")


def check_same(out: Path, plan: ComparisonPlan, data: ImageData) -> None:
    """Raise `UserError` for a folder with another comparison. Entries, values of a grid and seeds may be new."""
    if not (out / COMPARISON_FILE).exists():
        return
    before, now = files.read_json(out / COMPARISON_FILE), as_json(plan)
    try:
        for change in _changes(before, now):
            raise UserError(
                f"{out} holds a comparison with {change}; entries, values of a list and seeds can be added, the rest "
                f"stays; name another folder with --out"
            )
        others = [OF_DATA[name] for name, value in about(data).items() if before[name] != value]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{out / COMPARISON_FILE} is damaged; name another folder with --out") from error
    if others:
        raise UserError(f"{out} holds a comparison on {others[0]} than {data.name} has; name another folder with --out")


def about(data: ImageData) -> dict[str, Any]:
    """What numbers of one comparison share of the data."""
    return {"images": data.fingerprint, "tests": data.test_fingerprint, "scale": scale_of(data.mean, data.std)}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was removed or changed, in words."""
    if before["holdout"] != now["holdout"]:
        yield f"holdout {before['holdout']}, and {now['holdout']} is asked for"
    for section in SHARED_SECTIONS:
        yield from _differing(section, before[section], now[section], "")
    for seed in before["seeds"]:
        if seed not in now["seeds"]:
            yield f"seed {seed} in seeds, which is gone"
    for name, points in before["entries"].items():
        if name not in now["entries"]:
            yield f"entry '{name}', which is gone"
        for settings, point in points.items():
            point_now = now["entries"].get(name, {}).get(settings)
            if point_now is None:
                yield f"{settings} in entry '{name}', which is gone"
                continue
            for key in ("method", "features"):
                if point[key] != point_now[key]:
                    yield f"{key} {point[key]} in entry '{name}', and {point_now[key]} is asked for"
            if point["epochs"] != point_now["epochs"]:
                yield (
                    f"networks of {point['epochs']} epochs on the sets of '{name}' at {settings}, and it would be "
                    f"{point_now['epochs']} now (with equal_steps the largest set decides)"
                )
            for section in ("pool", "condense"):
                yield from _differing(section, point[section], point_now[section], f" in entry '{name}' at {settings}")


def _differing(section: str, before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    """The settings of a section that changed, save for those that do not decide the numbers."""
    free = with_role(section, "place", "speed")
    default = settings_of(SECTIONS[section]())  # the value of settings that were added to attar since
    for key in {**before, **now}:
        value = before.get(key, default.get(key))
        if key not in free and value != now.get(key):
            yield f"{label((section, key))} {value}{where}, and {now.get(key)} is asked for"


def create(out: Path, plan: ComparisonPlan, data: ImageData) -> None:
    """Create the folder, or bring that of an interrupted comparison up to date."""
    (out / CELLS_FOLDER).mkdir(parents=True, exist_ok=True)
    files.clean(out, *REPLACED_FILES)
    for name in (RESULTS_FILE, NETWORKS_FILE):
        files.mend(out / name)
    files.write_json(out / COMPARISON_FILE, about(data) | {"hosts": hosts(out)} | as_json(plan))


def hosts(out: Path) -> list[ResultLine]:
    """The machines that computed parts of a comparison, as `cells.host` describes them."""
    return list(files.read_json(out / COMPARISON_FILE).get("hosts", [])) if (out / COMPARISON_FILE).exists() else []


def add_machine(out: Path, host: ResultLine) -> None:
    """Record a machine before it begins: even an unfinished run contains seconds of it."""
    recorded = hosts(out)
    if host not in recorded:
        files.write_json(out / COMPARISON_FILE, files.read_json(out / COMPARISON_FILE) | {"hosts": [*recorded, host]})


def settings_of_line(recipe: Recipe) -> ResultLine:
    """The settings that decide a set, as a line of results holds them."""
    sections = settings_of(recipe)
    return {name: sections[name] for name in ("pool", "condense")}
