"""The Python interface, as the README shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import attar
from attar.data.images import ImageData
from helpers.command import call

TINY: dict[str, Any] = {"niter": 1, "inner_loop": 2, "n_data": 64}
QUICK: dict[str, Any] = {"runs": 2, "epochs": 2, "whole_epochs": 1}


@pytest.fixture(scope="module")
def condensed(digits: ImageData) -> attar.SyntheticSet:
    pool = attar.pretrain(digits, epochs=1, models=2, width=0.05)
    return attar.condense(digits, pool, ipc=2, factor=2, **TINY)


def test_the_example(digits: ImageData, condensed: attar.SyntheticSet) -> None:
    assert (condensed.ipc, condensed.factor, condensed.nclass, condensed.source) == (2, 2, 10, "digits")
    report = attar.evaluate(condensed, digits, networks=["convnet"], **QUICK)
    assert {"attar", "dataset", "ipc", "factor", "method", "accuracy", "initial", "random_real", "whole"} <= set(report)
    assert report["dataset"] == "digits"
    assert report["accuracy"]["convnet2"]["n"] == 2
    assert report["accuracy"]["convnet2"]["width"] == 0.05  # the network of the pool
    assert report["seconds"]["evaluate"] > 0
    assert report.mean("convnet2") == report["accuracy"]["convnet2"]["mean"]
    images, labels = next(iter(DataLoader(condensed.dataset(), batch_size=64)))
    assert images.shape == (64, 1, 8, 8)
    assert labels.dtype == torch.int64
    assert len(condensed.dataset()) == 10 * 2 * 4
    plain, _ = next(iter(DataLoader(condensed.dataset(normalized=False), batch_size=80)))
    assert 0 <= plain.min() <= plain.max() <= 1
    normalised, _ = next(iter(DataLoader(condensed.dataset(), batch_size=80)))
    assert torch.allclose(normalised, (plain - digits.mean[0]) / digits.std[0])


def test_the_same_call_gives_the_same_bits(digits: ImageData, condensed: attar.SyntheticSet) -> None:
    pool = attar.pretrain(digits, epochs=1, models=2, width=0.05)
    again = attar.condense(digits, pool, ipc=2, factor=2, **TINY)
    assert torch.equal(condensed.images, again.images)


def test_without_a_pool_it_is_trained(digits: ImageData, condensed: attar.SyntheticSet) -> None:
    again = attar.condense(digits, epochs=1, models=2, width=0.05, ipc=2, factor=2, **TINY)
    assert torch.equal(condensed.images, again.images)
    assert again.recipe["pool"]["epochs"] == 1
    assert again.recipe["network"]["width"] == 0.05


def test_a_kept_pool(digits: ImageData, condensed: attar.SyntheticSet, tmp_path: Path) -> None:
    attar.pretrain(digits, epochs=1, models=2, width=0.05, folder=tmp_path)
    again = attar.condense(digits, ipc=2, factor=2, width=0.05, model_path=str(tmp_path), **TINY)
    assert torch.equal(condensed.images, again.images)


def test_a_set_comes_back_from_its_file(digits: ImageData, condensed: attar.SyntheticSet, tmp_path: Path) -> None:
    attar.save_set(tmp_path / "small.safetensors", condensed)
    again = attar.load_set(tmp_path / "small.safetensors")
    assert torch.equal(condensed.images, again.images)
    assert again.recipe == condensed.recipe
    measure = {"yardsticks": (), **QUICK}
    first, second = (attar.evaluate(one, digits, **measure)["accuracy"] for one in (condensed, again))
    assert first == second


def test_arrays_of_the_user() -> None:
    """Arrays in, no test set: condensing needs none, evaluating says so."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 12, 10), generator=generator, dtype=torch.uint8)
    labels = torch.arange(4).repeat(10)
    data = attar.ImageData(images.numpy(), labels.numpy(), classes=["a", "b", "c", "d"], name="mine")
    pool = attar.pretrain(data, epochs=1, models=1, width=0.05)
    condensed = attar.condense(data, pool, method="accdd", ipc=2, factor=3, **TINY)
    assert condensed.images.shape == (8, 3, 12, 10)
    assert condensed.recipe["data"]["dataset"] == "mine"
    with pytest.raises(attar.UserError, match="mine has no test images"):
        attar.evaluate(condensed, data)
    tested = attar.ImageData(images, labels, images[:8], labels[:8], classes=["a", "b", "c", "d"], name="mine")
    assert attar.evaluate(condensed, tested, yardsticks=["none"], **QUICK)["accuracy"]["convnet2"]["n"] == 2


