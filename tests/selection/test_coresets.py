"""Core-sets from features to run folders: the images are real, chosen as said, and measured like any other set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import attar
from attar.cli.parser import main
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import describe
from attar.selection import coresets
from attar.settings import layers
from attar.settings.config import FLAGS as FLAGS_OF
from attar.settings.schema import settings_of
from attar.training.pool import Pool
from helpers.command import call

NETWORK: dict[str, Any] = {"net_type": "convnet", "depth": 2, "width": 0.05}
FLAGS = ("--width", "0.05", "--pt_from", "1")
QUICK = ("--runs", "2", "--epochs", "2", "--whole_epochs", "1", "--quiet")


@pytest.fixture(scope="module")
def pool(digits: ImageData) -> Pool:
    return attar.pretrain(digits, epochs=1, models=2, **NETWORK)


def rows_of(condensed: attar.SyntheticSet, data: ImageData) -> list[int]:
    """Which training images a set holds; equal images count as the first of them."""
    pixels = data.images.flatten(1)
    stored = (condensed.images * 255).round().to(torch.uint8).flatten(1)
    return [int((pixels == image).all(1).nonzero()[0]) for image in stored]


# ---- in Python ----


def test_a_recipe_of_pairs_in_mosaics_gives_whole_images(digits: ImageData, tmp_path: Path) -> None:
    """What needs a factor above 1 in the recipe of a method has no effect on whole images, nor refuses them."""
    path = tmp_path / "cim.toml"
    path.write_text('[condense]\nmethod = "cim"\n')
    assert attar.select(digits, "random", recipe=path, ipc=1).factor == 1


def test_on_mnist_they_are_measured_as_other_sets_of_factor_1() -> None:
    """IDC evaluates on MNIST without CutMix only where the factor is above 1."""
    images = torch.randint(256, (20, 1, 28, 28), generator=Generator().manual_seed(0)).to(torch.uint8)
    mnist = ImageData(images, torch.arange(20) % 2, name="mnist")
    selected = attar.select(mnist, "random", ipc=1)
    assert selected.recipe["evaluate"]["mix_p"] == 0.5 and selected.factor == 1
    condensed = layers.resolve(FLAGS_OF["condense"], {"dataset": "mnist", "method": "dm"})
    assert settings_of(condensed)["evaluate"] == selected.recipe["evaluate"]


@pytest.mark.parametrize("asked", [{}, {"epochs": 1}, {"fraction": 0.5}])
def test_scores_over_epochs_have_enough_of_them(
    asked: dict[str, Any], digits: ImageData, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a recipe of few epochs too; where so few are asked for, a line says it."""
    trained: list[Any] = []

    def one_model(data: ImageData, recipe: Any, *rest: Any) -> Pool:
        trained.append(recipe.pool)
        return attar.pretrain(data, epochs=recipe.pool.epochs, models=1, fraction=0.05, keep_epochs=True, **NETWORK)

    monkeypatch.setattr("attar.stages.select.train_pool", one_model)
    attar.select(digits, "aum", recipe="fashion-cpu", ipc=1, **asked)
    assert (trained[0].epochs, trained[0].fraction) == (asked.get("epochs", 10), asked.get("fraction", 1.0))
    few = "aum follows a model over 1 epoch, too few to tell much; --pt_from 10 trains it longer"
    assert (few in said) == ("epochs" in asked)


@pytest.mark.parametrize(
    ("method", "features"),
    [("random", None), *((name, by) for name in coresets.BY_FEATURES for by in coresets.FEATURE_NAMES)],
)
def test_real_images_of_every_class(method: str, features: str | None, digits: ImageData, pool: Pool) -> None:
    condensed = attar.select(digits, method, pool, features=features, ipc=4)
    rows = rows_of(condensed, digits)
    assert len(set(rows)) == 40
    assert torch.equal(digits.labels[rows], condensed.labels)
    assert condensed.labels.tolist() == [label for label in range(10) for _ in range(4)]
    assert (condensed.factor, condensed.ipc, condensed.method, condensed.initial) == (1, 4, method, None)
    assert (condensed.fingerprint, condensed.classes, condensed.mean) == (
        digits.fingerprint,
        digits.classes,
        digits.mean,
    )
    again = attar.select(digits, method, pool, features=features, ipc=4)
    assert torch.equal(again.images, condensed.images)


