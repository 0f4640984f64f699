"""Draw the figures of docs/ again, from the committed results of their comparisons.

    python -m benchmarks.figures                  # all that a page shows
    python -m benchmarks.figures fashion-cpu-figure

Where a page docs/results*.md shows NAME.png or links to NAME.html, that file is made anew from
benchmarks/compare/NAME.toml and benchmarks/results/compare-NAME/results.jsonl: nothing is computed again.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import tomllib
from pathlib import Path

from PIL import Image

from attar.comparison import figure, numbers, page, spec
from attar.comparison.numbers import Row
from attar.comparison.plan import ComparisonPlan

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def shown() -> list[str]:
    """The files NAME.png and NAME.html of comparisons that the pages of results have, in their order."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("results*.md")))
    names = re.findall(r"\]\(([\w-]+\.(?:png|html))\)", text)
    return [name for name in names if (ROOT / "benchmarks" / "compare" / f"{Path(name).stem}.toml").is_file()]


def committed(name: str) -> tuple[ComparisonPlan, list[Row]]:
    """The plan of a published comparison, and the rows of its table."""
    plan = spec.resolve(tomllib.loads((ROOT / "benchmarks" / "compare" / f"{name}.toml").read_text(encoding="utf-8")))
    path = ROOT / "benchmarks" / "results" / f"compare-{name}" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return plan, numbers.rows(plan, lines)


def draw(target: Path) -> None:
    """Write a figure or its page to `target`, whose name without its suffix is that of the comparison."""
    plan, rows = committed(target.stem)
    if target.suffix == ".html":
        page.write(target, plan, rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        figure.write([Path(folder) / "figure.png"], plan, rows)
        with Image.open(Path(folder) / "figure.png") as image:  # of few colours: a third of its size
            image.convert("RGB").quantize(256).save(target, optimize=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of comparisons; all by default")
    names = parser.parse_args().names
    found = [file for file in shown() if not names or Path(file).stem in names]
    if missing := {*names} - {Path(file).stem for file in found}:
        parser.error(f"no page docs/results*.md shows a figure of {', '.join(sorted(missing))}")
    for file in found:
        draw(DOCS / file)
        print(DOCS / file)


if __name__ == "__main__":
    main()
