"""Named complete configurations, and what a recipe file or a flag puts on top.

The published settings are those of Acc-DD and IDC; `-cpu` recipes and `digits` are attar's own, found on held-out
training images.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attar import methods
from attar.config import (
    SECTIONS,
    CondenseConfig,
    DataConfig,
    EvaluateConfig,
    NetworkConfig,
    PoolConfig,
    Recipe,
    replace,
    settings_of,
    typed,
)
from attar.errors import MissingError, UserError, choose, nearest
from attar.own import Shape, fitting
from attar.own import shape_of as shape_of

FLIP = "color_crop_flip_scale_rotate"
POOL_NO_FLIP = "color_crop_cutout_scale_rotate"  # a mirrored digit is another sign
NO_FLIP = "color_crop_scale_rotate"


def digits() -> Recipe:
    """8×8 handwritten digits: the demo, seconds on a CPU."""
    return Recipe(
        data=DataConfig(dataset="digits"),
        network=NetworkConfig(depth=2, width=0.5),
        pool=PoolConfig(epochs=2, aug_type="color_crop_scale_rotate", mix_p=0.5),
        condense=CondenseConfig(
            ipc=1, factor=1, init="random", metric="l1", lr_img=1e-3, base_size=8, niter=10, inner_loop=20
        ),
        evaluate=EvaluateConfig(aug_type=NO_FLIP, epochs=300, whole_epochs=30),
    )


def default() -> Recipe:
    """Any other data set: the settings of CIFAR-10, with a shorter network update."""
    return Recipe(condense=CondenseConfig(lr_img=1e-2, n_data=500))


def cifar10() -> Recipe:
    """CIFAR-10, ConvNet-3 (Acc-DD table 1)."""
    return Recipe(
        data=DataConfig(dataset="cifar10"),
        condense=CondenseConfig(lr_img=1e-2, n_data=2000, base_size=32),
        evaluate=EvaluateConfig(aug_type=FLIP, whole_epochs=200),
    )


def cifar100() -> Recipe:
    """CIFAR-100, ConvNet-3 (Acc-DD table 1)."""
    return dataclasses.replace(cifar10(), data=DataConfig(dataset="cifar100"))


def svhn() -> Recipe:
    """SVHN, ConvNet-3."""
    return Recipe(
        data=DataConfig(dataset="svhn"),
        pool=PoolConfig(aug_type=POOL_NO_FLIP),
        condense=CondenseConfig(lr_img=5e-3, n_data=500, base_size=32),
        evaluate=EvaluateConfig(aug_type=NO_FLIP, whole_epochs=200),
    )


def mnist() -> Recipe:
    """MNIST, ConvNet-3: l1, matching with colour and crop only, no CutMix in the network update."""
    return Recipe(
        data=DataConfig(dataset="mnist"),
        pool=PoolConfig(aug_type=POOL_NO_FLIP),
        condense=CondenseConfig(metric="l1", lr_img=1e-4, n_data=500, base_size=28, aug_type="color_crop", mix_p=0.0),
        evaluate=EvaluateConfig(aug_type=NO_FLIP, whole_epochs=200),
    )


def fashion() -> Recipe:
    """Fashion-MNIST, ConvNet-3 (Acc-DD table 1)."""
    return Recipe(
        data=DataConfig(dataset="fashion"),
        condense=CondenseConfig(metric="l1", lr_img=1e-4, n_data=500, base_size=28),
        evaluate=EvaluateConfig(aug_type=FLIP, whole_epochs=200),
    )


def fashion_cpu() -> Recipe:
    """Fashion-MNIST in minutes on two cores: a quarter of the width, small batches, a short schedule."""
    base = fashion()
    short = {"ipc": 1, "lr_img": 3e-3, "batch_real": 32, "n_data": 128, "niter": 60, "inner_loop": 10}
    return dataclasses.replace(
        base,
        network=NetworkConfig(width=0.25),
        pool=PoolConfig(epochs=1, share=0.25, models=4),
        condense=replace(base.condense, short),
        evaluate=dataclasses.replace(base.evaluate, epochs=300, whole_epochs=2),
    )


def best() -> Recipe:
    """Chosen at equal time on held-out images of `fashion_cpu`, above ncfm on new seeds (docs/results.md): perturbed
    early-stage models under NCFM's matching without its calibration, representatives of clusters, the mean over sweeps.
    """
    base = fashion_cpu()
    ncfm = methods.layer("ncfm", base, base.condense.ipc)["condense"]
    chosen = {"source": "pool", "perturb": True, "select": "cluster", "select_from": 200, "average": 3}
    own = {"calibrate": 0.0, "lr_img": 0.03, "niter": 50}
    return dataclasses.replace(base, condense=replace(base.condense, ncfm | chosen | own))


def imagenet10() -> Recipe:
    """ImageNet-10, ResNetAP-10 at 224 (Acc-DD table 2)."""
    return Recipe(
        data=DataConfig(dataset="imagenet", nclass=10),
        network=NetworkConfig(net_type="resnetap", depth=10),
        pool=PoolConfig(epochs=10, mix_p=1.0),
        condense=CondenseConfig(
            factor=3, metric="l1", lr_img=3e-3, n_data=500, base_size=224, full_niter=500, mix_p=1.0
        ),
        evaluate=EvaluateConfig(aug_type=FLIP, mix_p=1.0, whole_epochs=300),
    )


def imagenet100() -> Recipe:
    """ImageNet-100, ResNetAP-10 at 224 (Acc-DD table 2); condensed in parts of 20 classes."""
    base = imagenet10()
    condense = dataclasses.replace(base.condense, lr_img=1e-3, batch_real=128, lr=0.1, weight_decay=1e-4)
    evaluate = dataclasses.replace(base.evaluate, lr=0.1, weight_decay=1e-4, batch_size=128, whole_epochs=200)
    return dataclasses.replace(
        base, data=DataConfig(dataset="imagenet", nclass=100), condense=condense, evaluate=evaluate
    )


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

CHOICES = ("default", "fashion-cpu", "best")  # taken by their name: no data set has it as its own


def named(name: str) -> Recipe:
    """The recipe of that name. Raises `UserError` with the nearest valid name."""
    return RECIPES[choose("recipe", name, RECIPES)]()


def has_own(dataset: str) -> bool:
    """Whether there is a recipe of that data set."""
    return dataset == "imagenet" or (dataset in RECIPES and dataset not in CHOICES)


def for_data(dataset: str, nclass: int | None = None, *, published: bool = False, shape: Shape | None = None) -> Recipe:
    """The recipe of a data set: its own, one that fits its `shape`, or `default` (which `published` refuses)."""
    name = f"imagenet{nclass or 10}" if dataset == "imagenet" else dataset
    if has_own(dataset) and name in RECIPES:
        recipe = named(name)
    elif published:
        known = ", ".join(key for key in RECIPES if key not in CHOICES)
        raise UserError(f"there are no published settings for the data set '{name}', only for {known}")
    else:
        recipe = fitting(shape) if shape is not None else default()
    return overlay(recipe, {"data": {"dataset": dataset}})


def overlay(recipe: Recipe, sections: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`recipe` with {section: {field: value}} on top. Unknown sections, fields and wrong types raise `UserError`."""
    changed = {}
    for name, values in sections.items():
        choose("section", name, SECTIONS)
        if not isinstance(values, Mapping):
            raise UserError(f"[{name}] must be a table of settings, not {values!r}")
        changed[name] = replace(getattr(recipe, name), values, where=f"[{name}] ")
    return dataclasses.replace(recipe, **changed)


