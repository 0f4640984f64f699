"""What users are told: errors of theirs, each one line that says what is wrong and what would be right, and the log."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

# All that attar has to say while it works. The command line and its workers put handlers on it; in Python warnings are
# shown, and `logging.getLogger("attar").setLevel("INFO")` with a handler shows the rest.
log = logging.getLogger("attar")


class UserError(ValueError):
    """Input that attar cannot use. The command line prints the message as one line and exits with status 2."""


class Diverged(UserError):
    """Numbers that are no longer finite, of a run or of a network."""


class MissingError(UserError, FileNotFoundError):
    """A file, folder or optional package that is not there."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


class WriteError(UserError, OSError):
    """A file that cannot be written, such as on a full disk."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


def nearest(name: str, options: Iterable[str]) -> str:
    """The words that follow "unknown thing 'name'": the nearest valid name, then all of them."""
    names = sorted(options)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def choose(kind: str, name: str, options: Iterable[str]) -> str:
    """Return `name` if it is one of `options`; raise `UserError` with the nearest valid name if not."""
    names = list(options)
    if name not in names:
        raise UserError(f"unknown {kind} '{name}'; {nearest(name, names)}")
    return name


class Once(logging.Filter):
    """Lets each line that is marked `extra={"once": True}` pass a single time."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be shown."""
        if not getattr(record, "once", False):
            return True
        line = record.getMessage()
        new = line not in self.said
        self.said.add(line)
        return new


once = Once()
log.addFilter(once)


def say_once(line: str, level: int = logging.INFO) -> None:
    """Log a line that many parts of a run would repeat."""
    log.log(level, "%s", line, extra={"once": True})


def one_line(error: BaseException) -> str:
    """What an error says, as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
