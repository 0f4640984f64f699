"""The settings of every stage: frozen values, checked when they are made, nothing else.

A field is written once. Its metadata carry the flag's names and its help, so the command line, recipe files and Python
all read the same table.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from attar.errors import UserError, choose
from attar.settings.schema import above_zero, at_least, known_settings, probability, setting

AUGMENTATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
METRICS = ("mse", "l1", "l1_mean", "cos")
METHODS = ("accdd", "idc", "idc-i", "dc", "dsa", "dm", "ncfm")
NETWORK_INITS = ("pool", "fresh", "interpolated")
MATCHES = ("grad", "feat", "ncf")
UPDATES = ("real", "synthetic", "none")
STEPS = ("class", "sweep")
SPACES = ("unit", "normalized")
IMAGE_OPTIMIZERS = ("sgd", "adamw")
INITS = ("mix", "random", "noise")
SELECTS = ("random", "cluster")
DECODES = ("single", "multi", "bound")
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("float32", "tf32", "bf16")
COMPILE = ("auto", "on", "off")
TRAINED = ("pool", "interpolated")  # where networks come from that were trained before
LEARNS = ("real", "synthetic")  # what a network learns from after each sweep
YARDSTICKS = ("initial", "random_real", "whole")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which real images, and where they live while attar computes."""

    dataset: str = setting(
        "digits", "a known name, a folder of images, parquet, or USER/NAME on Hugging Face", "-d", role="source"
    )
    nclass: int | None = setting(None, "use the first NCLASS classes (imagenet: 10 or 100)", role="images")
    data_dir: str | None = setting(None, "the folder that holds the data set's files", role="place")
    size: int | None = setting(None, "resize the short side to SIZE and crop the centre")
    image_column: str | None = setting(
        None, "the column of images of a table (default: the one of that type)", role="source"
    )
    label_column: str | None = setting(
        None, "the column of classes of a table (default: the one of that type)", role="source"
    )
    test_fraction: float = setting(0.2, "the share of each class that is tested on where there is no test set")
    test_seed: int = setting(0, "which images those are")
    skip_bad: bool = setting(False, "leave unreadable images out", role="source")
    load_memory: bool = setting(False, "keep all images in memory, not in a cache on disk", role="place")
    cache_dir: str | None = setting(
        None, "where decoded images are cached (default: $ATTAR_CACHE or ~/.cache/attar)", role="place"
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, ...; auto takes a GPU when there is one", role="place")

    def __post_init__(self) -> None:
        at_least(self, 2, "nclass")
        at_least(self, 1, "size")
        at_least(self, 0, "test_seed")
        if not 0 <= self.test_fraction < 1:
            raise UserError(f"test_fraction must be at least 0 and below 1, not {self.test_fraction}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network that is trained, matched and evaluated."""

    net_type: str = setting("convnet", "convnet, resnetap, resnet or densenet", "-n", fitted_to=("data",))
    depth: int | None = setting(
        None, "convnet: any (default 3); resnet, resnetap: 10 or 18 (default 10); densenet: 121", fitted_to=("data",)
    )
    width: float = setting(1.0, "multiplies the channel counts (1.0 = 128 for convnet)", fitted_to=("data",))
    norm_type: str = setting("instance", "instance, batch, layer, group or none")

    def __post_init__(self) -> None:
        at_least(self, 1, "depth")
        above_zero(self, "width")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Early-stage models (Acc-DD section 3.2): N networks, each trained for a few epochs only."""

    epochs: int = setting(
        2,
        "epochs that each early-stage model is trained for",
        "--pt_from",
        needs=("network_init", TRAINED),
        fitted_to=("data", "minutes"),
    )
    fraction: float = setting(
        1.0,
        "share of the training images that each epoch sees, drawn anew: early-stage models of large data",
        "--pt_fraction",
        needs=("network_init", TRAINED),
    )
    models: int = setting(
        5, "number of early-stage models", "--model_num", needs=("network_init", TRAINED), fitted_to=("data", "minutes")
    )
    seed: int = setting(
        0,
        "seed of the first model; the next ones count up",
        not_compared="every seed of seeds has early-stage models of its own",
    )
    lr: float = setting(0.01, "learning rate")
    momentum: float = setting(0.9, "momentum of SGD")
    weight_decay: float = setting(5e-4, "weight decay")
    batch_size: int = setting(64, "images per step")
    optimizer: str = setting("sgd", "sgd, adam or adamw")
    aug_type: str = setting("color_crop_cutout_flip_scale_rotate", "augmentation strategy, joined with _ or -, or none")
    mix_p: float = setting(0.5, "probability of CutMix in a batch; 0 turns it off", fitted_to=("data",))

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "models", "batch_size")
        at_least(self, 0, "seed", "momentum", "weight_decay")
        above_zero(self, "lr", "fraction")
        probability(self, "mix_p", "fraction")
        choose("optimizer", self.optimizer, OPTIMIZERS)
        check_strategy(self.aug_type)

    @property
    def span(self) -> str:
        """How long each model is trained, in words."""
        return f"{self.epochs} epochs" + (f" over {self.fraction:g} of the images" if self.fraction < 1 else "")


@dataclass(frozen=True, kw_only=True)
class CondenseConfig:
    """The synthetic set, where the network comes from, what is matched, how images and network move, and how long."""

    method: str = setting(
        "accdd", "accdd, idc, idc-i, dc, dsa, dm or ncfm: sets what follows, flags go on top", of_method=True
    )
    ipc: int = setting(10, "stored images per class", role="set")
    factor: int = setting(
        2, "each stored image is a FACTOR x FACTOR grid of training images", "-f", role="set", fitted_to=("data",)
    )
    init: str = setting("mix", "mix (real images in every cell), random (real images) or noise", fitted_to=("data",))
    decode_type: str = setting("single", "single, multi (all factors 1..f) or bound")
    speedup: int = setting(
        10, "run the published number of outer iterations divided by SPEEDUP: 5, 10 or 20", role="length"
    )
    niter: int | None = setting(
        None, "outer iterations; overrides --speedup", role="length", fitted_to=("data", "minutes")
    )
    full_niter: int = setting(
        2000, "outer iterations that --speedup divides (IDC: 2000, ImageNet 500)", role="length", fitted_to=("data",)
    )
    inner_loop: int = setting(100, "sweeps over the classes per outer iteration", fitted_to=("data", "minutes"))
    lr_img: float = setting(5e-3, "image learning rate at ipc 10 and the usual side", fitted_to=("data",))
    mom_img: float = setting(0.5, "momentum of the image update", needs=("img_optim", ("sgd",)))
    base_size: int | None = setting(
        None, "the side at which --lr_img holds (default: the data set's own)", needs=("lr_scaled", (True,))
    )
    lr_scaled: bool = setting(True, "scale the image learning rate with ipc and side (IDC's rule)", of_method=True)
    img_step: str = setting(
        "class", "class (a step after each class, as published) or sweep (one for their sum)", of_method=True
    )
    img_space: str = setting(
        "unit", "the pixels that a step moves: unit ([0, 1]) or normalized (by mean and std)", of_method=True
    )
    img_optim: str = setting("sgd", "optimiser of the images: sgd or adamw", of_method=True)
    patience: int = setting(
        0, "halve the image learning rate after PATIENCE sweeps without a lower loss; 0: never", of_method=True
    )
    averaging_power: int = setting(
        0,
        "the set is the mean of the images over the sweeps, weighted with t^AVERAGING_POWER; 0: off",
        fitted_to=("data",),
    )
    metric: str = setting(
        "mse",
        "distance between gradients or features: mse, l1, l1_mean or cos",
        needs=("match", ("grad", "feat")),
        fitted_to=("data",),
    )
    match: str = setting(
        "grad", "grad (class gradients), feat (means of features) or ncf (their distribution)", of_method=True
    )
    frequencies: int = setting(
        4096,
        "frequencies at which match ncf compares characteristic functions",
        needs=("match", ("ncf",)),
        fitted_to=("data",),
    )
    calibrate: float = setting(
        0.0, "weight of a trained network's cross-entropy on the set, a step after each sweep", of_method=True
    )
    bias: bool = setting(
        False, "match the gradients of biases and norm parameters too", of_method=True, needs=("match", ("grad",))
    )
    fc: bool = setting(
        False, "match the gradient of the last linear layer too", of_method=True, needs=("match", ("grad",))
    )
    aug_type: str = setting("color_crop_cutout", "Siamese augmentation of matching, joined with _ or -, or none")
    batch_real: int = setting(64, "real images per class and sweep", fitted_to=("data",))
    select: str = setting(
        "random",
        "real images of a batch and of --init: random, or cluster (nearest to centres)",
        fitted_to=("data",),
    )
    select_every: int = setting(
        10, "with --select cluster: inner iterations between two clusterings", needs=("select", ("cluster",))
    )
    select_from: int | None = setting(
        None,
        "with --select cluster: images of a class to look at (default: all)",
        needs=("select", ("cluster",)),
        fitted_to=("data",),
    )
    batch_syn_max: int = setting(128, "decoded images per class and sweep, at most")
    network_init: str = setting(
        "pool", "the network: pool (an early-stage model), fresh, or interpolated (between both)", of_method=True
    )
    sweeps_per_network: int | None = setting(
        None, "sweeps that a network serves (default: those of an outer iteration)", of_method=True
    )
    warmup: int = setting(
        0,
        "epochs on real images that a fresh network is trained for first",
        of_method=True,
        needs=("network_init", ("fresh",)),
    )
    perturb: bool = setting(True, "perturb the weights of the network that is taken", of_method=True)
    vmin: float = setting(0.01, "smallest size of a perturbation", needs=("perturb", (True,)))
    vmax: float = setting(0.09, "largest size of a perturbation", needs=("perturb", (True,)))
    update: str = setting(
        "real", "what trains the network after each sweep: real images, the synthetic set, none", of_method=True
    )
    n_data: int = setting(
        500, "real images that the network sees after each sweep", needs=("update", ("real",)), fitted_to=("data",)
    )
    syn_epochs: int = setting(
        1, "epochs of update synthetic after each sweep", of_method=True, needs=("update", ("synthetic",))
    )
    lr: float = setting(0.01, "learning rate of the network", needs=("update", LEARNS))
    momentum: float = setting(0.9, "momentum of the network", needs=("update", LEARNS))
    weight_decay: float = setting(5e-4, "weight decay of the network", needs=("update", LEARNS))
    batch_size: int = setting(64, "images per network step", needs=("update", LEARNS))
    mix_p: float = setting(
        0.5, "probability of CutMix in a network step; 0 turns it off", needs=("update", LEARNS), fitted_to=("data",)
    )
    nclass_sub: int | None = setting(
        None,
        "condense in parts of NCLASS_SUB classes: all of them, or the one of --phase",
        not_compared="a comparison condenses all classes together",
    )
    phase: int | None = setting(
        None,
        "condense only this part of NCLASS_SUB classes: 0, 1, ...",
        role="part",
        not_compared="a comparison condenses all classes together",
    )
    seed: int = setting(0, "seed of everything random in the run", role="set", not_compared="the seeds stand in seeds")
    precision: str = setting("float32", "float32, tf32 (NVIDIA GPUs) or bf16")
    compile: str = setting("auto", "compile the sweep and the network step: auto (long runs), on or off", role="speed")
    memory_gb: float | None = setting(
        None, "memory that the classes computed at once may take (default: what is free)", role="speed"
    )
    eval_at: tuple[int, ...] = setting(
        (),
        "evaluate after these outer iterations (0: as initialised)",
        not_compared="an evaluation during the run would count as time of the run",
    )
    model_path: tuple[str, ...] = setting(
        (),
        "pool folders or files (default: pool/<data set>-<network>)",
        role="place",
        needs=("network_init", TRAINED),
        not_compared="early-stage models are trained inside the comparison, so that their time counts",
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "ipc", "factor", "speedup", "niter", "full_niter", "inner_loop", "base_size", "nclass_sub")
        at_least(self, 1, "batch_real", "batch_syn_max", "batch_size", "select_every", "select_from")
        at_least(self, 1, "sweeps_per_network", "frequencies", "syn_epochs")
        at_least(self, 0, "mom_img", "vmin", "vmax", "n_data", "momentum", "weight_decay", "phase", "seed", "eval_at")
        at_least(self, 0, "patience", "averaging_power", "calibrate", "warmup")
        above_zero(self, "lr_img", "lr")
        probability(self, "mix_p")
        choose("init", self.init, INITS)
        choose("decode_type", self.decode_type, DECODES)
        choose("select", self.select, SELECTS)
        choose("metric", self.metric, METRICS)
        for name, options in CHOICES.items():
            choose(name, getattr(self, name), options)
        choose("precision", self.precision, PRECISIONS)
        choose("compile", self.compile, COMPILE)
        if self.memory_gb is not None:
            above_zero(self, "memory_gb")
        check_strategy(self.aug_type)
        if self.eval_at and max(self.eval_at) > self.outer_iterations:
            raise UserError(
                f"eval_at {max(self.eval_at)} never comes: there are {self.outer_iterations} outer iterations"
            )
        if self.mom_img >= 1:
            raise UserError(f"mom_img must be below 1, not {self.mom_img}")
        if self.vmax < self.vmin:
            raise UserError(f"vmax ({self.vmax}) must not be below vmin ({self.vmin})")
        if self.phase is not None and self.nclass_sub is None:
            raise UserError("phase needs nclass_sub: the number of classes of a part")
        if self.sweeps_per_network is not None and self.sweeps_per_network > self.inner_loop:
            raise UserError(
                f"sweeps_per_network ({self.sweeps_per_network}) must not be above inner_loop ({self.inner_loop}): a "
                f"network ends with its outer iteration"
            )
        if self.img_optim == "adamw" and self.img_step == "class":
            raise UserError("img_optim adamw needs img_step sweep: what a step after each class adds up to is SGD's")
        if self.network_init == "fresh" and self.calibrate:
            raise UserError("calibrate needs trained networks: network_init pool or interpolated, not fresh")
        if self.network_init != "fresh" and self.warmup:
            raise UserError(f"warmup trains fresh networks, and network_init is {self.network_init}; leave it out")

    @property
    def is_split(self) -> bool:
        """Whether all parts of a partition are asked for."""
        return self.nclass_sub is not None and self.phase is None

    @property
    def outer_iterations(self) -> int:
        """Outer iterations: `niter`, or the published number divided by `speedup` (Acc-DD section 4.1)."""
        return self.niter or max(1, self.full_niter // self.speedup)


CHOICES = {
    **{"method": METHODS, "network_init": NETWORK_INITS, "match": MATCHES, "update": UPDATES},
    **{"img_step": STEPS, "img_space": SPACES, "img_optim": IMAGE_OPTIMIZERS},
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Training fresh networks on the condensed set and testing them on real images."""

    networks: tuple[str, ...] = setting(
        (),
        "networks to train, such as convnet resnet18-batch densenet timm:NAME (default: the run's own)",
        role="scope",
    )
    runs: int = setting(3, "seeds per network", role="scope")
    epochs: int | None = setting(
        None, "epochs (default: 1000, ImageNet by its decoded images per class)", role="protocol"
    )
    whole_epochs: int = setting(30, "epochs of the yardstick `whole`, the full training set", role="protocol")
    lr: float = setting(0.01, "learning rate", role="protocol")
    momentum: float = setting(0.9, "momentum of SGD", role="protocol")
    weight_decay: float = setting(5e-4, "weight decay", role="protocol")
    batch_size: int = setting(64, "images per step", role="protocol")
    aug_type: str = setting(
        "color_crop_flip_scale_rotate", "augmentation strategy, joined with _ or -, or none", role="protocol"
    )
    mix_p: float = setting(0.5, "probability of CutMix in a batch; 0 turns it off", role="protocol")
    seed: int = setting(0, "seed of the first run; the next ones count up", role="scope")
    yardsticks: tuple[str, ...] = setting(
        YARDSTICKS, "what stands beside it: initial, random_real, whole, or none", role="scope"
    )
    soft_labels: bool = setting(
        False, "train on labels by a network of the whole set too, beside the hard ones", role="scope"
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "runs", "epochs", "whole_epochs", "batch_size")
        at_least(self, 0, "seed", "momentum", "weight_decay")
        above_zero(self, "lr")
        probability(self, "mix_p")
        check_strategy(self.aug_type)
        if self.yardsticks == ("none",):
            object.__setattr__(self, "yardsticks", ())
        for name in self.yardsticks:
            choose("yardstick", name, YARDSTICKS)


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
    return tuple(name for name, known in known_settings(SECTIONS[section]).items() if known.role in roles)


def fitted_to(what: str) -> dict[str, tuple[str, ...]]:
    """{section: the settings that are chosen by the user's own data ("data") or by a time limit ("minutes")}.

    Data decide the method too, and with it all that belongs to one.
    """
    return {
        section: tuple(
            name
            for name, known in known_settings(kind).items()
            if what in known.fitted_to or (what == "data" and known.of_method)
        )
        for section, kind in SECTIONS.items()
    }


def flags_of(section: str, *only: str) -> dict[str, tuple[str, str]]:
    """Every long flag of a section (or of some of its fields), without dashes → (section, field)."""
    table = {}
    for item in fields(SECTIONS[section]):
        if not only or item.name in only:
            for name in (item.name, *item.metadata["setting"].names):
                if not name.startswith("-") or name.startswith("--"):
                    table[name.lstrip("-")] = (section, item.name)
    return table


FLAGS: dict[str, dict[str, tuple[str, str]]] = {
    "pretrain": flags_of("data") | flags_of("network") | flags_of("pool") | flags_of("condense", "method"),
    "condense": flags_of("data")
    | flags_of("network")
    | flags_of("pool", "epochs", "fraction", "models")
    | flags_of("condense"),
    "select": flags_of("data")
    | flags_of("network")
    | flags_of("pool", "epochs", "fraction")
    | flags_of("condense", "ipc", "seed"),
    "evaluate": flags_of("data") | flags_of("network", "width", "norm_type") | flags_of("evaluate"),
    "demo": flags_of("data", "device") | flags_of("condense", "ipc", "seed"),
    "inspect": flags_of("data") | flags_of("condense", "ipc", "method"),
    "export": {},
    "push": {},
}  # verb → the settings it takes


def strategy_names(strategy: str) -> tuple[str, ...]:
    """'color_crop' or 'color-crop' → ('color', 'crop'); 'none' → (). Unknown or repeated names: `UserError`."""
    if strategy.strip().lower() in ("none", ""):
        return ()
    names = tuple(strategy.strip().lower().replace("-", "_").split("_"))
    for name in names:
        choose("augmentation", name, AUGMENTATIONS)
    if len(set(names)) < len(names):
        raise UserError(f"augmentation '{strategy}' names an operation twice")
    return names


def check_strategy(strategy: str) -> None:
    """Raise `UserError` unless `strategy` is a list of known augmentations."""
    strategy_names(strategy)
