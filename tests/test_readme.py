"""The README: short, its links lead somewhere, and its commands and its Python run as they stand."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from helpers.command import call

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = {  # what a command is given besides, so that it ends in a second; the commands are the README's own
    "condense": ["--niter", "1", "--inner_loop", "1", "--models", "1", "--epochs", "1", "--width", "0.1"],
    "evaluate": ["--epochs", "1", "--runs", "1", "--whole_epochs", "1"],
    "train": ["--network", "convnet2", "--epochs", "1"],
}


def blocks(language: str) -> list[str]:
    """The code blocks of the README in that language."""
    return [code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if name == language]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 1000


def test_links_and_pictures_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.usefixtures("shorter_digits")
def test_its_python_runs_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded digits; what it leaves in `network` classifies them well above chance."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        exec(compile(code, "README.md", "exec"), names)
    small = names["small"]
    assert isinstance(small, attar.SyntheticSet)
    assert len(small.images) == 10
    assert "condensed" in said.getvalue()
    data, network = names["data"], names["network"]
    assert isinstance(data, attar.ImageData) and isinstance(network, torch.nn.Module)
    (images, labels), *_ = data.test_batches()
    assert len(labels) > 500 and float((network.eval()(images).argmax(dim=1) == labels).float().mean()) > 0.5
    assert (tmp_path / "digits-small").is_dir()


def test_its_three_commands_run_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits = attar.load("digits")
    for label in range(3):
        folder = tmp_path / "path/to/images" / f"class {label}"
        folder.mkdir(parents=True)
        for row in (digits.labels == label).nonzero()[:30, 0].tolist():
            Image.fromarray(np.asarray(digits.images[[row]])[0, 0]).save(folder / f"{row}.png")
    commands = [
        line for block in blocks("") for line in block.splitlines() if "path/to/images" in line or "runs/mine" in line
    ]
    verbs = []
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[0] == "attar"
        verbs.append(words[1])
        call(
            *(word for word in words[1:] if word != "mymodule:make_net" and word != "--network"),
            *SHORT.get(words[1], []),
        )
    assert verbs == ["inspect", "condense", "evaluate", "train", "export"]
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert (tmp_path / "mine").is_dir()
