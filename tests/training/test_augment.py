"""Augmentation: every operation against its naive twin, parameters within their ranges, gradients, and who draws."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from attar.training.augment import (
    Augmentation,
    apply,
    apply_augmentation,
    augment,
    cutmix,
    draw_augmentation,
    without,
)
from attar.training.draws import Draw, draw, take
from helpers import naive

NAMES = ("color", "crop", "cutout", "flip", "scale", "rotate")
SIZES = [(8, 8), (9, 6), (5, 12)]


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def pictures(n: int, size: tuple[int, int], channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, *size, generator=seeded(seed), dtype=torch.float64)


def rows_of(drawn: Draw) -> int:
    return len(next(iter(drawn.values())))


def warp_of(matrix: Tensor, size: tuple[int, int]) -> tuple[str, list[float]]:
    """Which operation a sampling matrix [2, 3] stands for, and its parameters; fails when it is none of the three."""
    (xx, xy, x0), (yx, yy, y0) = matrix.double().tolist()
    height, width = size
    if xy or yx:
        sin, back = yx * height / width, -xy * width / height
        assert (x0, y0) == (0, 0)
        assert sin == pytest.approx(back, abs=1e-6)
        assert xx == pytest.approx(yy, abs=1e-6)
        assert sin**2 + xx**2 == pytest.approx(1, abs=1e-6)
        return "rotate", [math.degrees(math.atan2(sin, xx))]
    if x0 or y0 or (xx, yy) == (1, 1):
        assert (xx, yy) == (1, 1)
        down, right = y0 * height / 2, x0 * width / 2
        assert down == pytest.approx(round(down), abs=1e-5)
        assert right == pytest.approx(round(right), abs=1e-5)
        return "crop", [round(down), round(right)]
    assert (x0, y0) == (0, 0)
    return "scale", [yy, xx]


# ---- every operation against its twin ----


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_flip(size: tuple[int, int], channels: int) -> None:
    images = pictures(40, size, channels)
    drawn = draw(("flip",), 40, size, seeded(1), batch=40)
    got = apply(images, drawn)
    flipped = [row for row in range(40) if torch.equal(got[row], naive.flip(images[row]))]
    kept = [row for row in range(40) if torch.equal(got[row], images[row])]
    assert sorted(flipped + kept) == list(range(40))
    assert 8 < len(flipped) < 32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_color(size: tuple[int, int], channels: int) -> None:
    images = pictures(5, size, channels)
    drawn = draw(("color",), 5, size, seeded(2), batch=5)
    got = apply(images, drawn)
    for row in range(5):
        expected = naive.color(images[row], *drawn["color"][row].tolist())
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-12)
        assert (expected - images[row]).abs().max() > 0.01


@pytest.mark.parametrize("size", [*SIZES, (16, 28)])
def test_crop_alone_moves_by_whole_pixels(size: tuple[int, int]) -> None:
    images = pictures(20, size)
    drawn = draw(("crop",), 20, size, seeded(3), batch=20)
    got = apply(images, drawn)
    for row in range(20):
        assert torch.equal(got[row], naive.crop(images[row], *drawn["shift"][row].tolist()))


@pytest.mark.parametrize("size", [*SIZES, (7, 7)])
def test_cutout(size: tuple[int, int]) -> None:
    images = pictures(30, size)
    drawn = draw(("cutout",), 30, size, seeded(4), batch=30)
    got = apply(images, drawn)
    height, width = (round(side / 2) for side in size)
    for row in range(30):
        y, x = drawn["cutout"][row].tolist()
        assert torch.equal(got[row], naive.cutout(images[row], y - height // 2, x - width // 2, height, width))
        assert (got[row, :, y, x] == 0).all()
        if height // 2 <= y <= size[0] - height and width // 2 <= x <= size[1] - width:
            assert (got[row, 0] == 0).sum() == height * width


TWINS = {"crop": naive.crop, "scale": naive.scale, "rotate": naive.rotate}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("names", [("scale",), ("rotate",), ("crop", "scale", "rotate"), ("crop", "rotate")])
def test_exactly_one_warp_for_each_row(size: tuple[int, int], names: tuple[str, ...]) -> None:
    images = pictures(24, size)
    drawn = draw(names, 24, size, seeded(5), batch=1)
    got = apply(images, drawn)
    seen = set()
    for row in range(24):
        name, values = warp_of(drawn["affine"][row], size)
        seen.add(name)
        torch.testing.assert_close(got[row], TWINS[name](images[row], *values), rtol=0, atol=2e-5)
    assert seen == set(names)


@settings(max_examples=40, deadline=None)
@given(
    names=st.sets(st.sampled_from(NAMES)),
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    per_row=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_strategy_in_the_order_flip_color_warp_cutout(
    names: set[str], size: tuple[int, int], per_row: bool, seed: int
) -> None:
    images = pictures(3, size)
    drawn = draw(tuple(names), 3, size, seeded(seed), batch=1 if per_row else 3)
    expected = torch.stack([naive.augment(images[row], take(drawn, row)) for row in range(3)])
    torch.testing.assert_close(apply(images, drawn), expected, rtol=0, atol=1e-10)


def test_order_of_the_names_does_not_matter() -> None:
    forward, backward = (draw(names, 4, (8, 8), seeded(6), batch=4) for names in (NAMES, NAMES[::-1]))
    assert forward.keys() == backward.keys()
    assert all(torch.equal(forward[key], backward[key]) for key in forward)


@pytest.mark.parametrize("seed", range(3))
def test_one_operation_of_a_strategy(seed: int) -> None:
    """Of DSA's and DM's published strategy each call draws one operation; the others leave the images as they are."""
    names, images = ("color", "crop", "cutout", "flip", "scale", "rotate"), pictures(300, (8, 8))
    drawn = draw(("one", *names), 300, (8, 8), seeded(seed), batch=1)
    got, counts = apply(images, drawn), dict.fromkeys(names, 0)
    for row in range(300):
        one = take(drawn, row)
        of_row = ("flip", "color", "cutout", "affine", "affine", "affine")[int(one["taken"])]
        torch.testing.assert_close(got[row], naive.augment(images[row], {of_row: one[of_row]}), rtol=0, atol=1e-10)
        counts[warp_of(one["affine"][0], (8, 8))[0] if of_row == "affine" else of_row] += 1
    assert min(counts.values()) > 20, "uniformly"
    unchanged = sum(bool(torch.equal(got[row], images[row])) for row in range(300))
    assert 10 < unchanged < 50, "a flip in two of them, and the crop by nothing: about a twelfth and a few"
    shared = draw(("one", *names), 8, (8, 8), seeded(seed), batch=8)
    assert len(shared["taken"]) == 8 and len(shared["taken"].unique()) == 1, "one for a batch"


def test_resize_shows_a_part_of_the_image() -> None:
    """IDC's evaluation on ImageNet: a box of half the area at least, its sides at most 4 : 3, within the image."""
    matrices = draw(("resize",), 500, (16, 12), seeded(0), batch=1)["affine"].double()
    (wide, _, x), (_, high, y) = (matrices[:, row].T for row in range(2))
    assert (wide.abs() + x.abs() <= 1 + 1e-6).all() and (high + y.abs() <= 1 + 1e-6).all()
    area, stretch = wide * high, (wide / high)[(wide < 1) & (high < 1)]
    assert (
        0.42 < area.min() < 0.55
        and 0.9 < area.max() <= 1
        and 3 / 4 - 1e-6 < stretch.min() < stretch.max() < 4 / 3 + 1e-6
    )
    images = pictures(3, (16, 12))
    drawn = draw(("resize",), 3, (16, 12), seeded(1), batch=1)
    for row in range(3):
        expected = naive.augment(images[row], take(drawn, row))
        torch.testing.assert_close(apply(images, drawn)[row], expected, rtol=0, atol=1e-10)