def read(path: Path) -> dict[str, Any]:
    """A recipe file: TOML, or JSON such as a run's `config.json`. Raises `MissingError` or `UserError`."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(f"there is no recipe file {path}; named recipes: {', '.join(RECIPES)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no table of settings")
    values.pop("attar", None)  # what config.json says about the run itself
    return values


def as_sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The whole recipe as plain values: what `config.json` holds."""
    return settings_of(recipe)


def to_toml(name: str) -> str:
    """The recipe of that name as a TOML file that starts from it; settings that are None stand as comments."""
    lines = [f"recipe = {json.dumps(name)}", ""]
    for section, values in as_sections(named(name)).items():
        lines += [f"[{section}]", *(_toml_line(key, value) for key, value in values.items()), ""]
    return "\n".join(lines).rstrip()


def _toml_line(key: str, value: Any) -> str:
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value)}"


def resolve(
    flags: Mapping[str, tuple[str, str]],  # flag → (section, field)
    given: Mapping[str, Any],  # flag → value, from the command line or the caller
    *,
    recipe: str | None = None,  # a name or a file
    published: bool = False,
    shape: Shape | None = None,  # of data that may have no recipe of their own
) -> Recipe:
    """One complete configuration: the data set's recipe, the method's layer, the recipe file, then what was given.

    A recipe file holds flags at its top level and any of the tables [data], [network], [pool], [condense], [evaluate];
    `recipe = "name"` in it starts from another recipe than the data set's.
    """
    layers = [by_section(flags, given)]
    wishes = [by_section(flags, _without_tables(given))]
    if recipe is not None and recipe not in RECIPES:
        if not Path(recipe).suffix and not Path(recipe).is_file():
            choose("recipe", recipe, RECIPES)
        file = read(Path(recipe))
        path, recipe = recipe, file.pop("recipe", None)
        if not isinstance(recipe, str | None):
            raise UserError(f"{path}: recipe must be the name of a recipe, not {recipe!r}")
        layers.insert(0, by_section(flags, file, f"{path}: "))
        wishes.insert(0, by_section(flags, _without_tables(file), f"{path}: "))
        check_one_method(path, layers)
    if recipe is None:
        wanted = dict(item for layer in layers for item in layer.get("data", {}).items())
        base = for_data(wanted.get("dataset", "digits"), wanted.get("nclass"), published=published, shape=shape)
    elif published:
        raise UserError(f"the published settings of the data set and the recipe '{recipe}' exclude each other")
    else:
        base = named(recipe)
    sections = as_sections(base)
    asked = {name: value for layer in layers for name, value in layer.get("condense", {}).items()}
    if asked.get("method", base.condense.method) != base.condense.method:
        layers.insert(0, methods.layer(asked["method"], base, asked.get("ipc", base.condense.ipc)))
    for layer in layers:
        put_on_top(sections, layer)
    settle(sections, base, {name for layer in layers for name in layer.get("condense", {})})
    chosen = overlay(base, sections)  # once, so that a flag may complete what the file says
    for wish in wishes:
        methods.check_wishes(wish, sections["condense"])
    return chosen