def test_chosen_in_the_space_of_the_features(digits: ImageData, pool: Pool) -> None:
    """By the pool's first model, class by class."""
    condensed = attar.select(digits, "herding", pool, ipc=3)
    module = pool.build(seed=0)
    module.load_state_dict(pool.members[0].params)
    rows = digits.rows(6)
    with torch.no_grad():
        features = module.features(digits.fetch(rows))
    expected = rows[coresets.coreset("herding", features, 3, Generator())]
    assert rows_of(condensed, digits)[18:21] == expected.tolist()
    by_pixels = attar.select(digits, "herding", pool, features="pixels", ipc=3)
    expected = rows[coresets.coreset("herding", digits.fetch(rows).flatten(1), 3, Generator())]
    assert rows_of(by_pixels, digits)[18:21] == expected.tolist() != rows_of(condensed, digits)[18:21]


def test_the_seed_decides(digits: ImageData, pool: Pool) -> None:
    """Chance draws other images; without a pool the seed is that of the network too."""
    sets = [attar.select(digits, "random", ipc=2, seed=seed).images for seed in (0, 1, 1)]
    assert not torch.equal(sets[0], sets[1]) and torch.equal(sets[1], sets[2])
    trained = [attar.select(digits, "kcenter", ipc=2, seed=seed, epochs=1, **NETWORK).images for seed in (0, 1)]
    assert torch.equal(trained[0], attar.select(digits, "kcenter", pool, ipc=2).images)  # its first model has seed 0
    other = replace(pool, members=pool.members[1:])
    assert torch.equal(trained[1], attar.select(digits, "kcenter", other, ipc=2).images)
    assert not torch.equal(trained[0], trained[1])


def test_a_pool_of_other_images(digits: ImageData, pool: Pool) -> None:
    other = replace(pool, made_for={**describe(digits), "size": [28, 28]})
    with pytest.raises(UserError, match="the pool was made for images of 28x28, not for images of 8x8"):
        attar.select(digits, "herding", other, ipc=1)
    assert len(attar.select(digits, "random", other, ipc=1).labels) == 10  # needs no network


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("herdin", {}, "unknown core-set 'herdin'; did you mean 'herding'"),
        ("random", {"ipc": 120}, "class '0' has 119 images, fewer than ipc 120"),
        ("random", {"ipc": 0}, "ipc must be at least 1, not 0"),
        ("kcenter", {"features": "pixel"}, "unknown features 'pixel'; did you mean 'pixels'"),
        ("kcenter", {"factor": 2}, "kcenter selects whole images and takes no factor; leave it out"),
    ],
)
def test_bad_arguments(method: str, settings: dict[str, Any], words: str, digits: ImageData) -> None:
    with pytest.raises(UserError, match=words):
        attar.select(digits, method, **settings)


def test_a_folder_holds_what_is_returned(digits: ImageData, tmp_path: Path) -> None:
    condensed = attar.select(digits, "kcenter", features="pixels", ipc=2, folder=tmp_path / "run")
    loaded = attar.load_set(tmp_path / "run")
    assert (
        torch.equal(loaded.images, condensed.images)
        and loaded.method == "kcenter"
        and loaded.recipe == condensed.recipe
    )
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (written["method"], written["features"], written["ipc"]) == ("kcenter", "pixels", 2)
    with pytest.raises(UserError, match="run already holds a run"):
        attar.select(digits, "kcenter", features="pixels", ipc=2, folder=tmp_path / "run")
    measured = attar.evaluate(condensed, digits, runs=1, epochs=1, yardsticks=["random_real"], width=0.05)
    assert (measured["method"], measured["accuracy"]["convnet2"]["images"]) == ("kcenter", 20)


# ---- on the command line ----


