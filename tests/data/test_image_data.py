"""ImageData: what it accepts, what it computes, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attar
from attar.data import arrays
from attar.data.arrays import crop_plan, stratified
from attar.data.cache.mapped import InMemoryStore, Mapped
from attar.data.images import ImageData
from attar.errors import UserError

Refused = Callable[..., Any]
few = settings(max_examples=25, deadline=None)


def made(n: int = 12, ch: int = 3, h: int = 5, w: int = 4, nclass: int = 3, test: int = 6, **options: Any) -> ImageData:
    values = np.random.RandomState(0).randint(0, 256, (n + test, ch, h, w), np.uint8)
    labels = np.arange(n + test) % nclass
    halves = (values[:n], labels[:n], values[n:], labels[n:]) if test else (values, labels)
    return ImageData(*halves, **options)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [N, ch, H, W] and labels in which every class occurs."""
    nclass = draw(st.integers(2, 4))
    extra = draw(st.lists(st.integers(0, nclass - 1), max_size=8))
    labels = np.array(draw(st.permutations([*range(nclass), *extra])))
    side = st.integers(1, 5)
    shape = (len(labels), draw(st.sampled_from([1, 3])), draw(side), draw(side))
    return draw(npst.arrays(np.uint8, shape)), labels


@few
@given(labelled())
def test_rows_are_a_partition_by_class(sample: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = sample
    data = ImageData(torch.from_numpy(images), labels, channels="first")
    assert torch.equal(torch.cat([data.rows(c) for c in range(data.nclass)]).sort().values, torch.arange(len(labels)))
    for c in range(data.nclass):
        assert data.rows(c).tolist() == np.flatnonzero(labels == c).tolist()
    assert data.counts == np.bincount(labels).tolist()
    assert data.labels.dtype == torch.int64 and data.images.dtype == torch.uint8


@few
@given(labelled(), st.sampled_from([1, 7, 1 << 24]))
def test_mean_and_std_are_those_of_the_pixels(sample: tuple[np.ndarray, np.ndarray], chunk: int) -> None:
    images, labels = sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "CHUNK_VALUES", chunk)
        data = ImageData(torch.from_numpy(images), labels, channels="first")
    values = images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, values.mean((0, 2, 3)), atol=1e-12)
    std = values.std((0, 2, 3))
    constant = (images == images[:1, :, :1, :1]).all((0, 2, 3))
    np.testing.assert_allclose(data.std, np.where(constant, 1.0, std), rtol=1e-9)


@few
@given(labelled(), st.sampled_from([np.float16, np.float32, np.float64]))
def test_floats_come_back_as_the_same_bytes(sample: tuple[np.ndarray, np.ndarray], dtype: Any) -> None:
    images, labels = sample
    data = ImageData((images / 255).astype(dtype), labels, channels="first")
    exact = ImageData(torch.from_numpy(images), labels, channels="first")
    assert torch.equal(data.images, exact.images)


def test_layouts() -> None:
    labels = [0, 1, 0, 1, 0, 1]
    rgb = np.random.RandomState(1).randint(0, 256, (6, 3, 8, 7), np.uint8)
    first = ImageData(rgb, labels)
    assert first.images.shape == (6, 3, 8, 7) and first.size == (8, 7) and first.channels == 3
    last = ImageData(rgb.transpose(0, 2, 3, 1), labels)
    assert torch.equal(first.images, last.images) and last.images.is_contiguous()
    grey = ImageData(rgb[:, 0], labels)
    assert grey.images.shape == (6, 1, 8, 7) and torch.equal(grey.images[:, 0], first.images[:, 0])
    assert torch.equal(ImageData(rgb[:, 0, :, :, None], labels).images, grey.images)
    assert ImageData(np.zeros((6, 2, 9, 8), np.uint8), labels, channels="first").channels == 2
    assert ImageData(np.zeros((6, 9, 8, 13), np.uint8), labels, channels="last").channels == 13


