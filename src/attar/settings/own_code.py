"""Code that a stored file names, a network or a plugin: it runs where its user has named it, at some time, too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attar.errors import UserError, say_once
from attar.settings import plugins
from attar.settings.own import as_items, is_own

NAMED: set[str] = set()  # in this process: `module:function@digest`, `FILE.py@digest`, `module@digest`
MEMORY = "named-code.txt"  # a line for each that was named on this machine


def remember(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Take the code in settings that the user gave, {section: {field: value}}, for code that may run."""
    if new := set(_code_in(sections)) - NAMED:
        NAMED.update(new)
        with suppress(OSError, RuntimeError):  # no home to write to: it is to be named again in the next process
            path = _memory()
            if lines := sorted(new - _remembered()):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write("".join(f"{line}\n" for line in lines))


def check(sections: Mapping[str, Any], where: object) -> None:
    """Before settings of a set, a run or an export are used: say what code they name.

    Args:
        sections: {section: {field: value}}, as they were stored.
        where: the file or folder, for the messages.

    Raises:
        UserError: for code that the user has not named.
    """
    registered = {entry.origin for entries in plugins.REGISTERED.values() for entry in entries.values()}
    for text in _code_in(sections):
        place = _place(text)
        if place.partition(":")[0] == "__main__":  # never imported, see `own.find` and `plugins.load`
            continue
        if text not in NAMED | registered | _remembered() and place not in map(_place, NAMED):
            flag = "--plugin" if place.endswith(".py") else "--networks"
            name = f"name it once, as in `attar evaluate {where} {flag} {place}`"
            name = name if ":" in place or flag == "--plugin" else f"import {place} in your own program"
            raise UserError(
                f"{where} names the code of {place}, which you have not named yourself: it is not run; read it, and "
                f"where you trust it, {name}"
            )
        say_once(f"runs the code of {place}, which {where} names")


def _code_in(sections: Mapping[str, Any]) -> Iterator[str]:
    """All texts in settings that name code."""
    fields = (("network", "net_type"), ("evaluate", "networks"), ("condense", "plugin"))
    for section, name in fields:
        values = sections.get(section)
        for item in as_items(values.get(name, ())) if isinstance(values, Mapping) else ():
            if isinstance(item, str) and (name == "plugin" or is_own(item.strip())):
                yield item.strip()


def _place(text: str) -> str:
    return text.partition("@")[0]


def _memory() -> Path:
    named = os.environ.get("ATTAR_CACHE")
    return (Path(named).expanduser() if named else Path.home() / ".cache" / "attar") / MEMORY


def _remembered() -> set[str]:
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        return set(_memory().read_text(encoding="utf-8").splitlines())
    return set()
