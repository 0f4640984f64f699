"""Evaluation: fresh networks are trained on a condensed set and tested on real images, beside three yardsticks.

The accuracy is the one after the last epoch. The yardsticks follow the same protocol with epochs of their own, so that
they are trained for as many steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from attar import __version__
from attar.data.cache.mapped import Mapped
from attar.data.images import ImageData
from attar.engine.precision import check_precision, matmul_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import log
from attar.evaluation import attacks
from attar.evaluation.protocol import (
    LEARNED,
    RANDOM_SOFT,
    SOFT,
    check_set_fits,
    check_tests,
    chosen_networks,
    config_of,
    entry,
    epochs_of,
    kinds_of,
    protocol_of,
)
from attar.evaluation.teacher import soft_labels
from attar.evaluation.trained import TrainedNetwork, TrainedNetworks
from attar.evaluation.training_sets import fingerprint, random_real, training_set
from attar.models.for_data import build, describe
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import strategy_names
from attar.settings.config import EvaluateConfig, NetworkConfig
from attar.settings.schema import settings_of
from attar.training.batches import AugmentationSampler, ChainDraw, make_batches, shuffled
from attar.training.loop import Trainer, fit
from attar.training.pool import Pool
from attar.training.train_state import TrainState, predict, start_fresh


@dataclass(frozen=True)
class TrainingJob:
    """One network to train. Small: condensed set and real data are given beside it, so that Ray sends them once."""

    label: str  # the network's name in result.json, such as "convnet3"
    network: NetworkConfig
    kind: str  # of the training set: CONDENSED, SOFT, INITIAL, RANDOM or WHOLE
    config: EvaluateConfig  # learning rate, batch size, augmentation…
    epochs: int
    seed: int  # of the initial weights, the batches and the augmentation


class Measured(dict[str, Any]):
    """{kind: {network: its entry in result.json}}; besides the predicted classes of the test images, for each run."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__({kind: {} for kind in kinds})
        self.predictions: dict[str, dict[str, list[list[int]]]] = {kind: {} for kind in kinds}


def evaluate(
    condensed: SyntheticSet,
    data: ImageData,
    config: EvaluateConfig,
    network: NetworkConfig,
    *,
    advance: Callable[[str], None] = lambda words: None,
    trained: TrainedNetworks | None = None,
    workers: ThreadWorkers | None = None,
    yardsticks_only: bool = False,
    teacher: Pool | None = None,
) -> Measured:
    """Train all networks of an evaluation and test them.

    Args:
        condensed: the set, made for data such as `data`.
        data: the real images, with test images.
        config: which networks and yardsticks, how many seeds, and the protocol.
        network: the network of the run that made the set; `config.networks` names others.
        advance: called with a few words whenever a network is trained.
        trained: networks that are trained already and are not trained again. Each new one is added to it at once,
            from any thread.
        workers: who trains the networks; the threads of this machine by default.
        yardsticks_only: leave the condensed set itself out.
        teacher: the models that labelled the set softly; they label the random real images beside it.

    Returns:
        Accuracies as fractions, by kind of training set and name of the network, as in result.json:
        {"accuracy": {"convnet3": {"mean", "std", "runs", …}}, "initial": …, "whole": …}.

    Raises:
        UserError: where set and data do not fit each other, or a network cannot be built for the data.
    """
    check_set_fits(condensed, data)
    networks = check_evaluation(data, config, network)
    assert data.test_labels is not None
    kinds = list(config.yardsticks) if yardsticks_only else kinds_of(condensed, config)
    if LEARNED in kinds and condensed.lr is not None:
        log.info(
            "the set has learned the learning rate %.3g, the protocol has %g: both are shown", condensed.lr, config.lr
        )
    seeds = range(config.seed, config.seed + config.runs)
    workers = workers or ThreadWorkers(data.device)
    evaluator = Evaluator(condensed, data, config, network, networks, trained or TrainedNetworks(), workers, teacher)
    jobs = [evaluator.job(label, kind, seed) for label in networks for kind in kinds for seed in seeds]
    results: dict[tuple[str, str], list[TrainedNetwork]] = {}
    for job, result in zip(jobs, workers.map(evaluator.run, jobs), strict=True):
        runs = results.setdefault((job.label, job.kind), [])
        runs.append(result)
        advance(f"{job.kind} {job.label} run {len(runs)} of {config.runs}: {100 * result.accuracy:.1f} %")
    entries = Measured(kinds)
    for (label, kind), runs in results.items():
        epochs = evaluator.epochs(kind)
        entries[kind][label] = entry([run.accuracy for run in runs], epochs, runs[0].images, networks[label])
        entries[kind][label] |= {"seed": config.seed, "precision": config.precision}
        predicted = [run.predicted for run in runs if run.predicted is not None]
        if len(predicted) == len(runs):
            entries.predictions[kind][label] = predicted
        if config.attacks:
            under_attack = [run.attacked or {} for run in runs]
            entries[kind][label]["attacked"] = attacks.entry(under_attack, config, len(data.test_labels))
        if kind == LEARNED:
            entries[kind][label]["lr"] = condensed.lr
        if kind in (SOFT, RANDOM_SOFT):
            entries[kind][label]["teacher"] = condensed.teacher["accuracy"]
    return entries


