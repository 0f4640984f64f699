"""The benchmarks still run: each once, on the smallest of shapes. What they measure is not looked at here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TINY = "--shape digits --width 0.1 --rounds 1 --ipc 1 --factor 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        f"benchmarks.step {TINY} --n_data 64 --compile off",
        f"benchmarks.step {TINY} --n_data 64 --compile off --ipc 40 --factor 2",  # a class decodes to 160 images
        f"benchmarks.evaluation {TINY} --epochs 1",
    ],
)
def test_a_benchmark_writes_what_the_contract_says(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    line = [sys.executable, "-W", "error", "-m", *command.split(), "--json", "out.json"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    wanted = {"device", "threads", "torch", "shape", "reference_s", "attar_s", "ratio", "max_relative_difference"}
    assert wanted <= found.keys()
    assert found["reference_s"].keys() == {"median", "min", "n"} and found["ratio"] > 0
    assert found["max_relative_difference"] < 1e-3


@pytest.mark.slow
def test_a_part_of_the_device_script_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    part = "end to end float32"
    line = [
        sys.executable,
        "-m",
        "benchmarks.device",
        "--device",
        "cpu",
        "--small",
        "--json",
        "out.json",
        "--only",
        part,
    ]

    def measured() -> dict[str, Any]:
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        return found

    found = measured()
    first = found["parts"][part]
    assert len(first["seconds"]) == 2 and list(first["result"]["accuracy"]) == ["convnet2"]
    assert "whole" not in first["result"], "the evaluation of the set alone"
    found["parts"][part] = {"failed": "longer than 570 s"}
    (tmp_path / "out.json").write_text(json.dumps(found), encoding="utf-8")
    again = measured()["parts"][part]
    assert again["result"]["seconds"]["condense"] == first["result"]["seconds"]["condense"], "the run was there"
