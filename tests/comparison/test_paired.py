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
    (lead,) = leads(first, [{2: 0.70, 1: 0.70, 0: 0.70, 8: 0.9}])
    assert lead is not None and (lead.ahead, lead.n) == (3, 3)
    assert lead.mean == pytest.approx(0.02) and lead.error == pytest.approx(0.01 / 3**0.5)
    t = 2 * 3**0.5  # of the differences 1, 2 and 3 points; Student's distribution with two degrees of freedom is closed
    assert lead.p == pytest.approx(1 - t / (2 + t**2) ** 0.5)


def test_what_cannot_be_said_is_not_said() -> None:
    first = {0: 0.7, 1: 0.8, 2: 0.9}
    assert leads(first, [{5: 0.5}]) == [None]
    one, two, same = leads(first, [{0: 0.5}, {0: 0.5, 1: 0.7}, dict(first)])
    assert one == Lead(pytest.approx(0.2), None, 1, 1, None)
    assert two is not None and two.p is None and two.error == pytest.approx(0.05)
    assert same == Lead(0.0, 0.0, 0, 3, None)
    assert tables.lead(None) == tables.chance(one) == "" and tables.lead(one) == "+20.0 (1 of 1)"


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_what_every_group_of_tests_allows(values: list[float]) -> None:
    """The closed procedure: of all groups with a test, the one in which Bonferroni's bound is largest."""
    for at, corrected in enumerate(holm(values)):
        groups = (g for size in range(1, len(values) + 1) for g in combinations(range(len(values)), size) if at in g)
        assert corrected == pytest.approx(max(min(1, len(g) * min(values[i] for i in g)) for g in groups))


def test_tests_that_cannot_be_made_do_not_count() -> None:
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]


def row(entry: str, network: str, *accuracies: float) -> Row:
    values = dict(enumerate(accuracies))
    nothing: dict[str, None] = dict.fromkeys(
        ("initial", "random_real", "whole", "learned", "seconds", "pretrain", "make")
    )
    return Row(entry, "dm", {}, {}, network, Mean(0.5, None, 1), 1, 0, **nothing, by_seed=values)


def test_each_network_has_a_first_row_of_its_own() -> None:
    table = with_leads([row("a", "x", 0.9), row("a", "y", 0.3), row("b", "x", 0.7), row("b", "y", 0.4)])
    assert [one.lead and round(one.lead.mean, 9) for one in table] == [None, None, 0.2, -0.1]


@pytest.mark.parametrize(("p", "words"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.3, "0.30")])
def test_chance_in_words(p: float, words: str) -> None:
    assert tables.chance(Lead(0.1, 0.01, 3, 3, p)) == words
