"""The settings of [condense] that say what of the real and the synthetic images is compared, and which real ones."""

from __future__ import annotations

from dataclasses import dataclass

from attar.settings import choices
from attar.settings.schema import AT_LEAST_ONE, AT_LEAST_ZERO, setting


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """The distance, what it is taken of, and the real images of a batch."""

    metric: str = setting(
        "mse",
        "distance between gradients or features: mse, l1, l1_mean, cos or orth (of directions)",
        choices=choices.METRIC_NAMES,
        needs=("match", ("grad", "feat")),
        fitted_to=("data",),
        panel="Matching",
    )
    match: str = setting(
        "grad",
        "grad (class gradients), feat (means of features), ncf (their distribution), pairs (of cells and crops) or "
        "trajectory",
        choices=choices.MATCH_NAMES,
        of_method=True,
        fitted_to=("data",),
    )
    frequencies: int = setting(
        4096,
        "frequencies at which match ncf compares characteristic functions",
        limits=AT_LEAST_ONE,
        needs=("match", ("ncf",)),
        fitted_to=("data",),
    )
    calibrate: float = setting(
        0.0,
        "weight of a trained network's cross-entropy on the set, after each sweep, or in it (network_init epoch)",
        limits=AT_LEAST_ZERO,
        of_method=True,
    )
    calibrate_epochs: int = setting(
        7,
        "that network is the drawn model after one of so many epochs, from the matching one's own on",
        limits=AT_LEAST_ONE,
        needs=("network_init", ("epoch",)),
    )
    bias: bool = setting(
        False, "match the gradients of biases and norm parameters too", of_method=True, needs=("match", ("grad",))
    )
    fc: bool = setting(
        False, "match the gradient of the last linear layer too", of_method=True, needs=("match", ("grad",))
    )
    match_layers: str = setting(
        ":",
        "match only these layers, FROM:TO as shares from the input on: 0.25: leaves the first quarter out (PAD)",
        needs=("match", ("grad", "trajectory")),
    )
    keep: str | None = setting(
        None,
        "match only the easiest:SHARE or hardest:SHARE real images of a class, by EL2N of the pool (PAD)",
    )
    aug_type: str = setting("color_crop_cutout", "Siamese augmentation of matching, joined with _ or -, or none")
    batch_real: int = setting(
        64,
        "real images per class and sweep",
        limits=AT_LEAST_ONE,
        needs=("match", choices.BATCH_MATCH_NAMES),
        fitted_to=("data",),
    )
    select: str = setting(
        "random",
        "real images of a batch and of --init mix or random: at random, or cluster (nearest to centres)",
        choices=choices.SELECT_NAMES,
        fitted_to=("data",),
    )
    select_every: int = setting(
        10,
        "with --select cluster: inner iterations between two clusterings",
        limits=AT_LEAST_ONE,
        needs=("select", ("cluster",)),
    )
    select_from: int | None = setting(
        None,
        "with --select cluster: images of a class to look at (default: all)",
        limits=AT_LEAST_ONE,
        needs=("select", ("cluster",)),
        fitted_to=("data",),
    )
    batch_syn_max: int = setting(
        128,
        "decoded images per class and sweep, at most",
        limits=AT_LEAST_ONE,
        needs=("match", (*choices.BATCH_MATCH_NAMES, "pairs")),
    )
