"""Named complete configurations, and what a recipe file or a flag puts on top.

The published settings are those of Acc-DD and IDC; `-cpu` recipes and `digits` are attar's own, found on held-out
training images.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
)
from attar.errors import MissingError, UserError, choose, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLIP = "color_crop_flip_scale_rotate"
NO_FLIP = "color_crop_scale_rotate"


def digits() -> Recipe:
    """8×8 handwritten digits: the demo, seconds on a CPU."""
    return Recipe(
        data=DataConfig(dataset="digits"),
        network=NetworkConfig(depth=2, width=0.5),
        pool=PoolConfig(epochs=2, aug_type="color_crop_scale_rotate", mix_p=0.5),
        condense=CondenseConfig(
            ipc=1, factor=1, init="random", metric="l1", lr_img=1e-2, base_size=8, niter=10, inner_loop=20
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
        condense=CondenseConfig(lr_img=5e-3, n_data=500, base_size=32),
        evaluate=EvaluateConfig(aug_type=NO_FLIP, whole_epochs=200),
    )


def mnist() -> Recipe:
    """MNIST, ConvNet-3: l1, matching with colour and crop only, no CutMix in the network update."""
    return Recipe(
        data=DataConfig(dataset="mnist"),
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
    """Fashion-MNIST in minutes on two cores: a quarter of the width, a short schedule."""
    base = fashion()
    return dataclasses.replace(
        base,
        network=NetworkConfig(width=0.25),
        pool=PoolConfig(epochs=1, models=3),
        condense=dataclasses.replace(base.condense, ipc=1, lr_img=1e-2, niter=10, inner_loop=20),
        evaluate=dataclasses.replace(base.evaluate, epochs=300, whole_epochs=2),
    )


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
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet10": imagenet10,
    "imagenet100": imagenet100,
}


def named(name: str) -> Recipe:
    """The recipe of that name. Raises `UserError` with the nearest valid name."""
    return RECIPES[choose("recipe", name, RECIPES)]()


def for_data(dataset: str, nclass: int | None = None, *, published: bool = False) -> Recipe:
    """The recipe of a data set: its own, or `default` (which `published` refuses)."""
    name = f"imagenet{nclass or 10}" if dataset == "imagenet" else dataset
    if name not in RECIPES and published:
        raise UserError(f"there is no published recipe for '{dataset}'; {nearest(dataset, RECIPES)}")
    recipe = named(name if name in RECIPES else "default")
    return overlay(recipe, {"data": {"dataset": dataset}})


def overlay(recipe: Recipe, sections: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`recipe` with {section: {field: value}} on top. Unknown sections, fields and wrong types raise `UserError`."""
    changed = {}
    for name, values in sections.items():
        choose("section", name, SECTIONS)
        changed[name] = replace(getattr(recipe, name), values, where=f" in [{name}]")
    return dataclasses.replace(recipe, **changed)


def read(path: Path) -> dict[str, Any]:
    """A recipe file: TOML, or JSON such as a run's `config.json`. Raises `MissingError` or `UserError`."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(f"there is no recipe file {path}; named recipes: {', '.join(RECIPES)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no table of settings")
    values.pop("attar", None)  # what config.json says about the run itself
    return values


def as_sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The whole recipe as plain values: what `config.json` holds."""
    return settings_of(recipe)


def to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file; settings that are None stand as comments."""
    lines = []
    for section, values in as_sections(recipe).items():
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
) -> Recipe:
    """One complete configuration: the data set's recipe, then the recipe file, then what was given.

    A recipe file holds flags at its top level and any of the tables [data], [network], [pool], [condense], [evaluate];
    `recipe = "name"` in it starts from another recipe than the data set's.
    """
    file: dict[str, Any] = {}
    if recipe is not None and recipe not in RECIPES:
        if not Path(recipe).suffix:
            choose("recipe", recipe, RECIPES)
        file = read(Path(recipe))
        recipe = file.pop("recipe", None)
    layers = [by_section(flags, file), by_section(flags, given)]
    if recipe is not None:
        base = named(recipe)
    else:
        where: dict[str, Any] = {}
        for layer in layers:
            where |= layer.get("data", {})
        base = for_data(where.get("dataset", "digits"), where.get("nclass"), published=published)
    for layer in layers:
        base = overlay(base, layer)
    return base


def by_section(flags: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{flag: value} → {section: {field: value}}; a value that is a table is a section already."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            choose("section", key, SECTIONS)
            sections.setdefault(key, {}).update(value)
        elif key.replace("-", "_") in flags:
            section, name = flags[key.replace("-", "_")]
            sections.setdefault(section, {})[name] = value
        else:
            raise UserError(f"unknown setting '{key}'; {nearest(key, flags)}")
    if "speedup" in sections.get("condense", {}):
        sections["condense"].setdefault("niter", None)  # a recipe's own count must not outlive the wish for a speed-up
    return sections
