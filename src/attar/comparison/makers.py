"""How each method of a comparison makes its set; a new method needs one line in `MAKERS`."""

from __future__ import annotations

from dataclasses import dataclass

from attar.comparison.grid import SettingKey
from attar.errors import UserError, choose
from attar.selection.coresets import FEATURE_NAMES
from attar.settings import layers, plugins
from attar.settings.choices import CORESET_NAMES, FEATURED_NAMES, METHOD_NAMES
from attar.settings.config import Recipe
from attar.settings.schema import settings_of

EARLY = FEATURE_NAMES[0]  # features of an early-stage model: what a core-set uses where the entry does not say


@dataclass(frozen=True)
class Maker:
    """How a method makes its set."""

    condenses: bool  # as `attar condense` does; otherwise it selects real images, as `attar select` does
    uses_features: bool = False  # whether the selection asks a model, or compares pixels
    takes: tuple[str, ...] = ()  # what it takes besides ipc and the training of a model


TAKEN = {"rded": ("factor",), "el2n": ("models",), "grand": ("models",)}
MAKERS: dict[str, Maker] = {
    **dict.fromkeys(METHOD_NAMES, Maker(condenses=True)),
    **{
        kind: Maker(condenses=False, uses_features=kind != "random", takes=TAKEN.get(kind, ()))
        for kind in CORESET_NAMES
    },
}


def maker(method: str) -> Maker:
    """The maker of a method. Raises `UserError` with the nearest valid name."""
    makers = MAKERS | dict.fromkeys(plugins.names("method"), Maker(condenses=True))
    return makers[choose("method", method, makers)]


def features_of(method: str, asked: str | None) -> str | None:
    """The features by which a method compares images; None where it does not.

    asked: those of the entry. Raises `UserError` for unknown ones, and for a method that uses none.
    """
    if maker(method).uses_features:
        return choose("features", asked or EARLY, FEATURE_NAMES if method in FEATURED_NAMES else (EARLY,))
    if asked is not None:
        raise UserError(f"the method {method} takes no features")
    return None


def check_takes(method: str, features: str | None, key: SettingKey, value: object, recipe: Recipe) -> None:
    """Raise `UserError` where a setting has no effect on a method with the settings of `recipe`."""
    section, field = key
    if maker(method).condenses:
        layers.check_explicit({section: {field: value}}, settings_of(recipe))
        return
    trains_one_model = features == EARLY  # a core-set takes the first model of a pool
    if key == ("condense", "ipc") or field in maker(method).takes:
        return
    if section == "pool" and trains_one_model and field != "models":
        return
    by = f" with features {features}" if section == "pool" and features is not None and not trains_one_model else ""
    raise UserError(f"the method {method} takes no {field}{by}")


def takes(method: str, features: str | None, key: SettingKey, recipe: Recipe) -> bool:
    """Whether a setting has an effect on a method."""
    try:
        check_takes(method, features, key, None, recipe)
    except UserError:
        return False
    return True


def needs_pool(method: str, features: str | None, recipe: Recipe) -> bool:
    """Whether early-stage models are trained first; their seconds count as those of the set."""
    return recipe.condense.takes_pool if maker(method).condenses else features == EARLY
