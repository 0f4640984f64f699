"""Methods: which settings each stands for, with its paper. There is one loop, and a method is a layer of its settings.

The layer lies between the data set's recipe and what a user gives. `means` says what is computed and holds everywhere.
The published numbers, `full`, go with the published recipes; a recipe with a schedule of its own (digits, `-cpu`, data
of one's own on a CPU) keeps its schedule and batches, and gets `short`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attar.errors import UserError, choose
from attar.settings.config import LEARNS, SECTIONS, CondenseConfig, Recipe
from attar.settings.schema import known_settings

Values = dict[str, Any]
Sections = dict[str, Values]

DSA = "color_crop_cutout_flip_scale_rotate"


@dataclass(frozen=True)
class Method:
    """A published method as settings."""

    paper: str
    means: Values = field(default_factory=dict)  # of [condense]
    full: Values = field(default_factory=dict)
    short: Values = field(default_factory=dict)
    pool: Values = field(default_factory=dict)  # of [pool], with the published recipes
    fits: Callable[[Recipe, int], Values] = lambda base, ipc: {}  # what depends on the recipe and on ipc, of [condense]


# ---- what the neighbours share ----

# A new network for every few sweeps, and the image learning rate as it stands
RENEWED: Values = {
    **{
        "network_init": "fresh",
        "sweeps_per_network": 1,
        "perturb": False,
        "factor": 1,
        "init": "random",
        "decode_type": "single",
    },
    **{"lr_scaled": False, "mom_img": 0.5, "mix_p": 0.0},
}
# One step for the sum of the classes' losses, in normalised pixels
SUMMED: Values = RENEWED | {"img_step": "sweep", "img_space": "normalized"}


def unmirrored(strategy: str, base: Recipe) -> str:
    """`strategy` without flip where the recipe's networks see none: a mirrored digit is another sign."""
    return strategy if "flip" in base.pool.aug_type else strategy.replace("_flip", "")


def is_short(base: Recipe) -> bool:
    """Whether a recipe has a schedule of its own, not the published one."""
    return base.condense.niter is not None


# ---- IDC: accdd's loop with a new network in every outer iteration ----


def idc_fits(base: Recipe, ipc: int) -> Values:
    """The published image learning rate on CIFAR; fresh networks are trained for 10 epochs on ImageNet."""
    of_data: dict[str, Values] = {"cifar10": {"lr_img": 5e-3}, "cifar100": {"lr_img": 5e-3}, "imagenet": {"warmup": 10}}
    return {} if is_short(base) else of_data.get(base.data.dataset, {})


IDC: Values = {"network_init": "fresh", "perturb": False}

# ---- DC and DSA: many steps of a network on the synthetic set, few of the images ----

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # ipc → (outer, inner)
NETWORKS = 10  # that an outer iteration of attar's sees, of the published 1000
SHORT_EPOCHS = 10  # at most, where the schedule is short


def dc_loops(ipc: int) -> tuple[int, int]:
    """(sweeps with one network, its epochs on the set after each): the published pair of the nearest lower ipc."""
    return LOOPS[max(known for known in LOOPS if known <= max(ipc, 1))]


