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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.config import EvaluateConfig, NetworkConfig, settings_of, strategy_names
from attar.data import ImageData
from attar.data.mapped import Mapped
from attar.errors import UserError
from attar.execution import Workers, to_stderr
from attar.loop import BatchDraw, BatchSampler, Trainer, fit, make_batch
from attar.pool import build, describe
from attar.synthetic import SyntheticSet, decoded_count
from attar.training import Learner, accuracy, learner, shuffled
from attar.version import __version__

Report = Callable[[str], None]
Keep = Callable[[str, tuple[float, int]], None]
Job = tuple[str, str, int]  # a network's label, what it is trained on, its seed
Images = tuple[Tensor | Mapped, Tensor]  # uint8 or float in [0, 1] [n, ch, H, W], labels int64 [n]

WHOLE, SOFT = "whole", "soft_labels"
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

    network: the run's own; `config.networks` names others. Soft labels are those of one teacher per network, the first
    run on the whole set. `keep` gets each trained network's (accuracy, number of images) under a key as soon as it is
    there, from any thread; what is `known` under its key is not computed again. workers: who trains, this machine's by
    default; own: False for the yardsticks alone. Raises `UserError` when set and data do not fit.
    """
    check(small, data)
    networks = chosen_networks(config, network)
    for item in networks.values():
        build(item, describe(data), 0)
    kinds = kinds_of(small, config) if own else list(config.yardsticks)
    seeds = range(config.seed, config.seed + config.runs)
    prints = {name: fingerprint(name, small) for name in (*kinds, WHOLE)}
    workers = workers or Workers(data.device)
    bench = Bench(small, data, config, network, networks, prints, dict(known or {}), keep, workers)
    if SOFT in kinds:
        bench.teach([label for label in networks if not all((label, SOFT, seed) in bench for seed in seeds)], report)
    jobs = [(label, name, seed) for label in networks for name in kinds for seed in seeds]
    runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for (label, name, _), found in zip(jobs, workers.map(bench.run, jobs), strict=True):
        runs.setdefault((label, name), []).append(found)
        report(f"{name} {label} run {len(runs[label, name])} of {config.runs}: {found[0]:.4f}")
    result: dict[str, Any] = {name: {} for name in kinds}
    for (label, name), done in runs.items():
        result[name][label] = entry([right for right, _ in done], bench.epochs(name), done[0][1], networks[label])
        if name == SOFT:
            result[name][label]["teacher"] = bench.run((label, WHOLE, config.seed))[0]
    return result


@dataclass(frozen=True, eq=False)
class Bench:
    """The networks of an evaluation, each named by (label, what it is trained on, seed) and trained once."""

    small: SyntheticSet
    data: ImageData
    config: EvaluateConfig
    network: NetworkConfig
    networks: dict[str, NetworkConfig]
    prints: dict[str, str]  # what stands for each training set
    known: dict[str, tuple[float, int]]
    keep: Keep
    workers: Workers
    soft: dict[str, Tensor] = field(default_factory=dict)  # label → what the teacher says of the decoded images

    def __contains__(self, job: Job) -> bool:
        return self.key(job) in self.known

    def key(self, job: Job) -> str:
        """What stands for a network: all that decides its accuracy."""
        label, name, seed = job
        shared = [protocol(self.config, self.network, self.data), self.data.device.type]
        shared += [torch.__version__, __version__]
        own = [self.prints[name], settings_of(self.networks[label]), self.epochs(name), seed]
        own += [self.config.seed] if name == SOFT else []  # the teacher's
        return hashlib.sha256(json.dumps([*shared, *own], sort_keys=True).encode()).hexdigest()[:16]

    def epochs(self, name: str) -> int:
        """How long a network is trained on the set of that name."""
        return self.config.whole_epochs if name == WHOLE else epochs_for(self.small, self.data, self.config)

    def teach(self, labels: list[str], report: Report) -> None:
        """Find the soft labels of some networks. Each teacher is the first run on the whole set, and kept as that."""

        def one(label: str) -> tuple[Tensor, float]:
            return self.workers.call(soft_labels, self.small, self.data, self.config, self.networks[label])

        for label, (targets, right) in zip(labels, self.workers.map(one, labels), strict=True):
            self.soft[label] = targets
            self._add((label, WHOLE, self.config.seed), (right, len(self.data.labels)))
            report(f"teacher {label}: {right:.4f}")

    def run(self, job: Job) -> tuple[float, int]:
        """A network's accuracy and its number of training images."""
        if job in self:
            return self.known[self.key(job)]
        label, name, seed = job
        settings = (self.small, self.data, self.config, self.networks[label], self.epochs(name), seed)
        targets = self.soft[label] if name == SOFT else None
        return self._add(job, self.workers.call(run_once, name, *settings, targets))

    def _add(self, job: Job, done: tuple[float, int]) -> tuple[float, int]:
        self.known[self.key(job)] = done
        self.keep(self.key(job), done)
        return done


