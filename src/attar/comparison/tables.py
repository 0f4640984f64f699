"""table.md and table.csv: one row per point and network. For people in %, in the CSV file as fractions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from attar.comparison.numbers import Mean, Row
from attar.comparison.paired import Lead
from attar.comparison.plan import ComparisonPlan
from attar.comparison.record import ResultLine
from attar.errors import counted
from attar.evaluation.attacks import PGD_STEP, PGD_STEPS
from attar.evaluation.protocol import WHOLE


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of the settings that any grid names, images per class first."""
    return list(rows[0].columns) if rows else ["ipc"]


def setting_texts(row: Row) -> list[str]:
    """The settings of a row as text, empty where its method does not take one."""
    return ["" if value is None else str(value) for value in row.columns.values()]


def to_csv(rows: Sequence[Row]) -> str:
    """All numbers of the rows, each in its own column, with all digits."""
    names = columns(rows)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    measured = ("accuracy", "learned", "initial", "random_real", "whole")
    besides = [name for name, _ in asked(rows)]
    every = (*measured, *(name.replace(" ", "_") for name in besides))
    head = [f"{name}_{part}" for name in every for part in ("mean", "std", "n")]
    last = (
        "ior",
        "hlr",
        "lead_mean",
        "lead_error",
        "lead_ahead",
        "lead_n",
        "lead_p",
        "seconds_median",
        "pretrain_s_median",
        "make_s_median",
        "steps",
        "runs_per_seed",
        "diverged",
    )
    table.writerow(["entry", "method", *names, "network", *head, *last])
    for row in rows:
        values = [_parts(getattr(row, name)) for name in measured] + [_parts(row.asked.get(name)) for name in besides]
        seconds = (row.seconds, row.pretrain, row.make)
        table.writerow(
            [
                *(row.entry, row.method, *row.columns.values(), row.network),
                *(part for parts in values for part in parts),
                *(row.ior, row.hlr, *_lead_parts(row.lead), *seconds, row.steps, row.runs, row.diverged),
            ]
        )
    return text.getvalue()


def _parts(value: Mean | None) -> tuple[Any, ...]:
    return (None, None, 0) if value is None else (value.mean, value.std, value.n)


def _lead_parts(value: Lead | None) -> tuple[Any, ...]:
    return (None,) * 5 if value is None else (value.mean, value.error, value.ahead, value.n, value.p)


def to_markdown(
    plan: ComparisonPlan, rows: Sequence[Row], lines: Sequence[ResultLine], hosts: Sequence[ResultLine], left: int
) -> str:
    """The table for people, with notes on how the numbers were measured. left: runs that are not finished yet."""
    table = text_columns(rows)
    table_lines = [_line(head for head, _ in table), _line("---" for _ in table)]
    table_lines += map(_line, zip(*(cells for _, cells in table), strict=True))
    return "\n".join([f"# {title(plan)}", "", *notes(plan, rows, lines, hosts, left), "", *table_lines, ""])


def text_columns(rows: Sequence[Row], *, short: bool = False) -> list[tuple[str, list[str]]]:
    """The columns of the table for people: the head of each, and a text for every row. None is empty in all rows.

    short: only what a narrow terminal has room for.
    """
    several = len({row.network for row in rows if row.network}) > 1
    texts = [setting_texts(row) for row in rows]
    columns_of = [
        ("entry", [row.entry for row in rows]),
        *((name, [text[at] for text in texts]) for at, name in enumerate(columns(rows))),
        *([("network", [row.network or "" for row in rows])] if several else []),
        ("accuracy", [spread(row.accuracy) for row in rows]),
        *column("as learned", [spread(row.learned) for row in rows]),
        ("n", [count(row) for row in rows]),
        *([("steps", [str(row.steps or "") for row in rows])] if unequal(rows) else []),
        ("seconds", [seconds(row.seconds) for row in rows]),
        ("of them pretraining", [seconds(row.pretrain) for row in rows]),
        *column("initial", [spread(row.initial) for row in rows]),
        *column("random real", [spread(row.random_real) for row in rows]),
        *asked(rows),
        *column("IOR", [points(row.ior) for row in rows]),
        *column("HLR", [points(row.hlr) for row in rows]),
        *column(f"{rows[0].entry} less this" if rows else "", [lead(row.lead) for row in rows]),
        *column("p", [chance(row.lead) for row in rows]),
    ]
    left_out = ("of them pretraining", "initial", "random real", "IOR", "HLR", "p", *(name for name, _ in asked(rows)))
    return [one for one in columns_of if not short or one[0] not in left_out]


