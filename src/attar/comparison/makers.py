"""What makes the set of an entry: one line per method. A new method is known to a comparison by its line here."""

from __future__ import annotations

from dataclasses import dataclass

from attar.comparison.grid import Key
from attar.errors import UserError, choose
from attar.selection import coresets
from attar.settings import methods
from attar.settings.choices import METHOD_NAMES
from attar.settings.config import Recipe
from attar.settings.schema import settings_of

FEATURES = ("early", "pixels")  # what a core-set compares images by, the first where an entry does not say


@dataclass(frozen=True)
class Maker:
    """How a method comes to its set."""

    condenses: bool  # as `attar condense` does; else it chooses real images, as `attar select` does
    compares: bool = False  # a choice that looks at features


# ---- the table: method → what makes its set ----
MAKERS: dict[str, Maker] = {
    **dict.fromkeys(METHOD_NAMES, Maker(condenses=True)),
    **{kind: Maker(condenses=False, compares=kind != "random") for kind in coresets.CORESETS},
}


def maker(method: str) -> Maker:
    """The method's line. Raises `UserError` with the nearest valid name."""
    return MAKERS[choose("method", method, MAKERS)]


def features_of(method: str, wanted: str | None) -> str | None:
    """What the images are compared by; None where they are not. Raises `UserError` where that cannot be chosen."""
    if wanted is None or maker(method).compares:
        return choose("features", wanted or FEATURES[0], FEATURES) if maker(method).compares else None
    raise UserError(f"the method {method} takes no features")


def check_takes(method: str, features: str | None, key: Key, value: object, recipe: Recipe) -> None:
    """Raise `UserError` where a setting means nothing to a method with the settings of `recipe`."""
    section, field = key
    own = maker(method)
    if own.condenses:
        methods.check_explicit({section: {field: value}}, settings_of(recipe.condense))
    elif key != ("condense", "ipc") and not (section == "pool" and features == FEATURES[0] and field != "models"):
        by = f" with features {features}" if section == "pool" and own.compares and features != FEATURES[0] else ""
        raise UserError(f"the method {method} takes no {field}{by}")


def takes(method: str, features: str | None, key: Key, recipe: Recipe) -> bool:
    """Whether a setting means something to a method."""
    try:
        check_takes(method, features, key, None, recipe)
    except UserError:
        return False
    return True


def needs_pool(method: str, features: str | None, recipe: Recipe) -> bool:
    """Whether early-stage models are trained first; their seconds are part of the set's."""
    return recipe.condense.network_init != "fresh" if maker(method).condenses else features == "early"
