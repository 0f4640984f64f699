"""Condensation (Acc-DD algorithm 1): one inner iteration and the whole loop, the same for every method.

The settings of a method choose: `network_init` (the network), `matching` (what is matched), `image_step` (how the
images move) and `network_step` (how the network moves). Everything that changes during a run is in `State`, everything
else in `Setup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from attar.condensation import image_step
from attar.condensation.gradients import SweepInputs
from attar.condensation.network_init import NETWORK_INITS, later
from attar.condensation.network_step import train_on_real, update_network
from attar.condensation.perturb import perturb
from attar.condensation.setup import Setup, set_up
from attar.condensation.state import State, check_finite, init, start_network
from attar.condensation.trajectory_step import learn, match, starting_point
from attar.data.images import ImageData
from attar.engine.device import send_all
from attar.errors import UserError
from attar.selection.embeddings import by_network, representatives
from attar.sets.decode import decoded_count
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import strategy_names
from attar.settings.condense_config import CondenseConfig
from attar.training import train_state
from attar.training.draws import draw
from attar.training.pool import Pool


def run(data: ImageData, pool: Pool, config: CondenseConfig, more: Callable[[], bool] | None = None) -> SyntheticSet:
    """Run a condensation in memory, from beginning to end.

    more: see `iterate`. Raises `UserError` as `set_up` does, and `Diverged`.
    """
    setup = set_up(data, pool, config)
    state = init(setup)
    for _ in iterate(state, setup, more):
        pass
    return product(state, setup)


def iterate(state: State, setup: Setup, more: Callable[[], bool] | None = None) -> Iterator[float | None]:
    """Continue a run to its end, and yield after each inner iteration, with `state` updated.

    more: whether another outer iteration follows, asked before each but the first; by default until there are as many
    as the settings say. No step depends on how many there will be, so a run can end after any of them.
    Yields the mean loss of an outer iteration after its last inner iteration, and None after the others. Raises
    `Diverged` when a loss, an image or a weight is not finite.
    """
    config = setup.config
    while state.outer < config.outer_iterations if more is None else state.inner or not state.outer or more():
        if state.inner == 0:
            begin_outer(state, setup)
        _, loss = step(state, setup)
        state.losses.append(loss)
        yield end_outer(state, setup) if state.inner == config.inner_loop else None


def end_outer(state: State, setup: Setup) -> float:
    """Count an outer iteration and return the mean of its losses. Only here are losses read from the device."""
    check_finite(state, setup.config, setup.pool)
    losses, threshold = torch.stack(state.losses), setup.config.threshold
    state.skipped += 0 if threshold is None else int((losses > threshold).sum())
    state.outer += 1
    state.inner, state.losses = 0, []
    return float(losses.mean())


def begin_outer(state: State, setup: Setup) -> State:
    """Clamp the images to [0, 1] and take a network."""
    state.images = clamp(state, setup)
    take_network(state, setup)
    state.inner = 0
    return state


def take_network(state: State, setup: Setup) -> None:
    """Take the next network (Acc-DD section 3.2), perturb it if set (section 3.3), and reset its optimiser."""
    data, config = setup.data, setup.config
    if setup.trajectory is not None:
        initial = starting_point(state, setup)
    else:
        initial = NETWORK_INITS[config.network_init](setup.pool, state.cpu_generator)
    params, buffers = (send_all(tensors, data.device) for tensors in (initial.params, initial.buffers))
    if state.network is None:
        state.network = start_network(setup, params, buffers)
    if config.warmup:
        params, buffers = warm_up(state, setup, params, buffers)
    if config.perturb:
        params = perturb(params, vmin=config.vmin, vmax=config.vmax, generator=state.generator)
    train_state.reset(state.network, params, buffers)
    state.member, state.epoch = initial.member, initial.epoch


def warm_up(
    state: State, setup: Setup, params: dict[str, Tensor], buffers: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train a fresh network for `warmup` epochs on real images (IDC on ImageNet). Returns its params and buffers."""
    assert state.network is not None
    train_state.reset(state.network, params, buffers)
    train_on_real(state, setup, setup.config.warmup * len(setup.data.labels))
    params, buffers = (
        {name: value.detach().clone() for name, value in tensors.items()}
        for tensors in (state.network.params, state.network.buffers)
    )
    return params, buffers


