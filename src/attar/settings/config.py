"""The settings of every stage as frozen dataclasses, the sections of a recipe, and queries of what is said at a field.

The command line, recipe files and Python all read the fields, so a setting is written once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attar.errors import UserError, choose, counted
from attar.settings import own
from attar.settings.choices import (
    ATTACK_NAMES,
    CHANNEL_AXIS_NAMES,
    KEPT_NAMES,
    OPTIMIZER_NAMES,
    PRECISION_NAMES,
    PRETRAINED_INIT_NAMES,
    YARDSTICK_NAMES,
    strategy_names,
)
from attar.settings.condense_config import CondenseConfig
from attar.settings.schema import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    PROBABILITY,
    Limits,
    check_values,
    known_settings,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which real images, and where they live while attar computes."""

    dataset: str = setting(
        "digits",
        "a known name, a folder of images, a parquet, npz, zip or tar file, or USER/NAME on Hugging Face",
        "-d",
        role="source",
        panel="Data",
    )
    nclass: int | None = setting(None, "use the first NCLASS classes (imagenet: 10 or 100)", limits=Limits(2))
    data_dir: str | None = setting(None, "the folder that holds the data set's files", role="place")
    size: int | None = setting(None, "resize the short side to SIZE and crop the centre", limits=AT_LEAST_ONE)
    image_column: str | None = setting(
        None, "the column of images of a table (default: the one of that type)", role="source"
    )
    label_column: str | None = setting(
        None, "the column of classes of a table (default: the one of that type)", role="source"
    )
    labels_csv: str | None = setting(None, "a table that says which image of the folder has which label", role="source")
    channels: str | None = setting(
        None,
        "first or last: where arrays have their channels (default: the axis of length 1, 3 or 4)",
        role="source",
        choices=CHANNEL_AXIS_NAMES,
    )
    test_fraction: float = setting(
        0.2,
        "the share of each class that is tested on where there is no test set",
        limits=Limits(0, 1, high_included=False),
    )
    test_seed: int = setting(0, "the seed that draws these images", limits=AT_LEAST_ZERO)
    zca: bool = setting(False, "whiten the images (ZCA) in place of normalising each channel")
    skip_bad: bool = setting(False, "leave unreadable images out", role="source")
    load_memory: bool = setting(False, "keep all images in memory, not in a cache on disk", role="place")
    cache_dir: str | None = setting(
        None, "where decoded images are cached (default: $ATTAR_CACHE or ~/.cache/attar)", role="place"
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, ...; auto takes a GPU when there is one", role="place")

    def __post_init__(self) -> None:
        check_values(self)


# Settings of [network] that other networks do not take, with the values that stand there instead
ONLY_OF_ATTAR = {"depth": None, "width": 1.0, "norm_type": "instance"}
GSAM = ("optimizer", ("gsam",))  # what settings of gsam need


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network that is trained, matched and evaluated."""

    net_type: str = setting(
        "convnet",
        "convnet, resnetap, resnet, densenet, timm:NAME, or module:function of your own",
        "-n",
        fitted_to=("data",),
        read=own.as_text,
        panel="Network",
    )
    depth: int | None = setting(
        None,
        "convnet: any (default 3); resnet, resnetap: 10 or 18 (default 10); densenet: 121",
        limits=AT_LEAST_ONE,
        fitted_to=("data",),
    )
    width: float = setting(
        1.0, "multiplies the channel counts (1.0 = 128 for convnet)", limits=ABOVE_ZERO, fitted_to=("data",)
    )
    norm_type: str = setting("instance", "instance, batch, layer, group or none")

    def __post_init__(self) -> None:
        check_values(self)
        for name, default in {} if ":" not in self.net_type else ONLY_OF_ATTAR.items():
            if getattr(self, name) != default:
                raise UserError(f"{name} is for attar's own networks; {own.without_digest(self.net_type)} says its own")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Early-stage models (Acc-DD section 3.2): N networks, each trained for a few epochs only."""

    epochs: int = setting(
        2,
        "epochs that each early-stage model is trained for",
        "--pt_from",
        limits=AT_LEAST_ONE,
        needs=("network_init", PRETRAINED_INIT_NAMES),
        fitted_to=("data", "minutes"),
        panel="Pool",
    )
    fraction: float = setting(
        1.0,
        "share of the training images that each epoch sees, drawn anew: early-stage models of large data",
        "--pt_fraction",
        limits=Limits(0, 1, low_included=False),
        needs=("network_init", PRETRAINED_INIT_NAMES),
    )
    models: int = setting(
        5,
        "number of early-stage models",
        "--model_num",
        limits=AT_LEAST_ONE,
        needs=("network_init", PRETRAINED_INIT_NAMES),
        fitted_to=("data", "minutes"),
    )
    seed: int = setting(
        0,
        "seed of the first model; the next ones count up",
        limits=AT_LEAST_ZERO,
        not_compared="each of its seeds trains other early-stage models",
    )
    lr: float = setting(0.01, "learning rate", limits=ABOVE_ZERO)
    momentum: float = setting(0.9, "momentum of SGD", limits=AT_LEAST_ZERO)
    weight_decay: float = setting(5e-4, "weight decay", limits=AT_LEAST_ZERO)
    batch_size: int = setting(64, "images per step", limits=AT_LEAST_ONE)
    optimizer: str = setting("sgd", "sgd, adam, adamw or gsam (SGD towards flat minima)", choices=OPTIMIZER_NAMES)
    gsam_rho: float = setting(0.01, "gsam: the length of its step uphill", limits=ABOVE_ZERO, needs=GSAM)
    gsam_alpha: float = setting(0.3, "gsam: weight of the gap of both gradients", limits=AT_LEAST_ZERO, needs=GSAM)
    lr_decay: bool = setting(True, "a fifth of the learning rate after 2/3 of the epochs, and again after 5/6")
    aug_type: str = setting("color_crop_cutout_flip_scale_rotate", "augmentation strategy, joined with _ or -, or none")
    mix_p: float = setting(
        0.5, "probability of CutMix in a batch; 0 turns it off", limits=PROBABILITY, fitted_to=("data",)
    )
    precision: str = setting("float32", "float32, tf32 (NVIDIA GPUs) or bf16", choices=PRECISION_NAMES)
    keep_epochs: bool = setting(False, "keep each model's start and every epoch: a trajectory, for mtt and its kin")
    keep_as: str = setting("bf16", "keep them as bf16 or float32", choices=KEPT_NAMES, needs=("keep_epochs", (True,)))

    def __post_init__(self) -> None:
        check_values(self)
        strategy_names(self.aug_type)  # raises for unknown operations

    @property
    def in_words(self) -> str:
        """How many models, and how long each is trained, such as `3 models of 1 epoch`."""
        words = f"{counted(self.models, 'model')} of {counted(self.epochs, 'epoch')}"
        return words + (f" over {self.fraction:g} of the images" if self.fraction < 1 else "")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Training fresh networks on the condensed set and testing them on real images."""

    networks: tuple[str, ...] = setting(
        (),
        "networks to train, such as convnet resnet18-batch timm:NAME module:function (default: the run's)",
        "-n",
        role="scope",
        read=own.as_text,
        panel="Evaluation",
    )
    runs: int = setting(3, "seeds per network", limits=AT_LEAST_ONE, role="scope")
    epochs: int | None = setting(
        None, "epochs (default: 1000, ImageNet by its decoded images per class)", limits=AT_LEAST_ONE, role="protocol"
    )
    whole_epochs: int = setting(
        30, "epochs on the whole set, and as many steps as on the small one", limits=AT_LEAST_ONE, role="protocol"
    )
    lr: float = setting(0.01, "learning rate", limits=ABOVE_ZERO, role="protocol")
    momentum: float = setting(0.9, "momentum of SGD", limits=AT_LEAST_ZERO, role="protocol")
    weight_decay: float = setting(5e-4, "weight decay", limits=AT_LEAST_ZERO, role="protocol")
    batch_size: int = setting(64, "images per step", limits=AT_LEAST_ONE, role="protocol")
    aug_type: str = setting(
        "color_crop_flip_scale_rotate", "augmentation strategy, joined with _ or -, or none", role="protocol"
    )
    mix_p: float = setting(0.5, "probability of CutMix in a batch; 0 turns it off", limits=PROBABILITY, role="protocol")
    precision: str = setting("float32", "float32, tf32 (NVIDIA GPUs) or bf16", choices=PRECISION_NAMES, role="speed")
    seed: int = setting(0, "seed of the first run; the next ones count up", limits=AT_LEAST_ZERO, role="scope")
    yardsticks: tuple[str, ...] = setting(
        YARDSTICK_NAMES, "what the accuracy is compared with: initial, random_real, whole, or none", role="scope"
    )
    plain: bool = setting(
        False, "train without augmentation and CutMix too, on the set and on random real images", role="scope"
    )
    attacks: tuple[str, ...] = setting(
        (), "test under attack too: fgsm, pgd (10 random-start steps of EPS / 4)", role="scope", choices=ATTACK_NAMES
    )
    attack_eps: float = setting(8.0, "how far an attack moves a pixel, of 255", limits=Limits(0.5, 255), role="scope")
    attack_images: int = setting(1000, "so many random test images are attacked", limits=AT_LEAST_ONE, role="scope")

    def __post_init__(self) -> None:
        check_values(self)
        strategy_names(self.aug_type)  # raises for unknown operations
        if self.yardsticks == ("none",):
            object.__setattr__(self, "yardsticks", ())
        for name in self.yardsticks:
            choose("yardstick", name, YARDSTICK_NAMES)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete configuration: everything that decides the numbers of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    condense: CondenseConfig = field(default_factory=CondenseConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "pool": PoolConfig,
    "condense": CondenseConfig,
    "evaluate": EvaluateConfig,
}


def with_role(section: str, *roles: str) -> tuple[str, ...]:
    """The settings of a section that have one of the roles, see `schema.ROLES`."""
    return tuple(name for name, details in known_settings(SECTIONS[section]).items() if details.role in roles)


def fitted_to(what: str) -> dict[str, tuple[str, ...]]:
    """{section: the settings that the user's own data ("data") or a time limit ("minutes") choose}."""
    return {
        section: tuple(name for name, details in known_settings(kind).items() if what in details.fitted_to)
        for section, kind in SECTIONS.items()
    }


def flags_of(section: str, *only: str) -> dict[str, tuple[str, str]]:
    """{long flag without dashes: (section, field)} of a section, or only of some of its fields."""
    table = {}
    for name, details in known_settings(SECTIONS[section]).items():
        if not only or name in only:
            for flag in (name, *details.names):
                if not flag.startswith("-") or flag.startswith("--"):
                    table[flag.lstrip("-")] = (section, name)
    return table


# verb → the settings that it takes; where two sections use the same flag, the last one has it
FLAGS: dict[str, dict[str, tuple[str, str]]] = {
    "pretrain": flags_of("data") | flags_of("network") | flags_of("pool") | flags_of("condense", "method", "plugin"),
    "condense": (
        flags_of("data") | flags_of("network") | flags_of("pool", "epochs", "fraction", "models") | flags_of("condense")
    ),
    "select": (
        flags_of("data")
        | flags_of("network")
        | flags_of("pool", "epochs", "fraction", "models")
        | flags_of("condense", "ipc", "factor", "seed")
    ),
    "evaluate": flags_of("data")
    | flags_of("network", "width", "norm_type")
    | flags_of("condense", "plugin")
    | flags_of("evaluate"),
    "add": flags_of("data"),
    "train": (
        flags_of("data")
        | flags_of("network", "width", "norm_type")
        | flags_of("condense", "plugin")
        | flags_of("evaluate", "seed", *with_role("evaluate", "protocol"))
    ),
    "label": (
        flags_of("data") | flags_of("network", "width", "norm_type") | flags_of("pool", "epochs", "models", "seed")
    ),
    "demo": flags_of("data", "device") | flags_of("condense", "ipc", "seed"),
    "inspect": flags_of("data") | flags_of("condense", "ipc", "method", "plugin"),
    "recipes": flags_of("condense", "ipc"),
    "export": {},
    "push": {},
}
