"""A model for a small device: what it learns there from a few kilobytes that are sent to it.

    attar condense --recipe best --niter 12 --out runs/fashion
    python examples/device.py runs/fashion

A network of some thousand weights is trained on one core, on the condensed set and on as many bytes of real images,
beside all training images, which a device could not hold.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from search import whole_set

import attar


def main() -> None:
    """Print a table: a row for each training set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a condensation of data that attar knows by name")
    parser.add_argument("--network", default="convnet2")
    parser.add_argument("--width", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=300, help="on a small set")
    parser.add_argument("--whole_epochs", type=int, default=2, help="on all images")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    small = attar.load_set(arguments.run)
    data = attar.load(small.source)
    real = attar.select(data, "random", ipc=small.ipc)
    sets = {
        "condensed": (small, arguments.epochs),
        "random real": (real, arguments.epochs),
        "all images": (whole_set(data), arguments.whole_epochs),
    }
    network = attar.train(small, arguments.network, data, epochs=1, width=arguments.width)
    weights = sum(parameter.numel() for parameter in network.parameters())
    print(f"{arguments.network} of width {arguments.width:g}: {weights:,} weights, {4 * weights / 1000:.0f} kB\n")
    print("| trained on | kB, 8-bit pixels | seconds | accuracy, % |\n|---|---|---|---|")
    for name, (images, epochs) in sets.items():
        runs = 1 if name == "all images" else arguments.seeds
        start = time.perf_counter()
        settings = {"epochs": epochs, "width": arguments.width, "runs": runs, "yardsticks": []}
        result = attar.evaluate(images, data, networks=[arguments.network], **settings)
        seconds = (time.perf_counter() - start) / runs
        (entry,) = result["accuracy"].values()
        values = entry["runs"]
        spread = f" ± {100 * statistics.stdev(values):.1f}" if runs > 1 else ""
        size = images.images.numel() / 1000
        print(f"| {name} | {size:,.1f} | {seconds:.0f} | {100 * statistics.mean(values):.1f}{spread} (n = {runs}) |")


if __name__ == "__main__":
    main()
