"""What a user may ask of a condensation: every choice of a setting runs, does what it says, and is refused in time.

The numbers themselves are held against the published loop in test_sweep.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import attar
from attar.condensation import loop as condensation
from attar.condensation.setup import set_up
from attar.condensation.state import init
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import describe
from attar.sets.decode import decoded_count
from attar.sets.partition import concatenate
from attar.settings.choices import DECODE_TYPE_NAMES, INIT_NAMES, METRIC_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig, PoolConfig
from attar.training.early_stage import pretrain
from attar.training.pool import Pool

TINY = CondenseConfig(ipc=2, factor=2, niter=1, inner_loop=2, n_data=64, lr_img=0.1, batch_real=16, base_size=8)


@pytest.fixture(scope="module")
def pool(digits: ImageData) -> Pool:
    return attar.pretrain(digits, epochs=2, models=2, depth=2, width=0.05, net_type="convnet", keep_epochs=True)


@pytest.mark.parametrize("match", ["grad", "feat", "ncf"])
@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_every_metric_moves_the_images(metric: str, match: str, digits: ImageData, pool: Pool) -> None:
    setup = set_up(digits, pool, replace(TINY, metric=metric, match=match))
    state = init(setup)
    losses = [loss for loss in condensation.iterate(state, setup) if loss is not None]
    condensed = condensation.product(state, setup)
    assert condensed.initial is not None
    assert losses[0] > 0
    assert not torch.equal(condensed.images, condensed.initial)
    assert condensed.images.isfinite().all()
    assert 0 <= condensed.images.min() <= condensed.images.max() <= 1


def test_each_choice_makes_other_images() -> None:
    """A setting that did nothing would repeat the first set."""
    data = attar.load("digits", nclass=3)
    pool = attar.pretrain(data, epochs=2, models=2, depth=2, width=0.05, net_type="convnet", keep_epochs=True)
    changes: list[dict[str, Any]] = [
        {},
        *({"metric": metric} for metric in METRIC_NAMES if metric != TINY.metric),
        *({"init": init, "factor": 1 if init == "correct" else 2} for init in INIT_NAMES if init != TINY.init),
        {"decode_type": "multi"},
        {"match": "feat"},
        {"bias": True},
        {"fc": True},
        {"perturb": False},
        {"vmin": 0.05},
        {"vmax": 0.5},
        {"aug_type": "none"},
        {"aug_type": "color"},
        {"mix_p": 0.0},
        {"lr_img": 0.2},
        {"mom_img": 0.0},
        {"base_size": 16},
        {"batch_real": 17},
        {"n_data": 0},
        {"lr": 0.5},
        {"momentum": 0.0},
        {"weight_decay": 0.5},
        {"batch_size": 16},
        {"inner_loop": 3},
        {"niter": 2},
        {"batch_syn_max": 4},
        {"factor": 1},
        {"seed": 1},
    ]
    base = replace(TINY, n_data=128)  # two steps, so that momentum counts
    sets = [condensation.run(data, pool, replace(base, **change)).images for change in changes]
    for one, change in enumerate(changes):
        for other in range(one):
            assert not torch.equal(sets[one], sets[other]), (change, changes[other])


def test_bound_is_single_until_the_set_is_large(digits: ImageData, pool: Pool) -> None:
    single, bound = (condensation.run(digits, pool, replace(TINY, decode_type=kind)) for kind in ("single", "bound"))
    assert torch.equal(single.images, bound.images)
    assert decoded_count(50, 2, "single") == 200
    config = replace(TINY, ipc=50, decode_type="bound", inner_loop=1)
    large = condensation.run(digits, pool, config)
    assert large.decoded()[1].bincount().max() <= 128


@pytest.mark.parametrize("factor", [1, 3, 5, 8])
def test_factors_that_do_not_divide_the_side(factor: int, digits: ImageData, pool: Pool) -> None:
    for decode_type in DECODE_TYPE_NAMES:
        condensed = condensation.run(
            digits, pool, replace(TINY, ipc=1, factor=factor, decode_type=decode_type, niter=1)
        )
        assert condensed.images.shape == (10, 1, 8, 8)
        images, labels = condensed.decoded()
        assert images.shape[1:] == (1, 8, 8)
        assert labels.bincount().tolist() == [decoded_count(1, factor, decode_type)] * 10


def test_a_class_smaller_than_the_batch_works(pool: Pool) -> None:
    whole = attar.load("digits")
    rows = torch.cat([whole.rows(c)[: 3 if c == 7 else 20] for c in range(10)])
    few = ImageData(whole.images[rows], whole.labels[rows], name="digits")
    with pytest.raises(UserError, match="the pool was made for the training images"):
        condensation.run(few, pool, replace(TINY, ipc=3))
    pool = replace(pool, made_for=describe(few))
    condensed = condensation.run(few, pool, replace(TINY, batch_real=64, ipc=3))
    assert condensed.labels.bincount().tolist() == [3] * 10
    with pytest.raises(UserError, match="class '7' has 3 images, fewer than ipc 4"):
        condensation.run(few, pool, replace(TINY, ipc=4))


def test_parts_join_to_the_whole_set(digits: ImageData, pool: Pool) -> None:
    parts = [condensation.run(digits, pool, replace(TINY, nclass_sub=4, phase=phase)) for phase in range(3)]
    assert [sorted(set(part.labels.tolist())) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(part.nclass == 10 for part in parts)
    whole = concatenate([parts[2], parts[0], parts[1]])
    assert whole.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert torch.equal(whole.images[whole.labels == 5], parts[1].images[parts[1].labels == 5])


def test_a_part_of_all_classes_is_the_whole(digits: ImageData, pool: Pool) -> None:
    whole, part = (condensation.run(digits, pool, config) for config in (TINY, replace(TINY, nclass_sub=10, phase=0)))
    assert torch.equal(whole.images, part.images)


def test_other_networks(digits: ImageData) -> None:
    for network in (
        NetworkConfig(net_type="resnetap", width=0.05),
        NetworkConfig(net_type="resnet", width=0.05, norm_type="batch"),
        NetworkConfig(depth=1, width=0.05, norm_type="none"),
    ):
        pool = pretrain(digits, PoolConfig(epochs=1, models=1, batch_size=256), network)
        condensed = condensation.run(digits, pool, replace(TINY, ipc=1, inner_loop=1))
        assert condensed.initial is not None
        assert not torch.equal(condensed.images, condensed.initial)
        assert condensed.images.isfinite().all()


def test_a_diverging_run_says_what_to_lower(digits: ImageData, pool: Pool) -> None:
    with pytest.raises(UserError, match=r"the matching loss is nan; lower the learning rate of the images"):
        condensation.run(digits, pool, replace(TINY, lr=1e15, inner_loop=3))
