"""k-means, representatives and core-sets against naive twins in float64 loops, and properties of any choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from attar.errors import UserError
from attar.selection import clusters, coresets


def cloud(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=Generator().manual_seed(seed), dtype=dtype) + 3


def selected_rows(kind: str, features: Tensor, k: int, seed: int = 0) -> list[int]:
    generator = Generator().manual_seed(seed)
    if kind == "cluster":
        return clusters.representatives(features, k, generator).tolist()
    return coresets.coreset(kind, features, k, generator).tolist()


# ---- naive twins ----


def naive_herding(x: np.ndarray, k: int) -> list[int]:
    mean = sum(x) / len(x)
    rows: list[int] = []
    for _ in range(k):
        left = [row for row in range(len(x)) if row not in rows]
        rows.append(min(left, key=lambda row: np.linalg.norm(mean - sum(x[[*rows, row]]) / (len(rows) + 1))))
    return rows


def naive_kcenter(x: np.ndarray, k: int) -> list[int]:
    mean = sum(x) / len(x)
    rows = [min(range(len(x)), key=lambda row: np.linalg.norm(x[row] - mean))]
    while len(rows) < k:
        left = [row for row in range(len(x)) if row not in rows]
        rows.append(max(left, key=lambda row: min(np.linalg.norm(x[row] - x[other]) for other in rows)))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_core_sets_against_the_naive_twins(seed: int) -> None:
    features = cloud(23, 4, seed)
    assert selected_rows("herding", features, 9) == naive_herding(features.numpy(), 9)
    assert selected_rows("kcenter", features, 9) == naive_kcenter(features.numpy(), 9)


def test_a_core_set_grows_by_one() -> None:
    """What greedy means: the first images of a larger core-set are the smaller one."""
    features = cloud(30, 3)
    for kind in coresets.BY_FEATURES:
        assert selected_rows(kind, features, 8)[:3] == selected_rows(kind, features, 3)


@pytest.mark.parametrize("max_distances", [1, 50, clusters.MAX_DISTANCES])
def test_nearest_against_brute_force(max_distances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turn, each image once; however many distances are held at once."""
    monkeypatch.setattr(clusters, "MAX_DISTANCES", max_distances)
    x, centres = cloud(20, 3, 1), cloud(15, 3, 2)  # so many that images are contested
    taken: list[int] = []
    for centre in centres:
        left = [row for row in range(20) if row not in taken]
        taken.append(min(left, key=lambda row: float((x[row] - centre).square().sum())))
    assert clusters.nearest(x, centres).tolist() == taken
    alone = [int((x - centre).square().sum(1).argmin()) for centre in centres]
    assert alone != taken


@pytest.mark.parametrize("max_distances", [1, 70, clusters.MAX_DISTANCES])
def test_one_iteration_of_lloyd_by_hand(max_distances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "MAX_DISTANCES", max_distances)
    x, centres = cloud(40, 3, 1), torch.cat([cloud(5, 3, 2), torch.full((1, 3), 99.0, dtype=torch.float64)])
    groups: dict[int, list[np.ndarray]] = {k: [] for k in range(6)}
    for row in x.numpy():
        groups[min(groups, key=lambda k: np.linalg.norm(row - centres[k].numpy()))].append(row)
    assert not groups[5]  # which keeps its centre
    expected = [np.mean(members, axis=0) if members else centres[k].numpy() for k, members in groups.items()]
    assert torch.allclose(clusters.lloyd(x, centres), torch.tensor(np.array(expected)), rtol=1e-12)


def objective(features: Tensor, centres: Tensor) -> float:
    """The sum of squared distances to the nearest centre."""
    return float(torch.cdist(features, centres).square().min(dim=1).values.sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12))
def test_lloyd_never_makes_it_worse(seed: int, k: int) -> None:
    x = cloud(40, 3, seed)
    centres = x[clusters.kmeans_plus_plus(x, k, Generator().manual_seed(seed))]
    course = [objective(x, centres)]
    for _ in range(6):
        centres = clusters.lloyd(x, centres)
        course.append(objective(x, centres))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(course)), course


def test_kmeans_finds_clusters_that_are_there() -> None:
    middles = 20 * torch.eye(4)
    x = (middles[:, None] + cloud(400, 4, dtype=torch.float32).view(4, 100, 4) - 3).flatten(0, 1)
    for seed in range(5):
        rows = torch.tensor(selected_rows("cluster", x, 4, seed))
        assert sorted((rows // 100).tolist()) == [0, 1, 2, 3]
        means = x.view(4, 100, 4).mean(1)
        for row in rows:  # the most typical of its own: nearest to the mean
            mean = means[row // 100]
            assert row % 100 == (x.view(4, 100, 4)[row // 100] - mean).square().sum(1).argmin()


def test_kmeans_plus_plus_prefers_distant_images() -> None:
    """k-means++ draws with the squared distance: an image 1000 times as far weighs a million times as much."""
    x = torch.tensor([[0.0], [1.0], [-1.0], [1000.0]])
    starts = [clusters.kmeans_plus_plus(x, 2, Generator().manual_seed(seed)).tolist() for seed in range(40)]
    assert all(3 in rows for rows in starts)
    assert len({rows[0] for rows in starts}) == 4  # the first is uniform


# ---- any choice ----


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["cluster", "random", *coresets.BY_FEATURES]),
    n=st.integers(1, 30),
    d=st.integers(1, 4),
    same=st.booleans(),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_all_different_and_fixed_by_the_seed(
    kind: str, n: int, d: int, same: bool, seed: int, data: st.DataObject
) -> None:
    """Also where images are equal, and where all of them are wanted."""
    k = data.draw(st.integers(1, n))
    features = cloud(n, d, seed, torch.float32)
    if same:
        features = features[torch.arange(n) % max(1, n // 4)]
    state = torch.get_rng_state()
    rows = selected_rows(kind, features, k, seed)
    assert len(rows) == len(set(rows)) == k
    assert all(0 <= row < n for row in rows)
    assert selected_rows(kind, features, k, seed) == rows
    assert torch.equal(torch.get_rng_state(), state)


def test_no_more_clusters_than_images() -> None:
    assert selected_rows("cluster", cloud(3, 2), 7) == [0, 1, 2]


def test_chance_depends_on_the_seed() -> None:
    features = torch.empty(50, 0)
    assert selected_rows("random", features, 5, 0) != selected_rows("random", features, 5, 1)


def test_unknown_core_sets() -> None:
    with pytest.raises(UserError, match="unknown core-set 'herdng'; did you mean 'herding'"):
        selected_rows("herdng", cloud(3, 2), 1)
