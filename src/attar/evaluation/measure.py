"""Evaluation: fresh networks trained on a condensed set, tested on real images, next to three yardsticks.

The accuracy is the one after the last epoch. The yardsticks follow the same protocol; `whole` has its own number of
epochs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Generator, Tensor

from attar import models
from attar.data.cache.mapped import Mapped
from attar.data.images import ImageData
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError
from attar.evaluation.protocol import (
    CONDENSED,
    INITIAL,
    RANDOM,
    SOFT,
    WHOLE,
    check,
    chosen_networks,
    entry,
    epochs_for,
    kinds_of,
    protocol_of,
)
from attar.models.for_data import build, describe
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import strategy_names
from attar.settings.config import EvaluateConfig, NetworkConfig
from attar.settings.schema import settings_of
from attar.training.batches import AugmentationSampler, BatchDraw, make_batch, shuffled
from attar.training.loop import Trainer, fit
from attar.training.train_state import TrainState, accuracy, start_training

Advance = Callable[[str], None]  # called with a few words when a network is trained
Keep = Callable[[str, tuple[float, int]], None]
Job = tuple[str, str, int]  # a network's label, what it is trained on, its seed
Images = tuple[Tensor | Mapped, Tensor]  # uint8 or float in [0, 1] [n, ch, H, W], labels int64 [n]


def evaluate(
    condensed: SyntheticSet,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    *,
    advance: Advance = lambda words: None,
    known: Mapping[str, tuple[float, int]] | None = None,
    keep: Keep = lambda key, done: None,
    workers: ThreadWorkers | None = None,
    own: bool = True,
) -> dict[str, Any]:
    """Accuracies as fractions: {"accuracy": {"convnet3": {"mean", "std", "runs", …}}, "initial": …, "whole": …}.

    network: the run's own; `config.networks` names others. Soft labels are those of one teacher per network, the first
    run on the whole set. `keep` gets each trained network's (accuracy, number of images) under a key as soon as it is
    there, from any thread; what is `known` under its key is not computed again. workers: who trains, this machine's by
    default; own: False for the yardsticks alone. Raises `UserError` when set and data do not fit.
    """
    check(condensed, data)
    networks = chosen_networks(config, network)
    for item in networks.values():
        build(item, describe(data), 0)
    kinds = kinds_of(condensed, config) if own else list(config.yardsticks)
    seeds = range(config.seed, config.seed + config.runs)
    prints = {name: fingerprint(name, condensed) for name in (*kinds, WHOLE)}
    workers = workers or ThreadWorkers(data.device)
    evaluator = Evaluator(condensed, data, config, network, networks, prints, dict(known or {}), keep, workers)
    if SOFT in kinds:
        evaluator.teach(
            [label for label in networks if not all((label, SOFT, seed) in evaluator for seed in seeds)], advance
        )
    jobs = [(label, name, seed) for label in networks for name in kinds for seed in seeds]
    runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for (label, name, _), found in zip(jobs, workers.map(evaluator.run, jobs), strict=True):
        runs.setdefault((label, name), []).append(found)
        advance(f"{name} {label} run {len(runs[label, name])} of {config.runs}: {found[0]:.4f}")
    result: dict[str, Any] = {name: {} for name in kinds}
    for (label, name), done in runs.items():
        result[name][label] = entry([right for right, _ in done], evaluator.epochs(name), done[0][1], networks[label])
        if name == SOFT:
            result[name][label]["teacher"] = evaluator.run((label, WHOLE, config.seed))[0]
    return result


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The networks of an evaluation, each named by (label, what it is trained on, seed) and trained once."""

    condensed: SyntheticSet
    data: ImageData
    config: EvaluateConfig
    network: NetworkConfig
    networks: dict[str, NetworkConfig]
    prints: dict[str, str]  # what stands for each training set
    known: dict[str, tuple[float, int]]
    keep: Keep
    workers: ThreadWorkers
    soft: dict[str, Tensor] = field(default_factory=dict)  # label → what the teacher says of the decoded images

    def __contains__(self, job: Job) -> bool:
        return self.key(job) in self.known

    def key(self, job: Job) -> str:
        """What stands for a network: all that decides its accuracy."""
        label, name, seed = job
        shared = [protocol_of(self.config, self.network, self.data), self.data.device.type]
        shared += [torch.__version__, version("attar")]
        own = [self.prints[name], settings_of(self.networks[label]), self.epochs(name), seed]
        own += [self.config.seed] if name == SOFT else []  # the teacher's
        return hashlib.sha256(json.dumps([*shared, *own], sort_keys=True).encode()).hexdigest()[:16]

    def epochs(self, name: str) -> int:
        """How long a network is trained on the set of that name."""
        return self.config.whole_epochs if name == WHOLE else epochs_for(self.condensed, self.data, self.config)

    def teach(self, labels: list[str], advance: Advance) -> None:
        """Find the soft labels of some networks. Each teacher is the first run on the whole set, and kept as that."""

        def one(label: str) -> tuple[Tensor, float]:
            return self.workers.call(soft_labels, self.condensed, self.data, self.config, self.networks[label])

        for label, (targets, right) in zip(labels, self.workers.map(one, labels), strict=True):
            self.soft[label] = targets
            self._add((label, WHOLE, self.config.seed), (right, len(self.data.labels)))
            advance(f"teacher {label}: {right:.4f}")

    def run(self, job: Job) -> tuple[float, int]:
        """A network's accuracy and its number of training images."""
        if job in self:
            return self.known[self.key(job)]
        label, name, seed = job
        settings = (self.condensed, self.data, self.config, self.networks[label], self.epochs(name), seed)
        targets = self.soft[label] if name == SOFT else None
        return self._add(job, self.workers.call(run_once, name, *settings, targets))

    def _add(self, job: Job, done: tuple[float, int]) -> tuple[float, int]:
        self.known[self.key(job)] = done
        self.keep(self.key(job), done)
        return done


