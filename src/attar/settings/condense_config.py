"""The settings of a condensation: a section of a recipe, `[condense]`."""

from __future__ import annotations

from dataclasses import dataclass

from attar.settings import choices, plugins
from attar.settings.condense_checks import check_together
from attar.settings.images_config import ImagesConfig
from attar.settings.schema import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    PROBABILITY,
    check_values,
    setting,
)
from attar.settings.trajectory_config import TrajectoryConfig


@dataclass(frozen=True, kw_only=True)
class CondenseConfig(TrajectoryConfig, ImagesConfig):  # the fields of the last base come first
    """The synthetic set and how it moves, what is matched, where the network comes from and how it moves."""

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
        needs=("match", ("grad",)),
    )
    keep: str | None = setting(
        None,
        "match only the easiest:SHARE or hardest:SHARE real images of a class, by EL2N of the pool (PAD)",
        needs=("network_init", choices.PRETRAINED_INIT_NAMES),
    )
    aug_type: str = setting("color_crop_cutout", "Siamese augmentation of matching, joined with _ or -, or none")
    batch_real: int = setting(64, "real images per class and sweep", limits=AT_LEAST_ONE, fitted_to=("data",))
    select: str = setting(
        "random",
        "real images of a batch and of --init: random, or cluster (nearest to centres)",
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
    batch_syn_max: int = setting(128, "decoded images per class and sweep, at most", limits=AT_LEAST_ONE)
    network_init: str = setting(
        "pool",
        "the network: pool (an early-stage model), fresh, interpolated (between both) or epoch (after any)",
        choices=choices.NETWORK_INIT_NAMES,
        of_method=True,
        panel="Network update",
    )
    sweeps_per_network: int | None = setting(
        None,
        "sweeps that a network serves (default: those of an outer iteration)",
        limits=AT_LEAST_ONE,
        of_method=True,
        fitted_to=("data",),
    )
    warmup: int = setting(
        0,
        "epochs on real images that a fresh network is trained for first",
        limits=AT_LEAST_ZERO,
        of_method=True,
        needs=("network_init", ("fresh",)),
    )
    perturb: bool = setting(True, "perturb the weights of the network that is taken", of_method=True)
    vmin: float = setting(0.01, "smallest size of a perturbation", limits=AT_LEAST_ZERO, needs=("perturb", (True,)))
    vmax: float = setting(0.09, "largest size of a perturbation", limits=AT_LEAST_ZERO, needs=("perturb", (True,)))
    update: str = setting(
        "real",
        "what trains the network after each sweep: real images, the synthetic set, none",
        choices=choices.UPDATE_NAMES,
        of_method=True,
        fitted_to=("data",),
    )
    n_data: int = setting(
        500,
        "real images that the network sees after each sweep",
        limits=AT_LEAST_ZERO,
        needs=("update", ("real",)),
        fitted_to=("data",),
    )
    syn_epochs: int = setting(
        1,
        "epochs of update synthetic after each sweep",
        limits=AT_LEAST_ONE,
        of_method=True,
        needs=("update", ("synthetic",)),
    )
    lr: float = setting(
        0.01, "learning rate of the network", limits=ABOVE_ZERO, needs=("update", choices.TRAINING_UPDATE_NAMES)
    )
    momentum: float = setting(
        0.9, "momentum of the network", limits=AT_LEAST_ZERO, needs=("update", choices.TRAINING_UPDATE_NAMES)
    )
    weight_decay: float = setting(
        5e-4, "weight decay of the network", limits=AT_LEAST_ZERO, needs=("update", choices.TRAINING_UPDATE_NAMES)
    )
    batch_size: int = setting(
        64, "images per network step", limits=AT_LEAST_ONE, needs=("update", choices.TRAINING_UPDATE_NAMES)
    )
    mix_p: float = setting(
        0.5,
        "probability of CutMix in a network step; 0 turns it off",
        limits=PROBABILITY,
        needs=("update", choices.TRAINING_UPDATE_NAMES),
        fitted_to=("data",),
    )
    nclass_sub: int | None = setting(
        None,
        "condense in parts of NCLASS_SUB classes: all of them, or the one of --phase",
        limits=AT_LEAST_ONE,
        not_compared="a comparison condenses all classes together",
        panel="Run",
    )
    phase: int | None = setting(
        None,
        "condense only this part of NCLASS_SUB classes: 0, 1, ...",
        limits=AT_LEAST_ZERO,
        role="part",
        not_compared="a comparison condenses all classes together",
    )
    only: tuple[str, ...] = setting(
        (),
        "condense only these classes, by name",
        role="part",
        not_compared="a comparison condenses all classes together",
    )
    seed: int = setting(
        0,
        "seed of everything random in the run",
        limits=AT_LEAST_ZERO,
        role="set",
        not_compared="its seeds are listed in seeds",
    )
    precision: str = setting("float32", "float32, tf32 (NVIDIA GPUs) or bf16", choices=choices.PRECISION_NAMES)
    compile: str = setting(
        "auto",
        "compile the sweep and the network step: auto (long runs), on or off",
        choices=choices.COMPILE_NAMES,
        role="speed",
    )
    memory_gb: float | None = setting(
        None,
        "memory that the classes computed at once may take (default: what is free)",
        limits=ABOVE_ZERO,
        role="speed",
    )
    eval_at: tuple[int, ...] = setting(
        (),
        "evaluate after these outer iterations (0: as initialised)",
        limits=AT_LEAST_ZERO,
        not_compared="an evaluation during the run would count as time of the run",
    )
    curve: bool = setting(
        True,
        "without --eval_at and --minutes: evaluate now and then where that takes under a tenth of a longer run",
        role="speed",
        not_compared="an evaluation during the run would take time from the others",
    )
    model_path: tuple[str, ...] = setting(
        (),
        "pool folders or files (default: pool/<data set>-<network>)",
        role="place",
        needs=("network_init", choices.PRETRAINED_INIT_NAMES),
        not_compared="early-stage models are trained inside the comparison, so that their time counts",
    )
    plugin: tuple[str, ...] = setting((), "Python files that add losses, methods and so on", read=plugins.as_text)

    def __post_init__(self) -> None:
        check_values(self)
        check_together(self)

    @property
    def is_split(self) -> bool:
        """Whether all parts of a partition are asked for."""
        return self.nclass_sub is not None and self.phase is None

    @property
    def outer_iterations(self) -> int:
        """Outer iterations: `niter`, or the published number divided by `speedup` (Acc-DD section 4.1)."""
        return self.niter or max(1, self.full_niter // self.speedup)
