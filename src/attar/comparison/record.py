"""The folder of a comparison: what it was begun with, and one line for everything that is done.

| file | content |
|---|---|
| `comparison.json` | the resolved spec, and the training images it is about |
| `results.jsonl` | one line per finished cell, and per yardstick |
| `evaluation.jsonl` | every network that an evaluation has trained: cells that need the same one share it |
| `cells/`, `pools/` | a run folder per cell; early-stage models with the seconds that they took |
| `table.md`, `table.csv`, `accuracy-vs-time.svg`, `.png` | what it is for |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attar import files
from attar.comparison import spec
from attar.comparison.grid import PROTOCOL, label
from attar.comparison.spec import ComparisonPlan
from attar.data.images import ImageData
from attar.errors import UserError
from attar.evaluation.trained import TrainedNetwork, TrainedNetworks
from attar.runs import run_folder
from attar.runs.run_folder import RunFolder
from attar.settings import layers
from attar.settings.config import SECTIONS, Recipe, with_role
from attar.settings.schema import settings_of

BEGUN = "comparison.json"
RESULTS = "results.jsonl"
NETWORKS = "evaluation.jsonl"
CELLS, POOLS = "cells", "pools"
TABLE_MD, TABLE_CSV = "table.md", "table.csv"
FIGURES = ("accuracy-vs-time.svg", "accuracy-vs-time.png")
WRITTEN = (BEGUN, TABLE_MD, TABLE_CSV, *FIGURES)  # each one replaced whole

Line = dict[str, Any]


class SharedNetworks(TrainedNetworks):
    """The networks that a cell's evaluation has trained, and those of all other cells."""

    def __init__(self, out: Path, folder: RunFolder | None) -> None:
        super().__init__(folder.path if folder else None)
        self.all = out / NETWORKS
        for values in lines(self.all):
            with suppress(KeyError, TypeError, ValueError):  # a line that cannot be read is computed again
                self.results[str(values["key"])] = TrainedNetwork(float(values["accuracy"]), int(values["images"]))

    def add(self, key: str, result: TrainedNetwork) -> None:
        """Remember a network's result, for this cell and for all."""
        super().add(key, result)
        with self.lock:
            files.append(self.all, {"key": key, **result._asdict()})


def results(out: Path) -> list[Line]:
    """What is done."""
    return [line for line in lines(out / RESULTS) if isinstance(line.get("cell"), str)]


def lines(path: Path) -> Iterator[Line]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            values = json.loads(line)
            if isinstance(values, dict):
                yield values


def check_folder(out: Path) -> None:
    """Raise `UserError` where a comparison cannot live: other files are there, or nothing can be written."""
    run_folder.check_folder(out)
    if out.is_dir() and not (out / BEGUN).exists():
        found = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if found:
            raise UserError(f"{out} holds other files ({found[0]}); name another folder with --out")


def check_same(out: Path, plan: ComparisonPlan, data: ImageData) -> None:
    """Raise `UserError` where a folder holds another comparison; entries, points and seeds may have been added."""
    if not (out / BEGUN).exists():
        return
    kept, now = files.read_json(out / BEGUN), spec.plain(plan)
    try:
        for change in _changes(kept, now):
            raise UserError(
                f"{out} holds a comparison with {change}; entries, values of a list and seeds can be added, the rest "
                f"stays; name another folder with --out"
            )
        same = kept["images"] == data.fingerprint
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{out / BEGUN} is damaged; name another folder with --out") from error
    if not same:
        raise UserError(f"{out} holds a comparison on other images of {data.name}; name another folder with --out")


def _changes(kept: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was taken away or changed, in words."""
    if kept["holdout"] != now["holdout"]:
        yield f"holdout {kept['holdout']}, and {now['holdout']} is asked for"
    for section in PROTOCOL:
        yield from _differing(section, kept[section], now[section], "")
    for seed in kept["seeds"]:
        if seed not in now["seeds"]:
            yield f"seed {seed} in seeds, which is gone"
    for name, points in kept["entries"].items():
        if name not in now["entries"]:
            yield f"entry '{name}', which is gone"
        for at, sections in points.items():
            there = now["entries"].get(name, {}).get(at)
            if there is None:
                yield f"{at} in entry '{name}', which is gone"
                continue
            for key in ("method", "features"):
                if sections[key] != there[key]:
                    yield f"{key} {sections[key]} in entry '{name}', and {there[key]} is asked for"
            for section in ("pool", "condense"):
                yield from _differing(section, sections[section], there[section], f" in entry '{name}' at {at}")


def _differing(section: str, kept: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[str]:
    movable = with_role(section, "place", "speed")
    plain = settings_of(SECTIONS[section]())  # what was not there when the comparison began
    for key in {**kept, **now}:
        before = kept.get(key, plain.get(key))
        if key not in movable and before != now.get(key):
            yield f"{label((section, key))} {before}{at}, and {now.get(key)} is asked for"


def begin(out: Path, plan: ComparisonPlan, data: ImageData) -> None:
    """Write what the comparison is, with what was added to it."""
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    files.clean(out, *WRITTEN)
    for name in (RESULTS, NETWORKS):
        files.mend(out / name)
    files.write_json(out / BEGUN, {"images": data.fingerprint, "hosts": hosts(out), **spec.plain(plan)})


def hosts(out: Path) -> list[Line]:
    """The machines that worked on a comparison, and how."""
    return list(files.read_json(out / BEGUN).get("hosts", [])) if (out / BEGUN).exists() else []


def add_machine(out: Path, host: Line) -> None:
    """Note a machine before it begins: a run that it leaves unfinished has seconds of its too."""
    known = hosts(out)
    if not any(one.items() <= host.items() for one in known):  # an older line may say less
        files.write_json(out / BEGUN, files.read_json(out / BEGUN) | {"hosts": [*known, host]})


def settings_of_line(recipe: Recipe) -> Line:
    """The settings that make a set, as a line of results has them."""
    sections = layers.as_sections(recipe)
    return {name: sections[name] for name in ("pool", "condense")}