def check_evaluation(data: ImageData, config: EvaluateConfig, network: NetworkConfig) -> dict[str, NetworkConfig]:
    """The networks by their labels. Raises `UserError` for data that none of them can be tested on, without a set."""
    check_tests(data)
    check_precision(config.precision, data.device)
    networks = chosen_networks(config, network)
    for settings in networks.values():
        build(settings, describe(data), 0)
    return networks


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Trains the networks of an evaluation, each of them once."""

    condensed: SyntheticSet
    data: ImageData
    config: EvaluateConfig
    run_network: NetworkConfig  # of the run that made the set
    networks: dict[str, NetworkConfig]  # label → network
    trained: TrainedNetworks
    workers: ThreadWorkers
    teacher: Pool | None
    fingerprints: dict[str, str] = field(default_factory=dict)  # kind of training set → its digest

    def job(self, label: str, kind: str, seed: int) -> TrainingJob:
        """The network of that label, to be trained on that kind of training set."""
        config = config_of(kind, self.config, self.condensed)
        return TrainingJob(label, self.networks[label], kind, config, self.epochs(kind), seed)

    def epochs(self, kind: str) -> int:
        """How many epochs a network is trained on that kind of training set."""
        return epochs_of(kind, self.condensed, self.data, self.config)

    def key(self, job: TrainingJob) -> str:
        """A digest of all that decides a network's accuracy."""
        if job.kind not in self.fingerprints:
            self.fingerprints[job.kind] = fingerprint(job.kind, self.condensed)
        of_all: list[Any] = [protocol_of(self.config, self.run_network, self.data), self.data.device.type]
        of_all += [torch.__version__, __version__]
        config = self.config
        of_job = [self.fingerprints[job.kind], settings_of(job.network), job.epochs, job.seed, config.precision]
        of_job += [[config.attacks, config.attack_eps, config.attack_images]] * bool(config.attacks)
        return hashlib.sha256(json.dumps([*of_all, *of_job], sort_keys=True).encode()).hexdigest()[:16]

    def run(self, job: TrainingJob) -> TrainedNetwork:
        """The result of a job, from `trained` where it is there already."""
        key = self.key(job)
        if key not in self.trained.results:
            targets = None
            if job.kind == RANDOM_SOFT:
                assert self.teacher is not None  # a set that is labelled comes with the models that did it
                images, _ = random_real(self.data, self.condensed, job.seed)
                targets = soft_labels(self.teacher, images, self.data, self.condensed.teacher["temperature"])
            self.trained.add(key, self.workers.call(run_once, job, self.condensed, self.data, targets))
        return self.trained.results[key]


# Ray workers import the functions below by their names.


def run_once(
    job: TrainingJob, condensed: SyntheticSet, data: ImageData, targets: Tensor | None = None
) -> TrainedNetwork:
    """Train one network and test it on the real test images.

    targets: soft labels float [n, C] of the training images, in place of their own.
    """
    images, labels = training_set(job.kind, condensed, data, job.seed)
    model = train_network(job, images, labels if targets is None else targets, data)
    return tested(model, data, job, len(images))


def tested(model: TrainState, data: ImageData, job: TrainingJob, images: int) -> TrainedNetwork:
    """What a network that was trained on so many images makes of the test images, under attack too."""
    predicted, labels = predict(model, data.test_batches())
    attacked = attacks.under_attack(model, data, job.config, job.seed)
    return TrainedNetwork(float((predicted == labels).sum()) / len(labels), images, predicted.tolist(), attacked)


def train_network(
    job: TrainingJob,
    images: Tensor | Mapped,
    labels: Tensor,
    data: ImageData,
    after_epoch: Callable[[int], None] | None = None,
) -> TrainState:
    """A fresh network after its last epoch on images [n, ch, H, W], uint8 or float in [0, 1].

    labels: int64 [n], or soft ones float [n, C]. `data` gives the scale of the images, and the classes. after_epoch: as
    for `fit`.
    """
    config = job.config
    model = start_fresh(job.network, data, config, job.seed)
    generator = Generator(data.device).manual_seed(job.seed)
    resident = isinstance(images, Tensor)

    def fetch(source: Tensor) -> Tensor:
        batch = images[source] if resident else source
        return data.scaled(batch) if batch.dtype == torch.uint8 else data.normalize(batch)

    sampler = AugmentationSampler(data, strategy_names(config.aug_type), config.mix_p, generator)

    def epoch_batches() -> Iterator[Tensor]:
        return shuffled(len(labels), config.batch_size, generator)

    def draw(rows: Tensor, batch: int) -> ChainDraw:
        return sampler.draw(rows if resident else images[rows], labels[rows], batch)

    trainer = Trainer(model, partial(make_batches, data, fetch=fetch))
    with matmul_precision(config.precision, data.device):
        fit(trainer, epoch_batches, draw, job.epochs, after_epoch=after_epoch)
    return model
