"""Evaluation: fresh networks trained on a condensed set, tested on real images, next to three yardsticks.

The accuracy is the one after the last epoch. The yardsticks follow the same protocol; `whole` has its own number of
epochs.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.augment import augment
from attar.config import EvaluateConfig, NetworkConfig, settings_of, strategy_names
from attar.data import ImageData
from attar.data.mapped import Mapped
from attar.errors import UserError
from attar.execution import Workers
from attar.pool import build, describe
from attar.synthetic import SyntheticSet, decoded_count
from attar.training import Batch, accuracy, fit, learner, shuffled

Report = Callable[[str], None]
Keep = Callable[[str, tuple[float, int]], None]
Images = tuple[Tensor | Mapped, Tensor]  # uint8 or float in [0, 1] [n, ch, H, W], labels int64 [n]

SMALL = 64  # pixels: up to this side the protocol has a fixed number of epochs


def evaluate(
    small: SyntheticSet,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    *,
    report: Report = lambda line: None,
    known: Mapping[str, tuple[float, int]] | None = None,
    keep: Keep = lambda key, done: None,
    workers: Workers | None = None,
    own: bool = True,
) -> dict[str, Any]:
    """Accuracies as fractions: {"accuracy": {"convnet3": {"mean", "std", "runs", …}}, "initial": …, "whole": …}.

    network: the run's own; `config.networks` names others. `keep` gets each trained network's (accuracy, number of
    images) under a key as soon as it is there, from any thread; what is `known` under its key is not computed again.
    workers: who trains, this machine's by default; own: False for the yardsticks alone. Raises `UserError` when set and
    data do not fit.
    """
    check(small, data)
    networks = chosen_networks(config, network)
    for item in networks.values():
        build(item, describe(data), 0)
    result: dict[str, Any] = {name: {} for name in (*(["accuracy"] if own else []), *config.yardsticks)}
    if small.initial is None:
        result.pop("initial", None)
    kinds = list(result)
    seeds = range(config.seed, config.seed + config.runs)
    jobs = [(label, name, seed) for label in networks for name in kinds for seed in seeds]
    epochs = {name: config.whole_epochs if name == "whole" else epochs_for(small, data, config) for name in kinds}
    workers = workers or Workers(data.device)
    shared = [protocol(config, network, data), data.device.type, torch.__version__]
    sets = {name: fingerprint(name, small) for name in kinds}

    def run(job: tuple[str, str, int]) -> tuple[float, int]:
        label, name, seed = job
        own = [*shared, sets[name], settings_of(networks[label]), epochs[name], seed]
        key = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
        if known is not None and key in known:
            return known[key]
        done = workers.call(run_once, name, small, data, config, networks[label], epochs[name], seed)
        keep(key, done)
        return done

    runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for (label, name, _), (right, count) in zip(jobs, workers.map(run, jobs), strict=True):
        done = runs.setdefault((label, name), [])
        done.append((right, count))
        report(f"{name} {label} run {len(done)} of {config.runs}: {right:.4f}")
    for (label, name), done in runs.items():
        result[name][label] = entry([right for right, _ in done], epochs[name], done[0][1], networks[label])
    return result


def entry(runs: list[float], epochs: int, images: int, network: NetworkConfig) -> dict[str, Any]:
    """What `result.json` says about one network on one kind of training set; std is the sample standard deviation."""
    return {
        "mean": statistics.fmean(runs),
        "std": statistics.stdev(runs) if len(runs) > 1 else None,
        "runs": runs,
        "n": len(runs),
        "protocol": "last epoch",
        "epochs": epochs,
        "images": images,
        "width": network.width,
    }


def run_once(
    name: str,
    small: SyntheticSet,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    epochs: int,
    seed: int,
) -> tuple[float, int]:
    """The accuracy of one network trained on the set of that name, and the number of training images."""
    images, labels = training_set(name, small, data, seed)
    return train_once(images, labels, data, config, network, epochs, seed), len(images)


def training_set(name: str, small: SyntheticSet, data: ImageData, seed: int) -> Images:
    """What a run trains on: normalised decoded images, or rows of the real data as uint8."""
    if name == "whole":
        return data.images, data.labels
    if name == "random_real":
        return random_real(data, small, seed)
    images, labels = (small.start() if name == "initial" else small).decoded()
    return images.to(data.device), labels.to(data.device)


def fingerprint(name: str, small: SyntheticSet) -> str:
    """What stands for a training set besides the real data and the seed."""
    found = hashlib.sha256(name.encode())
    if name != "whole":
        found.update(small.labels.cpu().numpy().tobytes())
    if name not in ("whole", "random_real"):
        images = small.start().images if name == "initial" else small.images
        found.update(images.cpu().numpy().tobytes())
        found.update(json.dumps([small.factor, small.decode_type, list(images.shape)]).encode())
    return found.hexdigest()


def random_real(data: ImageData, small: SyntheticSet, seed: int) -> Images:
    """As many full-size real images of each class as the set stores, drawn at random: equal storage."""
    generator = Generator(data.device).manual_seed(seed)
    rows = []
    for label, count in enumerate(torch.bincount(small.labels, minlength=data.nclass).tolist()):
        own = data.rows(label)
        if count > len(own):
            raise UserError(f"class '{data.classes[label]}' has {len(own)} images, fewer than the set's {count}")
        rows.append(own[torch.randperm(len(own), generator=generator, device=data.device)[:count]])
    chosen = torch.cat(rows)
    return data.images[chosen], data.labels[chosen]


def train_once(
    images: Tensor | Mapped,
    labels: Tensor,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    epochs: int,
    seed: int,
) -> float:
    """Train one fresh network and return its accuracy on the real test images after the last epoch."""
    module = build(network, describe(data), seed).to(data.device)
    student = learner(
        module,
        models.parameters_of(module),
        models.buffers_of(module),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    generator = Generator(data.device).manual_seed(seed)
    strategy = strategy_names(config.aug_type)

    def epoch_batches() -> Iterator[Batch]:
        for rows in shuffled(len(labels), config.batch_size, generator):
            batch = images[rows]
            real = batch.float() / 255 if batch.dtype == torch.uint8 else batch
            yield augment(
                data.normalize(real),
                labels[rows],
                strategy=strategy,
                nclass=data.nclass,
                mix_p=config.mix_p,
                generator=generator,
            )

    fit(student, epoch_batches, epochs)
    return accuracy(student, data.test_batches())


def chosen_networks(config: EvaluateConfig, network: NetworkConfig) -> dict[str, NetworkConfig]:
    """Label → network. A name without a depth takes the run's depth where it names the run's own kind of network."""
    own = models.parse(network.net_type, network.depth)
    chosen = {}
    for name in config.networks or (network.net_type,):
        kind, depth = models.parse(name)
        if kind == own[0] and not name[-1].isdigit():
            depth = own[1]
        label = models.label(kind, depth, network.norm_type)
        chosen[label] = replace(network, net_type=kind, depth=depth)
    return chosen


def epochs_for(small: SyntheticSet, data: ImageData, config: EvaluateConfig) -> int:
    """Epochs on a condensed set: 1000 for small images, else by decoded images per class (IDC's protocol)."""
    if config.epochs is not None:
        return config.epochs
    if max(data.size) <= SMALL:
        return 1000
    n = decoded_count(small.ipc, small.factor, small.decode_type)
    table = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
    epochs = next((epochs for most, epochs in table if n <= most), 300)
    return math.floor(epochs * 2 / 3 / 100) * 100 if data.nclass >= 100 else epochs


def protocol(config: EvaluateConfig, network: NetworkConfig, data: ImageData) -> dict[str, Any]:
    """The settings and the data that accuracies must share to be compared."""
    free = ("networks", "runs", "seed", "yardsticks")
    shared = {key: value for key, value in settings_of(config).items() if key not in free}
    return shared | {"width": network.width, "norm_type": network.norm_type, "data": data.fingerprint}


def check(small: SyntheticSet, data: ImageData) -> None:
    """Raise `UserError` unless the set was made for such data, and the data have a test set."""
    if data.test_images is None:
        raise UserError(f"{data.name} has no test images; put them in a folder test/<class>/* beside train/")
    if small.images.shape[1:] != data.images.shape[1:]:
        own, wanted = ("x".join(map(str, value.shape[1:])) for value in (small.images, data.images))
        raise UserError(f"the set holds images of {own}, the data of {wanted}")
    if small.classes != data.classes:
        own, wanted = (f"{value.nclass} classes ({value.classes[0]}, ...)" for value in (small, data))
        raise UserError(f"the set was made for {own}, {data.name} has {wanted}")
    present = len(small.labels.unique())
    if present < small.nclass:
        raise UserError(
            f"the set is a part: it holds {present} of {small.nclass} classes; join all parts with `attar merge`"
        )
