"""Several runs on one page: a table, and the training images of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar import files
from attar.evaluation import results
from attar.report import numbers, page
from attar.sets.decode import decoded_count
from attar.sets.pictures import class_numbers
from attar.sets.synthetic import SyntheticSet

IMAGES = 4  # of a class that are shown of each run
PIXELS, BYTES = 1_500_000, 1_600_000  # of all runs together
MAX_RUNS, MAX_CLASSES = 12, 100


@dataclass(frozen=True)
class OneOfMany:
    """A run as the page shows it."""

    name: str
    condensed: SyntheticSet
    result: Mapping[str, Any]  # as in result.json; accuracies may be missing


def write(path: str | Path, runs: Sequence[OneOfMany]) -> None:
    """Write one HTML file with all runs, `MAX_RUNS` at most."""
    rows, columns = [], []
    for k, run in enumerate(runs):
        head = numbers.headline(run.result)
        seconds = {key: value for key, value in run.result.get("seconds", {}).items() if key != "evaluate"}
        rows.append(
            {
                "name": run.name,
                "title": numbers.title(run.result),
                "method": run.result.get("method", ""),
                "network": next(iter(run.result.get("accuracy") or {}), ""),
                "sets": head,
                "verdicts": numbers.verdicts(run.result),
                "protocol": results.protocol_words(run.result),
                "tested_on": run.result.get("tested_on", ""),
                "seconds": numbers.duration(sum(seconds.values()), exact=False),
            }
        )
        columns.append({"name": run.name, "accuracy": head["accuracy"], "view": _images(k, run.condensed, len(runs))})
    settings = numbers.differing([run.condensed.recipe for run in runs])
    text = page.render("side_by_side.html.j2", rows=rows, columns=columns, settings=settings, most_classes=MAX_CLASSES)
    files.atomically(Path(path), lambda name: name.write_text(text, encoding="utf-8", errors="backslashreplace"))


def _images(number: int, condensed: SyntheticSet, runs: int) -> dict[str, Any]:
    """The first training images of each class."""
    index = torch.from_numpy(class_numbers(condensed.labels, condensed.nclass))
    stored = {label: condensed.images[index == label] for label in index.unique().tolist()[:MAX_CLASSES]}
    counts = {
        label: min(IMAGES, decoded_count(len(images), condensed.factor, condensed.decode_type))
        for label, images in stored.items()
    }

    def decoded(label: int) -> Tensor:
        return page.first_decoded(stored[label], condensed.factor, condensed.decode_type)[:IMAGES].clamp(0, 1)

    return page.gallery(f"run{number}", condensed, counts, decoded, PIXELS // runs, BYTES // runs)
