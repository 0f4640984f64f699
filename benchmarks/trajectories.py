"""Trajectory matching: memory and time of the adjoint beside the graph of all steps, disk of experts, rates that hold.

    python -m benchmarks.trajectories OUT.json
    python -m benchmarks.trajectories --tesla    # by how much TESLA's gradient of the images is off

One iteration is of Fashion-MNIST's shape at width 32, ten images a class, N steps on all of them. Each peak of memory
is that of a process of its own, less what it had before; the two ways take turns, so their ratio survives noise.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

import attar
from attar import models
from attar.condensation.gradients import Execution
from attar.condensation.trajectory import StudentStep, TrajectoryGradients
from attar.errors import Diverged
from attar.training.augment import apply
from attar.training.draws import numbers, parameters
from benchmarks.common import in_turns, machine, peak_memory, summary

CPU = torch.device("cpu")
SIDE, CLASSES, IPC, WIDTH = 28, 10, 10, 0.25
STRATEGY = ("color", "crop", "cutout", "flip", "scale", "rotate")
LR_IMG_FACTORS, LR_ITERATIONS = (0.1, 1.0, 10.0), 200


def student_gradient(
    gradients: TrajectoryGradients, theta: Tensor, images: Tensor, targets: Tensor, step: StudentStep
) -> Tensor:
    """g [P] of a step of a student at θ [P], with its graph."""
    named, first = {}, 0
    for name, shape in gradients.shapes.items():
        named[name] = theta[first : first + shape.numel()].view(shape)
        first += shape.numel()
    draw = parameters(step.numbers, (images.shape[2], images.shape[3]), n := len(step.rows), batch=n)
    out = functional_call(gradients.module, named, (apply(images[step.rows], draw),))
    loss = -(targets[step.rows] * out.log_softmax(dim=1)).sum(dim=1).mean()
    return torch.autograd.grad(loss, theta, create_graph=True)[0]


def unrolled(
    gradients: TrajectoryGradients,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    targets: Tensor,
    steps: list[StudentStep],
    lr: Tensor,
    compared: Callable[[str], bool] = lambda name: True,  # which parameters
) -> tuple[Tensor, ...]:
    """What `TrajectoryGradients` computes, by the graph of all steps, as published."""
    leaves = [value.detach().requires_grad_() for value in (images, targets, lr)]
    theta = start.clone().requires_grad_()
    for step in steps:
        theta = theta - leaves[2] * student_gradient(gradients, theta, leaves[0], leaves[1], step)
    sizes = [shape.numel() for shape in gradients.shapes.values()]
    parts = [vector.split(sizes) for vector in (theta, target, start)]
    chosen = [own for name, *own in zip(gradients.shapes, *parts, strict=True) if compared(name)]
    far = torch.stack([(end - goal).square().sum() for end, goal, _ in chosen]).sum()
    loss = far / torch.stack([(begin - goal).square().sum() for _, goal, begin in chosen]).sum()
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def tesla(
    gradients: TrajectoryGradients,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    targets: Tensor,
    steps: list[StudentStep],
    lr: Tensor,
) -> Tensor:
    """The gradient of the images as published for TESLA: each θ_i counts as a constant."""
    points, leaf = [start.clone().requires_grad_()], images.detach().requires_grad_()
    for step in steps:
        moved = points[-1] - lr * student_gradient(gradients, points[-1], images, targets, step)
        points.append(moved.detach().requires_grad_())
    along = 2 * lr * (target - points.pop()) / (start - target).square().sum()
    of_images = torch.zeros_like(images)
    for theta, step in zip(points, steps, strict=True):
        g = student_gradient(gradients, theta, leaf, targets, step)
        of_images += torch.autograd.grad(g @ along.detach(), leaf)[0]
    return of_images


def tesla_errors() -> dict[str, float]:
    """{students' learning rate: ‖TESLA's gradient − the exact one‖ / ‖the exact one‖}, ten steps on digits, float64."""
    data = attar.load("digits")
    pool = attar.pretrain(data, method="mtt", epochs=2, models=1)
    gradients = TrajectoryGradients(pool.build(0).double(), Execution(), CPU)
    start, target = (gradients.flat(pool.at(0, epoch)).double() for epoch in (0, 1))
    rows = torch.cat([data.rows(label)[:IPC] for label in range(CLASSES)])
    images, targets = data.normalize(data.images[rows].double() / 255), torch.eye(CLASSES).double()[data.labels[rows]]
    generator = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(10):
        order = torch.randperm(len(images), generator=generator)
        steps.append(StudentStep(order, numbers(STRATEGY, len(images), generator, batch=len(images))))
    found = {}
    for lr in (0.02, 0.1):
        inputs = (start, target, images, targets, steps, torch.tensor(lr, dtype=torch.float64))
        exact = gradients(*inputs).images
        found[f"{lr:g}"] = float((tesla(gradients, *inputs) - exact).norm() / exact.norm())
    return found


def iteration(count: int) -> tuple[Any, ...]:
    """The arguments of one iteration of `count` steps, random ones."""
    generator = torch.Generator().manual_seed(0)
    module = models.build("convnet", channels=1, nclass=CLASSES, size=(SIDE, SIDE), width=WIDTH, seed=0)
    gradients = TrajectoryGradients(module, Execution(), CPU)
    start = gradients.flat(models.parameters_of(module))
    images = torch.randn(CLASSES * IPC, 1, SIDE, SIDE, generator=generator)
    targets = torch.eye(CLASSES).repeat_interleave(IPC, dim=0)
    steps = []
    for _ in range(count):
        order = torch.randperm(len(images), generator=generator)
        steps.append(StudentStep(order, numbers(STRATEGY, len(images), generator, batch=len(images))))
    target = start + 0.01 * torch.randn(start.shape, generator=generator)
    return gradients, start, target, images, targets, steps, torch.tensor(0.01)


def adjoint(gradients: TrajectoryGradients, *inputs: Any) -> Any:
    """attar's way, as `unrolled`."""
    return gradients(*inputs)


