"""Initial images from a set: a run that begins where another one ended."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from attar.data.images import ImageData
from attar.errors import MissingError, UserError, counted, say_once
from attar.sets import foreign, set_files
from attar.settings.choices import INIT_NAMES
from attar.settings.condense_config import CondenseConfig


def images_of_set(data: ImageData, config: CondenseConfig, labels: list[int]) -> Tensor | None:
    """The images [C, ipc, ch, H, W] of the set that `init` names, for these labels; None where it names no set.

    Raises `UserError` for a set that is not there, or that does not fit the data and the settings.
    """
    if config.init in INIT_NAMES:
        return None
    path = Path(config.init)
    if not path.exists():
        raise MissingError(f"there is no set {path} to begin with; init is {', '.join(INIT_NAMES)}, or a set")
    given = foreign.as_set(foreign.read(path), data) if foreign.is_foreign(path) else set_files.load_set(path)
    shape = (data.channels, *data.size)
    if tuple(given.images.shape[1:]) != shape:
        of_set, of_data = ("x".join(map(str, sides)) for sides in (given.images.shape[1:], shape))
        raise UserError(f"{path} holds images of {of_set}, the data of {of_data}; no run can begin with them")
    if given.factor != config.factor:
        raise UserError(f"{path} has factor {given.factor}; begin with it by --factor {given.factor}")
    if given.decode_type != config.decode_type and given.factor > 1:
        raise UserError(
            f"{path} has decode_type {given.decode_type}; begin with it by --decode_type {given.decode_type}"
        )
    if (given.space == "zca") != (data.space == "zca"):
        advice = "add --zca" if given.space == "zca" else "leave --zca out"
        raise UserError(f"{path} is in {given.space} space, the data in {data.space}; begin with it in one: {advice}")
    if config.clamp and (share := float(((given.images < 0) | (given.images > 1)).float().mean())):
        say_once(f"{path}: {100 * share:.2g} % of the values are outside [0, 1]; this run clamps them", logging.WARNING)
    by_class = []
    for name in (data.classes[label] for label in labels):
        rows = given.labels == given.classes.index(name) if name in given.classes else torch.zeros(0)
        if (count := int(rows.sum())) != config.ipc:
            advice = f"; begin with it by --ipc {given.ipc}" if name in given.classes else ""
            raise UserError(f"{path} has {counted(count, 'image')} of class '{name}', not {config.ipc}{advice}")
        by_class.append(given.images[rows])
    return torch.stack(by_class).to(data.device)
