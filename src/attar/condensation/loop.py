"""Condensation (Acc-DD algorithm 1): one inner iteration and the whole loop, the same for every method.

A method is what its settings choose: `network_init` (the network), `matching` (what is matched), `image_step` (how the
images move) and `network_step` (how the network moves). Whatever changes during a run is in `State`; whatever does not
is in `Setup`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attar.condensation import image_step
from attar.condensation.gradients import SweepInputs
from attar.condensation.network_init import NETWORK_INITS
from attar.condensation.network_step import train_on_real, update_network
from attar.condensation.perturb import perturb
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import State, check_finite, init, start_network
from attar.data.images import ImageData
from attar.engine.device import send
from attar.errors import UserError
from attar.selection.embeddings import by_network, representatives
from attar.sets.decode import decoded_count
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import strategy_names
from attar.settings.condense_config import CondenseConfig
from attar.training import train_state
from attar.training.augment import draw
from attar.training.pool import Pool


def run(data: ImageData, pool: Pool, config: CondenseConfig) -> SyntheticSet:
    """Condense from the beginning to the end, in memory. Raises `UserError` as `set_up` does, and `Diverged`."""
    setup = set_up(data, pool, config)
    state = init(setup)
    for _ in iterate(state, setup):
        pass
    return product(state, setup)


def iterate(state: State, setup: Setup) -> Iterator[float | None]:
    """Go on to the end of the run, an inner iteration at a time.

    Yields after each one, with `state` as it stands: None, or after the last one of an outer iteration the mean of its
    losses. Raises `Diverged` when a loss, an image or a weight is not finite.
    """
    config = setup.config
    while state.outer < config.outer_iterations:
        if state.inner == 0:
            begin_outer(state, setup)
        _, loss = step(state, setup)
        state.losses.append(loss)
        yield end_outer(state, setup) if state.inner == config.inner_loop else None


def end_outer(state: State, setup: Setup) -> float:
    """Count an outer iteration, and return the mean of its losses: the only time that they are read."""
    check_finite(state, setup.config)
    mean = float(torch.stack(state.losses).mean())
    state.outer += 1
    state.inner, state.losses = 0, []
    return mean


def begin_outer(state: State, setup: Setup) -> State:
    """Clamp the images to [0, 1] and take a network."""
    state.images = clamp(state, setup)
    take_network(state, setup)
    state.inner = 0
    return state


def take_network(state: State, setup: Setup) -> None:
    """A network from where the settings say, perturbed if they say so (Acc-DD sections 3.2, 3.3), its optimiser new."""
    data, config = setup.data, setup.config
    initial = NETWORK_INITS[config.network_init](setup.pool, state.cpu_generator)
    params, buffers = (
        {name: send(value, data.device) for name, value in tensors.items()}
        for tensors in (initial.params, initial.buffers)
    )
    if state.network is None:
        state.network = start_network(setup, params, buffers)
    if config.warmup:
        params, buffers = warmed_up(state, setup, params, buffers)
    if config.perturb:
        params = perturb(params, vmin=config.vmin, vmax=config.vmax, generator=state.generator)
    train_state.reset(state.network, params, buffers)
    state.member = initial.member


def warmed_up(
    state: State, setup: Setup, params: dict[str, Tensor], buffers: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a fresh network has become after a few epochs on real images (IDC on ImageNet)."""
    assert state.network is not None
    train_state.reset(state.network, params, buffers)
    train_on_real(state, setup, setup.config.warmup * len(setup.data.labels))
    learned = state.network.params, state.network.buffers
    trained, statistics = ({name: value.detach().clone() for name, value in tensors.items()} for tensors in learned)
    return trained, statistics


def clamp(state: State, setup: Setup) -> Tensor:
    """The images clamped at the moment of the published loop, which has not yet made the last steps of a sweep."""
    deferred = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    return (state.images + deferred).clamp(0, 1) - deferred