def kinds_of(small: SyntheticSet, config: EvaluateConfig) -> list[str]:
    """What networks are trained on: the set, with soft labels too where they are asked for, and the yardsticks."""
    known = [name for name in config.yardsticks if name != "initial" or small.initial is not None]
    return ["accuracy", *([SOFT] if config.soft_labels else []), *known]


def gains(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What compares sets fairly (DD-Ranking), as fractions by network, of mean accuracies with hard labels.

    "ior", improvement over random: the set − random real images; "hlr", hard-label recovery: the whole set − the set.
    Only of networks whose yardstick was measured; a kind that nothing is known of is left out.
    """
    found: dict[str, dict[str, float]] = {"ior": {}, "hlr": {}}
    for network, entry in result["accuracy"].items():
        if network in result.get("random_real", {}):
            found["ior"][network] = entry["mean"] - result["random_real"][network]["mean"]
        if network in result.get(WHOLE, {}):
            found["hlr"][network] = result[WHOLE][network]["mean"] - entry["mean"]
    return {name: values for name, values in found.items() if values}


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
    targets: Tensor | None = None,
) -> tuple[float, int]:
    """The accuracy of one network trained on the set of that name, and the number of training images.

    targets: float [n, C], in place of the labels of the decoded images.
    """
    images, labels = training_set(name, small, data, seed)
    return train_once(images, labels if targets is None else targets, data, config, network, epochs, seed), len(images)


def soft_labels(
    small: SyntheticSet, data: ImageData, config: EvaluateConfig, network: NetworkConfig
) -> tuple[Tensor, float]:
    """What a network trained on the whole set says of the decoded images, float [n, C], and its accuracy."""
    teacher = trained(data.images, data.labels, data, config, network, config.whole_epochs, config.seed)
    images, _ = training_set("accuracy", small, data, config.seed)
    teacher.module.eval()
    with torch.no_grad():
        logits = torch.cat([teacher(data.normalize(part)) for part in images.split(config.batch_size)])
    return logits.softmax(dim=1), accuracy(teacher, data.test_batches())


def training_set(name: str, small: SyntheticSet, data: ImageData, seed: int) -> Images:
    """What a run trains on: decoded images in [0, 1], or real ones as uint8, and their labels."""
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
    return accuracy(trained(images, labels, data, config, network, epochs, seed), data.test_batches())


def trained(
    images: Tensor | Mapped,
    labels: Tensor,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    epochs: int,
    seed: int,
) -> Learner:
    """One fresh network after its last epoch; labels: int64 [n], or soft ones float [n, C]."""
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
    resident = isinstance(images, Tensor)

    def fetch(source: Tensor) -> Tensor:
        batch = images[source] if resident else source
        return data.scaled(batch) if batch.dtype == torch.uint8 else data.normalize(batch)

    sampler = BatchSampler(data, strategy_names(config.aug_type), config.mix_p, generator)

    def epoch_batches() -> Iterator[BatchDraw]:
        for rows in shuffled(len(labels), config.batch_size, generator):
            yield sampler.draw(rows if resident else images[rows], labels[rows])

    trainer = Trainer(student, partial(make_batch, data, fetch=fetch), notice=to_stderr)
    fit(trainer, epoch_batches, epochs)
    return student


def chosen_networks(config: EvaluateConfig, network: NetworkConfig) -> dict[str, NetworkConfig]:
    """Label → network. A name without a depth takes the run's depth where it names the run's own kind of network; one
    that ends in a norm ("resnet18-batch") has that one. Width and norms of a network of timm are its own.
    """
    own = models.parse(network.net_type, network.depth)
    chosen = {}
    for name in config.networks or (network.net_type,):
        stem, norm_type = models.split_norm(name)
        kind, depth = models.parse(stem)
        if kind == own[0] and not stem[-1].isdigit():
            depth = own[1]
        item = replace(network, net_type=kind, depth=depth, norm_type=norm_type or network.norm_type)
        item = NetworkConfig(net_type=kind) if depth is None else item
        chosen[models.label(kind, depth, item.norm_type)] = item
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
    free = ("networks", "runs", "seed", "yardsticks", "soft_labels")
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
