"""The published methods. There is one loop for all; a method is a layer of settings between recipe and overrides.

`means` says what is computed and always applies. The published numbers, `full`, go with the published recipes; a recipe
with a short schedule (digits, fashion-cpu, best, the user's own data on a CPU) keeps its schedule and batches, and gets
`short`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from attar.errors import UserError, choose
from attar.settings import plugins
from attar.settings import trajectory_tables as tables
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import Recipe
from attar.settings.schema import known_settings, typed

SectionValues = dict[str, Any]  # field → value

SHORT_TRAJECTORY = 8  # epochs of a model whose points are drawn from: of two there is hardly a trajectory
DSA_STRATEGY = "one_color_crop_cutout_flip_scale_rotate"


@dataclass(frozen=True)
class Method:
    """A published method as settings."""

    paper: str
    means: SectionValues = field(default_factory=dict)  # of [condense], as `full`, `short` and `fits`
    full: SectionValues = field(default_factory=dict)
    short: SectionValues = field(default_factory=dict)
    experts: SectionValues = field(default_factory=dict)  # of [pool]
    pool: SectionValues = field(default_factory=dict)  # of [pool], with the published recipes
    # The settings that depend on the recipe below and on the number of stored images per class
    fits: Callable[[Recipe, int], SectionValues] = lambda base, ipc: {}


# ---- shared by dc, dsa, dm and ncfm ----

# A new network for every few sweeps, and an image learning rate that is not scaled
NEW_NETWORKS: SectionValues = {
    "network_init": "fresh",
    "sweeps_per_network": 1,
    "perturb": False,
    "factor": 1,
    "init": "random",
    "decode_type": "single",
    "lr_scaled": False,
    "mom_img": 0.5,
    "mix_p": 0.0,
}
# One step for the sum of the classes' losses, in normalised pixels
SUMMED: SectionValues = NEW_NETWORKS | {"img_step": "sweep", "img_space": "normalized"}


def unmirrored(strategy: str, base: Recipe) -> str:
    """`strategy` without flip where the recipe trains its networks without flip: digits must not be mirrored."""
    return strategy if "flip" in base.pool.aug_type else strategy.replace("_flip", "")


def is_short(base: Recipe) -> bool:
    """Whether a recipe has a schedule that is shorter than the published one."""
    return base.condense.niter is not None


# ---- IDC: accdd's loop with a new network in every outer iteration ----


def idc_fits(base: Recipe, ipc: int) -> SectionValues:
    """The published image learning rate on CIFAR, and 10 epochs of warm-up for the fresh networks on ImageNet."""
    by_dataset: dict[str, SectionValues] = {
        "cifar10": {"lr_img": 5e-3},
        "cifar100": {"lr_img": 5e-3},
        "imagenet": {"warmup": 10},
    }
    return {} if is_short(base) else by_dataset.get(base.data.dataset, {})


IDC_PAPER = "Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022"
IDC: SectionValues = {"network_init": "fresh", "perturb": False}

# ---- DC and DSA: many steps of a network on the synthetic set, few of the images ----

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # ipc → see `dc_loops`
NETWORKS_PER_OUTER_ITERATION = 10  # the published code trains 1000 networks, each in an outer iteration
MAX_EPOCHS_OF_SHORT_SCHEDULE = 10


def dc_loops(ipc: int) -> tuple[int, int]:
    """(sweeps with one network, its epochs on the set after each): the published pair of the nearest lower ipc."""
    return LOOPS[max(lower for lower in LOOPS if lower <= max(ipc, 1))]


def dc_fits(base: Recipe, ipc: int) -> SectionValues:
    """How long a network is used. A short schedule keeps about its number of sweeps, and no network is cut short."""
    sweeps, epochs = dc_loops(ipc)
    if base.condense.niter is None:
        inner = NETWORKS_PER_OUTER_ITERATION * sweeps
        return {"sweeps_per_network": sweeps, "syn_epochs": epochs, "inner_loop": inner}
    inner = -(-base.condense.inner_loop // sweeps) * sweeps
    outer = max(1, base.condense.niter * base.condense.inner_loop // inner)
    epochs = min(epochs, MAX_EPOCHS_OF_SHORT_SCHEDULE)
    return {"sweeps_per_network": sweeps, "syn_epochs": epochs, "inner_loop": inner, "niter": outer}


DC: SectionValues = (
    SUMMED
    | {"match": "grad", "metric": "cos", "fc": True, "init": "noise", "aug_type": "none", "lr_img": 0.1}
    | {"update": "synthetic", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256}
)
DC_FULL: SectionValues = {"batch_real": 256, "full_niter": 1000 // NETWORKS_PER_OUTER_ITERATION, "speedup": 1}

# ---- NCFM ----


def ncfm_fits(base: Recipe, ipc: int) -> SectionValues:
    """SGD on CIFAR-100 at ipc 10, as its configuration has it. Factor 1 for images so small that the recipe has it."""
    values = {"img_optim": "sgd", "lr_img": 0.01} if base.data.dataset == "cifar100" and ipc == 10 else {}
    return values | ({"factor": 1, "init": "random"} if base.condense.factor == 1 else {})


# ---- TGDD ----


def tgdd_fits(base: Recipe, ipc: int) -> SectionValues:
    """The published image learning rate and weight of the cross-entropy; IDC's factor is the recipe's."""
    lr_img = (0.1 if tables.called(base.data.dataset) in tables.SUBSETS else 0.01) * ipc
    weight = {"lr_img": lr_img, "calibrate": 2.5 if ipc < 50 else 0.5}
    return weight | {"factor": base.condense.factor, "init": base.condense.init}


# ---- MTT ----

MTT: SectionValues = SUMMED | {
    **{"network_init": "pool", "match": "trajectory", "update": "none", "lr_img": 1000.0, "clamp": False},
}


def mtt_fits(base: Recipe, ipc: int, table: Callable[[str, int], SectionValues] = tables.mtt) -> SectionValues:
    """The published augmentation and, for the published recipes, the columns of the paper's table."""
    values = {} if is_short(base) else table(base.data.dataset, ipc)
    return values | {"aug_type": unmirrored(DSA_STRATEGY, base)}


