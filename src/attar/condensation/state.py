"""The state of a condensation: everything that changes while it runs; its initial value, saving and restoring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor

from attar.condensation import experts, image_step
from attar.condensation.initial import initial_images
from attar.condensation.setup import Began, Setup
from attar.data.images import ImageData
from attar.errors import Diverged, UserError, log
from attar.models.for_data import scale_of
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import with_role
from attar.settings.schema import settings_of
from attar.training import train_state
from attar.training.batches import BatchSampler
from attar.training.pool import Pool
from attar.training.train_state import TrainState

# Fields that are saved unchanged
COUNTERS = ("outer", "inner", "skipped", "evaluated", "events", "seconds", "epoch")
IMAGE_TENSORS = ("images", "momentum", "initial")
EXPLODED = 1000  # times its start, or 0.01 where that is lower: a learned learning rate that no student can use

SavedState = dict[str, Any]  # tensors and plain values in dicts and lists


@dataclass
class State:
    """The state of a run between two inner iterations."""

    images: Tensor  # float32 [C, ipc, ch, H, W]
    momentum: Tensor  # same shape
    initial: Tensor  # same shape: the images before the first iteration
    network: TrainState | None  # None before the first outer iteration
    samplers: list[BatchSampler]  # one per condensed class
    update_sampler: BatchSampler  # all real rows, for the network update
    experts: BatchSampler  # indices of the pool's members, where trajectories are matched
    generator: Generator  # on the data's device
    cpu_generator: Generator  # on the CPU, for seeds and members of the pool
    outer: int = 0  # finished outer iterations
    inner: int = 0  # finished inner iterations of the current outer one
    skipped: int = 0  # inner iterations of the finished outer ones that moved nothing (`threshold`)
    losses: list[Tensor] = field(default_factory=list)  # of the current outer iteration, scalars
    epoch: int = 0  # of the pool's member, where the network is a point on a trajectory
    member: int = -1  # index of the pool's member that the network comes from; -1: none
    optimizer: image_step.OptimizerState = field(default_factory=dict)  # of the images, besides the momentum
    evaluated: int = -1  # the last outer iteration with an evaluation
    events: int = 0  # lines written to metrics.jsonl
    seconds: float = 0.0  # of all sessions
    # per class: rows of the last clustering (DREAM), or the crops in its cells, uint8 [n, ch, H, W] (CIM)
    picks: list[Tensor] = field(default_factory=list)
    mean: Tensor | None = None  # of the images over the sweeps, if it is the product
    learned: dict[str, Tensor] = field(default_factory=dict)  # beside the images: "lr", "logits", and their momenta

    @property
    def lr(self) -> float | None:
        """The learned learning rate, read from the device; None where none is learned."""
        return float(self.learned["lr"]) if "lr" in self.learned else None


def init(setup: Setup, images: Tensor | None = None) -> State:
    """The state before the first iteration. Without `images` the initial images are made as the setting `init` says."""
    data, config = setup.data, setup.config
    generator = Generator(data.device).manual_seed(config.seed)
    cpu_generator = Generator().manual_seed(config.seed)
    images, crops = initial_images(setup, generator) if images is None else (images, [])
    return State(
        images=images,
        momentum=torch.zeros_like(images),
        initial=images.clone(),
        network=None,
        samplers=[BatchSampler(rows, config.batch_real, generator) for rows in setup.rows],
        update_sampler=BatchSampler(torch.arange(len(data.labels), device=data.device), config.batch_size, generator),
        experts=BatchSampler(torch.arange(len(setup.pool)), 1, cpu_generator),
        generator=generator,
        cpu_generator=cpu_generator,
        optimizer=image_step.start(images, setup.image_optimizer),
        picks=crops,
        learned=start_learned(setup, images),
    )


def start_learned(setup: Setup, images: Tensor) -> dict[str, Tensor]:
    """What is learned beside the images before the first iteration: the students' learning rate, and labels if set."""
    if setup.trajectory is None:
        return {}
    learned = {"lr": images.new_tensor(setup.config.lr_teacher)}
    if setup.config.lr_y:
        learned["logits"] = experts.mean_logits(setup, images)
    return learned | {f"{name}_momentum": torch.zeros_like(value) for name, value in learned.items()}


