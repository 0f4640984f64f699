"""The classes that labels stand for: by name wherever there are names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from attar.data.labels import SHARE, UNLABELLED, Labels, read, shown
from attar.errors import UserError, counted, log, nearest

MISSING = ("nan", "none", "null", "na", "n/a", "?")  # what tables write where there is no label
NUMBER = re.compile("[+-]?[0-9]+")


def to_classes(train: Labels, test: Labels | None, where: str) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """What classes there are, and the place of each label in them.

    Test labels are mapped by name to the order of the training labels; bare numbers on either side stand for
    themselves, or for the names on the other side. Classes without a training image are left out, with a line.

    Args:
        train: labels of the training images.
        test: of the images that are tested on, where there are some.
        where: what the data are called in a message.

    Returns:
        The places of the training labels and of the test labels, int64, UNLABELLED where there is no label; and the
        names of the classes.

    Raises:
        UserError: for a test class that the training images lack, and for almost as many labels as images.
    """
    if test is not None and train.names is None and train.values.dtype.kind == "i" and test.names is not None:
        train = read(train.values, f"the training images of {where}", test.names)
    if test is not None and train.names is not None and not test.named:
        test = read(test.values, f"the test images of {where}", train.names)
    classes, own = _own_classes(train, where)
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(alike(name), []).append(name)
    for names in map(sorted, same.values()):
        if len(names) > 1:
            log.warning(
                "%s: the classes %s differ only in case, spaces or the writing of a number, and stay different classes",
                where,
                " and ".join(map(repr, names)),
            )
    for name in classes:
        if alike(name) in MISSING or (name == "-1" and "0" in classes):
            log.warning("%s: the class '%s' may stand for missing labels: if so, remove its images", where, name)
    held = None
    if test is not None:
        held = _numbers(train, test) if train.names is None is test.names else None
        held = _places(test, classes, where) if held is None else held
        counts = np.bincount(held[held != UNLABELLED], minlength=len(classes))
        empty = np.flatnonzero(counts == 0).tolist()
        if empty and (held != UNLABELLED).any():
            named = [classes[place] for place in empty]
            count = counted(len(classes), "class")
            log.warning("%s: the test images lack %d of %s: %s", where, len(empty), count, shown(named))
    return own, held, classes


def _own_classes(train: Labels, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes of the training images, and the place of each image's."""
    used = train.values[train.present]
    if train.names is None:
        distinct = np.unique(used)
        if len(distinct) > max(2, SHARE * len(used)):
            raise UserError(
                f"the labels of {where} are no classes: {len(distinct):,} different values in {len(used):,} images; "
                f"name the column of classes with --label_column"
            )
        if distinct.dtype.kind == "U":
            distinct = np.asarray(ordered(distinct.tolist(), where), dtype=distinct.dtype)
        classes = tuple(str(value) for value in distinct.tolist())
        if distinct.dtype.kind == "i":
            labels = np.searchsorted(distinct, train.values)
        else:
            keys = {value: place for place, value in enumerate(distinct.tolist())}
            labels = np.asarray([keys.get(value, UNLABELLED) for value in train.values.tolist()])
        return classes, np.where(train.present, labels, UNLABELLED).astype(np.int64)
    present = np.zeros(len(train.names), bool)
    present[used] = True
    classes = tuple(name for name, there in zip(train.names, present.tolist(), strict=True) if there)
    if len(classes) < len(train.names):
        lost = [name for name in train.names if name not in set(classes)]
        log.warning(
            "%s: left out, without training images: %d of %d named classes: %s",
            where,
            len(lost),
            len(train.names),
            shown(lost),
        )
    places = np.append(np.where(present, np.cumsum(present) - 1, UNLABELLED), UNLABELLED)
    return classes, places[np.where(train.present, train.values, len(train.names))].astype(np.int64)


def _numbers(train: Labels, test: Labels) -> np.ndarray | None:
    """The places of test labels that are bare numbers, as the training labels are; None where one is another number."""
    if train.values.dtype.kind != "i" or test.values.dtype.kind != "i" or test.missing is not None:
        return None
    distinct = np.unique(train.values[train.present])
    places = np.searchsorted(distinct, test.values).clip(0, len(distinct) - 1)
    return places.astype(np.int64) if bool((distinct[places] == test.values).all()) else None


def _places(test: Labels, classes: tuple[str, ...], where: str) -> np.ndarray:
    """The place of each test label in the classes of the training images."""
    places = {name: place for place, name in enumerate(classes)}
    text = test.as_text()
    distinct, inverse = np.unique(text, return_inverse=True)
    strange = [name for name in distinct.tolist() if name not in places and name]
    if strange:
        close = nearest(strange[0], classes)
        hint = close if close.startswith("did you mean") else f"they have {shown(classes)}"
        raise UserError(
            f"the test images of {where} have the class '{strange[0]}', which no training image has; {hint}"
        )
    mapped = np.asarray([places.get(name, UNLABELLED) for name in distinct.tolist()], np.int64)
    return np.where(test.present, mapped[inverse.reshape(-1)], UNLABELLED)


def ordered(names: Sequence[str], where: str) -> list[str]:
    """Class names in order: whole numbers as numbers, then the others as text; a line where that is not as text."""
    as_text = sorted(names)
    ordered = sorted(as_text, key=lambda name: (0, int(name)) if NUMBER.fullmatch(name) else (1, 0))
    if ordered != as_text:
        log.warning("%s: the classes are numbers and are ordered as numbers: %s", where, shown(ordered))
    return ordered


def alike(name: str) -> str:
    """What names have in common that differ only in case, spaces or how a number is written."""
    try:
        return repr(float(name))
    except ValueError:
        return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def check_ipc(classes: Sequence[str], counts: Sequence[int], labels: Iterable[int], ipc: int) -> None:
    """Raise `UserError` where one of the classes `labels` has fewer than `ipc` images."""
    few = [label for label in labels if counts[label] < ipc]
    if few:
        there, least = counted(counts[few[0]], "image"), min(few, key=counts.__getitem__)
        most = f"{counts[least]} at most" + ("" if least == few[0] else f", as many as class '{classes[least]}' has")
        raise UserError(f"class '{classes[few[0]]}' has {there}, fewer than ipc {ipc}; ipc can be {most}")


def say_repeated(classes: Sequence[str], counts: Sequence[int], labels: Sequence[int], ipc: int, factor: int) -> None:
    """Say where one of the classes `labels` has too few images for `ipc` grids of factor² different ones."""
    cells = ipc * factor**2
    if few := [label for label in labels if counts[label] < cells]:
        least = min(few, key=counts.__getitem__)
        fits = counts[least] // factor**2
        log.info(
            "the first images repeat some in %d of %s: %s of %d x %d for %d images, and '%s' has %d; %s",
            len(few),
            counted(len(labels), "class"),
            counted(ipc, "grid"),
            *(factor, factor, cells, classes[least], counts[least]),
            f"ipc {fits} or factor 1 repeats none" if fits else "factor 1 repeats none",
        )
