"""The Python reference: every public function shows an example, and the examples run, with the smallest schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from PIL import Image

import attar
from attar.comparison import spec
from attar.settings import plugins

SHORT = {"niter": 1, "inner_loop": 1}
POOL = {"epochs": 1, "models": 1, "width": 0.05}
TINY: dict[str, dict[str, Any]] = {  # in place of what an example says, or leaves out
    "condense": SHORT | POOL,
    "select": {"seed": 1},
    "evaluate": {"epochs": 1, "runs": 1, "whole_epochs": 1, "width": 0.05},
    "train": {"epochs": 1, "width": 0.05},
    "label": {"epochs": 1},
    "pretrain": POOL,
}


def examples() -> Iterator[tuple[str, str]]:
    """The name and the example of all that the reference shows, in its order."""
    for name in attar.__all__:
        public = getattr(attar, name)
        members = vars(public).items() if inspect.isclass(public) else ()
        for label, value in ((name, public), *((f"{name}.{member}", value) for member, value in members)):
            if not label.rpartition(".")[2].startswith("_"):
                yield label, (inspect.getdoc(value) or "").partition("\n\nExample:\n")[2]


def tiny(name: str) -> Callable[..., Any]:
    """The public function with those settings. What takes long, or asks the network, has only its arguments checked."""
    function = getattr(attar, name)

    @wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        inspect.signature(function).bind(*args, **settings)
        if name == "push_set":
            return None
        if name == "compare":
            return [] if spec.resolve(args[0]) else None
        short = TINY.get(name, {})
        if name == "condense" and (len(args) > 1 or "method" in settings):  # a pool, or a method without one
            short = SHORT
        return function(*args, **settings | short)

    return call


def test_every_function_shows_an_example() -> None:
    functions = {name for name in attar.__all__ if not inspect.isclass(getattr(attar, name))}
    shown = {name for name, example in examples() if example}
    assert functions <= shown and {"methods.register", "losses.register", "augmentations.register"} <= shown


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, with what those before have made."""
    monkeypatch.chdir(tmp_path)
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    for row, image in enumerate(images):
        file = Path("path/to/images", "cat" if row % 2 else "dog", f"{row}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    labels = torch.arange(8) % 2
    real = {"images": images, "labels": labels, "test_images": images, "test_labels": labels}
    names = {"attar": attar, "torch": torch, "__name__": "examples"}
    try:
        for name in (*TINY, "compare", "push_set"):
            monkeypatch.setattr(attar, name, tiny(name))
        for name, example in examples():
            names |= real
            exec(compile(dedent(example), name, "exec"), names)
    finally:
        for entries in plugins.REGISTERED.values():
            entries.clear()
