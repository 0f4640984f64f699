"""The evaluation protocol: several seeds together against one seed after another, in turns, in one process.

python -m benchmarks.evaluation --device cpu --shape fashion --width 0.25 --epochs 100 --json out.json
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from attar import evaluation
from attar.config import CondenseConfig, EvaluateConfig, NetworkConfig
from attar.data import ImageData
from attar.state import initial_images
from attar.synthetic import SyntheticSet
from benchmarks import common


def random_set(data: ImageData, ipc: int, factor: int) -> SyntheticSet:
    """Grids of random images, as `mix` initialises a set."""
    generator = torch.Generator(data.device).manual_seed(0)
    config = CondenseConfig(ipc=ipc, factor=factor)
    grids = [initial_images(data, label, config, generator) for label in range(data.nclass)]
    return SyntheticSet(
        images=torch.cat(grids),
        labels=torch.arange(data.nclass, device=data.device).repeat_interleave(ipc),
        factor=factor,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = common.start(arguments)
    data = common.random_data(arguments.shape, arguments.size, max(64, arguments.ipc * arguments.factor**2), device)
    small = random_set(data, arguments.ipc, arguments.factor)
    network = NetworkConfig(net_type=common.SHAPES[arguments.shape][3], width=arguments.width)
    config = EvaluateConfig(runs=arguments.runs, epochs=arguments.epochs, yardsticks=())
    images, labels = small.decoded()

    def alone() -> list[float]:
        seeds = range(config.runs)
        return [evaluation.train_once(images, labels, data, config, network, arguments.epochs, seed) for seed in seeds]

    def together() -> list[float]:
        report = evaluation.evaluate(small, data, config, network)
        return next(iter(report["accuracy"].values()))["runs"]

    functions: dict[str, Callable[[], list[float]]] = {"reference": alone, "attar": together}
    for function in functions.values():
        function()
    seconds = common.in_turns(functions, arguments.rounds, device)
    reference_s, attar_s = common.summary(seconds["reference"]), common.summary(seconds["attar"])
    result = common.machine(device) | {
        "what": f"{arguments.runs} seeds together (attar) against one after another on all threads (reference)",
        **{name: getattr(arguments, name) for name in ("shape", "ipc", "factor", "width", "epochs", "runs")},
        "reference_s": reference_s,
        "attar_s": attar_s,
        "ratio": reference_s["median"] / attar_s["median"],
        "max_relative_difference": max(abs(a - b) for a, b in zip(alone(), together(), strict=True)),
        "seconds_since_1970": round(time.time()),
        "command": "python -m benchmarks.evaluation " + " ".join(sys.argv[1:]),
    }
    common.publish(result, arguments.json)


if __name__ == "__main__":
    main()
