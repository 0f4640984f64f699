"""Imports point down only. A new room fails here until it has its line in the table."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attar"

LEAVES = {"config", "recipes", "data", "augment", "models", "training", "perturb", "synthetic", "matching"}
LEAVES |= {"methods", "motion", "frequencies"}
LEAVES |= {
    "own",
    "selection",
    "partition",
    "device",
    "execution",
    "interrupts",
    "lock",
    "snapshots",
    "sinks",
    "version",
}
MIDDLE = {
    "loop",
    "pool",
    "embedding",
    "engine",
    "store",
    "checkpoint",
    "export",
    "foreign",
    "push",
    "report",
    "page",
    "runlog",
}
STAGES = {"condensation", "evaluation", "coresets"}  # `problem` and `state` are condensation's own: what it works on
TOP = {"commands", "cli", "__init__", "__main__"}
BELOW_STAGES = {"errors"} | LEAVES | MIDDLE

# room -> the other rooms it may import
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    **{room: {"errors"} for room in LEAVES},
    **{room: {"errors"} | LEAVES for room in MIDDLE},
    **dict.fromkeys(STAGES | {"problem", "state", "origins"}, BELOW_STAGES),  # and so never each other
    "schedule": BELOW_STAGES | {"condensation", "problem"},
    "session": BELOW_STAGES | STAGES | {"state"},
    "ray_runner": BELOW_STAGES | STAGES | {"session"},
    "api": BELOW_STAGES | STAGES | {"ray_runner", "problem", "schedule", "session"},
    "verbs": BELOW_STAGES | STAGES | {"ray_runner", "problem", "schedule", "session", "api"},
    "comparison": BELOW_STAGES | {"coresets"},
    **dict.fromkeys(TOP, BELOW_STAGES | STAGES | {"ray_runner", "api", "verbs"} | TOP),
}
ALLOWED["verbs"] = ALLOWED["verbs"] | {"comparison", "state"}
ALLOWED["state"] = ALLOWED["state"] | {"problem"}
ALLOWED["condensation"] = ALLOWED["condensation"] | {"problem", "state", "origins"}
ALLOWED["data"] = ALLOWED["data"] | {"device"}  # as many threads as there are cores
ALLOWED["own"] = ALLOWED["own"] | {"config"}
ALLOWED["methods"] = ALLOWED["methods"] | {"config"}
ALLOWED["frequencies"] = ALLOWED["frequencies"] | {"training"}
ALLOWED["recipes"] = ALLOWED["recipes"] | {"config", "own", "methods"}
ALLOWED["synthetic"] = ALLOWED["synthetic"] | {"augment", "config"}  # its loader augments
ALLOWED["partition"] = ALLOWED["partition"] | {"synthetic"}
ALLOWED["push"] = ALLOWED["push"] | {"export"}
ALLOWED["foreign"] = ALLOWED["foreign"] | {"store", "export"}
ALLOWED["page"] = ALLOWED["page"] | {"report"}
for _room in ("pool", "checkpoint", "runlog", "export", "report", "page"):
    ALLOWED[_room] = ALLOWED[_room] | {"store"}
ALLOWED["runlog"] = ALLOWED["runlog"] | {"checkpoint"}
ALLOWED["pool"] = ALLOWED["pool"] | {"loop"}
# a signal that ends the compiler is no failure of it; precision is a matter of the device's switches
ALLOWED["execution"] = ALLOWED["execution"] | {"interrupts", "device"}

# Rooms that `attar --help` reads: what takes long to import stays out of their top level.
LIGHT = TOP | {"errors", "config", "own", "recipes", "methods"}
HEAVY = {"torch", "sklearn", "scipy", "safetensors", "jinja2"}

FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """The dotted name below `attar`, a package's own file as ("data", "__init__")."""
    return path.relative_to(SOURCE).with_suffix("").parts


