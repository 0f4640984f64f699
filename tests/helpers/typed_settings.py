"""A script: writes src/attar/settings/typed.py, the settings of each function for editors and type checkers.

Run it after a change of a setting: `python tests/helpers/typed_settings.py`; tests/settings/test_typed.py tells when.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from attar.settings import config
from attar.settings.schema import known_settings

FILE = Path(config.__file__).with_name("typed.py")
HEAD = '''"""The settings that functions take, for editors and type checkers, by tests/helpers/typed_settings.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict
'''


def annotation(section: str, name: str) -> str:
    """What Python callers may give for a setting; what is read from more than text is Any."""
    kind = config.SECTIONS[section]
    (text,) = (str(item.type) for item in fields(kind) if item.name == name)
    if known_settings(kind)[name].read is not None:
        return "Any"
    item = text.removeprefix("tuple[").removesuffix(", ...]")
    return text if item == text else f"{item} | Sequence[{item}]"


def written() -> str:
    """The content of the file."""
    of_data = config.FLAGS["add"]
    parts = [HEAD]
    for verb in ("add", "condense", "evaluate", "label", "pretrain", "select", "train"):
        flags = {flag: place for flag, place in config.FLAGS[verb].items() if verb == "add" or flag not in of_data}
        above = "TypedDict" if verb == "add" else "DataSettings"
        title = "Data" if verb == "add" else verb.capitalize()
        words = "`add`, and all others" if verb == "add" else f"`{verb}`, beside those of the data"
        parts += ["", f"class {title}Settings({above}, total=False):", f'    """Of {words}."""', ""]
        parts += [f"    {flag}: {annotation(*place)}" for flag, place in flags.items()]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
