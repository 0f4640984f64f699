"""Networks that attar has never seen: taken apart, matched on as the naive loop matches, refused in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attar
from attar import models
from attar.condensation.matchable import check_matchable
from attar.errors import UserError
from attar.settings import own
from attar.settings.config import NetworkConfig
from helpers.condensation import Recorder, attar_loop, digits, naive_loop, pool_of, settings

BUILD: dict[str, Any] = {"channels": 1, "nclass": 4, "size": (8, 8)}


class Unseen(nn.Module):
    """A convolution with batch norm, and two linear layers, of which the last is named as attar never names one."""

    def __init__(self, channels: int, nclass: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Linear(3 * size[0] * size[1], 6)
        self.out = nn.Linear(6, nclass)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.tanh(self.norm(self.conv(x)))
        return self.out(torch.tanh(self.inner(maps.flatten(1))))


def naive_unseen(parameters: dict[str, Tensor], images: Tensor, features: bool = False) -> Tensor:
    weight, bias, gain, shift, inner_weight, inner_bias, out_weight, out_bias = parameters.values()
    x = F.conv2d(images, weight, bias, padding=1)
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    x = torch.tanh((x - mean) / torch.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None])
    x = torch.tanh(x.flatten(1) @ inner_weight.T + inner_bias)
    return x if features else x @ out_weight.T + out_bias


@pytest.mark.parametrize("changes", [{"metric": "l1"}, {"bias": True, "fc": True}, {"match": "feat"}])
def test_matched_on_as_the_naive_loop_does(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = digits(), settings(**changes)
    network = own.as_text(Unseen)
    pool = pool_of(data, net_type=network, depth=None, width=1.0)
    initial, outers, (images, params) = attar_loop(data, pool, config, Recorder(monkeypatch))
    expected, theta = naive_loop(
        data,
        config,
        list(range(4)),
        initial,
        outers,
        naive_unseen,
        matched=lambda name, value: value.ndim > 1 and not name.startswith("classifier"),
    )
    torch.testing.assert_close(images, expected.clamp(0, 1), rtol=1e-7, atol=1e-8)
    for name, value in params.items():
        torch.testing.assert_close(value, theta[name], rtol=1e-7, atol=1e-8)
    assert not torch.allclose(images, initial)


def by_attributes(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
    class Shared(nn.Module):
        """Its last layer is used by its weight, so nothing can take its place."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Flatten())
            self.classifier = nn.Linear(2 * (size[0] - 2) * (size[1] - 2), nclass)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.features(x), self.classifier.weight, self.classifier.bias)

    return Shared()


@pytest.mark.parametrize("make", [Unseen, by_attributes])
def test_taken_apart_and_put_together(make: Callable[..., nn.Module]) -> None:
    name = own.as_text(make)
    module = models.build(name, seed=1, **BUILD)
    same, other = (models.build(name, seed=seed, **BUILD) for seed in (1, 2))
    x = torch.rand(5, 1, 8, 8)
    assert list(models.parameters_of(module))[-2:] == ["classifier.weight", "classifier.bias"]
    assert torch.equal(module(x), same(x)) and not torch.equal(module(x), other(x))
    assert isinstance(module, models.OwnNetwork)
    whole = module.whole()
    assert whole.state_dict().keys() == make(**BUILD).state_dict().keys()
    torch.testing.assert_close(whole.eval()(x), module.eval()(x))


def softmax(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], nclass), nn.Softmax(1))


def raising(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
    raise ValueError("no such\nnetwork")


class Said(nn.Linear):
    """What it is told to answer."""

    answer: Any = None

    def forward(self, x: Tensor) -> Any:
        return self.answer(super().forward(x.flatten(1)))


def answering(answer: Callable[[Tensor], Any]) -> Callable[..., nn.Module]:
    def make(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
        module = Said(channels * size[0] * size[1], nclass)
        module.answer = answer
        return nn.Sequential(module)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c, n, s: Unseen(c, n + 1, s), r"gives \[2, 5\] for 2 images of 1x8x8, and not logits \[2, 4\]"),
        (lambda c, n, s: nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), "has no parameters to train"),
        (lambda c, n, s: "a network", "makes no network but a str; attar needs a torch.nn.Module"),
        (lambda c, n, s: Unseen(c, n, s).requires_grad_(False), "not trained, such as conv.weight"),
        (lambda: 1, "makes no network for images of 1x8x8: TypeError: "),
        (answering(lambda logits: (logits, logits)), "gives a tuple in evaluation and not logits; attar needs"),
        (answering(lambda logits: logits / 0 * 0), "gives NaN or infinite logits before it is trained"),
        (softmax, "the last layer of .*softmax is not found: attar needs"),
        (Unseen(1, 4, (8, 8)), "Unseen is a network, and every run needs a fresh one"),
        (raising, "raising makes no network for images of 1x8x8: ValueError: no such network"),
        (lambda c, n, s: Unseen(c + 1, n, s), "does not take images of 1x8x8: RuntimeError: "),
        (lambda c, n, s: nn.Sequential(nn.Conv2d(c, n, 8), nn.Flatten()), "the last layer of .* is not found"),
    ],
)
def test_refused_in_one_line(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        models.build(own.as_text(make), seed=0, **BUILD)
    assert "\n" not in str(caught.value)


def noisy(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    return nn.Sequential(Scaled(), *plain(channels, nclass, size))


def plain(channels: int, nclass: int, size: tuple[int, int], *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size[0] * size[1], 8), nn.ReLU(), *more, nn.Linear(8, nclass)
    )


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (lambda *of: plain(*of), {}, None),
        (lambda *of: plain(*of, nn.Dropout()), {}, r"other logits each time in training \(dropout\?\)"),
        (noisy, {}, "its buffer 0.scale depends on the seed or changes"),
        (lambda *of: plain(*of, nn.BatchNorm1d(8)), {"ipc": 2}, None),
        (lambda *of: plain(*of, nn.BatchNorm1d(8)), {"ipc": 1}, "batch norm 3 averages 4 values, and needs 8"),
        (lambda *of: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), {}, "no weights before its last layer; --fc"),
        (lambda *of: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), {"fc": True}, None),
        (
            lambda *of: nn.Sequential(nn.Unflatten(2, (8, 1)), nn.Flatten(3), nn.Flatten(0, 1), *ATTENTION),
            {},
            None,
        ),
    ],
)
def test_matchable(make: Callable[..., nn.Module], changes: dict[str, Any], words: str | None) -> None:
    network = NetworkConfig(net_type=own.as_text(make))
    if words is None:
        return check_matchable(network, digits(), settings(**changes))
    with pytest.raises(UserError, match=words):
        check_matchable(network, digits(), settings(**changes))


