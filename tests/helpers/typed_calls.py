"""Calls that nobody makes, for mypy (`make types`): a wrong one that it does not refuse is an unused `ignore`."""

from __future__ import annotations

from torch import nn

import attar


def calls(make: type[nn.Module]) -> None:
    """Right and wrong names and types of settings."""
    small = attar.condense("digits", ipc=10, lr_img=0.01, net_type=make, eval_at=[1, 2], device="cpu")
    attar.condense("digits", ipx=10)  # type: ignore[call-arg]
    attar.condense("digits", ipc="ten")  # type: ignore[arg-type]
    attar.evaluate(small, networks=[make, "resnet18"], runs=5, yardsticks="none")
    attar.evaluate(small, run=5)  # type: ignore[call-arg]
    attar.train(small, make, epochs=300, out="model.safetensors")
    attar.train(small, make, epoch=300)  # type: ignore[call-arg]
    attar.pretrain("digits", epochs=2, models=5)
    attar.pretrain("digits", model=5)  # type: ignore[call-arg]
    attar.select("digits", "random", ipc=1)
    attar.select("digits", "random", icp=1)  # type: ignore[call-arg]
    attar.add("runs/demo", size=8)
    attar.add("runs/demo", ipc=8)  # type: ignore[call-arg]
