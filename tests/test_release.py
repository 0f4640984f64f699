"""What is handed out: the sdist and the wheel hold what they must, and no more. `make release` tries the wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import attar

ROOT = Path(__file__).parents[1]
NAME = f"attar-{attar.__version__}"
RAW = tuple(f"benchmarks/results/{name}" for name in ("tuning/", "own-data/", "psi.jsonl"))  # which no test reads
LEFT_OUT = (".ci/", *RAW)  # of what git knows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tarfile.TarFile, zipfile.ZipFile]]:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    with tarfile.open(folder / f"{NAME}.tar.gz") as sdist, zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        yield sdist, wheel


def known() -> set[str]:
    """The files that git knows, or would."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("these sources are no git repository")
    return {name for name in said.splitlines() if (ROOT / name).is_file()}


def test_the_sdist_has_the_sources_their_tests_and_docs(made: tuple[tarfile.TarFile, zipfile.ZipFile]) -> None:
    held = {item.name.removeprefix(f"{NAME}/") for item in made[0].getmembers() if item.isfile()}
    assert held == {name for name in known() if not name.startswith(LEFT_OUT)} | {"PKG-INFO"}
    assert {"LICENSE", "CHANGELOG.md", "src/attar/py.typed", "tests/test_release.py", "docs/index.md"} <= held
    assert Path(str(made[0].name)).stat().st_size < 2_000_000


def test_the_wheel_has_the_package_and_nothing_else(made: tuple[tarfile.TarFile, zipfile.ZipFile]) -> None:
    held, about = set(made[1].namelist()), f"{NAME}.dist-info"
    package = {name.removeprefix("src/") for name in known() if name.startswith("src/attar/")}
    assert held == package | {f"{about}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "RECORD")} | {
        f"{about}/licenses/LICENSE"
    }
    assert {"attar/report/templates/comparison.html.j2", "attar/report/templates/report.css"} <= held
    assert "attar = attar.__main__:main" in made[1].read(f"{about}/entry_points.txt").decode()


def test_the_metadata_are_complete(made: tuple[tarfile.TarFile, zipfile.ZipFile]) -> None:
    """As an index asks for them: both files say the same, and the description is README's text."""
    file = made[0].extractfile(f"{NAME}/PKG-INFO")
    assert file is not None
    said: list[Message] = [
        Parser().parsestr(text.decode()) for text in (file.read(), made[1].read(f"{NAME}.dist-info/METADATA"))
    ]
    assert said[0].items() == said[1].items()
    one = said[0]
    assert (one["Name"], one["Version"], one["License-Expression"]) == ("attar", attar.__version__, "MIT")
    assert one["Requires-Python"] == ">=3.11" and one["Description-Content-Type"] == "text/markdown"
    assert one.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert one["Summary"] and len(one["Summary"]) < 512
    assert {"compare", "hf", "ray", "timm"} <= set(one.get_all("Provides-Extra", []))


def test_the_changelog_and_the_citation_tell_of_this_version() -> None:
    log, citation = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    line = next(line for line in log.splitlines() if line.startswith("## "))
    version, _, date = line.removeprefix("## ").partition(" - ")
    assert version == f"[{attar.__version__}]" and f"version: {attar.__version__}\n" in citation
    assert f"date-released: {date}\n" in citation
