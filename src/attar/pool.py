"""Early-stage models (Acc-DD section 3.2): train a few networks for a few epochs, keep them, draw one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models, store
from attar.config import NetworkConfig, PoolConfig, settings_of, strategy_names
from attar.data import ImageData
from attar.errors import Diverged, MissingError, UserError
from attar.execution import Workers
from attar.loop import BatchDraw, BatchSampler, Trainer, fit, make_batch
from attar.training import accuracy, learner, shuffled

Report = Callable[[str], None]
BEFORE_SHARES = {"share": 1.0}  # what the settings of older members do not say


@dataclass(frozen=True, eq=False)
class Member:
    """One early-stage model: its tensors, the settings it was trained with, its accuracy on the test images, if any."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    settings: dict[str, Any]
    accuracy: float | None  # a fraction
    name: str
    file: Path | None = None  # where it is kept

    @cached_property
    def digest(self) -> str:
        """Twelve digits that stand for the tensors."""
        found = hashlib.sha256()
        for name, value in sorted((self.params | self.buffers).items()):
            found.update(f"{name} {tuple(value.shape)}".encode())
            found.update(value.cpu().numpy().tobytes())
        return found.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Pool:
    """Networks of one architecture, made for one data set."""

    network: NetworkConfig
    made_for: dict[str, Any]  # dataset, nclass, channels, size, images (a fingerprint)
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def build(self, seed: int | None = None) -> models.Network:
        """A network of the pool's architecture, with fresh weights."""
        return build(self.network, self.made_for, seed)

    def draw(self, generator: Generator) -> Member:
        """A member, uniformly."""
        return self.members[self.draw_index(generator)]

    def draw_index(self, generator: Generator) -> int:
        """The number of a member, uniformly. It is drawn on the CPU, where it is needed."""
        return int(torch.randint(len(self.members), (1,), generator=generator))

    def start(self, index: int) -> dict[str, Tensor]:
        """The parameters that a member's training began with, on the CPU: its seed makes them again."""
        return models.parameters_of(self.build(self.members[index].settings["seed"]))

    def check(self, data: ImageData) -> None:
        """Raise `UserError` when the pool was made for other images than `data`."""
        for misfit in _misfits(self.made_for, describe(data)):
            raise UserError(f"the pool was made for {misfit}; `attar pretrain` trains one for these data")


def empty(data: ImageData, network: NetworkConfig) -> Pool:
    """An architecture without models, for what condenses on fresh networks."""
    return Pool(network, describe(data), ())


def describe(data: ImageData) -> dict[str, Any]:
    """What a network depends on in a data set."""
    return {
        "dataset": data.name,
        "nclass": data.nclass,
        "channels": data.channels,
        "size": list(data.size),
        "images": data.fingerprint,
    }


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


