"""Vectors of real images, and the real images that a condensation takes with `--select cluster`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import attar
from attar import models
from attar.condensation import initial, state
from attar.condensation import loop as condensation
from attar.condensation.setup import check_data, set_up
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import describe
from attar.selection import clusters, embeddings
from attar.settings.choices import METHOD_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.training.pool import Pool

CLUSTER = CondenseConfig(
    ipc=2, factor=2, niter=2, inner_loop=5, n_data=64, lr_img=0.1, batch_real=16, base_size=8, select="cluster"
)


def vectors(data: ImageData, pool: Pool, member: int, rows: Tensor) -> Tensor:
    """The last features by the plain network."""
    module = pool.build(seed=9)
    module.load_state_dict(pool.members[member].params | pool.members[member].buffers)
    with torch.no_grad():
        return module.eval().features(data.fetch(rows))


# ---- vectors ----


@pytest.mark.parametrize("norm_type", ["instance", "batch"])
def test_vectors_are_the_last_features(norm_type: str, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some images at a time, with the running statistics of batch norm, and without a trace in the network."""
    build: dict[str, Any] = {"channels": 1, "nclass": 10, "size": (8, 8), "width": 0.05, "norm_type": norm_type}
    module, other = (models.build("resnet10", seed=seed, **build) for seed in (1, 2))
    with torch.no_grad():
        other(digits.fetch(torch.arange(50)))  # statistics of its own
    rows = torch.arange(30, 53)
    embed = embeddings.by_network(module, models.parameters_of(other), models.buffers_of(other))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    whole = embeddings.embed_rows(digits, rows, embed)
    monkeypatch.setattr(embeddings, "MIN_BATCH_IMAGES", 1)
    monkeypatch.setattr(embeddings, "MAX_BATCH_PIXELS", 64 * 7)
    parts = embeddings.embed_rows(digits, rows, embed)
    with torch.no_grad():
        expected = other.eval().features(digits.fetch(rows))
    assert torch.allclose(whole, expected, atol=1e-6) and torch.allclose(parts, expected, atol=1e-6)
    assert module.training and not whole.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_pixels(digits: ImageData) -> None:
    rows = torch.tensor([4, 2])
    assert torch.equal(embeddings.embed_rows(digits, rows, embeddings.pixels), digits.fetch(rows).flatten(1))


def test_some_images_of_a_class(digits: ImageData) -> None:
    """No more than asked for are looked at, others each time, and never fewer than are wanted."""
    seen: list[int] = []

    def embed(images: Tensor) -> Tensor:
        seen.append(len(images))
        return embeddings.pixels(images)

    generator = Generator().manual_seed(0)
    picks = [embeddings.representatives(digits, digits.rows(3), 4, embed, generator, 20).tolist() for _ in range(2)]
    embeddings.representatives(digits, digits.rows(3), 30, embed, generator, 20)
    embeddings.representatives(digits, digits.rows(3), 4, embed, generator, 10**6)
    assert seen == [20, 20, 30, digits.counts[3]]
    assert picks[0] != picks[1]
    assert set(picks[0]) <= set(digits.rows(3).tolist())
    assert not {*picks[0], *picks[1]} <= set(digits.rows(3)[:20].tolist()), "they are not the first ones"
    assert torch.equal(embeddings.representatives(digits, digits.rows(3), 10**6, embed, generator), digits.rows(3))


# ---- in a condensation ----


def test_initial_images_are_representatives(digits: ImageData, pool: Pool) -> None:
    """Of as many clusters as there are cells, seen by the model of the pool that is drawn first."""
    setup = set_up(digits, pool, CLUSTER)
    initial_state = state.init(setup)
    first = pool.draw_index(Generator().manual_seed(CLUSTER.seed))
    generator = Generator().manual_seed(CLUSTER.seed)
    for label in range(10):
        rows = digits.rows(label)
        nearest = rows[clusters.representatives(vectors(digits, pool, first, rows), 8, generator)]
        cells = digits.images[nearest].float() / 255
        grids = torch.nn.functional.interpolate(cells, size=(4, 4), mode="nearest")
        patches = initial_state.initial[label].unfold(2, 4, 4).unfold(3, 4, 4)  # [ipc, 1, 2, 2, 4, 4]
        assert torch.equal(patches.flatten(0, 3), grids.squeeze(1))
    assert condensation.begin_outer(initial_state, setup).network is not None
    assert pool.draw_index(Generator().manual_seed(CLUSTER.seed)) == first


