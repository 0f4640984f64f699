"""Rows of a comparison, for its figure and its page."""

from __future__ import annotations

import tomllib
from typing import Any

from attar.comparison import spec
from attar.comparison.numbers import Mean, Row

PLAN = spec.resolve(tomllib.loads('dataset = "digits"\nipc = [1, 10]\n[[entry]]\nname = "a"\n'))


def row(entry: str, ipc: int, accuracy: float, seconds: float, **grid: Any) -> Row:
    settings = {"ipc": ipc, **grid}
    whole, random = Mean(0.98, 0.01, 3), Mean(0.6 + ipc / 50, 0.01, 3)
    value = Mean(accuracy, 0.01, 3)
    return Row(
        entry, "accdd", settings, settings, "convnet2", value, 3, 0, None, random, whole, None, seconds, 1.0, 1.0
    )


ROWS = [
    *(row("slow & sure", 1, 0.80 + 0.02 * k, 10.0 * 2**k, niter=9 + k, models=5 * 2**k) for k in range(4)),
    *(row("fast", 1, 0.81 + 0.02 * k, 9.0 * 2**k, models=5 * 2**k) for k in range(4)),
    row("random", 1, 0.6, 0.001),
    *(row("longer", 1, 0.7 + 0.01 * k, 30.0 * 2**k, niter=20 * k) for k in range(2)),
    row("fast", 10, 0.9, 30.0, niter=5),
]
