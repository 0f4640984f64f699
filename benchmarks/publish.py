"""Publish a finished comparison: its results and figure into the project, its table into docs/results.md.

    python -m benchmarks.publish runs/compared fashion-cpu-ipc1

copies table.md, table.csv and results.jsonl to benchmarks/results/compare-NAME/ and writes the table between
`<!-- NAME -->` and `<!-- /NAME -->`. No row is typed by hand, and a test holds them to the files. Where the page shows
NAME.png, the figure becomes docs/NAME.png.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tomllib
from pathlib import Path

from attar import files
from attar.comparison import spec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
FILES = ("table.md", "table.csv", "results.jsonl")


def published(name: str) -> Path:
    """The folder of a published comparison."""
    return ROOT / "benchmarks" / "results" / f"compare-{name}"


def table(path: Path) -> str:
    """What stands in a table.md below its title: what the numbers are, and the rows."""
    return path.read_text(encoding="utf-8").split("\n", 1)[1].strip()


def between(name: str) -> re.Pattern[str]:
    """What stands between the marks of a comparison."""
    return re.compile(rf"(?<=<!-- {re.escape(name)} -->\n).*?(?=<!-- /{re.escape(name)} -->)", re.S)


def fault(folder: Path, name: str) -> str | None:
    """Why a comparison cannot be published under this name."""
    path = ROOT / "benchmarks" / "compare" / f"{name}.toml"
    if not path.is_file():
        return f"there is no {path}"
    plan = json.loads(json.dumps(spec.plain(spec.resolve(tomllib.loads(path.read_text(encoding="utf-8"))))))
    if not (folder / "comparison.json").is_file():
        return f"there is no comparison in {folder}"
    begun = files.read_json(folder / "comparison.json")
    if {key: begun[key] for key in plan} != plan:
        return f"{folder} holds another comparison than {path}"
    if "Not complete" in table(folder / "table.md"):
        return f"{folder} is not complete"
    return None


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `attar compare` wrote")
    parser.add_argument("name", help="of the spec in benchmarks/compare/")
    chosen = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    if why := fault(chosen.folder, chosen.name):
        parser.error(why)
    rows = f"\n{table(chosen.folder / 'table.md')}\n\n"
    changed, places = between(chosen.name).subn(lambda _: rows, text)
    if not places:
        parser.error(f"{PAGE} has no place <!-- {chosen.name} --> … <!-- /{chosen.name} -->")
    target = published(chosen.name)
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copy(chosen.folder / file, target / file)
    if f"]({chosen.name}.png)" in text:
        shutil.copy(chosen.folder / "accuracy-vs-time.png", ROOT / "docs" / f"{chosen.name}.png")
    PAGE.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
