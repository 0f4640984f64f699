"""A teacher's soft labels: the class probabilities that trained networks give images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from attar.data.images import ImageData
from attar.training.pool import Pool

BATCH = 256  # images at once


@torch.no_grad()
def soft_labels(teacher: Pool, images: Tensor, data: ImageData, temperature: float) -> Tensor:
    """softmax(logits / temperature) float32 [n, C], the logits being the mean over the teacher's models.

    images: uint8, or float in [0, 1], [n, ch, H, W], not augmented.
    """
    module, parts = teacher.build(seed=0).to(data.device).eval(), []
    for batch in images.to(data.device).split(BATCH):
        x = data.scaled(batch) if batch.dtype == torch.uint8 else data.normalize(batch)
        logits = [functional_call(module, {**member.params, **member.buffers}, (x,)) for member in teacher.members]
        parts.append(torch.stack(logits).mean(dim=0))
    return (torch.cat(parts) / temperature).softmax(dim=1)
