"""Adding a setting touches one place: with one more line in `CondenseConfig`, all of attar knows the setting."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ANCHOR = "    def __post_init__(self) -> None:\n"
NAMES = {"images": "sparkle", "speed": "glitter", "length": "shine"}  # of the settings that are added, by their role
LINE = '    {name}: float = setting(1.0, "how much the images {name}", role="{role}")\n\n'


@pytest.fixture(scope="module")
def uses_of_all(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened where the added settings were used in a copy of attar, by name."""
    copy = tmp_path_factory.mktemp("added")
    shutil.copytree(ROOT / "src" / "attar", copy / "src" / "attar", ignore=shutil.ignore_patterns("__pycache__"))
    config = copy / "src" / "attar" / "settings" / "condense_config.py"
    text = config.read_text(encoding="utf-8")
    assert text.count(ANCHOR) == 1
    added = "".join(LINE.format(name=name, role=role) for role, name in NAMES.items())
    config.write_text(text.replace(ANCHOR, added + ANCHOR), encoding="utf-8")
    (copy / "work").mkdir()
    script = ROOT / "tests" / "helpers" / "added_setting.py"
    process = subprocess.run(
        [sys.executable, script, ROOT / "docs" / "generate.py", *NAMES.values()],
        cwd=copy / "work",
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    seen: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    assert all(Path(uses["package"]).is_relative_to(copy) for uses in seen.values())
    return seen


@pytest.fixture(params=NAMES)
def role_and_uses(request: pytest.FixtureRequest, uses_of_all: dict[str, Any]) -> tuple[str, Any]:
    """The role of an added setting, and what happened where it was used."""
    return request.param, uses_of_all[NAMES[request.param]]


def test_flags_recipes_and_documentation_list_it(role_and_uses: tuple[str, Any]) -> None:
    role, uses = role_and_uses
    name = NAMES[role]
    assert f"--{name}" in uses["help"]["output"] and f"how much the images {name}" in uses["help"]["output"]
    assert uses["recipe file"] == 3.0
    assert f"\n{name} = 1.0\n" in uses["recipes"]["output"]
    rows = [line for line in uses["documentation"].splitlines() if line.startswith(f"| `--{name}` ")]
    assert rows == [f"| `--{name}` | `1.0` | how much the images {name} |"]


def test_a_comparison_takes_it(role_and_uses: tuple[str, Any]) -> None:
    role, uses = role_and_uses
    assert uses["comparison"] == [{"ipc": 1, NAMES[role]: 1.0}, {"ipc": 1, NAMES[role]: 2.0}]


def test_its_role_decides_whether_a_resumed_run_may_have_another_value(role_and_uses: tuple[str, Any]) -> None:
    role, uses = role_and_uses
    assert uses["begun"]["status"] == 0, uses["begun"]["errors"]
    fixed = role == "images"
    assert uses["resumed"]["status"] == uses["resumed by name"]["status"] == (2 if fixed else 0), uses["resumed"]
    assert uses["config"] == (1.0 if fixed else 2.0)
    if fixed:
        assert "holds a run with sparkle 1.0, and 2.0 is asked for" in uses["resumed"]["errors"]
        assert "--sparkle cannot change what a run was begun with" in uses["resumed by name"]["errors"]


def test_its_role_decides_whether_parts_may_differ_in_it(role_and_uses: tuple[str, Any]) -> None:
    role, uses = role_and_uses
    assert uses["part 0"]["status"] == uses["part 1"]["status"] == 0
    if role == "speed":
        assert uses["merged"]["status"] == 0, uses["merged"]["errors"]
    else:
        assert uses["merged"]["status"] == 2
        assert f"part1 does not fit part0: [condense] {NAMES[role]} is 2.0, not 1.0" in uses["merged"]["errors"]
