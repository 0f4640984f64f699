"""What a run keeps of its way: the right moments, few bytes, and all of them after an interruption."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from attar.errors import UserError
from attar.runs import run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import snapshots
from attar.sets.synthetic import SyntheticSet


def random_set(seed: int, *, ipc: int = 2, nclass: int = 3, side: int = 8, channels: int = 1) -> SyntheticSet:
    images = torch.rand(nclass * ipc, channels, side, side, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(nclass).repeat_interleave(ipc)
    return SyntheticSet(images=images, labels=labels, classes=tuple(map(str, range(nclass))))


@pytest.mark.parametrize("total", [1, 2, 7, 10, 200, 2000])
def test_moments_are_few_and_closest_in_the_beginning(total: int) -> None:
    moments = snapshots.moments(total)
    assert moments[0] == 0 and moments[-1] == total and len(moments) <= 11
    steps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(steps) >= 1
    assert total < 100 or steps == sorted(steps)
    assert total < 100 or len(moments) == 11


@pytest.mark.parametrize(
    ("classes", "of_class", "size", "expected"),
    [
        (10, 1, (8, 8), (1, (8, 8))),
        (10, 50, (28, 28), (10, (28, 28))),
        (100, 10, (32, 32), (1, (32, 32))),
        (10, 10, (224, 224), (1, (134, 134))),
        (1000, 10, (224, 224), (1, (13, 13))),
        (2, 1, (3, 4000), (1, (3, 4000))),
    ],
)
def test_as_many_images_as_fit(
    classes: int, of_class: int, size: tuple[int, int], expected: tuple[int, tuple[int, int]]
) -> None:
    count, shown_size = snapshots.fit(classes, of_class, size)
    assert (count, shown_size) == expected
    assert classes * count * shown_size[0] * shown_size[1] * 11 <= snapshots.MAX_PIXELS


def test_small_sets_are_kept_as_they_are() -> None:
    condensed = random_set(0)
    images, labels = snapshots.thumbnails(condensed.images, condensed.labels)
    assert torch.equal(images, (condensed.images * 255).round().to(torch.uint8))
    assert torch.equal(labels, condensed.labels)


def test_large_images_become_means_of_their_pixels() -> None:
    condensed = random_set(0, ipc=3, nclass=2, side=1200)
    images, labels = snapshots.thumbnails(condensed.images, condensed.labels)
    assert labels.tolist() == [0, 1]
    side = images.shape[2]
    assert side < 400 and images.shape[3] == side
    expected = torch.nn.functional.adaptive_avg_pool2d(condensed.images[[0, 3]], side)
    assert (images.float() / 255 - expected).abs().max() < 1 / 255


def test_a_file_grows_by_moments_and_a_repeated_one_replaces_its_own(tmp_path: Path) -> None:
    """A run that was killed goes on from an earlier state: what it passes twice stands there once."""
    folder = RunFolder(tmp_path)
    assert folder.snapshots()[1] == []
    for outer in (0, 2, 5, 2, 5, 10):
        folder.snapshot(outer, random_set(outer))
    labels, moments = folder.snapshots()
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [outer for outer, _ in moments] == [0, 2, 5, 10]
    for outer, images in moments:
        assert torch.equal(images, snapshots.thumbnails(random_set(outer).images, labels)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [run_folder.SNAPSHOTS]


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    from attar import files

    folder = RunFolder(tmp_path)
    folder.snapshot(0, random_set(0))
    whole = (tmp_path / run_folder.SNAPSHOTS).read_bytes()
    (tmp_path / run_folder.SNAPSHOTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"snapshots.safetensors is damaged"):
        folder.snapshots()
    for tensors in (
        {"00000000": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)},
        {"00000000": torch.zeros(3, 1, 2, 2), "labels": torch.zeros(3)},
        {"00000000": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(3)},
        {"first": torch.zeros(3, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(3)},
    ):
        files.save_tensors(tmp_path / run_folder.SNAPSHOTS, tensors, "snapshots", {})
        with pytest.raises(UserError, match=r"snapshots.safetensors is damaged.*remove it to go on without"):
            folder.snapshots()
