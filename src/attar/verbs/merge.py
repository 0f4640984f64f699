"""`attar merge`: the parts of a partition become one run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar import partition, report, runlog, store
from attar.api import describe_set
from attar.errors import MissingError, UserError
from attar.runlog import RunFolder
from attar.synthetic import SyntheticSet
from attar.verbs.page import write_report
from attar.verbs.shared import RUNS, named_folder


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of a part: its set, and what its run folder holds beside it, if it has one."""

    path: Path
    small: SyntheticSet
    about: dict[str, Any]  # what config.json says about the run itself
    result: dict[str, Any]
    events: list[dict[str, Any]]


def read_part(path: Path) -> Part:
    """A part from its run folder or its condensed file. Raises `MissingError` or `UserError`."""
    if not path.exists():
        raise MissingError(f"there is no run folder or file {path}")
    small = store.load_set(path)
    folder = RunFolder(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != store.CONDENSED:
        return Part(path, small, {}, {}, [])
    about = folder.read(runlog.CONFIG, "attar").get("attar", {})
    return Part(path, small, about, folder.read(runlog.RESULT, "seconds"), folder.events())


def whole_of(parts: Sequence[Part]) -> SyntheticSet:
    """The set of all parts. Raises `UserError` unless they fit, and hold every class once."""
    names = [str(part.path) for part in parts]
    small = partition.concatenate([part.small for part in parts], names)
    partition.check_whole(small)
    pools = [[member.get("name") for member in part.about["pool"]] if "pool" in part.about else None for part in parts]
    for pool, name in zip(pools, names, strict=True):
        if pool != pools[0] and None not in (pool, pools[0]):
            raise UserError(f"{name} does not fit {names[0]}: it was condensed on the models {pool}, not {pools[0]}")
    return small


def merge(paths: Sequence[str], out: str | None, *, overwrite: bool) -> None:
    """Join parts, run folders or condensed files, into a run folder. Parts that do not fit are refused before that.

    A folder that an interrupted `attar merge` left without its last file is made anew.
    """
    parts = [read_part(Path(path)) for path in paths]
    small = whole_of(parts)
    path = named_folder(out) if out is not None else RUNS / f"{small.source}-ipc{small.ipc}"
    for part in parts:
        if path.is_dir() and path.samefile(part.path if part.path.is_dir() else part.path.parent):
            raise UserError(f"{path} is one of the parts; name another folder with --out")
    runlog.check_folder(path)
    begun = not (path / runlog.RESULT).exists() and "parts" in RunFolder(path).read(runlog.CONFIG).get("attar", {})
    runlog.check_free(path, overwrite=overwrite or begun)
    with runlog.opened(path) as folder:
        runlog.create(path, overwrite=overwrite or begun)
        merge_into(folder, parts, small, {"command": runlog.command_line()}, {})
    print(f"{path / store.CONDENSED}\nnext: attar evaluate {path}")


def merge_into(
    folder: RunFolder, parts: Sequence[Part], small: SyntheticSet, about: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Leave in a run folder what a run of all classes leaves; result.json is written last.

    about: what config.json says about the run itself, besides the parts; seconds: what was spent outside the parts.
    """
    ordered = sorted(parts, key=lambda part: int(part.small.labels.min()))
    folder.write(runlog.CONFIG, small.recipe | {"attar": of_parts(ordered) | about})
    lines = "".join(json.dumps(event) + "\n" for event in events_of(ordered))
    if lines:
        store.atomically(folder.path / runlog.METRICS, lambda name: name.write_text(lines, encoding="utf-8"))
    store.save_set(folder.path / store.CONDENSED, small)
    report.save_grid(folder.path / runlog.IMAGES, small.images, small.labels, small.classes)
    result = result_of(ordered, small, seconds)
    write_report(folder, small, result)
    folder.write(runlog.RESULT, result)


def of_parts(parts: Sequence[Part]) -> dict[str, Any]:
    """What config.json says about the parts; environment and pool are those of the first."""
    known = {key: parts[0].about[key] for key in ("environment", "pool") if key in parts[0].about}
    return known | {
        "parts": [
            {
                "path": str(part.path),
                "phase": part.small.recipe.get("condense", {}).get("phase"),
                "classes": len(part.small.labels.unique()),
                "seconds": part.result.get("seconds"),
            }
            for part in parts
        ]
    }


def result_of(parts: Sequence[Part], small: SyntheticSet, seconds: dict[str, float]) -> dict[str, Any]:
    """What `result.json` holds before an evaluation. Seconds are summed where every part knows its own."""
    spent = [part.result.get("seconds", {}) for part in parts]
    names = [name for name in ("pretrain", "condense") if all(name in own for own in spent)]
    summed = {name: sum(own[name] for own in spent) for name in names}
    devices = ", ".join(dict.fromkeys(part.result.get("device", "unknown") for part in parts))
    result = describe_set(small, small.source, devices)
    result |= {"accuracy": {}, "seconds": seconds | summed}
    result |= {"parts": len(parts), "seconds_are": "summed over the parts"}
    inner = {part.result.get("inner_iterations") for part in parts}
    return result | ({"inner_iterations": inner.pop()} if len(inner) == 1 and None not in inner else {})


def events_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The steps of all parts as those of one run: losses, which are sums over the classes, and seconds added up."""
    steps = [[event for event in part.events if event.get("event") == "step"] for part in parts]
    if len({tuple(event.get("outer") for event in own) for own in steps}) > 1:
        return []
    return [
        {**events[0], "loss": sum(e["loss"] for e in events), "seconds": sum(e["seconds"] for e in events)}
        for events in zip(*steps, strict=True)
    ]
