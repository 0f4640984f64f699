"""Find settings by successive halving on held-out images of several data sets, with one budget for every family.

    python -m benchmarks.search benchmarks/searches/best-ipc1.toml OUT --jobs 2

A round runs every candidate that is left on every data set by `attar compare`, on seeds of its own. The better half of
each family, by the mean accuracy over data sets and all seeds so far, goes into the next round. Stopped, the same
command goes on.

The file has `rounds`, the seeds of each round; [shared], what all comparisons share, with `holdout`; a [data.NAME] for
each data set, with its keys of a comparison and its outer iterations `niter`; and a [[candidate]] each with `family`,
`name`, `niter_share` (its part of the data set's iterations, so that all take about equal time; 1 where not given, a
table where it differs from one data set to the next) and its settings.
Families have equally many candidates: nobody gets more tries.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

OWN_KEYS = ("family", "name", "niter_share")  # of a candidate; the others are its settings


def as_toml(shared: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """A comparison's file: plain values, then tables, then an [[entry]] each. A JSON value is a TOML value here."""
    tables = {key: value for key, value in shared.items() if isinstance(value, dict)}
    blocks = [("", {key: value for key, value in shared.items() if key not in tables})]
    blocks += [(f"[{name}]", table) for name, table in tables.items()] + [("[[entry]]", entry) for entry in entries]
    return "\n\n".join(
        "\n".join([head, *(f"{k} = {json.dumps(v)}" for k, v in table.items())]) for head, table in blocks
    )


def comparison(search: dict[str, Any], data: str, candidates: list[dict[str, Any]], seeds: list[int]) -> str:
    """The file of one round on one data set."""
    own = dict(search["data"][data])
    niter = own.pop("niter")

    def share(candidate: dict[str, Any]) -> float:
        shares = candidate.get("niter_share", 1)
        return shares[data] if isinstance(shares, dict) else shares

    entries = [
        {"name": candidate["name"], "niter": max(1, round(niter * share(candidate)))}
        | {key: value for key, value in candidate.items() if key not in OWN_KEYS}
        for candidate in candidates
    ]
    return as_toml(search["shared"] | own | {"seeds": seeds}, entries)


def better_half(candidates: list[dict[str, Any]], score: dict[str, float]) -> list[dict[str, Any]]:
    """Of each family the half, rounded up, with the higher score, best first."""
    left = []
    for family in dict.fromkeys(candidate["family"] for candidate in candidates):
        ranked = sorted((c for c in candidates if c["family"] == family), key=lambda c: -score[c["name"]])
        left += ranked[: -(-len(ranked) // 2)]
    return left


def check(search: dict[str, Any]) -> None:
    """Raise `SystemExit` for a search that would favour a family, choose by test images, or meet one seed twice."""
    names = [candidate["name"] for candidate in search["candidate"]]
    families = [candidate["family"] for candidate in search["candidate"]]
    seeds = [seed for seeds in search["rounds"] for seed in seeds]
    if len({families.count(family) for family in families}) != 1:
        raise SystemExit("every family needs equally many candidates")
    if len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise SystemExit("names of candidates and seeds of rounds must differ")
    if not search["shared"].get("holdout"):
        raise SystemExit("[shared] needs holdout: settings are never chosen by test images")


def accuracies(folder: Path) -> dict[str, tuple[float, int]]:
    """Mean accuracy of each entry of a comparison, and the number of its seeds that did not diverge."""
    with (folder / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["entry"]: (float(row["accuracy_mean"] or 0), int(row["accuracy_n"] or 0)) for row in rows}


def main(arguments: list[str] | None = None) -> None:
    """Run the rounds and print what is left after each; OUT/search.json has every reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", default="1")
    args = parser.parse_args(arguments)
    search = tomllib.loads(args.file.read_text(encoding="utf-8"))
    check(search)
    candidates, readings, rounds = list(search["candidate"]), {}, []
    for number, seeds in enumerate(search["rounds"], 1):
        for data in search["data"]:
            folder = args.out / f"round-{number}" / data
            folder.parent.mkdir(parents=True, exist_ok=True)
            spec = folder.with_suffix(".toml")
            spec.write_text(comparison(search, data, candidates, seeds), encoding="utf-8")
            command = [sys.executable, "-m", "attar", "compare", str(spec), "--jobs", args.jobs, "--out", str(folder)]
            subprocess.run(command, check=True)
            for name, (mean, count) in accuracies(folder).items():
                diverged = [0.0] * (len(seeds) - count)  # such a run counts as one that knows nothing
                readings.setdefault(name, {}).setdefault(data, []).extend([mean] * count + diverged)
        score = {c["name"]: statistics.mean(map(statistics.mean, readings[c["name"]].values())) for c in candidates}
        left = better_half(candidates, score)
        rounds.append({"seeds": seeds, "score": score, "left": [candidate["name"] for candidate in left]})
        for candidate in sorted(candidates, key=lambda c: (c["family"], -score[c["name"]])):
            reading = f"{100 * score[candidate['name']]:.2f} %  {'goes on' if candidate in left else ''}"
            print(f"round {number}  {candidate['family']:8} {candidate['name']:32} {reading}")
        candidates = left
    (args.out / "search.json").write_text(
        json.dumps({"rounds": rounds, "readings": readings}, indent=2), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
