"""What makes the set of an entry: one line per method. A new method is known to a comparison by its line here."""

from __future__ import annotations

from dataclasses import dataclass

from attar import selection
from attar.config import Recipe
from attar.errors import UserError, choose

PLAIN = "accdd"  # the method of an entry that names none
FEATURES = ("early", "pixels")  # what a core-set compares images by, the first where an entry does not say


@dataclass(frozen=True)
class Maker:
    """How a method comes to its set."""

    condenses: bool  # as `attar condense` does; else it chooses real images, as `attar select` does
    compares: bool = False  # a choice that looks at features


# ---- the table: method → what makes its set ----
MAKERS: dict[str, Maker] = {
    "accdd": Maker(condenses=True),
    **{kind: Maker(condenses=False, compares=kind != "random") for kind in selection.CORESETS},
}


def maker(method: str) -> Maker:
    """The method's line. Raises `UserError` with the nearest valid name."""
    return MAKERS[choose("method", method, MAKERS)]


def features_of(method: str, wanted: str | None) -> str | None:
    """What the images are compared by; None where they are not. Raises `UserError` where that cannot be chosen."""
    if wanted is None or maker(method).compares:
        return choose("features", wanted or FEATURES[0], FEATURES) if maker(method).compares else None
    raise UserError(f"the method {method} takes no features")


def takes(method: str, section: str, field: str) -> bool:
    """Whether a setting of an entry means something to its method."""
    own = maker(method)
    if own.condenses:
        return True
    return (section, field) == ("condense", "ipc") or (section == "pool" and own.compares and field != "models")


def needs_pool(method: str, features: str | None, recipe: Recipe) -> bool:
    """Whether early-stage models are trained first; their seconds are part of the set's."""
    return features == "early" if not maker(method).condenses else True
