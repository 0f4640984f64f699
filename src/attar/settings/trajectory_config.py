"""The settings of [condense] for `match` trajectory: a part of an expert's training is what the set is to repeat."""

from __future__ import annotations

from dataclasses import dataclass

from attar.errors import UserError
from attar.settings.schema import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, setting

TRAJECTORY = ("match", ("trajectory",))


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """Where a student starts, how many steps it makes on the set, which point it is to reach, and what it learns."""

    syn_steps: int = setting(
        20,
        "steps of a student on the set, from a point of an expert's trajectory",
        limits=AT_LEAST_ONE,
        needs=TRAJECTORY,
        panel="Trajectories",
    )
    expert_epochs: int = setting(
        2,
        "epochs of the expert from that point to the one that the student is to reach",
        limits=AT_LEAST_ONE,
        needs=TRAJECTORY,
    )
    min_start_epoch: int = setting(
        0, "the first epoch of the expert after which a student may start", limits=AT_LEAST_ZERO, needs=TRAJECTORY
    )
    max_start_epoch: int = setting(20, "students start before this epoch", limits=AT_LEAST_ONE, needs=TRAJECTORY)
    current_max_start_epoch: int | None = setting(
        None,
        "the same at the first iteration, growing from there (default: it does not grow)",
        limits=AT_LEAST_ONE,
        needs=TRAJECTORY,
    )
    expansion_end_epoch: int = setting(1000, "iterations over which it grows", limits=AT_LEAST_ONE, needs=TRAJECTORY)
    batch_syn: int | None = setting(
        None, "decoded images of a student's step, at most all (default: all)", limits=AT_LEAST_ONE, needs=TRAJECTORY
    )
    lr_teacher: float = setting(
        0.01, "the students' learning rate at the start; it is learned", limits=ABOVE_ZERO, needs=TRAJECTORY
    )
    lr_lr: float = setting(1e-5, "learning rate of that learning rate", limits=AT_LEAST_ZERO, needs=TRAJECTORY)
    lr_y: float = setting(
        0.0, "learning rate of the labels' logits; 0: hard labels that stay", limits=AT_LEAST_ZERO, needs=TRAJECTORY
    )
    threshold: float | None = setting(
        None,
        "skip the step of an iteration whose loss is above it (default: skip none)",
        limits=ABOVE_ZERO,
        needs=TRAJECTORY,
    )
    clip_img: float | None = setting(
        None,
        "shorten an image's gradient that would move its pixels further, root mean square in [0, 1] (default: none)",
        limits=ABOVE_ZERO,
        needs=TRAJECTORY,
    )

    @property
    def last_epoch(self) -> int:
        """The last epoch of an expert that is ever used."""
        return self.max_start_epoch - 1 + self.expert_epochs

    def latest_start(self, iteration: int) -> int:
        """Students start before this epoch in an iteration, counted from 0 (DATM's growing window)."""
        first = self.current_max_start_epoch
        if first is None:
            return self.max_start_epoch
        grown = first + (self.max_start_epoch - first) * iteration // self.expansion_end_epoch
        return min(self.max_start_epoch, grown)


def check_trajectory(config: TrajectoryConfig, others: dict[str, object]) -> None:
    """Raise `UserError` where settings of trajectories exclude each other, or `others` of [condense]."""
    first = config.current_max_start_epoch
    latest = config.max_start_epoch if first is None else first
    if not config.min_start_epoch < latest <= config.max_start_epoch:
        name = "max_start_epoch" if first is None else "current_max_start_epoch"
        raise UserError(
            f"{name} ({latest}) must be above min_start_epoch ({config.min_start_epoch}), and at most max_start_epoch "
            f"({config.max_start_epoch})"
        )
    needed = {"network_init": "pool", "update": "none", "img_step": "sweep", "perturb": False, "calibrate": 0.0}
    for name, value in needed.items():
        if others[name] != value:
            raise UserError(f"match trajectory needs {name} {value}, not {others[name]}")
    if others["nclass_sub"] is not None or others["only"]:
        raise UserError(
            "match trajectory cannot condense in parts: its loss is of networks that learn all classes together; leave "
            "nclass_sub and only out"
        )
    if config.clip_img is not None and others["img_optim"] != "sgd":
        raise UserError(
            f"clip_img is for img_optim sgd: a step of {others['img_optim']} does not grow with the gradient"
        )
    if config.lr_y and (others["factor"], others["decode_type"]) != (1, "single"):
        raise UserError("learned labels (lr_y) need factor 1: a stored image then has one label")
