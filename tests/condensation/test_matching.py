"""Matching: distances and gradients against naive twins, which tensors take part, the gradient of the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from attar import models
from attar.condensation.gradients import ClassInputs, ImageGradients
from attar.condensation.matching import (
    DISTANCES,
    Matching,
    eager_gradient,
    feature_distance,
    gradient,
    gradient_distance,
    matched_names,
)
from attar.errors import UserError
from attar.training.draws import draw, take
from helpers import naive

METRICS = ("mse", "l1", "l1_mean", "cos")
MEAN, STD = (0.3, 0.5), (0.2, 0.4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def network(kind: str = "convnet", depth: int | None = None, side: int = 8) -> tuple[models.Network, dict[str, Tensor]]:
    module = models.build(kind, depth=depth, channels=2, nclass=3, size=(side, side), width=4 / 128, seed=1)
    return module, {name: value.double() for name, value in models.parameters_of(module).items()}


def naive_gradients(logits: Tensor, labels: list[int], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(naive.cross_entropy(logits, naive.one_hot(labels, logits.shape[1])), leaves)


# ---- distances ----


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_distance(metric: str) -> None:
    shapes = {"conv": (5, 3, 3, 3), "linear": (4, 7), "bias": (6,), "one": (1, 2, 1, 1)}
    real = {name: normal(*shape, seed=1) for name, shape in shapes.items()}
    synthetic = {name: 0.5 * real[name] + normal(*shape, seed=2) for name, shape in shapes.items()}
    got = gradient_distance(real, synthetic, metric)
    expected = naive.distance(list(real.values()), list(synthetic.values()), metric)
    assert got.shape == ()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    for name in shapes:
        alone = naive.distance([real[name]], [synthetic[name]], metric)
        torch.testing.assert_close(DISTANCES[metric](real[name], synthetic[name]), alone, rtol=1e-12, atol=0)
    assert gradient_distance(real, real, metric).abs() < 1e-12
    # Tensors are matched by name, not by their order.
    shuffled = dict(reversed(synthetic.items()))
    torch.testing.assert_close(gradient_distance(real, shuffled, metric), expected, rtol=1e-12, atol=0)


def test_known_distances() -> None:
    real, synthetic = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 4.0], [0.0, 5.0]])
    assert DISTANCES["mse"](real, synthetic) == 9 + 16 + 9
    assert DISTANCES["l1"](real, synthetic) == 3 + 4 + 3
    assert DISTANCES["l1_mean"](real, synthetic) == 7 / 2 + 3 / 2, "the mean of each filter"
    assert DISTANCES["cos"](real, synthetic) == pytest.approx(1 + 0), "one filter at a right angle, one parallel"
    assert DISTANCES["cos"](real, -real) == pytest.approx(4), "two filters, each 1 − (−1)"


def test_cos_of_a_filter_without_gradient_is_finite() -> None:
    real, synthetic = torch.zeros(2, 3), torch.ones(2, 3).requires_grad_()
    loss = DISTANCES["cos"](real, synthetic)
    assert loss == 2
    loss.backward()
    assert synthetic.grad is not None and (synthetic.grad == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_feature_distance_is_that_of_the_means(metric: str) -> None:
    real, synthetic = normal(6, 5, seed=1), normal(4, 5, seed=2)
    means = [sum(batch) / len(batch) for batch in (real, synthetic)]
    got = feature_distance(real, synthetic, metric)
    torch.testing.assert_close(got, naive.distance(means[:1], means[1:], metric), rtol=1e-12, atol=0)


def test_unknown_metric() -> None:
    with pytest.raises(UserError, match="unknown metric 'msee'; did you mean 'mse'"):
        gradient_distance({"w": normal(2)}, {"w": normal(2)}, "msee")
    with pytest.raises(UserError, match="unknown metric"):
        feature_distance(normal(2, 2), normal(2, 2), "")


# ---- what is matched ----


def wanted_names(module: nn.Module, bias: bool, fc: bool) -> Iterator[str]:
    for where, layer in module.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            if isinstance(layer, nn.Linear):
                take_part = fc and (value.ndim == 2 or bias)
            elif isinstance(layer, nn.Conv2d):
                take_part = value.ndim == 4 or bias
            else:
                take_part = bias
            if take_part:
                yield f"{where}.{name}"


@pytest.mark.parametrize("kind", ["convnet", "resnetap", "resnet"])
@pytest.mark.parametrize("norm_type", ["instance", "batch"])
def test_names_follow_the_options(kind: str, norm_type: str) -> None:
    module = models.build(kind, channels=3, nclass=5, size=(16, 16), width=0.05, norm_type=norm_type, seed=0)
    parameters = models.parameters_of(module)
    for bias in (False, True):
        for fc in (False, True):
            got = matched_names(parameters, bias=bias, fc=fc)
            assert sorted(got) == sorted(wanted_names(module, bias, fc))
    assert matched_names(parameters) == [name for name, value in parameters.items() if value.ndim == 4]
    assert sorted(matched_names(parameters, bias=True, fc=True)) == sorted(parameters)


# ---- gradients of the network ----


@pytest.mark.parametrize(("bias", "fc"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("way", [gradient, eager_gradient])
def test_gradient_of_a_convnet(bias: bool, fc: bool, way: Any) -> None:
    module, parameters = network(depth=2)
    images, labels = normal(5, 2, 8, 8), [0, 2, 1, 1, 0]
    names = matched_names(parameters, bias=bias, fc=fc)

    def forward(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, values, (x,))

    got = way(forward, parameters, names, images, torch.tensor(labels))
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    expected = naive_gradients(naive.convnet(leaves, images), labels, [leaves[name] for name in names])
    assert list(got) == names
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)
        assert name.endswith(".bias") or value.abs().max() > 1e-4


@pytest.mark.parametrize("way", [gradient, eager_gradient])
def test_gradient_of_a_resnetap(way: Any) -> None:
    module = models.build("resnetap", channels=2, nclass=3, size=(16, 16), width=2 / 64, seed=1).double()
    parameters = models.parameters_of(module)
    images, labels = normal(3, 2, 16, 16), [2, 0, 2]
    names = matched_names(parameters, bias=True, fc=True)

    def forward(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, values, (x,))

    got = way(forward, parameters, names, images, torch.tensor(labels))
    leaves = dict(module.named_parameters())
    expected = naive_gradients(module(images), labels, [leaves[name] for name in names])
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)


# ---- the loss of a class and the gradient of its images ----


def normalize(images: Tensor) -> Tensor:
    return torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(2)], dim=1)


def sweep_of(module: models.Network, **changes: object) -> ImageGradients:
    values: dict = {"metric": "mse", "match": "grad", "bias": False, "fc": False, "layers": (0.0, 1.0)}
    values |= {"factor": 2, "decode_type": "single"}
    matching = Matching(**(values | changes))
    return ImageGradients(module, matching, normalize, torch.arange(3))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("match", ["grad", "feat"])
@pytest.mark.parametrize(
    ("factor", "decode_type", "some", "bias", "fc"),
    [(1, "single", False, False, False), (2, "single", True, True, True), (2, "multi", False, True, False)],
)
def test_class_loss_and_its_image_gradient(
    metric: str, match: str, factor: int, decode_type: str, some: bool, bias: bool, fc: bool
) -> None:
    module, parameters = network(depth=2)
    sweep = sweep_of(module, metric=metric, match=match, factor=factor, decode_type=decode_type, bias=bias, fc=fc)
    own, real = normal(2, 2, 8, 8, seed=3).sigmoid(), normal(6, 2, 8, 8, seed=4)
    subset = torch.tensor([5, 0, 3]) if some else None
    drawn = take(draw(("color", "crop", "cutout", "flip"), 2, (8, 8), Generator().manual_seed(5), batch=1), 1)
    slow = own.clone().requires_grad_()
    loss = naive.class_loss(
        slow,
        parameters,
        real,
        drawn,
        2,
        names=matched_names(parameters, bias=bias, fc=fc),
        normalize=normalize,
        metric=metric,
        match=match,
        factor=factor,
        decode_type=decode_type,
        subset=None if subset is None else subset.tolist(),
    )
    (slope,) = torch.autograd.grad(loss, slow)
    inputs = ClassInputs(parameters, real, drawn, subset, torch.tensor(2), None)
    for way in (torch.func.grad_and_value(sweep.class_loss), sweep.eager_step):
        grad, value = way(own, inputs)
        torch.testing.assert_close(value, loss.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(grad, slope, rtol=1e-7, atol=1e-10 * float(slope.abs().max()))
    assert slope.abs().max() > 1e-6


@pytest.mark.parametrize(("metric", "match"), [("mse", "grad"), ("l1", "grad"), ("cos", "grad"), ("mse", "feat")])
@pytest.mark.parametrize("way", [gradient, eager_gradient])
def test_gradcheck_of_the_image_gradient(metric: str, match: str, way: Any) -> None:
    module, parameters = network(depth=1, side=4)
    sweep = sweep_of(module, metric=metric, match=match)
    own, real = normal(1, 2, 4, 4, seed=6).sigmoid().requires_grad_(), normal(3, 2, 4, 4, seed=7)
    drawn = draw(("color", "crop", "flip"), 1, (4, 4), Generator().manual_seed(8), batch=1)
    assert torch.autograd.gradcheck(
        lambda x: sweep.class_loss(x, ClassInputs(parameters, real, drawn, None, torch.tensor(1), None), way), (own,)
    )


@pytest.mark.parametrize("way", [gradient, eager_gradient])
@pytest.mark.parametrize("match", ["grad", "feat"])
def test_the_real_side_is_a_constant_and_the_network_stays(match: str, way: Any) -> None:
    module, parameters = network(depth=2)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    copies = {name: value.clone() for name, value in parameters.items()}
    real = normal(4, 2, 8, 8, seed=1).requires_grad_()
    own = normal(1, 2, 8, 8, seed=2).sigmoid().requires_grad_()
    inputs = ClassInputs(leaves, real, {}, None, torch.tensor(0), None)
    loss = sweep_of(module, match=match).class_loss(own, inputs, way)
    assert torch.autograd.grad(loss, real, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(loss, own)[0].abs().max() > 0
    assert all(torch.equal(leaves[name], copies[name]) for name in copies)
