"""The synthetic set: decode and mix against their naive twins, learning rates and momentum, joining parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ImageShow
from torch import Generator, Tensor

import attar
from attar.condensation.image_step import effective_lr, pending, sweep_factors
from attar.errors import UserError
from attar.sets.decode import (
    check_factor,
    decode,
    decode_class,
    decode_plan,
    decode_set,
    decoded_count,
    enlarge,
    enlarge_by_products,
    mix,
    noise,
    patch_side,
)
from attar.sets.synthetic import SyntheticSet
from helpers import naive

MODES = ("single", "multi", "bound")
sides = st.integers(1, 11)


def stored(n: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.rand(n, channels, *size, generator=Generator().manual_seed(seed), dtype=torch.float64)


# ---- decode ----


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 5), st.integers(1, 3), st.sampled_from(MODES))
def test_decode_against_the_naive_twin(height: int, width: int, factor: int, n: int, mode: str) -> None:
    assume(factor <= min(height, width))
    images = stored(n, 2, (height, width))
    expected = naive.decode(images, factor, mode)
    got = decode_class(images, factor, mode)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert len(got) == decoded_count(n, factor, mode)
    if mode == "single":
        torch.testing.assert_close(decode(images, factor), expected, rtol=0, atol=1e-12)
    assert got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((5, 3), (14, 9)), ((1, 7), (3, 7)), ((10, 10), (28, 28))])
def test_products_enlarge_as_pytorch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *old, dtype=torch.float64, requires_grad=True)
    results = [way(images, new) for way in (enlarge, enlarge_by_products)]
    weight = torch.rand_like(results[0])
    gradients = [torch.autograd.grad((weight * one).sum(), images)[0] for one in results]
    for one, other in (results, gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_how_many_images_come_out(factor: int) -> None:
    for ipc in (1, 3):
        assert decoded_count(ipc, factor, "single") == ipc * factor**2
        assert decoded_count(ipc, factor, "multi") == ipc * sum(f**2 for f in range(1, factor + 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 150), st.integers(1, 12))
def test_bound_uses_every_stored_image_once_and_gives_at_most_128(ipc: int, factor: int) -> None:
    plan = decode_plan(ipc, factor, "bound")
    used = [(image, f) for f, rows in plan for image in range(ipc)[rows]]
    assert [image for image, _ in used] == list(range(ipc))
    factors = [f for _, f in used]
    assert factors == naive.bound_factors(ipc, factor)
    assert factors == sorted(factors, reverse=True)
    count = sum(f * f for f in factors)
    assert count == decoded_count(ipc, factor, "bound") <= max(128, ipc)
    room = 128 - count
    assert all(f == factor or (f + 1) ** 2 - f**2 > room for f in factors), "no image could go up by one factor"


def test_bound_shows_each_stored_image() -> None:
    for ipc, factor in [(1, 2), (10, 3), (20, 3), (31, 2), (50, 3), (128, 4), (140, 2)]:
        images = torch.arange(ipc, dtype=torch.float64).view(ipc, 1, 1, 1).expand(ipc, 1, 12, 12)
        got = decode_class(images, factor, "bound")
        assert len(got) <= max(128, ipc)
        values = got.amin((1, 2, 3))
        torch.testing.assert_close(values, got.amax((1, 2, 3)))
        counts = torch.bincount(values.round().long(), minlength=ipc)
        assert counts.tolist() == [f * f for f in naive.bound_factors(ipc, factor)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decode_set_repeats_labels(mode: str, factor: int) -> None:
    labels = torch.tensor([3, 0, 3, 5, 0, 5])
    images = labels.double().view(6, 1, 1, 1).expand(6, 1, 6, 6).contiguous()
    decoded, repeated = decode_set(images, labels, factor, mode)
    torch.testing.assert_close(decoded, repeated.double().view(-1, 1, 1, 1).expand_as(decoded))
    assert repeated.dtype == torch.int64
    assert repeated.tolist() == sorted(repeated.tolist())
    assert torch.bincount(repeated).tolist() == [decoded_count(2, factor, mode) * (c in (0, 3, 5)) for c in range(6)]


@pytest.mark.parametrize(("factor", "mode"), [(1, "single"), (2, "single"), (3, "single"), (3, "multi"), (2, "bound")])
def test_gradcheck(factor: int, mode: str) -> None:
    images = stored(2, 1, (5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decode_class(x, factor, mode), (images,))


def test_unknown_mode_and_factor_larger_than_the_image() -> None:
    with pytest.raises(UserError, match=r"unknown decode_type 'singel'.*did you mean 'single'"):
        decode_class(stored(1, 1, (4, 4)), 2, "singel")
    check_factor(4, (4, 9))
    with pytest.raises(UserError, match=r"factor 5 is larger than the image \(4x9 pixels\)"):
        check_factor(5, (4, 9))


# ---- initialisation ----


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 5), st.integers(1, 3))
def test_mix_against_the_naive_twin(height: int, width: int, factor: int, ipc: int) -> None:
    assume(factor <= min(height, width))
    real = stored(ipc * factor**2, 2, (height, width))
    got = mix(real, factor)
    assert got.shape == (ipc, 2, height, width)
    for image in range(ipc):
        patches = real[image * factor**2 : (image + 1) * factor**2]
        assert torch.equal(got[image], naive.mix(list(patches), factor))


@pytest.mark.parametrize(("size", "factor"), [(8, 1), (8, 2), (8, 3), (24, 2), (24, 3), (25, 2), (26, 3)])
@pytest.mark.parametrize("mode", MODES)
def test_all_decode_modes_show_the_real_images_again(size: int, factor: int, mode: str) -> None:
    ipc, side = 3, patch_side(size, factor)
    data = attar.load("digits", nclass=3, size=size)
    for label in range(3):
        real = data.images[data.rows(label)[: ipc * factor**2]].double() / 255
        grids = mix(real, factor)
        got = decode_class(grids, factor, mode)
        shown = got[: ipc * factor**2]  # with three stored images every mode starts with all at the largest factor
        for i, (one, original) in enumerate(zip(shown, real, strict=True)):
            whole = naive.upsample(naive.shrink(original, (side, side)), (size, size))
            # Cells at the right and lower border lack what the image has no room for.
            height, width = size, size
            if i % factor**2 // factor == factor - 1:
                height = size * (size - (factor - 1) * side) // side - factor
            if i % factor == factor - 1:
                width = size * (size - (factor - 1) * side) // side - factor
            if size % factor == 0:
                height = width = size
            assert height > 0 and width > 0
            torch.testing.assert_close(one[:, :height, :width], whole[:, :height, :width], rtol=0, atol=1e-12)
        if mode == "multi" and factor > 1:
            assert torch.equal(got[-ipc:], grids), "the last factor is 1: the stored images themselves"
        if size == 24:  # large enough, and no grey border
            alike = torch.corrcoef(torch.cat([shown, real]).flatten(1))[: len(real), len(real) :]
            assert alike.diag().min() > 0.85, "each looks like its own original"
            assert alike.diag().mean() > alike.mean() + 0.08, "and less like the others of its class"


def test_noise_fills_the_unit_interval() -> None:
    before = torch.get_rng_state()
    first, again = (noise(5, 3, (8, 6), Generator().manual_seed(2)) for _ in range(2))
    assert first.shape == (5, 3, 8, 6)
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), before)
    assert 0 <= first.min() < 0.02 and 0.98 < first.max() <= 1


# ---- numbers of the image update ----


def test_effective_learning_rate() -> None:
    assert effective_lr(5e-3, 10, 32, 32) == pytest.approx(5e-3)
    assert effective_lr(5e-3, 1, 32, 32) == pytest.approx(5e-4)
    assert effective_lr(5e-3, 50, 32, 32) == pytest.approx(2.5e-2)
    assert effective_lr(5e-3, 10, 64, 32) == pytest.approx(2e-2)
    assert effective_lr(1e-2, 20, 14, 28) == pytest.approx(5e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_one_step_over_all_classes_is_the_published_loop(momentum: float, classes: int) -> None:
    """Gradients that depend on a class's own value, as in the method; sequential steps move the whole vector."""
    lr, start = 0.3, torch.linspace(-1, 2, classes, dtype=torch.float64)
    slow = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([slow], lr=lr, momentum=momentum)
    fast, buffer = start.clone(), torch.zeros_like(start)
    power, reach = sweep_factors(momentum, classes)
    shares = torch.tensor(pending(momentum, classes), dtype=torch.float64)
    for sweep in range(6):
        target = (sweep + 1) * torch.arange(1.0, classes + 1, dtype=torch.float64)
        for c in range(classes):
            assert slow[c].item() == pytest.approx(fast[c].item(), rel=1e-12), "the same image at its own turn"
            optimiser.zero_grad(set_to_none=False)
            slow.grad = torch.zeros_like(slow)
            slow.grad[c] = 0.1 * (slow[c] - target[c]).detach() ** 3
            optimiser.step()
        buffer = power * buffer + 0.1 * (fast - target) ** 3
        fast = fast - lr * reach * buffer
        # What the published loop still owes when a sweep ends.
        torch.testing.assert_close(slow.detach(), fast + lr * shares * buffer, rtol=1e-12, atol=1e-12)


