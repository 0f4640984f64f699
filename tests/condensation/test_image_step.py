"""How the images move: the same steps as PyTorch's optimisers make in the pixels of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from attar.condensation import image_step
from attar.condensation.image_step import ImageOptimizer
from helpers import naive

MEAN, STD = (torch.tensor(value, dtype=torch.float64).view(-1, 1, 1) for value in ((0.3, 0.6), (0.2, 0.4)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def moved(
    images: Tensor, gradients: list[Tensor], image_optimizer: ImageOptimizer, losses: list[float] | None = None
) -> Tensor:
    """The images after a step along each of `gradients`, taken for [0, 1] pixels."""
    momentum, kept = torch.zeros_like(images), image_step.start(images, image_optimizer)
    for gradient, loss in zip(gradients, losses or [0.0] * len(gradients), strict=True):
        kept = image_step.reduce_lr_on_plateau(kept, torch.tensor(loss, dtype=torch.float64), image_optimizer)
        images, momentum, kept = image_step.move(images, momentum, gradient, kept, image_optimizer)
    return images


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_step_is_pytorchs_in_the_pixels_of_the_paper(optimizer: str, normalized: bool) -> None:
    """In normalised pixels z = (x − mean)/std the gradient is std·∂L/∂x, by the chain rule."""
    images, gradients = normal(3, 2, 2, 4, 4, seed=1).sigmoid(), [normal(3, 2, 2, 4, 4, seed=s) for s in range(2, 7)]
    mean, std = (MEAN, STD) if normalized else (torch.zeros_like(MEAN), torch.ones_like(STD))
    z = ((images - mean) / std).requires_grad_()
    other: torch.optim.Optimizer = (
        torch.optim.SGD([z], lr=0.3, momentum=0.5) if optimizer == "sgd" else torch.optim.AdamW([z], lr=0.3)
    )
    for gradient in gradients:
        ((z * std + mean) * gradient).sum().backward()  # a loss whose gradient for x is `gradient`
        other.step()
        other.zero_grad()
    image_optimizer = ImageOptimizer(
        0.3, 0.5, optimizer=optimizer, mean=mean if normalized else None, std=std if normalized else None
    )
    got = moved(images, gradients, image_optimizer)
    torch.testing.assert_close(got, (z * std + mean).detach(), rtol=1e-12, atol=1e-12)
    assert (got - images).abs().mean() > 0.05


@pytest.mark.parametrize("normalized", [True, False])
def test_clipping_shortens_the_gradients_of_images_that_would_move_too_far(normalized: bool) -> None:
    images, gradient = normal(3, 2, 2, 4, 4, seed=1).sigmoid(), normal(3, 2, 2, 4, 4, seed=2)
    gradient[0, 0], gradient[1, 1] = 100 * gradient[0, 0], 0.0
    optimizer = ImageOptimizer(0.3, 0.0, mean=MEAN if normalized else None, std=STD if normalized else None)
    clipped = image_step.clipped(gradient, {}, optimizer, 0.5)
    assert torch.equal(clipped[1], gradient[1]) and torch.equal(clipped[0, 1], gradient[0, 1])
    cosine = torch.nn.functional.cosine_similarity(clipped[0, 0].flatten(), gradient[0, 0].flatten(), dim=0)
    assert cosine.item() == pytest.approx(1)
    shift = moved(images, [clipped], optimizer) - images
    assert shift[0, 0].square().mean().sqrt().item() == pytest.approx(0.5)


def test_adamw_after_each_class_is_pytorchs_one_class_after_another() -> None:
    """The gradient of a class is taken where the steps of the classes before it have put its images."""
    targets, images = normal(3, 2, 1, 4, 4, seed=1), normal(3, 2, 1, 4, 4).sigmoid()
    slow = naive.Visited(images, lr=0.05, momentum=0.0, patience=0, decay=0.2)
    optimizer = ImageOptimizer(0.05, 0.0, optimizer="adamw", decay=0.2, turns=3)
    momentum, kept = torch.zeros_like(images), image_step.start(images, optimizer)
    for _ in range(4):
        seen = image_step.ahead(images, momentum, kept, optimizer)
        images, momentum, kept = image_step.move(seen, momentum, 2 * (seen - targets), kept, optimizer)
        slow.visit([lambda c=c: (slow.images()[c] - targets[c]).square().sum() for c in range(3)])  # type: ignore[misc]
        torch.testing.assert_close(images, slow.images().detach(), rtol=1e-12, atol=1e-12)
    alone = ImageOptimizer(0.05, 0.0, optimizer="adamw")
    assert torch.equal(image_step.ahead(images, momentum, kept, alone), images), "one step for the sum: nothing ahead"


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_rate_is_halved_after_more_losses_that_are_not_lower(patience: int) -> None:
    losses = [5.0, 4.0, 4.0, 4.5, 4.0, 3.0, 3.0, 3.5, 3.2, 3.1, 3.0, 2.0, 2.1]
    images, gradients = normal(2, 1, 2, 3, 3).sigmoid(), [normal(2, 1, 2, 3, 3, seed=s) for s in range(len(losses))]
    slow = naive.Summed(images, MEAN, STD, lr=0.2, momentum=0.5, patience=patience)
    for gradient, loss in zip(gradients, losses, strict=True):
        slow.watch(loss)
        slow.step((slow.images() * gradient).sum())
    image_optimizer = ImageOptimizer(0.2, 0.5, mean=MEAN, std=STD, patience=patience)
    got = moved(images, gradients, image_optimizer, losses)
    torch.testing.assert_close(got, slow.images().detach(), rtol=1e-12, atol=1e-12)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(other, factor=0.5, patience=patience, threshold=0)
    for loss in losses if patience else ():
        plateau.step(loss)
    rate = slow.optimiser.param_groups[0]["lr"]
    assert rate == other.param_groups[0]["lr"] == {0: 0.2, 1: 0.2 / 2**3, 3: 0.2 / 2}[patience]


def test_plain_sgd_remembers_nothing_but_its_momentum() -> None:
    assert image_step.start(normal(1, 1, 1, 2, 2), ImageOptimizer(0.1, 0.5)) == {}


def test_what_is_still_to_come_of_the_published_steps_has_their_size() -> None:
    """`deferred_step` takes a share of the buffer, in the same pixels and at the same rate as a step."""
    images, gradient = normal(2, 1, 2, 3, 3).sigmoid(), normal(2, 1, 2, 3, 3, seed=1)
    image_optimizer = ImageOptimizer(0.2, 0.5, mean=MEAN, std=STD, patience=2)
    kept = image_step.start(images, image_optimizer) | {"rate": torch.tensor(0.25, dtype=torch.float64)}
    step, momentum, _ = image_step.move(images, torch.zeros_like(images), gradient, kept, image_optimizer)
    share = torch.full((2, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    torch.testing.assert_close(image_step.deferred_step(momentum, share, kept, image_optimizer), 0.5 * (images - step))
