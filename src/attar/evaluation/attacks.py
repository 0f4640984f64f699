"""Accuracy under attack: each test image is moved within a small box of pixel values to where the network errs.

FGSM (Goodfellow et al. 2015) makes one step; PGD (Madry et al. 2018) makes ten from a random start.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.data.images import TEST_PIXELS, ImageData
from attar.settings.config import EvaluateConfig
from attar.training.train_state import TrainState

LEVELS = 255  # eps is given in these, as pixels of 8 bits have them
PGD_STEPS, PGD_STEP = 10, 0.25  # how many, each this share of eps: 2/255 at the usual 8/255
SAMPLE_SEED = 0  # draws the attacked test images: the same ones for every network and training set

Gradient = Callable[[Tensor], Tensor]  # images in [0, 1] → gradient of the summed cross-entropy for their pixels


def under_attack(model: TrainState, data: ImageData, config: EvaluateConfig, seed: int) -> dict[str, float]:
    """{attack: accuracy of a network on attacked test images, a fraction}; it is attacked with the true labels.

    seed: of PGD's random starts.
    """
    if not config.attacks:
        return {}
    model.module.eval()
    right, count, eps = dict.fromkeys(config.attacks, 0), 0, config.attack_eps / LEVELS
    generator = Generator(data.device).manual_seed(seed)
    for images, labels in _sample(data, config.attack_images):

        def gradient(moved: Tensor, labels: Tensor = labels) -> Tensor:
            moved = moved.detach().requires_grad_()
            loss = F.cross_entropy(model(data.normalize(moved)), labels, reduction="sum")
            return torch.autograd.grad(loss, moved)[0]

        for name in config.attacks:
            moved = fgsm(images, gradient, eps) if name == "fgsm" else pgd(images, gradient, eps, generator)
            with torch.no_grad():
                right[name] += int((model(data.normalize(moved)).argmax(dim=1) == labels).sum())
        count += len(labels)
    model.module.train()
    return {name: value / count for name, value in right.items()}


def fgsm(images: Tensor, gradient: Gradient, eps: float) -> Tensor:
    """Every pixel moved by eps to where the loss grows, images [n, ch, H, W] staying in [0, 1]."""
    return (images + eps * gradient(images).sign()).clamp(0, 1)


def pgd(images: Tensor, gradient: Gradient, eps: float, generator: Generator) -> Tensor:
    """Ten steps of eps / 4 from a random start, no pixel farther than eps from where it was, nor outside [0, 1]."""
    start = torch.rand(images.shape, generator=generator, device=images.device)
    moved = (images + eps * (2 * start - 1)).clamp(0, 1)
    for _ in range(PGD_STEPS):
        moved = moved + PGD_STEP * eps * gradient(moved).sign()
        moved = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(0, 1)
    return moved


def _sample(data: ImageData, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random test images in [0, 1] and their labels, all where there are no more than `count`, in batches."""
    assert data.test_images is not None and data.test_labels is not None  # see `check_set_fits`
    order = torch.randperm(len(data.test_labels), generator=Generator().manual_seed(SAMPLE_SEED))
    for rows in (
        order[:count].sort()[0].to(data.device).split(max(1, TEST_PIXELS // 8 // (data.size[0] * data.size[1])))
    ):
        yield data.test_images[rows].float() / LEVELS, data.test_labels[rows]


def entry(runs: Sequence[Mapping[str, float]], config: EvaluateConfig, tested: int) -> dict[str, Any]:
    """What `result.json` says of several runs: the strength, on how many test images, and accuracies by attack.

    tested: how many test images there are.
    """
    measured: dict[str, Any] = {"eps": config.attack_eps / LEVELS, "images": min(config.attack_images, tested)}
    for name in config.attacks:
        values = [run[name] for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else None
        measured[name] = {"mean": statistics.fmean(values), "std": std, "runs": values, "n": len(values)}
    return measured
