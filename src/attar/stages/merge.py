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
from attar.errors import UserError
from attar.report.of_run import write_report
from attar.runs import run_folder
from attar.runs.result import describe_set
from attar.runs.run_folder import RunFolder
from attar.sets import partition, pictures, set_files
from attar.sets.snapshots import thumbnails
from attar.sets.synthetic import SyntheticSet
from attar.stages.shared import RUN_ROOT, named_folder


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a partition: its set, and what else its run folder holds, if it has one."""

    path: Path
    condensed: SyntheticSet
    about: dict[str, Any]  # the entry `attar` of config.json
    result: dict[str, Any]
    events: list[dict[str, Any]]
    snapshots: tuple[Tensor, list[tuple[int, Tensor]]]  # as `RunFolder.snapshots` returns them


def read_part(path: Path) -> Part:
    """Read a part from its run folder or its condensed file. Raises `MissingError` or `UserError`."""
    condensed = set_files.load_set(path)
    folder = RunFolder(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != set_files.CONDENSED:
        return Part(path, condensed, {}, {}, [], (condensed.labels[:0], []))
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    result = folder.read(run_folder.RESULT, "seconds", "sizes")
    return Part(path, condensed, about, result, folder.events(), folder.snapshots())


def join_parts(parts: Sequence[Part]) -> SyntheticSet:
    """The set of all parts together. Raises `UserError` unless the parts fit each other and hold every class once."""
    names = [str(part.path) for part in parts]
    condensed = partition.concatenate([part.condensed for part in parts], names)
    partition.check_whole(condensed)
    pools = [[member.get("name") for member in part.about["pool"]] if "pool" in part.about else None for part in parts]
    for pool, name in zip(pools, names, strict=True):
        if pool != pools[0] and None not in (pool, pools[0]):
            raise UserError(f"{name} does not fit {names[0]}: it was condensed on the models {pool}, not {pools[0]}")
    return condensed


def merge(parts: Sequence[str | Path], *, folder: str | Path | None = None, overwrite: bool = False) -> SyntheticSet:
    """Join the parts of a partition into a run folder. Parts that do not fit are refused before anything is written.

    A folder that an interrupted merge left incomplete is written again; one that already holds the same set is left
    unchanged.

    Args:
        parts: run folders or condensed files, in any order.
        folder: the run folder of the whole set; runs/<data set>-ipc<ipc> by default.
        overwrite: replace the run in `folder`.

    Returns:
        The whole set.

    Raises:
        UserError: where the parts do not fit each other, or do not hold every class once.
    """
    read_parts = [read_part(Path(path)) for path in parts]
    condensed = join_parts(read_parts)
    path = named_folder(folder) if folder is not None else RUN_ROOT / f"{condensed.source}-ipc{condensed.ipc}"
    for part in read_parts:
        if path.is_dir() and path.samefile(part.path if part.path.is_dir() else part.path.parent):
            raise UserError(f"{path} is one of the parts; name another folder with --out")
    run_folder.check_folder(path)
    is_merged = "parts" in RunFolder(path).read(run_folder.CONFIG, "attar").get("attar", {})
    unfinished = is_merged and not (path / run_folder.RESULT).exists()
    is_complete = is_merged and not unfinished
    is_same = is_complete and torch.equal(set_files.load_set(path).images.cpu(), condensed.images.cpu())
    if is_same and not overwrite:
        return replace(condensed, folder=path)
    run_folder.check_free(path, overwrite=overwrite or unfinished)
    with run_folder.open_run_folder(path) as opened:
        run_folder.create(path, overwrite=overwrite or unfinished)
        merge_into(opened, read_parts, condensed, {"command": run_folder.command_line()}, {})
    return replace(condensed, folder=path)


def merge_into(
    folder: RunFolder, parts: Sequence[Part], condensed: SyntheticSet, about: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Write the files of a run of all classes, result.json last.

    about: the entry `attar` of config.json, without the parts; seconds: spent outside the parts.
    """
    ordered = sorted(parts, key=lambda part: int(part.condensed.labels.min()))
    folder.write(run_folder.CONFIG, condensed.recipe | {"attar": about | about_parts(ordered, about)})
    lines = "".join(dumps(event) + "\n" for event in merged_events(ordered))
    if lines:
        files.atomically(folder.path / run_folder.METRICS, lambda name: name.write_text(lines, encoding="utf-8"))
    labels, moments = merged_snapshots(ordered)
    folder.write_snapshots(labels, moments)
    set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    pictures.save_grid(folder.path / run_folder.IMAGES, condensed.images, condensed.labels, condensed.classes)
    result = merged_result(ordered, condensed, seconds)
    write_report(folder, condensed, result)
    folder.write(run_folder.RESULT, result)


def about_parts(parts: Sequence[Part], about: dict[str, Any]) -> dict[str, Any]:
    """The parts for config.json, with environment and pool of the first one where `about` does not name them."""
    first = parts[0].about
    shared = {key: first[key] for key in ("environment", "pool") if key in first and key not in about}
    return shared | {
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


def merged_result(parts: Sequence[Part], condensed: SyntheticSet, seconds: dict[str, float]) -> dict[str, Any]:
    """The content of `result.json` before an evaluation. Seconds are summed where all parts record them."""
    part_seconds = [part.result.get("seconds", {}) for part in parts]
    names = [name for name in ("pretrain", "condense") if all(name in recorded for recorded in part_seconds)]
    summed = {name: sum(recorded[name] for recorded in part_seconds) for name in names}
    devices = ", ".join(dict.fromkeys(part.result.get("device", "unknown") for part in parts))
    counts = [count for part in parts if (count := real_images(part)) is not None]
    real = sum(counts) if len(counts) == len(parts) else None
    result = describe_set(condensed, condensed.source, devices, real)
    result |= {"accuracy": {}, "seconds": seconds | summed}
    result |= {"parts": len(parts), "seconds_are": "summed over the parts"}
    inner = {part.result.get("inner_iterations") for part in parts}
    return result | ({"inner_iterations": inner.pop()} if len(inner) == 1 and None not in inner else {})


def real_images(part: Part) -> int | None:
    """The number of training images of a part's classes, or None where its result does not say."""
    real = part.result.get("sizes", {}).get("real")
    count = real.get("images") if isinstance(real, dict) else None
    return count if isinstance(count, int) else None


def merged_snapshots(parts: Sequence[Part]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The snapshots of all parts as those of one run and as small; none unless all parts have the same moments."""
    times = [[(outer, images.shape[1:]) for outer, images in part.snapshots[1]] for part in parts]
    labels = torch.cat([part.snapshots[0] for part in parts])
    if not times[0] or times.count(times[0]) < len(parts):
        return labels[:0], []
    joined_labels, joined = labels, []
    for moment in zip(*(part.snapshots[1] for part in parts), strict=True):
        images = torch.cat([images for _, images in moment]).float() / 255
        smaller, joined_labels = thumbnails(images, labels)
        joined.append((moment[0][0], smaller))
    return joined_labels, joined


def merged_events(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The steps of all parts as those of one run: losses, which are sums over classes, and seconds are summed."""
    steps = [[event for event in part.events if event.get("event") == "step"] for part in parts]
    if len({tuple(event.get("outer") for event in part_steps) for part_steps in steps}) > 1:
        return []
    return [
        {**events[0], "loss": sum(e["loss"] for e in events), "seconds": sum(e["seconds"] for e in events)}
        for events in zip(*steps, strict=True)
    ]
