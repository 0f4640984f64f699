"""Early-stage models (Acc-DD section 3.2): train a few networks for a few epochs each, and save them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from attar import files
from attar.data.images import ImageData
from attar.engine.precision import check_precision, matmul_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import Diverged, counted, log
from attar.models.for_data import build, describe
from attar.settings.choices import strategy_names
from attar.settings.config import NetworkConfig, PoolConfig
from attar.settings.schema import settings_of
from attar.training import pool_files
from attar.training.batches import AugmentationSampler, make_batches, shuffled
from attar.training.loop import Trainer, fit
from attar.training.pool import KEPT, Member, Pool
from attar.training.pool_files import file_name, load_matching, resolved_architecture
from attar.training.train_state import accuracy, decay, start_fresh

Advance = Callable[[str], None]  # called with a short message after each epoch or model


def pretrain(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    *,
    folder: Path | None = None,
    advance: Advance = lambda words: None,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """Train `config.models` members with consecutive seeds from `config.seed`, and save each in `folder`.

    A member with the same settings that is in the folder already is read instead. workers: train the members; by
    default threads of this process.
    """
    _check(data, config, network)
    workers = workers or ThreadWorkers(data.device)

    def find(member_config: PoolConfig) -> Member:
        words = _in_words(member_config.seed - config.seed, config, member_config.seed)
        return _find_member(data, member_config, network, folder, advance, workers, words)

    return Pool(network, describe(data), tuple(workers.map(find, member_configs(config))))


def fill(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path,
    *,
    advance: Advance = lambda words: None,
    workers: ThreadWorkers | None = None,
) -> Pool:
    """Read `config.models` members from `folder` that were trained as `config` says, and train missing ones.

    Those with the seeds of `config` come first, so that other files in the folder do not change a pool that is
    complete. Members of other settings are left alone, and a line says so.
    """
    _check(data, config, network)
    there, others = pool_files.members_there(folder, data, config, network)
    asked = range(config.seed, config.seed + config.models)
    missing = [seed for seed in asked if seed not in there][: max(0, config.models - len(there))]
    words = f"pool: {config.in_words} in {folder}, {len(missing)} to train"
    if others:
        settings = pool_files.differing([settings_of(config), *(member.settings for member in others)])
        words += f"; {counted(len(others), 'model')} of other settings there ({settings}): only by --model_path"
    log.info(words)
    seeds = [seed for seed in asked if seed in there or seed in missing]
    seeds += [seed for seed in there if seed not in asked]
    workers = workers or ThreadWorkers(data.device)

    def find(item: tuple[int, int]) -> Member:
        number, seed = item
        words = _in_words(number, config, seed)
        if seed not in there:
            member_config = replace(config, seed=seed, models=1)
            return _find_member(data, member_config, network, folder, advance, workers, words)
        log.info("%s, there already: %s", words, format_accuracy(there[seed].accuracy))
        return there[seed]

    return Pool(network, describe(data), tuple(workers.map(find, enumerate(seeds[: config.models]))))


def _check(data: ImageData, config: PoolConfig, network: NetworkConfig) -> None:
    """Raise `UserError` for a network or a precision that does not fit, before anything is written."""
    build(network, describe(data), 0)
    check_precision(config.precision, data.device)


def _in_words(number: int, config: PoolConfig, seed: int) -> str:
    """What a model is called while the pool is trained, such as `model 2 of 5 (seed 1)`; `number` is from 0."""
    return f"model {number + 1} of {config.models} (seed {seed})"


def is_described(pool: Pool, config: PoolConfig) -> bool:
    """Whether the pool's members are exactly those that `pretrain` would train with `config`."""
    return [member.settings for member in pool.members] == [settings_of(one) for one in member_configs(config)]


def member_configs(config: PoolConfig) -> list[PoolConfig]:
    """The settings of each member of the pool."""
    return [replace(config, seed=seed, models=1) for seed in range(config.seed, config.seed + config.models)]


def _find_member(
    data: ImageData,
    config: PoolConfig,
    network: NetworkConfig,
    folder: Path | None,
    advance: Advance,
    workers: ThreadWorkers,
    words: str,
) -> Member:
    """Read a member from the folder, or train it and save it there; `words` are what it is called."""
    path = folder / file_name(config, data, network) if folder else None
    if path is not None and path.exists():
        member = load_matching(path, data, network)
        log.info("%s, there already: %s", words, format_accuracy(member.accuracy))
        return member
    if workers.remote:  # no messages arrive before the model is trained
        member = workers.call(train_member, data, config, network)
        advance(words)
    else:
        member = train_member(data, config, network, lambda epoch: advance(f"{words}: {epoch}"))
    log.info("%s: %s", words, format_accuracy(member.accuracy))
    if path is None:
        return member
    meta = {"network": resolved_architecture(network), "made_for": describe(data), "settings": member.settings}
    tensors = {f"params.{k}": v for k, v in member.params.items()}
    tensors |= {f"buffers.{k}": v for k, v in member.buffers.items()}
    tensors |= {f"epochs.{k}": v for k, v in member.epochs.items()}
    files.save_tensors(path, tensors, "member", {**meta, "accuracy": member.accuracy})
    # epochs are read where they are used, from the file
    return load_matching(path, data, network) if member.epochs else replace(member, file=path)


def train_member(
    data: ImageData, config: PoolConfig, network: NetworkConfig, advance: Advance = lambda words: None
) -> Member:
    """Train one early-stage model, and return it after its last epoch. Its test accuracy is only reported.

    Raises `Diverged` when a parameter is not finite.
    """
    generator = Generator(data.device).manual_seed(config.seed)
    model = start_fresh(network, data, config, config.seed)

    kept: list[dict[str, Tensor]] = []  # the start, and each epoch

    def keep() -> None:
        if config.keep_epochs:
            kept.append(
                {key: value.detach().to("cpu", KEPT[config.keep_as], copy=True) for key, value in model.params.items()}
            )

    def after_epoch(epoch: int) -> None:
        keep()
        advance(f"epoch {epoch + 1} of {config.epochs}")

    name = file_name(config, data, network).removesuffix(files.SUFFIX)
    sampler = AugmentationSampler(data, strategy_names(config.aug_type), config.mix_p, generator)
    trainer = Trainer(model, partial(make_batches, data))
    count = max(1, round(config.fraction * len(data.labels)))

    def epoch_batches() -> Iterator[Tensor]:
        return shuffled(len(data.labels), config.batch_size, generator, limit=count)

    keep()
    schedule = decay if config.lr_decay else lambda epoch, epochs: 1.0
    with matmul_precision(config.precision, data.device):
        fit(trainer, epoch_batches, sampler.draw_rows, config.epochs, after_epoch=after_epoch, decay=schedule)
    params = {key: value.detach() for key, value in model.params.items()}
    if not all(bool(value.isfinite().all()) for value in params.values()):
        raise Diverged(f"{name} diverged in training; lower the learning rate (lr is {config.lr:g})")
    test_accuracy = accuracy(model, data.test_batches()) if data.test_images is not None else None
    trajectory = {key: torch.stack([one[key] for one in kept]) for key in params} if kept else {}
    return Member(params, model.buffers, settings_of(config), test_accuracy, name, epochs=trajectory)


def format_accuracy(accuracy: float | None) -> str:
    """An accuracy as text, in percent."""
    return "accuracy unknown (no test images)" if accuracy is None else f"{100 * accuracy:.1f} %"