def test_a_recipe_by_name(digits: ImageData) -> None:
    pool = attar.pretrain(digits, recipe="fashion-cpu", models=1, epochs=1, width=0.05)
    assert pool.network.depth is None  # not that of digits
    condensed = attar.condense(digits, pool, recipe="fashion-cpu", **TINY)
    assert condensed.factor == 2
    assert condensed.recipe["data"]["dataset"] == "digits"  # not fashion
    report = attar.evaluate(condensed, digits, recipe="fashion-cpu", width=0.05, yardsticks=(), **QUICK)
    assert list(report["accuracy"]) == ["convnet3"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: attar.load("digit"), "unknown data set 'digit'; did you mean 'digits'?"),
        (lambda data: attar.pretrain(data, epoch=2), "unknown setting 'epoch'; did you mean 'epochs'?"),
        (lambda data: attar.pretrain(data, net_type="convnt"), "unknown network 'convnt'; did you mean 'convnet'?"),
        (lambda data: attar.condense(data, ipcc=1), "unknown setting 'ipcc'; did you mean 'ipc'?"),
        (lambda data: attar.condense(data, ipc="1"), "ipc must be a whole number, not '1'"),
        (lambda data: attar.condense(data, ipc=0), "ipc must be at least 1, not 0"),
        (lambda data: attar.condense(data, ipc=1000), "class '0' has 119 images, fewer than ipc 1000"),
        (lambda data: attar.condense(data, metric="l3"), "unknown metric 'l3'; did you mean 'l1'?"),
        (lambda data: attar.condense(data, recipe="digit"), "unknown recipe 'digit'; did you mean 'digits'?"),
        (lambda data: attar.load("digits", device="gpu"), "unknown device 'gpu'"),
        (lambda data: attar.condense(data, nclass_sub=5, ray="local"), "ray condenses parts in run folders; name a"),
    ],
)
def test_the_same_words_as_on_the_command_line(call: Any, words: str, digits: ImageData) -> None:
    with pytest.raises(ValueError) as caught:
        call(digits)
    assert isinstance(caught.value, attar.UserError)
    assert words in str(caught.value)


@pytest.mark.parametrize("setting", ["device", "size", "nclass", "cache_dir", "test_fraction", "dataset"])
@pytest.mark.parametrize("function", [attar.condense, attar.pretrain, attar.evaluate, attar.select])
def test_settings_of_loading_are_refused_beside_loaded_images(
    function: Any, setting: str, digits: ImageData, condensed: attar.SyntheticSet
) -> None:
    """They would do nothing, and stand in the set as if they had."""
    value = {"device": "cuda", "cache_dir": "x", "dataset": "cifar10", "test_fraction": 0.5}.get(setting, 4)
    first: tuple[Any, ...] = {attar.select: (digits, "random"), attar.evaluate: (condensed, digits)}.get(
        function, (digits,)
    )
    with pytest.raises(attar.UserError, match=f"^{setting} belongs to attar.load"):
        function(*first, **{setting: value})


def test_the_nearest_settings_are_named_and_no_others(digits: ImageData) -> None:
    with pytest.raises(attar.UserError) as caught:
        attar.condense(digits, nclas=3)
    assert str(caught.value).startswith("unknown setting 'nclas'; ") and "nclass," not in str(caught.value)
    assert len(str(caught.value)) < 120 and str(caught.value).count(",") <= 2
    with pytest.raises(attar.UserError, match="did you mean 'nclass'"):
        attar.condense("digits", nclas=3)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"width": 0.5}, "width belongs to attar.pretrain.*: the pool has width 0.05, not 0.5"),
        ({"net_type": "convnet3"}, "net_type belongs to .*: the pool has architecture convnet2, not convnet3"),
        ({"epochs": 2}, "epochs belongs to .*: the pool was not trained with epochs 2"),
    ],
)
def test_settings_that_the_pool_has_otherwise(setting: Any, words: str, digits: ImageData) -> None:
    pool = attar.pretrain(digits, epochs=1, models=1, width=0.05)
    with pytest.raises(attar.UserError, match=words):
        attar.condense(digits, pool, **TINY, **setting)


