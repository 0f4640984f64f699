"""What attar says when the user's input cannot be used: one line, what is wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
