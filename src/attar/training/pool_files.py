"""Name and read the files of a pool of early-stage models: one safetensors file for each model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar import files, models
from attar.data.images import ImageData
from attar.errors import MissingError, UserError
from attar.models.for_data import build, describe
from attar.settings import plugins
from attar.settings.choices import KEPT_NAMES, strategy_names
from attar.settings.config import NetworkConfig, PoolConfig
from attar.settings.schema import settings_of
from attar.training.pool import KEPT, Member, Pool, data_differences


def folder_name(data: ImageData, network: NetworkConfig) -> str:
    """The default pool folder of a data set and a network, such as `cifar10-convnet3` or `fashion-convnet3-w0.25`."""
    width = "" if network.width == 1 else f"-w{network.width:g}"
    return f"{data.name}-{models.label(network.net_type, network.depth, network.norm_type)}{width}"


def file_name(config: PoolConfig, data: ImageData, network: NetworkConfig) -> str:
    """A member's file name: epochs, seed, and six digits of a hash of all other settings, the data and the network."""
    others = {key: value for key, value in settings_of(config).items() if key not in ("epochs", "seed", "models")}
    registered = plugins.origins_of(strategy_names(config.aug_type))
    text = json.dumps([others, describe(data), resolved_architecture(network), *registered], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"e{config.epochs}-seed{config.seed}-{digest}{files.SUFFIX}"


def load_member(path: Path, device: torch.device | str = "cpu") -> tuple[Member, dict[str, Any]]:
    """Read one member and its metadata onto a device. Raises `UserError` when the file is damaged or not a member."""
    tensors, meta = files.load_tensors(path, "member")
    weights: dict[str, dict[str, Tensor]] = {"params": {}, "buffers": {}, "epochs": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind in weights:  # epochs stay in the file; what is computed with has memory of its own, see `load_tensors`
            weights[kind][name] = value if kind == "epochs" else value.to(device, copy=True)
    for key, expected_type in (("settings", dict), ("network", dict), ("made_for", dict), ("accuracy", float | None)):
        if key not in meta or not isinstance(meta[key], expected_type):
            raise UserError(f"{path} is no early-stage model: its '{key}' is missing or damaged")
    if not {"epochs", "seed"} <= meta["settings"].keys():
        raise UserError(f"{path} is no early-stage model: its 'settings' lack epochs or seed")
    return Member(**weights, settings=meta["settings"], accuracy=meta["accuracy"], name=path.stem, file=path), meta


def load(
    paths: list[Path],
    data: ImageData,
    network: NetworkConfig,
    *,
    length: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> Pool:
    """Read a pool onto the data's device.

    Args:
        paths: files of members, or folders, whose members are read in the order of their names. Members in a folder
            that were made for other data or another network are left out.
        data: the data set that the members must have been trained on.
        network: the architecture that they must have.
        length: take only members with these `epochs` and this `fraction` of the images.
        limit: read at most this many members.

    Raises:
        MissingError: when a path does not exist.
        UserError: when a named file was made for other data or another network, or no member is left.
    """
    members = _load_all_matching(paths, data, network, length or {})
    if not members:
        named = ", ".join(str(path) for path in paths)
        flags = {"epochs": "pt_from", "fraction": "pt_fraction"}
        lengths = " and ".join(f"{flags[name]} {value:g}" for name, value in (length or {}).items())
        raise UserError(
            f"{named} holds no early-stage model{lengths and f' with {lengths}'}; `attar pretrain` trains some"
        )
    return Pool(network, describe(data), tuple(members[:limit]))


def _load_all_matching(
    paths: list[Path], data: ImageData, network: NetworkConfig, length: Mapping[str, float]
) -> list[Member]:
    """The members that match. Raises `Mismatch` for a named file that does not, and for a folder where none does."""
    members: list[Member] = []
    for path in paths:
        if not path.exists():
            raise MissingError(f"there is no pool at {path}; `attar pretrain` makes one")
        if path.is_dir():
            matching, mismatch = load_matching_in(path, data, network)
            if mismatch is not None and not matching:
                raise mismatch
        else:
            matching = [load_matching(path, data, network)]
        members += [member for member in matching if has_length(member, length)]
    return members


def load_matching_in(folder: Path, data: ImageData, network: NetworkConfig) -> tuple[list[Member], Mismatch | None]:
    """The members in a folder that match, in the order of their names, and the error of the first that does not."""
    members, mismatch = [], None
    for path in sorted(folder.glob(f"*{files.SUFFIX}")):
        try:
            members.append(load_matching(path, data, network))
        except Mismatch as error:
            mismatch = mismatch or error
    return members, mismatch


def members_there(
    folder: Path, data: ImageData, config: PoolConfig, network: NetworkConfig
) -> tuple[dict[int, Member], list[Member]]:
    """({seed: member} trained as `config` says, members of other settings): those for these data and this network.

    A member that kept its epochs passes where none are asked for: its end is the same, bit by bit.
    """
    kept = [] if config.keep_epochs else [replace(config, keep_epochs=True, keep_as=how) for how in KEPT_NAMES]
    there: dict[int, Member] = {}
    others = []
    for member in load_matching_in(folder, data, network)[0]:
        seed, name = member.settings["seed"], f"{member.name}{files.SUFFIX}"
        exact, *alike = (file_name(replace(one, seed=seed), data, network) for one in (config, *kept))
        if name == exact:
            there[seed] = member
        elif name in alike:
            there.setdefault(seed, member)
        else:
            others.append(member)
    return there, others


def differing(settings: Sequence[Mapping[str, Any]]) -> str:
    """The settings in which models differ, but for their seeds, as text."""
    first = settings[0]
    names = [name for name in first if any(one.get(name) != first[name] for one in settings)]
    return ", ".join(name for name in names if name not in ("seed", "models"))


class Mismatch(UserError):
    """A member was made for other data or another network."""


def load_matching(path: Path, data: ImageData, network: NetworkConfig) -> Member:
    """Read one member. Raises `Mismatch` if it was made for other data or another network, `UserError` if damaged."""
    member, meta = load_member(path, data.device)
    for difference in data_differences(meta["made_for"], describe(data)):
        raise Mismatch(f"{path} was made for {difference}; `attar pretrain` trains one for these data")
    architecture = resolved_architecture(network)
    for key, value in architecture.items():
        if meta["network"].get(key) != value:
            raise Mismatch(
                f"{path} has {key} {meta['network'].get(key)}, but {value} is asked for; ask for the same, or train "
                f"another with `attar pretrain`"
            )
    module = build(network, describe(data), 0)
    for kind, tensors, expected in (
        ("parameters", member.params, models.parameters_of(module)),
        ("buffers", member.buffers, models.buffers_of(module)),
    ):
        shapes = {name: value.shape for name, value in tensors.items()}
        if shapes != {name: value.shape for name, value in expected.items()}:
            raise UserError(f"{path} is damaged: its {kind} are not those of a {architecture['architecture']}")
        for name, value in tensors.items():
            if value.dtype != expected[name].dtype or not bool(value.isfinite().all()):
                raise UserError(f"{path} is damaged: its {kind} are no finite numbers of the right kind")
    if member.epochs:
        points = member.settings["epochs"] + 1
        shapes = {name: torch.Size((points, *value.shape)) for name, value in member.params.items()}
        if {name: value.shape for name, value in member.epochs.items()} != shapes:
            raise UserError(f"{path} is damaged: its epochs are not those of its parameters")
        if {value.dtype for value in member.epochs.values()} != {KEPT.get(str(kept := member.settings.get("keep_as")))}:
            raise UserError(f"{path} is damaged: its epochs are not kept as {kept}, as its settings say")
    return member


def resolved_architecture(network: NetworkConfig) -> dict[str, Any]:
    """Architecture with its depth, width and norm, as the metadata of a member's file record them."""
    own = ":" in network.net_type  # with the digest of its file
    label = network.net_type if own else models.label(network.net_type, network.depth)
    return {"architecture": label, "width": network.width, "norm_type": network.norm_type}


def has_length(member: Member, length: Mapping[str, float]) -> bool:
    """Whether a member was trained with these `epochs` and this `fraction` of the images; either may be left out."""
    return length.items() <= member.settings.items()
