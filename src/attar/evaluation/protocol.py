"""The protocol of an evaluation: which networks, how many epochs, and how the accuracies of several runs become one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from attar import models
from attar.data.images import ImageData
from attar.errors import UserError
from attar.models.for_data import scale_of
from attar.sets.decode import decoded_count, usual_epochs
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import EvaluateConfig, NetworkConfig, with_role
from attar.settings.schema import settings_of

# Kinds of training sets, as keys of result.json: the condensed set with hard labels, with what was learned beside the
# images, with a network's soft labels, and trained on without augmentation; and the yardsticks.
CONDENSED, LEARNED, SOFT, RANDOM_SOFT, PLAIN, RANDOM_PLAIN, INITIAL, RANDOM, WHOLE = (
    *("accuracy", "learned", "soft_labels", "random_soft_labels", "plain", "random_plain"),
    *("initial", "random_real", "whole"),
)
RANDOM_KINDS = (RANDOM, RANDOM_PLAIN, RANDOM_SOFT)  # of the same random real images
# The same in the order in which they are shown: (short name, description)
MEASURED = {
    CONDENSED: ("condensed", "the images of this run"),
    LEARNED: ("as learned", "the images of this run, with the learning rate and the labels that were learned"),
    SOFT: ("soft labels", "the images of this run, labelled by the set's teacher"),
    RANDOM_SOFT: ("random soft labels", "as many random real images, labelled by the same teacher"),
    PLAIN: ("plain", "the images of this run, trained on without augmentation and CutMix"),
    RANDOM_PLAIN: ("random plain", "as many random real images, without augmentation and CutMix"),
    INITIAL: ("initial", "the same set before it was optimised"),
    RANDOM: ("random real", "as many real images of full size, drawn at random"),
    WHOLE: ("whole set", "all training images"),
}
GAINS = ("ior", "hlr", "drop")  # keys of result.json, see `gains`


def kinds_of(condensed: SyntheticSet, config: EvaluateConfig) -> list[str]:
    """The kinds of training sets: the condensed set, as learned too where more than images was, and the yardsticks.

    `initial` is left out of a set whose initial images are not known.
    """
    yardsticks = [kind for kind in config.yardsticks if kind != INITIAL or condensed.initial is not None]
    soft = [SOFT, RANDOM_SOFT] if condensed.teacher else []
    plain = [PLAIN, RANDOM_PLAIN] if config.plain else []
    return [CONDENSED, *[LEARNED] * condensed.has_learned, *soft, *plain, *yardsticks]


def config_of(kind: str, config: EvaluateConfig, condensed: SyntheticSet) -> EvaluateConfig:
    """How a network is trained on a kind of training set: as learned, with the learning rate that was learned."""
    if kind in (PLAIN, RANDOM_PLAIN):
        return replace(config, aug_type="none", mix_p=0.0)
    return replace(config, lr=condensed.lr) if kind == LEARNED and condensed.lr is not None else config


def gains(result: Mapping[str, Any], own: str = "") -> dict[str, dict[str, float]]:
    """The metrics of DD-Ranking by network: differences of mean accuracies with hard labels, as fractions.

    "ior", improvement over random: condensed − random real images; "hlr", hard-label recovery: whole set − condensed;
    "drop": on the network `own` that made the set − on another one. A network for which something was not measured is
    left out, and so is a metric without any network.
    """
    metrics: dict[str, dict[str, float]] = {"ior": {}, "hlr": {}, "drop": {}}
    for network, entry in result[CONDENSED].items():
        if network in result.get(RANDOM, {}):
            metrics["ior"][network] = entry["mean"] - result[RANDOM][network]["mean"]
        if network in result.get(WHOLE, {}):
            metrics["hlr"][network] = result[WHOLE][network]["mean"] - entry["mean"]
        if own in result[CONDENSED] and network != own:
            metrics["drop"][network] = result[CONDENSED][own]["mean"] - entry["mean"]
    return {name: values for name, values in metrics.items() if values}


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


def chosen_networks(config: EvaluateConfig, network: NetworkConfig) -> dict[str, NetworkConfig]:
    """The networks to evaluate, by their labels in result.json; by default that of the run, `network`.

    A name without a depth ("convnet") means the run's depth if the run's network is of that type, else the default
    depth. A name that ends in a norm ("resnet18-batch") is built with that norm, others with the run's. Width and norm
    do not apply to networks of timm and the user's own; of two of these with one name the second is known by its digest
    too. Raises `UserError` for an unknown name.
    """
    run_type, run_depth = models.parse(network.net_type, network.depth)
    networks: dict[str, NetworkConfig] = {}
    for name in config.networks or (network.net_type,):
        stem, norm_type = models.split_norm(name)
        net_type, depth = models.parse(stem)
        if net_type == run_type and not stem[-1].isdigit():
            depth = run_depth
        settings = NetworkConfig(net_type=net_type)  # a network of timm or the user's own
        if depth is not None:
            settings = replace(network, net_type=net_type, depth=depth, norm_type=norm_type or network.norm_type)
        known_as = models.label(net_type, depth, settings.norm_type)
        networks[net_type if known_as in networks and networks[known_as] != settings else known_as] = settings
    return networks


def epochs_for(condensed: SyntheticSet | CondenseConfig, data: ImageData, config: EvaluateConfig) -> int:
    """Epochs on a condensed set: those that are asked for, else IDC's."""
    if config.epochs is not None:
        return config.epochs
    count = decoded_count(condensed.ipc, condensed.factor, condensed.decode_type)
    return usual_epochs(count, data.size, data.nclass)


