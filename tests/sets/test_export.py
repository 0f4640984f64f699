"""Out and back in: parquet, PNG folders, npz and `.pt` pairs hold the same images and give the same accuracies."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.cli.parser import main
from attar.data.images import ImageData
from attar.data.sources import hub
from attar.sets import foreign, set_files, soft_files, sources
from attar.sets.export import bytes_of, export_set, folder_names
from attar.sets.places import without_places
from attar.sets.push import push_set
from attar.settings import own_code
from attar.stages.shared import name_as_setting
from helpers.command import call, refused

QUICK = ("--runs", "2", "--epochs", "2", "--yardsticks", "none", "--quiet")
CLASSES = ("ant", "bee", "cow")


def make(factor: int = 2, channels: int = 3, classes: tuple[str, ...] = CLASSES) -> attar.SyntheticSet:
    generator = torch.Generator().manual_seed(factor)
    images = torch.rand((6, channels, 8, 8), generator=generator)
    return attar.SyntheticSet(
        images=images,
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        factor=factor,
        classes=classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        source="zoo",
    )


def real(channels: int = 3, classes: tuple[str, ...] = CLASSES) -> ImageData:
    images = np.random.RandomState(0).randint(0, 256, (12, channels, 8, 8), np.uint8)
    labels = [0, 1, 2] * 4
    scale = [0.5] * channels, [0.25] * channels
    return ImageData(images, labels, images, labels, classes=classes, mean=scale[0], std=scale[1], name="zoo")


@pytest.fixture
def copied_run(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the run base/ of the smallest schedule."""
    shutil.copytree(workspace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def eight(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
@pytest.mark.parametrize("what", ["stored", "decoded", "both"])
def test_exported_images_are_read_back(to: str, what: str, channels: int, tmp_path: Path) -> None:
    if (to, what) == ("pt", "both"):
        with pytest.raises(attar.UserError, match="holds one set of images"):
            export_set(make(), to, tmp_path / "out", what=what)
        return
    condensed = make(channels=channels)
    out = export_set(condensed, to, tmp_path / "out", what=what)
    back = foreign.as_set(foreign.read(out), real(channels))
    images, labels = condensed.decoded() if what == "decoded" else (condensed.images, condensed.labels)
    assert back.factor == (1 if what == "decoded" else 2)
    assert torch.equal(back.labels, labels)
    assert torch.equal(eight(back.images), eight(images))
    assert (back.classes, back.mean, back.std) == (condensed.classes, condensed.mean, condensed.std)
    assert sorted(tmp_path.iterdir()) == ([out] if out.is_dir() else [out, tmp_path / f"{out.name}.md"])


@pytest.mark.parametrize("channels", [1, 3])
def test_datasets_reads_the_parquet(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself and by the lines of the card, which make tensors to train on."""
    datasets = pytest.importorskip("datasets")
    condensed = make(channels=channels)
    export_set(condensed, "parquet", tmp_path / "out")
    for what, (images, labels) in {
        "stored": (condensed.images, condensed.labels),
        "decoded": condensed.decoded(),
    }.items():
        read = datasets.load_dataset(str(tmp_path / "out"), what, cache_dir=str(tmp_path / "cache"))["train"]
        assert read.features["label"].names == list(CLASSES)
        assert read["label"][:] == labels.tolist()
        for row, image in enumerate(bytes_of(images)):
            assert (np.asarray(read[row]["image"]) == image).all()
    assert datasets.get_dataset_default_config_name(str(tmp_path / "out")) == "decoded"


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
@pytest.mark.parametrize("what", ["stored", "decoded", "both"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stranger_trains_by_the_card(
    to: str, what: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code runs as it stands: the images are attar's, decoded and normalised, and the network learns them."""
    if (to, what) == ("pt", "both"):
        return
    if to == "parquet":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets, "load_dataset", partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache")))
    steps = {"single": "color_crop_cutout_flip_scale_rotate", "multi": "resize_flip"}
    kind = "multi" if what == "stored" else "single"
    condensed = replace(make(3, channels), decode_type=kind, recipe={"evaluate": {"aug_type": steps[kind]}})
    out = export_set(condensed, to, tmp_path / "out", what=what)
    text = (out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")).read_text(encoding="utf-8")
    by_attar, code = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "attar" not in code and "attar.train" in by_attar
    assert ("epochs = 1000\n" in code) and ("def decode" in code) == (what == "stored")
    monkeypatch.chdir(out if out.is_dir() else tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("USER/NAME", str(out)).replace("epochs = 1000", "epochs = 9").replace("128", "8"), names)
    seen = condensed if to == "pt" else replace(condensed, images=eight(condensed.images) / 255)
    images, labels = seen.decoded() if what == "stored" or to == "pt" else condensed.decoded()
    images = images if what == "stored" or to == "pt" else eight(images) / 255
    order = names["y"].argmax(1).argsort(stable=True)
    assert names["y"].argmax(1)[order].tolist() == labels.tolist()
    assert torch.allclose(names["x"][order], condensed.normalize(images), atol=1e-4)
    assert bool(names["loss"].isfinite()) and names["network"](names["x"]).shape == (len(labels), 3)


def test_what_the_card_trains_knows_digits(workspace: Path, tmp_path: Path) -> None:
    """Ten images, the card's own lines for less long, and real images that it has not seen."""
    small = attar.load_set(workspace / "base")
    wider = replace(small, recipe=small.recipe | {"network": {"net_type": "convnet", "depth": 2, "width": 0.5}})
    out = export_set(wider, "npz", tmp_path / "out")
    code = re.findall(r"```python\n(.*?)```", out.with_name("out.npz.md").read_text(encoding="utf-8"), re.S)[-1]
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    assert "(1, 1), (64, 1)" in code
    exec(re.sub(r"epochs = \d+", "epochs = 120", code.replace('"out.npz"', repr(str(out)))), names)
    data = attar.load("digits")
    assert data.test_images is not None and data.test_labels is not None
    with torch.no_grad():
        right = names["network"](data.normalize(data.test_images.float() / 255)).argmax(1) == data.test_labels
    assert float(right.float().mean()) > 0.5


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
def test_attar_trains_by_the_card(to: str, copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    out = export_set("base", to, "out")
    text = (out / "README.md" if out.is_dir() else out.with_name(f"out.{to}.md")).read_text(encoding="utf-8")
    code = re.search(r"```python\n(import attar.*?)```", text, re.S)
    assert code
    quick = partial(attar.train, epochs=1, width=0.05)
    monkeypatch.setattr(attar, "train", quick)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, repo_type: out)
    names: dict[str, Any] = {}
    exec(code[1].replace("resnet18", "convnet"), names)
    assert names["network"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    torch.save([torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])], "pair.pt")
    with pytest.raises(attar.UserError, match=r"pair.pt does not say what its classes, mean and std are"):
        attar.train("pair.pt")


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("evaluate", {"momentum": "0.9); import os; os.system('id'); (0"}),
        ("evaluate", {"lr": "x"}),
        ("evaluate", {"lr": float("nan")}),
        ("network", []),
        ("network", {"net_type": "convnet", "width": "1)"}),
    ],
)
def test_a_recipe_writes_no_code_into_the_card(section: str, values: Any, tmp_path: Path) -> None:
    with pytest.raises(attar.UserError, match=rf"\[{section}\] .*must be|must be above 0, not nan"):
        export_set(replace(make(), recipe={section: values}), "imagefolder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_card_quotes_the_name_of_its_file(tmp_path: Path) -> None:
    for to in ("npz", "pt"):
        out = export_set(make(), to, tmp_path / 'a"b\\é')
        codes = re.findall(r"```python\n(.*?)```", out.with_name(f"{out.name}.md").read_text(encoding="utf-8"), re.S)
        assert len(codes) == 2
        assert all(out.name in [getattr(node, "value", "") for node in ast.walk(ast.parse(code))] for code in codes)


def test_the_card_knows_known_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    terms = "https://image-net.org/download.php"
    assert sources.source_of("imagenet").link == sources.source_of("data/for/imagefruit").link == terms
    assert sources.source_of("/data/imagenette2-160").home.endswith("imagenette")
    assert sources.source_of("tiny-imagenet-200").hub == "zh-plus/tiny-imagenet"
    assert sources.source_of("digits").licence == "cc-by-4.0" and sources.source_of("fashion").licence == "mit"
    assert sources.source_of("me/zoo:small").home == "https://huggingface.co/datasets/me/zoo"
    Path("me/zoo").mkdir(parents=True)
    for own in ("me/zoo", "./digits", "/home/me/fashion", "fashion-2", "zoo", ""):
        assert sources.source_of(own) == sources.Source(""), own


def test_the_card_of_a_folder_called_digits_claims_no_licence(tmp_path: Path) -> None:
    for dataset, licence in (("digits", "license: cc-by-4.0\n"), ("./digits", "license: other\n")):
        condensed = replace(make(), source="digits", recipe={"data": {"dataset": dataset}})
        out = export_set(condensed, "parquet", tmp_path / str(len(dataset)))
        assert licence in (out / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_a_stranger_needs(copied_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("evaluate", "base", "--runs", "2", "--epochs", "1", "--whole_epochs", "1", "--quiet")
    capsys.readouterr()
    call("push", "base", "me/small", "--dry_run")
    said, text = capsys.readouterr().out, (copied_run / "base" / "push" / "README.md").read_text(encoding="utf-8")
    assert said.startswith(text) and "nothing was uploaded; the folder is base/push" in said
    result = json.loads((copied_run / "base" / "result.json").read_text(encoding="utf-8"))
    entry = result["accuracy"]["convnet2"]
    for words in (
        "license: cc-by-4.0\nlicense_link: https://creativecommons.org/licenses/by/4.0/\n",
        "source_datasets:\n- extended\n",
        "made by attar out of the data set `digits`, by the method accdd",
        'load_dataset("me/small", "decoded")["train"]',
        'snapshot_download("me/small", repo_type="dataset")',
        "optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)",
        "![the images](images.png)",
        f"| convnet2 | {100 * entry['mean']:.1f} ± {100 * entry['std']:.1f} |",
        "@inproceedings{accdd,",
        "author = {Zhang and others}",
        "@misc{attar,",
        "condense.niter = ",
        "no guarantee of privacy",
        "Trained on: this set 1 epoch of ",
        "https://archive.ics.uci.edu/dataset/80",
    ):
        assert words in text, words
    assert (copied_run / "base" / "push" / "images.png").is_file()
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M)
    for digest, name in sums:
        assert hashlib.sha256((copied_run / "base" / "push" / name).read_bytes()).hexdigest() == digest
    assert [name.split("/")[0] for _, name in sums] == ["decoded", "stored"]
    call("push", "base", "me/small", "--dry_run")  # again: the folder is replaced
    with pytest.raises(SystemExit):
        main(["push", "base", "small", "--dry_run"])
    assert "a name is USER/NAME" in capsys.readouterr().err
    (copied_run / "base" / "push" / "mine.txt").write_text("")
    said = refused(capsys, "push", "base", "me/small", "--dry_run")
    assert "holds something else than an export (mine.txt); move it away" in said and "--out" not in said


def test_nothing_that_a_set_names_runs_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As SECURITY.md has it."""
    monkeypatch.chdir(tmp_path)
    Path("named.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    recipe = {"condense": {"plugin": ["named.py"]}, "network": {"net_type": "named:net"}}
    attar.save_set("set.safetensors", replace(make(), recipe=recipe))
    attar.export_set(attar.load_set("set.safetensors"), "npz", "out")
    call("export", "set.safetensors", "--to", "imagefolder", "--out", "pictures")
    Path("run").mkdir()
    attar.save_set("run/condensed.safetensors", replace(make(), recipe=recipe))
    Path("run/config.json").write_text(json.dumps(recipe), encoding="utf-8")
    verbs = [(verb, place) for verb in ("evaluate", "label", "train") for place in ("set.safetensors", "run")]
    for verb, place in (*verbs, ("evaluate", "out.npz"), ("evaluate", "pictures"), ("add", "run")):
        said = refused(capsys, verb, place, "-d", "digits")
        assert f"{place} names the code of named" in said and "it is not run" in said
    assert "run names the code of named:net" in refused(capsys, "condense", "--resume", "run")
    assert not Path("ran").exists()


def test_code_that_a_run_names_runs_where_its_user_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    """As SECURITY.md has it: resuming and evaluating one's own run needs no word more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ATTAR_CACHE", "cache")
    monkeypatch.setattr(own_code, "NAMED", set())
    module = "net = 'own'\ndef make(channels, nclass, size):\n    import torch.nn as nn\n    return nn.Sequential("
    module += "nn.Conv2d(channels, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, nclass))\n"
    Path("named_net.py").write_text(module, encoding="utf-8")
    quick = ("-d", "digits", "--ipc", "1", "--pt_from", "1", "--model_num", "1", "--inner_loop", "1", "--n_data", "64")
    call("condense", *quick, "-n", "named_net:make", "--niter", "1", "--out", "mine")
    own_code.NAMED.clear()  # as in another process
    call("condense", "--resume", "mine", "--niter", "2")
    once = ("--runs", "1", "--epochs", "1", "--yardsticks", "none")
    call("evaluate", "mine", *once)
    assert "runs the code of named_net:make, which mine names" in said
    own_code.NAMED.clear()
    monkeypatch.setenv("ATTAR_CACHE", "elsewhere")  # as on another machine
    assert "--networks named_net:make" in refused(capsys, "evaluate", "mine", *once)
    call("evaluate", "mine", *once, "--networks", "named_net:make")
    own_code.NAMED.clear()
    call("evaluate", "mine", *once)


def test_export_says_what_it_wrote(copied_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("export", "base", "--to", "npz", "--out", "mine")
    said = capsys.readouterr().out
    assert said.startswith("mine.npz: 10 images to train on (10 stored, factor 1), 8 bits; normalise with mean 0.3")
    assert said.endswith("next: train on it, or attar evaluate mine.npz\n")


def test_names_that_are_no_folder_names(tmp_path: Path) -> None:
    classes = ("T-shirt/top", "Ankle boot", "..")
    assert folder_names(CLASSES) == list(CLASSES)
    assert folder_names(classes) == ["0_T-shirt_top", "1_Ankle_boot", "2_"]
    out = export_set(make(classes=classes), "imagefolder", tmp_path / "out", what="stored")
    assert sorted(path.name for path in (out / "train").iterdir()) == folder_names(classes)
    back = foreign.as_set(foreign.read(out), real(classes=classes))
    assert torch.equal(eight(back.images), eight(make().images))


def test_a_full_disk_names_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "a name of the moment")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr("attar.sets.export.files.write_json", full)
    for to in ("parquet", "imagefolder"):
        with pytest.raises(attar.UserError, match=f"{to} cannot be written: No space left on device$"):
            export_set(make(), to, tmp_path / to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_channels_that_image_files_cannot_hold(channels: int, tmp_path: Path) -> None:
    """They would come back as fewer, or not at all; npz and pt hold them."""
    condensed = make(channels=channels)
    for to in ("parquet", "imagefolder"):
        words = f"{to} holds PNG files, of 1 or 3 channels, and the images have {channels}; attar export --to npz or pt"
        with pytest.raises(attar.UserError, match=words):
            export_set(condensed, to, tmp_path / "not" / to)
    assert list(tmp_path.iterdir()) == []
    for to in ("npz", "pt"):
        images = np.random.RandomState(0).randint(0, 256, (6, channels, 8, 8), np.uint8)
        data = ImageData(images, [0, 1, 2] * 2, classes=CLASSES, channels="first")
        back = foreign.as_set(foreign.read(export_set(condensed, to, tmp_path / to, what="stored")), data)
        assert torch.equal(eight(back.images), eight(condensed.images))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_export_before_stays_where_the_new_one_cannot_come(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it cannot be put back it is not removed."""
    out = export_set(make(), "imagefolder", tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    rename, failing = Path.rename, ["whole"]

    def fails(self: Path, target: Path) -> Path:
        if self.name in failing:
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises((attar.UserError, KeyboardInterrupt)):
        export_set(make(factor=1), "imagefolder", out, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [out]
    failing.append("before")
    with pytest.raises((attar.UserError, KeyboardInterrupt)):
        export_set(make(factor=1), "imagefolder", out, overwrite=True)
    (kept,) = tmp_path.glob(".out.*/before")
    assert {out / path.relative_to(kept): path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_existing_files_are_not_replaced(tmp_path: Path) -> None:
    for to in ("parquet", "npz"):
        out = export_set(make(), to, tmp_path / to)
        with pytest.raises(attar.UserError, match=r"(is not empty|exists); name another place with --out, or add"):
            export_set(make(), to, tmp_path / to)
        assert export_set(make(factor=1), to, tmp_path / to, overwrite=True) == out
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.npz").mkdir()
    export_set(make(), "imagefolder", tmp_path / "empty")
    with pytest.raises(attar.UserError, match="is a folder; name another place"):
        export_set(make(), "npz", tmp_path / "folder.npz")
    with pytest.raises(attar.UserError, match="unknown format 'parket'; did you mean 'parquet'"):
        export_set(make(), "parket", tmp_path / "x")


# ---- sets that others made ----


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if how == "torch":
        torch.save([torch.zeros(2, 1, 8, 8), Evil()], "evil.pt")
    else:
        Path("evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(attar.UserError, match=r"may run code, so it is not opened|is damaged"):
        foreign.read(Path("evil.pt"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": torch.zeros(1)}, "two tensors; it holds a dict"),
        ([torch.zeros(2, 1, 8, 8)], "two tensors; it holds 1 things"),
        ([torch.zeros(2, 1, 8, 8), [0, 1]], "two tensors; it holds 2 things"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(3).long()], "its shapes are"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2)], "labels of type float32; whole numbers are needed"),
        ([torch.zeros(2, 3, 8, 8), torch.tensor([0, 3])], "has the labels 0..3; zoo has the classes 0..2"),
        (
            [torch.full((2, 3, 8, 8), -2.0), torch.tensor([0, 1])],
            "run from -2 to -2, which is neither 0..1 nor 0..255; add --normalized",
        ),
        ([torch.full((2, 3, 8, 8), torch.nan), torch.tensor([0, 1])], "values that are not finite"),
        ([torch.zeros(2, 3, 8, 8).int(), torch.tensor([0, 1])], "are int32; uint8, or float"),
        ([torch.full((2, 3, 8, 8), -2.0).to(torch.float8_e4m3fn), torch.tensor([0, 1])], "run from -2 to -2"),
        ([torch.zeros(2, 3, 8, 8).to_sparse(), torch.tensor([0, 1])], "two dense tensors"),
        ([torch.zeros(2, 3, 8, 8, device="meta"), torch.tensor([0, 1])], "two dense tensors"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, device="meta").long()], "two dense tensors"),
        ([torch.zeros(2, 3, 0, 8), torch.tensor([0, 1])], "its shapes are"),
    ],
)
def test_pairs_that_are_refused(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(attar.UserError, match=re.escape(words)):
        foreign.as_set(foreign.read(tmp_path / "a.pt"), real())


def test_damaged_files(tmp_path: Path) -> None:
    for name in ("a.pt", "a.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and nothing more")
        with pytest.raises(attar.UserError, match=r"is damaged|may run code"):
            foreign.read(tmp_path / name)
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(attar.UserError, match="must hold the arrays images and labels; it holds x"):
        foreign.read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.longdouble)}, "images of type "),
        ({"soft_labels": np.array(["a", "b"])}, "soft labels of type <U1"),
        ({"attar": np.array("[" * 100_000)}, "is no JSON"),
        ({"attar": np.array(json.dumps(set_files.describe(make()) | {"mean": ["x"] * 3}))}, "does not say what its"),
    ],
)
def test_odd_arrays(odd: dict[str, Any], words: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"images": np.full((2, 8, 8, 3), 0.5, ">f4"), "labels": np.array([2, 1], ">i8")}
    np.savez(tmp_path / "a.npz", **arrays)
    assert foreign.as_set(foreign.read(tmp_path / "a.npz"), real()).labels.tolist() == [2, 1]
    np.savez(tmp_path / "a.npz", **(arrays | odd))
    with pytest.raises(attar.UserError, match=words):
        foreign.alone(tmp_path / "a.npz")


def test_a_folder_of_pictures_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export_set(make(), "imagefolder", tmp_path / "out")
    (out / "attar.json").unlink()
    monkeypatch.setattr(foreign, "load_data", None)
    with pytest.raises(attar.UserError, match="does not say what its classes"):
        attar.train(out)


def test_soft_labels_that_are_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    (tmp_path / "a.npz").rename(tmp_path / "soft_labels.npy")
    with pytest.raises(attar.UserError, match="is damaged or no npy file"):
        soft_files.beside(tmp_path)


@pytest.mark.parametrize("column", [[[0.5], [0.5, 0.5]], ["a", "b"], [None, None]])
def test_odd_soft_labels_in_parquet(column: list[Any], tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"soft_labels": column}), tmp_path / "a.parquet")
    with pytest.raises(attar.UserError, match="its soft_labels are not a row of numbers"):
        soft_files.beside(tmp_path)


def test_normalised_images(tmp_path: Path) -> None:
    condensed = make()
    torch.save([condensed.normalize(condensed.images), condensed.labels], tmp_path / "a.pt")
    back = foreign.as_set(foreign.read(tmp_path / "a.pt"), real(), normalized=True)
    assert torch.allclose(back.images, condensed.images, atol=1e-6)


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
def test_classes_are_matched_by_name(to: str, tmp_path: Path) -> None:
    out = export_set(make(), to, tmp_path / "out", what="stored")
    if to == "imagefolder":
        (out / "attar.json").unlink()
    turned = real(classes=("cow", "bee", "ant"))
    assert foreign.as_set(foreign.read(out), turned).labels.tolist() == [2, 2, 1, 1, 0, 0]
    with pytest.raises(attar.UserError, match="has the class 'ant', which zoo has not"):
        foreign.as_set(foreign.read(out), real(classes=("x", "bee", "cow")))


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
def test_soft_labels_stay_with_their_images(to: str, tmp_path: Path) -> None:
    """Those of a set are in the order of its classes, also where its images are not."""
    soft = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    mixed = replace(make(factor=1), labels=torch.tensor([2, 0, 1, 0, 2, 1]), soft_labels=soft)
    out = export_set(mixed, to, tmp_path / "out", what="stored")
    back = foreign.as_set(foreign.read(out), real())
    assert back.soft_labels is not None and torch.equal(back.soft_labels.argmax(1), back.labels)
    assert torch.equal(eight(back.images), eight(mixed.decoded()[0]))
    page = (out / "README.md" if out.is_dir() else tmp_path / "out.pt.md".replace("pt", to)).read_text("utf-8")
    assert ("F.one_hot" in page) == (to == "pt")


# ---- the command line ----


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The accuracies that `attar evaluate` printed, in full."""
    runs: list[list[float]] = []
    monkeypatch.setattr(
        "attar.cli.printing.print_accuracies",
        lambda result, measured, path: runs.append(next(iter(measured["accuracy"].values()))["runs"]),
    )
    return runs


def test_export_and_evaluate(workspace: Path, tmp_path: Path, accuracies: list[list[float]]) -> None:
    """Of 8-bit images the same numbers come out, and no format needs flags."""
    rounded = attar.load_set(workspace / "base")
    exact = attar.SyntheticSet(**{**vars(rounded), "images": eight(rounded.images) / 255, "initial": None})
    attar.save_set(tmp_path / "exact.safetensors", exact)
    call("evaluate", str(tmp_path / "exact.safetensors"), *QUICK)
    for to in ("parquet", "imagefolder", "npz", "pt"):
        out = tmp_path / f"out-{to}"
        what = () if to == "parquet" else ("--what", "stored")
        call("export", str(workspace / "base"), "--to", to, "--out", str(out), *what)
        path = out.with_name(f"{out.name}.{to}") if to in ("npz", "pt") else out
        call("evaluate", str(path), *QUICK)
    assert len(accuracies) == 5
    assert accuracies[1:4] == [accuracies[0]] * 3
    assert accuracies[4] == pytest.approx(accuracies[0], abs=0.2)  # floats, of which none is rounded


def test_a_set_that_does_not_name_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from attar.cli.parser import main

    torch.save([torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])], tmp_path / "a.pt")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "a.pt")])
    assert stop.value.code == 2
    assert "does not say which data it stands for; name the real data with -d" in capsys.readouterr().err


