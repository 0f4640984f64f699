"""A network of the user's own on the command line: trained into a pool, matched on, evaluated, resumed or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

import attar
from attar.settings import own
from helpers.command import call, refused

QUICK = ("-d", "digits", "--pt_from", "1", "--model_num", "2", "--inner_loop", "2", "--n_data", "64", "--quiet")
FILE = """
from torch import nn

def make(channels, nclass, size):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, nclass))
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of its own for each test, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = f"nets_of_{request.node.name}"
    Path(f"{module}.py").write_text(FILE)
    return f"{module}:make"


def test_a_run_from_pool_to_result(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("condense", *QUICK, "-n", name, "--niter", "1", "--out", "run")
    saved = json.loads(Path("run/config.json").read_text())["network"]
    assert own.without_digest(saved["net_type"]) == name
    assert (saved["depth"], saved["width"], saved["norm_type"]) == (None, 1.0, "instance"), "not those of the recipe"
    assert len(list(Path(f"pool/digits-{name}").iterdir())) == 2
    once = ("--runs", "1", "--epochs", "2", "--yardsticks", "none", "--quiet")
    call("evaluate", "run", "--networks", name, "convnet1", *once)
    call("evaluate", "run", *once)
    assert set(json.loads(Path("run/result.json").read_text())["accuracy"]) == {name, "convnet1"}
    call("condense", "--resume", "run", "--niter", "2", "--quiet")
    assert attar.load_set(Path("run")).recipe["condense"]["niter"] == 2

    path = Path(f"{name.split(':')[0]}.py")
    path.write_text(path.read_text() + "# another file\n")
    own.digest.cache_clear()
    assert "has changed since the run began; restore its file" in refused(
        capsys, "condense", "--resume", "run", "--niter", "3"
    )
    assert "holds a run with net_type" in refused(
        capsys, "condense", *QUICK, "-n", name, "--niter", "3", "--resume", "auto", "--out", "run"
    )
    pools = set(Path(f"pool/digits-{name}").iterdir())
    call("pretrain", *QUICK[:4], "-n", name, "--quiet")
    assert len(set(Path(f"pool/digits-{name}").iterdir()) - pools) == 5, "models of the changed file are others"


def test_own_images_an_own_network_a_time_and_a_trained_network(
    name: str, capsys: pytest.CaptureFixture[str], time_is_soon_up: None
) -> None:
    """From a folder of pictures to a file of weights, as a user goes: each line says the next one."""
    data = attar.load("digits", nclass=2)
    for k, (image, label) in enumerate(zip(data.images[:40], data.labels[:40], strict=True)):
        place = Path("pictures") / data.classes[int(label)] / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place)
    flags = ("--minutes", "9", "--compile", "off", "--out", "mine")
    call("condense", "-d", "pictures", "--ipc", "1", "-n", name, *flags)
    said = capsys.readouterr()
    assert f"{name}, factor 1" in said.err and "next: attar evaluate mine" in said.out
    call("train", "mine", "--network", name, "--epochs", "2", "--out", "mine.safetensors")
    assert "next: network.load_state_dict(safetensors.torch.load_file('mine.safetensors'))" in capsys.readouterr().out
    network = own.find(name)(1, 2, (8, 8))
    network.load_state_dict(load_file("mine.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("condense", *QUICK, "-n", "nothing_here:make"), "no module nothing_here in"),
        (("pretrain", "-d", "digits", "-n", "{}x"), "is not there: "),
        (("condense", *QUICK, "-n", "{}", "--width", ".5"), "width is for attar's own networks; "),
        (("evaluate", "{run}", "--networks", "{}x"), "is not there: "),
    ],
)
def test_refused(
    arguments: tuple[str, ...], words: str, name: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *(text.format(name, run=workspace / "base") for text in arguments))


def test_a_network_that_fails_on_one_image() -> None:
    """Batch norm of flat features takes no batch of one image, and 10 images in batches of 3 leave one."""
    from torch import nn

    def make(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, nclass))

    small = attar.select("digits", "random", ipc=1)
    attar.train(small, make, epochs=1)
    with pytest.raises(attar.UserError, match=r"make fails in training: ValueError: Expected more than 1 value"):
        attar.train(small, make, epochs=1, batch_size=3)


def test_a_function_in_no_module_is_resumed_by_its_program(name: str, said: list[str]) -> None:
    from torch import nn

    def make(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Flatten(), nn.Linear(72, nclass))

    settings = {"net_type": make, "models": 1, "epochs": 1, "inner_loop": 1, "n_data": 64, "folder": "run"}
    attar.condense("digits", niter=1, **settings)
    assert any(
        "is in no module: its program can go on with this run, `attar condense --resume` cannot" in x for x in said
    )
    assert attar.condense("digits", niter=2, **settings).recipe["condense"]["niter"] == 2
