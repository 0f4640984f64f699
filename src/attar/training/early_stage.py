"""Early-stage models (Acc-DD section 3.2): train a few networks for a few epochs, and keep them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Generator

from attar import files, models
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import Diverged, log
from attar.models.for_data import build, describe
from attar.settings.choices import strategy_names
from attar.settings.config import NetworkConfig, PoolConfig
from attar.settings.schema import settings_of
from attar.training.batches import AugmentationSampler, BatchDraw, make_batch, shuffled
from attar.training.loop import Trainer, fit
from attar.training.pool import Member, Pool
from attar.training.pool_files import _load_fitting, _of_folder, _resolved, as_long, file_name
from attar.training.train_state import accuracy, start_training

Advance = Callable[[str], None]  # called with a few words when a part of the work is done


def pretrain(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    *,
    folder: Path | None = None,
    advance: Advance = lambda words: None,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """Train `config.models` members with seeds from `config.seed` up, and keep each in `folder` as it is done.

    A member that stands in the folder already, with the same settings, is taken from there. workers: who trains, this
    machine's by default.
    """
    build(network, describe(data), 0)  # refuse a network that does not fit before anything is written
    workers = workers or ThreadWorkers(data.device)

    def one(single: PoolConfig) -> Member:
        return _member(data, single, network, folder, advance, workers)

    return Pool(network, describe(data), tuple(workers.map(one, _singles(config))))


def fill(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path,
    *,
    advance: Advance = lambda words: None,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """`config.models` members of `folder` that were trained as long as `config` says; missing ones are trained.

    The members that `config` describes come first, so that what others put into the folder changes nothing for a pool
    that is complete.
    """
    build(network, describe(data), 0)
    kept, _ = _of_folder(folder, data, network)
    length = {"epochs": config.epochs, "fraction": config.fraction}
    there = {member.name: member for member in kept if as_long(member, length)}
    own = {file_name(one, data, network).removesuffix(files.SUFFIX): one for one in _singles(config)}
    missing = [name for name in own if name not in there][: max(0, config.models - len(there))]
    log.info("pool: %d models of %s in %s, %d to train", config.models, config.span, folder, len(missing))
    wanted = [name for name in own if name in there or name in missing] + [name for name in there if name not in own]
    workers = workers or ThreadWorkers(data.device)

    def one(name: str) -> Member:
        if name not in there:
            return _member(data, own[name], network, folder, advance, workers)
        log.info("%s: there already, accuracy %s", name, shown(there[name].accuracy))
        return there[name]

    return Pool(network, describe(data), tuple(workers.map(one, wanted[: config.models])))


def is_described(pool: Pool, config: PoolConfig) -> bool:
    """Whether the pool holds what `config` says, and nothing else."""
    return [member.settings for member in pool.members] == [settings_of(one) for one in _singles(config)]


def _singles(config: PoolConfig) -> list[PoolConfig]:
    """The settings of each member."""
    return [replace(config, seed=seed, models=1) for seed in range(config.seed, config.seed + config.models)]


def _member(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path | None,
    advance: Advance,
    workers: ThreadWorkers,
) -> Member:
    """One member: taken from the folder, or trained and kept there."""
    path = folder / file_name(config, data, network) if folder else None
    if path is not None and path.exists():
        member = _load_fitting(path, data, network)
        log.info("%s: there already, accuracy %s", member.name, shown(member.accuracy))
        return member
    if workers.remote:  # nothing is heard of it until it is done
        member = workers.call(train_member, data, config, network)
        advance(f"{member.name}: accuracy {shown(member.accuracy)}")
    else:
        member = train_member(data, config, network, advance)
    if path is None:
        return member
    meta = {"network": _resolved(network), "made_for": describe(data), "settings": member.settings}
    tensors = {f"params.{k}": v for k, v in member.params.items()}
    tensors |= {f"buffers.{k}": v for k, v in member.buffers.items()}
    files.save_tensors(path, tensors, "member", {**meta, "accuracy": member.accuracy})
    return replace(member, file=path)


def train_member(
    data: ImageData, config: PoolConfig, network: NetworkConfig, advance: Advance = lambda words: None
) -> Member:
    """Train one early-stage model. Its last epoch is kept; its accuracy is for show and chooses nothing."""
    generator = Generator(data.device).manual_seed(config.seed)
    module = build(network, describe(data), config.seed).to(data.device)
    model = start_training(
        module,
        models.parameters_of(module),
        models.buffers_of(module),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        optimizer=config.optimizer,
    )

    def after(epoch: int) -> None:
        advance(f"{name}: epoch {epoch + 1} of {config.epochs}")

    name = file_name(config, data, network).removesuffix(files.SUFFIX)
    sampler = AugmentationSampler(data, strategy_names(config.aug_type), config.mix_p, generator)
    trainer = Trainer(model, partial(make_batch, data))
    fit(trainer, lambda: real_batches(data, config, sampler), config.epochs, after_epoch=after)
    params = {key: value.detach() for key, value in model.params.items()}
    if not all(bool(value.isfinite().all()) for value in params.values()):
        raise Diverged(f"{name} diverged in training; lower the learning rate (lr is {config.lr:g})")
    result = accuracy(model, data.test_batches()) if data.test_images is not None else None
    log.info("%s: accuracy %s", name, shown(result))
    return Member(params, model.buffers, settings_of(config), result, name)


def shown(accuracy: float | None) -> str:
    """An accuracy as a fraction, for people."""
    return "unknown (no test images)" if accuracy is None else f"{accuracy:.3f}"


def real_batches(data: ImageData, config: PoolConfig, sampler: AugmentationSampler) -> Iterator[BatchDraw]:
    """One epoch of real batches, over `config.fraction` of the images."""
    images = max(1, round(config.fraction * len(data.labels)))
    for rows in shuffled(len(data.labels), config.batch_size, sampler.generator, only=images):
        yield sampler.draw_rows(rows)