def test_none_is_identity() -> None:
    images = pictures(3, (8, 8))
    assert draw((), 3, (8, 8), seeded(0), batch=3) == {}
    assert torch.equal(apply(images, {}), images)


# ---- parameters ----


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(2, 40), st.integers(2, 40)), seed=st.integers(0, 2**31))
def test_parameters_stay_within_their_ranges(size: tuple[int, int], seed: int) -> None:
    height, width = size
    most_y, most_x = (round(0.125 * side) for side in size)
    drawn = draw(("flip", "color", "crop", "cutout"), 64, size, seeded(seed), batch=64)
    assert drawn["flip"].dtype == torch.bool
    assert ((drawn["color"] >= 0) & (drawn["color"] < 1)).all()
    assert (drawn["shift"].abs() <= torch.tensor([most_y, most_x])).all()
    assert not drawn["shift"].is_floating_point()
    assert ((drawn["cutout"] >= 0) & (drawn["cutout"] < torch.tensor([height, width]))).all()
    for matrix in draw(("crop", "scale", "rotate"), 64, size, seeded(seed), batch=1)["affine"]:
        name, values = warp_of(matrix, size)
        if name == "crop":
            assert abs(values[0]) <= most_y and abs(values[1]) <= most_x
        elif name == "scale":
            assert all(1 / 1.2 - 1e-6 <= zoom <= 1.2 + 1e-6 for zoom in values)
        else:
            assert abs(values[0]) <= 15 + 1e-4