WAYS = {"adjoint": adjoint, "unrolled": unrolled}


def peak_megabytes(way: str, count: int) -> float:
    """The peak of memory in MB of one iteration in this process, less what it had before."""
    inputs, before = iteration(count), peak_memory(CPU)
    WAYS[way](*inputs)
    return peak_memory(CPU) - before


def in_a_process(way: str, count: int) -> float:
    """`peak_megabytes` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.trajectories", "--peak", way, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seconds(count: int, rounds: int) -> dict[str, Any]:
    """Seconds of an iteration of `count` steps, both ways in turns, and the median of the ratios of a turn."""
    inputs = iteration(count)
    ways: dict[str, Callable[[], Any]] = {name: partial(way, *inputs) for name, way in WAYS.items()}
    in_turns(ways, 1, CPU)  # a warm-up
    found = in_turns(ways, rounds, CPU)
    ratios = [one / other for one, other in zip(found["adjoint"], found["unrolled"], strict=True)]
    return {name: summary(values) for name, values in found.items()} | {"ratio": statistics.median(ratios)}


def expert_megabytes() -> float:
    """MB of five experts of CIFAR-10's shape and twenty epochs, in bf16, as `attar pretrain` writes them."""
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = attar.ImageData(images, torch.arange(10).repeat(2), name="shape")
    with tempfile.TemporaryDirectory() as folder:
        attar.pretrain(data, recipe="cifar10", method="mtt", epochs=20, models=5, folder=folder)
        return sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6


def rates() -> dict[str, str]:
    """{factor of lr_img: the learned learning rate after 200 iterations on the digits, or the message}."""
    data = attar.load("digits")
    pool = attar.pretrain(data, method="mtt", epochs=6)
    usual = attar.condense(data, pool, method="mtt", niter=1, inner_loop=1).recipe["condense"]["lr_img"]
    found = {}
    for factor in LR_IMG_FACTORS:
        settings = {"lr_img": factor * usual, "niter": 10, "inner_loop": LR_ITERATIONS // 10}
        try:
            found[f"{factor:g}"] = f"{attar.condense(data, pool, method='mtt', **settings).lr:.4g}"
        except Diverged as error:
            found[f"{factor:g}"] = re.sub(r"\s+", " ", str(error))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tesla", action="store_true", help="print only the errors of TESLA's gradient")
    parser.add_argument("--peak", nargs=2, metavar=("WAY", "STEPS"), help="print the peak of one iteration in MB")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_megabytes(arguments.peak[0], int(arguments.peak[1])))
        return
    if arguments.tesla:
        print(json.dumps(tesla_errors()))
        return
    found: dict[str, Any] = machine(CPU)
    found["peak_mb"] = {way: {count: in_a_process(way, count) for count in (10, 40)} for way in WAYS}
    found["seconds_of_10_steps"] = seconds(10, arguments.rounds)
    found["tesla_error_at_learning_rate"] = tesla_errors()
    found["experts_mb"] = expert_megabytes()
    found["learned_rate_at_lr_img_times"] = rates()
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
