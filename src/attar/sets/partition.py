"""Partitions (IDC section 5): a data set's classes in parts that are condensed separately, and the parts as one set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.errors import UserError, choose, log
from attar.sets.set_files import as_set
from attar.sets.synthetic import SyntheticSet
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import SECTIONS, with_role

FIELD_NAMES = {"source": "the data set", "fingerprint": "the fingerprint of the real images"}  # in messages
MAX_MISFITS_SHOWN = 3  # in a message


def part_count(nclass: int, nclass_sub: int) -> int:
    """The number of parts of `nclass_sub` classes each; the last part may be smaller."""
    return -(-nclass // nclass_sub)


def labels_of(nclass: int, nclass_sub: int | None, phase: int | None) -> list[int]:
    """The labels of part number `phase`, counted from 0, or of all parts without a phase.

    Raises `UserError` for a phase that does not exist.
    """
    labels = list(range(nclass))
    if nclass_sub is None or phase is None:
        return labels
    count = part_count(nclass, nclass_sub)
    if phase >= count:
        raise UserError(
            f"phase {phase} does not exist: {nclass} classes in parts of {nclass_sub} are phases 0..{count - 1}"
        )
    return labels[phase * nclass_sub : (phase + 1) * nclass_sub]


def condensed_labels(classes: Sequence[str], config: CondenseConfig) -> list[int]:
    """The labels that a run condenses: of the classes that it names, of a part, or all.

    Raises `UserError` for a class or a phase that does not exist.
    """
    if config.only:
        return sorted({classes.index(choose("class", name, classes)) for name in config.only})
    return labels_of(len(classes), config.nclass_sub, config.phase)


def concatenate(parts: Sequence[SyntheticSet | str | Path], names: Sequence[str] = ()) -> SyntheticSet:
    """Join the parts of a partition into one set.

    Args:
        parts: the sets, or their files or run folders, in any order.
        names: what error messages call the parts; "part 1", "part 2", … by default.

    Returns:
        A set ordered by label, whose recipe is that of the parts without a phase. It may lack classes, see
        `missing_labels`. It has initial images if all parts have them, and hard labels only.

    Raises:
        UserError: where parts differ in data, form or settings, or a class is in two of them.

    Example:
        parts = [attar.condense("digits", ipc=1, nclass_sub=5, phase=phase) for phase in (0, 1)]
        whole = attar.concatenate(parts)
    """
    if isinstance(parts, str | Path | SyntheticSet):
        raise UserError("parts is a list of sets, files or run folders; put this one in a list")
    if not parts:
        raise UserError("there are no parts to join; name two or more")
    sets = [as_set(part) for part in parts]
    names = names or [f"part {number}" for number in range(1, len(sets) + 1)]
    misfits = [*_misfits(sets, names), *_repeated(sets, names)]
    if misfits:
        more = f"; {len(misfits) - MAX_MISFITS_SHOWN} more" if len(misfits) > MAX_MISFITS_SHOWN else ""
        raise UserError("; ".join(misfits[:MAX_MISFITS_SHOWN]) + more)
    say_what_is_lost(sets)
    order = torch.cat([part.labels for part in sets]).argsort(stable=True)
    initial = [part.initial for part in sets if part.initial is not None]
    first = min(sets, key=lambda part: int(part.labels.min()))  # so that the order of the parts changes nothing
    return replace(
        first.with_hard_labels(),
        folder=None,
        images=torch.cat([part.images for part in sets])[order],
        labels=torch.cat([part.labels for part in sets])[order],
        initial=torch.cat(initial)[order] if len(initial) == len(sets) else None,
        recipe=without_phase(first.recipe),
    )


def say_what_is_lost(parts: Sequence[SyntheticSet]) -> None:
    """Log what parts have beside images and hard labels, none of which a joined set has."""
    if any(part.teacher for part in parts):
        log.warning("the teacher's labels of the parts are not in the joined set; attar label makes them for all")
    if any(part.learned_labels is not None for part in parts):
        log.warning("the soft labels that were learned are not in the joined set; attar label makes a teacher's")
    if any(part.lr is not None for part in parts):
        log.warning("the learning rates that were learned with the parts are not in the joined set")


def missing_labels(condensed: SyntheticSet) -> list[int]:
    """The labels that have no image in a set."""
    return sorted(set(range(condensed.nclass)) - set(condensed.labels.tolist()))


def check_whole(condensed: SyntheticSet) -> None:
    """Raise `UserError` when a set lacks classes; the message names the missing phases where the recipe tells them."""
    missing = missing_labels(condensed)
    if not missing:
        return
    nclass_sub = condensed.recipe.get("condense", {}).get("nclass_sub")
    classes = ", ".join(f"'{condensed.classes[label]}'" for label in missing[:MAX_MISFITS_SHOWN])
    classes += ", ..." * (len(missing) > MAX_MISFITS_SHOWN)
    phases = sorted({label // nclass_sub for label in missing}) if nclass_sub else []
    hint = f"; give phase {', '.join(map(str, phases))} too" if phases else "; give all parts"
    raise UserError(f"{len(missing)} of {condensed.nclass} classes are in no part ({classes}){hint}")


def without_phase(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a part, by sections, as the recipe of all classes together."""
    if "condense" not in sections:
        return dict(sections)
    return {**sections, "condense": {**sections["condense"], "phase": None, "only": []}}


