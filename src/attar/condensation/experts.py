"""What the early-stage models say of images: which real ones they have right, and their logits (DATM section 4); and
whether they moved at all."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from attar.condensation.setup import Setup
from attar.condensation.trajectory import span
from attar.engine.device import send_all
from attar.errors import UserError
from attar.settings.choices import layer_range
from attar.settings.condense_config import CondenseConfig
from attar.training.pool import Member

AT_ONCE = 256  # real images that are looked at together
STILL = 1e-5  # of the norm of its parameters, and of 1: an expert that moves less has not moved


@torch.no_grad()
def logits_of(setup: Setup, index: int, images: Tensor) -> Tensor:
    """The logits [n, C] of normalised images [n, ch, H, W] by a member of the pool, after its last epoch."""
    member, module = setup.pool.members[index], setup.module
    tensors = send_all({**setup.pool.at(index), **member.buffers}, images.device)
    module.eval()
    logits = torch.cat([functional_call(module, tensors, (part,)) for part in images.split(AT_ONCE)])
    module.train()
    return logits


def right_rows(setup: Setup, label: int, count: int, generator: Generator) -> Tensor:
    """Rows of random images of a class that the first model has right, int64 [count].

    Where there are too few, those that the second has right follow, and so on; at last the others.
    """
    rows = setup.data.rows(label)
    rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
    chosen: list[int] = []
    for index in range(len(setup.pool)):
        for part in rows.split(AT_ONCE):
            right = logits_of(setup, index, setup.data.fetch(part)).argmax(dim=1) == label
            chosen += [row for row in part[right].tolist() if row not in chosen]
            if len(chosen) >= count:
                return rows.new_tensor(chosen[:count])
    return rows.new_tensor(list(dict.fromkeys([*chosen, *rows.tolist()]))[:count])


def mean_logits(setup: Setup, images: Tensor) -> Tensor:
    """The mean logits [C, ipc, classes] of stored images [C, ipc, ch, H, W] over the models that have them right.

    Over all models where none has.
    """
    pixels = setup.data.normalize(images.flatten(0, 1))
    labels = setup.gradients.labels.repeat_interleave(images.shape[1])
    logits = torch.stack([logits_of(setup, index, pixels) for index in range(len(setup.pool))])  # [models, n, classes]
    right = logits.argmax(dim=2) == labels
    weight = torch.where(right.any(dim=0), right, True)[:, :, None].to(logits.dtype)
    return ((logits * weight).sum(dim=0) / weight.sum(dim=0)).unflatten(0, images.shape[:2])


def check_moved(expert: Member, config: CondenseConfig) -> None:
    """Raise `UserError` where an expert is the same at two of its epochs: the loss is relative to how far it moved.

    Only the layers that are compared count (`match_layers`).
    """
    values = list(expert.epochs.values())
    compared = slice(*span({name: v.shape[1:] for name, v in expert.epochs.items()}, layer_range(config.match_layers)))
    for first in range(config.min_start_epoch, config.max_start_epoch):
        last = first + config.expert_epochs
        if any(last >= len(v) for v in values):
            continue
        start, end = (torch.cat([v[k].float().flatten() for v in values])[compared] for k in (first, last))
        if float((end - start).norm()) < STILL * (1 + float(start.norm())):
            raise UserError(
                f"the expert {expert.name} hardly moved between its epochs {first} and {last}, so a student has "
                f"nothing to follow; train experts with a higher lr (theirs is {expert.settings.get('lr')}), or raise "
                f"expert_epochs"
            )
