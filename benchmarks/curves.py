"""Accuracy on the way: networks trained on the snapshots that the runs of a comparison left.

    python -m benchmarks.curves benchmarks/compare/speedup-cpu.toml OUT NAME

A run folder has the images at eleven moments, in 8 bits, where they are small enough not to be shrunk. Each is
evaluated as the comparison does, with the same networks for all. A point's seconds are those of the early-stage models
and of the run until then. Points go to benchmarks/results/curves-NAME.jsonl, the picture to docs/NAME-curves.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from attar.comparison import record, run
from attar.comparison.plan import ComparisonPlan
from attar.data.images import ImageData
from attar.evaluation.measure import evaluate
from attar.runs.progress import Progress
from attar.runs.run_folder import RunFolder
from attar.sets.set_files import load_set
from attar.settings.schema import replace as with_settings

ROOT = Path(__file__).parents[1]
MARKERS = "osD^v<>"


def points(plan: ComparisonPlan, data: ImageData, out: Path) -> Iterator[dict[str, Any]]:
    """A line for each moment of each run: {"cell", "seed", "iterations", "seconds", "accuracy": {network: …}}."""
    lines = (out / record.RESULTS_FILE).read_text(encoding="utf-8").splitlines()
    pretrain = {line["cell"]: line["seconds"].get("pretrain", 0.0) for line in map(json.loads, lines)}
    for cell in (cell for cell in plan.cells if cell.name in pretrain):
        path = out / record.CELLS_FOLDER / cell.folder
        folder, condensed = RunFolder(path), load_set(path)
        seconds = {event["outer"]: event["seconds"] for event in folder.events() if event["event"] == "step"}
        labels, moments = folder.snapshots()
        if not moments or moments[0][1].shape != condensed.images.shape:
            raise SystemExit(f"{path} has no snapshots of all its images at their own size")
        assert labels.equal(condensed.labels)
        protocol = with_settings(cell.recipe.evaluate, {"yardsticks": ()})
        for iterations, pixels in moments:
            images = replace(condensed, images=pixels.float() / 255)
            measured = evaluate(images, data, protocol, cell.recipe.network)
            spent = pretrain[cell.name] + (seconds[iterations] if iterations else 0.0)
            of_run = {"cell": cell.name, "seed": cell.seed}
            yield of_run | {"iterations": iterations, "seconds": spent, "accuracy": measured["accuracy"]}


def draw(path: Path, lines: list[dict[str, Any]]) -> None:
    """Accuracy against outer iterations and seconds, a line for each run; later seeds of an entry are dashed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    cells = dict.fromkeys(line["cell"] for line in lines)
    points = list(dict.fromkeys(cell.rpartition(" seed ")[0] for cell in cells))
    seeds = list(dict.fromkeys(line["seed"] for line in lines))
    for panel, key, label in zip(panels, ("iterations", "seconds"), ("outer iterations", "seconds"), strict=True):
        for cell in cells:
            of_run = [line for line in lines if line["cell"] == cell]
            heights = [100 * next(iter(line["accuracy"].values()))["mean"] for line in of_run]
            point, first = points.index(cell.rpartition(" seed ")[0]), of_run[0]["seed"] == seeds[0]
            panel.plot(
                [line[key] for line in of_run],
                heights,
                color=f"C{point}",
                linestyle="-" if first else "--",
                marker=MARKERS[point % len(MARKERS)],
                markersize=4,
                linewidth=1,
                label=points[point] if first else None,
            )
        panel.set_xscale("symlog", linthresh=1 if key == "iterations" else 10)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path, help="what `attar compare` wrote")
    parser.add_argument("name")
    arguments = parser.parse_args()
    plan, data = run.prepare(arguments.spec, Progress())
    lines = []
    for line in points(plan, data, arguments.out):
        mean = 100 * next(iter(line["accuracy"].values()))["mean"]
        print(
            f"{line['cell']}: {line['iterations']} outer iterations, {line['seconds']:.0f} s, {mean:.1f} %", flush=True
        )
        lines.append(line)
    compact = (json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (ROOT / "benchmarks" / "results" / f"curves-{arguments.name}.jsonl").write_text("".join(compact), encoding="utf-8")
    draw(ROOT / "docs" / f"{arguments.name}-curves.png", lines)


if __name__ == "__main__":
    main()
