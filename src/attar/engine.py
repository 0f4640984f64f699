"""How a sweep over the classes is executed.

A sweep is data, draws, a loss per class and one update of the images. The published loop visits the classes one after
another and steps the whole image tensor after each; here all classes belong to one step with the same result
(`synthetic.sweep_factors`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from attar.augment import Draw, apply, take
from attar.matching import feature_distance, gradient, gradient_distance, matched_names
from attar.models import Network, fixed_statistics
from attar.synthetic import decode_class, sweep_factors


@dataclass(frozen=True)
class Matching:
    """What is matched, as plain values."""

    metric: str
    match: str  # grad or feat
    bias: bool
    fc: bool
    factor: int
    decode_type: str
    lr: float  # of the images, as `synthetic.effective_lr` gives it
    momentum: float


class Sweep:
    """One sweep: images and their momentum in, images, momentum and the summed loss out."""

    def __init__(
        self, module: Network, matching: Matching, normalize: Callable[[Tensor], Tensor], labels: list[int]
    ) -> None:
        self.module = module
        self.matching = matching
        self.normalize = normalize
        self.labels = labels  # global label of each row of `images`

    def forward(self, params: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits [n, C], or the last features [n, d] when features are matched."""
        method = "features" if self.matching.match == "feat" else None
        return _call(self.module, params, images, method)

    def class_loss(
        self,
        own: Tensor,  # [ipc, ch, H, W], one class's stored images
        params: Mapping[str, Tensor],
        real: Tensor,  # [n, ch, H, W], normalised
        drawn: Draw,  # one row
        subset: Tensor | None,  # int64 [m], which decoded images take part
        label: int,
    ) -> Tensor:
        """The matching loss L_c of one class: a scalar."""
        m = self.matching
        decoded = decode_class(own, m.factor, m.decode_type)
        if subset is not None:
            decoded = decoded[subset]
        synthetic, real = apply(self.normalize(decoded), drawn), apply(real, drawn)
        if m.match == "feat":
            return feature_distance(self.forward(params, real).detach(), self.forward(params, synthetic), m.metric)
        names = matched_names(params, bias=m.bias, fc=m.fc)
        wanted, got = (
            gradient(self.forward, params, names, batch, torch.full((len(batch),), label, device=own.device))
            for batch in (real, synthetic)
        )
        return gradient_distance({name: value.detach() for name, value in wanted.items()}, got, m.metric)

    def __call__(
        self,
        images: Tensor,  # [C, ipc, ch, H, W]
        momentum: Tensor,  # same shape
        params: Mapping[str, Tensor],
        real: list[Tensor],  # per class [n_c, ch, H, W], normalised
        draws: Draw,  # C rows
        subsets: list[Tensor] | None = None,  # per class int64 [m]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sweep once. The loss stays on the device."""
        grads, losses = [], []
        with fixed_statistics(self.module):
            for row, label in enumerate(self.labels):
                subset = None if subsets is None else subsets[row]
                grad, loss = grad_and_value(self.class_loss)(
                    images[row], params, real[row], take(draws, row), subset, label
                )
                grads.append(grad)
                losses.append(loss)
        power, reach = sweep_factors(self.matching.momentum, len(self.labels))
        momentum = power * momentum + torch.stack(grads)
        images = images - self.matching.lr * reach * momentum
        return images, momentum, torch.stack(losses).sum()


def _call(module: Network, params: Mapping[str, Tensor], images: Tensor, method: str | None) -> Tensor:
    if method is None:
        return functional_call(module, dict(params), (images,))
    return functional_call(_Features(module), {f"module.{k}": v for k, v in params.items()}, (images,))


class _Features(nn.Module):
    """A module's `features` as its call."""

    def __init__(self, module: Network) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module.features(images)