def clamp(state: State, setup: Setup) -> Tensor:
    """Clamp the published loop's images to [0, 1]. Returns the stored images, which include deferred steps."""
    if not setup.config.clamp:
        return state.images
    deferred = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    return (state.images + deferred).clamp(0, 1) - deferred


def step(state: State, setup: Setup) -> tuple[State, Tensor]:
    """One inner iteration: a sweep over the classes, then the network update.

    Returns the state and the loss summed over the classes, still on the device. Raises `UserError` before the first
    `begin_outer`.
    """
    data, config = setup.data, setup.config
    if state.network is None:
        raise UserError("call begin_outer before step")
    if state.inner and config.sweeps_per_network and state.inner % config.sweeps_per_network == 0:
        if config.img_space == "unit":  # NCFM clamps whenever it takes a network; DC, DSA and DM never clamp
            state.images = clamp(state, setup)
        take_network(state, setup)
    if setup.trajectory is not None:
        loss = follow_trajectory(state, setup)
        state.inner += 1
        update_mean(state, setup)
        return state, loss
    strategy = strategy_names(config.aug_type)
    rows = matched_rows(state, setup)
    draws = draw(strategy, len(rows), data.size, state.generator, batch=1)
    params = {name: value.detach() for name, value in state.network.params.items()}
    subsets = random_subsets(state, setup) if setup.draws_subset else None
    frequencies = draw_frequencies(state, setup)
    images = seen_images(state, setup)
    gradient, loss = setup.sweep.run(SweepInputs(images, params, rows, draws, subsets, frequencies))
    loss = loss.clone()  # the next replay of a CUDA graph overwrites its results
    objective = loss
    joint = setup.calibration is not None and config.network_init == "epoch"  # TGDD: one step for both losses
    if not joint:
        move_images(state, setup, images, gradient)
    if setup.calibration is not None:
        trained = setup.pool.at(state.member)
        if joint:
            point = later(setup.pool, state.member, state.epoch, config.calibrate_epochs, state.cpu_generator)
            trained = point.params
        else:
            draws = draw(strategy, len(rows), data.size, state.generator, batch=1)
            images = seen_images(state, setup)
        params = send_all(trained, data.device)
        of_entropy, entropy = setup.calibration.run(SweepInputs(images, params, [], draws, subsets))
        objective, of_entropy = loss + config.calibrate * entropy, config.calibrate * of_entropy
        move_images(state, setup, images, gradient + of_entropy if joint else of_entropy)
        loss = objective if joint else loss
    reduce_lr(state, setup, objective)
    update_network(state, setup)
    state.inner += 1
    update_mean(state, setup)
    return state, loss


def follow_trajectory(state: State, setup: Setup) -> Tensor:
    """An iteration of trajectory matching: images and learned values move after one student. Returns the loss."""
    matched, threshold = match(state, setup), setup.config.threshold
    before = (state.images, state.momentum, state.optimizer, dict(state.learned))
    gradient = matched.images
    if setup.config.clip_img is not None:
        gradient = image_step.clipped(gradient, state.optimizer, setup.image_optimizer, setup.config.clip_img)
    move_images(state, setup, state.images, gradient)
    learn(state, setup, matched)
    if threshold is not None:  # DATM: all of it stays where the loss is too high
        after = (state.images, state.momentum, state.optimizer, state.learned)
        state.images, state.momentum, state.optimizer, state.learned = tree_map(
            lambda new, old: torch.where(matched.loss <= threshold, new, old), after, before
        )
    reduce_lr(state, setup, matched.loss)
    return matched.loss


