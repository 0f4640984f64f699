"""How a source of images is read: what the caller asked for, and what of the source goes unused."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from attar.errors import log

LARGEST_SIDE_CPU, LARGEST_SIDE = 64, 224  # pixels of the size that is chosen for images of mixed sizes
WISHES = ("image_column", "label_column", "labels_csv", "channels")  # that only some kinds of data have a use for
EXAMPLES = 3  # that are named of each reason
EXAMPLES_LISTED = 10  # that are remembered, for `attar inspect`


class Stage(Protocol):
    """A stage of a known number of steps."""

    def advance(self, note: str = "") -> None:
        """One step is done."""


class ShowsStages(Protocol):
    """Whoever shows how far a long stage is, such as `attar.runs.progress.Progress`."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """A stage of `total` steps."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Silent]:
        """Steps that nobody sees."""
        yield self

    def advance(self, note: str = "") -> None:
        """Nothing."""


class LeftOut:
    """Files, rows and wishes that are not used, counted by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str = "", count: int = 1) -> None:
        """Count `count` things. reason: what they are, such as "hidden files"."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            named = self.examples.setdefault(reason, [])
            if example and len(named) < EXAMPLES_LISTED:
                named.append(printable(example))

    def __bool__(self) -> bool:
        return bool(self.counts)

    def words(self) -> str:
        """All reasons in one line."""
        return "; ".join(
            f"{reason}: {count:,}" + (f" ({', '.join(shown)}{', ...' if count > len(shown) else ''})" if shown else "")
            for reason, count in self.counts.items()
            for shown in [self.examples[reason][:EXAMPLES]]
        )

    def say(self, name: str) -> None:
        """Log the line, where there is anything to say."""
        if self:
            log.warning("%s: not used: %s", name, self.words())


@dataclass(frozen=True)
class Reading:
    """What `load` was asked for.

    size: pixels of the side that images are brought to; nclass: so many classes only; channels: "first" or "last",
    where arrays have them; memory: keep images in memory, not in a cache; sample: decode a sample of a large folder;
    root: where caches lie ($ATTAR_CACHE or ~/.cache/attar where None); largest_side: pixels, of the size that is chosen
    for images of mixed sizes.
    """

    size: int | None = None
    nclass: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    labels_csv: Path | None = None
    channels: str | None = None
    skip_bad: bool = False
    memory: bool = False
    sample: bool = False
    root: Path | None = None
    progress: ShowsStages = field(default_factory=Silent)
    largest_side: int = LARGEST_SIDE_CPU
    left_out: LeftOut = field(default_factory=LeftOut)
    heeded: set[str] = field(default_factory=set)  # of `WISHES`

    def wish(self, name: str) -> str | None:
        """The value of one of `WISHES`, which is heeded from now on."""
        self.heeded.add(name)
        value = getattr(self, name)
        return None if value is None else str(value)

    @property
    def unheeded(self) -> list[str]:
        """What was asked for, and does nothing for such data."""
        return [name for name in WISHES if getattr(self, name) is not None and name not in self.heeded]

    @property
    def caches(self) -> Path:
        """The folder that holds all caches of decoded images."""
        named = self.root or os.environ.get("ATTAR_CACHE")
        return (Path(named).expanduser() if named else Path.home() / ".cache" / "attar") / "images"


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere and compared: bytes that are no UTF-8 become \\xff.

    Accents have one form (NFC), whichever the system that made the file has.
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