def epochs_of(kind: str, condensed: SyntheticSet | CondenseConfig, data: ImageData, config: EvaluateConfig) -> int:
    """Epochs on a kind of training set: random real images get as many steps as the condensed set, the whole set
    `whole_epochs` and no fewer steps."""
    epochs = epochs_for(condensed, data, config)
    if kind not in (*RANDOM_KINDS, WHOLE):
        return epochs
    counts = [condensed.ipc] * data.nclass
    if isinstance(condensed, SyntheticSet):
        counts = torch.bincount(condensed.labels).tolist()
    decoded = sum(decoded_count(count, condensed.factor, condensed.decode_type) for count in counts)
    images = len(data.labels) if kind == WHOLE else sum(counts)
    equal = epochs_at_equal_steps(epochs, decoded, images, config.batch_size)
    return max(config.whole_epochs, equal) if kind == WHOLE else equal


def epochs_at_equal_steps(epochs: int, images: int, others: int, batch: int) -> int:
    """Epochs on `others` images that have as many steps, or the next more, as so many epochs on `images`."""
    return -(-steps(epochs, images, batch) // steps(1, others, batch))


def steps(epochs: int, images: int, batch: int) -> int:
    """The number of steps of a network in so many epochs on `images`, whose last batch may be smaller."""
    return epochs * -(-images // batch)


def protocol_of(config: EvaluateConfig, network: NetworkConfig, data: ImageData) -> dict[str, Any]:
    """The settings, and the fingerprints and scale of the data, that two accuracies must share to be comparable."""
    settings = settings_of(config)
    protocol = {name: settings[name] for name in with_role("evaluate", "protocol")}
    protocol |= {"space": data.space} if data.space == "zca" else {}
    protocol |= {"precision": config.precision} if config.precision != "float32" else {}
    protocol |= {"tests": data.test_fingerprint} if data.test_fingerprint else {}
    protocol |= {"width": network.width, "norm_type": network.norm_type, "data": data.fingerprint}
    return protocol | scale_of(data.mean, data.std)


def check_space(condensed: SyntheticSet, data: ImageData) -> None:
    """Raise `UserError` where networks would see the set in another space than the one that it was made in."""
    if condensed.space == "zca" != data.space:
        raise UserError(f"the set is in ZCA space, and {data.name} is not whitened; add --zca (zca=True in attar.load)")
    if data.space == "zca" != condensed.space:
        raise UserError(f"{data.name} is whitened (--zca), and the set is not in ZCA space; leave --zca out")


def check_tests(data: ImageData) -> None:
    """Raise `UserError` for data without test images."""
    if data.test_images is None:
        where = "put them in a folder test/<class>/* beside train/, or name data that have some with -d"
        raise UserError(f"{data.name} has no test images; {where}")


def check_set_fits(condensed: SyntheticSet, data: ImageData, *, tested: bool = True) -> None:
    """Raise `UserError` unless the set has the image shape, space and all classes of the data, and they a test set.

    tested: False where no test set is needed.
    """
    if tested:
        check_tests(data)
    if condensed.classes != data.classes:
        raise UserError(
            f"the set was made for other classes than {data.name} has: {different_classes(condensed, data)}"
        )
    if condensed.images.shape[1:] != data.images.shape[1:]:
        of_set, of_data = ("x".join(map(str, value.shape[1:])) for value in (condensed.images, data.images))
        height, width = condensed.images.shape[2:]
        advice = f"; --size {width} brings the data to that size" if height == width else ""
        raise UserError(f"the set holds images of {of_set}, the data of {of_data}{advice}")
    check_space(condensed, data)
    present = condensed.labels.unique().tolist()
    if len(present) < condensed.nclass:
        lacks = ", ".join(name for label, name in enumerate(condensed.classes) if label not in present)
        advice = "join all parts with `attar merge`" if condensed.recipe else "images of every class are needed"
        raise UserError(
            f"the set is a part: it holds {len(present)} of {condensed.nclass} classes, and lacks {lacks}; {advice}"
        )


def different_classes(condensed: SyntheticSet, data: ImageData) -> str:
    """What differs between the classes of a set and of real images, in full."""
    lost = [name for name in condensed.classes if name not in data.classes]
    new = [name for name in data.classes if name not in condensed.classes]
    parts = [
        f"{', '.join(names)} {where}"
        for names, where in ((lost, "only in the set"), (new, "only in the data"))
        if names
    ]
    if not parts:
        parts = [
            f"the same in another order, {', '.join(condensed.classes)} in the set, "
            f"{', '.join(data.classes)} in the data"
        ]
    return "; ".join(parts)