# ---- all of them ----

METHODS: dict[str, Method] = {
    "accdd": Method("Zhang et al., Accelerating Dataset Distillation via Model Augmentation, CVPR 2023"),
    "idc": Method(
        IDC_PAPER,
        means=IDC,
        full={"speedup": 1},
        fits=idc_fits,
    ),
    "idc-i": Method(
        IDC_PAPER,  # without multi-formation
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
        fits=lambda base, ipc: dc_fits(base, ipc) | {"aug_type": unmirrored(DSA_STRATEGY, base)},
    ),
    "dm": Method(
        "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023",
        means=SUMMED | {"match": "feat", "metric": "mse", "update": "none", "lr_img": 1.0},
        full={"batch_real": 256, "inner_loop": 100, "full_niter": 200, "speedup": 1},
        fits=lambda base, ipc: {"aug_type": unmirrored(DSA_STRATEGY, base)},
    ),
    "ncfm": Method(
        "Wang et al., Dataset Distillation with Neural Characteristic Function, CVPR 2025",
        means=NEW_NETWORKS
        | {"img_step": "class", "img_space": "unit", "network_init": "interpolated", "match": "ncf", "update": "none"}
        | {"calibrate": 1.0, "frequencies": 4096, "aug_type": "color_crop_cutout", "patience": 500}
        | {"img_optim": "adamw", "lr_img": 1e-3, "wd_img": 5e-4}
        | {"factor": 2, "init": "mix"},
        full={"batch_real": 1024, "inner_loop": 100, "full_niter": 200, "speedup": 1},
        short={"frequencies": 1024, "patience": 100},
        pool={"models": 20, "epochs": 60, "batch_size": 128, "aug_type": "color_crop"},
        fits=ncfm_fits,
    ),
    "mtt": Method(
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022",
        means=MTT,
        full=tables.SCHEDULE,
        short=tables.SHORT,
        experts=tables.EXPERTS,
        pool=tables.PUBLISHED_POOL,
        fits=mtt_fits,
    ),
    "ftd": Method(
        "Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023",
        means=MTT | {"averaging_power": 3},
        full=tables.SCHEDULE,
        short=tables.SHORT,
        experts=tables.FLAT_EXPERTS,
        pool=tables.PUBLISHED_POOL | {"gsam_alpha": 1.0},
        fits=partial(mtt_fits, table=tables.ftd),
    ),
    "datm": Method(
        "Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024",
        means=MTT | {"init": "correct", "lr_y": 2.0, "threshold": 1.0},
        full=tables.SCHEDULE | {"full_niter": 100},
        short=tables.SHORT,
        experts=tables.FLAT_EXPERTS,
        pool=tables.PUBLISHED_POOL | {"epochs": 100},
        fits=partial(mtt_fits, table=tables.datm),
    ),
    "tgdd": Method(
        "Ran et al., TGDD: Trajectory Guided Dataset Distillation with Balanced Distribution, AAAI 2026",
        means=NEW_NETWORKS
        | {"network_init": "epoch", "img_step": "class", "img_space": "unit", "match": "feat", "metric": "mse"}
        | {"update": "none", "aug_type": "color_crop_cutout"},
        full={"batch_real": 128, "batch_syn_max": 200, "inner_loop": 100, "full_niter": 100, "speedup": 1},
        experts={"keep_epochs": True},
        pool={"models": 20, "epochs": 60},
        fits=tgdd_fits,
    ),
    "cim": Method(
        "CIM: Condensing Large-Scale Datasets Directly with Minimal Information Loss, ECCV 2026",
        means=NEW_NETWORKS
        | {"network_init": "pool", "sweeps_per_network": None, "match": "pairs", "init": "rded", "factor": 2}
        | {"update": "none"}
        | {"img_optim": "adamw", "img_step": "sweep", "lr_img": 0.01, "aug_type": "color_crop"}
        | {"wd_img": 0.0},  # AdamW's decay is of the residual there, and would be of the whole images here
        full={"inner_loop": 100, "full_niter": 2, "speedup": 1},
        pool={"epochs": 30},
    ),
}


