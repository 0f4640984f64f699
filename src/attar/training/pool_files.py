"""The files of a pool of early-stage models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar import files, models
from attar.data.images import ImageData
from attar.errors import MissingError, UserError
from attar.models.for_data import build, describe
from attar.settings.config import NetworkConfig, PoolConfig
from attar.settings.schema import settings_of
from attar.training.pool import Member, Pool, _misfits


def folder_name(data: ImageData, network: NetworkConfig) -> str:
    """The default pool folder of a data set and a network, such as `cifar10-convnet3` or `fashion-convnet3-w0.25`."""
    width = "" if network.width == 1 else f"-w{network.width:g}"
    return f"{data.name}-{models.label(network.net_type, network.depth, network.norm_type)}{width}"


def file_name(config: PoolConfig, data: ImageData, network: NetworkConfig) -> str:
    """The member's file: epochs, seed, and six digits that stand for the other settings, the data and the network."""
    rest = {key: value for key, value in settings_of(config).items() if key not in ("epochs", "seed", "models")}
    text = json.dumps([rest, describe(data), _resolved(network)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"e{config.epochs}-seed{config.seed}-{digest}{files.SUFFIX}"


def load_member(path: Path, device: torch.device | str = "cpu") -> tuple[Member, dict[str, Any]]:
    """Read one member and its metadata. Raises `UserError` for a damaged or foreign file."""
    tensors, meta = files.load_tensors(path, "member")
    parts: dict[str, dict[str, Tensor]] = {"params": {}, "buffers": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if part in parts:
            parts[part][name] = value.to(device)
    for key, kind in (("settings", dict), ("network", dict), ("made_for", dict), ("accuracy", float | None)):
        if key not in meta or not isinstance(meta[key], kind):
            raise UserError(f"{path} is no early-stage model: its '{key}' is missing or damaged")
    if not {"epochs", "seed"} <= meta["settings"].keys():
        raise UserError(f"{path} is no early-stage model: its 'settings' lack epochs or seed")
    return Member(parts["params"], parts["buffers"], meta["settings"], meta["accuracy"], path.stem, path), meta


def load(
    paths: list[Path],
    data: ImageData,
    network: NetworkConfig,
    *,
    length: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> Pool:
    """Read a pool: files, or folders of them (in the order of their names), onto the data's device.

    length: take only members of these `epochs`, this `fraction` of the images; limit: at most so many. Of a folder
    those that fit are taken.
    Raises `UserError` when a named file was made for other data or another network, or nothing is left.
    """
    members = _fitting(paths, data, network, length or {})
    if not members:
        named = ", ".join(str(path) for path in paths)
        flags = {"epochs": "pt_from", "fraction": "pt_fraction"}
        wanted = " and ".join(f"{flags[name]} {value:g}" for name, value in (length or {}).items())
        raise UserError(
            f"{named} holds no early-stage model{wanted and f' with {wanted}'}; `attar pretrain` trains some"
        )
    return Pool(network, describe(data), tuple(members[:limit]))


def _fitting(paths: list[Path], data: ImageData, network: NetworkConfig, length: Mapping[str, float]) -> list[Member]:
    """The members that fit. Raises `UserError` for a named file that does not, and for a folder where none does."""
    members = []
    for path in paths:
        if not path.exists():
            raise MissingError(f"there is no pool at {path}; `attar pretrain` makes one")
        if path.is_dir():
            found, misfit = _of_folder(path, data, network)
            if misfit is not None and not found:
                raise misfit
        else:
            found = [_load_fitting(path, data, network)]
        members += [member for member in found if as_long(member, length)]
    return members


def _of_folder(folder: Path, data: ImageData, network: NetworkConfig) -> tuple[list[Member], Misfit | None]:
    """The members that fit, in the order of their names, and what is wrong with the first that does not."""
    found, misfit = [], None
    for path in sorted(folder.glob(f"*{files.SUFFIX}")):
        try:
            found.append(_load_fitting(path, data, network))
        except Misfit as error:
            misfit = misfit or error
    return found, misfit


class Misfit(UserError):
    """A member that was made for other data or another network."""


def _load_fitting(path: Path, data: ImageData, network: NetworkConfig) -> Member:
    member, meta = load_member(path, data.device)
    for misfit in _misfits(meta["made_for"], describe(data)):
        raise Misfit(f"{path} was made for {misfit}; `attar pretrain` trains one for these data")
    for key, value in _resolved(network).items():
        if meta["network"].get(key) != value:
            raise Misfit(
                f"{path} has {key} {meta['network'].get(key)}, but {value} is asked for; ask for the same, or train "
                f"another with `attar pretrain`"
            )
    module = build(network, describe(data), 0)
    for what, own, wanted in (
        ("parameters", member.params, models.parameters_of(module)),
        ("buffers", member.buffers, models.buffers_of(module)),
    ):
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in wanted.items()}:
            raise UserError(f"{path} is damaged: its {what} are not those of a {_resolved(network)['architecture']}")
        if any(value.dtype != wanted[name].dtype or not bool(value.isfinite().all()) for name, value in own.items()):
            raise UserError(f"{path} is damaged: its {what} are no finite numbers of the right kind")
    return member


def _resolved(network: NetworkConfig) -> dict[str, Any]:
    label = models.label(network.net_type, network.depth)
    return {"architecture": label, "width": network.width, "norm_type": network.norm_type}


def as_long(member: Member, length: Mapping[str, float]) -> bool:
    """Whether a member was trained so long: `epochs`, `fraction` of the images, or only one of them."""
    return length.items() <= member.settings.items()