@pytest.mark.parametrize(
    ("shape", "channels", "size"),
    [
        ((6, 4, 9, 8), 4, (9, 8)),
        ((6, 9, 8, 4), 4, (9, 8)),
        ((6, 3, 9, 4), 3, (9, 4)),
        ((6, 4, 9, 3), 3, (4, 9)),
        ((6, 1, 28, 1), 1, (28, 1)),
    ],
)
def test_the_shorter_axis_of_1_3_or_4_holds_the_channels(
    shape: tuple[int, ...], channels: int, size: tuple[int, int]
) -> None:
    data = ImageData(np.zeros(shape, np.uint8), [0, 1, 0, 1, 0, 1])
    assert (data.channels, data.size) == (channels, size)


@pytest.mark.parametrize("shape", [(6, 2, 9, 8), (6, 9, 8, 13), (6, 64, 64, 2), (6, 3, 9, 3), (6, 4, 4, 4)])
def test_other_channels_are_not_guessed(shape: tuple[int, ...], refused: Refused) -> None:
    with refused("does not tell where the channels are", "channels='last'", "channels='first'"):
        ImageData(np.zeros(shape, np.uint8), [0, 1, 0, 1, 0, 1])


def test_arrays_of_every_memory_layout() -> None:
    images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
    frozen = images.copy()
    frozen.flags.writeable = False
    expected = ImageData(images, [0, 1] * 3).images
    for variant in (frozen, images[::-1][::-1], np.asfortranarray(images), torch.from_numpy(images)):
        assert torch.equal(ImageData(variant, np.array([0, 1] * 3, ">i2")).images, expected)
    assert torch.equal(ImageData((images / 255).astype(">f4"), [0, 1] * 3).images, expected)
    assert torch.equal(ImageData(torch.from_numpy(images / 255).requires_grad_(), [0, 1] * 3).images, expected)


def test_a_uint8_tensor_is_kept_and_labels_are_copied() -> None:
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    data = ImageData(images, labels)
    assert data.images.data_ptr() == images.data_ptr()
    labels.zero_()
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_names_and_defaults() -> None:
    data = made()
    assert (data.classes, data.name, data.nclass, data.device) == (("0", "1", "2"), "custom", 3, torch.device("cpu"))
    assert made(classes=["x", "y", "z"], name="mine").classes == ("x", "y", "z")
    assert "18" not in repr(data) and "12 + 6 test images of 3x5x4, 3 classes" in repr(data)
    assert made(test=0).test_images is None