class methods:
    """Methods of your own."""

    @staticmethod
    def register(name: str, *, base: str = "accdd", paper: str = "", **settings: Any) -> None:
        """Add a method: settings on top of another's.

        Args:
            name: small letters and digits; `method=name` then uses it.
            base: the method that it changes.
            paper: where it is described.
            settings: fields of `CondenseConfig`, such as match="mine", lr_img=0.1.

        Raises:
            UserError: for a name that is taken, an unknown base or setting.

        Example:
            attar.methods.register("mine", base="dm", lr_img=0.5)
            small = attar.condense("digits", ipc=1, method="mine")
        """
        of_base = METHODS[choose("method", base, METHODS)]
        values = typed(CondenseConfig, settings, f"method {name}: ")
        fits = of_base.fits
        made = replace(of_base, paper=paper, fits=lambda recipe, ipc: fits(recipe, ipc) | values)
        plugins.add("method", METHODS, name, made)


def method_of(name: str) -> Method:
    """The method of that name, registered ones included. Raises `UserError` for an unknown one."""
    registered = {key: entry.value for key, entry in plugins.REGISTERED["method"].items()}
    method: Method = (METHODS | registered)[choose("method", name, (*METHODS, *registered))]
    return method


def method_layer(name: str, base: Recipe, ipc: int) -> dict[str, SectionValues]:
    """The settings of a method on top of a data set's recipe: {section: {field: value}}.

    Raises `UserError` for an unknown method, and for a recipe that is already one of a method.
    """
    method = method_of(name)
    default = CondenseConfig()
    of_method = [field for field, details in known_settings(CondenseConfig).items() if details.of_method]
    if any(getattr(base.condense, field) != getattr(default, field) for field in of_method):
        raise UserError(
            f"the recipe has a method of its own, and {name} is asked for; leave --method or the recipe out"
        )
    schedule = method.short if is_short(base) else method.full
    condense = method.means | schedule | method.fits(base, ipc) | {"method": name}
    data = {"zca": condense.pop("zca")} if "zca" in condense else {}
    pool = method.experts | ({} if is_short(base) else method.pool)
    if is_short(base) and condense.get("network_init") == "epoch":
        pool["epochs"] = max(base.pool.epochs, SHORT_TRAJECTORY)
    pool |= {"gsam_alpha": condense.pop("gsam_alpha")} if "gsam_alpha" in condense else {}
    if condense.get("match") == "trajectory":  # an expert and its students see the same augmentation
        pool["aug_type"] = condense["aug_type"]
    sections = {"condense": condense, "pool": pool, "data": data}
    return {name: values for name, values in sections.items() if values}
