"""Functions of the user's own as settings: text `module:function@digest`, with the digest of the function's file."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attar.errors import MissingError, UserError, one_line

TIMM = "timm:"  # networks of timm are named by this and their name there
DIGEST_LENGTH = 12
OBJECTS: dict[str, Callable[..., Any]] = {}  # text → function, where a caller gave the function itself


def is_own(text: str) -> bool:
    """Whether a network's name is that of a function of the user's own."""
    return ":" in text and not text.startswith(TIMM)


def without_digest(text: str) -> str:
    """`module:function`."""
    return text.partition("@")[0]


def as_items(value: Any) -> list[Any]:
    """A list's items; another value alone."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_text(value: Any) -> Any:
    """A function, or `module:function`, as text with its digest; a list item by item; other values as they are."""
    if isinstance(value, list | tuple):
        return [as_text(item) for item in value]
    if isinstance(value, str):
        value = value.strip()
        return f"{_home(value)}@{digest(find(value))}" if is_own(value) and "@" not in value else value
    if not callable(value):
        return value
    name = getattr(value, "__qualname__", type(value).__qualname__)
    text = f"{getattr(value, '__module__', None) or '__main__'}:{name}@{digest(value)}"
    OBJECTS[text] = value
    return text


def _home(text: str) -> str:
    """`module:function` by the module that the function stands in, where it was named by one that imports it."""
    function = find(text)
    home = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    try:
        return home if find(home) is function else text
    except UserError:
        return text


def find(text: str) -> Callable[..., Any]:
    """The function that a text names. Raises `UserError` where it is missing, or has changed since it was named.

    A module whose file has changed is not run, unless this process has run it before; a package around it is.
    """
    if text in OBJECTS:
        return OBJECTS[text]
    name, _, expected = text.partition("@")
    module_name, _, attribute = name.partition(":")
    if module_name == "__main__" or not re.fullmatch(r"[\w.]+", attribute):
        raise UserError(f"{name} lives in the Python program that named it; put it into a module, for module:function")
    changed = f"{name} has changed since the run began; restore its file, or begin another run"
    if expected and source_digest(module_name) not in (None, expected):
        raise UserError(changed)
    value: Any = _module(module_name, name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise MissingError(f"{name} is not there: {module_name} has no {attribute}")
        value = getattr(value, part)
    if not callable(value):
        raise UserError(f"{name} is no function but a {type(value).__name__}")
    if expected and expected != digest(value):
        raise UserError(changed)
    return value


def _look_here() -> None:
    """Let modules of the current folder be found: of `attar` only Python's own folders are looked into."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def source_digest(module_name: str) -> str | None:
    """The digest of a module's file, without running it; None where it was run already, or is not found."""
    _look_here()
    spec = None
    with suppress(Exception):  # of a package around it, which importing the module will raise again
        spec = importlib.util.find_spec(module_name) if module_name not in sys.modules else None
    return digest_of_file(Path(spec.origin)) if spec is not None and spec.origin and spec.has_location else None


def _module(module_name: str, name: str) -> Any:
    _look_here()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            place = f"{os.getcwd()} and Python's path"
            raise MissingError(f"{name} is not there: no module {error.name} in {place}") from error
        raise UserError(f"{name} cannot be imported: {one_line(error)}") from error
    except Exception as error:
        raise UserError(f"{name} cannot be imported: {type(error).__name__}: {one_line(error)}") from error


@functools.cache
def digest(function: Callable[..., Any]) -> str:
    """A digest of the file that a function stands in; for a function inside another, or without a file, a new text.

    A closure or a lambda is not known by its file, and so is never taken for one of another process.
    """
    qualname = getattr(function, "__qualname__", "<object>")
    try:
        defined = function if hasattr(function, "__code__") else inspect.unwrap(function)  # what a cache is around
        path = inspect.getsourcefile(defined) if "<" not in qualname else None
        return digest_of_file(Path(path or ""))
    except (TypeError, OSError, ValueError):  # built in, or typed at a prompt
        return uuid.uuid4().hex[:DIGEST_LENGTH]


def digest_of_file(path: Path) -> str:
    """The digest of what a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_LENGTH]


def is_importable(text: str) -> bool:
    """Whether another process finds the function by its name."""
    try:
        return not is_own(text) or find(without_digest(text)) is OBJECTS.get(text, find(without_digest(text)))
    except UserError:
        return False