def test_a_folder_that_is_called_as_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays a folder where it is not: no card names the hub, and nothing asks it."""
    for name in ("a", "b"):
        (tmp_path / "data/flowers" / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((8, 8), 40 * number + 10 * (name == "b"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data/flowers" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    attar.select("data/flowers", "random", ipc=1, folder="run")
    assert attar.load_set("run").recipe["data"]["dataset"] == "./data/flowers"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = Path(attar.export_set(tmp_path / "run", "parquet", "out"))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "made from `flowers`:" in card and "data/flowers" not in card and str(tmp_path) not in card
    assert "dataset" not in foreign.read(out).recipe.get("data", {})
    monkeypatch.setattr(hub, "load", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(attar.UserError, match="data/flowers"):
        attar.evaluate(tmp_path / "run")


# ---- the hub ----


class FakeApi:
    calls: list[tuple[str, Any]] = []  # noqa: RUF012

    def create_repo(self, name: str, **options: Any) -> str:
        self.calls.append((name, options))
        return f"https://hub.invalid/datasets/{name}"

    def upload_folder(self, **options: Any) -> None:
        folder = Path(options["folder_path"])
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        self.calls.append((options["repo_id"], files))


def test_push(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(
        attar.MissingError, match="no Hugging Face token; run `hf auth login`, or put one into HF_TOKEN"
    ):
        push_set(make(), "me/zoo")
    monkeypatch.setattr(hub, "get_token", lambda: "hf_x")
    with pytest.raises(attar.UserError, match="'zoo' is no name on the Hugging Face hub; a name is USER/NAME"):
        push_set(make(), "zoo")
    assert push_set(make(), "me/zoo", private=True).endswith("me/zoo")
    assert FakeApi.calls[0] == ("me/zoo", {"repo_type": "dataset", "private": True, "exist_ok": True})
    parts = [f"{what}/train-00000-of-00001.parquet" for what in ("decoded", "stored")]
    assert FakeApi.calls[1] == ("me/zoo", ["README.md", *parts])


def test_a_folder_that_is_called_as_known_data_stays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("a", "b"):
        Path("digits", label).mkdir(parents=True)
        for count in range(3):
            Image.new("L", (8, 8), 60 + count).save(f"digits/{label}/{count}.png")
    assert attar.load(Path("digits"), size=8).loaded["dataset"] == "./digits"
    assert name_as_setting("condense", Path("digits"), {})[1] == {"dataset": "./digits"}
    assert name_as_setting("condense", "digits", {})[1] == {"dataset": "digits"}
    for dataset, there in (("./digits", {}), ("digits", {"dataset": "digits"})):
        condensed = replace(make(), source="digits", recipe={"data": {"dataset": dataset}})
        assert without_places(condensed).recipe["data"] == there


def test_push_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "get_token", lambda: "hf_x")
    with pytest.raises(attar.MissingError, match=r"me/zoo cannot be pushed: (HF_HUB_OFFLINE is set|no network)"):
        push_set(make(), "me/zoo")


def test_the_card_says_what_is_inside(tmp_path: Path) -> None:
    text = (export_set(make(), "parquet", tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "config_name: decoded\n  data_files: decoded/train-*.parquet\n  default: true" in text
    assert "6 synthetic images of 3x8x8, 2 for each of 3 classes" in text and "0.5000, 0.5000, 0.5000" in text


def test_png_folder_is_plain_files(tmp_path: Path) -> None:
    out = export_set(make(), "imagefolder", tmp_path / "out", what="stored")
    with Image.open(out / "train" / "bee" / "00001.png") as image:
        assert (np.asarray(image) == bytes_of(make().images)[3]).all()


def test_overwriting_replaces_exports_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    attar.export_set(make(), "imagefolder", out)
    attar.export_set(make(), "parquet", out, overwrite=True)
    (out / "precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(attar.UserError, match=r"holds something else than an export \(precious.txt\)"):
        attar.export_set(make(), "imagefolder", out, overwrite=True)
    assert (out / "precious.txt").read_text(encoding="utf-8") == "mine"
    (tmp_path / "empty").mkdir()
    attar.export_set(make(), "imagefolder", str(tmp_path / "empty"))


@pytest.mark.parametrize("text", [b"abc", b"<html>no", b""])
def test_a_file_that_is_no_pair(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(text)
    with pytest.raises(attar.UserError, match=r"no file of torch\.save"):
        foreign.read(tmp_path / "x.pt")
