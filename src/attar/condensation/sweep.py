"""A sweep over the classes from rows of real images; on a GPU it is a CUDA graph, recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.condensation.gradients import ImageGradients, SweepInputs, SweepResult
from attar.data.images import ImageData
from attar.engine.cuda_graphs import CudaGraph


class Sweep:
    """Computes `ImageGradients` with `real` given as rows of the data, int64 [n_c] per class.

    given: `real` is images as bytes, uint8 [n_c, ch, H, W], not rows.
    """

    def __init__(self, gradients: ImageGradients, data: ImageData, given: bool = False) -> None:
        on_gpu = data.device.type == "cuda"
        self.data = data
        self.upload = on_gpu and not given and not isinstance(data.images, Tensor)  # a CUDA graph cannot read files
        make = data.scaled if self.upload or given else data.fetch

        def from_rows(inputs: SweepInputs) -> SweepResult:
            return gradients(inputs._replace(real=LazyBatches(make, inputs.real)))

        self.compute: Callable[[SweepInputs], SweepResult] = (
            CudaGraph(from_rows, smaller=gradients.halve) if on_gpu else from_rows
        )

    def run(self, inputs: SweepInputs) -> SweepResult:
        """Compute a sweep. Images that are not in the GPU's memory are sent there first, as bytes."""
        if self.upload:
            rows = torch.cat(list(inputs.real)).cpu().split([len(rows) for rows in inputs.real])  # one wait, not each
            inputs = inputs._replace(real=[self.data.images[of_class] for of_class in rows])
        return self.compute(inputs)


class SyntheticSweep:
    """Computes `ImageGradients` of a loss that uses no real images."""

    def __init__(self, gradients: ImageGradients, data: ImageData) -> None:
        def without_real(inputs: SweepInputs) -> SweepResult:
            blank = torch.zeros_like(inputs.images[0, :1])
            return gradients(inputs._replace(real=[blank] * len(inputs.images)))

        self.compute: Callable[[SweepInputs], SweepResult] = (
            CudaGraph(without_real, smaller=gradients.halve) if data.device.type == "cuda" else without_real
        )

    def run(self, inputs: SweepInputs) -> SweepResult:
        """Compute a sweep. `inputs.real` is not read and may be empty."""
        return self.compute(inputs)


class LazyBatches(Sequence[Tensor]):
    """Real batches that are made only when they are read, so that memory does not grow with the number of classes."""

    def __init__(self, make: Callable[[Tensor], Tensor], rows: Sequence[Tensor]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.make(self.rows[index])
