"""FGSM and PGD against a loop over single images in float64, and what an evaluation says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import attar
from attar.data.images import ImageData
from attar.evaluation import attacks, measure
from attar.evaluation.measure import TrainingJob
from attar.settings.config import EvaluateConfig, NetworkConfig
from attar.training.train_state import TrainState
from helpers.command import call, refused

NETWORK = NetworkConfig(depth=2, width=0.1)
CONFIG = EvaluateConfig(aug_type="none", mix_p=0.0, attacks=("fgsm", "pgd"), attack_eps=16.0, attack_images=40)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return attar.load("digits")


@pytest.fixture(scope="module")
def model(digits: ImageData) -> TrainState:
    job = TrainingJob("convnet2", NETWORK, "whole", CONFIG, epochs=3, seed=0)
    return measure.train_network(job, digits.images, digits.labels, digits)


def gradient_of_one(model: TrainState, pixels: Tensor, label: int, data: ImageData) -> Tensor:
    """The gradient of −log p(label) for the pixels [ch, H, W] in [0, 1] of one image, float64."""
    pixels = pixels.clone().requires_grad_()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (data.mean, data.std))
    params = {name: value.detach().double() for name, value in (model.params | model.buffers).items()}
    logits = functional_call(model.module, params, (((pixels - mean) / std)[None],))[0]
    (-logits.log_softmax(0)[label]).backward()
    assert pixels.grad is not None
    return pixels.grad


def moved_by_hand(model: TrainState, data: ImageData, name: str, eps: float, seed: int) -> tuple[list[Tensor], Tensor]:
    """The 40 attacked images one by one, and their labels."""
    assert data.test_images is not None and data.test_labels is not None
    rows = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))[:40].sort()[0]
    images, labels = data.test_images[rows].double() / 255, data.test_labels[rows]
    starts = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)).double()
    moved = []
    for image, label, start in zip(images, labels.tolist(), starts, strict=True):
        if name == "fgsm":
            moved.append((image + eps * gradient_of_one(model, image, label, data).sign()).clamp(0, 1))
            continue
        x = (image - eps + 2 * eps * start).clamp(0, 1)
        for _ in range(10):
            x = x + eps / 4 * gradient_of_one(model, x, label, data).sign()
            x = (image + (x - image).clamp(-eps, eps)).clamp(0, 1)
        moved.append(x)
    return moved, labels


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_an_attack_is_that_of_a_loop_over_images(
    name: str, digits: ImageData, model: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor] = []
    attack = getattr(attacks, name)
    monkeypatch.setattr(attacks, name, lambda *values: found.append(attack(*values)) or found[-1])
    config = EvaluateConfig(attacks=(name,), attack_eps=16.0, attack_images=40)
    accuracy = attacks.under_attack(model, digits, config, seed=3)[name]
    moved, labels = moved_by_hand(model, digits, name, 16 / 255, seed=3)
    far = (torch.cat(found).double() - torch.stack(moved)).abs()
    assert float((far > 1e-5).double().mean()) < 0.002, "signs of gradients that are nearly 0 may differ"
    with torch.no_grad():
        right = model(digits.normalize(torch.stack(moved).float())).argmax(1) == labels
    assert accuracy == pytest.approx(float(right.float().mean()), abs=1 / 40)
    assert float(found[0].min()) >= 0 and float(found[0].max()) <= 1


def test_stronger_attacks_leave_less(digits: ImageData, model: TrainState) -> None:
    clean = attacks.under_attack(model, digits, EvaluateConfig(attacks=("fgsm",), attack_eps=0.5), 0)["fgsm"]
    found = attacks.under_attack(model, digits, EvaluateConfig(attacks=("fgsm", "pgd"), attack_eps=64), 0)
    assert clean > 0.6 and found["pgd"] < found["fgsm"] + 0.02 < clean
    assert (
        attacks.under_attack(model, digits, EvaluateConfig(attacks=("pgd",), attack_eps=64), 0)["pgd"] == found["pgd"]
    )
    assert attacks.under_attack(model, digits, EvaluateConfig(), 0) == {}


def test_the_command_line(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under attack and plain; the same seed gives the same number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    set_file = str(workspace / "base" / "condensed.safetensors")
    line = ("evaluate", set_file, "--runs", "2", "--epochs", "2", "--yardsticks", "random_real", "--json", "--quiet")
    results = []
    for flags in (("--attacks", "fgsm", "pgd", "--plain", "--attack_images", "50"), ("--attacks", "fgsm"), ()):
        call(*line, *flags)
        results.append(json.loads(capsys.readouterr().out))
    full, fewer, none = results
    assert list(full["plain"]) == list(full["random_plain"]) == ["convnet2"] and "plain" not in none
    assert (
        full["plain"]["convnet2"]["runs"]
        != full["accuracy"]["convnet2"]["runs"]
        == none["accuracy"]["convnet2"]["runs"]
    )
    attacked = full["accuracy"]["convnet2"]["attacked"]
    assert (attacked["eps"], attacked["images"], attacked["pgd"]["n"]) == (8 / 255, 50, 2)
    assert (
        fewer["accuracy"]["convnet2"]["attacked"]["images"] == 599
        and "pgd" not in fewer["accuracy"]["convnet2"]["attacked"]
    )
    call(*line[:-2], "--attacks", "fgsm", "pgd", "--attack_images", "50", "--quiet")
    said = capsys.readouterr().out
    assert "convnet2: under attack (eps 8/255, 50 test images; pgd: 10 steps of 2/255): FGSM condensed " in said
    again = f"PGD condensed {100 * attacked['pgd']['mean']:.1f} ± {100 * attacked['pgd']['std']:.1f}, random real"
    assert again in said, "the same seed gives the same number"
    words = refused(capsys, "evaluate", set_file, "--attacks", "pdg")
    assert "unknown attacks 'pdg'; did you mean 'pgd'?" in words
    a_fraction = refused(capsys, "evaluate", set_file, "--attacks", "pgd", "--attack_eps", "0.03")
    assert "attack_eps must be between 0.5 and 255, not 0.03" in a_fraction


def test_a_comparison_shares_networks_under_attack(tmp_path: Path) -> None:
    """Random real images without augmentation are the same for both entries, and are trained on once."""
    evaluation = {"epochs": 1, "plain": True, "attacks": ["fgsm"], "attack_images": 50, "yardsticks": ["random_real"]}
    entries = [{"method": "random"}, {"method": "herding", "features": "pixels"}]
    spec = {"dataset": "digits", "width": 0.05, "runs": 1, "evaluate": evaluation, "entry": entries}
    attar.compare(spec, out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    plain = [line["random_plain"]["convnet2"] for line in lines if "entry" in line]
    assert len(plain) == 2 and plain[0] == plain[1] and plain[0]["attacked"]["images"] == 50
