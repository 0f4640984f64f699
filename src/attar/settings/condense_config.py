"""The settings of a condensation: a section of a recipe, `[condense]`."""

from __future__ import annotations

from dataclasses import dataclass

from attar.settings import choices, plugins
from attar.settings.condense_checks import check_together
from attar.settings.images_config import ImagesConfig
from attar.settings.matching_config import MatchingConfig
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
class CondenseConfig(TrajectoryConfig, MatchingConfig, ImagesConfig):  # the fields of the last base come first
    """The synthetic set and how it moves, what is matched, where the network comes from and how it moves."""

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
    vmin: float = setting(
        0.01,
        "smallest perturbation, as a share of each filter's norm",
        limits=AT_LEAST_ZERO,
        needs=("perturb", (True,)),
    )
    vmax: float = setting(
        0.09, "largest perturbation, as a share of each filter's norm", limits=AT_LEAST_ZERO, needs=("perturb", (True,))
    )
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
        role="scope",
        limits=AT_LEAST_ZERO,
        not_compared="an evaluation during the run would count as time of the run",
    )
    curve: bool = setting(
        True,
        "without --eval_at: evaluate now and then where that takes under a tenth of the time of a longer run",
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
    def takes_pool(self) -> bool:
        """Whether early-stage models are trained; with fresh networks too where they choose real images."""
        return choices.takes_pool(self.network_init, self.keep, self.init)

    @property
    def set_at_first(self) -> str | None:
        """The set that a run begins with, a file or folder; None where it makes its first images."""
        return None if self.init in choices.INIT_NAMES else self.init

    @property
    def outer_iterations(self) -> int:
        """Outer iterations: `niter`, or the published number divided by `speedup` (Acc-DD section 4.1)."""
        return self.niter or max(1, self.full_niter // self.speedup)
