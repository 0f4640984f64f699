"""The contents of result.json and config.json as texts for the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attar.errors import counted, size_in_words
from attar.evaluation import results
from attar.evaluation.protocol import MEASURED
from attar.settings.config import SECTIONS, with_role

MAX_CONFUSION = 20  # classes of a confusion matrix on the page


def title(result: Mapping[str, Any]) -> str:
    """The data set, and its images per class."""
    ipc = result.get("ipc")
    return f"{result.get('dataset', 'condensed set')}" + (f": {counted(ipc, 'image')} per class" if ipc else "")


def duration(seconds: float, exact: bool = True) -> str:
    """7.25 -> "7.2 s", 452.1 -> "7 min 32 s (452.1 s)"; not `exact`: "7 min 32 s"."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes, rest = int(seconds) // 3600, int(seconds) % 3600 // 60, int(seconds) % 60
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return f"{words} ({seconds:.1f} s)" if exact else words


def sizes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """("60,000 images", "47 MB") of the real data and of the stored set; empty where they are not known."""
    by_set = result.get("sizes", {})
    if not {"real", "stored"} <= by_set.keys():
        return []
    return [
        (counted(images, "image"), size_in_words(size))
        for images, size in ((by_set[key]["images"], by_set[key]["bytes"]) for key in ("real", "stored"))
    ]


def headline(result: Mapping[str, Any]) -> dict[str, str]:
    """The accuracy of the first network by kind of training set; empty texts where it was not measured."""
    network = next(iter(result.get("accuracy") or {}), None)
    entries = {key: (result.get(key) or {}).get(network) for key in MEASURED}
    return {key: percent(entry) if entry else "" for key, entry in entries.items()}


def percent(entry: Mapping[str, Any]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{results.spread(entry)} %"


def measured(result: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The part of `MEASURED` for which the result has accuracies."""
    return {key: words for key, words in MEASURED.items() if result.get(key)}


def table(result: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(network, its rows: one for each kind of training set)."""
    networks = dict.fromkeys(network for key in measured(result) for network in result[key])
    return [(network, list(_rows(result, network))) for network in networks]


def _rows(result: Mapping[str, Any], network: str) -> Iterable[dict[str, Any]]:
    condensed = result.get("accuracy", {}).get(network)
    for key in measured(result):
        entry = result[key].get(network)
        if not entry:
            continue
        gain = 100 * (condensed["mean"] - entry["mean"]) if condensed and key != "accuracy" else None
        runs = entry.get("runs", [])
        yield {
            "key": key,
            "name": MEASURED[key][0],
            "accuracy": percent(entry),
            "bar": round(max(0.0, min(100.0, 100 * entry["mean"])), 1),
            "gain": "" if gain is None else f"{gain:+.1f}".replace("-", "−"),
            "images": "" if entry.get("images") is None else f"{entry['images']:,}",
            "n": entry.get("n", len(runs)),
            "runs": [f"{100 * run:.1f}" for run in runs],
        }


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """What is said of each network below the table, see `results.lines`."""
    lines: list[str] = []
    for network in result.get("accuracy") or {}:
        lines += results.lines(result, network)
    return lines


def by_class(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy by class of the first network and what a class is taken for; None where it is not known.

    classes: name, accuracy of the condensed and of the whole set, the wrong class that is predicted most often.
    confusion: by true class the share of each predicted class, of the condensed set; empty for many classes.
    """
    network = next(iter(result.get("accuracy") or {}), None)
    entries = {kind: (result.get(results.BY_CLASS, {}).get(kind) or {}).get(network) for kind in ("accuracy", "whole")}
    own, whole = entries["accuracy"], entries["whole"] or {"accuracy": {}}
    if not own:
        return None
    names, counts = list(own["accuracy"]), own.get("confusion", [])
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    rows = []
    for k, (name, accuracy) in enumerate(own["accuracy"].items()):
        wrong = [0.0 if k == c else share for c, share in enumerate(shares[k])] if shares else [0.0]
        most = max(range(len(wrong)), key=wrong.__getitem__)
        rows.append(
            {
                "name": name,
                "accuracy": _share(accuracy),
                "bar": round(100 * (accuracy or 0), 1),
                "whole": _share(whole["accuracy"].get(name)),
                "wrong": f"{names[most]} ({_share(wrong[most])})" if wrong[most] else "",
            }
        )
    few = shares if len(names) <= MAX_CONFUSION else []
    confusion = [[(round(100 * share), round(share, 2)) for share in row] for row in few]
    return {"network": network, "classes": rows, "confusion": list(zip(names, confusion, strict=False))}


def _share(value: float | None) -> str:
    """A fraction in percent; empty where there is none."""
    return "" if value is None else f"{100 * value:.1f} %"


def groups(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """(section, its [(dotted name, text, whether it differs from `usual`)]); settings outside any section come first,
    under an empty name."""
    top_level = [(name, _text(value), False) for name, value in settings.items() if not isinstance(value, Mapping)]
    sections = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            before = dict(_flat(usual.get(name, {}), ""))
            sections.append((name, [(key, text, before.get(key, text) != text) for key, text in _flat(value, "")]))
    return [group for group in (("", top_level), *sections) if group[1]]


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{setting: its value in each recipe} where recipes differ in it, of the settings that all recipes have.

    The data set's name and settings of this machine are left out. An empty recipe has "not recorded" for a value.
    """
    hidden = {f"{name}.{key}" for name in SECTIONS for key in with_role(name, "place", "speed")} | {"data.dataset"}
    made = [dict(_flat({name: one[name] for name in SECTIONS if name in one}, "")) for one in recipes]
    shared = [key for key in max(made, key=len, default={}) if all(key in one for one in made if one)]
    names = [key for key in shared if key not in hidden and len({one[key] for one in made if one}) > 1]
    return {key: [one.get(key, "not recorded") for one in made] for key in names}


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    """A value as in a recipe file, but text without quotes."""
    if isinstance(value, str):
        return value or '""'
    return "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)
