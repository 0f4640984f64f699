"""Search among ten architectures: does a condensed set rank them as the whole training set does, and how much faster?

    attar condense --recipe best --niter 12 --out runs/fashion
    python examples/search.py runs/fashion

Three networks of each architecture are trained on the condensed set and one on all training images, for one epoch; all
are tested on the test images.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import attar

NETWORKS = (
    *("convnet1", "convnet2", "convnet3", "convnet4"),
    *("convnet3-batch", "convnet3-layer", "convnet3-group", "convnet3-none"),
    *("resnet10", "resnetap10"),
)


def whole_set(data: attar.ImageData) -> attar.SyntheticSet:
    """All training images as a set, so that both are trained by the same function."""
    return attar.SyntheticSet(
        images=data.images[torch.arange(len(data.labels))].float() / 255,
        labels=data.labels,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
    )


def accuracies(
    images: attar.SyntheticSet, data: attar.ImageData, networks: list[str], **settings: object
) -> tuple[list[list[float]], float]:
    """The test accuracies of each network's runs after training on `images`, and the seconds of all of them."""
    start = time.perf_counter()
    result = attar.evaluate(images, data, networks=networks, yardsticks=[], progress=True, **settings)
    found = [entry["runs"] for entry in result["accuracy"].values()]
    if len(found) != len(networks):
        raise SystemExit("search.py: give networks that differ, two at least")
    return found, time.perf_counter() - start


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's: the correlation of the two rankings, 1 where they agree."""
    ranks = torch.stack([torch.tensor(values).argsort().argsort().double() for values in (one, other)])
    return torch.corrcoef(ranks)[0, 1].item()


def main() -> None:
    """Print the table and the two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a condensation of data that attar knows by name")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--runs", type=int, default=3, help="networks of each architecture on the condensed set")
    parser.add_argument("--epochs", type=int, default=100, help="on the condensed set")
    parser.add_argument("--whole_epochs", type=int, default=1, help="on the whole set")
    parser.add_argument("--width", type=float, default=0.125)
    arguments = parser.parse_args()
    if len(arguments.networks) < 2:
        parser.error("ranks need two networks at least")

    small = attar.load_set(arguments.run)
    data = attar.load(small.source)
    width = arguments.width
    by_small, seconds = accuracies(
        small, data, arguments.networks, runs=arguments.runs, epochs=arguments.epochs, width=width
    )
    by_whole, whole_seconds = accuracies(
        whole_set(data), data, arguments.networks, runs=1, epochs=arguments.whole_epochs, width=width
    )
    means, whole = [statistics.mean(runs) for runs in by_small], [runs[0] for runs in by_whole]
    print("| network | condensed set, % | whole set, % |\n|---|---|---|")
    rows = zip(arguments.networks, by_small, means, whole, strict=True)
    for name, runs, mean, other in sorted(rows, key=lambda row: -row[3]):
        spread = f" ± {100 * statistics.stdev(runs):.1f}" if len(runs) > 1 else ""
        print(f"| {name} | {100 * mean:.1f}{spread} | {100 * other:.1f} |")
    best = arguments.networks[max(range(len(means)), key=means.__getitem__)]
    print(f"\nrank correlation {rank_correlation(means, whole):.2f}; the condensed set chooses {best}")
    print(f"{seconds:.0f} s on the condensed set, n = {arguments.runs}; {whole_seconds:.0f} s on the whole one, n = 1")


if __name__ == "__main__":
    main()
