"""Matching losses and distances (IDC section 3, Acc-DD section 3.1, DM section 3.2, NCFM section 3).

The losses are functions of a parameter dict, so that gradients can be nested: the gradient with respect to the
synthetic images is taken through the gradient with respect to the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attar.errors import UserError, choose
from attar.settings import plugins
from attar.settings.choices import FEATURE_MATCH_NAMES

Params = Mapping[str, Tensor]
Forward = Callable[[Params, Tensor], Tensor]  # parameters, images [n, ch, H, W] → logits or features [n, d]
Distance = Callable[[Tensor, Tensor], Tensor]

CLASSIFIER_PREFIX = "classifier."  # of the names of the last layer's parameters
DISTANCE_WEIGHT = 300.0  # factor of the distance between characteristic functions (NCFM)
AMPLITUDE_WEIGHT = PHASE_WEIGHT = 0.5
ORTHOGONAL_STEPS = 12
MIN_SQUARE = 1e-12  # clamped below, because the derivative of the square root is infinite at 0


@dataclass(frozen=True)
class Matching:
    """Which loss is matched, by which distance, and how stored images are decoded."""

    metric: str  # one of `DISTANCES`
    match: str  # one of `LOSSES`
    bias: bool  # match gradients of biases and norm parameters too
    fc: bool  # match gradients of the last layer too
    layers: tuple[float, float]  # match those tensors only, as shares of their number from the input on
    factor: int
    decode_type: str

    @property
    def features(self) -> bool:
        """Whether the loss uses the network's last features instead of its logits."""
        own = plugins.REGISTERED["match"].get(self.match)
        return self.match in FEATURE_MATCH_NAMES or (own is not None and own.option == "features")


@dataclass(frozen=True)
class Pair:
    """The real and the synthetic batch of a class, with the same augmentation, and the network."""

    forward: Forward  # gives logits, or features if `Matching.features`
    params: Params
    real: Tensor  # [n, ch, H, W], normalised and augmented
    synthetic: Tensor  # [m, ch, H, W]
    label: Tensor  # int64, a scalar
    frequencies: Tensor | None  # [T, d]
    gradient: Callable[..., dict[str, Tensor]]  # `gradient` or `eager_gradient`


def class_gradients(pair: Pair, m: Matching) -> Tensor:
    """Distance between the parameter gradients of both batches."""
    return gradient_distance(*both_gradients(pair, m), m.metric)


def both_gradients(pair: Pair, m: Matching) -> tuple[Params, Params]:
    """The parameter gradients of both batches; that of the real batch is a constant."""
    names = matched_names(pair.params, bias=m.bias, fc=m.fc, layers=m.layers)
    real, synthetic = (
        pair.gradient(pair.forward, pair.params, names, batch, pair.label.expand(len(batch)))
        for batch in (pair.real, pair.synthetic)
    )
    return {name: value.detach() for name, value in real.items()}, synthetic


def feature_means(pair: Pair, m: Matching) -> Tensor:
    """Distance between the means of both batches' last features."""
    real, synthetic = (pair.forward(pair.params, batch) for batch in (pair.real, pair.synthetic))
    return feature_distance(real.detach(), synthetic, m.metric)


def paired_features(pair: Pair, m: Matching) -> Tensor:
    """Squared distance of the last features of each cell and of the crop that it was made of, a mean over the cells.

    Both batches have as many images, in one order (CIM).
    """
    real, synthetic = (pair.forward(pair.params, batch) for batch in (pair.real, pair.synthetic))
    return (real.detach() - synthetic).square().sum(dim=1).mean()


def feature_distributions(pair: Pair, m: Matching) -> Tensor:
    """Distance between the characteristic functions of both batches' last features, normalised to unit length."""
    assert pair.frequencies is not None
    real, synthetic = (F.normalize(pair.forward(pair.params, batch), dim=1) for batch in (pair.real, pair.synthetic))
    return characteristic_distance(real.detach(), synthetic, pair.frequencies)


def label_entropy(pair: Pair, m: Matching) -> Tensor:
    """Mean cross-entropy of the synthetic batch: not a matching loss, but the calibration loss of NCFM."""
    return F.cross_entropy(pair.forward(pair.params, pair.synthetic), pair.label.expand(len(pair.synthetic)))


def registered_loss(pair: Pair, m: Matching) -> Tensor:
    """A loss that a plugin registered, of the gradients or the features of both batches."""
    if m.features:
        real, synthetic = (pair.forward(pair.params, batch) for batch in (pair.real, pair.synthetic))
        loss = plugins.call("match", m.match, real.detach(), synthetic)
    else:
        loss = plugins.call("match", m.match, *both_gradients(pair, m))
    if not isinstance(loss, Tensor) or loss.dim():
        what = f"of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"but a {type(loss).__name__}"
        raise UserError(f"the loss '{m.match}' must give a tensor without dimensions, not one {what}")
    return loss


LOSSES: dict[str, Callable[[Pair, Matching], Tensor]] = {
    "grad": class_gradients,
    "feat": feature_means,
    "ncf": feature_distributions,
    "pairs": paired_features,
    "label": label_entropy,
}


