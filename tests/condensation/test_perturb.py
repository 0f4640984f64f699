"""Weight perturbation: sizes and norms per filter, what stays, and the naive twin fed with the same Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from attar import models
from attar.condensation.perturb import perturb, rescale
from helpers import naive


def network(kind: str = "convnet", side: int = 8) -> dict[str, Tensor]:
    module = models.build(kind, channels=3, nclass=4, size=(side, side), width=0.05, seed=0)
    return {name: value.double() for name, value in models.parameters_of(module).items()}


def moved(parameters: dict[str, Tensor], seed: int, vmin: float = 0.01, vmax: float = 0.09) -> dict[str, Tensor]:
    return perturb(parameters, vmin=vmin, vmax=vmax, generator=Generator().manual_seed(seed))


def gaussians(
    parameters: dict[str, Tensor], seed: int, vmin: float = 0.01, vmax: float = 0.09
) -> dict[str, list[tuple[float, Tensor]]]:
    """What `perturb` draws: two sizes, two signs, then for each tensor of more than one dimension both Gaussians."""
    generator = Generator().manual_seed(seed)
    u = torch.rand(4, generator=generator).tolist()
    sizes = [(vmin + (vmax - vmin) * u[i]) * (-1 if u[2 + i] < 0.5 else 1) for i in (0, 1)]
    return {
        name: [(size, torch.randn(value.shape, generator=generator, dtype=value.dtype)) for size in sizes]
        for name, value in parameters.items()
        if value.ndim > 1
    }


@pytest.mark.parametrize("kind", ["convnet", "resnetap"])
@pytest.mark.parametrize("seed", range(4))
def test_against_the_naive_twin(kind: str, seed: int) -> None:
    parameters = network(kind)
    got, expected = moved(parameters, seed), naive.perturb(parameters, gaussians(parameters, seed))
    assert list(got) == list(parameters)
    for name in parameters:
        # sizes are drawn as float32
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-8)
        if parameters[name].ndim > 1:
            assert not torch.equal(got[name], parameters[name])


def test_tensors_of_one_dimension_stay() -> None:
    parameters = network()
    got = moved(parameters, 0)
    vectors = [name for name, value in parameters.items() if value.ndim == 1]
    assert len(vectors) == 3 * 3 + 1
    for name in vectors:
        assert torch.equal(got[name], parameters[name])


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 7), (6, 1)])
def test_every_filter_of_a_direction_has_the_norm_of_the_filter_it_moves(shape: tuple[int, ...]) -> None:
    generator = Generator().manual_seed(0)
    theta = torch.randn(shape, generator=generator, dtype=torch.float64)
    theta *= torch.arange(1.0, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))  # filters of different norms
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    scaled = rescale(direction, theta)
    for row in range(shape[0]):
        assert math.sqrt((scaled[row] ** 2).sum()) == pytest.approx(math.sqrt((theta[row] ** 2).sum()), rel=1e-12)
        cosine = (scaled[row] * direction[row]).sum() / scaled[row].norm() / direction[row].norm()
        assert cosine == pytest.approx(1, abs=1e-12)


def test_a_filter_of_zeros_stays_and_gives_no_nan() -> None:
    theta = torch.randn(3, 2, 3, 3, generator=Generator().manual_seed(0))
    theta[1] = 0
    got = moved({"w": theta}, 1)["w"]
    assert torch.equal(got[1], theta[1])
    assert got.isfinite().all()


def test_sizes_signs_and_that_one_pair_serves_all_tensors() -> None:
    """Solve every tensor for a and b, given both directions."""
    parameters = {"one": torch.randn(4, 3, 3, 3), "two": torch.randn(5, 40), "scale": torch.ones(4)}
    parameters = {name: value.double() for name, value in parameters.items()}
    pairs = []
    for seed in range(300):
        got, draws = moved(parameters, seed), gaussians(parameters, seed)
        actual = []
        for name in ("one", "two"):
            basis = torch.stack([rescale(noise, parameters[name]).flatten() for _, noise in draws[name]], dim=1)
            change = (got[name] - parameters[name]).flatten()
            solution = torch.linalg.lstsq(basis, change[:, None]).solution.flatten()
            torch.testing.assert_close(basis @ solution, change, rtol=0, atol=1e-10)
            actual.append(solution)
        torch.testing.assert_close(actual[0], actual[1], rtol=0, atol=1e-10)
        pairs.append(actual[0])
    sizes = torch.stack(pairs)
    assert ((sizes.abs() >= 0.01 - 1e-8) & (sizes.abs() <= 0.09 + 1e-8)).all()
    assert (sizes.abs().amin(0) < 0.012).all() and (sizes.abs().amax(0) > 0.088).all()
    assert (sizes.abs().mean(0) - 0.05).abs().max() < 0.006
    quadrants = [((sizes > 0) == torch.tensor(signs)).all(1).sum() for signs in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert min(quadrants) > 45, "both signs, independent of each other"
    assert abs(torch.corrcoef(sizes.abs().T)[0, 1]) < 0.2


def test_a_large_filter_moves_by_the_root_of_both_squares() -> None:
    """Two independent directions are nearly orthogonal, so each filter moves by √(a² + b²) of its own norm."""
    theta = torch.randn(6, 20000, generator=Generator().manual_seed(0)) * torch.arange(1.0, 7.0)[:, None]
    for seed in range(5):
        step = (moved({"w": theta}, seed, 0.05, 0.05)["w"] - theta).norm(dim=1) / theta.norm(dim=1)
        assert step == pytest.approx([0.05 * math.sqrt(2)] * 6, rel=0.05)


def test_the_pool_is_never_changed_and_shares_no_memory() -> None:
    parameters = network()
    copies = {name: value.clone() for name, value in parameters.items()}
    got = moved(parameters, 0)
    for value in got.values():
        value.fill_(7)
    for name, value in parameters.items():
        assert torch.equal(value, copies[name])
        assert got[name].untyped_storage().data_ptr() != value.untyped_storage().data_ptr()


def test_parameters_that_require_gradients_are_detached() -> None:
    leaf = torch.randn(3, 4).requires_grad_()
    assert not moved({"w": leaf}, 0)["w"].requires_grad


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    parameters = network()
    before = torch.get_rng_state()
    first, again, other = (moved(parameters, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name, value in parameters.items() if value.ndim > 1)


def test_size_zero_is_no_perturbation() -> None:
    parameters = network()
    got = moved(parameters, 0, 0.0, 0.0)
    assert all(torch.equal(got[name], value) for name, value in parameters.items())
