"""Names, labels, seeds, bad input, and what functional transforms need of every network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from attar import models
from attar.errors import UserError

SMALL: dict[str, Any] = {"channels": 1, "nclass": 3, "size": (8, 8), "width": 1 / 16}
KINDS = ["convnet3", "resnetap10", "resnet10"]


@pytest.mark.parametrize(
    ("name", "depth", "expected"),
    [
        ("convnet", None, ("convnet", 3)),
        ("ConvNet", 4, ("convnet", 4)),
        ("convnet5", None, ("convnet", 5)),
        ("convnet5", 5, ("convnet", 5)),
        ("resnetap", None, ("resnetap", 10)),
        ("resnet_ap", None, ("resnetap", 10)),
        ("ResNet-AP", 18, ("resnetap", 18)),
        ("RESNETAP18", None, ("resnetap", 18)),
        ("resnet_ap18", None, ("resnetap", 18)),
        ("resnet", None, ("resnet", 10)),
        ("ResNet18", None, ("resnet", 18)),
    ],
)
def test_parse(name: str, depth: int | None, expected: tuple[str, int]) -> None:
    assert models.parse(name, depth) == expected
    assert type(models.build(name, depth=depth, **{**SMALL, "size": (32, 32)})) is models.NET_TYPES[expected[0]]


def test_label() -> None:
    assert models.label("convnet") == "convnet3"
    assert models.label("ConvNet", 4) == "convnet4"
    assert models.label("resnet_ap") == "resnetap10"
    assert models.label("resnet18", norm_type="batch") == "resnet18-batch"
    assert models.label("convnet", norm_type="none") == "convnet3-none"
    with pytest.raises(UserError, match="unknown norm_type 'batches'; did you mean 'batch'"):
        models.label("convnet", norm_type="batches")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net_type": "convnt"}, "unknown network 'convnt'; did you mean 'convnet'"),
        ({"net_type": "resnetpa10"}, "unknown network 'resnetpa10'; did you mean 'resnetap10'"),
        ({"net_type": ""}, "unknown network ''; valid: convnet, "),
        ({"net_type": "10"}, "unknown network '10'"),
        ({"net_type": "vgg11"}, "unknown network 'vgg11'"),
        ({"net_type": "resnet12"}, "resnet has no depth 12; valid: 10, 18"),
        ({"net_type": "resnet_ap", "depth": 50}, "resnetap has no depth 50; valid: 10, 18"),
        ({"net_type": "resnet10", "depth": 18}, "names depth 10, but depth 18"),
        ({"net_type": "convnet0"}, "convnet of depth 0 is impossible"),
        ({"depth": -1}, "convnet of depth -1 is impossible"),
        ({"depth": 4}, "depth 4 leaves nothing of images of 8x8; the largest depth is 3"),
        ({"width": 0.0}, "width 0.0 is impossible"),
        ({"width": -1.0}, "width -1.0 is impossible"),
        ({"width": float("nan")}, "width nan is impossible"),
        ({"norm_type": "instanse"}, "unknown norm_type 'instanse'; did you mean 'instance'"),
        ({"norm_type": "group", "width": 5 / 128}, "4 groups of channels, which does not fit 5 channels"),
        ({"channels": 0}, "channels 0 is impossible"),
        ({"nclass": 0}, "nclass 0 is impossible"),
        ({"size": (8, 0)}, "size 0 is impossible"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"net_type": "convnet", **SMALL, **change}
    with pytest.raises(UserError, match=message) as caught:
        models.build(arguments.pop("net_type"), **arguments)
    assert "\n" not in str(caught.value)


def test_a_tiny_width_leaves_one_channel() -> None:
    assert models.build("convnet", **{**SMALL, "width": 1e-6}).features(torch.rand(2, 1, 8, 8)).shape == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_and_the_global_generator_untouched(kind: str) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, second, other = (models.parameters_of(models.build(kind, seed=seed, **SMALL)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    third = models.parameters_of(models.build(kind, seed=5, **SMALL))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_without_a_seed_the_global_generator_decides() -> None:
    torch.manual_seed(9)
    first, second = (models.build("convnet", **SMALL).classifier.weight for _ in range(2))
    torch.manual_seed(9)
    again = models.build("convnet", **SMALL).classifier.weight
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_classifier_of_the_features(kind: str) -> None:
    module = models.build(kind, **SMALL)
    x = torch.rand(4, 1, 8, 8)
    assert module.features(x).dim() == 2
    assert torch.equal(module(x), module.classifier(module.features(x)))
    last_two = list(models.parameters_of(module))[-2:]
    assert last_two == ["classifier.weight", "classifier.bias"]


def test_parameters_and_buffers_are_copies() -> None:
    module = models.build("resnet10", **SMALL, norm_type="batch")
    parameters, buffers = models.parameters_of(module), models.buffers_of(module)
    assert parameters.keys() == dict(module.named_parameters()).keys()
    assert {name.rsplit(".", 1)[1] for name in buffers} == {"running_mean", "running_var", "num_batches_tracked"}
    assert models.buffers_of(models.build("resnet10", **SMALL)) == {}
    for name, tensor in {**parameters, **buffers}.items():
        assert not tensor.requires_grad
        tensor += 1
        assert not torch.equal(tensor, module.state_dict()[name])


def matching_gradient(module: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """d/dx of the squared norm of the gradient of the convolution weights, by nested functional transforms."""

    def loss(weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, weights, (images,)), y)

    def squares(images: Tensor) -> Tensor:
        gradients = grad(loss)(weights, images)
        return torch.stack([g.square().sum() for g in gradients.values() if g.dim() == 4]).sum()

    weights = models.parameters_of(module)
    return grad(squares)(x)


@pytest.mark.parametrize("norm_type", models.NORM_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_gradient_equals_autograd_and_differences(kind: str, norm_type: str) -> None:
    module = models.build(kind, **SMALL, norm_type=norm_type, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(3, 1, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2])
    buffers = models.buffers_of(module)
    with models.fixed_statistics(module):
        actual = matching_gradient(module, x, y)

        def squares(images: Tensor) -> Tensor:
            weights = [p for p in module.parameters() if p.dim() == 4]
            loss = F.cross_entropy(module(images), y)
            return sum(
                (g.square().sum() for g in torch.autograd.grad(loss, weights, create_graph=True)),
                torch.zeros((), dtype=torch.float64),
            )

        leaf = x.clone().requires_grad_()
        expected = torch.autograd.grad(squares(leaf), leaf)[0]
        direction, step = torch.randn(x.shape, generator=generator, dtype=torch.float64), 1e-6
        slope = (squares(x + step * direction) - squares(x - step * direction)).item() / (2 * step)
    assert expected.abs().max() > 0
    assert torch.allclose(actual, expected, rtol=1e-8, atol=1e-12 * expected.abs().max().item())
    assert slope == pytest.approx((actual * direction).sum().item(), rel=1e-4)
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in module.named_buffers())


@pytest.mark.parametrize("norm_type", models.NORM_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_stacked_parameters(kind: str, norm_type: str) -> None:
    modules = [models.build(kind, **SMALL, norm_type=norm_type, seed=seed).double() for seed in (1, 2)]
    weights = [models.parameters_of(module) for module in modules]
    stacked = {name: torch.stack([each[name] for each in weights]) for name in weights[0]}
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with models.fixed_statistics(modules[0]):
        together = vmap(lambda each: functional_call(modules[0], each, (x,)))(stacked)
    for logits, module in zip(together, modules, strict=True):
        assert torch.allclose(logits, module(x), rtol=1e-9, atol=1e-12)


def test_fixed_statistics_end_with_the_block_and_not_in_evaluation() -> None:
    module = models.build("resnet10", **SMALL, norm_type="batch", seed=0)
    x = torch.rand(4, 1, 8, 8)
    before = models.buffers_of(module)
    with torch.no_grad():
        module(x)
        changed = models.buffers_of(module)
        training = module(x)
        module.eval()
        running = module(x)
        with models.fixed_statistics(module):
            assert torch.equal(module(x), running)
            module.train()
            assert torch.equal(module(x), training)
        kept = models.buffers_of(module)
        module(x)
    assert not torch.equal(before["stem.1.running_mean"], changed["stem.1.running_mean"])
    assert kept["stem.1.num_batches_tracked"] == 2
    assert models.buffers_of(module)["stem.1.num_batches_tracked"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_with_second_derivatives(kind: str) -> None:
    module = models.build(kind, **SMALL, seed=0)
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(module(x), torch.tensor([0, 1, 2, 0]))
        weights = [p for p in module.parameters() if p.dim() == 4]
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        squares = torch.stack([g.float().square().sum() for g in gradients]).sum()
    image_gradient = torch.autograd.grad(squares, x)[0]
    assert all(g.dtype == torch.float32 for g in gradients)
    assert image_gradient.isfinite().all() and image_gradient.abs().max() > 0


@pytest.mark.filterwarnings("default")  # torch warns of its own deprecations when the compiler is imported
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_into_one_graph(kind: str) -> None:
    """Without code generation, which needs a C++ compiler."""
    module = models.build(kind, **SMALL, seed=0)
    x = torch.rand(4, 1, 8, 8)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(compiled, module(x), rtol=1e-4, atol=1e-5)
