"""Settings of a condensation that exclude or need each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attar.errors import UserError, choose
from attar.settings import choices
from attar.settings.trajectory_config import check_trajectory

if TYPE_CHECKING:
    from attar.settings.condense_config import CondenseConfig


def check_together(config: CondenseConfig) -> None:
    """Raise `UserError` where settings of [condense] exclude each other."""
    choices.strategy_names(config.aug_type)  # raises for unknown operations
    if os.sep not in config.init:  # the path of a set
        choose("init", config.init, choices.INIT_NAMES)
    if config.vmax < config.vmin:
        raise UserError(f"vmax ({config.vmax}) must not be below vmin ({config.vmin})")
    if config.phase is not None and config.nclass_sub is None:
        raise UserError("phase needs nclass_sub: the number of classes of a part")
    if config.only and config.nclass_sub is not None:
        raise UserError("only and nclass_sub both say which classes are condensed; leave one out")
    if config.sweeps_per_network is not None and config.sweeps_per_network > config.inner_loop:
        raise UserError(
            f"sweeps_per_network ({config.sweeps_per_network}) must not be above inner_loop ({config.inner_loop}): a "
            f"network ends with its outer iteration"
        )
    if config.network_init == "fresh" and config.calibrate:
        raise UserError("calibrate needs trained networks: network_init pool or interpolated, not fresh")
    if config.network_init != "fresh" and config.warmup:
        raise UserError(f"warmup trains fresh networks, and network_init is {config.network_init}; leave it out")
    if config.init == "correct" and config.factor > 1:
        raise UserError("init correct takes whole images: it needs factor 1")
    choices.layer_range(config.match_layers)  # raises for anything else
    if config.keep is not None:
        choices.keep_share(config.keep)
    if config.match == "pairs" and (config.init != "rded" or config.factor == 1 or config.decode_type != "single"):
        raise UserError("match pairs needs init rded, a factor above 1 and decode_type single: crops in cells")
    if config.match in ("pairs", "trajectory"):
        check_real_images(config)
    if config.match == "trajectory":
        check_trajectory(config, vars(config))


def check_real_images(config: CondenseConfig) -> None:
    """Raise `UserError` for settings that choose real images of a batch, where `match` has no such batches."""
    if config.keep is not None:
        raise UserError(f"keep chooses the real images of a batch, and match {config.match} takes none; leave it out")
    if config.select == "cluster" and config.init not in ("mix", "random"):
        raise UserError(
            f"select cluster chooses the real images of a batch and of init mix or random, and match {config.match} "
            f"with init {config.init} takes none; leave it out"
        )
