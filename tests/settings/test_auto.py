"""Data of one's own: the settings that are chosen, the time that is kept, what `inspect` says, and loaders."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar import models
from attar.cli.parser import main
from attar.data.images import ImageData
from attar.settings import auto, layers, recipes
from attar.settings.auto import Shape
from attar.settings.config import FLAGS
from attar.stages import schedule
from helpers.command import call

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
        found, published = auto.fitting(shape), recipes.named(name)
        assert models.parse(found.network.net_type, found.network.depth) == models.parse(
            published.network.net_type, published.network.depth
        )
        for key in ("factor", "metric", "lr_img", "init", "outer_iterations", "mix_p"):
            assert getattr(found.condense, key) == getattr(published.condense, key), (name, key)
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
@pytest.mark.parametrize("images", [60, 144, 4000, 60000])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_the_whole_set_is_trained_on_for_as_many_steps_at_least(ipc: int, images: int, cpu: bool) -> None:
    recipe = auto.fitting(Shape(1, 28, 28, 10, images, cpu), ipc)
    size, epochs = recipe.evaluate.batch_size, recipe.evaluate.epochs or 1000
    decoded = 10 * ipc * recipe.condense.factor**2
    assert recipe.evaluate.whole_epochs * -(-images // size) >= epochs * -(-decoded // size)


def test_a_run_goes_on_where_another_method_would_be_chosen(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun on a CPU and gone on with on a GPU, or begun before the choice was another."""
    flags = ("--width", "0.05", "--pt_from", "1", "--model_num", "1", "--niter", "1", "--inner_loop", "1", "-q")
    begin = ("condense", "-d", str(pets), "--ipc", "1", *flags, "--out", "mine", "--resume", "auto")
    call(*begin)
    monkeypatch.setattr(auto, "fitting", lambda shape, ipc, method: auto.nearest_published(shape))
    monkeypatch.setattr(recipes, "fitting", auto.fitting)
    before = Path("mine/config.json").read_text()
    call(*begin)
    assert Path("mine/config.json").read_text() == before
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*begin, "--method", "accdd"])
    assert "holds a run with method ncfm, and accdd is asked for" in capsys.readouterr().err


def test_flags_go_on_top() -> None:
    shape = Shape(3, 64, 64, 10, 1000, True)
    flags = {"ipc": ("condense", "ipc"), "d": ("data", "dataset"), "n": ("network", "net_type")}
    recipe = layers.resolve(flags, {"d": "pets", "ipc": 3, "n": "resnet"}, shape=shape)
    assert (recipe.data.dataset, recipe.condense.ipc, recipe.network.net_type) == ("pets", 3, "resnet")
    assert recipe.network.depth is None and recipe.network.width == 0.25
    assert layers.resolve(flags, {"d": "digits"}, shape=shape) == layers.resolve(flags, {"d": "digits"})