def matched_rows(state: State, setup: Setup) -> list[Tensor]:
    """Rows of the real images of each class to match: drawn at random, or representatives of clusters (DREAM).

    Where cells are paired with the crops that they were made of, those themselves (CIM).
    """
    if setup.config.match == "pairs":
        return state.picks
    if setup.config.select == "random":
        return [sampler.draw() for sampler in state.samplers]
    if state.inner % setup.config.select_every == 0:
        state.picks = cluster_representatives(state, setup)
    return state.picks


def cluster_representatives(state: State, setup: Setup) -> list[Tensor]:
    """Rows of the images of each class nearest its cluster centres, in the current network's feature space."""
    data, config = setup.data, setup.config
    if state.network is None:
        raise UserError("call begin_outer before cluster_representatives")
    embed = by_network(setup.module, state.network.params, state.network.buffers, config.precision)
    return [
        representatives(data, rows, config.batch_real, embed, state.generator, config.select_from)
        for rows in setup.rows
    ]


def draw_frequencies(state: State, setup: Setup) -> Tensor | None:
    """Gaussian frequencies [T, d] at which characteristic functions are compared (NCFM section 3), None otherwise."""
    if setup.config.match != "ncf":
        return None
    shape = (setup.config.frequencies, setup.features)
    return torch.randn(shape, generator=state.generator, device=setup.data.device)


def seen_images(state: State, setup: Setup) -> Tensor:
    """The images of each class as the published loop has them at its turn; stored so already where SGD moves them."""
    return setup.ahead(state.images, state.momentum, state.optimizer)


def move_images(state: State, setup: Setup, images: Tensor, gradient: Tensor) -> None:
    """Step the images, of which `gradient` was computed."""
    state.images, state.momentum, state.optimizer = setup.move(images, state.momentum, gradient, state.optimizer)


def reduce_lr(state: State, setup: Setup, loss: Tensor) -> None:
    """Halve the images' learning rate on a plateau of the loss, and with it the deferred steps."""
    if not setup.image_optimizer.patience:
        return
    before = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    state.optimizer = image_step.reduce_lr_on_plateau(state.optimizer, loss, setup.image_optimizer)
    state.images = (
        state.images
        + before
        - image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    )


def update_mean(state: State, setup: Setup) -> None:
    """Update the polynomial-decay average of the images over the sweeps (Shamir & Zhang, ICML 2013, section 4).

    With averaging power η the weight of sweep t is proportional to t(t + 1)…(t + η − 1). It does not depend on the
    number of sweeps, so a run can be extended.
    """
    power = setup.config.averaging_power
    if power:
        count = state.outer * setup.config.inner_loop + state.inner
        images = current_images(state, setup)
        state.mean = images if state.mean is None else torch.lerp(state.mean, images, (power + 1) / (count + power))


def current_images(state: State, setup: Setup) -> Tensor:
    """The images of the published loop at this moment, without the deferred steps, clamped to [0, 1] if that is set."""
    deferred = image_step.deferred_step(state.momentum, setup.pending, state.optimizer, setup.image_optimizer)
    images = state.images + deferred
    return images.clamp(0, 1) if setup.config.clamp else images


def random_subsets(state: State, setup: Setup) -> list[Tensor]:
    """Draw `batch_syn_max` of the decoded images of each class, int64, for a sweep."""
    config, device = setup.config, setup.data.device
    count = decoded_count(config.ipc, config.factor, config.decode_type)
    return [
        torch.randperm(count, generator=state.generator, device=device)[: config.batch_syn_max] for _ in setup.labels
    ]


def product(state: State, setup: Setup) -> SyntheticSet:
    """The condensed set at the current state."""
    data, config = setup.data, setup.config
    images = current_images(state, setup) if state.mean is None else state.mean
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
        space="unbounded" if data.space == "unit" and not config.clamp else data.space,
        soft_labels=state.learned["logits"].flatten(0, 1).softmax(dim=1) if "logits" in state.learned else None,
        lr=state.lr,
    )
