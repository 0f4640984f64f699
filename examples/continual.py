"""Class-incremental learning: what is remembered of old classes, condensed images, herding's or random real ones?

    python examples/continual.py --data fashion

Classes come two at a time, and what came before is gone but for a memory of `--ipc` images of each class. After each
task a fresh network is trained on the memory of all classes so far, and tested on their test images. Condensed images
are made from the images of their own task alone.
"""

from __future__ import annotations

import argparse
import statistics

import torch

import attar

MEMORIES = ("condensed", "herding", "random")


def task(data: attar.ImageData, first: int, last: int) -> attar.ImageData:
    """The images of the classes first, …, last - 1, numbered from 0."""
    train = ((data.labels >= first) & (data.labels < last)).nonzero()[:, 0]
    test = ((data.test_labels >= first) & (data.test_labels < last)).nonzero()[:, 0]
    return attar.ImageData(
        *(data.images[train], data.labels[train] - first),
        *(data.test_images[test], data.test_labels[test] - first),
        classes=data.classes[first:last],
        mean=data.mean,  # as is known before the first task
        std=data.std,
        name=f"{data.name}-{first}",
    )


def remembered(kind: str, part: attar.ImageData, ipc: int, seed: int, niter: int) -> attar.SyntheticSet:
    """The memory of one task."""
    if kind == "condensed":
        return attar.condense(part, ipc=ipc, seed=seed, niter=niter, models=2)
    return attar.select(part, kind, ipc=ipc, seed=seed)


def joined(parts: list[attar.SyntheticSet], classes: tuple[str, ...]) -> attar.SyntheticSet:
    """The memory of all tasks so far."""
    firsts = [sum(part.nclass for part in parts[:k]) for k in range(len(parts))]
    return attar.SyntheticSet(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels + first for part, first in zip(parts, firsts, strict=True)]),
        factor=parts[0].factor,
        decode_type=parts[0].decode_type,
        classes=classes,
        mean=parts[0].mean,
        std=parts[0].std,
        source=parts[0].source,
    )


def main() -> None:
    """Print a table: a row for each kind of memory, a column for each number of classes seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--ipc", type=int, default=1, help="images of each class that are remembered")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--niter", type=int, default=4, help="outer iterations of the condensation of a task")
    parser.add_argument("--epochs", type=int, default=75, help="of the network after each task")
    parser.add_argument("--classes", type=int, default=2, help="that come at a time")
    arguments = parser.parse_args()

    data = attar.load(arguments.data)
    if data.nclass % arguments.classes:
        parser.error(f"{data.nclass} classes cannot come {arguments.classes} at a time")
    seen = range(arguments.classes, data.nclass + 1, arguments.classes)
    accuracy: dict[str, dict[int, list[float]]] = {kind: {count: [] for count in seen} for kind in MEMORIES}
    for seed in range(arguments.seeds):
        for kind in MEMORIES:
            parts: list[attar.SyntheticSet] = []
            for count in seen:
                part = task(data, count - arguments.classes, count)
                parts.append(remembered(kind, part, arguments.ipc, seed, arguments.niter))
                memory = joined(parts, data.classes[:count])
                known = task(data, 0, count)
                settings = {"epochs": arguments.epochs, "width": 0.25, "seed": seed, "runs": 1, "yardsticks": []}
                result = attar.evaluate(memory, known, networks=["convnet2"], **settings)
                accuracy[kind][count].append(result.mean("convnet2"))
                print(f"seed {seed}, {kind}, {count} classes: {100 * result.mean('convnet2'):.1f} %", flush=True)
    print("\n| memory | " + " | ".join(f"{count} classes" for count in seen) + " |")
    print("|---" * (1 + len(seen)) + "|")
    for kind in MEMORIES:
        values = accuracy[kind].values()
        spread = [f" ± {100 * statistics.stdev(runs):.1f}" if len(runs) > 1 else "" for runs in values]
        means = [f"{100 * statistics.mean(runs):.1f}" for runs in values]
        print(f"| {kind} | " + " | ".join(a + b for a, b in zip(means, spread, strict=True)) + " |")


if __name__ == "__main__":
    main()