def unequal(rows: Sequence[Row]) -> str:
    """In words that networks had more steps on some sets of an ipc than on others; empty where they had as many.

    Up to a whole epoch more is rounding: epochs at equal steps are the first that have as many.
    """
    of_ipc: dict[Any, list[tuple[int, int]]] = {}  # by ipc: steps, and steps of one epoch
    for row in rows:
        if row.steps and row.epochs:
            of_ipc.setdefault(row.columns.get("ipc"), []).append((row.steps, row.steps // row.epochs))
    if all(max(steps)[0] - max(steps)[1] < min(steps)[0] for steps in of_ipc.values()):
        return ""
    return "networks had fewer steps on smaller sets, which lowers their accuracy; equal_steps = true gives all as many"


def asked(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The columns of what the spec asks for besides, see `numbers.asked_for`."""
    names = dict.fromkeys(name for row in rows for name in row.asked)
    return [(name, [spread(row.asked.get(name)) for row in rows]) for name in names]


def column(head: str, cells: list[str]) -> list[tuple[str, list[str]]]:
    """A column, or none where no row has a value for it."""
    return [(head, cells)] if any(cells) else []


def title(plan: ComparisonPlan) -> str:
    """The data set and the entries."""
    entries = dict.fromkeys(point.entry for point in plan.points)
    return f"{plan.recipe.data.dataset}: {', '.join(entries)}"


def notes(
    plan: ComparisonPlan, rows: Sequence[Row], lines: Sequence[ResultLine], hosts: Sequence[ResultLine], left: int
) -> list[str]:
    """What the numbers of the table are, one note a line."""
    evaluation, seeds = plan.recipe.evaluate, len(plan.seeds)
    networks = ", ".join(dict.fromkeys(row.network for row in rows if row.network))
    epochs = sorted({entry["epochs"] for line in lines if "entry" in line for entry in line["accuracy"].values()})
    texts = [
        f"Accuracy of fresh networks ({networks}) on the {plan.tested_on}, after the last of "
        f"{' or '.join(map(str, epochs))} epochs, in %: mean ± standard deviation over n of {counted(seeds, 'seed')}, "
        f"each a set of its own and the mean of runs = {evaluation.runs}."
    ]
    whole = next((row.whole for row in rows if row.whole is not None), None)
    if whole is not None:
        entries = [entry for line in lines if line.get("yardstick") == WHOLE for entry in line["accuracy"].values()]
        epochs_whole = max(entry["epochs"] for entry in entries)
        texts.append(f"The whole training set, epochs {epochs_whole}: {spread(whole)} over n = {whole.n}.")
    if evaluation.plain:
        texts.append("Plain: trained without augmentation and CutMix.")
    if evaluation.attacks:
        attacked = f"{', '.join(evaluation.attacks)}: accuracy on {evaluation.attack_images} of the images or fewer"
        attacked += f", moved by the attack by up to {evaluation.attack_eps:g} of 255"
        if "pgd" in evaluation.attacks:
            attacked += f" (pgd: {PGD_STEPS} steps of {PGD_STEP * evaluation.attack_eps:g}, from a random start)"
        texts.append(f"{attacked}.")
    if fewer := unequal(rows):
        texts.append(f"Steps: of each network; {fewer}.")
    if any(row.ior is not None for row in rows):
        texts.append("IOR: accuracy less that of random real images at equal storage.")
    if any(row.hlr is not None for row in rows):
        texts.append("HLR: accuracy of the whole set less this one.")
    if any(row.lead for row in rows):
        texts.append(
            f"{rows[0].entry} less this: points by which the first entry is ahead, mean ± standard error over the "
            f"seeds of both, and on how many of them. p: two-sided paired t-test, with Holm's correction for all rows."
        )
    texts.append(
        "Seconds: the median over seeds of the early-stage models, where a method needs them, and of the condensation "
        "or choice, without the evaluation. Entries with the same early-stage models share them, and each is charged "
        "their full time."
    )
    texts.append(timing(hosts))
    if left:
        texts.append(f"Not complete: {counted(left, 'run')} missing; the same command goes on.")
    return [f"- {line}" for line in texts]


def timing(hosts: Sequence[ResultLine]) -> str:
    """On which machines the seconds were measured, and whether they can be compared."""
    words = f"Times: on {'; '.join(map(host, hosts))}."
    if len(hosts) > 1:
        words += " They are MIXED, from more than one machine, version or way to use it: compare accuracies, not times."
    if len({versions(one) for one in hosts}) > 1:
        words += " Versions are MIXED too: accuracies may differ for that reason alone."
    if any(one["jobs"] > (one.get("cores", 1) if one["device"] == "cpu" else 1) for one in hosts):
        words += " Runs that share a core or a GPU slow each other down: these times are NOT comparable."
    elif any(one["jobs"] > 1 for one in hosts):
        words += " No more runs than cores, all on one memory: compare times in this table, not with other tables."
    return words


def host(values: ResultLine) -> str:
    """A machine, and how it was used, in words."""
    at_once = "one run at a time" if values["jobs"] == 1 else f"{values['jobs']} runs at once"
    threads = counted(values["threads"], "thread")
    return f"{values['processor']} ({values['device']}, {threads}, {at_once}{versions(values)})"


def versions(values: ResultLine) -> str:
    """The versions of the software, such as `, attar 1.0, torch 2.9`; empty where they were not recorded."""
    return "".join(f", {name} {number}" for name, number in values.get("versions", {}).items())


def lead(value: Lead | None) -> str:
    """Such as `+1.3 ± 0.4 (9 of 10)`, in points."""
    if value is None:
        return ""
    error = "" if value.error is None else f" ± {100 * value.error:.1f}"
    return f"{points(value.mean)}{error} ({value.ahead} of {value.n})"


def chance(value: Lead | None) -> str:
    """The p of a lead, such as `0.012`, and `< 0.001`; empty where it has none."""
    if value is None or value.p is None:
        return ""
    return "< 0.001" if value.p < 0.001 else f"{value.p:.3f}" if value.p < 0.1 else f"{value.p:.2f}"


def spread(value: Mean | None) -> str:
    """Such as `93.5 ± 0.4`, in %."""
    if value is None:
        return ""
    return f"{100 * value.mean:.1f}" + ("" if value.std is None else f" ± {100 * value.std:.1f}")


def points(value: float | None) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return "" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def seconds(value: float | None) -> str:
    """Three significant digits."""
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def count(row: Row) -> str:
    """The number of seeds of a mean, and of those that diverged."""
    n = row.accuracy.n if row.accuracy is not None else 0
    return f"{n}" + (f" ({row.diverged} diverged)" if row.diverged else "")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