def dc_fits(base: Recipe, ipc: int) -> Values:
    """How long a network serves; a short schedule keeps about its sweeps, in outer iterations of whole networks."""
    sweeps, epochs = dc_loops(ipc)
    if base.condense.niter is None:
        return {"sweeps_per_network": sweeps, "syn_epochs": epochs, "inner_loop": NETWORKS * sweeps}
    inner = -(-base.condense.inner_loop // sweeps) * sweeps
    outer = max(1, base.condense.niter * base.condense.inner_loop // inner)
    return {"sweeps_per_network": sweeps, "syn_epochs": min(epochs, SHORT_EPOCHS), "inner_loop": inner, "niter": outer}


DC: Values = SUMMED | {
    **{"match": "grad", "metric": "cos", "fc": True, "init": "noise", "aug_type": "none"},
    **{"update": "synthetic", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256, "lr_img": 0.1},
}
DC_FULL: Values = {"batch_real": 256, "full_niter": 1000 // NETWORKS, "speedup": 1}

# ---- NCFM ----


def ncfm_fits(base: Recipe, ipc: int) -> Values:
    """AdamW on CIFAR-10 with ipc 10, one step a sweep; no grid where the images are too small for one."""
    adamw: Values = {"img_optim": "adamw", "img_step": "sweep"}
    values = adamw if base.data.dataset == "cifar10" and ipc == 10 else {}
    return values | ({"factor": 1, "init": "random"} if base.condense.factor == 1 else {})


# ---- all of them ----

METHODS: dict[str, Method] = {
    "accdd": Method("Zhang et al., Accelerating Dataset Distillation via Model Augmentation, CVPR 2023"),
    "idc": Method(
        "Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022",
        means=IDC,
        full={"speedup": 1},
        fits=idc_fits,
    ),
    "idc-i": Method(
        "Kim et al., ICML 2022: IDC without multi-formation",
        means=IDC | {"factor": 1, "init": "random", "decode_type": "single"},
        full={"speedup": 1},
        fits=idc_fits,
    ),
    "dc": Method(
        "Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021", means=DC, full=DC_FULL, fits=dc_fits
    ),
    "dsa": Method(
        "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021",
        means=DC | {"init": "random"},
        full=DC_FULL,
        fits=lambda base, ipc: dc_fits(base, ipc) | {"aug_type": unmirrored(DSA, base)},
    ),
    "dm": Method(
        "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023",
        means=SUMMED | {"match": "feat", "metric": "mse", "update": "none", "lr_img": 1.0},
        full={"batch_real": 256, "inner_loop": 100, "full_niter": 200, "speedup": 1},
        fits=lambda base, ipc: {"aug_type": unmirrored(DSA, base)},
    ),
    "ncfm": Method(
        "Wang et al., Dataset Distillation with Neural Characteristic Function, CVPR 2025",
        means=RENEWED
        | {
            **{
                "img_step": "class",
                "img_space": "unit",
                "network_init": "interpolated",
                "match": "ncf",
                "update": "none",
                "calibrate": 1.0,
                "frequencies": 4096,
            },
            **{"aug_type": "color_crop_cutout", "lr_img": 0.01, "patience": 500, "factor": 2, "init": "mix"},
        },
        full={"batch_real": 1024, "inner_loop": 100, "full_niter": 200, "speedup": 1},
        short={"frequencies": 1024, "patience": 100},
        pool={"models": 20, "epochs": 60},
        fits=ncfm_fits,
    ),
}


def method_layer(name: str, base: Recipe, ipc: int) -> Sections:
    """The settings that a method stands for, on top of a data set's recipe: {section: {field: value}}."""
    method = METHODS[choose("method", name, METHODS)]
    plain = CondenseConfig()
    decided = [item for item, known in known_settings(CondenseConfig).items() if known.of_method]
    if any(getattr(base.condense, item) != getattr(plain, item) for item in decided):
        raise UserError(
            f"the recipe has a method of its own, and {name} is asked for; leave --method or the recipe out"
        )
    schedule = method.short if is_short(base) else method.full
    condense = method.means | schedule | method.fits(base, ipc) | {"method": name}
    return {"condense": condense} | ({} if is_short(base) or not method.pool else {"pool": dict(method.pool)})


# ---- what means nothing with other settings ----


def check_explicit(explicit: Mapping[str, Mapping[str, Any]], condense: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting that was asked for and means nothing with the others (`condense`, complete)."""
    for section, values in explicit.items():
        known = known_settings(SECTIONS[section])
        for name, value in values.items():
            if value is False or known[name].needs is None:
                continue
            other, wanted = known[name].needs or ("", ())
            if wanted == LEARNS and condense["warmup"]:  # a network learns while it is warmed up
                continue
            if condense[other] not in wanted:
                _refuse(name, condense["method"], f"{other} {_words(condense[other])}", f"{other} {_either(wanted)}")


def _refuse(name: str, method: str, has: str, needs: str) -> None:
    raise UserError(f"method {method} takes no {name} here: it has {has}, and {name} needs {needs}; leave one out")


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(map(_words, values))


def _words(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
