"""How far the first of several rows is ahead of each other one, seed by seed, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_SEEDS = 3  # with fewer differences no test says anything


@dataclass(frozen=True)
class Lead:
    """The accuracy of the first row less that of another, over the seeds that both have. Accuracies are fractions."""

    mean: float
    error: float | None  # the standard error of the mean; a single seed has none
    ahead: int  # seeds on which the first is ahead
    n: int
    p: float | None  # of the two-sided paired t-test, corrected by Holm for all rows; None where it cannot be said


def leads(first: Mapping[int, float], others: Sequence[Mapping[int, float]]) -> list[Lead | None]:
    """The lead of the first over each other.

    Args:
        first: accuracy by seed.
        others: the same of each other row.

    Returns:
        A lead for each of the others, None where no seed is in both.
    """
    common = [sorted(first.keys() & other.keys()) for other in others]
    values = [
        _p([first[s] for s in seeds], [other[s] for s in seeds]) for seeds, other in zip(common, others, strict=True)
    ]
    return [
        _lead([first[seed] - other[seed] for seed in seeds], p) if seeds else None
        for seeds, other, p in zip(common, others, holm(values), strict=True)
    ]


def _lead(differences: Sequence[float], p: float | None) -> Lead:
    n = len(differences)
    error = statistics.stdev(differences) / n**0.5 if n > 1 else None
    return Lead(statistics.fmean(differences), error, sum(one > 0 for one in differences), n, p)


def _p(first: Sequence[float], other: Sequence[float]) -> float | None:
    if len(first) < MIN_SEEDS or len({a - b for a, b in zip(first, other, strict=True)}) == 1:
        return None
    from scipy.stats import ttest_rel  # takes a second

    return float(ttest_rel(first, other).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p values of several tests, corrected so that even one below a limit is as rare as the limit says (Holm)."""
    tests = sorted((value, at) for at, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (value, at) in enumerate(tests):
        least = max(least, min(1.0, (len(tests) - rank) * value))
        corrected[at] = least
    return corrected