def start_network(setup: Setup, params: dict[str, Tensor], buffers: dict[str, Tensor]) -> TrainState:
    """The network of the sweeps with its optimiser, for the network update."""
    config = setup.config
    return train_state.start_training(
        setup.module, params, buffers, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def check_finite(state: State, config: CondenseConfig, pool: Pool | None = None) -> None:
    """Raise `Diverged` when a loss or an image is not finite, `UserError` where experts that stand still are why."""
    try:
        _check_finite(state, config)
    except Diverged:
        for expert in pool.members if pool is not None and "lr" in state.learned else ():
            experts.check_moved(expert, config)
        raise


def _check_finite(state: State, config: CondenseConfig) -> None:
    rates = f"lower the learning rate of the images or the network (lr_img is {config.lr_img}, lr is {config.lr})"
    if "lr" in state.learned:
        rates = f"lower the learning rate of the images or of the learned rate (lr_img is {config.lr_img}, lr_lr is "
        rates += f"{config.lr_lr:g})"
    params = [] if state.network is None else list(state.network.params.values())
    kinds = {"images": [state.images, state.momentum]} | ({"network's weights": params} if params else {})
    whole = [torch.stack([value.isfinite().all() for value in tensors]).all() for tensors in kinds.values()]
    learned = [state.learned["lr"]] if "lr" in state.learned else []
    read = iter(torch.stack([*learned, *state.losses, *whole]).tolist())  # at once: a GPU waits for each reading
    limit = EXPLODED * max(0.01, config.lr_teacher)
    for rate in islice(read, len(learned)):
        if not 0 < rate < limit:
            raise Diverged(f"the learned learning rate is {rate:g}, and must stay above 0 and below {limit:g}; {rates}")
    for loss in islice(read, len(state.losses)):
        if not math.isfinite(loss):
            raise Diverged(f"the matching loss is {loss}; {rates}")
    for kind, is_finite in zip(kinds, read, strict=True):
        if not is_finite:
            raise Diverged(f"the {kind} are no longer finite; {rates}")


def snapshot(state: State, setup: Setup) -> SavedState:
    """A state as tensors and plain values, with what it belongs to. Raises `Diverged` when it is not finite."""
    check_finite(state, setup.config)
    return {
        "belongs_to": belongs_to(setup),
        "config": settings_of(setup.config),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: getattr(state, name) for name in (*COUNTERS, *IMAGE_TENSORS)},
        "compiled": setup.gradients.execution.compiled,
        "chunk": setup.gradients.chunk,
        "picks": state.picks,
        "losses": torch.stack(state.losses) if state.losses else torch.empty(0),
        "generator": state.generator.get_state(),
        "cpu_generator": state.cpu_generator.get_state(),
        "samplers": [
            {"order": sampler.order, "next": sampler.next}
            for sampler in (*state.samplers, state.update_sampler, state.experts)
        ],
        "network": network_tensors(state.network),
        "member": state.member,
        "optimizer": state.optimizer,
        "mean": state.mean,
        "learned": state.learned,
    }


def network_tensors(model: TrainState | None) -> dict[str, dict[str, Tensor]] | None:
    """All tensors of a network under training and of its optimiser."""
    if model is None:
        return None
    return {"params": model.params, "buffers": model.buffers, "optimizer": train_state.optimizer_state(model)}


def belongs_to(setup: Setup) -> dict[str, Any]:
    """The data, their scale, classes, pool and kind of device that a state belongs to."""
    return {
        "data": setup.data.fingerprint,
        **scale_of(setup.data.mean, setup.data.std),
        "classes": setup.labels,
        "pool": [member.digest for member in setup.pool.members],
        "device": setup.data.device.type,
    }


def restore(values: SavedState, setup: Setup) -> State:
    """The state from a `snapshot`. Raises `UserError` when it does not fit the setup."""
    with _malformed_checkpoint():
        check_same(values, setup)
        state = _rebuild_state(values, setup)
    for name, now in (("threads", torch.get_num_threads()), ("torch", torch.__version__)):
        if values[name] != now:
            change = f"the run began with {name} {values[name]} and goes on with {name} {now}"
            log.warning("%s: its images may differ in rounding from those of an uninterrupted run", change)
    return state


def check_images(values: SavedState, data: ImageData) -> None:
    """Raise `UserError` when a state belongs to other training images: before anything is computed or written."""
    before = values.get("belongs_to", {})
    for name, now in {"data": data.fingerprint, **scale_of(data.mean, data.std)}.items():
        if (then := before.get(name, now)) != now:
            what = "other training images (fingerprint" if name == "data" else f"images at another scale ({name}"
            raise UserError(
                f"the checkpoint was made for {what} {then}) than {data.name} has now ({now}); go on with what the run "
                f"began with"
            )


