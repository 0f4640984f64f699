"""Settings for the user's own data, chosen by the size, channels, classes and number of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from attar.errors import counted
from attar.settings import methods, own
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import EvaluateConfig, NetworkConfig, PoolConfig, Recipe

SMALL_SIDE = 16  # pixels: with a smaller side, a quarter of a stored image shows nothing
LARGE_SIDE = 128  # pixels: up to this side the published settings of small images apply, above it those of ImageNet
LAST_MAP_SIDE = 4  # pixels: the feature maps of the published ConvNets before their last layer, for images of 32 pixels
MIN_POOL_IMAGES = 2400  # images that an early-stage model is trained on at least, as many as for the digits
MAX_WHOLE_IMAGES = 120_000  # images that `whole` is trained on at most on a CPU, unless its steps need more
EPOCHS_CPU = 300  # of a network on the condensed set
USUAL_IPC = 10
FASHION_LR_IMG = 1e-4 * (28 / 32) ** 2  # at the side of Fashion-MNIST; its published 1e-4 holds at 32 pixels
# What did best on held-out images at equal time on a CPU, for four unlike data sets (docs/log.md). AdamW's step is a
# share of a pixel's range whatever the gradients' size, so its rate is the same for all data.
BEST: dict[str, Any] = {
    **{"network_init": "pool", "perturb": True, "calibrate": 0.0, "averaging_power": 3},
    **{"select": "cluster", "select_from": 200, "img_optim": "adamw", "img_step": "sweep", "lr_img": 0.01},
    "wd_img": 0.01,
}


@dataclass(frozen=True)
class Shape:
    """The properties of a data set that decide its settings."""

    channels: int
    height: int  # pixels
    width: int  # pixels
    nclass: int
    images: int  # training images
    cpu: bool  # whether the run computes on a CPU


def shape_of(data: Any) -> Shape:
    """The shape of an `ImageData`."""
    height, width = data.size
    return Shape(data.channels, height, width, data.nclass, len(data.labels), data.device.type == "cpu")


def fitting(shape: Shape, ipc: int = USUAL_IPC, method: str | None = None, *, best: bool = False) -> Recipe:
    """A complete recipe for data that have none: on a CPU, where no `method` is asked for, with what did best there.

    best: with what did best on a GPU too.

    That is NCFM's matching on perturbed early-stage models, with the settings of `BEST`: AdamW, one step a sweep, where
    the recipe `best`, found on Fashion-MNIST alone, has SGD after each class. A method that is asked for, and a GPU,
    where nothing else was measured, get the settings of `nearest_published`.
    """
    base = nearest_published(shape)
    if not best and (method is not None or not shape.cpu):
        return base
    chosen = methods.method_layer("ncfm", base, ipc)["condense"] | BEST
    kept = {name: getattr(base.condense, name) for name in ("factor", "init", "batch_real")}
    return replace(base, condense=replace(base.condense, **chosen | kept))


def nearest_published(shape: Shape) -> Recipe:
    """A complete recipe of Acc-DD, on which other methods' settings go.

    Network, factor, metric and image learning rate are the published ones of the most similar data set: Fashion-MNIST
    for grey images, CIFAR-10 for small colour images, ImageNet-10 above 128 pixels; the rate is the one at its side,
    whatever the side is here. A ConvNet halves the side until 4 pixels are left. On a CPU, width, batches, schedule,
    metric and learning rate are those of `fashion-cpu`.
    """
    side = min(shape.height, shape.width)
    large = side > LARGE_SIDE
    factor = 3 if large else 1 if side < SMALL_SIDE else 2
    of_small = ("l1", FASHION_LR_IMG) if shape.channels == 1 else ("mse", 1e-2)
    metric, lr_img = ("l1", 3e-3) if large or shape.cpu else of_small
    epochs = max(1 if shape.cpu else 2, math.ceil(MIN_POOL_IMAGES / shape.images))
    mix_p = 1.0 if large else 0.5
    schedule: dict[str, Any] = {"full_niter": 500} if large else {}
    usual_epochs = 200
    if shape.cpu:
        schedule = {"batch_real": 32, "n_data": 128, "niter": 60, "inner_loop": 10}
        usual_epochs = min(30, max(2, MAX_WHOLE_IMAGES // shape.images))
    return Recipe(
        network=NetworkConfig(
            net_type="resnetap" if large else "convnet",
            depth=10 if large else max(2, round(math.log2(side / LAST_MAP_SIDE))) if side > LAST_MAP_SIDE else 1,
            width=(0.5 if side < SMALL_SIDE else 0.25) if shape.cpu else 1.0,
        ),
        pool=PoolConfig(epochs=epochs, models=3 if shape.cpu else 5, mix_p=mix_p),
        condense=CondenseConfig(
            factor=factor,
            init="mix" if factor > 1 else "random",
            metric=metric,
            lr_img=lr_img,
            mix_p=mix_p,
            **schedule,
        ),
        evaluate=EvaluateConfig(mix_p=mix_p, epochs=EPOCHS_CPU if shape.cpu else None, whole_epochs=usual_epochs),
    )


def summary(recipe: Recipe, shape: Shape) -> str:
    """One line for the user: which settings were chosen for which images."""
    network, condense, pool = recipe.network, recipe.condense, recipe.pool
    colour = "grey" if shape.channels == 1 else "colour"
    images = f"{shape.nclass} classes of {colour} images, {shape.width}x{shape.height}"
    is_own = ":" in network.net_type  # a function of the user's own
    depth = "" if network.depth is None else network.depth
    used = own.without_digest(network.net_type) if is_own else f"{network.net_type}{depth} of width {network.width:g}"
    schedule = counted(condense.outer_iterations, "outer iteration")
    schedule += f" of {counted(condense.inner_loop, 'pass')} over the classes"
    models = pool.in_words if condense.takes_pool else "fresh networks"
    short = " (short, for a CPU; --minutes or --niter for more)" if shape.cpu else ""
    return (
        f"chosen for {images}: {used}, factor {condense.factor}, "
        f"{_matching(condense)}, lr_img {condense.lr_img:g}, {models}, "
        f"{schedule}{short}; flags change it"
    )


def _matching(condense: CondenseConfig) -> str:
    """What is matched and how the images move, where that is not Acc-DD's way."""
    metric = f"{condense.match} matching" if condense.match == "ncf" else f"metric {condense.metric}"
    real = ", representatives of clusters" if condense.select == "cluster" else ""
    mean = ", the mean over sweeps" if condense.averaging_power else ""
    return metric + real + mean + (", adamw" if condense.img_optim == "adamw" else "")
