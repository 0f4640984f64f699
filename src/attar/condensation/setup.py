"""The fixed part of a condensation run: data, pool, settings, and everything derived from them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attar.condensation import image_step
from attar.condensation.gradients import Execution, ImageGradients
from attar.condensation.image_step import ImageOptimizer, effective_lr, pending, sweep_factors
from attar.condensation.matchable import check_matchable
from attar.condensation.matching import Matching
from attar.condensation.memory import choose_chunk, class_bytes, side_by_side
from attar.condensation.network_training import NetworkTraining
from attar.condensation.sweep import Sweep, SyntheticSweep
from attar.condensation.trajectory import TrajectoryGradients
from attar.data.classes import check_ipc
from attar.data.images import ImageData
from attar.engine.compile import worth_compiling
from attar.engine.cuda_graphs import CudaGraph
from attar.engine.precision import check_precision, set_matmul_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, counted, say_once, size_in_words
from attar.models import Network
from attar.selection.scores import difficulty
from attar.sets.decode import check_factor, decoded_count
from attar.sets.partition import condensed_labels
from attar.settings import choices
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import PoolConfig
from attar.training.pool import Pool

MAX_COMPILED_SHAPES = 4  # different sizes of the classes' real batches; each is compiled separately


class Began(NamedTuple):
    """How a run computed when it was saved."""

    compiled: bool
    chunk: int  # classes at once


@dataclass(frozen=True, eq=False)
class Setup:
    """The fixed part of a run: data, pool, settings, and everything derived from them."""

    data: ImageData
    pool: Pool
    config: CondenseConfig
    labels: list[int]  # global labels of the classes that are condensed
    rows: list[Tensor]  # of the real images of each that are matched, int64
    module: Network
    gradients: ImageGradients
    sweep: Sweep  # `gradients` of rows of real images
    calibration: SyntheticSweep | None  # gradients of a trained network's cross-entropy (NCFM)
    image_optimizer: ImageOptimizer
    ahead: Callable[..., Tensor]  # `image_step.ahead` and
    move: Callable[..., image_step.Moved]  # `image_step.move` of this optimiser
    network_training: NetworkTraining
    trajectory: TrajectoryGradients | None  # where trajectories are matched
    draws_subset: bool  # a class decodes to more images than `batch_syn_max`
    pending: Tensor  # [C, 1, 1, 1, 1], see `image_step.pending`

    @property
    def features(self) -> int:
        """The number of features that the classifier sees."""
        return self.module.classifier.in_features

    def is_last_use(self, inner: int) -> bool:
        """Whether the network is replaced after `inner` sweeps of an outer iteration."""
        sweeps_per_network = self.config.sweeps_per_network
        return inner == self.config.inner_loop or (sweeps_per_network is not None and inner % sweeps_per_network == 0)


def set_up(data: ImageData, pool: Pool, config: CondenseConfig, began: Began | None = None) -> Setup:
    """Prepare a run. Raises `UserError` when data, pool, settings and device do not fit together.

    began: of a resumed run, which then rounds as before: with `compile` auto it stays compiled or not, even if it has
    become longer, and it computes as many classes at once, unless `memory_gb` allows fewer.
    """
    labels = check_data(data, config)
    if config.nclass_sub is not None and config.phase is None:
        raise UserError("nclass_sub without a phase means all parts, and one is condensed at a time; name a phase")
    check_pool(pool, data, config)
    check_matchable(pool.network, data, config)
    module = pool.build(seed=0).to(data.device)
    matching = Matching(
        metric=config.metric,
        match=config.match,
        bias=config.bias,
        fc=config.fc,
        layers=choices.layer_range(config.match_layers),
        factor=config.factor,
        decode_type=config.decode_type,
    )
    rows = torch.tensor(labels, device=data.device)
    execution = choose_execution(module, data, labels, config, began)
    gradients = ImageGradients(module, matching, data.normalize, rows, execution)
    calibration = None
    if config.calibrate:
        entropy = ImageGradients(module, replace(matching, match="label"), data.normalize, rows, execution)
        calibration = SyntheticSweep(entropy, data)
    optimizer = image_optimizer(data, config, len(labels))
    ahead: Callable[..., Any] = partial(image_step.ahead, optimizer=optimizer)
    move: Callable[..., Any] = partial(image_step.move, optimizer=optimizer)
    if optimizer.turns > 1 and data.device.type == "cuda":  # hundreds of small operations
        ahead, move = CudaGraph(ahead), CudaGraph(move)
    by_class = config.img_step == "class" and config.img_optim == "sgd"
    trajectory = None
    if config.match == "trajectory":
        trajectory = TrajectoryGradients(module, execution, data.device, matching.layers)
    fractions = torch.tensor(
        pending(config.mom_img, len(labels)) if by_class else [0.0] * len(labels), device=data.device
    )
    return Setup(
        data=data,
        pool=pool,
        config=config,
        labels=labels,
        rows=[matched_rows(data, label, config, pool) for label in labels],
        module=module,
        gradients=gradients,
        sweep=Sweep(gradients, data, given=config.match == "pairs"),
        calibration=calibration,
        image_optimizer=optimizer,
        ahead=ahead,
        move=move,
        network_training=NetworkTraining(gradients, data),
        trajectory=trajectory,
        draws_subset=decoded_count(config.ipc, config.factor, config.decode_type) > config.batch_syn_max,
        pending=fractions.view(-1, 1, 1, 1, 1),
    )


def matched_rows(data: ImageData, label: int, config: CondenseConfig, pool: Pool) -> Tensor:
    """Rows of the real images of a class that are matched: all, or the easiest or hardest by EL2N (PAD section 3.1)."""
    rows = data.rows(label)
    if config.keep is None:
        return rows
    side, share = choices.keep_share(config.keep)
    order = difficulty("el2n", data, label, pool).argsort(stable=True, descending=side == "hardest")
    return rows[order[: max(1, round(share * len(rows)))]]


def check_pool(pool: Pool, data: ImageData, config: CondenseConfig) -> None:
    """Raise `UserError` when a pool does not fit the data or the settings."""
    pool.check(data)
    if not config.takes_pool:
        if len(pool):
            raise UserError(
                "network_init fresh takes no early-stage models; leave the pool out, or ask for network_init pool"
            )
        return
    if not len(pool):
        raise UserError("the pool is empty; `attar pretrain` fills it")
    if config.network_init == "interpolated" and any("seed" not in member.settings for member in pool.members):
        raise UserError("network_init interpolated needs models that know their seed; `attar pretrain` trains some")
    for member in pool.members if config.network_init == "epoch" else ():
        if not member.points:
            raise UserError(
                f"{member.name} keeps no epochs, and network_init epoch needs them; `attar pretrain --keep_epochs` "
                f"keeps them"
            )
    for member in pool.members if config.match == "trajectory" else ():
        check_kept(member.name, member.points - 1, config)


def check_kept(name: str, last: int, config: CondenseConfig) -> None:
    """Raise `UserError` where a model keeps its epochs only to `last` (-1: none), and trajectories need more."""
    if config.match == "trajectory" and last < config.last_epoch:
        has = f"keeps epochs 0 to {last}" if last >= 0 else "keeps no epochs"
        raise UserError(
            f"{name} {has}, and match trajectory needs those to {config.last_epoch} (max_start_epoch - 1 + "
            f"expert_epochs); `attar pretrain --keep_epochs --pt_from {config.last_epoch}` keeps them"
        )


def check_planned(pool: PoolConfig, config: CondenseConfig) -> None:
    """Raise `UserError` where the models that are to be trained keep too few epochs."""
    check_kept("a pool of such models", pool.epochs if pool.keep_epochs else -1, config)


def image_optimizer(data: ImageData, config: CondenseConfig, classes: int) -> ImageOptimizer:
    """The images' optimiser: one step per sweep. With `img_step` class it equals the published steps per class."""
    lr = config.lr_img
    if config.lr_scaled:
        lr = effective_lr(lr, config.ipc, data.size[0], config.base_size or data.size[0])
    turns = classes if config.img_step == "class" else 1
    momentum, step_scale = sweep_factors(config.mom_img, turns)
    mean, std = (torch.tensor(value, device=data.device).view(-1, 1, 1) for value in (data.mean, data.std))
    normalized = config.img_space == "normalized"
    return ImageOptimizer(
        lr=lr,
        momentum=momentum,
        step_scale=step_scale,
        optimizer=config.img_optim,
        decay=config.wd_img,
        turns=turns if config.img_optim == "adamw" else 1,
        mean=mean if normalized else None,
        std=std if normalized else None,
        patience=config.patience,
        whitening=data.whitening if normalized else None,
    )