def test_parameters_reach_the_ends_of_their_ranges() -> None:
    n, size = 4000, (16, 24)
    drawn = draw(("flip", "color", "crop", "cutout"), n, size, seeded(7), batch=n)
    assert 0.46 < drawn["flip"].double().mean() < 0.54
    assert (drawn["color"].amin(0) < 0.01).all() and (drawn["color"].amax(0) > 0.99).all()
    for axis, most in ((0, 2), (1, 3)):
        counts = torch.bincount(drawn["shift"][:, axis] + most, minlength=2 * most + 1)
        assert len(counts) == 2 * most + 1
        assert (counts > 0.8 * n / (2 * most + 1)).all()
        assert (torch.bincount(drawn["cutout"][:, axis], minlength=size[axis]) > 0.6 * n / size[axis]).all()
    values: dict[str, list[list[float]]] = {"crop": [], "scale": [], "rotate": []}
    for matrix in draw(("crop", "scale", "rotate"), n, size, seeded(8), batch=1)["affine"]:
        name, parameters = warp_of(matrix, size)
        values[name].append(parameters)
    for actual in values.values():
        assert abs(len(actual) - n / 3) < 5 * math.sqrt(n * 2 / 9)
    zoom, angle = torch.tensor(values["scale"]), torch.tensor(values["rotate"])
    assert (zoom.amin(0) < 0.84).all() and (zoom.amax(0) > 1.19).all()
    assert (zoom.mean(0) - (1 / 1.2 + 1.2) / 2).abs().max() < 0.015
    assert abs(torch.corrcoef(zoom.T)[0, 1]) < 0.15, "both axes are drawn independently"
    assert angle.min() < -14.5 and angle.max() > 14.5 and angle.mean().abs() < 1.2


def test_the_choice_is_one_per_batch_unless_asked_for_per_row() -> None:
    chosen = []
    for seed in range(40):
        drawn = draw(("crop", "scale", "rotate"), 16, (32, 32), seeded(seed), batch=16)
        kinds = {warp_of(matrix, (32, 32))[0] for matrix in drawn["affine"]}
        assert len(kinds) == 1
        assert len(drawn["affine"].unique(dim=0)) > 8, "each row has parameters of its own"
        chosen.append(kinds.pop())
    assert all(chosen.count(kind) >= 4 for kind in ("crop", "scale", "rotate"))
    drawn = draw(("crop", "scale", "rotate"), 60, (32, 32), seeded(0), batch=1)
    assert len({warp_of(matrix, (32, 32))[0] for matrix in drawn["affine"]}) == 3


# ---- who shares a draw, who draws ----


@pytest.mark.parametrize("seed", range(6))
def test_siamese_batches_are_treated_alike(seed: int) -> None:
    real, synthetic = pictures(4, (8, 8), seed=1), pictures(7, (8, 8), seed=2)
    drawn = draw(NAMES, 1, (8, 8), seeded(seed), batch=1)
    assert rows_of(drawn) == 1
    for batch in (real, synthetic):
        torch.testing.assert_close(apply(batch, drawn), naive.augment(batch, drawn), rtol=0, atol=1e-10)