def _misfits(parts: Sequence[SyntheticSet], names: Sequence[str]) -> Iterator[str]:
    """For each part the first difference from the first part, in words."""
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        for what, value, expected in _compared(part, first):
            if value != expected:
                yield f"{name} does not fit {names[0]}: {what} is {value}, not {expected}"
                break


def _compared(part: SyntheticSet, other: SyntheticSet) -> Iterator[tuple[str, Any, Any]]:
    """(what is compared, the part's value, the other's value) of everything that parts must share."""
    for what in ("source", "fingerprint", "classes", "mean", "std"):
        yield FIELD_NAMES.get(what, what), getattr(part, what) or "unknown", getattr(other, what) or "unknown"
    yield "the image shape", list(part.images.shape[1:]), list(other.images.shape[1:])
    for what in ("ipc", "factor", "decode_type", "space", "coreset"):
        yield what, getattr(part, what) or "none", getattr(other, what) or "none"
    counts = [count for count in torch.bincount(part.labels).tolist() if count]
    yield "the number of images per class", sorted(set(counts)), [other.ipc]
    settings, others = _settings(part), _settings(other)
    for what in sorted(settings.keys() | others.keys()):
        yield what, settings.get(what, "unknown"), others.get(what, "unknown")


def _settings(part: SyntheticSet) -> dict[str, Any]:
    """{"[section] name": value} of the settings that decide a part's images."""
    settings: dict[str, Any] = {}
    for section, values in part.recipe.items():
        if section in SECTIONS and section != "evaluate" and isinstance(values, Mapping):
            # Where the real images come from may differ: the fingerprint shows whether they are the same.
            ignored = with_role(section, "source", "part", "place", "speed", "scope")
            for name, value in values.items():
                if name not in ignored:
                    settings[f"[{section}] {name}"] = tuple(value) if isinstance(value, list) else value
    return settings


def _repeated(parts: Sequence[SyntheticSet], names: Sequence[str]) -> Iterator[str]:
    """For each part the first class that an earlier part has too, in words."""
    part_with: dict[int, str] = {}  # label → name of the first part that has it
    for part, name in zip(parts, names, strict=True):
        labels = sorted(set(part.labels.tolist()))
        for label in labels:
            if label in part_with:
                title = part.classes[label] if label < len(part.classes) else label
                yield f"class '{title}' is in both {part_with[label]} and {name}"
                break
        part_with |= dict.fromkeys(labels, name)