def choose_execution(
    module: Network, data: ImageData, labels: list[int], config: CondenseConfig, began: Began | None = None
) -> Execution:
    """Precision, compilation and number of classes at once. Raises `UserError` if the device does not support them."""
    check_precision(config.precision, data.device)
    set_matmul_precision(config.precision, data.device)
    if config.match == "trajectory":  # a student's steps come one after another, and are not compiled
        return Execution(config.precision)
    decoded = min(decoded_count(config.ipc, config.factor, config.decode_type), config.batch_syn_max)
    per_class = class_bytes(module, data.channels, data.size, config.batch_real + decoded)
    chunk = choose_chunk(per_class, len(labels), data.device, config.memory_gb)
    if began:  # unless the budget is smaller now
        chunk = began.chunk if config.memory_gb is None else min(began.chunk, chunk)
    if chunk > 1:
        memory = size_in_words(chunk * per_class)
        say_once(f"{chunk} of {counted(len(labels), 'class')} are computed at once, with about {memory}")
    shapes = {min(config.batch_real, data.counts[label]) for label in labels}
    if began and config.compile == "auto":
        compiled = began.compiled
    else:
        calls = serial_steps(config, len(labels), data.device)
        compiled = worth_compiling(config.compile, calls, per_class, data.device)
    if compiled and len(shapes) > MAX_COMPILED_SHAPES:
        line = f"the real batches of the classes have {len(shapes)} sizes, too many to compile; going on without it"
        say_once(line, logging.WARNING)
        compiled = False
    if compiled:
        say_once("the sweep is compiled at the first iteration: half a minute or more, once per shape")
    threads = side_by_side(per_class, config.memory_gb)
    return Execution(config.precision, compiled, chunk, threads, per_class)


def serial_steps(config: CondenseConfig, classes: int, device: torch.device) -> int:
    """How many class gradients each thread of a run computes, one after another."""
    return config.outer_iterations * config.inner_loop * -(-classes // ThreadWorkers(device).count)


def check_data(data: ImageData, config: CondenseConfig) -> list[int]:
    """The labels of the classes to condense. Raises `UserError` when the settings do not fit the data."""
    check_factor(config.factor, data.size)
    if data.whitening is not None and config.img_space == "normalized" and config.img_optim == "adamw":
        raise UserError("adamw cannot step in whitened pixels (zca): ask for img_optim sgd, or img_space unit")
    # not checked in the config, because without a recipe `batch_real` is derived from the data
    if config.select_from is not None and config.select_from < config.batch_real:
        raise UserError(f"select_from ({config.select_from}) must not be below batch_real ({config.batch_real})")
    labels = condensed_labels(data.classes, config)
    check_ipc(data.classes, data.counts, labels, config.ipc)
    return labels