ATTENTION = (nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(64, 4))


def module_file(place: Path, name: str, monkeypatch: pytest.MonkeyPatch, text: str = "") -> Path:
    """A module of the user's in the working folder."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = place / f"{name}.py"
    path.write_text(text or "from torch import nn\ndef make(c, n, s):\n    return nn.Linear(1, n)\nx = 1\n")
    return path


def test_names_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = module_file(tmp_path, "own_nets_a", monkeypatch)
    text = own.as_text("own_nets_a:make")
    assert re.fullmatch(r"own_nets_a:make@[0-9a-f]{12}", text) and own.as_text([text]) == [text]
    assert own.as_text(own.find(text)) == text and own.is_importable(text)
    path.write_text(path.read_text() + "# another\n")
    own.digest.cache_clear()
    del own.OBJECTS[text]
    for name, words in (
        (text, "own_nets_a:make has changed since the run began; restore its file"),
        ("own_nets_a:mke", "own_nets_a has no mke"),
        ("own_nets_a:x", "own_nets_a:x is no function but a int"),
        ("own_nets_b:make", "no module own_nets_b in .* and Python's path"),
        ("__main__:make@123", "lives in the Python program that named it"),
    ):
        with pytest.raises(UserError, match=words):
            own.find(name)
    module_file(tmp_path, "own_nets_c", monkeypatch, "1 / 0")
    with pytest.raises(UserError, match=r"own_nets_c:make cannot be imported: ZeroDivisionError: division by zero"):
        own.find("own_nets_c:make")
    module_file(tmp_path, "own_nets_d", monkeypatch, "import no_such_thing")
    with pytest.raises(UserError, match=r"own_nets_d:make cannot be imported: No module named 'no_such_thing'"):
        own.find("own_nets_d:make")


def test_what_wraps_a_function_of_another_file_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_file(tmp_path, "own_nets_g", monkeypatch)
    wrapper = "import functools, own_nets_g\n@functools.wraps(own_nets_g.make)\ndef build(*args):\n    return args\n"
    path = module_file(tmp_path, "own_nets_h", monkeypatch, wrapper)
    text = own.as_text("own_nets_h:build")
    del sys.modules["own_nets_h"]
    own.digest.cache_clear()
    assert own.find(text)(1) == (1,), "in another process"
    path.write_text(wrapper + "# another\n")
    del sys.modules["own_nets_h"]
    with pytest.raises(UserError, match="own_nets_h:build has changed since the run began"):
        own.find(text)


def test_a_changed_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = module_file(tmp_path, "own_nets_e", monkeypatch)
    text = own.as_text("own_nets_e:make")
    module_file(tmp_path, "own_nets_f", monkeypatch, "from own_nets_e import make")
    assert own.as_text("own_nets_f:make") == text, "the file that is compared is the one that the function stands in"
    path.write_text(path.read_text() + "raise SystemExit('it was run')\n")
    del sys.modules["own_nets_e"]
    with pytest.raises(UserError, match="own_nets_e:make has changed since the run began; restore its file"):
        own.find(text)


def test_closures_are_never_taken_for_one_another() -> None:
    def wide(width: int) -> Callable[..., nn.Module]:
        return lambda c, n, s: nn.Sequential(nn.Flatten(), nn.Linear(c * s[0] * s[1], width), nn.Linear(width, n))

    data = attar.load("digits", nclass=2)
    two, three = wide(2), wide(3)
    assert own.as_text(two) == own.as_text(two) != own.as_text(three) and not own.is_importable(own.as_text(two))
    condensed = attar.select(data, "random", ipc=1)
    measured = attar.evaluate(condensed, data, networks=[two, three], runs=1, epochs=1, yardsticks="none")
    name = own.without_digest(own.as_text(two))
    assert set(measured["accuracy"]) == {name, own.as_text(three)}
    pool = attar.pretrain(data, net_type=two, epochs=1, models=1)
    with pytest.raises(UserError, match="width is for attar's own networks; "):
        attar.pretrain(data, net_type=two, width=0.5)
    assert pool.members[0].params["body.1.weight"].shape == (2, 64)