def check_same(values: SavedState, setup: Setup) -> None:
    """Raise `UserError` when a saved state belongs to other settings, data, pool or another kind of device."""
    config = settings_of(setup.config)
    changeable = with_role("condense", "length", "speed", "place", "scope")  # the pool is compared by its digests
    for name, saved in values["config"].items():
        if name not in changeable and config.get(name) != saved:
            raise UserError(f"the checkpoint was made with {name} {saved}, not {config.get(name)}")
    now = belongs_to(setup)
    differences = {
        "data": "for other training images",
        **dict.fromkeys(("mean", "std"), "for images at another scale"),
        "classes": "for other classes",
        "pool": "with another pool",
        "device": f"on another kind of device ({values['belongs_to']['device']}, not {now['device']})",
    }
    for name, saved in values["belongs_to"].items():
        if now[name] != saved:
            raise UserError(f"the checkpoint was made {differences[name]}; go on with what the run began with")
    if values["outer"] > setup.config.outer_iterations:
        raise UserError(
            f"the run has {values['outer']} outer iterations already, more than {setup.config.outer_iterations}"
        )


def _rebuild_state(values: SavedState, setup: Setup) -> State:
    data, device = setup.data, setup.data.device
    shape = (len(setup.labels), setup.config.ipc, data.channels, *data.size)
    state = init(setup, values["images"].to(device))
    for name in COUNTERS:
        if not isinstance(values[name], type(getattr(state, name))):
            raise ValueError(f"{name} is {values[name]!r}")
        setattr(state, name, values[name])
    for name in IMAGE_TENSORS:
        if values[name].shape != shape:
            raise ValueError(f"{name} of shape {list(values[name].shape)}")
        setattr(state, name, values[name].to(device))
    state.losses = list(values["losses"].to(device))
    state.picks = [rows.to(device) for rows in values["picks"]]
    has_picks = setup.config.match == "pairs" or (setup.config.select == "cluster" and state.inner)
    if has_picks and len(state.picks) != len(setup.labels):
        raise ValueError(f"picks of {len(state.picks)} classes")
    state.generator.set_state(values["generator"])
    state.cpu_generator.set_state(values["cpu_generator"])
    for sampler, saved in zip((*state.samplers, state.update_sampler, state.experts), values["samplers"], strict=True):
        sampler.restore(saved["order"], saved["next"])
    if values["network"] is not None:
        tensors = _to_device(values["network"], device)
        state.network = start_network(setup, tensors["params"], tensors["buffers"])
        train_state.restore_optimizer(state.network, tensors["optimizer"])
    state.member = values["member"]
    if state.member not in range(-1, len(setup.pool)):
        raise ValueError(f"member {state.member} of a pool of {len(setup.pool)}")
    for name, value in values["optimizer"].items():
        if state.optimizer[name].shape != value.shape:
            raise ValueError(f"{name} of shape {list(value.shape)}")
        state.optimizer[name] = value.to(device)
    for name, value in values["learned"].items():
        if state.learned[name].shape != value.shape:
            raise ValueError(f"{name} of shape {list(value.shape)}")
        state.learned[name] = value.to(device)
    if setup.config.averaging_power and (state.outer or state.inner):
        if values["mean"].shape != shape:
            raise ValueError(f"mean of shape {list(values['mean'].shape)}")
        state.mean = values["mean"].to(device)
    return state


def _to_device(saved: SavedState, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The tensors of a saved network on a device: params, buffers and optimizer."""
    return {kind: {name: value.to(device) for name, value in tensors.items()} for kind, tensors in saved.items()}


def how_it_began(values: SavedState | None) -> Began | None:
    """How the saved run was computed; None without a saved state. Raises `UserError` for a damaged one."""
    with _malformed_checkpoint():
        if values is None:
            return None
        if (chunk := int(values["chunk"])) < 1:
            raise ValueError(f"{chunk} classes at once")
        return Began(bool(values["compiled"]), chunk)


@contextmanager
def _malformed_checkpoint() -> Iterator[None]:
    """Turn errors in the block into a `UserError`: a checkpoint whose checksums are right has the wrong content."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the checkpoint is no state of this run ({type(error).__name__}: {error})") from error
