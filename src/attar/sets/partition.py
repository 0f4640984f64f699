"""Partitions: classes in parts that are condensed on their own, and the parts as one set again (IDC section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from attar.errors import UserError
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import SECTIONS, with_role

WORDS = {"source": "the data set", "fingerprint": "the fingerprint of the real images"}
MAX_MISFITS_SHOWN = 3  # misfits that a message lists


def parts_of(nclass: int, nclass_sub: int) -> int:
    """How many parts of `nclass_sub` classes there are; the last one may be smaller."""
    return -(-nclass // nclass_sub)


def labels_of(nclass: int, nclass_sub: int | None, phase: int | None) -> list[int]:
    """The labels of part `phase`; without a phase those of all parts. Raises `UserError` for a part that is not."""
    labels = list(range(nclass))
    if nclass_sub is None or phase is None:
        return labels
    parts = parts_of(nclass, nclass_sub)
    if phase >= parts:
        raise UserError(
            f"phase {phase} does not exist: {nclass} classes in parts of {nclass_sub} are phases 0..{parts - 1}"
        )
    return labels[phase * nclass_sub : (phase + 1) * nclass_sub]


def concatenate(parts: Sequence[SyntheticSet], names: Sequence[str] = ()) -> SyntheticSet:
    """Join the parts of a partition into one set, ordered by label, whatever their order.

    The set's recipe is that of the parts without a phase. It may still lack classes: `absent` names them. Raises
    `UserError` when parts differ in data, form or settings, or when a class stands in two of them; `names` are what
    the message calls the parts.
    """
    if not parts:
        raise UserError("there are no parts to join; name two or more")
    names = names or [f"part {number}" for number in range(1, len(parts) + 1)]
    wrong = [*_misfits(parts, names), *_repeated(parts, names)]
    if wrong:
        more = f"; {len(wrong) - MAX_MISFITS_SHOWN} more" if len(wrong) > MAX_MISFITS_SHOWN else ""
        raise UserError("; ".join(wrong[:MAX_MISFITS_SHOWN]) + more)
    order = torch.cat([part.labels for part in parts]).argsort(stable=True)
    known = [part.initial for part in parts if part.initial is not None]
    first = min(parts, key=lambda part: int(part.labels.min()))  # so that the order of the parts changes nothing
    return replace(
        first,
        images=torch.cat([part.images for part in parts])[order],
        labels=torch.cat([part.labels for part in parts])[order],
        initial=torch.cat(known)[order] if len(known) == len(parts) else None,
        recipe=without_phase(first.recipe),
    )


def absent(condensed: SyntheticSet) -> list[int]:
    """The labels that have no image in a set."""
    return sorted(set(range(condensed.nclass)) - set(condensed.labels.tolist()))


def check_whole(condensed: SyntheticSet) -> None:
    """Raise `UserError` when a set lacks classes, with the phases that would bring them where that is known."""
    missing = absent(condensed)
    if not missing:
        return
    nclass_sub = condensed.recipe.get("condense", {}).get("nclass_sub")
    some = ", ".join(f"'{condensed.classes[label]}'" for label in missing[:MAX_MISFITS_SHOWN]) + ", ..." * (
        len(missing) > MAX_MISFITS_SHOWN
    )
    phases = sorted({label // nclass_sub for label in missing}) if nclass_sub else []
    hint = f"; give phase {', '.join(map(str, phases))} too" if phases else "; give all parts"
    raise UserError(f"{len(missing)} of {condensed.nclass} classes stand in no part ({some}){hint}")


def without_phase(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's sections as those of all parts together."""
    if "condense" not in sections:
        return dict(sections)
    return {**sections, "condense": {**sections["condense"], "phase": None}}


def _misfits(parts: Sequence[SyntheticSet], names: Sequence[str]) -> Iterator[str]:
    """Where a part differs from the first, in words; of each part the first difference."""
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        for what, own, wanted in _compared(part, first):
            if own != wanted:
                yield f"{name} does not fit {names[0]}: {what} is {own}, not {wanted}"
                break


def _compared(part: SyntheticSet, other: SyntheticSet) -> Iterator[tuple[str, Any, Any]]:
    """(what, a part's value, the other's) of all that parts must share."""
    for what in ("source", "fingerprint", "classes", "mean", "std"):
        yield WORDS.get(what, what), getattr(part, what) or "unknown", getattr(other, what) or "unknown"
    yield "the image shape", list(part.images.shape[1:]), list(other.images.shape[1:])
    for what in ("ipc", "factor", "decode_type"):
        yield what, getattr(part, what), getattr(other, what)
    counts = [count for count in torch.bincount(part.labels).tolist() if count]
    yield "the number of images per class", sorted(set(counts)), [other.ipc]
    settings, others = _settings(part), _settings(other)
    for what in sorted(settings.keys() | others.keys()):
        yield what, settings.get(what, "unknown"), others.get(what, "unknown")


def _settings(part: SyntheticSet) -> dict[str, Any]:
    """{setting: value} of those that decide a part's images."""
    kept: dict[str, Any] = {}
    for section, values in part.recipe.items():
        if section in SECTIONS and section != "evaluate" and isinstance(values, Mapping):
            # The fingerprint tells whether the images are the same, wherever each part found them.
            free = with_role(section, "source", "part", "place", "speed")
            named = {f"[{section}] {name}": value for name, value in values.items() if name not in free}
            kept |= {name: tuple(value) if isinstance(value, list) else value for name, value in named.items()}
    return kept


def _repeated(parts: Sequence[SyntheticSet], names: Sequence[str]) -> Iterator[str]:
    """The first class of each part that another part holds already, in words."""
    seen: dict[int, str] = {}
    for part, name in zip(parts, names, strict=True):
        labels = sorted(set(part.labels.tolist()))
        for label in labels:
            if label in seen:
                title = part.classes[label] if label < len(part.classes) else label
                yield f"class '{title}' stands in both {seen[label]} and {name}"
                break
        seen |= dict.fromkeys(labels, name)
