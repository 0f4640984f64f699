"""How far the first of several rows is ahead of each other one, seed by seed, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_SEEDS = 3  # with fewer differences no test says anything
EQUAL = 1e-9  # differences that spread by less are equal, but for rounding


@dataclass(frozen=True)
class Lead:
    """The accuracy of one row less that of another, over the seeds that both have. Accuracies are fractions."""

    mean: float
    error: float | None  # the standard error of the mean; a single seed has none
    ahead: int  # seeds on which the first is ahead
    n: int
    p: float | None  # of the two-sided paired t-test, corrected by Holm for all rows; None where it cannot be said


def leads(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[Lead | None]:
    """The lead of the first of each pair over the second.

    Args:
        pairs: two times accuracies by seed; the p of all pairs are corrected together.

    Returns:
        A lead for each pair, None where no seed is in both.
    """
    differences = [[first[seed] - other[seed] for seed in first if seed in other] for first, other in pairs]
    return [
        _lead(values, p) if values else None
        for values, p in zip(differences, holm([_p(values) for values in differences]), strict=True)
    ]


def _lead(differences: Sequence[float], p: float | None) -> Lead:
    n = len(differences)
    error = statistics.stdev(differences) / n**0.5 if n > 1 else None
    return Lead(statistics.fmean(differences), error, sum(one > 0 for one in differences), n, p)


def _p(differences: Sequence[float]) -> float | None:
    if len(differences) < MIN_SEEDS or statistics.pstdev(differences) < EQUAL:
        return None
    from scipy.stats import ttest_1samp  # takes a second

    return float(ttest_1samp(differences, 0.0).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p values of several tests, corrected so that even one below a limit is as rare as the limit says (Holm)."""
    tests = sorted((value, at) for at, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (value, at) in enumerate(tests):
        least = max(least, min(1.0, (len(tests) - rank) * value))
        corrected[at] = least
    return corrected
