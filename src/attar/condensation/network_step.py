"""Train the network after each sweep: on real images, on the synthetic set, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attar.condensation.setup import Setup
from attar.condensation.state import State
from attar.sets.decode import decode_class
from attar.settings.choices import strategy_names
from attar.training.augment import without
from attar.training.batches import AugmentationSampler, ChainDraw, shuffled


def update_network(state: State, setup: Setup) -> None:
    """Train the network as the setting `update` says."""
    UPDATES[setup.config.update](state, setup)


def update_on_real(state: State, setup: Setup) -> None:
    """Train on real batches until `n_data` images were seen (IDC section 4.2)."""
    train_on_real(state, setup, setup.config.n_data)


def train_on_real(state: State, setup: Setup, count: int) -> None:
    """Train on real batches until `count` images were seen."""

    def batches() -> Iterator[Tensor]:
        seen = 0
        while seen < count:
            rows = state.update_sampler.draw()
            yield rows
            seen += len(rows)

    assert state.network is not None
    setup.network_training.run(state.network, batches(), augmentation_sampler(state, setup).draw_rows)


def update_on_synthetic(state: State, setup: Setup) -> None:
    """Train for `syn_epochs` on the current decoded set (DC section 3.2), unless the network will not be used again."""
    data, config = setup.data, setup.config
    if setup.is_last_use(state.inner + 1):
        return
    images = [decode_class(stored, config.factor, config.decode_type) for stored in state.images]
    labels = setup.gradients.labels.repeat_interleave(len(images[0]))
    decoded = data.normalize(torch.cat(images))
    sampler = augmentation_sampler(state, setup)

    def draw(rows: Tensor, batch: int) -> ChainDraw:
        return sampler.draw(decoded[rows], labels[rows], batch)

    assert state.network is not None
    for _ in range(config.syn_epochs):
        setup.network_training.run(state.network, shuffled(len(labels), config.batch_size, state.generator), draw)


def augmentation_sampler(state: State, setup: Setup) -> AugmentationSampler:
    """The augmentation sampler of the network update; CutMix replaces cutout."""
    config = setup.config
    strategy = strategy_names(config.aug_type)
    if config.mix_p > 0:
        strategy = without(strategy, "cutout")
    return AugmentationSampler(setup.data, strategy, config.mix_p, state.generator)


UPDATES: dict[str, Callable[[State, Setup], None]] = {
    "real": update_on_real,
    "synthetic": update_on_synthetic,
    "none": lambda state, setup: None,
}
