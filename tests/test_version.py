"""The version is said once, and known where no distribution is installed."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attar

ROOT = Path(__file__).parents[1]

HIDDEN = """
import importlib.metadata, sys
from contextlib import suppress

find = importlib.metadata.distribution

def hidden(name):
    if name.lower() == "attar":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)

importlib.metadata.distribution = hidden
import torch
import attar
from attar.cli.parser import main
from attar.runs.run_folder import environment
from attar.runs.result import describe_set
from attar.sets.synthetic import SyntheticSet

with suppress(importlib.metadata.PackageNotFoundError):
    sys.exit(f"not hidden: {importlib.metadata.version('attar')}")
print(attar.__version__, environment(torch.device("cpu"))["attar"])
small = SyntheticSet(torch.zeros(2, 1, 8, 8), torch.arange(2), 1, ("a", "b"), (0.0,), (1.0,))
print(describe_set(small, "digits", "cpu", None)["attar"])
for words in ("--version", "recipes"):
    with suppress(SystemExit):
        main([words])
"""


def test_attar_runs_from_its_sources_without_metadata() -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", HIDDEN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:4] == [attar.__version__] * 4 and "fashion" in done.stdout


def test_the_distribution_is_made_with_the_version_that_the_package_says() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in settings["project"]["dynamic"] and "version" not in settings["project"]
    text = (ROOT / settings["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE) == [attar.__version__]


def test_the_installed_distribution_has_that_version() -> None:
    try:
        installed = importlib.metadata.version("attar")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("attar runs from its sources here: no distribution is installed")
    assert installed == attar.__version__


def test_no_room_asks_the_metadata_for_attars_version() -> None:
    asking = [path for path in (ROOT / "src").rglob("*.py") if 'version("attar")' in path.read_text(encoding="utf-8")]
    assert not asking