def test_normalize_and_fetch_against_loops() -> None:
    data = made(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    fetched = data.fetch(torch.tensor([5, 0, 5]))
    assert fetched.shape == (3, 3, 5, 4) and fetched.dtype == torch.float32
    for place, row in enumerate([5, 0, 5]):
        for c in range(3):
            expected = (data.images[row, c].double() / 255 - data.mean[c]) / data.std[c]
            torch.testing.assert_close(fetched[place, c].double(), expected, atol=1e-6, rtol=1e-6)
    x = torch.rand(2, 7, 3, 5, 4, dtype=torch.float64)  # any leading dimensions, any float type
    assert data.normalize(x).dtype == torch.float64
    torch.testing.assert_close(data.normalize(x)[1, 3, 2], (x[1, 3, 2] - 0.3) / 2.0, atol=1e-15, rtol=0)
    before = data.images.clone()
    data.fetch(data.rows(1)).zero_()
    assert torch.equal(data.images, before)


def test_a_constant_channel_becomes_zero() -> None:
    images = np.full((4, 2, 3, 2), 77, np.uint8)
    images[:, 1] = np.arange(24).reshape(4, 3, 2)
    data = ImageData(images, [0, 1, 0, 1], channels="first")
    assert data.std[0] == 1.0 and data.std[1] > 0
    assert data.fetch(torch.arange(4))[:, 0].abs().max() < 1e-6


@few
@given(labelled(), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_stratified_split(sample: tuple[np.ndarray, np.ndarray], seed: int, fraction: float) -> None:
    labels = torch.from_numpy(sample[1])
    kept, out = stratified(labels, fraction, seed)
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist()) and out.tolist() == sorted(out.tolist())
    for c, count in enumerate(labels.bincount().tolist()):
        held = int((labels[out] == c).sum())
        assert held == (0 if count == 1 else min(max(round(fraction * count), 1), count - 1))
    assert torch.equal(stratified(labels, fraction, seed)[1], out)


def test_holdout() -> None:
    data = made(n=60, test=9)
    held = data.holdout(0.25, seed=3)
    assert held.test_images is not None and held.test_labels is not None
    assert held.counts == [15, 15, 15] and held.test_labels.bincount().tolist() == [5, 5, 5]
    assert (held.mean, held.std, held.classes, held.name) == (data.mean, data.std, data.classes, data.name)
    together = torch.cat([held.images, held.test_images])
    assert sorted(x.numpy().tobytes() for x in together) == sorted(x.numpy().tobytes() for x in data.images)
    again, other = data.holdout(0.25, seed=3), data.holdout(0.25, seed=4)
    assert again.test_images is not None and other.test_images is not None
    assert torch.equal(held.test_images, again.test_images) and not torch.equal(held.test_images, other.test_images)


def test_subset() -> None:
    data = made(n=12, test=6)
    two = data.subset(2)
    assert two.classes == ("0", "1") and two.labels.max() == 1 and two.counts == [4, 4]
    assert two.test_labels is not None and two.test_labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(two.images, data.images[data.labels < 2])
    assert data.subset(3) is data
    assert two.mean == ImageData(two.images, two.labels).mean != data.mean
    fixed = made(mean=[0.5] * 3, std=[0.5] * 3).subset(2)
    assert fixed.mean == (0.5,) * 3
    lone = ImageData(data.images, data.labels, data.images[:1], [2]).subset(2)
    assert lone.test_images is None and lone.test_labels is None


def test_a_scale_that_was_computed_is_computed_again_after_each_step() -> None:
    """It is that of `load` with the same nclass and size; constants stay, and the order of the steps is free."""
    data = made(n=60, test=0, h=8, w=8)
    loaded, first = attar.load(data, test_fraction=0.25), attar.load(data, test_fraction=0.25, nclass=2, size=4)
    two = loaded.subset(2)
    assert loaded.mean == data.mean != two.mean, "a split keeps the scale of the whole"
    then = two.resized(4)
    assert (then.mean, then.std, then.fingerprint) == (first.mean, first.std, first.fingerprint)
    held = data.holdout(0.25, 0)
    assert held.subset(2).mean == data.subset(2).holdout(0.25, 0).mean == data.subset(2).mean
    alone = held.untested()
    assert alone.mean == data.mean and alone.subset(2).mean == ImageData(alone.subset(2).images, [0, 1] * 15).mean
    fixed = made(n=60, test=0, mean=[0.5] * 3, std=[0.5] * 3)
    assert fixed.holdout(0.25, 0).subset(2).mean == fixed.untested().resized(4).mean == (0.5,) * 3


def test_a_scale_that_was_computed_is_computed_again_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`to` changes nothing but the place; here there is one place, with two names."""
    data = made(n=12, test=6)
    monkeypatch.setattr(arrays, "usable_device", lambda device: "elsewhere")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **options: self)
    assert data.to("elsewhere").subset(2).mean == data.subset(2).mean != data.mean


def test_resized() -> None:
    data = made(h=9, w=6)
    condensed = data.resized(4)
    assert condensed.size == (4, 4) and condensed.test_images is not None and condensed.test_images.shape[2:] == (4, 4)
    assert condensed.resized(4) is condensed
    assert condensed.mean == ImageData(condensed.images, condensed.labels).mean
    flat = ImageData(np.full((2, 1, 9, 6), 200, np.uint8), [0, 1]).resized(4)
    assert (flat.images == 200).all()
    step = np.zeros((2, 1, 4, 12), np.uint8)
    step[:, :, :, 6:] = 240  # the centre of the long side stays in the centre
    for left, right in ImageData(step, [0, 1]).resized(2).images[0, 0].tolist():
        assert left + right == 240 and left < 60
    # two channels and a side of 3 look like [N, H, W, 3], but what is known is not guessed again
    assert ImageData(np.zeros((2, 2, 6, 6), np.uint8), [0, 1], channels="first").resized(3).images.shape == (2, 2, 3, 3)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_crop_plan_covers_the_square(height: int, width: int, size: int) -> None:
    tall, wide, top, left = crop_plan(height, width, size)
    assert min(tall, wide) == size and 0 <= top <= tall - size and 0 <= left <= wide - size
    assert abs((tall - size) - 2 * top) <= 1 and abs((wide - size) - 2 * left) <= 1


def test_to_the_same_device_is_the_same_object() -> None:
    data = made()
    assert data.to("cpu") is data and data.to(torch.device("cpu")) is data


@pytest.mark.gpu
def test_the_same_on_cuda() -> None:
    data = made()
    there = data.to("cuda")
    assert there.device.type == "cuda" and there.rows(0).device == there.device and there.to("cuda") is there
    assert (there.mean, there.std) == (data.mean, data.std)
    torch.testing.assert_close(there.fetch(there.rows(1)).cpu(), data.fetch(data.rows(1)))
    assert torch.equal(there.images.cpu(), data.images) and torch.equal(there.labels.cpu(), data.labels)
    for one, two in ((there.holdout(0.5, 1), data.holdout(0.5, 1)), (there.subset(2), data.subset(2))):
        assert torch.equal(one.images.cpu(), two.images) and one.mean == two.mean
    assert there.subset(2).fingerprint == data.subset(2).fingerprint
    assert (there.resized(3).images.cpu().int() - data.resized(3).images.int()).abs().max() <= 1


IMAGES = np.zeros((4, 1, 2, 2), np.uint8)
LABELS = [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.full((4, 2, 2), 255.0), LABELS), ["[0, 1]", "found 255 to 255"]),
        ((np.full((4, 2, 2), -0.5), LABELS), ["[0, 1]", "found -0.5 to -0.5"]),
        ((np.full((4, 2, 2), np.nan), LABELS), ["finite", "in 4 of 4 images"]),
        ((IMAGES.astype(np.int64), LABELS), ["uint8", "int64"]),
        ((IMAGES.astype(bool), LABELS), ["uint8", "bool"]),
        ((IMAGES.astype(complex), LABELS), ["uint8", "complex128"]),
        ((np.array(["a", "b"]), [0, 1]), ["images", "numbers"]),
        (([[1, 2], [3]], [0, 1]), ["images", "numbers"]),
        ((np.zeros((4, 2)), LABELS), ["shape [4, 2]"]),
        ((np.zeros((4, 1, 1, 2, 2)), LABELS), ["shape [4, 1, 1, 2, 2]"]),
        ((np.zeros((0, 1, 2, 2), np.uint8), []), ["empty"]),
        ((np.zeros((4, 1, 0, 2), np.uint8), LABELS), ["empty"]),
        ((IMAGES, [0, 1, 0]), ["4 images", "[3]"]),
        ((IMAGES, [[0], [1], [0], [1]]), ["[4, 1]"]),
        ((IMAGES, [0.0, 1.0, 0.0, 1.0]), ["integers", "float64"]),
        ((IMAGES, ["a", "b", "a", "b"]), ["labels"]),
        ((IMAGES, [0, 1, 0, -1]), ["found -1..1"]),
        ((IMAGES, [0, 0, 0, 0]), ["2 classes"]),
        ((IMAGES, [0, 2, 0, 2]), ["class 1 of 3 has no training images"]),
        ((IMAGES, [0, 1, 0, 10**12]), ["class 2 of"]),
        ((IMAGES, LABELS, IMAGES), ["test_labels"]),
        ((IMAGES, LABELS, IMAGES, [0, 1, 2, 0]), ["test_labels", "0..1"]),
        ((IMAGES, LABELS, IMAGES, [0, 1]), ["test_labels", "4 images"]),
        ((IMAGES, LABELS, IMAGES[:0], []), ["test_images", "empty"]),
        ((IMAGES, LABELS, np.zeros((4, 3, 2, 2), np.uint8), LABELS), ["[1, 2, 2]", "[3, 2, 2]"]),
    ],
)
def test_bad_arrays(arguments: tuple[Any, ...], words: list[str], refused: Refused) -> None:
    with refused(*words):
        ImageData(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["a"]}, ["0..0"]),
        ({"classes": ["a", "b", "c"]}, ["class 2 ('c') of 3 has no training images"]),
        ({"mean": [0.5]}, ["mean and std"]),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, ["one per channel"]),
        ({"mean": [float("nan")], "std": [1]}, ["finite"]),
        ({"mean": [0.5], "std": [0]}, ["positive"]),
        ({"device": "gpu"}, ["unknown device 'gpu'"]),
        ({"device": "cuda:99"}, ["cuda:99", "not available"]),
    ],
)
def test_bad_options(options: dict[str, Any], words: list[str], refused: Refused) -> None:
    with refused(*words):
        ImageData(IMAGES, LABELS, **options)


def test_bad_requests(refused: Refused) -> None:
    data = made()
    for nclass in (-1, 0, 1):
        with refused("at least 2", str(nclass)):
            data.subset(nclass)
    with refused("nclass 4", "3 classes"):
        data.subset(4)
    with refused("at least 1 pixel"):
        data.resized(0)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with refused("between 0 and 1"):
            data.holdout(fraction, seed=0)
    with refused("class 'b'", "1 image"):
        ImageData(IMAGES[:3], [0, 1, 0], classes=["a", "b"]).holdout(0.5, seed=0)


def test_the_fingerprint_stands_for_images_labels_and_classes() -> None:
    images, labels = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2), [0, 1, 0, 1]
    same = [ImageData(images, labels, name=name).fingerprint for name in ("a", "b")]
    assert same[0] == same[1] and len(same[0]) == 12
    others = [
        ImageData(255 - images, labels),
        ImageData(images, [1, 0, 0, 1]),
        ImageData(images, labels, classes=["x", "y"]),
        ImageData(images.transpose(2, 3), labels),
        ImageData(torch.cat([images, images]), labels * 2).holdout(0.5, 0),
    ]
    assert len({same[0], *(data.fingerprint for data in others)}) == 6


def test_the_test_images_as_a_data_set() -> None:
    """What `test_batches` gives, one by one; from a file too."""
    torch.manual_seed(0)
    pixels, labels = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    data = ImageData(pixels, labels, pixels.flip(0), labels.flip(0), classes=("a", "b", "c"))
    actual = data.test_dataset()
    ((images, expected),) = data.test_batches()
    assert torch.equal(torch.stack([image for image, _ in actual]), images)
    assert [label for _, label in actual] == actual.targets == expected.tolist() and type(actual[0][1]) is int
    assert actual.classes == ["a", "b", "c"] and data.test_dataset(transform=torch.sum)[-1][0] == images[-1].sum()
    mapped = data.untested()
    mapped.test_images, mapped.test_labels = Mapped(InMemoryStore(pixels.numpy()), np.arange(6), data.device), labels
    assert torch.equal(mapped.test_dataset()[2][0], data.scaled(pixels[2:3])[0])
    with pytest.raises(UserError, match="has no test images"):
        data.untested().test_dataset()
