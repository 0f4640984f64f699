"""The names that settings with a fixed choice accept."""

from __future__ import annotations

import os
from typing import Any

from attar.errors import UserError, choose
from attar.settings import plugins

AUGMENTATION_NAMES = ("color", "crop", "cutout", "flip", "scale", "rotate", "resize")
ONE = "one"  # before the operations of a strategy: only one of them, drawn for each call (DSA, DM)
METRIC_NAMES = ("mse", "l1", "l1_mean", "cos", "orth")
METHOD_NAMES = ("accdd", "idc", "idc-i", "dc", "dsa", "dm", "ncfm", "mtt", "ftd", "datm", "tgdd", "cim")
NETWORK_INIT_NAMES = ("pool", "fresh", "interpolated", "epoch")
PRETRAINED_INIT_NAMES = (
    "pool",
    "interpolated",
    "epoch",
)  # those of NETWORK_INIT_NAMES that begin at early-stage models
FEATURE_MATCH_NAMES = ("feat", "ncf", "pairs")
BATCH_MATCH_NAMES = ("grad", "feat", "ncf")  # match random images of a class, a batch of each kind
MATCH_NAMES = ("grad", *FEATURE_MATCH_NAMES, "trajectory")
UPDATE_NAMES = ("real", "synthetic", "none")
TRAINING_UPDATE_NAMES = ("real", "synthetic")  # those of UPDATE_NAMES that train the network
IMG_STEP_NAMES = ("class", "sweep")
IMG_SPACE_NAMES = ("unit", "normalized")
IMG_OPTIMIZER_NAMES = ("sgd", "adamw")
EPOCH_SCORE_NAMES = ("forgetting", "aum", "ccs")  # need a model's epochs
MEAN_SCORE_NAMES = ("el2n", "grand")  # means over all models
SCORE_NAMES = (*MEAN_SCORE_NAMES, *EPOCH_SCORE_NAMES)
FEATURED_NAMES = ("herding", "kcenter", "moderate")
CORESET_NAMES = ("random", *FEATURED_NAMES, *SCORE_NAMES, "rded")
MODEL_INIT_NAMES = ("correct", *SCORE_NAMES, "rded")  # first images that early-stage models choose
GRID_NAMES = ("mix", *FEATURED_NAMES, *SCORE_NAMES)  # first images that are grids of real images
INIT_NAMES = ("mix", "random", "noise", "correct", *CORESET_NAMES[1:])
SELECT_NAMES = ("random", "cluster")
DECODE_TYPE_NAMES = ("single", "multi", "bound")
OPTIMIZER_NAMES = ("sgd", "adam", "adamw", "gsam")
KEPT_NAMES = ("bf16", "float32")
PRECISION_NAMES = ("float32", "tf32", "bf16")
COMPILE_NAMES = ("auto", "on", "off")
CHANNEL_AXIS_NAMES = ("first", "last")
NETWORKS = {  # name: what it is, for people
    "convnet": "ConvNet of any depth, 3 by default (convnet4); the usual one of the field",
    "resnet": "ResNet-10 or 18 (resnet10, resnet18)",
    "resnetap": "ResNet-10 or 18 with average pooling; the usual one for ImageNet",
    "densenet": "DenseNet-121",
    "timm:NAME": "any network of the package timm",
    "module:function": "a network of your own: a function of channels, nclass and size",
}
YARDSTICK_NAMES = ("initial", "random_real", "whole")
ATTACK_NAMES = ("fgsm", "pgd")


def init_text(value: Any) -> Any:
    """One of INIT_NAMES, or the path of a set, which has a separator in it."""
    is_place = isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.exists(value))
    if not is_place or value in INIT_NAMES:
        return value
    path = os.fspath(value)
    return path if os.sep in path else os.path.join(os.curdir, path)


def strategy_names(strategy: str) -> tuple[str, ...]:
    """The operations of an augmentation strategy: 'color_crop' is ('color', 'crop'), so is 'color-crop', 'none' is ().

    'one_color_crop' is ('one', 'color', 'crop'): either of the two.

    Raises `UserError` for an unknown operation and for one that is named twice.
    """
    names = written_names(strategy)
    for name in names[names[:1] == (ONE,) :]:
        choose("augmentation", name, (*AUGMENTATION_NAMES, *plugins.names("augmentation")))
    if names == (ONE,):
        raise UserError(f"augmentation '{strategy}' names no operation; one_color_crop is either of the two")
    if len(set(names)) < len(names):
        raise UserError(f"augmentation '{strategy}' names an operation twice")
    return names


def written_names(strategy: str) -> tuple[str, ...]:
    """The parts of an augmentation strategy, unchecked: operations of the user's own may not be registered here."""
    text = strategy.strip().lower()
    return () if text in ("none", "") else tuple(text.replace("-", "_").split("_"))


def takes_pool(network_init: str, keep: str | None, init: str) -> bool:
    """Whether early-stage models are trained: networks begin at them, or they choose real images."""
    return network_init in PRETRAINED_INIT_NAMES or keep is not None or init in MODEL_INIT_NAMES


def keep_share(text: str) -> tuple[str, float]:
    """'easiest:0.8' is ('easiest', 0.8). Raises `UserError` for anything else."""
    side, _, share = text.partition(":")
    value = _share(share)
    if side not in ("easiest", "hardest") or not 0 < value <= 1:
        raise UserError(f"keep must be easiest:SHARE or hardest:SHARE, a share above 0 and at most 1, not '{text}'")
    return side, value


def layer_range(text: str) -> tuple[float, float]:
    """'0.25:' is (0.25, 1.0), ':0.5' is (0.0, 0.5). Raises `UserError` for anything else."""
    first, colon, last = text.partition(":")
    low, high = _share(first or "0"), _share(last or "1")
    if not colon or not 0 <= low < high <= 1:
        raise UserError(f"match_layers must be FROM:TO, shares between 0 and 1, FROM below TO, not '{text}'")
    return low, high


def _share(text: str) -> float:
    """A number, NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
