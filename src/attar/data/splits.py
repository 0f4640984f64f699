"""The usual names of splits, in any case: which split is trained on, and which is tested on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attar.errors import UserError, log

TRAIN, TEST, VALIDATION = "train", "test", "validation"
NAMES = {
    TRAIN: ("train", "training"),
    TEST: ("test", "testing", "eval"),
    VALIDATION: ("val", "valid", "validation", "dev"),
}
COLUMNS = ("split", "set", "subset", "partition", "data set", "dataset", "phase", "usage")  # of a table, in any case
NONE = "(none)"  # of a row that names no split
KIND_OF_NAME = {name: kind for kind, names in NAMES.items() for name in names}


def kind_of(name: str) -> str | None:
    """The kind of split that a name stands for: TRAIN, TEST or VALIDATION; None for any other name."""
    return KIND_OF_NAME.get(name.lower())


def spoken_of(name: str) -> str | None:
    """The split that the name of a file speaks of: `train-00000-of-00001.parquet` → train, `Val_2.tar` → val."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for names in NAMES.values() for word in names if word in words), None)


def of_files(names: Sequence[str], where: str) -> list[str]:
    """The split of each file.

    Args:
        names: of the files, without suffix, folders before them.
        where: what they are called in a message.

    Returns:
        What the name, or else the folder, speaks of. A file that speaks of none is for training where no other one is,
        else of a split of its own name.
    """
    spoken = [next((split for part in reversed(name.split("/")) if (split := spoken_of(part))), None) for name in names]
    if not any(split and kind_of(split) == TRAIN for split in spoken):
        if any(spoken) and not all(spoken):
            log.warning("%s: %s is taken for training", where, names[spoken.index(None)])
        return [split or TRAIN for split in spoken]
    last = [name.rpartition("/")[2] for name in names]
    return [split or re.sub(r"[-_.]?\d.*", "", name) or name for split, name in zip(spoken, last, strict=True)]


def column_of(names: Iterable[str]) -> str | None:
    """The column, or key, that may name the split of each row."""
    return next((name for name in names if name.lower() in COLUMNS), None)


def of_column(values: Sequence[object], column: str, where: str) -> list[str] | None:
    """The split of each row, in lower case; None, with a line, where the column is about something else."""
    names = ["" if value is None else str(value).strip().lower() for value in values]
    if any(map(kind_of, set(names))):
        return [split or NONE for split in names]
    log.warning("%s: the column %s is not taken for splits: it holds %s, ...", where, column, names[0] if names else "")
    return None


def choose(names: Sequence[str], where: str) -> tuple[str, list[str]]:
    """The split for training, and those that can be tested on.

    Args:
        names: of all splits.
        where: what has them, in a message.

    Returns:
        The one called train, else the only one, with a line; and the others, best first: test before validation.

    Raises:
        UserError: where no split is called train and there are several.
    """
    kinds = {name: kind_of(name) or kind_of(spoken_of(name) or "") for name in names}
    best = sorted(names, key=lambda name: kind_of(name) is None)  # test before test_2
    train = [name for name in best if kinds[name] == TRAIN]
    if not train and len(names) == 1:
        if kinds[names[0]]:
            log.warning("%s has one split, %s: it is taken for training", where, names[0])
        return names[0], []
    if not train:
        raise UserError(f"{where} has the splits {', '.join(names)}, and none is called train; rename one")
    return train[0], [name for kind in (TEST, VALIDATION) for name in best if kinds[name] == kind]
