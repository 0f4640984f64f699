"""Errors for users, each one line that says what is wrong and what would be right, and the logger `attar`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

# The one logger of the package. The command line and its worker processes add handlers to it; in Python only warnings
# are shown, unless the user adds a handler and sets the level to INFO.
log = logging.getLogger("attar")


class UserError(ValueError):
    """Input that attar cannot use. The command line prints the message as one line and exits with status 2."""


class Diverged(UserError):
    """An image, weight, loss or accuracy that is no longer finite."""


class MissingError(UserError, FileNotFoundError):
    """A file, folder or optional package that is not there."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


class WriteError(UserError, OSError):
    """A file that cannot be written, such as on a full disk."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


MOST_LISTED = 20  # valid names in a message, where a near one is named first
MOST_LISTED_ALONE = 40  # where none is near


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid names, if some are near, then the valid names."""
    names = sorted(options)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else ""
    if close and len(names) > MOST_LISTED:
        return f"{hint} nearest: {', '.join(close)}" if len(close) > 1 else hint
    if len(names) > MOST_LISTED_ALONE:
        return f"none of the {len(names)} valid names is like it"
    return f"{hint} valid: {', '.join(names)}".strip()


def choose(kind: str, name: str, options: Iterable[str]) -> str:
    """Return `name` if it is one of `options`; raise `UserError` with the nearest valid name if not."""
    names = list(options)
    if name not in names:
        raise UserError(f"unknown {kind} '{name}'; {nearest(str(name), names)}")
    return name


class Once(logging.Filter):
    """Drops a record marked `extra={"once": True}` whose message was logged before in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if not getattr(record, "once", False):
            return True
        line = record.getMessage()
        new = line not in self.said
        self.said.add(line)
        return new


once = Once()
log.addFilter(once)


def say_once(line: str, level: int = logging.INFO) -> None:
    """Log a line at its first call in this process only: many parts of a run would repeat it."""
    log.log(level, "%s", line, extra={"once": True})


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as `1 image` and `1,200 images`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def size_in_words(count: float) -> str:
    """Bytes in decimal units with two digits or more: 640 -> "640 B", 7840 -> "7.8 kB", 47040000 -> "47 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"


def one_line(error: BaseException) -> str:
    """The message of an error on one line; of an operating system's error its reason alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