def run_once(
    name: str,
    condensed: SyntheticSet,
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
    images, labels = training_set(name, condensed, data, seed)
    return train_once(images, labels if targets is None else targets, data, config, network, epochs, seed), len(images)


def soft_labels(
    condensed: SyntheticSet, data: ImageData, config: EvaluateConfig, network: NetworkConfig
) -> tuple[Tensor, float]:
    """What a network trained on the whole set says of the decoded images, float [n, C], and its accuracy."""
    teacher = trained(data.images, data.labels, data, config, network, config.whole_epochs, config.seed)
    images, _ = training_set(CONDENSED, condensed, data, config.seed)
    teacher.module.eval()
    with torch.no_grad():
        logits = torch.cat([teacher(data.normalize(part)) for part in images.split(config.batch_size)])
    return logits.softmax(dim=1), accuracy(teacher, data.test_batches())


def training_set(name: str, condensed: SyntheticSet, data: ImageData, seed: int) -> Images:
    """What a run trains on: decoded images in [0, 1], or real ones as uint8, and their labels."""
    if name == WHOLE:
        return data.images, data.labels
    if name == RANDOM:
        return random_real(data, condensed, seed)
    images, labels = (condensed.start() if name == INITIAL else condensed).decoded()
    return images.to(data.device), labels.to(data.device)


def fingerprint(name: str, condensed: SyntheticSet) -> str:
    """What stands for a training set besides the real data and the seed."""
    found = hashlib.sha256(name.encode())
    if name != "whole":
        found.update(condensed.labels.cpu().numpy().tobytes())
    if name not in ("whole", "random_real"):
        images = condensed.start().images if name == INITIAL else condensed.images
        found.update(images.cpu().numpy().tobytes())
        found.update(json.dumps([condensed.factor, condensed.decode_type, list(images.shape)]).encode())
    return found.hexdigest()


def random_real(data: ImageData, condensed: SyntheticSet, seed: int) -> Images:
    """As many full-size real images of each class as the set stores, drawn at random: equal storage."""
    generator = Generator(data.device).manual_seed(seed)
    rows = []
    for label, count in enumerate(torch.bincount(condensed.labels, minlength=data.nclass).tolist()):
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
) -> TrainState:
    """One fresh network after its last epoch; labels: int64 [n], or soft ones float [n, C]."""
    module = build(network, describe(data), seed).to(data.device)
    model = start_training(
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

    sampler = AugmentationSampler(data, strategy_names(config.aug_type), config.mix_p, generator)

    def epoch_batches() -> Iterator[BatchDraw]:
        for rows in shuffled(len(labels), config.batch_size, generator):
            yield sampler.draw(rows if resident else images[rows], labels[rows])

    trainer = Trainer(model, partial(make_batch, data, fetch=fetch))
    fit(trainer, epoch_batches, epochs)
    return model
