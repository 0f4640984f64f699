"""Leads over the same seeds, against closed forms and the definition of Holm's correction."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.comparison import tables
from attar.comparison.numbers import Mean, Row, with_leads
from attar.comparison.paired import Lead, holm, leads


def test_a_lead_is_over_the_seeds_that_both_have() -> None:
    first = {0: 0.71, 1: 0.72, 2: 0.73, 9: 0.1}
    (lead,) = leads([(first, {2: 0.70, 1: 0.70, 0: 0.70, 8: 0.9})])
    assert lead is not None and (lead.ahead, lead.n) == (3, 3)
    assert lead.mean == pytest.approx(0.02) and lead.error == pytest.approx(0.01 / 3**0.5)
    t = 2 * 3**0.5  # of the differences 1, 2 and 3 points; Student's distribution with two degrees of freedom is closed
    assert lead.p == pytest.approx(1 - t / (2 + t**2) ** 0.5)


def test_what_cannot_be_said_is_not_said() -> None:
    first = {0: 0.7, 1: 0.8, 2: 0.9}
    assert leads([(first, {5: 0.5})]) == [None]
    others = [{0: 0.5}, {0: 0.5, 1: 0.7}, dict(first), {seed: value - 0.3 for seed, value in first.items()}]
    one, two, same, shifted = leads([(first, other) for other in others])
    assert one == Lead(pytest.approx(0.2), None, 1, 1, None)
    assert two is not None and two.p is None and two.error == pytest.approx(0.05)
    assert same == Lead(0.0, 0.0, 0, 3, None)
    assert shifted is not None and shifted.p is None  # equal differences, but for rounding
    assert tables.lead(None) == tables.chance(one) == "" and tables.lead(one) == "+20.0 (1 of 1)"


@given(st.lists(st.floats(0, 1, allow_subnormal=False), max_size=6))
def test_holm_is_what_every_group_of_tests_allows(values: list[float]) -> None:
    """The closed procedure: of all groups with a test, the one in which Bonferroni's bound is largest."""
    for at, corrected in enumerate(holm(values)):
        groups = (g for size in range(1, len(values) + 1) for g in combinations(range(len(values)), size) if at in g)
        assert corrected == pytest.approx(max(min(1, len(g) * min(values[i] for i in g)) for g in groups))


def test_tests_that_cannot_be_made_do_not_count() -> None:
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]


def row(entry: str, network: str, ipc: int, *accuracies: float, niter: int = 1) -> Row:
    values, measured = dict(enumerate(accuracies)), Mean(0.5, None, 1) if accuracies else None
    nothing: dict[str, None] = dict.fromkeys(
        ("initial", "random_real", "whole", "learned", "seconds", "pretrain", "make")
    )
    return Row(entry, "dm", {}, {"ipc": ipc, "niter": niter}, network, measured, 1, 0, **nothing, by_seed=values)


def leads_of(*rows: Row) -> list[float | None]:
    return [one.lead and round(one.lead.mean, 9) for one in with_leads(rows)]


def test_the_first_entry_leads_rows_of_the_same_network_and_size() -> None:
    rows = [row("a", "x", 1, 0.9), row("a", "y", 1, 0.3), row("a", "x", 10, 0.95)]
    rows += [row("b", "x", 1, 0.7), row("b", "y", 1, 0.4), row("b", "x", 10, 0.9), row("b", "x", 50, 0.1)]
    assert leads_of(*rows) == [None, None, None, 0.2, -0.1, 0.05, None]


def test_there_is_no_lead_where_it_is_not_clear_of_what() -> None:
    assert leads_of(row("a", "x", 1, 0.9), row("a", "x", 1, 0.8, niter=2), row("b", "x", 1, 0.7)) == [None] * 3
    assert leads_of(row("a", "", 1), row("b", "x", 1, 0.7), row("c", "x", 1, 0.6)) == [None] * 3  # a diverged
    assert with_leads([]) == []


@pytest.mark.parametrize(("p", "words"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.3, "0.30")])
def test_chance_in_words(p: float, words: str) -> None:
    assert tables.chance(Lead(0.1, 0.01, 3, 3, p)) == words