def test_a_run_without_a_pool_begins_with_pixels(digits: ImageData, pool: Pool) -> None:
    setup = set_up(digits, pool, CLUSTER)
    assert initial.first_embedding(replace(setup, pool=replace(pool, members=()))) is embeddings.pixels


def test_more_cells_than_images(pool: Pool) -> None:
    whole = attar.load("digits")
    rows = torch.cat([whole.rows(c)[: 3 if c == 7 else 20] for c in range(10)])
    few = ImageData(whole.images[rows], whole.labels[rows], name="digits")
    setup = set_up(few, replace(pool, made_for=describe(few)), replace(CLUSTER, ipc=3))
    initial_state = condensation.begin_outer(state.init(setup), setup)
    cells = initial_state.initial[7].unfold(2, 4, 4).unfold(3, 4, 4).flatten(0, 3)
    assert len(cells) == 12 and torch.equal(cells[:3], cells[3:6])
    condensation.step(initial_state, setup)
    assert [len(rows) for rows in initial_state.picks] == [16] * 7 + [3] + [16] * 2


def test_batches_are_the_images_nearest_the_centres(digits: ImageData, pool: Pool) -> None:
    """As the network sees them at that moment, and the same until the next clustering."""
    config = replace(CLUSTER, select_every=3, nclass_sub=4, phase=1)
    setup = set_up(digits, pool, config)
    now = condensation.begin_outer(state.init(setup), setup)
    course = []
    for _ in range(config.inner_loop):
        assert now.network is not None
        module = pool.build(seed=0)
        module.load_state_dict({name: value.detach() for name, value in now.network.params.items()})
        generator = Generator()
        generator.set_state(now.generator.get_state())
        now, _ = condensation.step(now, setup)
        course.append([rows.tolist() for rows in now.picks])
        if now.inner == 4:  # after a clustering
            for place, label in enumerate((4, 5, 6, 7)):
                rows = digits.rows(label)
                with torch.no_grad():
                    features = module.features(digits.fetch(rows))
                expected = rows[clusters.representatives(features, 16, generator)]
                assert course[-1][place] == expected.tolist()
    assert course[0] == course[1] == course[2] != course[3] == course[4]
    assert all(len(set(rows)) == 16 for picks in course for rows in picks)


def test_the_settings_do_something(digits: ImageData, pool: Pool) -> None:
    changes: list[dict[str, Any]] = [{}, {"select": "random"}, {"select_every": 2}, {"select_from": 20}]
    changes += [{"init": "noise"}, {"init": "random"}, {"match": "feat"}]
    short = replace(CLUSTER, niter=1, inner_loop=3)
    sets = [condensation.run(digits, pool, replace(short, **change)).images for change in changes]
    for one in range(len(sets)):
        for other in range(one):
            assert not torch.equal(sets[one], sets[other]), (changes[one], changes[other])


def test_bad_settings(digits: ImageData) -> None:
    with pytest.raises(UserError, match="unknown select 'clusters'; did you mean 'cluster'"):
        CondenseConfig(select="clusters")
    with pytest.raises(UserError, match=r"select_from \(32\) must not be below batch_real \(64\)"):
        check_data(digits, CondenseConfig(select="cluster", select_from=32))
    for name in ("select_every", "select_from"):
        with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
            CondenseConfig(**{name: 0})


@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name not in ("datm", "cim")])
def test_with_every_method(method: str, digits: ImageData) -> None:
    """A network that is fresh, early-stage or interpolated, matched by gradients or features: the batches follow it."""
    settings: dict[str, Any] = {"niter": 1, "inner_loop": 2, "width": 0.05}
    settings |= {} if method in ("mtt", "ftd") else {"batch_real": 16}
    settings |= {"method": method, "ipc": 1} | ({"models": 1, "epochs": 1} if method in ("accdd", "ncfm") else {})
    drawn, picked = (attar.condense(digits, select=select, **settings) for select in ("random", "cluster"))
    assert picked.initial is not None and not torch.equal(picked.images, picked.initial)
    assert not torch.equal(picked.images, drawn.images)
