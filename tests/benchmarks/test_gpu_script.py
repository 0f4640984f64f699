"""benchmarks/gpu.sh without a GPU: what it refuses, that a part which hangs costs nothing of the others, all of it."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).parents[2]


def script(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """What a user would call."""
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("OMP_NUM_THREADS", None)  # as on a machine where nobody set it
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make gpu-bundle` fills, without a network: wheels of what is installed here, a few images in IDX files."""
    folder = tmp_path_factory.mktemp("bundle")
    for name in gpu.WHEELS:
        distribution = importlib.metadata.distribution(name)
        with zipfile.ZipFile(folder / f"{name}-{distribution.version}-py3-none-any.whl", "w") as wheel:
            for file in distribution.files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    wheel.write(str(distribution.locate_file(file)), str(file))
    random = np.random.default_rng(0)
    for part, count in (("train", 600), ("t10k", 100)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes(), 1))
    return folder


def refused(*words: str | Path) -> str:
    """The one line of a refusal; nothing was run."""
    done = script(*words)
    assert done.returncode == 2 and not done.stdout, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("benchmarks/gpu.sh: error: ")
    return line


def test_what_cannot_be_is_refused_in_a_line(bundle: Path, tmp_path: Path) -> None:
    assert "FOLDER" in refused()
    assert "--smal" in refused(tmp_path / "out", "--smal", "--nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "figures.json").touch()
    assert "full is not empty; name a new folder" in refused(tmp_path / "full", "--small", "--bundle", bundle)
    assert "is no folder" in refused(tmp_path / "full" / "figures.json", "--small", "--bundle", bundle)
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere"):
        assert f"{missing} is empty or missing; `make gpu-bundle`" in refused(out, "--bundle", tmp_path / missing)
    part = tmp_path / "part"
    shutil.copytree(bundle, part)
    next(part.glob("rich_rst*")).unlink()
    (part / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "part lacks rich_rst, t10k-labels-idx1-ubyte.gz" in refused(out, "--small", "--bundle", part)
    if not torch.cuda.is_available():
        words = "is built without CUDA" if torch.version.cuda is None else "sees no GPU"
        assert words in refused(out, "--bundle", bundle)
    assert not out.exists()


def test_a_machine_without_a_gpu_is_told_from_a_torch_without_cuda(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        with pytest.raises(SystemExit) as stop:
            gpu.check(tmp_path / "out", bundle, small=False)
        assert stop.value.code == 2
        return capsys.readouterr().err

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA; --small runs every part on a CPU" in said()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "sees no GPU here" in said()
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    assert "needs torch 2.6 or newer, found 2.5.1" in said()
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert set(gpu.check(tmp_path / "out", bundle, small=False)) == set(gpu.WHEELS)


def test_all_parts_fit_into_nine_minutes() -> None:
    assert sum(gpu.LIMITS.values()) <= 9 * 60 - 10, "and a little is left for what is around them"


HANGS = """
import json, subprocess, sys, time
for line in sys.stdin:
    if line.strip() == "hangs":
        print(json.dumps({"figure": "known", "value": 1}), flush=True)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
    if line.strip() == "dies":
        sys.exit(3)
    print(json.dumps({"figure": "x", "value": 2}), flush=True)
    print(json.dumps({"done": line.strip(), "failed": None}), flush=True)
"""


def test_a_part_that_hangs_or_dies_costs_nothing_of_the_others(tmp_path: Path) -> None:
    actual: dict[str, int] = {}

    def run(worker: gpu.Worker, part: str, seconds: float) -> str | None:
        return worker.run(part, time.monotonic() + seconds, actual.__setitem__)

    def fresh() -> gpu.Worker:
        return gpu.Worker([sys.executable, "-c", HANGS], dict(os.environ), tmp_path / "log.txt")

    worker, start = fresh(), time.monotonic()
    assert run(worker, "works", 60) is None and actual == {"x": 2}
    assert run(worker, "hangs", 2) == "killed at its time limit" and actual == {"x": 2, "known": 1}
    assert not worker.alive and time.monotonic() - start < 60
    worker = fresh()
    assert run(worker, "dies", 60) == "its process ended with status 3" and not worker.alive


def test_a_command_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    sleeps = "import time; print(1, flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeps!r}])"
    start = time.monotonic()
    output = tmp_path / "out.txt"
    words = gpu.run_command([sys.executable, "-c", code], dict(os.environ), output, start + 3, folder=tmp_path)
    assert words == "killed at its time limit" and time.monotonic() - start < 30
    assert output.read_text() == "1\n", "what it said is kept"
    bad = [sys.executable, "-c", "raise SystemExit('no data')"]
    words = gpu.run_command(bad, dict(os.environ), output, time.monotonic() + 60, folder=tmp_path)
    assert words == "status 1: no data"


@pytest.mark.slow
def test_a_small_run_of_all_parts(bundle: Path, tmp_path: Path) -> None:
    done = script(tmp_path / "out", "--small", "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    actual = json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))
    assert list(actual["parts"]) == list(gpu.LIMITS)
    assert {part: values["failed"] for part, values in actual["parts"].items() if values["failed"]} == {}
    assert all(values["figures"] for values in actual["parts"].values()), "each has figures"
    assert actual["parts"]["tests"]["figures"]["failed"] == [] and actual["machine"]["torch"] == torch.__version__
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figures.json", "table.txt", "tests.txt", "profile.txt", "result.json"} <= files and len(files) <= 8
    table = (tmp_path / "out" / "table.txt").read_text(encoding="utf-8")
    assert done.stdout.endswith(table) and "published, strict float32, ms iteration" in table, "last on standard output"