def nodes(tree: ast.Module, *, top_level: bool) -> Iterator[ast.AST]:
    """All nodes; with `top_level` only those that run when the module is imported."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if top_level and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def imported(source: str, module: tuple[str, ...], *, top_level: bool = False) -> set[tuple[str, ...]]:
    """Absolute dotted names that `source`, being attar's module `module`, imports, as tuples of their parts."""
    names: set[tuple[str, ...]] = set()
    for node in nodes(ast.parse(source), top_level=top_level):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ("attar", *module)[: -node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names |= {(*base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if isinstance(text, str):  # a relative name is taken from attar's own folder
                names.add((*(("attar",) if text.startswith(".") else ()), *text.lstrip(".").split(".")))
    return names


def rooms(names: set[tuple[str, ...]], own: str) -> set[str]:
    """The rooms of attar among `names`, without `own`; a name that is no room comes from attar's `__init__`."""
    found = {(name[1] if len(name) > 1 and name[1] in ALLOWED else "__init__") for name in names if name[0] == "attar"}
    return found - {own}


def test_the_table_has_every_room() -> None:
    """A room that is not in the table is in no tier."""
    unknown = {module_of(path)[0] for path in FILES} - set(ALLOWED)
    assert not unknown, f"give {sorted(unknown)} a tier in tests/test_tiers.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    """At the top, inside functions and for the type checker alike."""
    module = module_of(path)
    upwards = rooms(imported(path.read_text(encoding="utf-8"), module), module[0]) - ALLOWED.get(module[0], set())
    assert not upwards, f"{module[0]} may not import {sorted(upwards)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_optional_and_heavy_packages_stay_where_they_belong(path: Path) -> None:
    module, source = module_of(path), path.read_text(encoding="utf-8")
    packages = {name[0] for name in imported(source, module)}
    assert "torchvision" not in packages, "its wheels do not load on CPU builds of torch"
    assert "ray" not in packages or module[0] == "ray_runner", "only ray_runner imports ray"
    assert "matplotlib" not in packages or module == ("comparison", "figure"), "only the figure imports matplotlib"
    if module[0] in LIGHT:
        heavy = {name[0] for name in imported(source, module, top_level=True)} & HEAVY
        assert not heavy, f"import {sorted(heavy)} inside the function that uses it"


def test_the_command_line_starts_without_torch() -> None:
    """Not even by way of another room."""
    code = f"import sys, attar, attar.cli, attar.config, attar.recipes; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (("pool",), "from .errors import UserError\nfrom . import store, models", {"errors", "store", "models"}),
        (("pool",), "import attar.condensation as c", {"condensation"}),
        (("pool",), "from attar.condensation import step", {"condensation"}),
        (("pool",), "def late():\n    from .cli import main", {"cli"}),
        (("pool",), "if TYPE_CHECKING:\n    from .evaluation import Report", {"evaluation"}),
        (("pool",), "from attar import load", {"__init__"}),
        (("pool",), "from . import load", {"__init__"}),
        (("pool",), "import attar", {"__init__"}),
        (("pool",), "cli = importlib.import_module('.cli', 'attar')", {"cli"}),
        (("data", "__init__"), "from .sources import read\nfrom ..errors import choose", {"errors"}),
        (("data", "sources"), "from ..models.convnet import ConvNet\nfrom .image_data import ImageData", {"models"}),
        (("pool",), "import torch, json\nfrom torch import nn", set()),
    ],
)
def test_the_reader_sees_every_kind_of_import(module: tuple[str, ...], source: str, expected: set[str]) -> None:
    assert rooms(imported(source, module), module[0]) == expected


def test_the_reader_knows_the_top_level() -> None:
    source = "try:\n  import torch\nfinally: pass\ndef f():\n  import ray\nif typing.TYPE_CHECKING:\n  import scipy"
    assert imported(source, ("cli",), top_level=True) == {("torch",)}
    assert imported(source, ("cli",)) == {("torch",), ("ray",), ("scipy",)}