def check_one_method(path: str, layers: list[dict[str, dict[str, Any]]]) -> None:
    """Raise `UserError` when a file is for another method than the one that was given."""
    names = [layer["condense"]["method"] for layer in layers if "method" in layer.get("condense", {})]
    if len(set(names)) > 1:
        raise UserError(
            f"{path} holds settings for the method {names[0]}, and {names[1]} is asked for; leave --method or the file "
            f"out"
        )


def _without_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for by itself; a table may be a whole configuration, with settings that mean nothing in it."""
    return {key: value for key, value in values.items() if not isinstance(value, Mapping)}


def settle(sections: dict[str, dict[str, Any]], base: Recipe, given: set[str]) -> None:
    """The published settings that follow from others, where they were not `given`."""
    data, condense = sections["data"], sections["condense"]
    ipc = condense["ipc"] if isinstance(condense["ipc"], int) else 0
    if data["dataset"] != base.data.dataset and "base_size" not in given:
        condense["base_size"] = None  # the base's is the side of another data set
    if str(data["dataset"]).startswith("imagenet") and data["nclass"] == 100 and ipc >= 20:
        condense["decode_type"] = condense["decode_type"] if "decode_type" in given else "bound"
    if data["dataset"] == "mnist" and condense["factor"] == 1 and "mix_p" not in given:
        condense["mix_p"] = 0.5  # IDC turns CutMix off for MNIST with a factor above 1 only


def put_on_top(sections: dict[str, dict[str, Any]], layer: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the settings of a layer, and drop those below that only made sense with what it replaces."""
    for name, values in layer.items():
        below = sections[name]
        if "speedup" in values:
            below["niter"] = None
        if "net_type" in values and not _same_network(values["net_type"], below["net_type"]):
            below["depth"] = None
        below.update(values)


def _same_network(name: str, other: str) -> bool:
    """'ResNet_AP' and 'resnetap' are the same; 'convnet4' says its depth itself."""
    return re.sub("[_-]", "", name.lower()) == re.sub("[_-]", "", other.lower()) and not name[-1:].isdigit()


def by_section(
    flags: Mapping[str, tuple[str, str]], values: Mapping[str, Any], where: str = ""
) -> dict[str, dict[str, Any]]:
    """{flag: value} → {section: {field: value}}; a value that is a table is a section already.

    Hyphens and underscores are the same. Unknown names and wrong types raise `UserError`, which begins with `where`.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        flag = key.replace("-", "_")
        if isinstance(value, Mapping):
            if key not in SECTIONS:
                raise UserError(f"{where}unknown section '{key}'; {nearest(key, SECTIONS)}")
            fields = {name.replace("-", "_"): item for name, item in value.items()}
            sections.setdefault(key, {}).update(typed(SECTIONS[key], fields, f"{where}[{key}] "))
        elif flag in flags:
            section, name = flags[flag]
            sections.setdefault(section, {}).update(typed(SECTIONS[section], {name: value}, where))
        elif key in SECTIONS:
            raise UserError(f"{where}[{key}] must be a table of settings, not {value!r}")
        else:
            raise UserError(f"{where}unknown setting '{key}'; {nearest(key, flags)}")
    return sections
