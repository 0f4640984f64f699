"""ZCA: its definition, its place in pools, steps, sets, evaluations and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.data import whitening
from attar.data.images import ImageData
from attar.errors import UserError
from attar.sets import foreign, set_files
from helpers.command import call, refused


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return attar.load("digits", nclass=3, zca=True)


def test_whitened_images_are_uncorrelated(digits: ImageData) -> None:
    plain = attar.load("digits", nclass=3)
    x = plain.images[:].flatten(1).double() / 255
    variances, axes = torch.linalg.eigh(x.T.cov())
    expected = (x - x.mean(dim=0)) @ axes @ torch.diag((variances + 0.1).rsqrt()) @ axes.T
    actual = digits.fetch(torch.arange(len(x))).flatten(1)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)
    held = digits.holdout(0.2, 0).whitening
    assert digits.whitening is not None and held is not None and torch.equal(held.matrix, digits.whitening.matrix)
    step = torch.randn(2, 1, 8, 8)
    x = step.flatten(1).double() @ torch.linalg.matrix_power(torch.linalg.inv(digits.whitening.matrix.double()), 2)
    torch.testing.assert_close(digits.whitening.step(step).flatten(1).double(), x, rtol=1e-3, atol=1e-4)
    assert not torch.equal(next(digits.test_batches())[0], next(plain.test_batches())[0])


def test_a_subset_is_whitened_by_its_own_images(digits: ImageData) -> None:
    subset, plain = digits.subset(2).whitening, attar.load("digits", nclass=2).whitened().whitening
    assert subset is not None and plain is not None and torch.equal(subset.matrix, plain.matrix)


def test_a_long_wait_is_announced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    attar.load("digits", nclass=2, zca=True)
    assert "takes some" not in caplog.text
    monkeypatch.setattr(whitening, "CORE_SECONDS", 120 / 64**3)
    with caplog.at_level("INFO", logger="attar"):
        attar.load("digits", nclass=2, zca=True)
    assert "whitening images of 64 values (zca) takes some 2 minutes on one core" in caplog.text


def test_a_step_in_whitened_pixels(digits: ImageData) -> None:
    """z moves down ∂L/∂z, by the learning rate."""
    assert digits.whitening is not None
    own: dict[str, Any] = {"method": "dm", "width": 0.05, "niter": 1, "inner_loop": 1, "clamp": False}
    one, other = (attar.condense(digits, lr_img=rate, **own) for rate in (1.0, 2.0))
    moved, twice = (digits.normalize(made.images) - digits.normalize(made.start().images) for made in (one, other))
    torch.testing.assert_close(twice, 2 * moved, rtol=1e-3, atol=1e-4)
    assert one.space == "zca" and float(moved.abs().max()) > 0
    with pytest.raises(UserError, match="adamw cannot step in whitened pixels"):
        attar.condense(digits, img_optim="adamw", **own)
    with pytest.raises(UserError, match="this set is in ZCA space: take normalized=False"):
        one.dataset()
    assert len(one.dataset(normalized=False)) == 3  # type: ignore[arg-type]


def test_a_pool_of_another_space_is_refused(digits: ImageData) -> None:
    plain = attar.load("digits", nclass=3)
    own: dict[str, Any] = {"width": 0.05, "epochs": 1, "models": 1}
    for data, other, words in (
        (digits, plain, r"made for images in ZCA space \(--zca\), not for images normalised by channel"),
        (plain, digits, r"made for images normalised by channel, not for images in ZCA space"),
    ):
        pool = attar.pretrain(data, **own)
        with pytest.raises(UserError, match=words):
            attar.condense(other, pool, niter=1, inner_loop=1)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("condense", "-d", "digits", "--nclass", "3", "--method", "mtt", "--zca", "--width", "0.05", "--quiet")
    own = ("--model_num", "1", "--max_start_epoch", "1", "--expert_epochs", "1", "--syn_steps", "2", "--lr_img", "1e4")
    call(*run, *own, "--niter", "1", "--inner_loop", "2", "--out", "run")
    condensed = set_files.load_set("run")
    assert condensed.space == "zca" and not 0 <= float(condensed.images.min()) <= float(condensed.images.max()) <= 1
    result = attar.evaluate("run", epochs=1, runs=1, yardsticks=())
    assert result["protocol"]["space"] == "zca"
    said.clear()
    call("export", "run", "--to", "npz", "--out", "out.npz")
    text = "\n".join(said)
    assert "outside [0, 1] and are clipped: npz holds bytes, --to pt keeps them" in text
    assert "in ZCA space (--zca)" in text
    capsys.readouterr()
    call("export", "run", "--to", "pt", "--out", "out.pt")
    assert "float32; whiten with attar.load(..., zca=True).normalize" in capsys.readouterr().out
    images, _ = torch.load("out.pt")
    assert torch.equal(images, condensed.images)
    data, said[:] = attar.load("digits", nclass=3, zca=True), []
    exact, clipped = (foreign.as_set(foreign.read(Path(file)), data) for file in ("out.pt", "out.npz"))
    assert torch.equal(exact.images, condensed.images)
    assert "out.npz" in said[0] and "were outside [0, 1], and clipped by the export" in said[0] and len(said) == 1
    assert all((back.space, back.lr) == ("zca", condensed.lr) for back in (exact, clipped))
    torch.testing.assert_close(clipped.images, condensed.images.clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)
    assert "says itself that its images are not normalised" in refused(capsys, "evaluate", "out.pt", "--normalized")
    call("evaluate", "out.pt", "--epochs", "1", "--runs", "1", "--yardsticks", "none", "--json", "--quiet")
    again = json.loads(capsys.readouterr().out)
    assert again["protocol"]["space"] == "zca"
    assert all(again[kind] == result[kind] for kind in ("accuracy", "learned"))
    large = refused(capsys, "condense", "-d", "digits", "--zca", "--size", "128", "--out", "large")
    assert "zca whitens images of up to 12288 values" in large


def test_a_set_and_data_of_another_space_are_refused(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Everywhere a set meets real images, and both ways."""
    monkeypatch.chdir(tmp_path)
    plain = attar.load("digits", nclass=3)
    own: dict[str, Any] = {"method": "dm", "width": 0.05, "niter": 1, "inner_loop": 1}
    white, other = attar.condense(digits, folder="white", **own), attar.condense(plain, folder="plain", **own)
    quick: dict[str, Any] = {"epochs": 1, "runs": 1, "yardsticks": ()}
    for condensed, data, words in (
        (white, plain, "the set is in ZCA space, and digits is not whitened; add --zca"),
        (other, digits, r"digits is whitened \(--zca\), and the set is not in ZCA space; leave --zca out"),
    ):
        for call_it in (
            lambda a, b: attar.evaluate(a, b, **quick),
            lambda a, b: attar.label(a, b, epochs=1),
            lambda a, b: attar.train(a, None, b, epochs=1),
            lambda a, b: attar.train(a, None, b.untested(), epochs=1),
        ):
            with pytest.raises(UserError, match=words):
                call_it(condensed, data)
    assert "add --zca" in refused(capsys, "evaluate", "white", "-d", "digits", "--no_zca", "--epochs", "1")
    assert "leave --zca out" in refused(capsys, "add", "plain", "-d", "digits", "--zca", "--quiet")
    assert "is whitened (--zca) by its own images" in refused(capsys, "add", "white", "-d", "digits", "--quiet")
    result = attar.evaluate("white", epochs=1, runs=1, yardsticks=("random_real",))  # as the run says
    assert result["protocol"]["space"] == "zca" and digits.resized(4).space == "zca"
    herding = attar.select(digits, "herding", ipc=1, features="pixels")
    assert attar.evaluate(herding, digits, **quick)["accuracy"] and herding.space == "zca"


def test_whitened_images_of_another_tool(digits: ImageData, tmp_path: Path) -> None:
    """With --zca --normalized the values of a file are whitened ones."""
    images = digits.images[:6].float() / 255
    torch.save([digits.normalize(images), digits.labels[:6]], tmp_path / "theirs.pt")
    back = foreign.as_set(foreign.read(tmp_path / "theirs.pt"), digits, normalized=True)
    torch.testing.assert_close(back.images, images, rtol=1e-4, atol=1e-4)
    assert back.space == "zca"


def test_large_images_are_refused() -> None:
    images = torch.zeros(4, 3, 65, 65, dtype=torch.uint8)
    with pytest.raises(UserError, match="zca whitens images of up to 12288 values, and those of x are 3x65x65"):
        ImageData(images, torch.tensor([0, 0, 1, 1]), name="x").whitened()