def file_name(config: PoolConfig, data: ImageData, network: NetworkConfig) -> str:
    """The member's file: epochs, seed, and six digits that stand for the other settings, the data and the network."""
    rest = {key: value for key, value in settings_of(config).items() if key not in ("epochs", "seed", "models")}
    rest = {key: value for key, value in rest.items() if (key, value) != ("share", 1.0)}  # as it was before shares
    text = json.dumps([rest, describe(data), _resolved(network)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"e{config.epochs}-seed{config.seed}-{digest}{store.SUFFIX}"


def pretrain(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    *,
    folder: Path | None = None,
    report: Report = lambda line: None,
    workers: Workers | None = None,
) -> Pool:
    """Train `config.models` members with seeds from `config.seed` up, and keep each in `folder` as it is done.

    A member that stands in the folder already, with the same settings, is taken from there. workers: who trains, this
    machine's by default.
    """
    build(network, describe(data), 0)  # refuse a network that does not fit before anything is written
    workers = workers or Workers(data.device)

    def one(single: PoolConfig) -> Member:
        return _member(data, single, network, folder, report, workers)

    return Pool(network, describe(data), tuple(workers.map(one, _singles(config))))


def fill(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path,
    *,
    report: Report = lambda line: None,
    workers: Workers | None = None,
) -> Pool:
    """`config.models` members of `folder` that were trained as long as `config` says; missing ones are trained.

    The members that `config` describes come first, so that what others put into the folder changes nothing for a pool
    that is complete.
    """
    build(network, describe(data), 0)
    kept, _ = _of_folder(folder, data, network)
    length = {"epochs": config.epochs, "share": config.share}
    there = {member.name: member for member in kept if as_long(member, length)}
    own = {file_name(one, data, network).removesuffix(store.SUFFIX): one for one in _singles(config)}
    missing = [name for name in own if name not in there][: max(0, config.models - len(there))]
    report(f"pool: {config.models} models of {config.span} in {folder}, {len(missing)} to train")
    wanted = [name for name in own if name in there or name in missing] + [name for name in there if name not in own]
    workers = workers or Workers(data.device)

    def one(name: str) -> Member:
        if name not in there:
            return _member(data, own[name], network, folder, report, workers)
        report(f"{name}: there already, accuracy {shown(there[name].accuracy)}")
        return there[name]

    return Pool(network, describe(data), tuple(workers.map(one, wanted[: config.models])))


def as_long(member: Member, length: Mapping[str, float]) -> bool:
    """Whether a member was trained so long: `epochs`, `share` of the images, or only one of them."""
    return length.items() <= (BEFORE_SHARES | member.settings).items()


def is_described(pool: Pool, config: PoolConfig) -> bool:
    """Whether the pool holds what `config` says, and nothing else."""
    return [BEFORE_SHARES | member.settings for member in pool.members] == [
        settings_of(one) for one in _singles(config)
    ]


def _singles(config: PoolConfig) -> list[PoolConfig]:
    """The settings of each member."""
    return [replace(config, seed=seed, models=1) for seed in range(config.seed, config.seed + config.models)]


def _member(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path | None,
    report: Report,
    workers: Workers,
) -> Member:
    """One member: taken from the folder, or trained and kept there."""
    path = folder / file_name(config, data, network) if folder else None
    if path is not None and path.exists():
        member = _load_fitting(path, data, network)
        report(f"{member.name}: there already, accuracy {shown(member.accuracy)}")
        return member
    if workers.remote:  # nothing is heard of it until it is done
        member = workers.call(train_member, data, config, network)
        report(f"{member.name}: accuracy {shown(member.accuracy)}")
    else:
        member = train_member(data, config, network, report)
    if path is None:
        return member
    meta = {"network": _resolved(network), "made_for": describe(data), "settings": member.settings}
    tensors = {f"params.{k}": v for k, v in member.params.items()}
    tensors |= {f"buffers.{k}": v for k, v in member.buffers.items()}
    store.save_tensors(path, tensors, "member", {**meta, "accuracy": member.accuracy})
    return replace(member, file=path)


def train_member(
    data: ImageData, config: PoolConfig, network: NetworkConfig, report: Report = lambda line: None
) -> Member:
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

    name = file_name(config, data, network).removesuffix(store.SUFFIX)
    sampler = BatchSampler(data, strategy_names(config.aug_type), config.mix_p, generator)
    trainer = Trainer(student, partial(make_batch, data), notice=report)
    fit(trainer, lambda: real_batches(data, config, sampler), config.epochs, after_epoch=after)
    params = {key: value.detach() for key, value in student.params.items()}
    if not all(bool(value.isfinite().all()) for value in params.values()):
        raise Diverged(f"{name} diverged in training; lower the learning rate (lr is {config.lr:g})")
    result = accuracy(student, data.test_batches()) if data.test_images is not None else None
    report(f"{name}: accuracy {shown(result)}")
    return Member(params, student.buffers, settings_of(config), result, name)


def shown(accuracy: float | None) -> str:
    """An accuracy as a fraction, for people."""
    return "unknown (no test images)" if accuracy is None else f"{accuracy:.3f}"


def real_batches(data: ImageData, config: PoolConfig, sampler: BatchSampler) -> Iterator[BatchDraw]:
    """One epoch of real batches, over `config.share` of the images."""
    images = max(1, round(config.share * len(data.labels)))
    for rows in shuffled(len(data.labels), config.batch_size, sampler.generator, only=images):
        yield sampler.draw_rows(rows)


def load_member(path: Path, device: torch.device | str = "cpu") -> tuple[Member, dict[str, Any]]:
    """Read one member and its metadata. Raises `UserError` for a damaged or foreign file."""
    tensors, meta = store.load_tensors(path, "member")
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

    length: take only members of these `epochs`, this `share` of the images; limit: at most so many. Of a folder those
    that fit are taken.
    Raises `UserError` when a named file was made for other data or another network, or nothing is left.
    """
    members = _fitting(paths, data, network, length or {})
    if not members:
        named = ", ".join(str(path) for path in paths)
        flags = {"epochs": "pt_from", "share": "pt_share"}
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
    for path in sorted(folder.glob(f"*{store.SUFFIX}")):
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


def _misfits(own: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Where `made_for` differs from what the data are, in words."""
    for key, value in wanted.items():
        if own.get(key) != value:
            yield f"{_words(key, own.get(key))}, not for {_words(key, value)}"


def _words(key: str, value: Any) -> str:
    if key == "size":
        return f"images of {'x'.join(map(str, value)) if isinstance(value, list) else value}"
    words = {"dataset": "the data set '{}'", "nclass": "{} classes", "images": "the training images {}"}
    return words.get(key, "images of {} channels").format(value)


def _resolved(network: NetworkConfig) -> dict[str, Any]:
    label = models.label(network.net_type, network.depth)
    return {"architecture": label, "width": network.width, "norm_type": network.norm_type}