def test_take_gives_the_rows_of_a_draw() -> None:
    images, drawn = pictures(6, (8, 8)), draw(NAMES, 6, (8, 8), seeded(9), batch=1)
    whole = apply(images, drawn)
    assert rows_of(take(drawn, 2)) == 1
    torch.testing.assert_close(apply(images[2:3], take(drawn, 2)), whole[2:3])
    torch.testing.assert_close(apply(images[1:4], take(drawn, slice(1, 4))), whole[1:4])


def test_draws_come_from_the_generator_alone() -> None:
    images, labels = pictures(8, (8, 8)), torch.arange(8) % 3
    before = torch.get_rng_state()

    def everything(seed: int) -> list[Tensor]:
        generator = seeded(seed)
        drawn = draw(NAMES, 8, (8, 8), generator, batch=1)
        mixed = augment(images, labels, strategy=NAMES, nclass=3, mix_p=1.0, generator=generator)
        return [*drawn.values(), apply(images, drawn), *mixed, *cutmix(images, labels, 3, 1.0, generator)]

    first, again, other = everything(1), everything(1), everything(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_dtype_is_kept_and_the_input_is_not_written_to() -> None:
    for dtype in (torch.float32, torch.float64):
        images = pictures(4, (8, 8)).to(dtype)
        copy = images.clone()
        out, targets = augment(images, torch.arange(4), strategy=NAMES, nclass=4, mix_p=1.0, generator=seeded(3))
        assert (out.dtype, targets.dtype) == (dtype, dtype)
        assert torch.equal(images, copy)


# ---- gradients ----


@pytest.mark.parametrize("names", [*[(name,) for name in NAMES], ("color", "scale"), NAMES])
@pytest.mark.parametrize("rows", [1, 2])
def test_gradcheck(names: tuple[str, ...], rows: int) -> None:
    images = pictures(2, (5, 4), channels=2).requires_grad_()
    for seed in range(2):
        drawn = draw(names, rows, (5, 4), seeded(seed), batch=1)
        assert torch.autograd.gradcheck(lambda x, drawn=drawn: apply(x, drawn), (images,))


# ---- CutMix ----


def numbered(n: int, size: tuple[int, int]) -> Tensor:
    """Image i is i everywhere, so that a pixel tells where it came from."""
    return torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1).expand(n, 1, *size).contiguous()


