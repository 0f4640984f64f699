"""Publish a finished comparison: its results and figure into the project, its table into a page docs/results*.md.

    python -m benchmarks.publish runs/compared fashion-cpu-ipc10

It copies table.md, table.csv and, without settings that have no effect, results.jsonl to
benchmarks/results/compare-NAME/, and writes the table between `<!-- NAME -->` and `<!-- /NAME -->`, on the page that
has them. No row is typed by hand, and a test holds them to the files. Where the page shows NAME.png or links to
NAME.html, these are drawn from the results (`benchmarks.figures`).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from attar import files
from attar.comparison import run
from attar.comparison.plan import as_json
from attar.runs.progress import Progress
from attar.settings.config import CondenseConfig
from attar.settings.schema import known_settings
from benchmarks import figures

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("results*.md"))
RESULTS = "results.jsonl"
FILES = ("table.md", "table.csv", RESULTS)


def published(name: str) -> Path:
    """The folder of a published comparison."""
    return ROOT / "benchmarks" / "results" / f"compare-{name}"


def table(path: Path) -> str:
    """A table.md without its title: its rows and notes, without those notes that docs/results.md has for all."""
    shared = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    lines = path.read_text(encoding="utf-8").split("\n", 1)[1].strip().splitlines()
    return "\n".join(line for line in lines if not (line.startswith("- ") and line in shared))


def effective(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of a line without those of [condense] that have no effect with the others.

    Where a warm-up trains the network too, all stay.
    """
    known, condense = known_settings(CondenseConfig), sections["condense"]
    if condense["warmup"]:
        return sections
    without = [name for name in condense if (needs := known[name].needs) and condense[needs[0]] not in needs[1]]
    return sections | {"condense": {name: value for name, value in condense.items() if name not in without}}


def between(name: str) -> re.Pattern[str]:
    """Matches the text between the marks of a comparison on the page."""
    return re.compile(rf"(?<=<!-- {re.escape(name)} -->\n).*?(?=<!-- /{re.escape(name)} -->)", re.S)


def fault(folder: Path, name: str) -> str | None:
    """The reason why a comparison cannot be published under this name, or None."""
    path = ROOT / "benchmarks" / "compare" / f"{name}.toml"
    if not path.is_file():
        return f"there is no {path}"
    plan, _ = run.prepare(path, Progress())  # own data are read: their recipe fits them
    if not (folder / "comparison.json").is_file():
        return f"there is no comparison in {folder}"
    comparison, asked = files.read_json(folder / "comparison.json"), json.loads(json.dumps(as_json(plan)))
    if {key: comparison[key] for key in asked} != asked:
        return f"{folder} holds another comparison than {path}"
    if "Not complete" in table(folder / "table.md"):
        return f"{folder} is not complete"
    return None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `attar compare` wrote")
    parser.add_argument("name", help="of the spec in benchmarks/compare/")
    arguments = parser.parse_args()
    page = next((path for path in PAGES if between(arguments.name).search(path.read_text(encoding="utf-8"))), None)
    if page is None:
        parser.error(f"no page docs/results*.md has a place <!-- {arguments.name} --> … <!-- /{arguments.name} -->")
    text = page.read_text(encoding="utf-8")
    if why := fault(arguments.folder, arguments.name):
        parser.error(why)
    rows = f"\n{table(arguments.folder / 'table.md')}\n\n"
    target = published(arguments.name)
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copy(arguments.folder / file, target / file)
    lines = [json.loads(line) for line in (target / RESULTS).read_text(encoding="utf-8").splitlines()]
    lines = [line | {"settings": effective(line["settings"])} if "settings" in line else line for line in lines]
    compact = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    (target / RESULTS).write_text("".join(compact), encoding="utf-8")
    for file in figures.shown():
        if Path(file).stem == arguments.name:
            figures.draw(figures.DOCS / file)
    page.write_text(between(arguments.name).sub(lambda _: rows, text), encoding="utf-8")


if __name__ == "__main__":
    main()
