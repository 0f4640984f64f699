"""The evaluation protocol: attar's seeds together, the same one after another, and plain PyTorch one after another.

All in turns. `ratio`: PyTorch as it comes over attar together; `ratio_kept`: PyTorch with attar's memory settings;
`ratio_alone`: attar one after another.

python -m benchmarks.evaluation --device cpu --shape fashion --width 0.25 --epochs 100 --json out.json
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attar import models
from attar.condensation.initial import cells_of_class
from attar.data.images import ImageData
from attar.evaluation import measure
from attar.evaluation.protocol import CONDENSED
from attar.models.for_data import build, describe
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import strategy_names
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import EvaluateConfig, NetworkConfig
from attar.training.augment import augment
from attar.training.batches import shuffled
from attar.training.train_state import Batch, decay
from benchmarks import common, reference


def random_set(data: ImageData, ipc: int, factor: int) -> SyntheticSet:
    """Grids of random images, as `mix` initialises a set."""
    generator = torch.Generator(data.device).manual_seed(0)
    config = CondenseConfig(ipc=ipc, factor=factor)
    grids = [cells_of_class(data, label, config, generator) for label in range(data.nclass)]
    return SyntheticSet(
        images=torch.cat(grids),
        labels=torch.arange(data.nclass, device=data.device).repeat_interleave(ipc),
        factor=factor,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        source=data.name,
    )


def plain(
    condensed: SyntheticSet, data: ImageData, config: EvaluateConfig, network: NetworkConfig, seed: int
) -> nn.Module:
    """A network of that seed, trained on the set as `attar evaluate` does, in plain PyTorch; the draws are shared."""
    images, labels = condensed.decoded()
    generator = torch.Generator(data.device).manual_seed(seed)
    strategy, epochs = strategy_names(config.aug_type), config.epochs or 0

    def batches() -> Iterator[Batch]:
        for rows in shuffled(len(labels), config.batch_size, generator):
            batch = data.normalize(images[rows])
            options = {"strategy": strategy, "nclass": data.nclass, "mix_p": config.mix_p}
            yield augment(batch, labels[rows], generator=generator, **options)

    module = build(network, describe(data), seed).to(data.device)
    rest = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    reference.train(module, batches, epochs, lambda epoch: config.lr * decay(epoch, epochs), **rest)
    return module


def difference(module: nn.Module, params: dict[str, Tensor]) -> float:
    """|a − b| / |b| of two networks' parameters."""
    own, other = (
        torch.cat([value.detach().flatten() for value in values])
        for values in (models.parameters_of(module).values(), params.values())
    )
    return float((own - other).norm() / other.norm())


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = common.start(arguments)
    data = common.random_data(arguments.shape, arguments.size, max(64, arguments.ipc * arguments.factor**2), device)
    condensed = random_set(data, arguments.ipc, arguments.factor)
    network = NetworkConfig(net_type=common.SHAPES[arguments.shape][3], width=arguments.width)
    config = EvaluateConfig(runs=arguments.runs, epochs=arguments.epochs, yardsticks=())
    images, labels = condensed.decoded()

    def one_by_one() -> list[float]:
        """Trained and tested, in plain PyTorch."""
        found = []
        for seed in range(config.runs):
            module = plain(condensed, data, config, network, seed).eval()
            with torch.no_grad():
                right = [(module(images).argmax(dim=1) == labels).sum() for images, labels in data.test_batches()]
            found.append(float(torch.stack(right).sum()) / len(data.test_labels))
        return found

    def job(seed: int) -> measure.TrainingJob:
        return measure.TrainingJob("network", network, CONDENSED, config, arguments.epochs, seed)

    def alone() -> list[float]:
        return [measure.run_once(job(seed), condensed, data).accuracy for seed in range(config.runs)]

    def together() -> list[float]:
        report = measure.evaluate(condensed, data, config, network)
        return next(iter(report["accuracy"].values()))["runs"]

    if arguments.serve:
        return common.serve({"reference": one_by_one})
    functions: dict[str, Callable[[], Any]] = {"alone": alone, "attar": together, "reference": one_by_one}
    with common.Apart() if device.type == "cpu" else contextlib.nullcontext() as apart:
        if apart is not None:
            functions |= {"reference": partial(apart.call, "reference"), "reference_kept": one_by_one}
        common.in_turns(functions, 1, device)
        seconds = common.in_turns(functions, arguments.rounds, device)
    spent = {f"{name}_s": common.summary(values) for name, values in seconds.items()}
    medians = {name: common.summary(values)["median"] for name, values in seconds.items()}
    ratios = {"reference": "ratio", "reference_kept": "ratio_kept", "alone": "ratio_alone"}
    trained = measure.train_network(job(0), images, labels, data)
    result = common.machine(device) | {
        "what": f"{arguments.runs} seeds together (attar), one after another on all threads (alone, reference)",
        **{name: getattr(arguments, name) for name in ("shape", "ipc", "factor", "width", "epochs", "runs")},
        **spent,
        **{key: medians[name] / medians["attar"] for name, key in ratios.items() if name in medians},
        "max_relative_difference": difference(plain(condensed, data, config, network, 0), trained.params),
        "seconds_since_1970": round(time.time()),
        "command": "python -m benchmarks.evaluation " + " ".join(sys.argv[1:]),
    }
    common.publish(result, arguments.json)


if __name__ == "__main__":
    main()
