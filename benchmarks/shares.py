"""Is a total of stored images better shared over the classes by need, or by size, than equally? On core-sets, held out.

    python -m benchmarks.shares OUT.jsonl --seeds 5

Herding on Fashion-MNIST, balanced and with a long tail (the last class has a tenth of the first's images), ten images a
class on average. All shares are as many images, so networks take as many steps. Two accuracies: every class counts
alike, and classes count by the size that they have in training. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attar
from attar.data.images import ImageData
from attar.evaluation import protocol
from attar.evaluation.measure import TrainingJob, train_network
from attar.selection import coresets, scores
from attar.settings import recipes
from attar.training.train_state import predict

IPC, LEAST, EPOCHS, TAIL = 10, 3, 350, 10
RULES = {"balanced": ("equal", "need"), "long tail": ("equal", "need", "size", "root of size", "need × size")}


def long_tail(data: ImageData) -> ImageData:
    """Data whose classes shrink evenly in the logarithm, to 1/TAIL in the last; the same test images."""
    kept = [
        data.rows(c)[: round(len(data.rows(c)) * TAIL ** (-c / (data.nclass - 1)))].cpu() for c in range(data.nclass)
    ]
    rows = torch.cat(kept)
    return data._with(rescale=False, images=data.images[rows], labels=data.labels[rows])


def shared(total: int, weights: Tensor, most: Tensor) -> list[int]:
    """How many images each class has of `total`: by weight, but LEAST at least and all its own at most."""
    counts = torch.full_like(most, LEAST)
    while int(counts.sum()) < total:  # the next image goes where most is missing
        missing = weights / weights.sum() * total - counts
        counts[missing.masked_fill(counts >= most, -torch.inf).argmax()] += 1
    return counts.tolist()


def weights(rule: str, data: ImageData, pool: attar.Pool) -> Tensor:
    """What a rule shares by. Need: how wrong early-stage models are of a class on average (EL2N)."""
    size = torch.tensor(data.counts, dtype=torch.float32)
    need = torch.stack([scores.difficulty("el2n", data, c, pool).mean() for c in range(data.nclass)])
    table = {"equal": torch.ones_like(size), "need": need, "size": size, "root of size": size.sqrt()}
    return (table | {"need × size": need * size})[rule]


def reading(data: ImageData, pool: attar.Pool, rule: str, seed: int) -> dict[str, Any]:
    """Accuracies of one network, trained on herding's images of each class as the rule shares them."""
    recipe = recipes.named("fashion-cpu")
    counts = shared(IPC * data.nclass, weights(rule, data, pool), torch.tensor(data.counts))
    herded = coresets.select(data, "herding", max(counts), pool, seed=seed)
    labels = herded.labels
    rows = torch.cat([torch.nonzero(labels == c).squeeze(1)[:count] for c, count in enumerate(counts)])
    job = TrainingJob("convnet3", recipe.network, protocol.CONDENSED, recipe.evaluate, EPOCHS, seed)
    model = train_network(job, herded.images[rows], labels[rows], data)
    predicted, expected = predict(model, data.test_batches())
    right = torch.stack([(predicted == c)[expected == c].float().mean() for c in range(data.nclass)])
    share = torch.tensor(data.counts) / sum(data.counts)
    return {"rule": rule, "seed": seed, "counts": counts, "alike": float(right.mean()), "by_size": float(right @ share)}


def show(lines: list[dict[str, Any]]) -> None:
    """Print mean and standard deviation of each rule, and its difference to equal shares with its standard error."""
    for (kind, rules), measure in itertools.product(RULES.items(), ("alike", "by_size")):
        found = {(one["rule"], one["seed"]): 100 * one[measure] for one in lines if one["data"] == kind}
        seeds = sorted({seed for _, seed in found})
        for rule in rules:
            values = [found[rule, seed] for seed in seeds]
            lead = [found[rule, seed] - found["equal", seed] for seed in seeds]
            error = statistics.stdev(lead) / len(lead) ** 0.5
            what = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            print(f"{kind:10} {measure:8} {rule:12} {what}  {statistics.mean(lead):+.1f} ± {error:.1f}")


def main(arguments: list[str] | None = None) -> None:
    """Measure every rule on every seed, then print means and differences to equal shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(arguments)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    folder = args.out.with_suffix("")
    whole = attar.load("fashion").holdout(0.2, 0)
    for kind, rules in RULES.items():
        data = whole if kind == "balanced" else long_tail(whole)
        for seed, rule in itertools.product(range(180, 180 + args.seeds), rules):
            if any((one["data"], one["rule"], one["seed"]) == (kind, rule, seed) for one in lines):
                continue
            pool = attar.pretrain(data, recipe="fashion-cpu", seed=seed, folder=folder / kind, progress=False)
            lines.append({"data": kind} | reading(data, pool, rule, seed))
            args.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    show(lines)


if __name__ == "__main__":
    main()
