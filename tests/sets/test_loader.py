"""A condensed set as a `DataLoader` and in a notebook."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attar


@pytest.fixture(scope="module")
def condensed() -> attar.SyntheticSet:
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return attar.SyntheticSet(
        images=images,
        labels=torch.tensor([0, 0, 1, 1]),
        factor=2,
        classes=("a<b", "dog"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        source="pets",
    )


def test_a_loader_gives_what_the_data_set_holds(condensed: attar.SyntheticSet) -> None:
    images, labels = condensed.decoded()
    plain = list(condensed.loader(5, shuffle=False, normalized=False))
    assert [len(batch) for batch, _ in plain] == [5, 5, 5, 1] and len(condensed.loader(5)) == 4
    assert torch.equal(torch.cat([batch for batch, _ in plain]), images)
    assert torch.equal(torch.cat([label for _, label in plain]), labels)
    shuffled = condensed.loader(16)
    first, second = next(iter(shuffled)), next(iter(shuffled))
    assert not torch.equal(first[1], second[1])
    assert torch.allclose(first[0].flatten(1).sum(1).sort()[0], condensed.normalize(images).flatten(1).sum(1).sort()[0])
    assert torch.equal(next(iter(condensed.loader(16)))[0], first[0])  # the seed


def test_a_loader_gives_soft_labels_in_the_order_of_its_images(condensed: attar.SyntheticSet) -> None:
    chances = torch.rand((16, 2), generator=torch.Generator().manual_seed(1)).softmax(1)
    labelled = replace(condensed, soft_labels=chances)
    (images, labels), (same, _) = next(iter(labelled.loader(16, soft=True))), next(iter(labelled.loader(16)))
    assert torch.equal(images, same)
    rows = [int((labelled.normalize(labelled.decoded()[0]) == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(rows) == list(range(16)) and torch.equal(labels, chances[rows])
    with pytest.raises(attar.UserError, match="has no soft labels"):
        condensed.loader(soft=True)


def test_a_loader_augments(condensed: attar.SyntheticSet) -> None:
    plain = next(iter(condensed.loader(16, shuffle=False)))[0]
    flipped = next(iter(condensed.loader(16, shuffle=False, augment="flip")))[0]
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert bool((same | mirrored).all()) and bool(mirrored.any()) and bool(same.any())
    with pytest.raises(attar.UserError, match="unknown augmentation 'flap'"):
        condensed.loader(augment="flap")
    with pytest.raises(attar.UserError, match="works on normalised images"):
        condensed.loader(augment="flip", normalized=False)
    with pytest.raises(attar.UserError, match="batch_size must be at least 1"):
        condensed.loader(0)


def test_a_notebook_shows_the_images(condensed: attar.SyntheticSet) -> None:
    page = condensed._repr_html_()
    assert page.count("data:image/png;base64,") == 1
    assert "SyntheticSet(pets: 4 images of 3x8x8, 2 classes, factor 2)" in page
