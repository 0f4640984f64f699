"""Networks that attar has not seen: the user's own and timm's, taken apart into features and last layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from attar.errors import UserError, one_line
from attar.models.common import Network

CONTRACT = (
    "attar needs a torch.nn.Module whose logits [n, classes] come out of an nn.Linear as its last layer, or whose "
    "attributes features and classifier (an nn.Linear) give them together"
)
Make = Callable[[int, int, tuple[int, int]], nn.Module]  # (channels, classes, (height, width)) → a fresh network


class OwnNetwork(Network):
    """A network of any class, for images [n, channels, *size].

    Its last layer becomes `classifier`. The rest, `body`, gives the features: by its method or module `features` where
    that is the way to them, else with nothing in place of the last layer.
    Raises `UserError` where `make` raises, and for a network that does not keep to `CONTRACT`.
    """

    def __init__(self, name: str, make: Make, *, channels: int, nclass: int, size: tuple[int, int]) -> None:
        super().__init__()
        if isinstance(make, nn.Module):
            raise UserError(f"{name} is a network, and every run needs a fresh one: give a function that makes it")
        words = f"images of {channels}x{size[0]}x{size[1]}"
        self.name = name
        with in_one_line(f"{name} makes no network for {words}"):
            body: Any = make(channels, nclass, size)
        if not isinstance(body, nn.Module):
            raise UserError(f"{name} makes no network but a {type(body).__name__}; {CONTRACT}")
        images = torch.randn(2, channels, *size, generator=Generator().manual_seed(0))
        with torch.no_grad():
            logits = _logits(name, body.eval(), images, words, nclass)
            _logits(name, copy.deepcopy(body).train(), images, words, nclass)  # batch norm's statistics stay
            parts = next(_ways(body, images, logits), None)
        if not list(body.parameters()):
            raise UserError(f"{name} has no parameters to train")
        if frozen := [key for key, value in body.named_parameters() if not value.requires_grad]:
            raise UserError(f"{name} has parameters that are not trained, such as {frozen[0]}; make buffers of them")
        if parts is None:
            raise UserError(f"the last layer of {name} is not found: {CONTRACT}")
        self.place, self.by_attribute = parts
        self.body = body
        self.classifier: nn.Linear = _replaced(body, self.place, nn.Identity())
        self.train()

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body.features(x) if self.by_attribute else self.body(x)  # type: ignore[operator]
        return features

    def whole(self) -> nn.Module:
        """A copy of the network in one piece, as its maker made it, with these weights."""
        body = copy.deepcopy(self.body)
        _replaced(body, self.place, copy.deepcopy(self.classifier))
        return body


@contextmanager
def in_one_line(words: str) -> Iterator[None]:
    """Turn what the user's code raises in the block into a `UserError`, which begins with `words`."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{words}: {type(error).__name__}: {one_line(error)}") from error


def _logits(name: str, body: nn.Module, images: Tensor, words: str, nclass: int) -> Tensor:
    """The logits of two images. Raises `UserError` where they are none."""
    with in_one_line(f"{name} does not take {words}"):
        logits: Any = body(images)
    if not isinstance(logits, Tensor):
        when = "in training" if body.training else "in evaluation"
        raise UserError(f"{name} gives a {type(logits).__name__} {when} and not logits; {CONTRACT}")
    if logits.shape != (2, nclass):
        raise UserError(f"{name} gives {list(logits.shape)} for 2 {words}, and not logits [2, {nclass}] of the classes")
    if not bool(logits.isfinite().all()):
        raise UserError(f"{name} gives NaN or infinite logits before it is trained")
    return logits


def _ways(body: nn.Module, images: Tensor, logits: Tensor) -> Iterator[tuple[str, bool]]:
    """(place of the last layer, whether `features` leads to it) that give the logits of the network as a whole."""
    last = getattr(body, "classifier", None)
    if isinstance(last, nn.Linear) and _same(last, lambda: body.features(images), logits):  # type: ignore[operator]
        yield "classifier", True
    linear = [place for place, layer in body.named_modules() if isinstance(layer, nn.Linear) and place]
    for place in reversed(linear):
        last = _replaced(body, place, nn.Identity())
        answer = _same(last, lambda: body(images), logits)
        _replaced(body, place, last)
        if answer:
            yield place, False


def _same(last: nn.Linear, features: Callable[[], Any], logits: Tensor) -> bool:
    """Whether the layer gives these logits for these features."""
    try:
        return torch.allclose(last(features()), logits, rtol=1e-4, atol=1e-6)
    except Exception:  # the network needs the layer where it is
        return False


def _replaced(body: nn.Module, place: str, layer: nn.Module) -> Any:
    """Put a layer into its place; returns the one that was there."""
    parent, _, leaf = place.rpartition(".")
    holder = body.get_submodule(parent)
    before = getattr(holder, leaf)
    setattr(holder, leaf, layer)
    return before
