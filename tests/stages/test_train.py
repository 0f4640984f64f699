"""`attar train` and the loops of docs/train.md: the evaluation's protocol, with a network to keep."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import attar
from attar import models
from attar.sets.synthetic import SyntheticSet
from benchmarks import train_page
from helpers.command import call, refused

QUICK: dict[str, Any] = {"epochs": 3, "width": 0.05}


@pytest.fixture(scope="module")
def small() -> SyntheticSet:
    return attar.select("digits", "herding", ipc=3, features="pixels")


def accuracy_of(network: nn.Module) -> float:
    with torch.no_grad():
        hits = [network(x).argmax(1) == y for x, y in attar.load("digits").test_batches()]
    return float(torch.cat(hits).float().mean())


def test_the_network_of_the_evaluation(small: SyntheticSet) -> None:
    """The same seed gives the network that `evaluate` trained, and its accuracy."""
    measured = attar.evaluate(small, runs=2, yardsticks="none", networks=["convnet2"], **QUICK)
    for seed, expected in enumerate(measured["accuracy"]["convnet2"]["runs"]):
        network = attar.train(small, "convnet2", seed=seed, **QUICK)
        assert not network.training and accuracy_of(network) == pytest.approx(expected)


def test_images_of_another_brightness(small: SyntheticSet, caplog: pytest.LogCaptureFixture) -> None:
    """The network sees what the set's `normalize` makes, whatever real images it is tested on."""
    caplog.set_level(logging.INFO, "attar")
    digits = attar.load("digits")
    assert digits.test_images is not None

    def darker(images: Any) -> Tensor:
        return (images.float() * 0.4 + 150).to(torch.uint8)

    other = attar.ImageData(darker(digits.images), digits.labels, digits.test_images, digits.test_labels, name="other")
    assert other.mean != small.mean
    rounded = digits.at_scale([value + 1e-9 for value in digits.mean], digits.std)
    networks, told = [], []
    for data in (digits, rounded, other):
        caplog.clear()
        networks.append(attar.train(small, "convnet2", data, **QUICK).state_dict())
        told.append("normalised by the set's mean and std, not by those of" in caplog.text)
    assert told == [False, False, True]
    for network in networks[1:]:
        assert all(torch.equal(value, network[name]) for name, value in networks[0].items())


class Mine(nn.Sequential):
    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def test_own_networks_come_back_in_one_piece(small: SyntheticSet, tmp_path: Path) -> None:
    network = attar.train(small, Mine, epochs=3, out=tmp_path / "new" / "mine.safetensors")
    assert type(network) is Mine and int(network[1].num_batches_tracked) == 3
    again = Mine(1, 10, (8, 8)).eval()
    again.load_state_dict(load_file(tmp_path / "new" / "mine.safetensors"))
    assert accuracy_of(again) == accuracy_of(network)
    before = {name: value.clone() for name, value in again.state_dict().items()}
    further = attar.train(small, again, epochs=1, lr=1e-9)
    assert type(further) is Mine and further is not again
    for name, value in again.state_dict().items():
        assert torch.equal(value, before[name]), "the network that was given stays as it is"
    torch.testing.assert_close(further[4].weight, before["4.weight"], msg="training began from its weights")


