"""Early-stage models (Acc-DD section 3.2): train a few networks for a few epochs, keep them, draw one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models, store
from attar.augment import augment
from attar.config import NetworkConfig, PoolConfig, settings_of, strategy_names
from attar.data import ImageData
from attar.errors import MissingError, UserError
from attar.training import Batch, accuracy, fit, learner, shuffled

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Member:
    """One early-stage model: its tensors, the settings it was trained with, its accuracy as a fraction."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    settings: dict[str, Any]
    accuracy: float
    name: str


@dataclass(frozen=True, eq=False)
class Pool:
    """Networks of one architecture, made for one data set."""

    network: NetworkConfig
    made_for: dict[str, Any]  # dataset, nclass, channels, size
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def build(self, seed: int | None = None) -> models.Network:
        """A network of the pool's architecture, with fresh weights."""
        return build(self.network, self.made_for, seed)

    def draw(self, generator: Generator) -> Member:
        """A member, uniformly. The index is drawn on the CPU, where it is needed."""
        index = torch.randint(len(self.members), (1,), generator=generator)
        return self.members[int(index)]

    def check(self, data: ImageData) -> None:
        """Raise `UserError` when the pool was made for other images than `data`."""
        for what, (own, wanted) in _differences(self.made_for, describe(data)).items():
            raise UserError(
                f"the pool was made for {what} {own}, the data have {wanted}; train one with `attar pretrain`"
            )


def describe(data: ImageData) -> dict[str, Any]:
    """What a network depends on in a data set."""
    return {"dataset": data.name, "nclass": data.nclass, "channels": data.channels, "size": list(data.size)}


def build(network: NetworkConfig, made_for: dict[str, Any], seed: int | None) -> models.Network:
    """The network of `network` for images as `made_for` says; `seed` fixes its weights."""
    return models.build(
        network.net_type,
        depth=network.depth,
        width=network.width,
        norm_type=network.norm_type,
        channels=made_for["channels"],
        nclass=made_for["nclass"],
        size=(made_for["size"][0], made_for["size"][1]),
        seed=seed,
    )


def folder_name(data: ImageData, network: NetworkConfig) -> str:
    """The default pool folder of a data set and a network, such as `cifar10-convnet3` or `fashion-convnet3-w0.25`."""
    width = "" if network.width == 1 else f"-w{network.width:g}"
    return f"{data.name}-{models.label(network.net_type, network.depth, network.norm_type)}{width}"


def file_name(config: PoolConfig, seed: int) -> str:
    """The member's file: epochs, seed, and six digits that stand for the other settings."""
    rest = {key: value for key, value in settings_of(config).items() if key not in ("epochs", "seed", "models")}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]
    return f"e{config.epochs}-seed{seed}-{digest}{store.SUFFIX}"


def pretrain(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    *,
    folder: Path | None = None,
    report: Report = lambda line: None,
) -> Pool:
    """Train `config.models` members with seeds from `config.seed` up, and keep each in `folder` as it is done.

    A member that stands in the folder already, with the same settings, is taken from there.
    """
    made_for = describe(data)
    build(network, made_for, 0)  # refuse a network that does not fit before anything is written
    members = []
    for seed in range(config.seed, config.seed + config.models):
        path = folder / file_name(config, seed) if folder else None
        if path is not None and path.exists():
            kept = load_member(path)
            _check_member(path, kept[1], made_for, network)
            members.append(kept[0])
            report(f"{path.name}: there already, accuracy {kept[0].accuracy:.3f}")
            continue
        member = train_member(data, replace(config, seed=seed, models=1), network, report)
        if path is not None:
            meta = {"network": _resolved(network), "made_for": made_for, "settings": member.settings}
            tensors = {f"params.{k}": v for k, v in member.params.items()}
            tensors |= {f"buffers.{k}": v for k, v in member.buffers.items()}
            store.save_tensors(path, tensors, "member", {**meta, "accuracy": member.accuracy})
        members.append(member)
    return Pool(network, made_for, tuple(members))


