"""The rows of a table from the lines of results: mean and standard deviation over condensation seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attar.comparison.paired import Lead, leads
from attar.comparison.plan import ComparisonPlan, Point, value_of
from attar.comparison.record import ResultLine
from attar.evaluation import protocol
from attar.evaluation.protocol import LEARNED, MEASURED, PLAIN, RANDOM, RANDOM_PLAIN, WHOLE


@dataclass(frozen=True)
class Mean:
    """The mean and the sample standard deviation of n values; a single value has none."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One point, tested with one network. Accuracies are fractions."""

    entry: str
    method: str
    settings: dict[str, Any]  # the values of the entry's own grid
    columns: dict[str, Any]  # the values of all settings that any grid names
    network: str
    accuracy: Mean | None  # over condensation seeds, each the mean of its runs; None where every seed diverged
    runs: int  # networks per seed
    diverged: int  # seeds with numbers that became infinite
    initial: Mean | None  # of the sets before they were optimised
    random_real: Mean | None  # of random real images at equal storage
    whole: Mean | None  # of the whole training set, over runs
    learned: Mean | None  # with the learning rate and the labels that were learned with the images
    seconds: float | None  # the median over seeds of `pretrain` and `make` together
    pretrain: float | None  # the median of the early-stage models
    make: float | None  # the median of the condensation or selection
    asked: dict[str, Mean] = field(default_factory=dict)  # what the spec asks for besides, see `asked_for`
    by_seed: dict[int, float] = field(default_factory=dict)  # the accuracy of each condensation seed
    lead: Lead | None = None  # of the first entry over this row, see `with_leads`
    random_epochs: int | None = None  # on random real images: as many steps as on the sets
    epochs: int | None = None  # of each network on the sets
    steps: int | None = None  # that these epochs are

    @property
    def ior(self) -> float | None:
        """Improvement over random real images at equal storage, a fraction."""
        return difference(self.accuracy, self.random_real)

    @property
    def hlr(self) -> float | None:
        """Hard-label recovery: the accuracy of the whole training set less this one, a fraction."""
        return difference(self.whole, self.accuracy)


def difference(more: Mean | None, less: Mean | None) -> float | None:
    """The difference of two means; None where one is missing."""
    return None if more is None or less is None else more.mean - less.mean


def mean(values: Sequence[float]) -> Mean | None:
    """The mean of the values; None of no values."""
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def rows(plan: ComparisonPlan, lines: Iterable[ResultLine]) -> list[Row]:
    """One row per point of the plan and network, in the order of the spec. Points without a line are left out."""
    by_cell = {line["cell"]: line for line in lines}
    columns = dict.fromkeys(name for point in plan.points for name in point.settings)
    table = []
    for point in plan.points:
        names = [point.cell(seed).name for seed in plan.seeds]
        of_point = [by_cell[name] for name in names if name in by_cell]
        networks = dict.fromkeys(network for line in of_point for network in line["accuracy"])
        values = {name: value_of(point, name) for name in columns}
        for network in networks or ("",) if of_point else ():
            table.append(_row(plan, point, values, network, of_point, list(by_cell.values())))
    return with_leads(table)


def with_leads(table: Sequence[Row]) -> list[Row]:
    """The rows with the lead over each that the first entry has, where one row alone has its network and ipc."""
    reference: dict[tuple[str, Any], list[Row]] = {}
    for row in table:
        if row.entry == table[0].entry and row.accuracy is not None:
            reference.setdefault((row.network, row.columns.get("ipc")), []).append(row)
    others = [at for at, row in enumerate(table) if row.entry != table[0].entry]
    held = {at: reference.get((table[at].network, table[at].columns.get("ipc")), []) for at in others}
    paired = [at for at in others if len(held[at]) == 1]
    found = zip(paired, leads([(held[at][0].by_seed, table[at].by_seed) for at in paired]), strict=True)
    by_row = dict(found)
    return [replace(row, lead=by_row.get(at)) for at, row in enumerate(table)]


