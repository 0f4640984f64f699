"""Which real images: representatives of clusters (DREAM), and core-sets by herding, k-center or chance.

Features [n, d] of the images of one class in, rows of them out, all different, on the features' device. Nothing is
read back, so a choice costs no synchronisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LLOYD = 10  # iterations of k-means after its start
CELLS = 1 << 24  # distances that are held at once


def representatives(features: Tensor, k: int, generator: Generator) -> Tensor:
    """The rows, int64 [min(k, n)], of the images nearest the centres of k clusters (DREAM).

    A class of no more than k images gives them all.
    """
    if k >= len(features):
        return torch.arange(len(features), device=features.device)
    features = features - features.mean(dim=0)  # distances lose fewer digits near the origin
    return nearest(features, kmeans(features, k, generator))


def kmeans(features: Tensor, k: int, generator: Generator, iterations: int = LLOYD) -> Tensor:
    """The centres [k, d] of k clusters: k-means++, then Lloyd's iterations. An empty cluster keeps its centre."""
    centres = features[spread(features, k, generator)]
    for _ in range(iterations):
        centres = lloyd(features, centres)
    return centres


def spread(features: Tensor, k: int, generator: Generator) -> Tensor:
    """k-means++: rows [k], the first drawn uniformly, each next one with its squared distance from those so far."""
    device, squares = features.device, features.square().sum(dim=1)
    chosen = [torch.randint(len(features), (1,), generator=generator, device=device)]
    far = distances(features, features[chosen[0]], squares)[:, 0]
    for _ in range(k - 1):
        reach = far.double().cumsum(dim=0)
        at = torch.rand(1, generator=generator, device=device, dtype=torch.float64) * reach[-1]
        chosen.append(torch.searchsorted(reach, at, right=True).clamp_max(len(features) - 1))
        far = torch.minimum(far, distances(features, features[chosen[-1]], squares)[:, 0])
    return torch.cat(chosen)


def lloyd(features: Tensor, centres: Tensor) -> Tensor:
    """One iteration: every image goes to its nearest centre, every centre to the mean of its images."""
    sums, counts = torch.zeros_like(centres), torch.zeros_like(centres[:, 0])
    for part in features.split(max(1, CELLS // len(centres))):
        own = F.one_hot(distances(part, centres).argmin(dim=1), len(centres)).to(features.dtype)
        sums = sums + own.T @ part  # a product, not a scattered sum, whose order a GPU does not promise
        counts = counts + own.sum(dim=0)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)


def nearest(features: Tensor, points: Tensor) -> Tensor:
    """For each of the points [k, d] in turn the row of the image nearest to it that no point before it took, [k]."""
    squares = features.square().sum(dim=1)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    rows = []
    for part in points.split(max(1, CELLS // len(features))):
        for far in distances(features, part, squares).T:
            rows.append(far.masked_fill(taken, torch.inf).argmin().view(1))
            taken = taken.index_fill(0, rows[-1], True)
    return torch.cat(rows)


def distances(features: Tensor, points: Tensor, squares: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances [n, k]; `squares`: the squared norms [n] of the features, where they are known."""
    own = features.square().sum(dim=1) if squares is None else squares
    return (own[:, None] - 2 * (features @ points.T) + points.square().sum(dim=1)).clamp_min(0)