def test_what_fits_the_chosen_batch_is_not_refused_before_it_is_chosen() -> None:
    given = {"dataset": "pets", "select": "cluster", "select_from": 40}
    for shape in (None, Shape(3, 64, 64, 10, 1000, True)):
        recipe = layers.resolve(FLAGS["condense"], given, shape=shape)
        assert (recipe.condense.select_from, recipe.condense.batch_real) == (40, 64 if shape is None else 32)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 + 5 + 3 colour images of 16x16 without a test set: unbalanced, and smaller than a batch."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for name, count in {"cat": 24, "dog": 5, "eel": 3}.items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for row in range(count):
            Image.fromarray(random.randint(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "pets" / name / f"{row}.png")
    return tmp_path / "pets"


def test_a_folder_and_nothing_else(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    condensed = ("--width", "0.05", "--pt_from", "1", "--model_num", "1", "--niter", "2", "--inner_loop", "1")
    call("condense", "-d", str(pets), "--ipc", "2", *condensed)
    said = capsys.readouterr().err
    assert "pets has no test set: 7 of its 32 images are taken for one, 0.2 of each class (seed 0" in said
    assert "chosen for 3 classes of colour images, 16x16: convnet2 of width 0.05, factor 2, ncf matching" in said
    condensed = attar.load_set(Path("runs/pets-ncfm-ipc2"))
    assert condensed.images.shape == (6, 3, 16, 16) and condensed.recipe["network"]["depth"] == 2
    call("evaluate", "runs/pets-ncfm-ipc2", "--runs", "1", "--epochs", "1", "--whole_epochs", "1")


def test_minutes(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--width", "0.05", "--pt_from", "1", "--model_num", "1")
    call("condense", "-d", str(pets), "--ipc", "1", *flags, "--minutes", "0.1")
    assert re.search(r"\d+ x \d+ iterations fit into 0\.\d+ minutes", capsys.readouterr().err)
    settings = attar.load_set(Path("runs/pets-ncfm-ipc1")).recipe["condense"]
    assert 1 <= settings["niter"] * settings["inner_loop"] < 20000  # of the published schedule
    for minutes, words in {"0.0001": "give at least", "-1": "give at least", "nan": "above 0"}.items():
        with pytest.raises(SystemExit) as stop:
            main(["condense", "-d", str(pets), "--ipc", "1", *flags, "--out", "short", "--minutes", minutes])
        assert stop.value.code == 2 and words in capsys.readouterr().err
        assert not Path("short").exists()


def test_a_schedule_keeps_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = attar.load("digits")
    base = recipes.named("digits")
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=1.0, inner=0.5))
    said: list[str] = []
    for seconds, expected in {1000: (60, 20), 110: (10, 19), 10.7: (13, 1)}.items():
        wide = replace(base, condense=replace(base.condense, full_niter=60))
        fitted = schedule.fit(data, wide, seconds, said.append).condense
        assert (fitted.niter, fitted.inner_loop) == expected
    with pytest.raises(attar.UserError, match=r"the pool takes about 1\.0 s and one iteration 0\.5 s"):
        schedule.fit(data, base, 1.2, said.append)
    part = schedule.fit(data, replace(base, pool=replace(base.pool, models=4, fraction=0.25)), 110, said.append)
    assert part.pool.models == 4 and "4 models of 2 epochs over 0.25 of the images about 2 s" in said[-1]
    renewed = replace(base, condense=replace(base.condense, sweeps_per_network=5))
    for seconds, expected in {110: (13, 15), 10.7: (2, 5)}.items():  # outer iterations of whole networks
        fitted = schedule.fit(data, renewed, seconds, said.append).condense
        assert (fitted.niter, fitted.inner_loop) == expected
    with pytest.raises(attar.UserError, match="minutes is too short"):
        schedule.fit(data, renewed, 3, said.append)
    timed = replace(base, condense=replace(base.condense, eval_at=(1,)))
    with pytest.raises(attar.UserError, match="eval_at and minutes exclude each other"):
        schedule.fit(data, timed, 100, said.append)


def test_a_run_that_goes_on_keeps_what_was_chosen(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The schedule that was fitted to a time, and the settings for data of one's own, are those of the beginning."""
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: schedule.Estimate(epoch=0.01, inner=0.3))
    begin = (
        "condense",
        "-d",
        str(pets),
        "--ipc",
        "1",
        "--width",
        "0.05",
        "--minutes",
        "0.02",
        "--resume",
        "auto",
        "-q",
    )
    call(*begin)
    config = Path("runs/pets-ncfm-ipc1/config.json").read_text()
    assert "is done" not in capsys.readouterr().out
    monkeypatch.setattr(schedule, "estimate", lambda data, recipe: pytest.fail("measured again"))
    monkeypatch.setattr(auto, "LAST_MAP", 8)  # now another depth would be chosen
    call(*begin)
    assert "is done" in capsys.readouterr().out
    assert Path("runs/pets-ncfm-ipc1/config.json").read_text() == config
    with pytest.raises(SystemExit):
        main(["condense", "--resume", "runs/pets-ncfm-ipc1", "--minutes", "1"])
    assert "--minutes cannot change what a run was begun with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*begin, "--depth", "1"])
    assert "holds a run with depth 2, and 1 is asked for" in capsys.readouterr().err


def test_inspect(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("inspect", str(pets), "--ipc", "1", "--quiet")
    said = capsys.readouterr().out
    assert re.search(r"dog\s*│\s*4\s*│\s*1", said)
    assert "colour images of 16x16 pixels" in said and "chosen for 3 classes" in said
    assert re.search(r"estimate for ipc 1 on this machine, from 3 iterations measured now: pool .*600 iterations", said)
    with Image.open("inspect-pets.png") as picture:
        assert min(picture.size) > 50
    call("inspect", "digits", "--out", "grid.png", "--quiet")
    assert Path("grid.png").exists() and "recipe digits: convnet2 of width 0.5" in capsys.readouterr().out
    assert not Path("runs").exists() and not Path("pool").exists()


# ---- loaders and notebooks ----


@pytest.fixture(scope="module")
def condensed() -> attar.SyntheticSet:
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return attar.SyntheticSet(
        images=images,
        labels=torch.tensor([0, 0, 1, 1]),
        factor=2,
        classes=("a<b", "dog"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        source="pets",
    )


def test_a_loader_gives_what_the_data_set_holds(condensed: attar.SyntheticSet) -> None:
    images, labels = condensed.decoded()
    plain = list(condensed.loader(5, shuffle=False, normalized=False))
    assert [len(batch) for batch, _ in plain] == [5, 5, 5, 1] and len(condensed.loader(5)) == 4
    assert torch.equal(torch.cat([batch for batch, _ in plain]), images)
    assert torch.equal(torch.cat([label for _, label in plain]), labels)
    shuffled = condensed.loader(16)
    first, second = next(iter(shuffled)), next(iter(shuffled))
    assert not torch.equal(first[1], second[1])
    assert torch.allclose(first[0].flatten(1).sum(1).sort()[0], condensed.normalize(images).flatten(1).sum(1).sort()[0])
    assert torch.equal(next(iter(condensed.loader(16)))[0], first[0])  # the seed


def test_a_loader_augments(condensed: attar.SyntheticSet) -> None:
    plain = next(iter(condensed.loader(16, shuffle=False)))[0]
    flipped = next(iter(condensed.loader(16, shuffle=False, augment="flip")))[0]
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert bool((same | mirrored).all()) and bool(mirrored.any()) and bool(same.any())
    with pytest.raises(attar.UserError, match="unknown augmentation 'flap'"):
        condensed.loader(augment="flap")
    with pytest.raises(attar.UserError, match="works on normalised images"):
        condensed.loader(augment="flip", normalized=False)
    with pytest.raises(attar.UserError, match="batch_size must be at least 1"):
        condensed.loader(0)


def test_a_notebook_shows_the_images(condensed: attar.SyntheticSet) -> None:
    page = condensed._repr_html_()
    assert page.count("data:image/png;base64,") == 2 and "a&lt;b" in page and "a<b" not in page
    assert "SyntheticSet(pets: 4 images of 3x8x8, 2 classes, factor 2)" in page


def test_python_finds_the_settings_too() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = attar.load((images, torch.arange(40) % 4))
    assert isinstance(data, ImageData) and data.test_images is not None
    made = attar.condense(data, ipc=1, width=0.05, epochs=1, models=1, niter=1, inner_loop=1)
    assert made.recipe["network"]["depth"] == 2 and made.recipe["condense"]["match"] == "ncf"
