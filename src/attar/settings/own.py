"""Functions of the user's own as settings: text `module:function@digest`, with the digest of the function's file."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
import uuid
from collections.abc import Callable
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
        return f"{value}@{digest(find(value))}" if is_own(value) and "@" not in value else value
    if not callable(value):
        return value
    name = getattr(value, "__qualname__", type(value).__qualname__)
    text = f"{getattr(value, '__module__', None) or '__main__'}:{name}@{digest(value)}"
    OBJECTS[text] = value
    return text


def find(text: str) -> Callable[..., Any]:
    """The function that a text names. Raises `UserError` where it is missing, or has changed since it was named."""
    if text in OBJECTS:
        return OBJECTS[text]
    name, _, expected = text.partition("@")
    module_name, _, attribute = name.partition(":")
    if module_name == "__main__" or not re.fullmatch(r"[\w.]+", attribute):
        raise UserError(f"{name} lives in the Python program that named it; put it into a module, for module:function")
    value: Any = _module(module_name, name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise MissingError(f"{name} is not there: {module_name} has no {attribute}")
        value = getattr(value, part)
    if not callable(value):
        raise UserError(f"{name} is no function but a {type(value).__name__}")
    if expected and expected != digest(value):
        raise UserError(f"{name} has changed since the run began; restore its file, or begin another run")
    return value


def _module(module_name: str, name: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:  # of `attar` only Python's own folders are
        sys.path.insert(0, os.getcwd())
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
        path = inspect.getsourcefile(function) if "<" not in qualname else None
        content = Path(path).read_bytes() if path is not None else b""
    except (TypeError, OSError):  # built in, or typed at a prompt
        content = b""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH] if content else uuid.uuid4().hex[:DIGEST_LENGTH]


def is_importable(text: str) -> bool:
    """Whether another process finds the function by its name."""
    try:
        return not is_own(text) or find(without_digest(text)) is OBJECTS.get(text, find(without_digest(text)))
    except UserError:
        return False