def _row(
    plan: ComparisonPlan,
    point: Point,
    columns: dict[str, Any],
    network: str,
    of_point: list[ResultLine],
    lines: list[ResultLine],
) -> Row:
    measured = [line for line in of_point if network in line["accuracy"]]
    trained = [line["accuracy"][network] for line in measured]
    ipc = point.recipe.condense.ipc

    def yardstick(name: str, **properties: Any) -> list[Mapping[str, Any]]:
        of_kind = [line for line in lines if line.get("yardstick") == name]
        fitting = [line for line in of_kind if all(line[key] == value for key, value in properties.items())]
        return [line["accuracy"][network] for line in fitting if network in line["accuracy"]]

    batch = plan.recipe.evaluate.batch_size

    def as_long(entry: Mapping[str, Any]) -> bool:
        """Whether random real images were trained on for as many steps as the sets of this row."""
        equal = protocol.epochs_at_equal_steps
        return entry["epochs"] in (equal(own["epochs"], own["images"], entry["images"], batch) for own in trained)

    random = list(filter(as_long, yardstick(RANDOM, ipc=ipc)))
    whole = longest(yardstick(WHOLE))
    initial = [line["initial"][network]["mean"] for line in measured if network in line.get("initial", {})]
    return Row(
        entry=point.entry,
        method=point.method,
        settings=point.settings,
        columns=columns,
        network=network,
        accuracy=mean([line["accuracy"][network]["mean"] for line in measured]),
        runs=plan.recipe.evaluate.runs,
        diverged=sum(bool(line.get("diverged")) for line in of_point),
        initial=mean(initial),
        random_real=mean([entry["mean"] for entry in random]),
        whole=mean([accuracy for entry in whole for accuracy in entry["runs"]]),
        learned=mean([line[LEARNED][network]["mean"] for line in measured if network in line.get(LEARNED, {})]),
        seconds=_median([sum(made_in(line)) for line in measured]),
        pretrain=_median([made_in(line)[0] for line in measured]),
        make=_median([made_in(line)[1] for line in measured]),
        asked=asked_for(plan.recipe.evaluate.attacks, measured, random, network),
        by_seed={line["seed"]: line["accuracy"][network]["mean"] for line in measured},
        random_epochs=random[0]["epochs"] if random else None,
        epochs=trained[0]["epochs"] if trained else None,
        steps=protocol.steps(trained[0]["epochs"], trained[0]["images"], batch) if trained else None,
    )


def longest(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The networks of most epochs. A comparison to which larger sets were added holds others, trained for fewer."""
    return [entry for entry in entries if entry["epochs"] == max(other["epochs"] for other in entries)]


def asked_for(
    attacks: Sequence[str], measured: Sequence[ResultLine], random: Sequence[Mapping[str, Any]], network: str
) -> dict[str, Mean]:
    """Accuracies of the sets and of random real images without augmentation ("plain", "random plain") and under each
    attack ("fgsm", "random fgsm", …), in this order; without those that were not measured."""
    values = {
        MEASURED[kind][0]: [line[kind][network]["mean"] for line in measured if network in line.get(kind, {})]
        for kind in (PLAIN, RANDOM_PLAIN)
    }
    for attack in attacks:
        for name, entries in ((attack, [line["accuracy"][network] for line in measured]), (f"random {attack}", random)):
            under = [entry["attacked"] for entry in entries if "attacked" in entry]
            values[name] = [one[attack]["mean"] for one in under if attack in one]
    return {name: found for name, numbers in values.items() if (found := mean(numbers)) is not None}


def made_in(line: ResultLine) -> tuple[float, float]:
    """(seconds of the early-stage models, seconds of the condensation or selection) of a set."""
    seconds = line["seconds"]
    return seconds.get("pretrain", 0.0), seconds["condense"] if "condense" in seconds else seconds["select"]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
