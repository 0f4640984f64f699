"""What is handed on names nothing of the machine that made it, and what is taken decides nothing on this one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.sets import foreign
from attar.sets.export import export_set
from attar.settings import recipes
from helpers.command import call, refused


def make(side: int = 8, ipc: int = 1, **recipe: Any) -> attar.SyntheticSet:
    labels = torch.arange(2).repeat_interleave(ipc)
    images = torch.rand((2 * ipc, 3, side, side), generator=torch.Generator().manual_seed(0))
    scale: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return attar.SyntheticSet(
        images=images, labels=labels, factor=1, classes=("ant", "bee"), source="zoo", recipe=recipe, **scale
    )


def code_of(condensed: attar.SyntheticSet, out: Path) -> tuple[str, str]:
    """The card of an export, and its Python without attar."""
    file = export_set(condensed, "npz", out)
    text = file.with_name(f"{file.name}.md").read_text(encoding="utf-8")
    return text, re.findall(r"```python\n(.*?)```", text, re.S)[-1]


def test_an_export_names_no_place_of_this_machine(tmp_path: Path) -> None:
    condensed = make(
        data={"dataset": str(tmp_path), "data_dir": "/home/me", "cache_dir": "/x"},
        network={"net_type": "net:small@12", "depth": 2},
        condense={"model_path": ["/p"], "init": "/home/me/sets/first.npz", "plugin": ["own.py@12"]},
    )
    before = json.dumps(condensed.recipe)
    for to in ("npz", "pt", "imagefolder", "parquet"):
        found = foreign.read(export_set(condensed, to, tmp_path / "out" / to)).recipe
        assert found == {
            "data": {"data_dir": None, "cache_dir": None},
            "network": {"net_type": "net:small@12", "depth": 2},
            "condense": {"model_path": [], "init": "./first.npz", "plugin": ["own.py@12"]},
        }, to
    assert json.dumps(condensed.recipe) == before
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and not any(b"/home/me" in path.read_bytes() for path in written)


def test_a_stranger_chooses_no_folder_here() -> None:
    sections = {"data": {"cache_dir": "/theirs", "data_dir": "/theirs", "size": 9, "device": "cpu"}}
    own, handed_on = (recipes.of_file(sections, "set", handed_on=value).data for value in (False, True))
    assert (own.cache_dir, own.data_dir, own.device, own.size) == ("/theirs", "/theirs", "cpu", 9)
    assert (handed_on.cache_dir, handed_on.data_dir, handed_on.device, handed_on.size) == (None, None, "auto", 9)


SHORT = ("--epochs", "1", "--runs", "1", "--width", "0.05", "--yardsticks", "none", "--quiet")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images of one's own, which attar decodes into its cache."""
    for place in ("train/ant", "train/bee", "test/ant", "test/bee"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        for count in range(4):
            pixels = np.random.RandomState(count).randint(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / place / f"{count}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize("name", ["set.safetensors", "condensed.safetensors"])
def test_a_file_is_evaluated_without_its_cache_folder(
    name: str, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, theirs = attar.select(str(pets), "random", ipc=1), tmp_path / "theirs"
    told = small.recipe | {"data": small.recipe["data"] | {"cache_dir": str(theirs)}}
    attar.save_set(tmp_path / name, replace(small, recipe=told))
    call("evaluate", str(tmp_path / name), *SHORT)
    assert "convnet" in capsys.readouterr().out and not theirs.exists()
    call("evaluate", str(tmp_path / name), *SHORT, "--cache_dir", str(theirs))
    assert theirs.exists()


def test_an_export_of_ones_own_data_asks_for_them(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    attar.select(str(pets), "random", ipc=1, folder=tmp_path / "run")
    out = tmp_path / "set" / "pets.npz"
    out.parent.mkdir()
    call("export", str(tmp_path / "run"), "--to", "npz", "--out", str(out))
    assert "it does not name your folder of images: evaluate it with -d" in capsys.readouterr().out
    words = "does not say which data it stands for; name the real data with -d"
    assert words in refused(capsys, "evaluate", str(out))
    call("evaluate", str(out), "-d", str(pets), *SHORT)
    assert "convnet" in capsys.readouterr().out
    attar.train(out, "convnet", epochs=1, width=0.05)
    assert "the network is not tested: the set does not say which data it stands for" in caplog.text


@pytest.mark.parametrize("dataset", ["~nobody-here/x", "x" * 5000, None, 3])
def test_an_odd_name_of_data_is_no_traceback(dataset: Any, tmp_path: Path) -> None:
    assert export_set(make(data={"dataset": dataset}), "npz", tmp_path / "out").is_file()


@pytest.mark.parametrize("aug_type", ["one", "one_", "-", "", "none"])
def test_odd_strategies_leave_code_that_runs(aug_type: str, tmp_path: Path) -> None:
    text, code = code_of(make(evaluate={"aug_type": aug_type, "mix_p": 0.0}), tmp_path / "out")
    used: dict[str, Any] = {}
    exec(code.split("blocks = ")[0].replace('"out.npz"', repr(str(tmp_path / "out.npz"))), used)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(used["augment"](x, torch.zeros(2))[0], x) and "leaves out" not in text


@pytest.mark.parametrize(
    ("aug_type", "expected"),
    [
        ("one_flip_color_crop_cutout", {"flip", "color", "zeros"}),
        ("one_flip_cutout", {"flip", "zeros"}),
        ("one-cutout", {"zeros"}),
        ("flip_color_crop_cutout", {"zeros"}),
        ("one_color_scale_rotate_resize", {"color"}),
    ],
)
def test_the_code_of_a_card_takes_one_operation_where_the_evaluation_does(
    aug_type: str, expected: set[str], tmp_path: Path
) -> None:
    code = code_of(make(evaluate={"aug_type": aug_type, "mix_p": 0.0}), tmp_path / "out")[1]
    used: dict[str, Any] = {}
    exec(code.split("blocks = ")[0].replace('"out.npz"', repr(str(tmp_path / "out.npz"))), used)
    torch.manual_seed(0)
    x = torch.rand(64, 3, 8, 8) + 1  # nothing but an operation makes a pixel 0
    kinds = set()
    for _ in range(60):
        changed, _ = used["augment"](x, torch.zeros(64))
        flipped = ((changed == x) | (changed == x.flip(3))).flatten(1).all(1)
        kept = changed.flatten(1).gt(0).all(1)
        kinds.add("flip" if bool(flipped.all()) else "color" if bool(kept.all()) else "zeros")
    assert expected <= kinds and (kinds == expected or "rotate" in aug_type)


def test_an_operation_of_ones_own_is_left_out_of_the_code(tmp_path: Path) -> None:
    text, code = code_of(make(evaluate={"aug_type": "flip_dim"}), tmp_path / "out")
    assert "augmentation flip_dim" in text and "The code leaves out dim, which attar does not have." in text
    compile(code, "card", "exec")
    assert "flip(3)" in code and "leaves out" not in code_of(make(), tmp_path / "plain")[0]


@pytest.mark.parametrize(("side", "ipc", "epochs"), [(64, 1, 1000), (72, 1, 3000), (72, 5, 2000)])
def test_a_card_trains_as_long_as_an_evaluation(side: int, ipc: int, epochs: int, tmp_path: Path) -> None:
    text, code = code_of(make(side, ipc), tmp_path / "out")
    assert f"\nepochs = {epochs}\n" in code and f"{epochs:,} epochs" in text


def test_nothing_is_left_where_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(attar.UserError, match="must be above 0"):
        export_set(make(evaluate={"lr": -1.0}), "npz", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train/1.tar": 5}, "someone/pets on the Hugging Face hub holds neither parquet files nor images"),
        ({"a.parquet": 4e10, "b.JPEG": 5e10}, "has 90 GB, more than a condensed set has; download it and give its"),
    ],
)
def test_the_hub_is_asked_before_anything_is_downloaded(
    files: dict[str, float], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in files.items()])
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, name, **options: found)
    monkeypatch.setattr(hub, "snapshot_download", lambda *given, **options: pytest.fail("downloaded"))
    assert words in refused(capsys, "evaluate", "someone/pets", "-d", "digits")


def test_only_images_and_what_belongs_to_them_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    digits = attar.select("digits", "random", ipc=1)
    folder = export_set(digits, "imagefolder", tmp_path / "set")
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=9) for name in (*there, "large.bin")])
    taken = []

    def download(name: str, **options: Any) -> str:
        taken.extend(hub.utils.filter_repo_objects((*there, "large.bin"), allow_patterns=options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, name, **options: found)
    monkeypatch.setattr(hub, "snapshot_download", download)
    call("evaluate", "someone/digits", *SHORT)
    assert "convnet" in capsys.readouterr().out
    assert set(taken) == set(there) - {"README.md"} and np.array([name.endswith(".png") for name in taken]).sum() == 10
