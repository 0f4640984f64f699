"""A sweep over the classes as a run makes it: from rows of real images, on a GPU recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.condensation.gradients import ImageGradients, SweepInputs, SweepResult
from attar.data.images import ImageData
from attar.engine.cuda_graphs import CudaGraph


class Sweep:
    """`ImageGradients` of rows of real images, int64 [n_c] per class, in place of the images."""

    def __init__(self, gradients: ImageGradients, data: ImageData) -> None:
        on_gpu = data.device.type == "cuda"
        self.data = data
        self.upload = on_gpu and not isinstance(data.images, Tensor)  # a recording cannot read a file
        make = data.scaled if self.upload else data.fetch

        def from_rows(inputs: SweepInputs) -> SweepResult:
            return gradients(inputs._replace(real=LazyBatches(make, inputs.real)))

        self.compute: Callable[[SweepInputs], SweepResult] = (
            CudaGraph(from_rows, smaller=gradients.halve) if on_gpu else from_rows
        )

    def run(self, inputs: SweepInputs) -> SweepResult:
        """Gradient and loss; images that are not on the GPU are sent there first, as bytes."""
        if self.upload:
            inputs = inputs._replace(real=[self.data.images[rows] for rows in inputs.real])
        return self.compute(inputs)


class SyntheticSweep:
    """`ImageGradients` of a loss that looks at no real images."""

    def __init__(self, gradients: ImageGradients, data: ImageData) -> None:
        def alone(inputs: SweepInputs) -> SweepResult:
            blank = torch.zeros_like(inputs.images[0, :1])
            return gradients(inputs._replace(real=[blank] * len(inputs.images)))

        self.compute: Callable[[SweepInputs], SweepResult] = (
            CudaGraph(alone, smaller=gradients.halve) if data.device.type == "cuda" else alone
        )

    def run(self, inputs: SweepInputs) -> SweepResult:
        """Gradient and loss; `inputs.real` is not read, and may be empty."""
        return self.compute(inputs)


class LazyBatches(Sequence[Tensor]):
    """Real batches that are made when a class's turn comes, so that memory does not grow with the classes."""

    def __init__(self, make: Callable[[Tensor], Tensor], rows: Sequence[Tensor]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.make(self.rows[index])
