"""Methods, losses and augmentations that users add: registered by name, and known to a run by their file's digest."""

from __future__ import annotations

import importlib
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.errors import MissingError, UserError, choose, one_line
from attar.settings.own import DIGEST_LENGTH, as_items, digest_of_file, source_digest

EXTENSIONS = {"method": "method", "match": "loss", "augmentation": "augmentation"}  # key in `REGISTERED` → in words


@dataclass(frozen=True)
class Registered:
    """What was registered under a name."""

    value: Any  # a method, or a function
    option: Any  # how the function is called
    origin: str  # where: `FILE.py@digest`, or `module@digest`


REGISTERED: dict[str, dict[str, Registered]] = {kind: {} for kind in EXTENSIONS}
LOADED: dict[str, str] = {}  # file → its text with digest, while and after it is loaded


def names(kind: str) -> tuple[str, ...]:
    """The names that are registered for a setting or kind."""
    return tuple(REGISTERED.get(kind, ()))


def add(kind: str, taken: Iterable[str], name: str, value: Any, option: Any = None) -> None:
    """Register something for the module that called `register`. Raises `UserError` for a name that is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise UserError(f"a {EXTENSIONS[kind]}'s name is small letters and digits, not '{name}'")
    caller = sys._getframe(2).f_globals
    file = caller.get("__file__")
    origin = LOADED.get(str(caller.get("__attar_plugin__")))
    digest = digest_of_file(Path(file)) if file else uuid.uuid4().hex[:DIGEST_LENGTH]
    origin = origin or f"{caller.get('__name__')}@{digest}"
    before = REGISTERED[kind].get(name)
    if name in taken or (before is not None and _place(before.origin) != _place(origin)):
        by = "attar" if before is None else _place(before.origin)
        raise UserError(f"there is a {EXTENSIONS[kind]} '{name}' already, of {by}; choose another name")
    REGISTERED[kind][name] = Registered(value, option, origin)


class losses:
    """Matching losses of your own, for the setting `match`."""

    @staticmethod
    def register(name: str, function: Callable[..., Any], *, of: str = "gradients") -> None:
        """Add a matching loss.

        Args:
            name: small letters and digits; `match=name` then uses the loss.
            function: (real, synthetic) → a tensor without dimensions, differentiable in `synthetic`. It is called for
                each class, with the real images' side as a constant.
            of: "gradients": dicts of the gradients of the mean cross-entropy by parameter. "features": the last
                features [n, d] and [m, d].

        Raises:
            UserError: for a name that is taken, and another `of`.

        Example:
            def means(real, synthetic):
                return (real.mean(0) - synthetic.mean(0)).square().sum()

            attar.losses.register("means", means, of="features")
            small = attar.condense("digits", ipc=1, method="dm", match="means")
        """
        add(
            "match",
            ("grad", "feat", "ncf", "pairs", "label"),
            name,
            function,
            choose("of", of, ("gradients", "features")),
        )


class augmentations:
    """Augmentations of your own, for the settings `aug_type`."""

    @staticmethod
    def register(name: str, function: Callable[..., Any], *, draws: int = 1) -> None:
        """Add an augmentation, which comes after attar's own.

        Args:
            name: small letters and digits; `aug_type="crop_name"` then uses it.
            function: (images [n, ch, H, W], normalised; u [1 or n, draws], uniform in [0, 1)) → images of the same
                shape. It is differentiable, and draws nothing itself: real and synthetic images share one u.
            draws: random numbers for each image, or for each class in matching.

        Raises:
            UserError: for a name that is taken.

        Example:
            def dim(images, u):
                return images * (1 - 0.5 * u[:, :1, None, None])

            attar.augmentations.register("dim", dim)
            small = attar.condense("digits", ipc=1, aug_type="crop_dim")
        """
        add(
            "augmentation",
            ("color", "crop", "cutout", "flip", "scale", "rotate", "resize", "one", "none"),
            name,
            function,
            draws,
        )


def call(kind: str, name: str, *inputs: Any) -> Any:
    """What a registered function returns. Raises `UserError` where it raises."""
    import torch

    function = REGISTERED[kind][name].value
    if torch.compiler.is_compiling():
        return function(*inputs)
    try:
        return function(*inputs)
    except Exception as error:
        raise UserError(f"the {EXTENSIONS[kind]} '{name}' raises {type(error).__name__}: {one_line(error)}") from error


def used(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The plugins that settings name, and those of the registered names that they use."""
    condense = sections["condense"]
    strategies = "_".join(str(sections[name]["aug_type"]) for name in ("pool", "condense", "evaluate"))
    asked = {"method": [condense["method"]], "match": [condense["match"]], "augmentation": re.split("[_-]", strategies)}
    origins = [REGISTERED[kind][name].origin for kind, texts in asked.items() for name in texts if name in names(kind)]
    return sorted({*condense["plugin"], *origins})


def origins_of(strategy: Iterable[str]) -> list[str]:
    """Where the registered augmentations of a strategy come from."""
    return [REGISTERED["augmentation"][name].origin for name in strategy if name in names("augmentation")]


def as_text(value: Any) -> Any:
    """Load the plugins that a setting names; each is text with the digest of its file then."""
    return [load(item) if isinstance(item, str) else item for item in as_items(value)]


def loaded() -> list[str]:
    """The files that were loaded in this process, for another: settings that are sent to it load none.

    Without those that are gone or changed by now: settings made since then use none of them.
    """
    return [text for place, text in LOADED.items() if text == f"{place}@{_digest(place)}"]


def _digest(place: str) -> str | None:
    return digest_of_file(Path(place)) if Path(place).is_file() else None


def load(text: str) -> str:
    """Load a plugin, `FILE.py` or, with its digest, what a run was made with. Returns its text with the digest.

    Raises `UserError` where it is missing, has changed or raises.
    """
    place, _, expected = text.partition("@")
    if any(entry.origin == text for entries in REGISTERED.values() for entry in entries.values()):
        return text
    if not place.endswith(".py"):
        return _registered(text, place, is_saved=bool(expected))
    path = Path(place)
    if not path.is_file():
        raise MissingError(f"there is no plugin {place}")
    digest = digest_of_file(path)
    if expected not in ("", digest):
        raise UserError(f"the plugin {place} has changed since the run began; restore it, or begin another run")
    if LOADED.get(place) != f"{place}@{digest}":
        LOADED[place] = f"{place}@{digest}"
        try:
            exec(compile(path.read_bytes(), place, "exec"), {"__name__": path.stem, "__attar_plugin__": place})
        except Exception as error:
            del LOADED[place]
            words = one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"the plugin {place} cannot be loaded: {words}") from error
    return LOADED[place]


def _registered(text: str, module: str, *, is_saved: bool) -> str:
    """Import a module whose registrations a run was made with."""
    if not is_saved:
        raise UserError(f"a plugin is a Python file, FILE.py, not '{text}'")
    gone = f"the run was made with what {module} registers, and that is not there, or has changed"
    if module != "__main__" and source_digest(module) not in (None, text.partition("@")[2]):
        raise UserError(gone)
    try:
        if module != "__main__":
            importlib.import_module(module)
    except ImportError as error:
        raise MissingError(f"the run was made with what {module} registers, and it cannot be imported") from error
    if all(entry.origin != text for entries in REGISTERED.values() for entry in entries.values()):
        raise UserError(gone.replace("__main__", "the Python program that began it"))
    return text


def _place(origin: str) -> str:
    return origin.partition("@")[0]
