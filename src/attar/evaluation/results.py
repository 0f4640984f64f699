"""What an evaluation says: differences with their standard errors in words, results by class, a table."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attar.errors import UserError, choose, counted
from attar.evaluation import attacks
from attar.evaluation.protocol import CONDENSED, INITIAL, MEASURED, PLAIN, RANDOM, RANDOM_SOFT, SOFT, WHOLE
from attar.settings.choices import ATTACK_NAMES

BY_CLASS = "by_class"  # key of result.json
MAX_CONFUSION_CLASSES = 100  # of a confusion matrix in result.json
STANDARD_ERRORS = 2.0  # a smaller difference is none
SMALLEST = 0.0005  # a smaller one is shown as 0.0 %
# What the condensed set is compared with: what is said where it is better, the same, worse
WORDS = {
    INITIAL: ("a gain from optimising", "no gain from optimising", "optimising made it worse"),
    RANDOM: ("better than random real", "no better than random real", "worse than random real"),
}

# {kind: {network: [the predicted class of each test image, for each run]}}
Predictions = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]


class Difference(NamedTuple):
    """A difference of two mean accuracies, a fraction."""

    value: float
    error: float | None  # standard error; None where one of the means is of a single run

    @property
    def sign(self) -> int:
        """1 or -1, and 0 where the difference is within `STANDARD_ERRORS` of none."""
        margin = max(SMALLEST, STANDARD_ERRORS * (self.error or 0))
        return (self.value >= margin) - (self.value <= -margin)

    def __str__(self) -> str:
        spread = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{100 * self.value:+.1f}".replace("-", "−") + spread


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    """The mean of one entry of result.json less that of another."""
    variances = [entry["std"] ** 2 / entry["n"] for entry in (one, other) if entry.get("std") is not None]
    return Difference(one["mean"] - other["mean"], math.sqrt(sum(variances)) if len(variances) == 2 else None)


def verdict(result: Mapping[str, Any], network: str) -> str:
    """What the optimisation brought, in percentage points ± standard error and in words; empty without yardsticks.

    result: as result.json. The whole set is compared only where it is a yardstick, see `caveat`.
    """
    own = result[CONDENSED][network]
    parts = []
    for kind, words in WORDS.items():
        if network in result.get(kind, {}):
            gap = difference(own, result[kind][network])
            said = "" if gap.error is None else f" ({words[1 - gap.sign]})"
            parts.append(f"condensed − {MEASURED[kind][0]} {gap}{said}")
    if network in result.get(RANDOM_SOFT, {}):
        gap = difference(result[SOFT][network], result[RANDOM_SOFT][network])
        parts.append(f"with the teacher's labels condensed − random real {gap}")
    if network in result.get(WHOLE, {}) and not _is_below(result, network):
        parts.append(f"whole set − condensed {difference(result[WHOLE][network], own)}")
    single = "; one run each is too few for a verdict: --runs 3" if parts and own.get("n") == 1 else ""
    return "; ".join(parts) + single


def caveat(result: Mapping[str, Any], network: str) -> str:
    """That the whole set was trained too briefly to compare with, or nothing."""
    if below := _is_below(result, network):
        whole = result[WHOLE][network]
        return (
            f"the whole set is no yardstick here: {100 * whole['mean']:.1f} % "
            f"after {counted(whole['epochs'], 'epoch')} ({counted(_steps(result, whole), 'step')}) is below {below}; "
            f"--whole_epochs {2 * whole['epochs']} trains it longer"
        )
    return ""


def attacked(result: Mapping[str, Any], network: str) -> str:
    """Accuracies under attack by training set, in percent, and the strength; empty where none was measured."""
    measured = {kind: entry for kind in MEASURED if "attacked" in (entry := result.get(kind, {}).get(network, {}))}
    if not measured:
        return ""
    about = next(iter(measured.values()))["attacked"]
    by_attack = []
    for name in ATTACK_NAMES:
        sets = [
            f"{MEASURED[kind][0]} {spread(one['attacked'][name])}"
            for kind, one in measured.items()
            if name in one["attacked"]
        ]
        by_attack += [f"{name.upper()} {', '.join(sets)}"] if sets else []
    levels = attacks.LEVELS * about["eps"]
    strength = f"eps {levels:.3g}/{attacks.LEVELS}, {counted(about['images'], 'test image')}"
    if any("pgd" in one["attacked"] for one in measured.values()):
        strength += f"; pgd: {attacks.PGD_STEPS} steps of {attacks.PGD_STEP * levels:.3g}/{attacks.LEVELS}"
    return f"under attack ({strength}): {'; '.join(by_attack)}"


def drop(result: Mapping[str, Any], network: str) -> str:
    """How much less a network reaches than the one that made the set, in points; empty for that one itself."""
    falls = result.get("drop", {})
    own = next((name for name in result[CONDENSED] if name not in falls), None)
    if network not in falls or own is None:
        return ""
    gaps = [
        f"{MEASURED[kind][0]} {difference(result[kind][network], result[kind][own])}"
        for kind in MEASURED
        if {own, network} <= result.get(kind, {}).keys()
    ]
    return f"against {own}, which made the set: {', '.join(gaps)}"


def lines(result: Mapping[str, Any], network: str) -> list[str]:
    """All that is said of a network below the table: the verdict, the drop, attacks, what is no yardstick."""
    said = (part(result, network) for part in (verdict, drop, attacked, caveat))
    return [f"{network}: {line}" for line in said if line]


def protocol_words(result: Mapping[str, Any]) -> str:
    """How the networks of a result were trained: all that decides an accuracy. Empty where that is not known."""
    how = result.get("protocol")
    if not how:
        return ""
    lengths = []
    for kind, (name, _) in MEASURED.items():
        for entry in [one for one in result.get(kind, {}).values() if {"epochs", "images"} <= one.keys()][:1]:
            rate = f", learning rate {entry['lr']:.3g}" if entry.get("lr") else ""
            epochs, images = counted(entry["epochs"], "epoch"), counted(entry["images"], "image")
            lengths.append(f"{name} {epochs} of {images} ({counted(_steps(result, entry), 'step')}{rate})")
    entries = [one for kind in MEASURED for one in result.get(kind, {}).values() if "seed" in one]
    seeds = [f"n = {n} (seeds from {seed} on)" for seed, n in sorted({(one["seed"], one["n"]) for one in entries})]
    about = "; ".join(filter(None, ("accuracy after the last epoch", " and ".join(seeds), ", ".join(lengths))))
    plain = " (plain: without both)" if result.get(PLAIN) else ""
    space = ", whitened images (ZCA)" if how.get("space") == "zca" else ""
    precision = "".join(f", {name}" for name in sorted({one["precision"] for one in entries}))
    return (
        f"{about}; SGD, learning rate {how['lr']:g}, a fifth of it after 2/3 and again after 5/6 of the epochs, "
        f"momentum {how['momentum']:g}, weight decay {how['weight_decay']:g}, batches of {how['batch_size']}; "
        f"augmentation {how['aug_type']}, CutMix {how['mix_p']:g}{plain}; width {how['width']:g}, "
        f"norm {how['norm_type']}{precision}{space}"
    )


def _is_below(result: Mapping[str, Any], network: str) -> str:
    """Which set the whole set is below, in words; empty where it is above all or was not measured."""
    whole = result.get(WHOLE, {}).get(network)
    for kind in (CONDENSED, RANDOM):
        entry = result.get(kind, {}).get(network)
        if whole and entry and whole["mean"] < entry["mean"]:
            return f"{MEASURED[kind][0]} ({100 * entry['mean']:.1f} %)"
    return ""


def _steps(result: Mapping[str, Any], entry: Mapping[str, Any]) -> int:
    """How many steps the networks of an entry were trained for."""
    steps: int = entry["epochs"] * -(-entry["images"] // result["protocol"]["batch_size"])
    return steps


def spread(entry: Mapping[str, Any]) -> str:
    """Mean ± standard deviation in percent."""
    return f"{100 * entry['mean']:.1f}" + ("" if entry.get("std") is None else f" ± {100 * entry['std']:.1f}")


def by_class(predictions: Predictions, labels: Tensor, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{kind: {network: accuracy by class (null without test images) and confusion counts}}, all runs together.

    labels: the true classes of the test images, int64 [M].
    """
    by_kind: dict[str, dict[str, Any]] = {}
    for kind, networks in predictions.items():
        for network, runs in networks.items():
            counts = confusion(runs, labels, len(classes))
            right, all_of = counts.diagonal().tolist(), counts.sum(dim=1).tolist()
            shares = [a / b if b else None for a, b in zip(right, all_of, strict=True)]
            entry: dict[str, Any] = {"accuracy": dict(zip(classes, shares, strict=True))}
            if len(classes) <= MAX_CONFUSION_CLASSES:
                entry["confusion"] = counts.tolist()
            by_kind.setdefault(kind, {})[network] = entry
    return by_kind