def test_beside_an_export_the_network_is_no_pool(
    small: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attar.export_set(small, "parquet", "out")
    flags = ("--epochs", "1", "--width", ".05", "--networks", "convnet2", "--quiet")
    call("train", "out", "-d", "digits", *flags[:4], "--network", "convnet2", "--quiet")
    assert Path("out/model.safetensors").is_file()
    call("evaluate", "out", "-d", "digits", "--runs", "1", "--yardsticks", "none", *flags)


def test_on_the_command_line(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(workspace / "base")
    call("train", run, "--network", "resnet10", "--out", "m.safetensors", "--epochs", "2", "--width", ".1", "--quiet")
    said = capsys.readouterr().out
    with safe_open("m.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["attar"])
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert f"resnet10: {100 * about['accuracy']:.1f} % on test images, after 2 epochs on 10 images" in said
    module = models.build("resnet10", channels=1, nclass=10, size=(8, 8), width=0.1)
    assert shapes == {name: value.shape for name, value in module.state_dict().items()}
    module.load_state_dict(load_file("m.safetensors"))
    assert accuracy_of(module.eval()) == pytest.approx(about["accuracy"])
    assert (about["network"]["label"], about["classes"][3], about["seed"]) == ("resnet10", "3", 0)
    assert "exists; name another file with --out, or add --overwrite" in refused(
        capsys, "train", run, "--out", "m.safetensors"
    )
    assert "unknown network 'resnt'; did you mean 'resnet'" in refused(capsys, "train", run, "--network", "resnt")
    assert "there is no run folder or file nothing" in refused(capsys, "train", "nothing")
    assert "diverged in training; lower the learning rate" in refused(
        capsys, "train", run, "--out", "n.safetensors", "--lr", "1e15", "--epochs", "5", "--quiet"
    )
    assert not Path("n.safetensors").exists()


def test_without_the_real_images(small: SyntheticSet, tmp_path: Path, said: list[str]) -> None:
    """A set that came alone trains a network, untested; images that are named must be there."""
    alone = SyntheticSet(
        small.images, small.labels, classes=small.classes, mean=small.mean, std=small.std, source="elsewhere"
    )
    out = tmp_path / "m.safetensors"
    network = attar.train(alone, Mine, epochs=2, out=out)
    assert any(line.startswith("the network is not tested: ") for line in said)
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["attar"])["accuracy"] is None
    assert accuracy_of(network) > 0.1
    with pytest.raises(attar.UserError, match="nowhere"):
        attar.train(alone, Mine, "nowhere/at-all", epochs=2)
    with pytest.raises(attar.UserError, match="elsewhere"):
        attar.train(alone, Mine, data_dir="nowhere", epochs=2)


def test_no_input_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    attar.select("digits", "random", ipc=1, folder="run")
    before = {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    for name in ("condensed.safetensors", "config.json"):
        with pytest.raises(attar.UserError, match="is a file of the run in run; name another file"):
            attar.train("run", "convnet2", out=f"run/{name}", overwrite=True, **QUICK)
    assert {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before
    attar.load_set("run").save("alone.safetensors")
    with pytest.raises(attar.UserError, match="is the set that is trained on"):
        attar.train("alone.safetensors", "convnet2", out="./alone.safetensors", overwrite=True, **QUICK)
    assert attar.load_set("alone.safetensors").ipc == 1


def test_where_nothing_can_be_written_nothing_is_trained(
    small: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr("attar.stages.train.train_network", lambda *_: pytest.fail("it is trained"))
    with pytest.raises(attar.UserError, match=r"the folder .*file cannot be made: .*; name another file"):
        attar.train(small, Mine, epochs=2, out=tmp_path / "file" / "mine.safetensors")
    with pytest.raises(attar.UserError, match="unknown network 'resnt'"):
        attar.train(small, "resnt", epochs=2, out=tmp_path / "new" / "mine.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left of what was refused"


@pytest.mark.parametrize("kind", train_page.STARTS)
def test_the_loops_of_the_page(
    kind: str, small: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plain loop, as it stands on the page, is as good as `attar.train`; the others where their packages are."""
    if kind != "plain":
        pytest.importorskip(kind)
    monkeypatch.chdir(tmp_path)
    attar.save_set("runs/demo/condensed.safetensors", small)
    reached = train_page.accuracy(kind, seed=0, epochs=60)
    names: dict[str, Any] = {}
    exec(next(block for block in train_page.blocks() if "def cutmix" in block), names)
    if kind != "timm":
        assert abs(reached - accuracy_of(attar.train(small, names["make"], epochs=60))) < 0.04 and reached > 0.8


def test_cutmix_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: SyntheticSet) -> None:
    monkeypatch.chdir(tmp_path)
    attar.save_set("runs/demo/condensed.safetensors", small)
    names: dict[str, Any] = {}
    exec(next(block for block in train_page.blocks() if "def cutmix" in block), names)
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 8, 8)
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, targets = names["cutmix"](images, torch.arange(10), p=1)
        shares: Tensor = (mixed[:, :, :, :, None] == torch.arange(10)).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(targets, shares)
