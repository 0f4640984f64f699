"""How hard training images are for early-stage models; a higher score is harder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attar.data.images import ImageData
from attar.engine.device import send_all
from attar.errors import UserError, counted, say_once
from attar.selection.embeddings import by_network, embed_rows
from attar.settings.choices import EPOCH_SCORE_NAMES
from attar.training.pool import Pool

HARD_SHARE = 0.3  # of a class that coverage-centric selection leaves out
STRATA = 50  # ranges of the score that it draws from
ENOUGH_EPOCHS = 10  # of a model that is followed over its epochs


def difficulty(kind: str, data: ImageData, label: int, pool: Pool) -> Tensor:
    """The scores [n] of the training images of a class: `el2n`, `grand`, `forgetting` or `aum`; `ccs` ranks by `aum`.

    el2n and grand are means over the models of the pool, the others follow its first model over its epochs. Raises
    `UserError` for a pool without models or, where they are needed, without epochs.
    """
    if not len(pool):
        raise UserError(f"{kind} needs early-stage models, and there are none")
    rows = data.rows(label)
    if kind in EPOCH_SCORE_NAMES:
        epochs, buffers = int(pool.members[0].settings["epochs"]), pool.members[0].buffers
        if epochs < ENOUGH_EPOCHS / 2:
            line = f"{kind} follows a model over {counted(epochs, 'epoch')}, too few to tell much; --pt_from "
            say_once(f"{line}{ENOUGH_EPOCHS} trains it longer", logging.WARNING)
        seen = [answers(data, rows, pool, pool.at(0, epoch), buffers)[1] for epoch in range(1, epochs + 1)]
        return (forgetting if kind == "forgetting" else aum)(torch.stack(seen), label)
    score: Callable[[Tensor, Tensor, int], Tensor] = {"el2n": el2n, "grand": grand}[kind]
    scores = [score(*answers(data, rows, pool, member.params, member.buffers), label) for member in pool.members]
    return torch.stack(scores).mean(dim=0)


def answers(
    data: ImageData, rows: Tensor, pool: Pool, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The last features [n, d] and the logits [n, C] of a network with these tensors for training images."""
    params, buffers = (send_all(one, data.device) for one in (params, buffers))
    features = embed_rows(data, rows, by_network(pool.build(seed=0).to(data.device), params, buffers))
    return features, F.linear(features, params["classifier.weight"], params.get("classifier.bias"))


def el2n(features: Tensor, logits: Tensor, label: int) -> Tensor:
    """‖softmax(f(x)) − one-hot(y)‖ (Paul et al. 2021, section 2)."""
    target = F.one_hot(torch.tensor(label, device=logits.device), logits.shape[1])
    return (logits.softmax(dim=1) - target).norm(dim=1)


def grand(features: Tensor, logits: Tensor, label: int) -> Tensor:
    """The norm of the gradient of an image's loss for the last layer: EL2N · ‖(features, 1)‖ (Paul et al. 2021)."""
    return el2n(features, logits, label) * (features.square().sum(dim=1) + 1).sqrt()


def forgetting(logits: Tensor, label: int) -> Tensor:
    """How often an image goes from right to wrong over the epochs of logits [E, n, C]; infinite where never right.

    Toneva et al. 2019, section 3.
    """
    right = logits.argmax(dim=2) == label
    forgotten = (right[:-1] & ~right[1:]).sum(dim=0).float()
    return torch.where(right.any(dim=0), forgotten, torch.inf)


def aum(logits: Tensor, label: int) -> Tensor:
    """Minus the area under the margin: the mean over epochs of the largest other logit − that of the class.

    logits: [E, n, C]. Pleiss et al. 2020, section 3.
    """
    others = logits.clone()
    others[:, :, label] = -torch.inf
    return (others.amax(dim=2) - logits[:, :, label]).mean(dim=0)


def easiest(scores: Tensor, k: int, generator: Generator) -> Tensor:
    """The k rows of the lowest scores, the lowest first; a draw decides between equal ones."""
    order = torch.randperm(len(scores), generator=generator, device=scores.device)
    return order[scores[order].argsort(stable=True)][:k]


def stratified(scores: Tensor, k: int, generator: Generator) -> Tensor:
    """k rows by coverage-centric selection (Zheng et al. 2023, algorithm 1).

    The hardest images are left out, the rest is cut into strata of equal ranges of the score, and each stratum gives an
    equal share of the budget, the smallest first; what one lacks the others give.
    """
    kept = easiest(scores, max(k, len(scores) - int(HARD_SHARE * len(scores))), generator)
    low, high = scores[kept[0]], scores[kept[-1]]
    stratum = ((scores[kept] - low) / (high - low).clamp(min=1e-12) * STRATA).long().clamp(max=STRATA - 1)
    groups = sorted((kept[stratum == number] for number in stratum.unique()), key=len)
    rows: list[Tensor] = []
    for number, group in enumerate(groups):
        share = (k - sum(map(len, rows))) // (len(groups) - number)
        rows.append(group[torch.randperm(len(group), generator=generator, device=group.device)[:share]])
    return torch.cat(rows)
