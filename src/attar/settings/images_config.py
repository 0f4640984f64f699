"""The first settings of a condensation: the synthetic set, for how long it is made, and how its images move."""

from __future__ import annotations

from dataclasses import dataclass

from attar.settings import choices
from attar.settings.schema import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, Limits, setting


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """The first fields of `CondenseConfig`."""

    method: str = setting(
        "accdd",
        "accdd, idc, idc-i, dc, dsa, dm, ncfm, mtt, ftd, datm, tgdd, cim: brings its settings, flags go on top",
        choices=choices.METHOD_NAMES,
        of_method=True,
        fitted_to=("data",),
        panel="Set",
    )
    ipc: int = setting(10, "stored images per class", limits=AT_LEAST_ONE, role="set")
    factor: int = setting(
        2,
        "each stored image is a FACTOR x FACTOR grid of training images",
        "-f",
        limits=AT_LEAST_ONE,
        role="set",
        fitted_to=("data",),
    )
    init: str = setting(
        "mix",
        "mix (real images in every cell), random, noise, correct (a model has them right), a core-set as in select "
        "(herding, el2n, rded, ...), or a set: a run or export",
        fitted_to=("data",),
        read=choices.init_text,
    )
    decode_type: str = setting("single", "single, multi (all factors 1..f) or bound", choices=choices.DECODE_TYPE_NAMES)
    speedup: int = setting(
        10,
        "run the published number of outer iterations divided by SPEEDUP: 5, 10 or 20",
        limits=AT_LEAST_ONE,
        role="length",
        fitted_to=("minutes",),
        panel="Schedule",
    )
    niter: int | None = setting(
        None,
        "outer iterations, given in place of --speedup",
        limits=AT_LEAST_ONE,
        role="length",
        fitted_to=("data", "minutes"),
    )
    full_niter: int = setting(
        2000,
        "outer iterations that --speedup divides (IDC: 2000, ImageNet 500)",
        limits=AT_LEAST_ONE,
        role="length",
        fitted_to=("data",),
    )
    inner_loop: int = setting(
        100, "sweeps over the classes per outer iteration", limits=AT_LEAST_ONE, fitted_to=("data", "minutes")
    )
    lr_img: float = setting(
        5e-3,
        "image learning rate at ipc 10 and the usual side",
        limits=ABOVE_ZERO,
        fitted_to=("data",),
        panel="Image update",
    )
    mom_img: float = setting(
        0.5, "momentum of the image update", limits=Limits(0, 1, high_included=False), needs=("img_optim", ("sgd",))
    )
    base_size: int | None = setting(
        None,
        "the side at which --lr_img holds (default: the data set's own)",
        limits=AT_LEAST_ONE,
        needs=("lr_scaled", (True,)),
    )
    lr_scaled: bool = setting(
        True, "scale the image learning rate with ipc and side (IDC's rule)", of_method=True, fitted_to=("data",)
    )
    img_step: str = setting(
        "class",
        "class (a step after each class, as published) or sweep (one for their sum)",
        choices=choices.IMG_STEP_NAMES,
        of_method=True,
        fitted_to=("data",),
    )
    img_space: str = setting(
        "unit",
        "the pixels that a step moves: unit ([0, 1]) or normalized (by mean and std)",
        choices=choices.IMG_SPACE_NAMES,
        of_method=True,
    )
    img_optim: str = setting(
        "sgd",
        "optimiser of the images: sgd or adamw",
        choices=choices.IMG_OPTIMIZER_NAMES,
        of_method=True,
        fitted_to=("data",),
    )
    wd_img: float = setting(
        0.01,
        "weight decay of the images",
        limits=AT_LEAST_ZERO,
        of_method=True,
        needs=("img_optim", ("adamw",)),
    )
    clamp: bool = setting(True, "keep the images in [0, 1]; the authors of dc, dsa and dm do not")
    patience: int = setting(
        0,
        "halve the image learning rate after more than PATIENCE sweeps in a row without a lower loss; 0: never",
        limits=AT_LEAST_ZERO,
        of_method=True,
        fitted_to=("data",),
    )
    averaging_power: int = setting(
        0,
        "the set is the mean of the images over the sweeps, weighted with t^AVERAGING_POWER; 0: off",
        limits=AT_LEAST_ZERO,
        fitted_to=("data",),
    )
