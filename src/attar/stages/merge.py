"""`attar merge`: the parts of a partition become one run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar import files
from attar.errors import MissingError, UserError
from attar.report import pictures
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.result import describe_set
from attar.runs.run_folder import RunFolder
from attar.sets import partition, set_files
from attar.sets.snapshots import thumbnails
from attar.sets.synthetic import SyntheticSet
from attar.stages.shared import RUNS, named_folder


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of a part: its set, and what its run folder holds beside it, if it has one."""

    path: Path
    condensed: SyntheticSet
    about: dict[str, Any]  # what config.json says about the run itself
    result: dict[str, Any]
    events: list[dict[str, Any]]
    snapshots: tuple[Tensor, list[tuple[int, Tensor]]]  # as `RunFolder.snapshots` gives them


def read_part(path: Path) -> Part:
    """A part from its run folder or its condensed file. Raises `MissingError` or `UserError`."""
    if not path.exists():
        raise MissingError(f"there is no run folder or file {path}")
    condensed = set_files.load_set(path)
    folder = RunFolder(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != set_files.CONDENSED:
        return Part(path, condensed, {}, {}, [], (condensed.labels[:0], []))
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    result = folder.read(run_folder.RESULT, "seconds", "sizes")
    return Part(path, condensed, about, result, folder.events(), folder.snapshots())


def whole_of(parts: Sequence[Part]) -> SyntheticSet:
    """The set of all parts. Raises `UserError` unless they fit, and hold every class once."""
    names = [str(part.path) for part in parts]
    condensed = partition.concatenate([part.condensed for part in parts], names)
    partition.check_whole(condensed)
    pools = [[member.get("name") for member in part.about["pool"]] if "pool" in part.about else None for part in parts]
    for pool, name in zip(pools, names, strict=True):
        if pool != pools[0] and None not in (pool, pools[0]):
            raise UserError(f"{name} does not fit {names[0]}: it was condensed on the models {pool}, not {pools[0]}")
    return condensed


def merge(parts: Sequence[str | Path], *, folder: str | Path | None = None, overwrite: bool = False) -> SyntheticSet:
    """Join parts into a run folder. Parts that do not fit are refused before anything is written.

    A folder that an interrupted merge left without its last file is made anew; one that holds the same parts joined
    already is left as it is.

    Args:
        parts: run folders or condensed files, in any order.
        folder: where the whole set is written; runs/<data set>-ipc<ipc> by default.
        overwrite: replace the run that `folder` holds.

    Returns:
        The whole set, which knows its folder.

    Raises:
        UserError: where the parts do not fit, or do not hold every class once.
    """
    read = [read_part(Path(path)) for path in parts]
    condensed = whole_of(read)
    path = named_folder(folder) if folder is not None else RUNS / f"{condensed.source}-ipc{condensed.ipc}"
    for part in read:
        if path.is_dir() and path.samefile(part.path if part.path.is_dir() else part.path.parent):
            raise UserError(f"{path} is one of the parts; name another folder with --out")
    run_folder.check_folder(path)
    ours = "parts" in RunFolder(path).read(run_folder.CONFIG, "attar").get("attar", {})
    unfinished = ours and not (path / run_folder.RESULT).exists()
    same = ours and not unfinished and torch.equal(set_files.load_set(path).images.cpu(), condensed.images.cpu())
    if same and not overwrite:
        return replace(condensed, folder=path)
    run_folder.check_free(path, overwrite=overwrite or unfinished)
    with run_folder.opened(path) as opened:
        run_folder.create(path, overwrite=overwrite or unfinished)
        merge_into(opened, read, condensed, {"command": run_folder.command_line()}, {})
    return replace(condensed, folder=path)


def merge_into(
    folder: RunFolder, parts: Sequence[Part], condensed: SyntheticSet, about: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Leave in a run folder what a run of all classes leaves; result.json is written last.

    about: what config.json says about the run itself, besides the parts; seconds: what was spent outside the parts.
    """
    ordered = sorted(parts, key=lambda part: int(part.condensed.labels.min()))
    folder.write(run_folder.CONFIG, condensed.recipe | {"attar": about | of_parts(ordered, about)})
    lines = "".join(dumps(event) + "\n" for event in events_of(ordered))
    if lines:
        files.atomically(folder.path / run_folder.METRICS, lambda name: name.write_text(lines, encoding="utf-8"))
    labels, moments = snapshots_of(ordered)
    folder.keep_snapshots(labels, moments)
    set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = result_of(ordered, condensed, seconds)
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)


def of_parts(parts: Sequence[Part], about: dict[str, Any]) -> dict[str, Any]:
    """What config.json says about the parts, as they are now; environment and pool of the first, if not in `about`."""
    first = parts[0].about
    known = {key: first[key] for key in ("environment", "pool") if key in first and key not in about}
    return known | {
        "parts": [
            {
                "path": str(part.path),
                "phase": part.condensed.recipe.get("condense", {}).get("phase"),
                "classes": len(part.condensed.labels.unique()),
                "seconds": part.result.get("seconds"),
            }
            for part in parts
        ]
    }


def result_of(parts: Sequence[Part], condensed: SyntheticSet, seconds: dict[str, float]) -> dict[str, Any]:
    """What `result.json` holds before an evaluation. Seconds are summed where every part knows its own."""
    spent = [part.result.get("seconds", {}) for part in parts]
    names = [name for name in ("pretrain", "condense") if all(name in own for own in spent)]
    summed = {name: sum(own[name] for own in spent) for name in names}
    devices = ", ".join(dict.fromkeys(part.result.get("device", "unknown") for part in parts))
    real = [real_images(part) for part in parts]
    known = [count for count in real if count is not None]
    result = describe_set(condensed, condensed.source, devices, sum(known) if len(known) == len(parts) else None)
    result |= {"accuracy": {}, "seconds": seconds | summed}
    result |= {"parts": len(parts), "seconds_are": "summed over the parts"}
    inner = {part.result.get("inner_iterations") for part in parts}
    return result | ({"inner_iterations": inner.pop()} if len(inner) == 1 and None not in inner else {})


def real_images(part: Part) -> int | None:
    """The training images of a part's classes, where its result tells."""
    real = part.result.get("sizes", {}).get("real")
    count = real.get("images") if isinstance(real, dict) else None
    return count if isinstance(count, int) else None


def snapshots_of(parts: Sequence[Part]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The moments of all parts as those of one run, no larger than a run's own; none unless all kept the same ones."""
    times = [[(outer, images.shape[1:]) for outer, images in part.snapshots[1]] for part in parts]
    labels = torch.cat([part.snapshots[0] for part in parts])
    if not times[0] or times.count(times[0]) < len(parts):
        return labels[:0], []
    kept, joined = labels, []
    for moment in zip(*(part.snapshots[1] for part in parts), strict=True):
        images = torch.cat([images for _, images in moment]).float() / 255
        condensed, kept = thumbnails(images, labels)
        joined.append((moment[0][0], condensed))
    return kept, joined


def events_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The steps of all parts as those of one run: losses, which are sums over the classes, and seconds added up."""
    steps = [[event for event in part.events if event.get("event") == "step"] for part in parts]
    if len({tuple(event.get("outer") for event in own) for own in steps}) > 1:
        return []
    return [
        {**events[0], "loss": sum(e["loss"] for e in events), "seconds": sum(e["seconds"] for e in events)}
        for events in zip(*steps, strict=True)
    ]
