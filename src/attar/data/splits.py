"""The usual names of splits, in any case: which split is trained on, and which is tested on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attar.errors import UserError, log

TRAIN, TEST, VALIDATION = "train", "test", "validation"
NAMES = {
    TRAIN: ("train", "training"),
    TEST: ("test", "testing", "eval"),
    VALIDATION: ("val", "valid", "validation", "dev"),
}
KIND_OF_NAME = {name: kind for kind, names in NAMES.items() for name in names}


def kind_of(name: str) -> str | None:
    """The kind of split that a name stands for: TRAIN, TEST or VALIDATION; None for any other name."""
    return KIND_OF_NAME.get(name.lower())


def spoken_of(name: str) -> str | None:
    """The split that the name of a file speaks of: `train-00000-of-00001.parquet` → train, `Val_2.tar` → val."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for names in NAMES.values() for word in names if word in words), None)


def choose(names: Sequence[str], where: str) -> tuple[str, list[str]]:
    """The split for training, and those that can be tested on, best first: test before validation.

    Raises UserError where no split is called train and there are several.
    """
    train = [name for name in names if kind_of(name) == TRAIN]
    if not train and len(names) == 1:
        if kind_of(names[0]):
            log.warning("%s has one split, %s: it is taken for training", where, names[0])
        return names[0], []
    if not train:
        raise UserError(f"{where} has the splits {', '.join(names)}, and none is called train; rename one")
    tests = [name for kind in (TEST, VALIDATION) for name in names if kind_of(name) == kind]
    return train[0], tests