# ---- the set ----


def a_set(labels: list[int], seed: int = 0, **changes: Any) -> SyntheticSet:
    values: dict[str, Any] = {
        "images": torch.rand(len(labels), 3, 6, 6, generator=Generator().manual_seed(seed)),
        "labels": torch.tensor(labels),
        "factor": 2,
        "classes": tuple("abcdef"),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.6, 0.7),
        "source": "thing",
    }
    return SyntheticSet(**(values | changes))


def test_a_set_gives_its_training_images() -> None:
    condensed = a_set([0, 0, 2, 2, 3, 3])
    assert (condensed.nclass, condensed.ipc) == (6, 2)
    images, labels = condensed.decoded()
    for c in (0, 2, 3):
        expected = naive.decode(condensed.images[condensed.labels == c].double(), 2)
        torch.testing.assert_close(images[labels == c].double(), expected, rtol=0, atol=1e-6)
    raw, normal = condensed.dataset(normalized=False), condensed.dataset()
    assert len(raw) == len(normal) == 24
    for i in (0, 13, 23):
        assert torch.equal(raw[i][0], images[i]) and int(raw[i][1]) == int(labels[i])
        for channel in range(3):
            expected = (images[i, channel] - condensed.mean[channel]) / condensed.std[channel]
            torch.testing.assert_close(normal[i][0][channel], expected)