def step(state: State, setup: Setup) -> tuple[State, Tensor]:
    """One inner iteration: a sweep over the classes, then the network update. Returns the summed loss, unread.

    Raises `UserError` before the first `begin_outer`.
    """
    data, config = setup.data, setup.config
    if state.network is None:
        raise UserError("call begin_outer before step")
    if state.inner and config.sweeps_per_network and state.inner % config.sweeps_per_network == 0:
        if config.img_space == "unit":  # NCFM clamps with each network; DC, DSA and DM never do
            state.images = clamp(state, setup)
        take_network(state, setup)
    strategy = strategy_names(config.aug_type)
    rows = matched_rows(state, setup)
    draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
    params = {name: value.detach() for name, value in state.network.params.items()}
    subsets = random_subsets(state, setup) if setup.draws_subset else None
    frequencies = draw_frequencies(state, setup)
    gradient, loss = setup.sweep.run(SweepInputs(state.images, params, rows, draws, subsets, frequencies))
    loss = loss.clone()  # a replay overwrites its results
    objective = loss
    move_images(state, setup, gradient)
    if setup.calibration is not None:
        trained = setup.pool.members[state.member].params
        params = {name: send(value, data.device) for name, value in trained.items()}
        draws = draw(strategy, len(rows), data.size, state.generator, choice_per_row=True)
        gradient, entropy = setup.calibration.run(SweepInputs(state.images, params, [], draws, subsets))
        objective = loss + config.calibrate * entropy
        move_images(state, setup, config.calibrate * gradient)
    reduce_lr(state, setup, objective)
    update_network(state, setup)
    state.inner += 1
    take_mean(state, setup)
    return state, loss


def matched_rows(state: State, setup: Setup) -> list[Tensor]:
    """The real images of each class that this iteration matches: drawn, or the representatives of clusters (DREAM)."""
    if setup.config.select == "random":
        return [sampler.draw() for sampler in state.samplers]
    if state.inner % setup.config.select_every == 0:
        state.picks = clustered(state, setup)
    return state.picks


def clustered(state: State, setup: Setup) -> list[Tensor]:
    """The images of each class nearest the centres of its clusters, as the network sees them now."""
    data, config = setup.data, setup.config
    if state.network is None:
        raise UserError("call begin_outer before clustered")
    embed = by_network(setup.module, state.network.params, state.network.buffers, config.precision)
    return [
        representatives(data, label, config.batch_real, embed, state.generator, config.select_from)
        for label in setup.labels
    ]


def draw_frequencies(state: State, setup: Setup) -> Tensor | None:
    """Where characteristic functions are compared in a sweep, if they are: Gaussian, [T, d] (NCFM section 3)."""
    if setup.config.match != "ncf":
        return None
    shape = (setup.config.frequencies, setup.features)
    return torch.randn(shape, generator=state.generator, device=setup.data.device)


def move_images(state: State, setup: Setup, gradient: Tensor) -> None:
    """One step of the images."""
    state.images, state.momentum, state.optimizer = image_step.move(
        state.images, state.momentum, gradient, state.optimizer, setup.image_optimizer
    )


def reduce_lr(state: State, setup: Setup, loss: Tensor) -> None:
    """Perhaps halve the images' learning rate, and so that of the steps which the published loop has yet to make."""
    if not setup.image_optimizer.patience:
        return
    before = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    state.optimizer = image_step.reduce_lr_on_plateau(state.optimizer, loss, setup.image_optimizer)
    state.images = (
        state.images
        + before
        - image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    )


def take_mean(state: State, setup: Setup) -> None:
    """Take the images of this sweep into their mean: polynomial decay (Shamir & Zhang, ICML 2013, section 4).

    With the power η the t-th sweep of T weighs t(t + 1)…(t + η − 1), whatever T is, so that a run can grow.
    """
    power = setup.config.averaging_power
    if power:
        count = state.outer * setup.config.inner_loop + state.inner
        now = current(state, setup)
        state.mean = now if state.mean is None else torch.lerp(state.mean, now, (power + 1) / (count + power))


def current(state: State, setup: Setup) -> Tensor:
    """The images in [0, 1], with the last steps that the published loop has yet to make."""
    deferred = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    return (state.images + deferred).clamp(0, 1)


def random_subsets(state: State, setup: Setup) -> list[Tensor]:
    """Which decoded images of each class take part in a sweep."""
    config, device = setup.config, setup.data.device
    count = decoded_count(config.ipc, config.factor, config.decode_type)
    return [
        torch.randperm(count, generator=state.generator, device=device)[: config.batch_syn_max] for _ in setup.labels
    ]


def product(state: State, setup: Setup) -> SyntheticSet:
    """The condensed set as it stands."""
    data, config = setup.data, setup.config
    images = current(state, setup) if state.mean is None else state.mean
    return SyntheticSet(
        images=images.flatten(0, 1),
        labels=torch.tensor(setup.labels, device=data.device).repeat_interleave(config.ipc),
        factor=config.factor,
        decode_type=config.decode_type,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
        initial=state.initial.flatten(0, 1),
        fingerprint=data.fingerprint,
    )