def confusion(runs: Sequence[Sequence[int]], labels: Tensor, nclass: int) -> Tensor:
    """Test images by true class (row) and predicted class (column), int64 [C, C], over all runs."""
    cells = torch.tensor(runs) + nclass * labels.cpu()
    return torch.bincount(cells.flatten(), minlength=nclass**2).view(nclass, nclass)


class Evaluation(Mapping[str, Any]):
    """The result of `attar.evaluate`: printed a table, in a notebook too; as a mapping the content of result.json.

    Networks and kinds of training sets have the names of result.json: `convnet3`; `accuracy` (the condensed set),
    `initial`, `random_real`, `whole`, `soft_labels`. Without a name the first network of this evaluation is meant.
    What was not measured raises `UserError`.

    Attributes:
        measured: the accuracies of this evaluation alone; result.json may hold earlier ones of other networks too.

    Example:
        result.mean(), result.mean(kind="random_real")
        result["accuracy"]["convnet2"]["std"]
    """

    def __init__(self, result: dict[str, Any], measured: dict[str, Any], predictions: Predictions, labels: Tensor):
        self._result, self.measured, self._predictions, self._labels = result, measured, predictions, labels

    @property
    def _first(self) -> str:
        return next(iter(self.measured[CONDENSED]))

    def __getitem__(self, key: str) -> Any:
        return self._result[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def to_dict(self) -> dict[str, Any]:
        """The content of result.json."""
        return self._result

    def mean(self, network: str | None = None, kind: str = CONDENSED) -> float:
        """The mean accuracy over the runs, a fraction."""
        mean: float = self._entry(self._result, network, kind)["mean"]
        return mean

    def per_class(self, network: str | None = None, kind: str = CONDENSED) -> dict[str, float | None]:
        """{class: the share of its test images that are classified right}; None for a class without test images."""
        shares: dict[str, float | None] = self._entry(self._result.get(BY_CLASS, {}), network, kind)["accuracy"]
        return shares

    def confusion(self, network: str | None = None, kind: str = CONDENSED) -> Tensor:
        """Counts of test images, int64 [true class, predicted class], over the runs of this evaluation."""
        nclass = len(self.per_class(network, kind))
        return confusion(self._entry(self._predictions, network, kind), self._labels, nclass)

    def predictions(self, network: str | None = None, kind: str = CONDENSED) -> Tensor:
        """The predicted class of each test image, int64 [runs, M], of this evaluation."""
        return torch.tensor(self._entry(self._predictions, network, kind))

    def verdict(self, network: str | None = None) -> str:
        """What the optimisation brought, in points ± standard error and in words; empty without yardsticks."""
        return verdict(self._result, network or self._first)

    def _entry(self, of: Mapping[str, Any], network: str | None, kind: str) -> Any:
        networks = of.get(choose("kind of training set", kind, MEASURED), {})
        if not networks:
            raise UserError(f"nothing was measured for {kind}; there is {', '.join(k for k in MEASURED if of.get(k))}")
        return networks[choose("network", network or self._first, networks)]

    def _lines(self) -> tuple[str, list[list[str]], list[str]]:
        """The title, the rows of the table with its head, and the lines below it."""
        shown = {key: entries for key, entries in self._result.items() if key in MEASURED and entries}
        kinds, networks = [key for key in MEASURED if key in shown], list(shown[CONDENSED])
        head = ["network", *(MEASURED[kind][0] for kind in kinds)]
        rows = [[name, *(spread(shown[k][name]) if name in shown[k] else "" for k in kinds)] for name in networks]
        below = []
        for name in networks:
            below += lines(self._result, name)
        below.append(protocol_words(self._result))
        about = f"{self['dataset']}, {self['ipc']} per class, factor {self['factor']}"
        return f"{about}: accuracy on {self['tested_on']}, %", [head, *rows], below

    def __repr__(self) -> str:
        title, rows, below = self._lines()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([title, *table, *below])

    def _repr_html_(self) -> str:
        title, rows, below = self._lines()
        table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in below)
        return f"<div>{html.escape(title)}</div><table>{table}</table>{lines}"