def test_a_data_set_has_torchvisions_conventions() -> None:
    condensed = a_set([0, 0, 2, 2, 3, 3])
    actual = condensed.dataset(lambda image: image.amax(), normalized=False)
    images, labels = condensed.decoded()
    assert (actual.classes, actual.class_to_idx["c"]) == (list("abcdef"), 2)
    assert [label for _, label in actual] == actual.targets == labels.tolist()  # iteration ends by itself
    assert all(type(label) is int for label in actual.targets)
    assert torch.equal(torch.stack([value for value, _ in actual]), images.amax((1, 2, 3)))
    assert torch.equal(actual[-1][0], images[-1].amax()) and torch.equal(actual[-2][0], images[-2].amax())


def test_a_set_is_saved_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    condensed, seen = a_set([0, 0, 2, 2, 3, 3]), list[Any]()
    condensed.save(tmp_path / "set.safetensors")
    assert torch.equal(attar.load_set(tmp_path / "set.safetensors").images, condensed.images)
    monkeypatch.setattr(ImageShow, "show", lambda image, title: seen.append((image.size, title)) or True)
    condensed.show()
    assert seen == [(condensed.picture().size, "SyntheticSet(thing: 6 images of 3x6x6, 6 classes, factor 2)")]
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(UserError, match="no program that shows pictures"):
        condensed.show()
    with pytest.raises(UserError, match="'mine' is no name on the Hugging Face hub"):
        condensed.push("mine")


def test_a_notebook_shows_the_first_classes_that_are_there() -> None:
    """A part may hold none of the first labels; of a set of many classes twenty are shown."""
    images, classes = torch.rand(60, 1, 4, 4), tuple(map(str, range(100)))
    late, few = (
        SyntheticSet(images[:n], torch.arange(first, first + n), classes=classes) for n, first in ((60, 30), (20, 30))
    )
    assert late._repr_html_().split("<img")[1] == few._repr_html_().split("<img")[1]


def test_the_start_of_a_set() -> None:
    first = torch.zeros(2, 3, 6, 6)
    condensed = a_set([0, 1], initial=first)
    assert torch.equal(condensed.start().images, first)
    assert torch.equal(condensed.start().labels, condensed.labels)
    with pytest.raises(UserError, match="does not hold its initial images"):
        a_set([0, 1]).start()
