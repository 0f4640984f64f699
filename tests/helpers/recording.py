"""Stand-ins for CUDA graphs: what is recorded is called again when it is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attar.training.train_state import TrainState


class Tape:
    """What a CUDA graph does, on the CPU: record one call, replay it into the same memory."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        result = function()

        def replay() -> None:
            for old, new in zip(result, function(), strict=True):
                old.copy_(new)

        return replay, result


class Film:
    """What a CUDA graph does to a learner, on the CPU: recording leaves it alone, every replay takes its steps."""

    def __init__(self, start_training: Callable[[], TrainState]) -> None:
        self.start_training = start_training
        self.recorded = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        model = self.start_training()
        kept = [*model.params.values(), *model.buffers.values()]
        kept += [state["momentum_buffer"] for state in model.optimizer.state.values()]
        rates = [group["lr"] for group in model.optimizer.param_groups]
        before = [value.detach().clone() for value in kept]
        result = function()
        with torch.no_grad():
            for value, old in zip(kept, before, strict=True):
                value.copy_(old)

        def replay() -> None:
            groups = model.optimizer.param_groups
            now = [group["lr"] for group in groups]
            for group, rate in zip(groups, rates, strict=True):  # a graph goes on with what it was recorded with
                group["lr"] = rate
            for old, new in zip(result, function(), strict=True):
                old.copy_(new)
            for group, rate in zip(groups, now, strict=True):
                group["lr"] = rate

        return replay, result