def test_text_names_files_and_folders_everywhere(
    digits: ImageData, condensed: attar.SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attar.save_set("small.safetensors", condensed)
    attar.pretrain(digits, epochs=1, models=1, width=0.05, folder="pool")
    by_path = attar.condense("digits", "pool", ipc=1, width=0.05, **TINY)
    by_pool = attar.condense("digits", attar.pretrain("digits", epochs=1, models=1, width=0.05), ipc=1, **TINY)
    assert torch.equal(by_path.images, by_pool.images)
    chosen = attar.select("digits", "herding", "pool", width=0.05)
    assert chosen.coreset == "herding"
    assert attar.export_set("small.safetensors", "npz", "out") == Path("out.npz")
    for phase in (0, 1):
        attar.condense(
            "digits", "pool", width=0.05, folder=f"part{phase}", nclass_sub=5, phase=phase, eval_at=(), **TINY
        )
    joined = attar.concatenate(["part1", "part0"])
    assert joined.labels.unique().tolist() == list(range(10))
    assert torch.equal(attar.load_set("part0").images, attar.load_set(Path("part0")).images)
    measured = attar.evaluate("small.safetensors", "digits", yardsticks=(), **QUICK)
    assert measured["accuracy"]["convnet2"]["n"] == 2


def test_what_load_takes_is_taken_everywhere(digits: ImageData) -> None:
    """A torch data set, and a dict of arrays; settings of the data go to `load`."""
    images, labels = digits.images[:200], digits.labels[:200]
    pairs = TensorDataset(images, labels)
    test = (images[:50].numpy(), labels[:50].numpy())
    for data in (pairs, {"train": (images.numpy(), labels.numpy()), "test": test}):
        pool = attar.pretrain(data, epochs=1, models=1, width=0.05, device="cpu")
        small = attar.condense(data, pool, method="accdd", ipc=1, nclass=10, **TINY)
        assert (small.nclass, small.recipe["data"]["device"], small.recipe["data"]["nclass"]) == (10, "auto", 10)
        assert attar.select(data, "random", ipc=1).images.shape == (10, 1, 8, 8)
        assert attar.evaluate(small, data, yardsticks=(), **QUICK)["accuracy"]


def test_a_run_of_loaded_images_is_resumed_with_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings that the images were loaded with stand in config.json, and in the set."""
    monkeypatch.chdir(tmp_path)
    data = attar.load("digits", nclass=3, device="cpu")
    small = attar.condense(data, folder="run", epochs=1, models=1, width=0.05, **TINY)
    asked = {"dataset": "digits", "nclass": 3, "device": "cpu", "size": None}
    for recipe in (small.recipe, json.loads(Path("run/config.json").read_text(encoding="utf-8"))):
        assert {name: recipe["data"][name] for name in asked} == asked
    call("condense", "--resume", "run", "--niter", "2", "--quiet")
    assert attar.load_set("run").nclass == 3
    assert dict(data.resized(6).subset(2).loaded) == {"dataset": "digits", "nclass": 2, "device": "cpu", "size": 6}
    assert attar.evaluate("run", yardsticks=(), **QUICK)["accuracy"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: attar.load("nowhere/photos"),
        lambda: attar.load_set(Path("nowhere.safetensors")),
        lambda: attar.condense(attar.load("digits"), recipe="nowhere.toml"),
        lambda: attar.condense(attar.load("digits"), model_path="nowhere"),
    ],
)
def test_what_is_not_there_is_a_file_not_found(call: Any) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        call()
    assert isinstance(caught.value, attar.MissingError)
    assert "nowhere" in str(caught.value)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_stay_functions_whatever_was_imported_before() -> None:
    code = (
        "import attar.evaluation.measure, attar.condensation.loop, attar.training.pool, attar.data.load\n"
        "import attar.stages.condense, attar.stages.evaluate, attar.stages.select, attar.stages.pretrain\n"
        "import attar\n"
        "print(all(callable(getattr(attar, name)) for name in attar.__all__), attar.condense.__module__)"
    )
    assert run(code) == "True attar.stages.condense"


def test_importing_attar_is_quick() -> None:
    assert run("import sys, attar; attar.__version__; print('torch' in sys.modules)") == "False"
    assert run("import sys, attar; attar.UserError; print('torch' in sys.modules)") == "False"


def test_completion_shows_the_public_names_and_nothing_else() -> None:
    assert dir(attar) == sorted([*attar.__all__, "__version__"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'attar' has no attribute 'distil'"):
        _ = attar.distil
