"""What bf16 costs in accuracy: the same condensation in float32 and in bf16, several seeds, one evaluation protocol.

python -m benchmarks.precision --json benchmarks/results/cpu-precision.json

Pool and evaluation are in float32 on both sides. Every seed has a pool, initial images and draws of its own, shared by
the precisions. A cell (recipe, seed, precision) that is in the file already is not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

import attar
from attar import recipes, store
from attar.device import pick
from benchmarks import common

RECIPES = ("digits", "fashion-cpu")
PRECISIONS = ("float32", "bf16")


def cell(recipe: str, seed: int, precision: str, device: str, pools: Path, runs: int) -> dict[str, Any]:
    """One condensation and the accuracies of `runs` networks that were trained on it."""
    data = attar.load(recipes.named(recipe).data.dataset, device=device)
    pool = attar.pretrain(data, recipe=recipe, seed=100 * seed, folder=pools / recipe / str(seed))
    small = attar.condense(data, pool, recipe=recipe, seed=seed, precision=precision)
    measured = attar.evaluate(small, data, recipe=recipe, runs=runs, yardsticks=["none"])
    (entry,) = measured["accuracy"].values()
    return {"recipe": recipe, "seed": seed, "precision": precision, "runs": entry["runs"], "epochs": entry["epochs"]}


def table(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the condensation seeds, each the mean of its networks."""
    rows = []
    for recipe in RECIPES:
        for precision in PRECISIONS:
            own = [item for item in cells if (item["recipe"], item["precision"]) == (recipe, precision)]
            means = [statistics.mean(item["runs"]) for item in own]
            if means:
                std = statistics.stdev(means) if len(means) > 1 else None
                rows.append(
                    {
                        "recipe": recipe,
                        "precision": precision,
                        "mean": statistics.mean(means),
                        "std": std,
                        "n": len(own),
                    }
                )
    return rows


def main() -> None:
    """Compute what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pools", type=Path, default=Path("pool/precision"), help="where the models are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="networks per condensed set")
    parser.add_argument("--only", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument("--cells", type=int, default=None, help="stop after so many")
    arguments = parser.parse_args()
    cells = store.read_json(arguments.json)["cells"] if arguments.json.exists() else []
    known = {(item["recipe"], item["seed"], item["precision"]) for item in cells}
    wanted = list(itertools.product(arguments.only, range(arguments.seeds), PRECISIONS))
    for recipe, seed, precision in [item for item in wanted if item not in known][: arguments.cells]:
        cells.append(cell(recipe, seed, precision, arguments.device, arguments.pools, arguments.runs))
        result = common.machine(pick(arguments.device)) | {
            "what": "accuracy as a fraction; mean and std over condensation seeds of the mean over networks",
            "table": table(cells),
            "cells": cells,
            "command": "python -m benchmarks.precision " + " ".join(sys.argv[1:]),
        }
        common.publish(result, arguments.json)


if __name__ == "__main__":
    main()
