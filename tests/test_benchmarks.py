"""The benchmarks still run: each once, on the smallest of shapes. What they measure is not looked at here."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import attar
from attar.comparison import run
from attar.engine.device import tensor_cores
from attar.errors import log
from attar.runs.progress import Progress
from benchmarks import common, curves, shares, step

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
TINY = "--shape digits --width 0.1 --rounds 1 --ipc 1 --factor 1"


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """A benchmark listens to attar's log for as long as its process lives."""
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.mark.parametrize(
    ("name", "flags"),
    [("benchmarks.step", f"{TINY} --n_data 64 --compile off"), ("benchmarks.evaluation", f"{TINY} --epochs 1")],
)
@pytest.mark.usefixtures("quiet_log")
def test_a_benchmark_writes_what_the_contract_says(
    name: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `python -m` in this process; what it starts itself are processes."""
    out = tmp_path / "out.json"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    monkeypatch.setattr(sys, "argv", [name, *flags.split(), "--json", str(out)])
    monkeypatch.setattr(common, "matmul_rates", partial(common.matmul_rates, side=128))
    monkeypatch.delitem(sys.modules, name, raising=False)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    actual = json.loads(out.read_text(encoding="utf-8"))
    expected = {"device", "threads", "torch", "shape", "reference_s", "attar_s", "ratio", "max_relative_difference"}
    assert expected <= actual.keys()
    assert actual["reference_s"].keys() == {"median", "min", "n"} and actual["ratio"] > 0
    assert actual["max_relative_difference"] < 1e-3


@pytest.mark.usefixtures("quiet_log")
def test_of_many_decoded_images_both_take_the_same() -> None:
    """A class decodes to 132 images here, more than take part in an iteration."""
    sizes = {"shape": "digits", "size": None, "width": 0.05, "ipc": 33, "factor": 2, "n_data": 64, "batch_real": 64}
    choices = {"precision": "float32", "compile": "off", "memory_gb": None}
    pair = step.Pair(argparse.Namespace(**sizes, **choices), CPU)
    assert pair.subsets() is not None
    pair.attar_iteration()
    pair.reference_iteration()
    fresh = step.Pair(argparse.Namespace(**sizes, **choices), CPU)
    assert fresh.difference()["max_relative_difference"] < 1e-3


def test_the_rate_of_a_processor_is_that_of_its_faster_library() -> None:
    """The convolution computes the product; the floor takes the faster of the two."""
    rates = common.matmul_rates(CPU, "float32", side=128)
    assert rates.keys() == {"product", "convolution"} and min(rates.values()) > 0
    a, b = torch.randn(128, 128), torch.randn(128, 128)
    images, kernel = common.as_convolution(a, b)
    product = F.conv2d(images, kernel).permute(0, 2, 3, 1).reshape(128, 128)
    torch.testing.assert_close(product, a @ b, rtol=1e-4, atol=1e-4)


def test_the_published_loop_as_pytorch_comes_stands_beside_the_strict_one() -> None:
    seconds = {"reference sweep": [4.0], "comes sweep": [3.0], "attar sweep": [1.0]}
    actual = step.compared(seconds, "sweep")
    assert (actual["ratio"], actual["ratio_comes"]) == (4.0, 3.0) and "ratio_kept" not in actual
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    seen = []

    def switches() -> None:
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))

    try:
        step.as_it_comes(switches)()
        step.at_precision(switches, "float32", torch.device("cuda"))()
    finally:
        tensor_cores(products=before[0], convolutions=before[1])
    assert seen == [(False, True), (False, False)]


def test_a_curve_begins_with_the_initial_images_and_ends_with_the_set(tmp_path: Path) -> None:
    values = {
        **{"dataset": "digits", "nclass": 2, "ipc": 1, "width": 0.05, "inner_loop": 1, "n_data": 16, "runs": 1},
        **{
            "evaluate": {"epochs": 20, "yardsticks": ["initial"]},
            "entry": [{"method": "idc", "niter": 4, "lr_img": 1.0}],
        },
    }
    attar.compare(values, out=tmp_path / "out")
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    plan, data = run.prepare(values, Progress())
    points = list(curves.points(plan, data, tmp_path / "out"))
    assert [point["iterations"] for point in points] == [0, 1, 2, 3, 4]
    assert [point["seconds"] for point in points] == sorted(point["seconds"] for point in points)
    ends = [point["accuracy"]["convnet2"]["mean"] for point in (points[0], points[-1])]
    expected = [line[kind]["convnet2"]["mean"] for kind in ("initial", "accuracy")]
    assert ends == pytest.approx(expected, abs=0.02)  # 8 bits move an image or so of seventy
    curves.draw(tmp_path / "curves.png", points)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1100, 440)
    snapshots = next((tmp_path / "out").rglob("snapshots.safetensors"))
    snapshots.unlink()
    with pytest.raises(SystemExit, match="no snapshots of all its images"):
        list(curves.points(plan, data, tmp_path / "out"))


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=8),
    sizes=st.data(),
    per_class=st.integers(shares.LEAST, 12),
)
def test_images_are_shared_by_weight(weights: list[float], sizes: st.DataObject, per_class: int) -> None:
    """All of them, none below the least or above what a class has, and more only for who weighs as much."""
    count = len(weights)
    most = sizes.draw(st.lists(st.integers(per_class, 60), min_size=count, max_size=count))
    actual = shares.shared(per_class * count, torch.tensor(weights), torch.tensor(most))
    assert sum(actual) == per_class * count
    assert all(shares.LEAST <= one <= own for one, own in zip(actual, most, strict=True))
    for one, weight, own in zip(actual, weights, most, strict=True):
        assert all(one >= other for other, less in zip(actual, weights, strict=True) if less < weight and one < own)


def test_a_long_tail_keeps_images_and_scale() -> None:
    data = attar.load("digits")
    tail = shares.long_tail(data)
    assert tail.counts[0] == data.counts[0] and tail.counts == sorted(tail.counts, reverse=True)
    assert tail.counts[-1] == round(data.counts[-1] / shares.TAIL) and (tail.mean, tail.std) == (data.mean, data.std)
    assert torch.equal(tail.images[tail.rows(9)], data.images[data.rows(9)[: tail.counts[-1]]])
