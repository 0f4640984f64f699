"""Frequencies of characteristic functions: Gaussian, or from a network that raises the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from attar.condensation import frequencies

CPU = torch.device("cpu")


def test_gaussian_frequencies() -> None:
    first, again, other = (frequencies.gaussian(4000, 3, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.mean().abs() < 0.03 and first.std() == pytest.approx(1, abs=0.03)


def test_the_network_of_frequencies_is_what_the_paper_says() -> None:
    """Three linear layers, each with batch norm over the frequencies; leaky ReLU twice, then tanh."""
    state = torch.get_rng_state()
    model = frequencies.sampler(5, 1e-3, 3, CPU)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
    again = frequencies.sampler(5, 1e-3, 3, CPU)
    assert all(torch.equal(value, again.params[name]) for name, value in model.params.items())
    x = torch.randn((7, 5), generator=Generator().manual_seed(4))
    got = frequencies.sampled(model, 7, 5, Generator().manual_seed(4))
    values = list(model.params.values())
    assert [tuple(value.shape) for value in values] == 3 * [(5, 5), (5,), (5,), (5,)]
    for layer in (0, 4, 8):
        weight, bias, gain, shift = values[layer : layer + 4]
        x = x @ weight.T + bias
        x = (x - x.mean(0)) / ((x - x.mean(0)).square().mean(0) + 1e-5).sqrt() * gain + shift
        x = torch.tanh(x) if layer == 8 else torch.where(x > 0, x, 0.2 * x)
    torch.testing.assert_close(got, x)
    assert got.abs().max() < 1 and got.std() > 0.05


def test_the_network_of_frequencies_climbs() -> None:
    """Its steps raise a loss that is Σ t²; the first one is Adam's, of the size of the learning rate."""
    model = frequencies.sampler(4, 5e-2, 0, CPU)
    before = {name: value.detach().clone() for name, value in model.params.items()}
    sizes = []
    for _ in range(30):
        points = frequencies.sampled(model, 64, 4, Generator().manual_seed(1))
        sizes.append(float(points.detach().square().sum()))
        frequencies.learn(model, points, 2 * points.detach())
        if len(sizes) == 1:
            moved = (model.params["6.weight"].detach() - before["6.weight"]).abs()
            assert moved.max() == pytest.approx(5e-2, rel=1e-3)
    assert sizes[-1] > 1.5 * sizes[0]