def pasted(mixed: Tensor) -> tuple[tuple[int, int, int, int], list[int]]:
    """The box and the permutation of a batch that was `numbered`. Without a foreign pixel the box is empty."""
    n = len(mixed)
    foreign = mixed[:, 0] != torch.arange(n).view(n, 1, 1)
    order = list(range(n))
    for i in range(n):
        if foreign[i].any():
            sources = mixed[i, 0][foreign[i]].unique()
            assert len(sources) == 1, "an image gets pixels of one other image"
            order[i] = int(sources)
    rows, columns = (foreign.any(0).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return (0, 0, 0, 0), order
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    for i in range(n):
        inside = foreign[i][box[0] : box[1], box[2] : box[3]]
        assert inside.all() or not foreign[i].any(), "the box is one full rectangle, the same for all images"
    return box, order


@pytest.mark.parametrize("size", SIZES)
def test_cutmix_pastes_one_box_and_weighs_labels_by_area(size: tuple[int, int]) -> None:
    n, labels = 9, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    shares = []
    for seed in range(40):
        mixed, targets = cutmix(numbered(n, size), labels, 4, 1.0, seeded(seed))
        box, order = pasted(mixed)
        assert sorted(order) == list(range(n)), "the sources are a permutation"
        images = pictures(n, size)
        got = cutmix(images, labels, 4, 1.0, seeded(seed))
        expected, share = naive.cutmix(images, box, order)
        assert torch.equal(got[0], expected)
        assert torch.equal(got[1], targets)
        torch.testing.assert_close(targets, naive.mixed_targets(labels.tolist(), order, share, 4))
        torch.testing.assert_close(targets.sum(1), torch.ones(n, dtype=torch.float64))
        shares.append(share)
    assert min(shares) < 0.4 and max(shares) > 0.9


def test_cutmix_with_probability_0_does_nothing() -> None:
    images, labels = pictures(4, (8, 8)), torch.tensor([2, 0, 1, 2])
    for seed in range(20):
        mixed, targets = cutmix(images, labels, 3, 0.0, seeded(seed))
        assert torch.equal(mixed, images)
        assert torch.equal(targets, naive.one_hot(labels.tolist(), 3))


def test_how_often_and_how_much_cutmix_pastes() -> None:
    images, labels = numbered(2, (64, 64)), torch.tensor([0, 1])
    areas: dict[float, list[float]] = {0.5: [], 1.0: []}
    for p, actual in areas.items():
        for seed in range(1200):
            (top, bottom, left, right), order = pasted(cutmix(images, labels, 2, p, seeded(seed))[0])
            if order == [1, 0]:  # the other permutation of two images shows nothing
                actual.append((bottom - top) * (right - left) / 64**2)
    assert abs(len(areas[1.0]) - 600) < 90 and abs(len(areas[0.5]) - 300) < 75
    # Box side s = √(1−λ), λ ~ U(0, 1), centre uniform, clipped: the mean area is ∫ 2s·(s − s²/4)² ds = 77/240.
    assert sum(areas[1.0]) / len(areas[1.0]) == pytest.approx(77 / 240, abs=0.04)


def test_a_training_batch_is_augmented_per_sample_then_mixed() -> None:
    images, labels = pictures(12, (8, 8)), torch.arange(12) % 5
    one_hot = naive.one_hot(labels.tolist(), 5)
    plain, targets = augment(images, labels, strategy=(), nclass=5, mix_p=0.0, generator=seeded(0))
    assert torch.equal(plain, images) and torch.equal(targets, one_hot)
    flipped, targets = augment(images, labels, strategy=("flip",), nclass=5, mix_p=0.0, generator=seeded(0))
    ways = [(torch.equal(a, b), torch.equal(a, naive.flip(b))) for a, b in zip(flipped, images, strict=True)]
    assert set(ways) == {(True, False), (False, True)} and torch.equal(targets, one_hot)
    generator = seeded(1)
    drawn = draw(NAMES, 12, (8, 8), generator, batch=12)
    expected = cutmix(apply(images, drawn), labels, 5, 1.0, generator)
    got = augment(images, labels, strategy=NAMES, nclass=5, mix_p=1.0, generator=seeded(1))
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_batches_at_once_are_the_batches_one_by_one(n: int, batch: int, seed: int) -> None:
    images, labels = pictures(n, (8, 8)), torch.arange(n) % 5
    drawn = draw_augmentation(NAMES, n, (8, 8), 0.8, seeded(seed), batch=batch)
    assert drawn.boxes is not None and drawn.order is not None
    together = apply_augmentation(images, labels, drawn, 5, batch=batch)
    for number, rows in enumerate(torch.arange(n).split(batch)):
        start, size = int(rows[0]), len(rows)
        order = drawn.order[rows] - start
        assert sorted(order.tolist()) == list(range(size)), "partners are of the same batch"
        own = Augmentation(take(drawn.draw, slice(start, start + size)), drawn.boxes[number : number + 1], order)
        for got, expected in zip(
            together, apply_augmentation(images[rows], labels[rows], own, 5, batch=size), strict=True
        ):
            assert torch.equal(got[rows], expected)
        warps = {warp_of(matrix, (8, 8))[0] for matrix in own.draw["affine"]}
        assert len(warps) == 1 or size == 1, "one warp for a batch"


def test_partners_are_drawn_evenly_and_for_each_batch_anew() -> None:
    counts, equal = torch.zeros(4, 4), 0
    for seed in range(300):
        order = draw_augmentation((), 8, (8, 8), 1.0, seeded(seed), batch=4).order
        assert order is not None
        first, second = order[:4], order[4:] - 4
        counts[torch.arange(4), first] += 1
        counts[torch.arange(4), second] += 1
        equal += torch.equal(first, second)
    assert (counts - 150).abs().max() < 5 * math.sqrt(600 * 3 / 16)
    assert equal < 40, "24 orders of four: one pair in 24 is equal"


def test_without_removes_one_operation() -> None:
    for names in combinations(NAMES, 3):
        for name in NAMES:
            assert without(names, name) == tuple(other for other in names if other != name)
