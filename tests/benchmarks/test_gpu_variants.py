"""What is tried on a GPU runs, and changes what it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor

from attar.engine import compile as compiler
from attar.engine import gpu_forms
from benchmarks import gpu_variants

NAME = "channels in eights"


def command(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "benchmarks.gpu_variants", str(folder), "--small", *more]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)


def test_a_variant_on_a_cpu(tmp_path: Path) -> None:
    done = command(tmp_path / "out", "--only", f" {NAME}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "variants.json").read_text(encoding="utf-8"))
    assert found["command"].endswith(f"--only ' {NAME}'")
    for what in ("iteration", "sweep", "update"):
        assert len(found[NAME][f"{what}, ms"]) == 2 and min(found[NAME][f"{what}, ms"]) > 0
        assert f"'{what}, ms': [" in done.stdout


def test_a_name_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_variants", str(tmp_path / "out"), "--small", "--only", "as it is,nothing"])
    with pytest.raises(SystemExit) as stop:
        gpu_variants.main()
    assert stop.value.code == 2 and "unknown variant 'nothing'; there are as it is, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", gpu_variants.VARIANTS)
def test_a_variant_is_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "ON_GPU", dict(compiler.ON_GPU))
    monkeypatch.setattr(gpu_forms.ChannelsLast, "forward", gpu_forms.ChannelsLast.forward)
    monkeypatch.setattr(gpu_forms, "convolution", gpu_forms.convolution)
    monkeypatch.setattr(torch.optim.SGD, "__init__", torch.optim.SGD.__init__)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def state() -> list[object]:
        places = (gpu_forms.ChannelsLast.forward, gpu_forms.convolution, torch.optim.SGD.__init__)
        return [dict(compiler.ON_GPU), *places, torch.backends.cudnn.benchmark]

    before = state()
    chunk = gpu_variants.change(name)
    assert (state() != before or chunk is not None) == (name != "as it is")
    for key in compiler.ON_GPU:
        assert hasattr(inductor, key), "a setting of the compiler"


def test_zeros_more_change_nothing() -> None:
    images, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    whole = gpu_forms.convolution(images, weight, None, (1, 1), (1, 1))
    torch.testing.assert_close(
        gpu_variants.filled_up(gpu_forms.convolution, 8, images, weight, None, (1, 1), (1, 1)), whole
    )
