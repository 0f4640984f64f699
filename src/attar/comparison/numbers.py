"""From lines of results to the rows of a table: mean and standard deviation over condensation seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.comparison.record import Line
from attar.comparison.spec import ComparisonPlan, Point, value_of
from attar.evaluation.protocol import RANDOM, SOFT, WHOLE


@dataclass(frozen=True)
class Mean:
    """Of n values; the sample standard deviation, None of a single value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One point, tested with one network. Accuracies are fractions."""

    entry: str
    method: str
    settings: dict[str, Any]  # what its grid says, which names it
    columns: dict[str, Any]  # what it has for every setting that any grid names
    network: str
    accuracy: Mean | None  # over condensation seeds, each the mean of its runs; None: no seed came to an end
    runs: int  # networks per seed
    diverged: int  # seeds whose numbers did not stay finite
    initial: Mean | None  # the same set before it was optimised
    random_real: Mean | None  # as many real images, drawn at random
    whole: Mean | None  # the whole training set, over runs
    soft: Mean | None  # of networks trained on a teacher's labels
    seconds: float | None  # early-stage models and what follows, condensation or choice: the median over seeds
    pretrain: float | None
    make: float | None

    @property
    def ior(self) -> float | None:
        """Improvement over random real images at equal storage, a fraction."""
        return difference(self.accuracy, self.random_real)

    @property
    def hlr(self) -> float | None:
        """Hard-label recovery: what is missing to the whole training set, a fraction."""
        return difference(self.whole, self.accuracy)


def difference(more: Mean | None, less: Mean | None) -> float | None:
    """Of two means, where both are known."""
    return None if more is None or less is None else more.mean - less.mean


def mean(values: Sequence[float]) -> Mean | None:
    """None of nothing."""
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def rows(plan: ComparisonPlan, lines: Iterable[Line]) -> list[Row]:
    """One row per point of the plan and network, in the order of the spec; points without a line are left out."""
    done = {line["cell"]: line for line in lines}
    names = dict.fromkeys(key for point in plan.points for key in point.settings)
    found = []
    for point in plan.points:
        own = [done[cell.name] for cell in (point.cell(seed) for seed in plan.seeds) if cell.name in done]
        networks = dict.fromkeys(name for line in own for name in line["accuracy"])
        columns = {name: value_of(point, name) for name in names}
        for network in networks or ("",) if own else ():
            found.append(_row(plan, point, columns, network, own, list(done.values())))
    return found


def _row(
    plan: ComparisonPlan, point: Point, columns: dict[str, Any], network: str, own: list[Line], lines: list[Line]
) -> Row:
    measured = [line for line in own if network in line["accuracy"]]
    epochs = {line["accuracy"][network]["epochs"] for line in measured}
    ipc = point.recipe.condense.ipc

    def yardstick(name: str, **wanted: Any) -> list[Mapping[str, Any]]:
        fitting = [line for line in lines if line.get("yardstick") == name]
        fitting = [line for line in fitting if all(line[key] == value for key, value in wanted.items())]
        return [line["accuracy"][network] for line in fitting if network in line["accuracy"]]

    random = [entry["mean"] for entry in yardstick(RANDOM, ipc=ipc) if entry["epochs"] in epochs]
    whole = [right for entry in yardstick(WHOLE) for right in entry["runs"]]
    initial = [line["initial"][network]["mean"] for line in measured if network in line.get("initial", {})]
    return Row(
        entry=point.entry,
        method=point.method,
        settings=point.settings,
        columns=columns,
        network=network,
        accuracy=mean([line["accuracy"][network]["mean"] for line in measured]),
        runs=plan.recipe.evaluate.runs,
        diverged=sum(bool(line.get("diverged")) for line in own),
        initial=mean(initial),
        random_real=mean(random),
        whole=mean(whole),
        soft=mean([line[SOFT][network]["mean"] for line in measured if network in line.get(SOFT, {})]),
        seconds=_median([sum(made_in(line)) for line in measured]),
        pretrain=_median([made_in(line)[0] for line in measured]),
        make=_median([made_in(line)[1] for line in measured]),
    )


def made_in(line: Line) -> tuple[float, float]:
    """The seconds that a set took: its early-stage models, and its condensation or choice; not its evaluation."""
    seconds = line["seconds"]
    return seconds.get("pretrain", 0.0), seconds["condense"] if "condense" in seconds else seconds["select"]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
