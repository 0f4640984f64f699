"""Settings for the user's own data: what is chosen for which shape."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from attar import models
from attar.condensation.image_step import effective_lr
from attar.condensation.setup import check_data
from attar.data.images import ImageData
from attar.settings import auto, layers, recipes
from attar.settings.auto import Shape
from attar.settings.config import FLAGS, Recipe, fitted_to
from attar.settings.schema import settings_of

SIDES = [2, 3, 4, 8, 12, 16, 28, 32, 64, 96, 128, 129, 224]


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_every_shape_has_settings_that_work(side: int, channels: int, cpu: bool) -> None:
    recipe = auto.fitting(Shape(channels, side, side + 3, 7, 500, cpu))
    network = recipe.network
    built = models.build(
        network.net_type, depth=network.depth, width=0.05, channels=channels, nclass=7, size=(side, side + 3), seed=0
    )
    assert built(torch.zeros(2, channels, side, side + 3)).shape == (2, 7)
    assert recipe.condense.factor <= side


def test_the_settings_of_published_data_are_found_again() -> None:
    """On a GPU the shapes of CIFAR-10, Fashion-MNIST and ImageNet-10 get what was published for them."""
    for name, shape in {
        "cifar10": Shape(3, 32, 32, 10, 50000, False),
        "fashion": Shape(1, 28, 28, 10, 60000, False),
        "imagenet10": Shape(3, 224, 224, 10, 13000, False),
    }.items():
        fitted, published = auto.fitting(shape), recipes.named(name)
        assert models.parse(fitted.network.net_type, fitted.network.depth) == models.parse(
            published.network.net_type, published.network.depth
        )
        for key in ("factor", "metric", "init", "outer_iterations", "mix_p"):
            assert getattr(fitted.condense, key) == getattr(published.condense, key), (name, key)
        rates = [
            effective_lr(one.lr_img, 10, shape.height, one.base_size or shape.height)
            for one in (fitted.condense, published.condense)
        ]
        assert rates[0] == pytest.approx(rates[1]), name
    assert auto.fitting(Shape(3, 64, 64, 10, 1000, False)).network.depth == 4


@pytest.mark.parametrize("side", [8, 28, 64, 224])
def test_own_data_get_what_did_best_and_a_method_its_own_settings(side: int) -> None:
    """On a CPU; a GPU and a method that is asked for have the settings of the nearest published data."""
    shape = Shape(3, side, side, 10, 1000, True)
    flags = {"ipc": ("condense", "ipc"), "method": ("condense", "method")}
    chosen, accdd, ncfm = (
        layers.resolve(flags, {"data": {"dataset": "pets"}, "ipc": 1} | asked, shape=shape).condense
        for asked in ({}, {"method": "accdd"}, {"method": "ncfm"})
    )
    assert (chosen.match, chosen.network_init, chosen.img_optim, chosen.lr_img) == ("ncf", "pool", "adamw", 0.01)
    assert (accdd.match, accdd.network_init, accdd.img_optim, accdd.lr_img) == ("grad", "pool", "sgd", 3e-3)
    assert (accdd.averaging_power, accdd.select, accdd.update) == (0, "random", "real")
    assert (ncfm.network_init, ncfm.calibrate, ncfm.averaging_power) == ("interpolated", 1.0, 0)
    assert chosen.factor == accdd.factor and chosen.init == accdd.init
    on_gpu = replace(shape, cpu=False)
    assert auto.fitting(on_gpu) == auto.fitting(on_gpu, method="accdd")
    assert auto.fitting(on_gpu).condense.match == "grad"


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("side", [8, 28, 64, 160])
def test_the_recipe_best_can_run_on_any_data(side: int, cpu: bool) -> None:
    """Its settings pass the checks of a run, on a GPU too."""
    data = ImageData(torch.zeros(20, 3, side, side, dtype=torch.uint8), torch.arange(20) % 2)
    shape = replace(auto.shape_of(data), cpu=cpu)
    chosen = layers.resolve(FLAGS["condense"], {"dataset": "pets"}, recipe="best", shape=shape).condense
    assert check_data(data, chosen) == [0, 1]
    assert (chosen.match, chosen.select, chosen.img_optim) == ("ncf", "cluster", "adamw")
    assert (chosen.batch_real, chosen.inner_loop) == ((32, 10) if cpu else (64, 100))


def test_flags_go_on_top() -> None:
    shape = Shape(3, 64, 64, 10, 1000, True)
    flags = {"ipc": ("condense", "ipc"), "d": ("data", "dataset"), "n": ("network", "net_type")}
    recipe = layers.resolve(flags, {"d": "pets", "ipc": 3, "n": "resnet"}, shape=shape)
    assert (recipe.data.dataset, recipe.condense.ipc, recipe.network.net_type) == ("pets", 3, "resnet")
    assert recipe.network.depth is None and recipe.network.width == 0.25
    assert layers.resolve(flags, {"d": "digits"}, shape=shape) == layers.resolve(flags, {"d": "digits"})


def test_what_fits_the_chosen_batch_is_not_refused_before_it_is_chosen() -> None:
    overrides = {"dataset": "pets", "select": "cluster", "select_from": 40}
    for shape in (None, Shape(3, 64, 64, 10, 1000, True)):
        recipe = layers.resolve(FLAGS["condense"], overrides, shape=shape)
        assert (recipe.condense.select_from, recipe.condense.batch_real) == (40, 64 if shape is None else 32)


def test_settings_that_the_data_choose_say_so_at_their_field() -> None:
    """A run that is resumed keeps these, so a setting that is chosen and not marked would be chosen anew."""
    default = settings_of(Recipe())
    chosen: dict[str, set[str]] = {"network": set(), "pool": set(), "condense": set()}
    for side, channels, cpu, images in itertools.product(SIDES, (1, 3), (True, False), (100, 60000)):
        recipe = settings_of(auto.fitting(Shape(channels, side, side, 10, images, cpu)))
        for section, names in chosen.items():
            names |= {name for name, value in recipe[section].items() if value != default[section][name]}
    assert chosen == {section: set(fitted_to("data")[section]) for section in chosen}
