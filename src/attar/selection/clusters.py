"""k-means and the images that represent its clusters (DREAM).

All functions take features [n, d] of the images of one class and return rows of them, all different, on the device of
the features. Nothing is read back from the device, so they need no synchronisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LLOYD_ITERATIONS = 10
MAX_DISTANCES = 1 << 24  # held in memory at once


def representatives(features: Tensor, k: int, generator: Generator) -> Tensor:
    """The rows, int64 [min(k, n)], of the images nearest to the centres of k clusters (DREAM)."""
    if k >= len(features):
        return torch.arange(len(features), device=features.device)
    features = features - features.mean(dim=0)  # distances lose fewer digits near the origin
    return nearest(features, kmeans(features, k, generator))


def kmeans(features: Tensor, k: int, generator: Generator) -> Tensor:
    """The centres [k, d] of k clusters: k-means++, then Lloyd's iterations. An empty cluster keeps its centre."""
    centres = features[kmeans_plus_plus(features, k, generator)]
    for _ in range(LLOYD_ITERATIONS):
        centres = lloyd(features, centres)
    return centres


def kmeans_plus_plus(features: Tensor, k: int, generator: Generator) -> Tensor:
    """Rows [k] of the initial centres (Arthur & Vassilvitskii 2007).

    The first is drawn uniformly, each next one with a probability proportional to its squared distance from the
    nearest centre so far.
    """
    device, squares = features.device, features.square().sum(dim=1)
    rows = [torch.randint(len(features), (1,), generator=generator, device=device)]
    to_nearest = distances(features, features[rows[0]], squares)[:, 0]
    for _ in range(k - 1):
        cumulative = to_nearest.double().cumsum(dim=0)
        target = torch.rand(1, generator=generator, device=device, dtype=torch.float64) * cumulative[-1]
        rows.append(torch.searchsorted(cumulative, target, right=True).clamp_max(len(features) - 1))
        to_nearest = torch.minimum(to_nearest, distances(features, features[rows[-1]], squares)[:, 0])
    return torch.cat(rows)


def lloyd(features: Tensor, centres: Tensor) -> Tensor:
    """One iteration: assign every image to its nearest centre, then move every centre to the mean of its images."""
    sums, counts = torch.zeros_like(centres), torch.zeros_like(centres[:, 0])
    for part in features.split(max(1, MAX_DISTANCES // len(centres))):
        assignment = F.one_hot(distances(part, centres).argmin(dim=1), len(centres)).to(features.dtype)
        sums = sums + assignment.T @ part  # a scattered sum would add in any order on a GPU
        counts = counts + assignment.sum(dim=0)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)


def nearest(features: Tensor, points: Tensor) -> Tensor:
    """Rows [k]: for each of the points [k, d] in turn the nearest image that no earlier point has taken."""
    squares = features.square().sum(dim=1)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    rows = []
    for part in points.split(max(1, MAX_DISTANCES // len(features))):
        for to_point in distances(features, part, squares).T:
            rows.append(to_point.masked_fill(taken, torch.inf).argmin().view(1))
            taken = taken.index_fill(0, rows[-1], True)
    return torch.cat(rows)


def distances(features: Tensor, points: Tensor, squares: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances [n, k]; `squares` saves computing the squared norms [n] of the features."""
    if squares is None:
        squares = features.square().sum(dim=1)
    return (squares[:, None] - 2 * (features @ points.T) + points.square().sum(dim=1)).clamp_min(0)
