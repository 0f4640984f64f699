"""What makes the set of an entry: one line per method. A new method is known to a comparison by its line here."""

from __future__ import annotations

from dataclasses import dataclass

from attar.errors import choose

PLAIN = "accdd"  # the method of an entry that names none


@dataclass(frozen=True)
class Maker:
    """How a method comes to its set."""

    pool: bool  # early-stage models are trained first, and their seconds are part of its time
    takes: frozenset[str] | None = None  # the settings of [condense] that mean something to it; None: all of them


# ---- the table: method → what makes its set ----
MAKERS: dict[str, Maker] = {
    "accdd": Maker(pool=True),
}


def maker(method: str) -> Maker:
    """The method's line. Raises `UserError` with the nearest valid name."""
    return MAKERS[choose("method", method, MAKERS)]


def takes(method: str, section: str, field: str) -> bool:
    """Whether a setting of an entry means something to its method."""
    own = maker(method)
    if section == "pool":
        return own.pool
    return own.takes is None or field in own.takes
