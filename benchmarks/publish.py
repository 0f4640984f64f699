"""Publish a finished comparison: its results and figure into the project, its rows into docs/results.md.

    python -m benchmarks.publish runs/compared fashion-cpu-ipc1

copies table.md, table.csv and results.jsonl to benchmarks/results/compare-NAME/ and the figure to docs/NAME.png, and
writes the table between `<!-- NAME -->` and `<!-- /NAME -->`. No row is typed by hand; a test holds them to the CSV.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
NAMES = {"niter": "outer iterations"}  # how a setting is called in a heading


def published(name: str) -> Path:
    """The folder of a published comparison."""
    return ROOT / "benchmarks" / "results" / f"compare-{name}"


def table(path: Path) -> str:
    """The rows of a table.csv as Markdown: fractions, mean ± standard deviation over n seeds, median seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    varied = columns[columns.index("ipc") + 1 : columns.index("network")]  # the settings in which points differ
    names = ["entry", *(NAMES.get(key, key) for key in varied)]
    names += ["accuracy", "n", "seconds", "of them early-stage models", "IOR", "HLR"]
    return "\n".join([line(names), line(["---"] * len(names)), *(line(cells(row, varied)) for row in rows)])


def line(values: list[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(values)} |"


def cells(row: dict[str, str], varied: list[str]) -> list[str]:
    """The values of a row; what does not apply stays empty."""
    spread = f" ± {float(row['accuracy_std']):.3f}" if row["accuracy_std"] else ""
    gains = [row[key] and f"{float(row[key]):.3f}" for key in ("ior", "hlr")]
    seconds = [row[key] and f"{float(row[key]):.0f}" for key in ("seconds_median", "pretrain_s_median")]
    accuracy = f"{float(row['accuracy_mean']):.3f}{spread}"
    return [row["entry"], *(row[key] for key in varied), accuracy, row["accuracy_n"], *seconds, *gains]


def between(name: str) -> re.Pattern[str]:
    """What stands between the marks of a comparison."""
    return re.compile(rf"(?<=<!-- {re.escape(name)} -->\n\n).*?(?=\n\n<!-- /{re.escape(name)} -->)", re.S)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `attar compare` wrote")
    parser.add_argument("name", help="of the spec in benchmarks/compare/")
    chosen = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    if not between(chosen.name).search(text):
        parser.error(f"{PAGE} has no place <!-- {chosen.name} --> … <!-- /{chosen.name} -->")
    target = published(chosen.name)
    target.mkdir(parents=True, exist_ok=True)
    for file in ("table.md", "table.csv", "results.jsonl"):
        shutil.copy(chosen.folder / file, target / file)
    shutil.copy(chosen.folder / "accuracy-vs-time.png", ROOT / "docs" / f"{chosen.name}.png")
    rows = table(target / "table.csv")
    PAGE.write_text(between(chosen.name).sub(lambda _: rows, text), encoding="utf-8")


if __name__ == "__main__":
    main()
