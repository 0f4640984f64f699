"""The state of a condensation: everything that changes while it runs, how it begins, and how it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from attar.condensation import frequencies, image_step
from attar.condensation.setup import Problem, turns
from attar.data.images import ImageData
from attar.engine.compile import worth_compiling
from attar.engine.precision import Notice
from attar.errors import Diverged, UserError
from attar.selection.embeddings import Embed, by_network, pixels, representatives
from attar.sets.decode import mix, noise
from attar.settings.config import CondenseConfig
from attar.settings.schema import replace, settings_of
from attar.training import train_state
from attar.training.batches import Deck
from attar.training.train_state import Learner

# Settings that may change when a run goes on: how long it is, and what does not touch its numbers. `compile` is what
# `as_begun` makes of it, and the pool is known by its content.
FREE = ("niter", "speedup", "full_niter", "memory_gb", "model_path", "compile")
# Fields that are kept as they are.
PLAIN = ("outer", "inner", "evaluated", "events", "seconds")
TENSORS = ("images", "momentum", "initial")


@dataclass
class State:
    """A run between two inner iterations."""

    images: Tensor  # float32 [C, ipc, ch, H, W]
    momentum: Tensor  # same shape
    initial: Tensor  # same shape: the images before the first iteration
    network: Learner | None  # None before the first outer iteration
    decks: list[Deck]  # one per condensed class
    update_deck: Deck  # all real rows, for the network update
    generator: Generator  # on the data's device
    host: Generator  # on the CPU: which member of the pool is next
    outer: int = 0  # finished outer iterations
    inner: int = 0  # finished inner iterations of the current outer one
    losses: list[Tensor] = field(default_factory=list)  # of the current outer iteration, scalars
    member: int = -1  # of the pool, that the network comes from
    motion: image_step.Kept = field(default_factory=dict)  # what moving the images remembers besides the momentum
    sampler: Learner | None = None  # ψ, where frequencies are trained
    evaluated: int = -1  # the last outer iteration with an evaluation
    events: int = 0  # told so far: lines of metrics.jsonl
    seconds: float = 0.0  # so far, over all sessions
    picks: list[Tensor] = field(default_factory=list)  # rows of each class's last clustering
    mean: Tensor | None = None  # of the images over the sweeps, same shape, where it is the product


def init(problem: Problem, images: Tensor | None = None) -> State:
    """The state before the first iteration: initial images (unless they are known), no momentum, fresh decks."""
    data, config = problem.data, problem.config
    generator = Generator(data.device).manual_seed(config.seed)
    host = Generator().manual_seed(config.seed)
    if images is None:
        embed = first_embedding(problem) if config.select == "cluster" else None
        images = torch.stack([initial_images(data, label, config, generator, embed) for label in problem.labels])
    return State(
        images=images,
        momentum=torch.zeros_like(images),
        initial=images.clone(),
        network=None,
        decks=[Deck(data.rows(label), config.batch_real, generator) for label in problem.labels],
        update_deck=Deck(torch.arange(len(data.labels), device=data.device), config.batch_size, generator),
        generator=generator,
        host=host,
        motion=image_step.start(images, problem.rule),
        sampler=start_sampler(problem) if problem.sweep.ascends else None,
    )


def first_embedding(problem: Problem) -> Embed:
    """By the model of the pool that the run draws first, as it was trained; by pixels where there is no pool."""
    if not len(problem.pool):
        return pixels
    member = problem.pool.draw(Generator().manual_seed(problem.config.seed))
    params, buffers = (
        {name: value.to(problem.data.device) for name, value in own.items()} for own in (member.params, member.buffers)
    )
    return by_network(problem.module, params, buffers, problem.config.precision)


def initial_images(
    data: ImageData, label: int, config: CondenseConfig, generator: Generator, embed: Embed | None = None
) -> Tensor:
    """[ipc, ch, H, W] in [0, 1]: noise, real images, or grids of real images, drawn at random without replacement.

    A class with fewer images than cells gives them again in a new order. embed: representatives of as many clusters as
    there are cells instead, given again in the same order where there are too few (DREAM).
    """
    if config.init == "noise":
        return noise(config.ipc, data.channels, data.size, generator)
    factor = config.factor if config.init == "mix" else 1
    count = config.ipc * factor**2
    if embed is None:
        deck = Deck(data.rows(label), 1, generator)
        rows = torch.cat([deck.draw() for _ in range(count)])
    else:
        rows = representatives(data, label, count, embed, generator, config.select_from)
        rows = rows.repeat(-(-count // len(rows)))[:count]
    return mix(data.images[rows].float() / 255, factor)


def start_sampler(problem: Problem) -> Learner:
    """The network that frequencies come from, with its optimiser."""
    config = problem.config
    return frequencies.sampler(problem.features, config.sampler_lr, config.seed, problem.data.device)


def start_network(problem: Problem, params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Learner:
    """The network that is trained along, with its optimiser."""
    config = problem.config
    return train_state.learner(
        problem.module, params, buffers, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def check_finite(state: State, config: CondenseConfig) -> None:
    """Raise `Diverged` when a loss or an image is not finite."""
    rates = f"lower the learning rate of the images or the network (lr_img is {config.lr_img}, lr is {config.lr})"
    for loss in torch.stack(state.losses).tolist() if state.losses else []:
        if not math.isfinite(loss):
            raise Diverged(f"the matching loss is {loss}; {rates}")
    params = state.network.params.values() if state.network is not None else ()
    for what, values in (("images", (state.images, state.momentum)), ("network's weights", params)):
        if not all(bool(value.isfinite().all()) for value in values):
            raise Diverged(f"the {what} are no longer finite; {rates}")


def snapshot(state: State, problem: Problem) -> Values:
    """All of a state, and what it belongs to. Raises `Diverged` for one that is not finite."""
    check_finite(state, problem.config)
    return {
        "belongs_to": belongs_to(problem),
        "config": settings_of(problem.config),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: getattr(state, name) for name in (*PLAIN, *TENSORS)},
        "compiled": problem.sweep.execution.compiled,
        "class_bytes": problem.sweep.execution.class_bytes,
        "picks": state.picks,
        "losses": torch.stack(state.losses) if state.losses else torch.empty(0),
        "generator": state.generator.get_state(),
        "host": state.host.get_state(),
        "decks": [{"order": deck.order, "next": deck.next} for deck in (*state.decks, state.update_deck)],
        "network": learned(state.network),
        "member": state.member,
        "motion": state.motion,
        "mean": state.mean,
        "sampler": learned(state.sampler),
    }


def learned(student: Learner | None) -> dict[str, dict[str, Tensor]] | None:
    """All tensors of a network under training."""
    if student is None:
        return None
    return {"params": student.params, "buffers": student.buffers, "optimizer": train_state.optimizer_state(student)}


def belongs_to(problem: Problem) -> dict[str, Any]:
    """The images, classes, models and kind of device that a state belongs to."""
    return {
        "data": problem.data.fingerprint,
        "classes": problem.labels,
        "pool": [member.digest for member in problem.pool.members],
        "device": problem.data.device.type,
    }


def restore(values: Values, problem: Problem, notice: Notice) -> State:
    """The state that `snapshot` kept. Raises `UserError` when it does not fit the problem."""
    with _reading():
        check_same(values, problem)
        state = _restored(values, problem)
    for name, now in (("threads", torch.get_num_threads()), ("torch", torch.__version__)):
        if values[name] != now:
            words = f"the run began with {name} {values[name]} and goes on with {name} {now}"
            notice(f"{words}: its images may differ in rounding from those of an uninterrupted run")
    return state


def check_same(values: Values, problem: Problem) -> None:
    """Raise `UserError` when a state belongs to other settings, images, models or another kind of device."""
    config = settings_of(problem.config)
    for name, kept in values["config"].items():
        if name not in FREE and config.get(name) != kept:
            raise UserError(f"the checkpoint was made with {name} {kept}, not {config.get(name)}")
    now = belongs_to(problem)
    words = {
        "data": "for other training images",
        "classes": "for other classes",
        "pool": "with another pool",
        "device": f"on another kind of device ({values['belongs_to']['device']}, not {now['device']})",
    }
    for name, kept in values["belongs_to"].items():
        if now[name] != kept:
            raise UserError(f"the checkpoint was made {words[name]}; go on with what the run began with")
    if values["outer"] > problem.config.outer_iterations:
        raise UserError(
            f"the run has {values['outer']} outer iterations already, more than {problem.config.outer_iterations}"
        )


def _restored(values: Values, problem: Problem) -> State:
    data, device = problem.data, problem.data.device
    shape = (len(problem.labels), problem.config.ipc, data.channels, *data.size)
    state = init(problem, values["images"].to(device))
    for name in PLAIN:
        setattr(state, name, values[name])
    for name in TENSORS:
        if values[name].shape != shape:
            raise ValueError(f"{name} of shape {list(values[name].shape)}")
        setattr(state, name, values[name].to(device))
    state.losses = list(values["losses"].to(device))
    state.picks = [rows.to(device) for rows in values["picks"]]
    if problem.config.select == "cluster" and state.inner and len(state.picks) != len(problem.labels):
        raise ValueError(f"picks of {len(state.picks)} classes")
    state.generator.set_state(values["generator"])
    state.host.set_state(values["host"])
    for deck, kept in zip((*state.decks, state.update_deck), values["decks"], strict=True):
        deck.restore(kept["order"], kept["next"])
    if values["network"] is not None:
        parts = _parts(values["network"], device)
        state.network = start_network(problem, parts["params"], parts["buffers"])
        train_state.restore_optimizer(state.network, parts["optimizer"])
    state.member = values.get("member", -1)
    if state.member not in range(-1, len(problem.pool)):
        raise ValueError(f"member {state.member} of a pool of {len(problem.pool)}")
    for name, value in values.get("motion", {}).items():
        if state.motion[name].shape != value.shape:
            raise ValueError(f"{name} of shape {list(value.shape)}")
        state.motion[name] = value.to(device)
    if problem.config.average and (state.outer or state.inner):
        if values["mean"].shape != shape:
            raise ValueError(f"mean of shape {list(values['mean'].shape)}")
        state.mean = values["mean"].to(device)
    if state.sampler is not None:
        parts = _parts(values["sampler"], device)
        train_state.reset(state.sampler, parts["params"], {})
        train_state.restore_optimizer(state.sampler, parts["optimizer"])
    return state


def _parts(kept: Values, device: torch.device) -> dict[str, dict[str, Tensor]]:
    return {part: {name: value.to(device) for name, value in tensors.items()} for part, tensors in kept.items()}


@contextmanager
def _reading() -> Iterator[None]:
    """What goes wrong in here is the checkpoint's fault: its checksums fit, its content does not."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the checkpoint is no state of this run ({type(error).__name__}: {error})") from error


def as_begun(config: CondenseConfig, values: Values | None) -> CondenseConfig:
    """`config` for going on from a state: a run that grows stays compiled, or not, as it began, with the same bits."""
    if values is None:
        return config
    with _reading():
        if not all(isinstance(values[name], int | float) for name in PLAIN):
            raise TypeError(f"one of {', '.join(PLAIN)} is no number")
        kept, classes = replace(CondenseConfig(), values["config"]), len(values["belongs_to"]["classes"])
        size, device = float(values.get("class_bytes", 0)), torch.device(values["belongs_to"]["device"])
        # before 25 November 2026 it was not kept, and followed from the number of calls
        long = classes * kept.outer_iterations * kept.inner_loop >= 10000
        began = values.get("compiled", kept.compile == "on" or (kept.compile == "auto" and long))
    if config.compile != "auto":
        return config
    now = worth_compiling("auto", turns(config, classes, device), size, device)
    return config if "compiled" in values and began == now else replace(config, {"compile": "on" if began else "off"})


Values = dict[str, Any]  # tensors and plain values in dicts and lists
