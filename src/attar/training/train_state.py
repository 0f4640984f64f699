"""A network under training: its tensors and optimiser, a training step, the learning rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from attar.data.images import ImageData
from attar.engine.precision import autocast
from attar.errors import choose
from attar.models import buffers_of, parameters_of
from attar.models.for_data import build, describe
from attar.settings.config import EvaluateConfig, NetworkConfig, PoolConfig

# (params, buffers, images, targets) → (gradients by parameter, the loss)
Gradients = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
Batch = tuple[Tensor, Tensor]  # images [n, ch, H, W] normalised and augmented, targets float [n, C]


@dataclass
class TrainState:
    """A network under training. Calling it gives the logits [n, C] of images.

    Attributes:
        module: defines the architecture; its own tensors are not used.
        params: leaf tensors that the optimiser updates in place.
        buffers: running statistics of batch norm, if any.
        optimizer: the optimiser of `params`.
        gsam: ρ and a of GSAM, whose gradients replace those of the loss, or None.
        precision: in which training steps compute convolutions and products.
    """

    module: nn.Module
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    gsam: tuple[float, float] | None = None
    precision: str = "float32"

    def __call__(self, images: Tensor) -> Tensor:
        return functional_call(self.module, {**self.params, **self.buffers}, (images,))


def start_training(
    module: nn.Module,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    optimizer: str = "sgd",
    gsam: tuple[float, float] = (0.0, 0.0),
) -> TrainState:
    """Copy `params` and `buffers`, and make an optimiser (sgd, adam, adamw or gsam) for the copies."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    copies = {name: value.detach().clone() for name, value in buffers.items()}
    fused = next(iter(leaves.values())).device.type == "cuda" or None  # one kernel for all parameters
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(
            leaves.values(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused
        ),
        "adam": lambda: torch.optim.Adam(leaves.values(), lr=lr, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW(leaves.values(), lr=lr, weight_decay=weight_decay),
    }
    makers["gsam"] = makers["sgd"]
    made = makers[choose("optimizer", optimizer, makers)]()
    return TrainState(module, leaves, copies, made, gsam if optimizer == "gsam" else None)


def start_fresh(network: NetworkConfig, data: ImageData, config: PoolConfig | EvaluateConfig, seed: int) -> TrainState:
    """A fresh network for some data on their device, about to be trained as a section of settings says."""
    module = build(network, describe(data), seed).to(data.device)
    optimizer, gsam = "sgd", (0.0, 0.0)
    if isinstance(config, PoolConfig):
        optimizer, gsam = config.optimizer, (config.gsam_rho, config.gsam_alpha)
    model = start_training(
        module,
        parameters_of(module),
        buffers_of(module),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        optimizer=optimizer,
        gsam=gsam,
    )
    model.precision = config.precision
    return model


def reset(model: TrainState, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Restart from `params` and `buffers` with zero momentum of SGD, in the same memory, which CUDA graphs rely on."""
    with torch.no_grad():
        for tensors, new_values in ((model.params, params), (model.buffers, buffers)):
            if tensors:
                torch._foreach_copy_(list(tensors.values()), [new_values[name] for name in tensors])
        momenta = [state["momentum_buffer"] for state in model.optimizer.state.values()]
        if momenta:
            torch._foreach_zero_(momenta)  # μ·0 + g = g, the buffer after a first step


def optimizer_state(model: TrainState) -> dict[str, Tensor]:
    """The tensors in the optimiser's state, with keys such as "classifier.weight/momentum_buffer"."""
    state = model.optimizer.state
    return {f"{name}/{key}": state[leaf][key] for name, leaf in model.params.items() for key in state.get(leaf, {})}


def restore_optimizer(model: TrainState, values: Mapping[str, Tensor]) -> None:
    """Put back the optimiser's state that `optimizer_state` returned."""
    for path, value in values.items():
        name, _, key = path.rpartition("/")
        # Adam keeps its step count on the CPU
        model.optimizer.state[model.params[name]][key] = value.cpu() if key == "step" else value


def step(model: TrainState, images: Tensor, targets: Tensor, gradients: Gradients | None = None) -> Tensor:
    """Make one step on the mean cross-entropy with soft targets [n, C]. Returns the loss, still on the device.

    gradients: computes the gradients and the loss instead of autograd, e.g. compiled or at another precision.
    """
    model.module.train()
    params = model.params

    def gradients_at(params: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        if gradients is not None:
            return gradients({name: value.detach() for name, value in params.items()}, model.buffers, images, targets)
        with autocast(model.precision, images.device):
            out = functional_call(model.module, {**params, **model.buffers}, (images,))
        loss = F.cross_entropy(out.to(targets.dtype), targets)
        derivatives = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return dict(zip(params, derivatives, strict=True)), loss

    grads, loss = gradients_at(params)
    if model.gsam is not None:
        uphill = {name: value.detach().requires_grad_() for name, value in gsam_uphill(params, grads, model.gsam[0])}
        grads = gsam_gradients(grads, gradients_at(uphill)[0], model.gsam[1])
    for name, leaf in params.items():
        leaf.grad = laid_out_like(leaf, grads[name])
    model.optimizer.step()
    return loss.detach()


def laid_out_like(leaf: Tensor, grad: Tensor) -> Tensor:
    """A gradient in the memory layout of its parameter, as an optimiser's one kernel for all parameters needs it."""
    return grad if grad.stride() == leaf.stride() else torch.empty_like(leaf).copy_(grad)


def gsam_uphill(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rho: float) -> Iterator[tuple[str, Tensor]]:
    """θ + ρ·θ²·g/‖θ·g‖ by parameter: where adaptive GSAM takes its second gradient (FTD section 4)."""
    norm = torch.stack([(params[name].detach() * value).norm() for name, value in grads.items()]).norm()
    for name, value in params.items():
        yield name, value.detach() + rho * value.detach().square() * grads[name] / (norm + 1e-12)


def gsam_gradients(here: Mapping[str, Tensor], uphill: Mapping[str, Tensor], a: float) -> dict[str, Tensor]:
    """The gradient uphill less a times the part of the gradient here that is orthogonal to it (GSAM section 4.2)."""
    along, square = (torch.stack([(one[name] * uphill[name]).sum() for name in uphill]).sum() for one in (here, uphill))
    share = along / (square + 1e-12)
    return {name: value - a * (here[name] - share * value) for name, value in uphill.items()}


def decay(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in `epoch` (from 0): 0.2 after 2/3 of `epochs`, 0.04 after 5/6."""
    return 0.2 ** ((3 * epoch >= 2 * epochs) + (6 * epoch >= 5 * epochs))


def accuracy(model: TrainState, batches: Iterable[Batch]) -> float:
    """Fraction of the images that are classified correctly; the batches have labels int64 [n] as targets."""
    predicted, labels = predict(model, batches)
    return float((predicted == labels).sum()) / len(labels)


@torch.no_grad()
def predict(model: TrainState, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """The predicted classes and the labels of all images of the batches, int64 [M] each, on the device."""
    model.module.eval()
    answers = [(model(images).argmax(dim=1), labels) for images, labels in batches]
    model.module.train()
    predicted, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return predicted, labels