def matched_names(
    params: Params, *, bias: bool = False, fc: bool = False, layers: tuple[float, float] = (0.0, 1.0)
) -> list[str]:
    """Names of the parameters whose gradients are matched: weights of convolutions, and of inner linear layers.

    `bias` adds biases and norm parameters, `fc` the weight of the last linear layer, and both together its bias.
    `layers` leaves the first or last of these out (PAD), but never all of them.
    """
    names = [
        name
        for name, value in params.items()
        if (value.dim() > 1 or bias) and (fc or not name.startswith(CLASSIFIER_PREFIX))
    ]
    first = min(round(layers[0] * len(names)), len(names) - 1)
    return names[first : max(first + 1, round(layers[1] * len(names)))] if names else []


def gradient(
    forward: Forward,
    params: Params,
    names: Sequence[str],
    images: Tensor,  # [n, ch, H, W], normalised and augmented
    labels: Tensor,  # int64 [n]
) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy with respect to the named parameters, differentiable in `images`.

    By `torch.func`, which can be compiled and vectorised. `eager_gradient` gives the same.
    """
    others = {name: value for name, value in params.items() if name not in names}

    def loss(matched: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(forward({**others, **matched}, images), labels)

    return torch.func.grad(loss)({name: params[name] for name in names})


def eager_gradient(
    forward: Forward, params: Params, names: Sequence[str], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """As `gradient`, by autograd, which is faster when nothing is compiled. It cannot be used inside `torch.func`."""
    matched = {name: params[name].detach().requires_grad_() for name in names}
    loss = F.cross_entropy(forward({**params, **matched}, images), labels)
    grads = torch.autograd.grad(loss, list(matched.values()), create_graph=images.requires_grad, materialize_grads=True)
    return dict(zip(names, grads, strict=True))


def gradient_distance(real: Params, synthetic: Params, metric: str) -> Tensor:
    """The sum over all tensors of the distance between two gradient dicts, a scalar."""
    distance = _distance(metric)
    return torch.stack([distance(real[name], synthetic[name]) for name in real]).sum()


def feature_distance(real: Tensor, synthetic: Tensor, metric: str) -> Tensor:
    """Distance between the class means of features [n, d] and [m, d] (DM section 3.2; its metric is `mse`)."""
    return _distance(metric)(real.mean(dim=0), synthetic.mean(dim=0))


def characteristic_distance(
    real: Tensor,  # [n, d]
    synthetic: Tensor,  # [m, d]
    frequencies: Tensor,  # [T, d]
) -> Tensor:
    """300 · mean over t of √(½(|φ_r| − |φ_s|)² + ½·2(|φ_r||φ_s| − Re φ_r φ_s*)), φ(t) = mean exp(i t·feature)."""
    (real_cos, real_sin, real_size), (cos, sin, size) = (
        _characteristic(features @ frequencies.T) for features in (real, synthetic)
    )
    amplitude = (real_size - size).square()
    phase = 2 * (real_size * size - (real_cos * cos + real_sin * sin))
    return DISTANCE_WEIGHT * (AMPLITUDE_WEIGHT * amplitude + PHASE_WEIGHT * phase.clamp(min=MIN_SQUARE)).sqrt().mean()


def _characteristic(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real part, imaginary part and absolute value [T] of the mean of exp(i·angle) over n images; angles [n, T]."""
    cos, sin = angles.cos().mean(dim=0), angles.sin().mean(dim=0)
    return cos, sin, (cos.square() + sin.square()).clamp(min=MIN_SQUARE**2).sqrt()


def mse(real: Tensor, synthetic: Tensor) -> Tensor:
    """Σ(g_r − g_s)²."""
    return (real - synthetic).square().sum()


def l1(real: Tensor, synthetic: Tensor) -> Tensor:
    """Σ|g_r − g_s|."""
    return (real - synthetic).abs().sum()


def l1_mean(real: Tensor, synthetic: Tensor) -> Tensor:
    """The mean of |g_r − g_s| within each output filter, summed over the filters (IDC's code)."""
    return (real - synthetic).abs().reshape(len(real), -1).mean(dim=1).sum()


def cos(real: Tensor, synthetic: Tensor) -> Tensor:
    """Σ over output filters of 1 − cosine (DC section 3.3). A one-dimensional tensor counts as one filter."""
    rows = len(real) if real.dim() > 1 else 1
    return (1 - F.cosine_similarity(real.reshape(rows, -1), synthetic.reshape(rows, -1), dim=1, eps=1e-6)).sum()


def orth(real: Tensor, synthetic: Tensor) -> Tensor:
    """Σ(O_r − O_s)², O = UVᵀ of G = UΣVᵀ: directions of gradients without their sizes (OGM)."""
    return (orthogonal(real) - orthogonal(synthetic)).square().sum()


def orthogonal(value: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns of a gradient [out, …], by Newton and Schulz's iteration.

    Directions of less than about a hundredth of the norm stay small. A one-dimensional gradient is scaled to norm 1.
    """
    x = value.reshape(len(value), -1) if value.dim() > 1 else value[None]
    x = x.T if len(x) > x.shape[1] else x
    x = x / x.square().sum().clamp(min=MIN_SQUARE**2).sqrt()
    for _ in range(ORTHOGONAL_STEPS):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x


DISTANCES: dict[str, Distance] = {"mse": mse, "l1": l1, "l1_mean": l1_mean, "cos": cos, "orth": orth}


def _distance(metric: str) -> Distance:
    return DISTANCES[choose("metric", metric, DISTANCES)]
