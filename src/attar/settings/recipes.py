"""Named recipes: the published settings of each data set, and short ones for a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attar.errors import UserError, choose
from attar.settings import methods, own_code, plugins
from attar.settings.auto import USUAL_IPC, Shape, fitting
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import SECTIONS, DataConfig, EvaluateConfig, NetworkConfig, PoolConfig, Recipe, with_role
from attar.settings.schema import replace, settings_of
from attar.settings.trajectory_tables import SUBSETS, TINY, called

AUGMENT_WITH_FLIP = "color_crop_flip_scale_rotate"
# Of digits, which must not be mirrored
AUGMENT_CUTOUT_WITHOUT_FLIP = "color_crop_cutout_scale_rotate"
AUGMENT_WITHOUT_FLIP = "color_crop_scale_rotate"
WHOLE_IMAGES_FROM = 10  # images per class, of `best` (docs/log.md, ten images a class)


def digits() -> Recipe:
    """8×8 handwritten digits: the demo; a minute on one core."""
    return Recipe(
        data=DataConfig(dataset="digits"),
        network=NetworkConfig(depth=2, width=0.5),
        pool=PoolConfig(epochs=2, aug_type=AUGMENT_WITHOUT_FLIP, mix_p=0.5),
        condense=CondenseConfig(
            ipc=1, factor=1, init="random", metric="l1", lr_img=1e-3, base_size=8, niter=10, inner_loop=20
        ),
        evaluate=EvaluateConfig(aug_type=AUGMENT_WITHOUT_FLIP, epochs=300, whole_epochs=30),
    )


def default() -> Recipe:
    """Any other data set: the settings of CIFAR-10, with a shorter network update."""
    return Recipe(condense=CondenseConfig(lr_img=1e-2, n_data=500))


def cifar10() -> Recipe:
    """CIFAR-10, ConvNet-3 (Acc-DD table 1)."""
    return Recipe(
        data=DataConfig(dataset="cifar10"),
        condense=CondenseConfig(lr_img=1e-2, n_data=2000, base_size=32),
        evaluate=EvaluateConfig(aug_type=AUGMENT_WITH_FLIP, whole_epochs=200),
    )


def cifar100() -> Recipe:
    """CIFAR-100, ConvNet-3 (Acc-DD table 1)."""
    return dataclasses.replace(cifar10(), data=DataConfig(dataset="cifar100"))


def svhn() -> Recipe:
    """SVHN, ConvNet-3."""
    return Recipe(
        data=DataConfig(dataset="svhn"),
        pool=PoolConfig(aug_type=AUGMENT_CUTOUT_WITHOUT_FLIP),
        condense=CondenseConfig(lr_img=5e-3, n_data=500, base_size=32),
        evaluate=EvaluateConfig(aug_type=AUGMENT_WITHOUT_FLIP, whole_epochs=200),
    )


def mnist() -> Recipe:
    """MNIST, ConvNet-3: l1, matching with colour and crop only, no CutMix with a factor above 1."""
    return Recipe(
        data=DataConfig(dataset="mnist"),
        pool=PoolConfig(aug_type=AUGMENT_CUTOUT_WITHOUT_FLIP),
        condense=CondenseConfig(metric="l1", lr_img=1e-4, n_data=500, base_size=28, aug_type="color_crop", mix_p=0.0),
        evaluate=EvaluateConfig(aug_type=AUGMENT_WITHOUT_FLIP, whole_epochs=200, mix_p=0.0),
    )


def fashion() -> Recipe:
    """Fashion-MNIST, ConvNet-3 (Acc-DD table 1)."""
    return Recipe(
        data=DataConfig(dataset="fashion"),
        condense=CondenseConfig(metric="l1", lr_img=1e-4, n_data=500, base_size=32),
        evaluate=EvaluateConfig(aug_type=AUGMENT_WITH_FLIP, whole_epochs=200),
    )


def fashion_cpu() -> Recipe:
    """Fashion-MNIST in minutes on two cores: a quarter of the width, small batches, a short schedule."""
    base = fashion()
    short = {"ipc": 1, "lr_img": 3e-3, "base_size": 28, "batch_real": 32, "n_data": 128, "niter": 60, "inner_loop": 10}
    return dataclasses.replace(
        base,
        network=NetworkConfig(width=0.25),
        pool=PoolConfig(epochs=1, fraction=0.25, models=4),
        condense=replace(base.condense, short),
        evaluate=dataclasses.replace(base.evaluate, epochs=300, whole_epochs=2),
    )


def best(ipc: int = 1) -> Recipe:
    """The most accurate combination at equal time on a CPU, for Fashion-MNIST.

    Measured in docs/results.md. On other data its method goes on top of the network and schedule that fit them, with
    AdamW (`auto.BEST`). Perturbed early-stage models, NCFM's matching without its calibration, real images near the
    centres of clusters, and the mean of the images over the sweeps. Chosen on held-out images. From `WHOLE_IMAGES_FROM`
    images a class whole images are stored, not grids of four: in equally many steps networks do better on them.
    """
    base = fashion_cpu()
    ncfm = methods.method_layer("ncfm", base, base.condense.ipc)["condense"]
    accdd = {"network_init": "pool", "perturb": True}
    added = {"select": "cluster", "select_from": 200, "averaging_power": 3}
    tuned = {"ipc": ipc, "calibrate": 0.0, "img_optim": "sgd", "lr_img": 0.03, "niter": 50}
    whole = {"factor": 1, "lr_img": 0.1} if ipc >= WHOLE_IMAGES_FROM else {}
    return dataclasses.replace(base, condense=replace(base.condense, ncfm | accdd | added | tuned | whole))


def imagenet10() -> Recipe:
    """ImageNet-10, ResNetAP-10 at 224 (Acc-DD table 2)."""
    return Recipe(
        data=DataConfig(dataset="imagenet", nclass=10),
        network=NetworkConfig(net_type="resnetap", depth=10),
        pool=PoolConfig(epochs=10, mix_p=1.0),
        condense=CondenseConfig(
            factor=3, metric="l1", lr_img=3e-3, n_data=500, base_size=224, full_niter=500, mix_p=1.0
        ),
        evaluate=EvaluateConfig(aug_type="resize_flip_color", mix_p=1.0, whole_epochs=300),
    )


def imagenet100() -> Recipe:
    """ImageNet-100, ResNetAP-10 at 224 (Acc-DD table 2); `nclass_sub` 20 condenses it in parts."""
    base = imagenet10()
    large = {"lr_img": 1e-3, "batch_real": 128, "batch_size": 128, "lr": 0.1, "weight_decay": 1e-4}
    condense = replace(base.condense, large)
    evaluate = dataclasses.replace(base.evaluate, lr=0.1, weight_decay=1e-4, batch_size=128, whole_epochs=200)
    return dataclasses.replace(
        base, data=DataConfig(dataset="imagenet", nclass=100), condense=condense, evaluate=evaluate
    )


def tiny() -> Recipe:
    """Tiny-ImageNet as it is unzipped, ConvNet-4, for trajectories."""
    base = cifar10()
    data, network = DataConfig(dataset=TINY), NetworkConfig(depth=4)
    return dataclasses.replace(base, data=data, network=network, condense=replace(base.condense, {"base_size": 64}))


def subset(name: str) -> Recipe:
    """A subset of ImageNet as it is unzipped, at 128 pixels, ConvNet-5, for trajectories."""
    base = cifar10()
    data, network = DataConfig(dataset=name, size=128), NetworkConfig(depth=5)
    return dataclasses.replace(base, data=data, network=network, condense=replace(base.condense, {"base_size": 128}))


TRAJECTORY_DATA: dict[str, tuple[str, Callable[[], Recipe]]] = {  # what it is called, its recipe without a method
    "cifar10": ("CIFAR-10", cifar10),
    "cifar100": ("CIFAR-100", cifar100),
    "tiny": ("Tiny-ImageNet, the folder tiny-imagenet-200,", tiny),
    "nette": ("ImageNette, the folder imagenette2, at 128 pixels", partial(subset, "imagenette2")),
    "woof": ("ImageWoof, the folder imagewoof2, at 128 pixels", partial(subset, "imagewoof2")),
    **{name[5:]: (f"{name} of ImageNet, at 128 pixels", partial(subset, name)) for name in SUBSETS[2:]},
    "fashion-cpu": ("Fashion-MNIST, in minutes on two cores,", fashion_cpu),
}
TRAJECTORY_METHODS: dict[str, tuple[str, tuple[str, ...]]] = {  # where its settings are from, and for which data
    "mtt": ("by trajectories (MTT)", tuple(TRAJECTORY_DATA)),
    "ftd": ("by flat trajectories (FTD)", ("fashion-cpu",)),
    "datm": ("by difficulty-aligned trajectories (DATM)", ("cifar10", "cifar100", "tiny", "fashion-cpu")),
    "tgdd": ("by features along trajectories (TGDD)", tuple(TRAJECTORY_DATA)),
}
# Of fashion-cpu: from grids on held-out images (docs/log.md, rates of ftd, datm and tgdd)
RATES = {"lr_img": 300.0, "lr_teacher": 0.05, "clip_img": 0.01, "max_start_epoch": 4, "niter": 10}
SHORT: dict[str, dict[str, dict[str, Any]]] = {
    "mtt": {"condense": RATES},
    "ftd": {"pool": {"models": 2}, "condense": RATES},
    "datm": {"pool": {"models": 2}, "condense": RATES | {"lr_y": 20.0}},
}


def of_method(method: str, name: str, ipc: int = USUAL_IPC) -> Recipe:
    """A recipe of `TRAJECTORY_DATA` with a method on top, and experts that are trained as long as they are used."""
    base = overlay(TRAJECTORY_DATA[name][1](), {"condense": {"ipc": ipc}})
    short = name == "fashion-cpu"
    made = overlay(base, methods.method_layer(method, base, base.condense.ipc))
    made = overlay(made, SHORT.get(method, {})) if short else made
    if method == "tgdd":
        return overlay(made, {"pool": {"epochs": 80}}) if base.data.dataset in SUBSETS else made
    return made if method == "datm" and not short else overlay(made, {"pool": {"epochs": made.condense.last_epoch}})


RECIPES: dict[str, Callable[[], Recipe]] = {
    "default": default,
    "digits": digits,
    "mnist": mnist,
    "fashion": fashion,
    "fashion-cpu": fashion_cpu,
    "best": best,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet10": imagenet10,
    "imagenet100": imagenet100,
}
for _method, (_from, _names) in TRAJECTORY_METHODS.items():
    for _name in _names:
        RECIPES[f"{_method}-{_name}"] = _made = partial(of_method, _method, _name)
        _made.__doc__ = f"{TRAJECTORY_DATA[_name][0]} {_from}, at ipc 10."
NAMED_ONLY = (
    "default",
    "fashion-cpu",
    "best",
    *(name for name in RECIPES if name.startswith(tuple(f"{method}-" for method in TRAJECTORY_METHODS))),
)  # recipes that are not those of a data set of the same name


def fits_images(recipe: str | None, dataset: str) -> bool:
    """Whether the settings are fitted to the images: no recipe is named or there, or `best` on another data set."""
    return not has_recipe(dataset) if recipe is None else recipe == "best" and dataset != best().data.dataset


def named(name: str, ipc: int | None = None) -> Recipe:
    """The recipe of that name, as it is for `ipc`. Raises `UserError` with the nearest valid name."""
    method, _, data = name.partition("-")
    if ipc is not None and method in TRAJECTORY_METHODS and name in RECIPES:
        return of_method(method, data, ipc)
    if ipc is not None and name == "best":
        return best(ipc)
    return RECIPES[choose("recipe", name, RECIPES)]()


def has_recipe(dataset: str) -> bool:
    """Whether there is a recipe for that data set."""
    return dataset == "imagenet" or (dataset in RECIPES and dataset not in NAMED_ONLY)


def of_folder(dataset: str, method: str | None, shape: Shape | None) -> Recipe | None:
    """The recipe of data in the tables of trajectories, for their methods; None on a CPU and at another size."""
    name = called(dataset)
    if method not in TRAJECTORY_METHODS or name not in (TINY, *SUBSETS):
        return None
    recipe = tiny() if name == TINY else subset(name)
    side = recipe.condense.base_size
    fits = shape is None or (not shape.cpu and (shape.height, shape.width) == (side, side))
    return recipe if fits else None


def for_data(
    dataset: str,
    nclass: int | None = None,
    *,
    published: bool = False,
    shape: Shape | None = None,
    ipc: int = USUAL_IPC,
    method: str | None = None,
    best: bool = False,
) -> Recipe:
    """The recipe of a data set; without one, a recipe that fits `shape`, or `default` where no shape is known.

    ipc, method: what is asked for, where that is known; the recipe that fits a shape depends on both. best: the recipe
    `best` is asked for: what fits the shape, with what did best, even for a data set with a recipe of its own.
    Raises `UserError` for data without published settings where `published` insists on these.
    """
    name = f"imagenet{nclass or 10}" if dataset == "imagenet" else dataset
    if best and shape is not None:
        recipe = fitting(shape, ipc, best=True)
    elif has_recipe(dataset) and name in RECIPES:
        recipe = named(name)
    elif (found := of_folder(dataset, method, shape)) is not None:
        recipe = found
    elif published:
        names = ", ".join(key for key in RECIPES if key not in NAMED_ONLY)
        raise UserError(f"there are no published settings for the data set '{name}', only for {names}")
    else:
        recipe = fitting(shape, ipc, method) if shape is not None else default()
    return overlay(recipe, {"data": {"dataset": dataset}})


def of_file(sections: Mapping[str, Mapping[str, Any]], where: object, *, handed_on: bool = False) -> Recipe:
    """The recipe that a set, run or export was stored with, {section: {field: value}}.

    where: the file or folder, for messages. handed_on: another machine may have made it, so its settings of place have
    their defaults. Raises `UserError` as `overlay`, and for code that the user has not named.
    """
    own_code.check(sections, where)
    recipe = overlay(Recipe(), sections)
    default = settings_of(Recipe())
    places = {name: {key: default[name][key] for key in with_role(name, "place")} for name in SECTIONS}
    return overlay(recipe, places) if handed_on else recipe


def overlay(recipe: Recipe, sections: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """A copy of `recipe` with {section: {field: value}}. Unknown sections, fields and wrong types raise `UserError`."""
    changed = {}
    if isinstance(condense := sections.get("condense"), Mapping):
        plugins.as_text(condense.get("plugin", ()))  # other sections may name what they register
    for name, values in sections.items():
        choose("section", name, SECTIONS)
        if not isinstance(values, Mapping):
            raise UserError(f"[{name}] must be a table of settings, not {values!r}")
        changed[name] = replace(getattr(recipe, name), values, where=f"[{name}] ")
    return dataclasses.replace(recipe, **changed)
