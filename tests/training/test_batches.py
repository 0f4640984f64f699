"""Chains of training batches: made at once, or in parts where memory would be short."""

from __future__ import annotations

import pytest
import torch

from attar.engine.compile import trace
from attar.training import batches
from attar.training.batches import AugmentationSampler, augmented, make_batches, raw
from helpers.condensation import digits


def test_a_chain_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    sampler = AugmentationSampler(data, ("color", "crop", "flip", "rotate"), 0.7, torch.Generator().manual_seed(1))
    rows = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(2))[:30]
    chain = sampler.draw_rows(rows, 8)
    whole = list(make_batches(data, chain))
    assert [len(images) for images, _ in whole] == [len(targets) for _, targets in whole] == [8, 8, 8, 6]
    calls = []
    fetch = batches._fetch
    monkeypatch.setattr(batches, "_fetch", lambda data, source: calls.append(len(source)) or fetch(data, source))
    image = 4 * data.channels * data.size[0] * data.size[1]
    for limit, parts in ((1, [8, 8, 8, 6]), (17 * image, [16, 14]), (1 << 30, [30])):
        monkeypatch.setattr(batches, "AT_ONCE", limit)
        calls.clear()
        for own, expected in zip(make_batches(data, chain), whole, strict=True):
            assert torch.equal(own[0], expected[0]) and torch.equal(own[1], expected[1])
        assert calls == parts


@pytest.mark.parametrize("strategy", [("color", "crop", "flip"), ("one", "color", "scale", "rotate", "cutout")])
def test_the_augmentation_of_a_chain_can_be_compiled(strategy: tuple[str, ...]) -> None:
    """Traced for the compiler, from raw images, it computes the same bits; no image of the data is in it."""
    data = digits()
    sampler = AugmentationSampler(data, strategy, 0.7, torch.Generator().manual_seed(1))
    chain = sampler.draw_rows(torch.arange(30), 8)
    arguments = (raw(data, chain.source), chain.labels, chain.augmentation, chain.batch)
    graph, tensors, _ = trace(lambda *given: augmented(data, *given), arguments)
    images, targets = graph(*tensors)
    for got, expected in zip(images.split(8), (images for images, _ in make_batches(data, chain)), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(targets, torch.cat([targets for _, targets in make_batches(data, chain)]))
    assert all(value.numel() <= data.channels for value in graph.buffers()), "constants"
