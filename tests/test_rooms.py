"""The house: a room of attar imports only from the rooms above it, and no module imports itself by way of another."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attar"
# A room may import from those before it, and from itself.
ORDER = [
    "errors",
    "files",
    "signals",
    "settings",
    "engine",
    "data",
    "models",
    "training",
    "sets",
    "selection",
    "condensation",
    "evaluation",
    "runs",
    "report",
    "stages",
    "comparison",
    "cli",
    "__init__",
    "__main__",
]
# Rooms that `attar --help` reads: what takes long to import stays out of their top level.
LIGHT = {"errors", "signals", "settings", "cli", "__init__", "__main__"}
HEAVY = {"torch", "sklearn", "scipy", "safetensors", "jinja2"}
# Optional packages, each imported in one place.
PLACES = {"ray": ("stages", "cluster"), "matplotlib": ("comparison", "figure")}

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
    names = {name for name in names if name != ("attar", "__version__")}  # it belongs to no room
    actual = {(name[1] if len(name) > 1 and name[1] in ORDER else "__init__") for name in names if name[0] == "attar"}
    return actual - {own}


def test_every_room_is_in_the_list() -> None:
    assert {module_of(path)[0] for path in FILES} == set(ORDER)


def test_the_page_of_the_house_names_every_module() -> None:
    """docs/architecture.md, at the room; those of the method in its table too."""
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    house = page.partition("## How a use runs")[0]
    parts = re.split(r"^  (\w+)/ ", house, flags=re.MULTILINE)
    said = {room: set(re.findall(r"\w+", text)) for room, text in zip(parts[1::2], parts[2::2], strict=True)}
    said["condensation"] |= set(re.findall(r"\w+", page.partition("## One inner iteration")[2]))
    for path in FILES:
        room, *names = module_of(path)
        if len(names) == 1 and names != ["__init__"]:
            assert names[0] in said[room], f"{room}/{names[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_up_the_list(path: Path) -> None:
    """At the top, inside functions and for the type checker alike."""
    module = module_of(path)
    allowed = ORDER[: ORDER.index(module[0])]
    if module[0] == "__init__":  # the public names, of all rooms
        allowed = ORDER
    wrong = rooms(imported(path.read_text(encoding="utf-8"), module), module[0]) - set(allowed)
    assert not wrong, f"{module[0]} may not import {sorted(wrong)}"


def test_no_module_imports_itself_by_way_of_another() -> None:
    modules = {(*module_of(path),): path for path in FILES}
    modules = {(name[:-1] if name[-1] == "__init__" else name): path for name, path in modules.items()}
    arrows: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for name, path in modules.items():
        actual = {other[1:] for other in imported(path.read_text("utf-8"), name, top_level=True) if other[0] == "attar"}
        arrows[name] = {other if other in modules else other[:-1] for other in actual} - {()}
    done: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        assert name not in above, " → ".join(".".join(step) for step in (*above[above.index(name) :], name))
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(modules):
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_optional_and_heavy_packages_stay_where_they_belong(path: Path) -> None:
    module, source = module_of(path), path.read_text(encoding="utf-8")
    packages = {name[0] for name in imported(source, module)}
    assert "torchvision" not in packages, "its wheels do not load on CPU builds of torch"
    for package, place in PLACES.items():
        assert package not in packages or module == place, f"only {'/'.join(place)}.py imports {package}"
    if module[0] in LIGHT:
        heavy = {name[0] for name in imported(source, module, top_level=True)} & HEAVY
        assert not heavy, f"import {sorted(heavy)} inside the function that uses it"


def test_the_command_line_starts_without_torch() -> None:
    """Not even by way of another room."""
    light = "import sys, attar, attar.cli.parser, attar.cli.commands, attar.settings.layers"
    code = f"{light}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (
            ("sets", "decode"),
            "from ..errors import UserError\nfrom .. import files, models",
            {"errors", "files", "models"},
        ),
        (("sets",), "import attar.condensation.loop as c", {"condensation"}),
        (("sets",), "from attar.condensation.loop import step", {"condensation"}),
        (("sets",), "def late():\n    from .cli import main", {"cli"}),
        (("sets",), "if TYPE_CHECKING:\n    from .evaluation import Report", {"evaluation"}),
        (("sets",), "from attar import load", {"__init__"}),
        (("sets",), "from . import load", {"__init__"}),
        (("sets",), "import attar", {"__init__"}),
        (("sets",), "cli = importlib.import_module('.cli', 'attar')", {"cli"}),
        (("data", "__init__"), "from .sources import read\nfrom ..errors import choose", {"errors"}),
        (("data", "sources"), "from ..models.convnet import ConvNet\nfrom .image_data import ImageData", {"models"}),
        (("sets",), "import torch, json\nfrom torch import nn", set()),
    ],
)
def test_the_reader_sees_every_kind_of_import(module: tuple[str, ...], source: str, expected: set[str]) -> None:
    assert rooms(imported(source, module), module[0]) == expected


def test_the_reader_knows_the_top_level() -> None:
    source = "try:\n  import torch\nfinally: pass\ndef f():\n  import ray\nif typing.TYPE_CHECKING:\n  import scipy"
    assert imported(source, ("cli",), top_level=True) == {("torch",)}
    assert imported(source, ("cli",)) == {("torch",), ("ray",), ("scipy",)}
