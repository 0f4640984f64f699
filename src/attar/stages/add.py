"""`attar add`: classes that came later are condensed, and joined with a run whose images stay as they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from attar.data.images import ImageData
from attar.errors import MissingError, UserError, log
from attar.evaluation.protocol import check_space
from attar.runs import checkpoint, run_folder
from attar.runs.progress import Progress, shows_progress
from attar.sets.partition import say_what_is_lost, without_phase
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, own_code, recipes
from attar.settings.config import Recipe
from attar.settings.typed import DataSettings
from attar.stages.condense import condense
from attar.stages.merge import Part, merge_into, read_part
from attar.stages.shared import given_images, load_data, name_as_setting, named_folder

ADDED = "added"  # the run of the new classes, in the folder of parts


@shows_progress
def add(
    run: str | Path,
    data: Any = None,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    save_every: str = checkpoint.DEFAULT_INTERVAL,
    progress: Progress | bool | None = None,
    **settings: Unpack[DataSettings],
) -> SyntheticSet:
    """Condense the classes of some data that a run does not have, with the settings of the run, and join both.

    Args:
        run: the run folder. Nothing in it changes, and its images are those of its classes in the joined set too.
        data: the real images of all classes, old and new: an `ImageData`, or what `attar.load` takes; by default the
            data of the run, read again. The early-stage models of the new classes are trained on all of them.
        folder: the run folder of the joined set; RUN-added by default. An interrupted call goes on from its checkpoint.
        overwrite: replace the run in `folder`.
        save_every: as for `condense`.
        progress: True shows bars and messages; nothing is shown by default.
        settings: fields of `DataConfig`.

    Returns:
        The joined set, in the order of the classes of the data.

    Raises:
        UserError: where the data have no new class, lack one of the run's, or have images of another shape.

    Example:
        attar.condense("digits", ipc=1, nclass=5, folder="runs/five")
        both = attar.add("runs/five", "digits", folder="runs/ten")
    """
    assert isinstance(progress, Progress)  # see `shows_progress`
    before = read_part(Path(run))
    recipe = before.condensed.recipe
    if not (Path(run) / run_folder.CONFIG).is_file() or before.condensed.coreset or not recipe:
        raise MissingError(f"{run} is no run folder of attar condense: its settings are what classes are added by")
    own_code.check(recipe, run)
    data, asked_for, flags = name_as_setting("add", data, settings)
    layer = layers.by_section(flags, asked_for)
    kept = recipe["data"] if "dataset" not in layer.get("data", {}) else ("size", "zca")
    of_run = {name: recipe["data"][name] for name in kept}
    asked = recipes.overlay(recipes.overlay(Recipe(), {"data": {**of_run, "nclass": None}}), layer)
    images = load_data(asked, progress) if data is None else given_images(data, layer, progress)
    check_space(before.condensed, images)
    if images.space == "zca" and before.condensed.fingerprint != images.fingerprint:
        raise UserError(f"{run} is whitened (--zca) by its own images, not by those added; condense all classes again")
    new = new_classes(before, images)
    path = named_folder(folder if folder is not None else f"{os.fspath(run).rstrip(os.sep)}-added", asked)
    run_folder.check_not_made_of(path, run)
    run_folder.check_free(path, overwrite=overwrite)
    log.info("%d of %d classes are new: %s", len(new), images.nclass, ", ".join(new))
    own = recipe["condense"]
    changes: dict[str, Any] = {"only": new, "nclass_sub": None, "phase": None, "eval_at": ()}
    changes |= {"model_path": ()} if own.get("model_path") else {}  # of the classes before
    changes |= {"init": "mix"} if os.sep in own["init"] else {}  # a set without these classes
    part_folder = path / run_folder.PARTS / ADDED
    condense(
        images,
        recipe=Path(run) / run_folder.CONFIG,
        folder=part_folder,
        overwrite=overwrite,
        save_every=save_every,
        progress=progress,
        **changes,
    )
    parts = [relabelled(before, images), read_part(part_folder)]
    condensed = joined(parts)
    with run_folder.open_run_folder(path) as opened:
        run_folder.create(path, overwrite=overwrite)
        about = {"command": run_folder.command_line(), "added": list(new)}
        merge_into(opened, [no_timeline(part) for part in parts], condensed, about, {})
    return replace(condensed, folder=path)


def new_classes(before: Part, data: ImageData) -> tuple[str, ...]:
    """The classes of the data that the run does not have. Raises `UserError` where there are none to add."""
    condensed = before.condensed
    if lost := [name for name in condensed.classes if name not in data.classes]:
        raise UserError(f"{data.name} lacks the class '{lost[0]}' of {before.path}; images of all classes are needed")
    if condensed.images.shape[1:] != data.images.shape[1:]:
        of_set, of_data = ("x".join(map(str, value.shape[1:])) for value in (condensed.images, data.images))
        raise UserError(
            f"{before.path} holds images of {of_set}, the data of {of_data}; --size brings them to one size"
        )
    held = {condensed.classes[label] for label in condensed.labels.unique().tolist()}  # a part has not all of its own
    new = tuple(name for name in data.classes if name not in held)
    if not new:
        raise UserError(f"{data.name} has no class that {before.path} lacks; there is nothing to add")
    return new


def relabelled(part: Part, data: ImageData) -> Part:
    """A part with the labels that its classes have in the data."""
    condensed = part.condensed
    labels = torch.tensor([data.classes.index(name) for name in condensed.classes])[condensed.labels]
    return replace(part, condensed=replace(condensed, labels=labels, classes=data.classes))


def joined(parts: list[Part]) -> SyntheticSet:
    """One set of the images of two parts, in the order of their labels, with what the second one says of the data."""
    sets = [part.condensed for part in parts]
    say_what_is_lost(sets)
    order = torch.cat([one.labels for one in sets]).argsort(stable=True)

    def of_all(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.cpu() for tensor in tensors])[order]

    initial = [one.initial for one in sets if one.initial is not None]
    return replace(
        sets[1].with_hard_labels(),
        images=of_all([one.images for one in sets]),
        labels=of_all([one.labels for one in sets]),
        initial=of_all(initial) if len(initial) == len(sets) else None,
        recipe=without_phase(sets[1].recipe),
    )


def no_timeline(part: Part) -> Part:
    """A part without losses and snapshots: those of two runs at two times have no common axis."""
    return replace(part, events=[], snapshots=(part.condensed.labels[:0], []))
