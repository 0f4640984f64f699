"""What every test shares: one thread a worker, the `gpu` marker and the command line as a subprocess."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attar
from attar.data.images import ImageData
from attar.errors import log, once
from attar.settings import recipes
from attar.training.pool import Pool
from helpers.command import TINY, call

torch.set_num_threads(1)
# No test opens the network, and none writes into the caches of whoever runs it.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
SCRATCH = Path(tempfile.gettempdir()) / f"attar-tests-{os.getuid()}"
os.environ |= {"HF_HOME": str(SCRATCH / "hf"), "ATTAR_CACHE": str(SCRATCH / "cache")}
os.environ |= {"MPLCONFIGDIR": str(SCRATCH / "matplotlib")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` on a machine without a CUDA device, and say so."""
    if not torch.cuda.is_available():
        no_device = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(no_device)


class LogLines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that attar logs during the test, in order, from INFO upwards."""
    handler, level = LogLines(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.lines
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture(autouse=True)
def no_line_was_said_before() -> None:
    """`attar.errors.say_once` remembers its lines for the whole process; every test begins without any."""
    once.said.clear()


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """The embedded digits, all ten classes."""
    return attar.load("digits")


@pytest.fixture(scope="session")
def pool(digits: ImageData) -> Pool:
    """Two early-stage models of the digits, narrow and one epoch old."""
    return attar.pretrain(digits, epochs=1, models=2, depth=2, width=0.05, net_type="convnet")


@pytest.fixture(scope="session")
def run_attar() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_attar("demo", "--help", cwd=tmp_path)` runs attar as a user would and returns status, output and errors."""

    def run(
        *args: str | Path,
        cwd: Path,
        env: dict[str, str] | None = None,  # on top of the environment of the tests
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "attar", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def shorter_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the digits at half the width of its networks and a third of its iterations and epochs."""
    recipe = recipes.named("digits")
    evaluate = replace(recipe.evaluate, epochs=100, whole_epochs=10)
    short = replace(
        recipe,
        network=replace(recipe.network, width=0.25),
        condense=replace(recipe.condense, niter=3),
        evaluate=evaluate,
    )
    monkeypatch.setitem(recipes.RECIPES, "digits", lambda: short)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, pool/digits-convnet2-w0.05, and the run base/, made by the command line. Read only."""

    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        call("condense", "-d", "digits", *TINY, "--out", "base", "--quiet")
    return root
