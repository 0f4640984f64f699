"""What stays fixed in a condensation run: data, pool, settings, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attar.augment import Draw
from attar.config import CondenseConfig
from attar.data import ImageData
from attar.engine import Execution, NetworkGradients, Sweep, choose_chunk, class_bytes, side_by_side
from attar.errors import UserError
from attar.execution import (
    Notice,
    Record,
    Replayed,
    Workers,
    check_precision,
    once,
    set_matmul_precision,
    worth_compiling,
)
from attar.loop import BatchDraw, Trainer, make_batch
from attar.matching import Matching
from attar.models import Network
from attar.motion import Rule
from attar.partition import labels_of
from attar.pool import Pool
from attar.synthetic import check_factor, decoded_count, effective_lr, pending, sweep_factors
from attar.training import Learner

MOST_SHAPES = 4  # sizes of the classes' real batches; each one is compiled for itself


@dataclass(frozen=True, eq=False)
class Problem:
    """What stays fixed: data, pool, settings, and what follows from them."""

    data: ImageData
    pool: Pool
    config: CondenseConfig
    labels: list[int]  # global labels of the classes that are condensed
    module: Network
    sweep: Sweep
    run_sweep: Callable[..., tuple[Tensor, ...]]  # the sweep from rows of real images
    calibrate: Callable[..., tuple[Tensor, ...]] | None  # the gradient of a trained network's cross-entropy
    rule: Rule  # how the images move
    train: Callable[[Learner, Iterable[BatchDraw]], None]  # steps of the network
    subset: bool  # a class decodes to more images than a matching step takes
    pending: Tensor  # [C, 1, 1, 1, 1], see `synthetic.pending`

    @property
    def features(self) -> int:
        """How many features the networks' last layer sees."""
        return self.module.classifier.in_features

    def spent(self, inner: int) -> bool:
        """Whether a network has served its last sweep after `inner` sweeps of an outer iteration."""
        renew = self.config.renew
        return inner == self.config.inner_loop or (renew is not None and inner % renew == 0)


def prepare(data: ImageData, pool: Pool, config: CondenseConfig, notice: Notice = lambda line: None) -> Problem:
    """Check that data, pool, settings and device fit together. Raises `UserError`; `notice` gets one line at a time."""
    labels = check(data, config)
    if config.nclass_sub is not None and config.phase is None:
        raise UserError("nclass_sub without a phase means all parts, and one is condensed at a time; name a phase")
    check_pool(pool, data, config)
    module = pool.build(seed=0).to(data.device)
    matching = Matching(
        metric=config.metric,
        match=config.match,
        bias=config.bias,
        fc=config.fc,
        factor=config.factor,
        decode_type=config.decode_type,
    )
    execution = choose_execution(module, data, labels, config, notice)
    rows = torch.tensor(labels, device=data.device)
    ascends = config.match == "ncf" and config.sampler == "network"
    sweep = Sweep(module, matching, data.normalize, rows, execution, ascends=ascends)
    calibrate = None
    if config.calibrate:
        labelled = Sweep(module, replace(matching, match="label"), data.normalize, rows, execution)
        calibrate = without_real(labelled, data, notice)
    by_class = config.img_step == "class"
    shares = torch.tensor(pending(config.mom_img, len(labels)) if by_class else [0.0] * len(labels), device=data.device)
    return Problem(
        data=data,
        pool=pool,
        config=config,
        labels=labels,
        module=module,
        sweep=sweep,
        run_sweep=sweep_from_rows(sweep, data, notice),
        calibrate=calibrate,
        rule=rule_of(data, config, len(labels)),
        train=network_training(sweep, data, config, notice),
        subset=decoded_count(config.ipc, config.factor, config.decode_type) > config.batch_syn_max,
        pending=shares.view(-1, 1, 1, 1, 1),
    )


def check_pool(pool: Pool, data: ImageData, config: CondenseConfig) -> None:
    """Raise `UserError` when a pool is not what the networks are taken from."""
    pool.check(data)
    if config.source == "fresh":
        if len(pool):
            raise UserError("source fresh takes no early-stage models; leave the pool out, or ask for source pool")
        return
    if not len(pool):
        raise UserError("the pool is empty; `attar pretrain` fills it")
    if config.source == "interpolated" and any("seed" not in member.settings for member in pool.members):
        raise UserError("source interpolated needs models that know their seed; `attar pretrain` trains some")


def rule_of(data: ImageData, config: CondenseConfig, classes: int) -> Rule:
    """How the images move: a step of the whole sweep, or the published steps after each class in one."""
    lr = config.lr_img
    if config.lr_scaled:
        lr = effective_lr(lr, config.ipc, data.size[0], config.base_size or data.size[0])
    momentum, reach = sweep_factors(config.mom_img, classes if config.img_step == "class" else 1)
    mean, std = (torch.tensor(value, device=data.device).view(-1, 1, 1) for value in (data.mean, data.std))
    normalized = config.img_space == "normalized"
    return Rule(
        lr=lr,
        momentum=momentum,
        reach=reach,
        optimizer=config.img_optim,
        mean=mean if normalized else None,
        std=std if normalized else None,
        patience=config.patience,
    )


