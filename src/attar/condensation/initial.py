"""The images that a run begins with: those of a set, a core-set, real images in a grid, or noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from attar.condensation import experts
from attar.condensation.given_images import images_of_set
from attar.condensation.setup import Setup
from attar.data.images import ImageData
from attar.selection import rded
from attar.selection.coresets import images_of_class
from attar.selection.embeddings import Embed, by_network, pixels, representatives
from attar.sets.decode import mix, noise
from attar.settings.choices import CORESET_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.training.batches import BatchSampler


def initial_images(setup: Setup, generator: Generator) -> tuple[Tensor, list[Tensor]]:
    """Images [C, ipc, ch, H, W] in [0, 1], made as the setting `init` says, and what they will be paired with.

    That is, where `match` is pairs (CIM), the crops of the mosaics in full size, uint8 [n, ch, H, W] for each class.
    """
    data, config, labels = setup.data, setup.config, setup.labels
    if (given := images_of_set(data, config, labels)) is not None:
        return given, []
    if config.match == "pairs":
        crops = [
            rded.best_crops(data, label, config.ipc * config.factor**2, config.factor, setup.pool, generator)
            for label in labels
        ]
        return torch.stack([rded.mosaic(one, config.factor) for one in crops]), [rded.as_bytes(one) for one in crops]
    if config.init == "correct":
        rows = torch.stack([experts.right_rows(setup, label, config.ipc, generator) for label in labels])
        return (data.images[rows.flatten()].float() / 255).unflatten(0, rows.shape), []
    if config.init in CORESET_NAMES and config.init != "random":
        sizes = config.ipc, config.factor, setup.pool, generator
        return torch.stack([images_of_class(data, config.init, label, *sizes) for label in labels]), []
    embed = first_embedding(setup) if config.select == "cluster" else None
    return torch.stack([cells_of_class(data, label, config, generator, embed) for label in labels]), []


def first_embedding(setup: Setup) -> Embed:
    """The embedding for the initial clustering: by the model that the run draws first; by pixels without a pool."""
    if not len(setup.pool):
        return pixels
    index = setup.pool.draw_index(Generator().manual_seed(setup.config.seed))
    params, buffers = (
        {name: value.to(setup.data.device) for name, value in tensors.items()}
        for tensors in (setup.pool.at(index), setup.pool.members[index].buffers)
    )
    return by_network(setup.module, params, buffers, setup.config.precision)


def cells_of_class(
    data: ImageData, label: int, config: CondenseConfig, generator: Generator, embed: Embed | None = None
) -> Tensor:
    """The initial images of a class [ipc, ch, H, W] in [0, 1]: noise, real images, or grids of real images.

    Real images are drawn at random without replacement; a class with too few images is shuffled and used again. With
    `embed` they are the representatives of clusters (DREAM), repeated in the same order if there are too few.
    """
    if config.init == "noise":
        return noise(config.ipc, data.channels, data.size, generator)
    factor = config.factor if config.init == "mix" else 1
    count = config.ipc * factor**2
    if embed is None:
        sampler = BatchSampler(data.rows(label), 1, generator)
        rows = torch.cat([sampler.draw() for _ in range(count)])
    else:
        rows = representatives(data, data.rows(label), count, embed, generator, config.select_from)
        rows = rows.repeat(-(-count // len(rows)))[:count]
    return mix(data.images[rows].float() / 255, factor)
