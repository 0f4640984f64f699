"""The published sequential algorithm (Acc-DD algorithm 1 on IDC's loop) in plain eager PyTorch, float32.

Written to be read, and not slowed down: data resident, gradients of the matched parameters only, no value read back.
Classes are visited one after another; SGD steps the whole image tensor after each. It shares attar's networks and
augmentation (with given draws), so that the two differ in nothing but the loop, and the averaging that PyTorch has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.models.common import AveragePool
from attar.training.augment import apply, cutmix
from attar.training.draws import Draw, draw, take


@dataclass
class Reference:
    """A run of the published loop between two inner iterations."""

    module: nn.Module  # θ lives in it
    images: Tensor  # float32 [C·ipc, ch, H, W], a leaf
    image_optimizer: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer
    ipc: int
    factor: int
    metric: str
    mean: Tensor  # [ch, 1, 1]
    std: Tensor  # [ch, 1, 1]


def start(
    module: nn.Module,
    params: Mapping[str, Tensor],
    images: Tensor,  # [C, ipc, ch, H, W]
    *,
    factor: int,
    metric: str,
    lr_img: float,  # as it is applied
    mom_img: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Reference:
    """Put copies of parameters and images under their optimisers (network: lr .01, momentum .9, weight decay 5e-4)."""
    plain(module)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(params[name])
    leaf = images.flatten(0, 1).clone().requires_grad_()
    return Reference(
        module=module,
        images=leaf,
        image_optimizer=torch.optim.SGD([leaf], lr=lr_img, momentum=mom_img),
        optimizer=torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4),
        ipc=images.shape[1],
        factor=factor,
        metric=metric,
        mean=images.new_tensor(mean).view(-1, 1, 1),
        std=images.new_tensor(std).view(-1, 1, 1),
    )


def plain(module: nn.Module) -> None:
    """Give a network PyTorch's own average pooling."""
    for holder in list(module.modules()):
        for name, layer in holder.named_children():
            if isinstance(layer, AveragePool):
                setattr(holder, name, nn.AvgPool2d(layer.side))


def sweep(run: Reference, real: Sequence[Tensor], draws: Draw, subsets: Sequence[Tensor] | None = None) -> Tensor:
    """One visit to every class. real: per class [n, ch, H, W], normalised; subsets: per class int64 [m], which decoded
    images take part. Returns the summed loss.
    """
    total = torch.zeros((), device=run.images.device)
    matched = [value for value in run.module.parameters() if value.dim() == 4]
    for label, batch in enumerate(real):
        drawn = take(draws, label)
        wanted = class_gradient(run.module, matched, apply(batch, drawn), label, create_graph=False)
        own = run.images[label * run.ipc : (label + 1) * run.ipc]
        decoded = decode(own, run.factor)
        if subsets is not None:
            decoded = decoded[subsets[label]]
        synthetic = apply((decoded - run.mean) / run.std, drawn)
        got = class_gradient(run.module, matched, synthetic, label, create_graph=True)
        loss = torch.stack([distance(a, b, run.metric) for a, b in zip(wanted, got, strict=True)]).sum()
        run.image_optimizer.zero_grad(set_to_none=False)
        loss.backward(inputs=[run.images])
        run.image_optimizer.step()
        total += loss.detach()
    return total


def class_gradient(
    module: nn.Module, matched: list[Tensor], images: Tensor, label: int, *, create_graph: bool
) -> tuple[Tensor, ...]:
    """∇θ of the cross-entropy of one class's images, for the matched parameters."""
    labels = torch.full((len(images),), label, device=images.device)
    return torch.autograd.grad(F.cross_entropy(module(images), labels), matched, create_graph=create_graph)


def distance(wanted: Tensor, got: Tensor, metric: str) -> Tensor:
    """`mse`: Σ(g_r − g_s)²; `l1`: Σ|g_r − g_s|."""
    return (wanted - got).square().sum() if metric == "mse" else (wanted - got).abs().sum()


def decode(images: Tensor, factor: int) -> Tensor:
    """Cut each image into factor² patches and up-sample them, image by image; .5 fills up what is missing."""
    if factor == 1:
        return images
    height, width = images.shape[2:]
    rows, columns = -(-height // factor), -(-width // factor)
    padded = F.pad(images, (0, factor * columns - width, 0, factor * rows - height), value=0.5)
    patches = [
        padded[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        for i in range(factor)
        for j in range(factor)
    ]
    return F.interpolate(torch.stack(patches, dim=1).flatten(0, 1), size=(height, width), mode="bilinear")


def train(
    module: nn.Module,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],  # an epoch: augmented images, soft targets
    epochs: int,
    rate: Callable[[int], float],  # the learning rate of an epoch
    *,
    momentum: float,
    weight_decay: float,
) -> None:
    """Supervised training, as the evaluation does it."""
    plain(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate(0), momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate(epoch)
        for images, targets in batches():
            optimizer.zero_grad()
            F.cross_entropy(module(images), targets).backward()
            optimizer.step()


def update(
    run: Reference,
    batches: Sequence[tuple[Tensor, Tensor]],  # normalised images [n, ch, H, W] and labels [n]
    *,
    strategy: tuple[str, ...],
    nclass: int,
    mix_p: float,
    generator: torch.Generator,
) -> None:
    """The network update: SGD on augmented real batches with CutMix."""
    for images, labels in batches:
        size = (images.shape[2], images.shape[3])
        images = apply(images, draw(strategy, len(images), size, generator, batch=len(images)))
        images, targets = cutmix(images, labels, nclass, mix_p, generator)
        run.optimizer.zero_grad()
        F.cross_entropy(run.module(images), targets).backward()
        run.optimizer.step()