def train_member(data: ImageData, config: PoolConfig, network: NetworkConfig, report: Report) -> Member:
    """Train one early-stage model. Its last epoch is kept; its accuracy is for show and chooses nothing."""
    generator = Generator(data.device).manual_seed(config.seed)
    module = build(network, describe(data), config.seed).to(data.device)
    student = learner(
        module,
        models.parameters_of(module),
        models.buffers_of(module),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        optimizer=config.optimizer,
    )

    def after(epoch: int) -> None:
        report(f"{name}: epoch {epoch + 1} of {config.epochs}")

    name = file_name(config, config.seed).removesuffix(store.SUFFIX)
    fit(student, lambda: real_batches(data, config, generator), config.epochs, after_epoch=after)
    result = accuracy(student, data.test_batches())
    report(f"{name}: accuracy {result:.3f}")
    params = {key: value.detach() for key, value in student.params.items()}
    return Member(params, student.buffers, settings_of(config), result, name)


def real_batches(data: ImageData, config: PoolConfig, generator: Generator) -> Iterator[Batch]:
    """One epoch of augmented real batches."""
    strategy = strategy_names(config.aug_type)
    for rows in shuffled(len(data.labels), config.batch_size, generator):
        yield augment(
            data.fetch(rows),
            data.labels[rows],
            strategy=strategy,
            nclass=data.nclass,
            mix_p=config.mix_p,
            generator=generator,
        )


def load_member(path: Path, device: torch.device | str = "cpu") -> tuple[Member, dict[str, Any]]:
    """Read one member and its metadata. Raises `UserError` for a damaged or foreign file."""
    tensors, meta = store.load_tensors(path, "member")
    parts: dict[str, dict[str, Tensor]] = {"params": {}, "buffers": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if part in parts:
            parts[part][name] = value.to(device)
    try:
        member = Member(parts["params"], parts["buffers"], meta["settings"], meta["accuracy"], path.stem)
        meta["network"], meta["made_for"]
    except KeyError as error:
        raise UserError(f"{path} lacks {error} and is no early-stage model") from error
    return member, meta


def load(
    paths: list[Path],
    data: ImageData,
    network: NetworkConfig,
    *,
    epochs: int | None = None,
    limit: int | None = None,
) -> Pool:
    """Read a pool: files, or folders of them (in the order of their names), onto the data's device.

    epochs: take only members trained that long; limit: at most so many. Raises `UserError` when a member was made for
    other data or another network.
    """
    files = [file for path in paths for file in _files(path)]
    members = []
    made_for = describe(data)
    for file in files:
        member, meta = load_member(file, data.device)
        if epochs is not None and member.settings.get("epochs") != epochs:
            continue
        _check_member(file, meta, made_for, network)
        members.append(member)
        if limit is not None and len(members) == limit:
            break
    return Pool(network, made_for, tuple(members))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob(f"*{store.SUFFIX}"))
    if not path.is_file():
        raise MissingError(f"there is no pool at {path}; `attar pretrain` makes one")
    return [path]


def _check_member(path: Path, meta: dict[str, Any], made_for: dict[str, Any], network: NetworkConfig) -> None:
    advice = "train one for these data with `attar pretrain`"
    for what, (own, wanted) in _differences(meta["made_for"], made_for).items():
        raise UserError(f"{path} was made for {what} {own}, the data have {wanted}; {advice}")
    for what, (own, wanted) in _differences(meta["network"], _resolved(network)).items():
        raise UserError(f"{path} is a network of {what} {own}, not {wanted}; name its settings or {advice}")


def _differences(own: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (own.get(key), value) for key, value in wanted.items() if own.get(key) != value}


def _resolved(network: NetworkConfig) -> dict[str, Any]:
    label = models.label(network.net_type, network.depth)
    return {"architecture": label, "width": network.width, "norm_type": network.norm_type}