def choose_execution(
    module: Network, data: ImageData, labels: list[int], config: CondenseConfig, notice: Notice
) -> Execution:
    """Precision, compilation and classes at once. Raises `UserError` where the device cannot do what is asked for."""
    notice = once(notice)
    warning = check_precision(config.precision, data.device)
    if warning:
        notice(warning)
    set_matmul_precision(config.precision, data.device)
    decoded = min(decoded_count(config.ipc, config.factor, config.decode_type), config.batch_syn_max)
    per_class = class_bytes(module, data.channels, data.size, config.batch_real + decoded)
    chunk = choose_chunk(per_class, len(labels), data.device, config.memory_gb)
    if chunk > 1:
        notice(f"{chunk} of {len(labels)} classes are computed at once, with about {chunk * per_class / 1e9:.2g} GB")
    shapes = {min(config.batch_real, data.counts[label]) for label in labels}
    compiled = worth_compiling(config.compile, turns(config, len(labels), data.device), per_class, data.device)
    if compiled and len(shapes) > MOST_SHAPES:
        notice(f"the real batches of the classes have {len(shapes)} sizes, too many to compile; going on without it")
        compiled = False
    if compiled:
        notice("the sweep is compiled at the first iteration: half a minute or more, once per shape")
    most = side_by_side(per_class, config.memory_gb)
    return Execution(config.precision, compiled, chunk, most, per_class, notice)


def turns(config: CondenseConfig, classes: int, device: torch.device) -> int:
    """How many steps of a class a run makes one after another."""
    return config.outer_iterations * config.inner_loop * -(-classes // Workers(device).count)


def sweep_from_rows(sweep: Sweep, data: ImageData, notice: Notice) -> Callable[..., tuple[Tensor, ...]]:
    """The sweep as a function of row numbers [n_c] per class; on a GPU recorded once and replayed.

    Images that are not on the GPU are moved there before a replay, as bytes.
    """

    resident = data.device.type != "cuda" or isinstance(data.images, Tensor)
    make = data.fetch if resident else data.scaled

    def from_sources(
        images: Tensor,
        params: dict[str, Tensor],
        sources: list[Tensor],
        draws: Draw,
        subsets: list[Tensor] | None,
        frequencies: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return sweep(images, params, Lazily(make, sources), draws, subsets, frequencies)

    if data.device.type != "cuda":
        return from_sources
    replayed = Replayed(from_sources, notice, smaller=sweep.halve)
    return replayed if resident else moved_first(data, replayed)


def without_real(sweep: Sweep, data: ImageData, notice: Notice) -> Callable[..., tuple[Tensor, ...]]:
    """A sweep that looks at no real images, as a function of images, parameters, draws and subsets."""

    def alone(
        images: Tensor, params: dict[str, Tensor], draws: Draw, subsets: list[Tensor] | None
    ) -> tuple[Tensor, ...]:
        blank = torch.zeros_like(images[0, :1])
        return sweep(images, params, [blank] * len(images), draws, subsets)

    return Replayed(alone, notice, smaller=sweep.halve) if data.device.type == "cuda" else alone


def moved_first(data: ImageData, replayed: Callable[..., Any]) -> Callable[..., Any]:
    """`replayed` of uint8 batches as a function of row numbers: a recording cannot read a file."""

    def from_rows(images: Tensor, params: dict[str, Tensor], rows: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
        return replayed(images, params, [data.images[own] for own in rows], *rest)

    return from_rows


class Lazily(Sequence[Tensor]):
    """Real batches that are made when a class's turn comes, so that memory does not grow with the classes."""

    def __init__(self, make: Callable[[Tensor], Tensor], sources: list[Tensor]) -> None:
        self.make, self.sources = make, sources

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: Any) -> Any:
        return self.make(self.sources[index])


def network_training(
    sweep: Sweep, data: ImageData, config: CondenseConfig, notice: Notice, record: Record | None = None
) -> Callable[[Learner, Iterable[BatchDraw]], None]:
    """The steps of the network update; on a GPU recorded for the learner, which keeps its memory during a run.

    record: as for `Trainer`.
    """
    running = any(True for _ in sweep.module.buffers())  # batch statistics: neither split nor functional
    gradients = None if running else NetworkGradients(sweep.module, sweep.execution, sweep.workers)
    make = partial(make_batch, data)
    trainers: dict[int, Trainer] = {}  # a recording writes to its learner's own memory

    def train(student: Learner, batches: Iterable[BatchDraw]) -> None:
        if id(student) not in trainers:
            trainers[id(student)] = Trainer(student, make, gradients=gradients, notice=notice, record=record)
        trainers[id(student)](batches)

    return train


def check(data: ImageData, config: CondenseConfig) -> list[int]:
    """The labels that will be condensed. Raises `UserError` when the data cannot give what the settings ask for."""
    check_factor(config.factor, data.size)
    # Here, not in the config: batches for data of one's own follow from their shape.
    if config.select_from is not None and config.select_from < config.batch_real:
        raise UserError(f"select_from ({config.select_from}) must not be below batch_real ({config.batch_real})")
    labels = labels_of(data.nclass, config.nclass_sub, config.phase)
    for label in labels:
        if data.counts[label] < config.ipc:
            name, count = data.classes[label], data.counts[label]
            raise UserError(f"class '{name}' has {count} images, fewer than ipc {config.ipc}")
    return labels
