"""A network's step against naive SGD, the schedule, and decks of rows."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from attar import models
from attar.condensation.gradients import Execution
from attar.condensation.network_training import NetworkGradients
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.training.batches import BatchSampler, shuffled
from attar.training.train_state import accuracy, decay, reset, start_training, step
from helpers import naive
from helpers.training import NaiveTrainState, batches, network, normal, same


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("parts", [None, 1, 2, 3])
def test_sgd_steps(momentum: float, weight_decay: float, parts: int | None) -> None:
    """By autograd, or with the batch of 5 split among so many workers."""
    module, parameters = network()
    gradients = None
    if parts is not None:
        workers = ThreadWorkers(torch.device("cpu"))
        workers.count = parts
        gradients = NetworkGradients(module, Execution(), workers)
    copies = {name: value.clone() for name, value in parameters.items()}
    model = start_training(module, parameters, {}, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    twin = NaiveTrainState(parameters, 0.1, momentum, weight_decay)
    for images, targets in batches(5):
        loss = step(model, images, targets, gradients)
        torch.testing.assert_close(loss, twin.step(images, targets), rtol=1e-9, atol=0)
        same(model, twin)
    assert (model.params["classifier.weight"] - copies["classifier.weight"]).abs().max() > 1e-3
    for name, value in copies.items():
        assert torch.equal(parameters[name], value), "the given tensors are copied"
        assert torch.equal(dict(module.named_parameters())[name], value), "the module only gives the shape"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_reset_is_a_new_start_in_the_same_memory(momentum: float) -> None:
    module, parameters = network("batch")
    buffers = models.buffers_of(module)
    model, fresh = (
        start_training(module, parameters, buffers, lr=0.1, momentum=momentum, weight_decay=0.01) for _ in range(2)
    )
    for images, targets in batches(3):
        step(model, images, targets)
    memory = [value.data_ptr() for value in model.params.values()]
    reset(model, parameters, buffers)
    for images, targets in batches(4):
        assert torch.equal(step(model, images, targets), step(fresh, images, targets))
    for name, value in fresh.params.items():
        assert torch.equal(model.params[name], value)
    for name, value in fresh.buffers.items():
        assert torch.equal(model.buffers[name], value)
    assert memory == [value.data_ptr() for value in model.params.values()]
    assert torch.equal(dict(module.named_parameters())["classifier.weight"], parameters["classifier.weight"])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_other_optimisers(name: str) -> None:
    """The first step of Adam is lr in the direction of the gradient; AdamW takes the decay out of the weights."""
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=1e-2, momentum=0.9, weight_decay=0.5, optimizer=name)
    images, targets = batches(1)[0]
    leaves = [value.clone().requires_grad_() for value in parameters.values()]
    loss = naive.cross_entropy(naive.convnet(dict(enumerate(leaves)), images), targets)
    step(model, images, targets)
    for start, gradient, got in zip(leaves, torch.autograd.grad(loss, leaves), model.params.values(), strict=True):
        if name == "adam":
            gradient, start = gradient + 0.5 * start, start
        else:
            start = start * (1 - 1e-2 * 0.5)
        expected = start - 1e-2 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(got.detach(), expected.detach(), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_compiled_gradients_of_the_network_step(said: list[str]) -> None:
    module, parameters = network()
    (images, targets) = batches(1)[0]
    actual = []
    for compiled in (False, True):
        workers = ThreadWorkers(torch.device("cpu"))
        workers.count = 1
        gradients = NetworkGradients(module, Execution(compiled=compiled), workers)
        actual.append(gradients(parameters, {}, images, targets))
    assert len(said) == 1 and "the network update is compiled" in said[0]
    (grads, loss), (compiled, same_loss) = actual
    torch.testing.assert_close(same_loss, loss, rtol=1e-9, atol=1e-12)
    for name, value in grads.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-8, atol=1e-11)


def test_a_gradient_is_laid_out_like_its_parameter() -> None:
    """One kernel for all parameters asks for it; convolutions may give theirs channels-last."""
    module, parameters = network()
    state = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0.0)
    images, targets = batches(1)[0]

    def gradients(params: dict[str, torch.Tensor], *_: object) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        turned = {name: value.mT.contiguous().mT if value.dim() > 1 else value for name, value in params.items()}
        return turned, torch.zeros(())

    step(state, images, targets, gradients)
    for name, leaf in state.params.items():
        assert leaf.grad is not None and leaf.grad.stride() == leaf.stride()
        assert torch.allclose(leaf.detach(), 0.9 * parameters[name])


def test_unknown_optimiser() -> None:
    module, parameters = network()
    with pytest.raises(UserError, match="unknown optimizer 'sdg'; did you mean 'sgd'"):
        start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0.0, optimizer="sdg")


def test_batch_norm_learns_statistics_in_buffers_of_its_own() -> None:
    module, parameters = network("batch")
    buffers = models.buffers_of(module)
    copies = {name: value.clone() for name, value in buffers.items()}
    model = start_training(module, parameters, buffers, lr=0.1, momentum=0.9, weight_decay=0.0)
    (images, targets) = batches(1)[0]
    maps = torch.nn.functional.conv2d(images, parameters["blocks.0.weight"], parameters["blocks.0.bias"], padding=1)
    step(model, images, targets)
    mean = next(value for name, value in model.buffers.items() if name.endswith("running_mean"))
    torch.testing.assert_close(mean, 0.1 * maps.mean((0, 2, 3)), rtol=1e-9, atol=1e-12)
    for name, value in copies.items():
        assert torch.equal(buffers[name], value)
        assert torch.equal(dict(module.named_buffers())[name], value)


@settings(deadline=None)
@given(st.integers(1, 400))
def test_decay_at_two_thirds_and_five_sixths(epochs: int) -> None:
    for epoch in range(epochs):
        done = Fraction(epoch, epochs)
        expected = 1.0 if done < Fraction(2, 3) else 0.2 if done < Fraction(5, 6) else 0.2**2
        assert decay(epoch, epochs) == pytest.approx(expected)


def test_accuracy_counts_the_largest_logit() -> None:
    module, parameters = network()
    model = start_training(module, parameters, {}, lr=0.1, momentum=0.9, weight_decay=0.0)
    images = normal(23, 2, 4, 4)
    logits = naive.convnet(parameters, images)
    labels = logits.argmax(1)
    labels[[1, 5, 8, 22]] = (labels[[1, 5, 8, 22]] + 1) % 3
    got = accuracy(model, zip(images.split(10), labels.split(10), strict=True))
    assert got == pytest.approx(19 / 23)
    assert not any(value.grad is not None for value in model.params.values())


def test_accuracy_uses_the_running_statistics_of_batch_norm() -> None:
    module, parameters = network("batch")
    model = start_training(module, parameters, models.buffers_of(module), lr=0.1, momentum=0.9, weight_decay=0.0)
    for images, targets in batches(3):
        step(model, images, targets)
    before = {name: value.clone() for name, value in model.buffers.items()}
    images, labels = normal(12, 2, 4, 4), torch.arange(12) % 3
    whole = accuracy(model, [(images, labels)])
    single = accuracy(model, zip(images.split(1), labels.split(1), strict=True))
    assert whole == single, "an image is judged alone, not by its batch"
    assert all(torch.equal(model.buffers[name], value) for name, value in before.items())


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_shuffled_shows_every_row_once(n: int, batch: int, seed: int) -> None:
    before = torch.get_rng_state()
    parts = list(shuffled(n, batch, Generator().manual_seed(seed)))
    assert torch.cat(parts).sort().values.tolist() == list(range(n))
    assert [len(part) for part in parts] == [min(batch, n - i) for i in range(0, n, batch)]
    fewer = torch.cat(list(shuffled(n, batch, Generator().manual_seed(seed), limit=n // 3 + 1)))
    assert fewer.tolist() == torch.cat(parts)[: n // 3 + 1].tolist()
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_a_deck_draws_without_replacement(n: int, batch: int, seed: int) -> None:
    before = torch.get_rng_state()
    rows = torch.arange(n) * 3 + 7
    deck, twin = (BatchSampler(rows, batch, Generator().manual_seed(seed)) for _ in range(2))
    size = min(n, batch)
    for _ in range(3):
        round_ = [deck.draw() for _ in range(n // size)]
        assert all(len(drawn) == size for drawn in round_)
        drawn = torch.cat(round_).tolist()
        assert len(set(drawn)) == len(drawn), "no row twice before the deck is shuffled again"
        assert set(drawn) <= set(rows.tolist())
        assert drawn == torch.cat([twin.draw() for _ in range(n // size)]).tolist(), "same seed, same rows"
        if batch >= n:
            assert sorted(drawn) == rows.tolist(), "a class smaller than the batch gives all its images"
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(rows, torch.arange(n) * 3 + 7)


def test_a_deck_is_shuffled_anew_and_fair() -> None:
    deck = BatchSampler(torch.arange(10), 3, Generator().manual_seed(0))
    orders = {tuple(torch.cat([deck.draw() for _ in range(3)]).tolist()) for _ in range(50)}
    assert len(orders) == 50
    counts = torch.bincount(torch.cat([deck.draw() for _ in range(2000)]), minlength=10)
    assert (counts > 500).all() and (counts < 700).all()


def test_a_deck_gives_an_order_that_is_not_the_files() -> None:
    first = BatchSampler(torch.arange(100), 10, Generator().manual_seed(0)).draw().tolist()
    assert first != sorted(first) and max(first) > 20


def test_a_deck_goes_on_where_another_stood() -> None:
    rows = torch.arange(10, 30)
    one, other = (BatchSampler(rows, 7, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    one.draw()
    other.restore(one.order, one.next)
    other.generator.set_state(one.generator.get_state())
    assert all(torch.equal(one.draw(), other.draw()) for _ in range(5))
    for order, place in ((rows + 1, 0), (rows[:5], 0), (rows, 21), (rows, -1), (rows, 3.0), (rows, "3")):
        with pytest.raises(ValueError, match="the state of a sampler of other rows"):
            other.restore(order, place)  # type: ignore[arg-type]