@pytest.fixture
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the pool of `workspace`."""
    (tmp_path / "pool").symlink_to(workspace / "pool")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(run: str) -> dict[str, Any]:
    return json.loads(Path(run, "result.json").read_text(encoding="utf-8"))


def test_from_choice_to_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("select", "herding", "-d", "digits", *FLAGS, "--ipc", "2")
    assert "next: attar evaluate runs/digits-herding-ipc2" in capsys.readouterr().out
    run = Path("runs/digits-herding-ipc2")
    names = {"config.json", "condensed.safetensors", "result.json", "images.png", "report.html"}
    assert {file.name for file in run.iterdir()} == names
    condensed = attar.load_set(run)
    expected = attar.select(attar.load("digits"), "herding", ipc=2, epochs=1, **NETWORK)
    assert torch.equal(condensed.images, expected.images)
    assert result(str(run))["features"].startswith("e1-seed0-")
    call("evaluate", str(run), *QUICK)
    written = result(str(run))
    assert (written["method"], written["factor"], written["ipc"]) == ("herding", 1, 2)
    assert written["seconds"].keys() == {"pretrain", "select", "evaluate"}
    for kind in ("accuracy", "random_real", "whole"):
        assert written[kind]["convnet2"]["n"] == 2
    assert "initial" not in written
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "method herding" in page and "outer iteration" not in page
    assert "lr_img" not in page, "a core-set has no settings of a condensation"


def test_a_run_is_a_recipe(here: Path) -> None:
    call("select", "random", "-d", "digits", "--ipc", "2", "--seed", "7", "--out", "one", "--quiet")
    call("select", "random", "--recipe", "one/config.json", "--out", "two", "--quiet")
    assert torch.equal(attar.load_set(Path("one")).images, attar.load_set(Path("two")).images)
    call("select", "random", "-d", "digits", "--ipc", "1", "--out", "one", "--overwrite", "--quiet")
    assert attar.load_set(Path("one")).ipc == 1


def test_other_features(here: Path) -> None:
    member = sorted(Path("pool/digits-convnet2-w0.05").iterdir())[1]
    call("select", "kcenter", "-d", "digits", *FLAGS, "--ipc", "1", "--features", str(member), "--out", "one", "-q")
    call("select", "kcenter", "-d", "digits", "--ipc", "1", "--features", "pixels", "--out", "two", "-q")
    assert result("one")["features"] == member.stem and result("two")["features"] == "pixels"
    assert not torch.equal(attar.load_set(Path("one")).images, attar.load_set(Path("two")).images)


@pytest.mark.parametrize("to", ["npz", "parquet"])
def test_an_export_knows_its_method(to: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("select", "random", "-d", "digits", "--ipc", "1", "--out", "run", "--quiet")
    call("export", "run", "--to", to, "--out", "out")
    name = "out.npz" if to == "npz" else "out"
    if to == "parquet":
        assert "10 real images of 1x8x8" in Path("out/README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    call("evaluate", name, *QUICK, "--yardsticks", "none", "--width", "0.05", "--json")
    assert json.loads(capsys.readouterr().out)["method"] == "random"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "herdng -d digits",
            "unknown core-set 'herdng'; did you mean 'herding'? valid: aum, ccs, el2n, ",
        ),
        ("random -d digits --ipc 120", "class '0' has 119 images, fewer than ipc 120"),
        ("kcenter -d digits --features pixls", "unknown features 'pixls'; did you mean 'pixels'? valid: early, pixels"),
        ("kcenter -d digits --features no/where", "there is no pool at no/where; features are early, pixels or a pool"),
        ("kcenter -d digits --features pool/digits-convnet2-w0.05", "has width 0.05, but 0.5 is asked for"),
        ("kcenter -d digits --size 16 --width 0.05 --features pool/digits-convnet2-w0.05", "not for images of 16x16"),
        ("kcenter -d digits -n convnet7", "a convnet of depth 7 leaves nothing of images of 8x8"),
        ("kcenter -d digits --lr_img 1", "--lr_img"),
        ("random -d digits --out taken", "taken already holds a run"),
    ],
)
def test_refusals(flags: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "taken").mkdir()
    (here / "taken" / "result.json").write_text("{}")
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["select", *flags.split()])
    output = capsys.readouterr()
    assert stop.value.code == 2 and words in output.err and output.err.count("\n") == 1, output.err
    assert sorted(here.rglob("*")) == before
