"""`attar label`: a teacher's soft labels against a loop, kept in set and exports, measured beside random images."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

import attar
from attar.evaluation import measure
from attar.evaluation.teacher import soft_labels
from attar.evaluation.training_sets import random_real, training_set
from attar.sets import foreign
from attar.training import pool_files
from helpers.command import POOL, TINY, call, refused

QUICK = ("--runs", "2", "--epochs", "2", "--yardsticks", "random_real", "--quiet")


@pytest.fixture
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a pool and the run base/ of the smallest schedule."""
    shutil.copytree(workspace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path / "here"


def test_labels_draw_nothing_from_the_users_generator(here: Path) -> None:
    data = attar.load("digits")
    network = attar.settings.config.NetworkConfig(**attar.load_set("base").recipe["network"])
    pool = pool_files.load([Path("pool/digits-convnet2-w0.05")], data, network)
    before = torch.get_rng_state()
    soft_labels(pool, data.images[:2], data, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def labelled_by_hand(images: torch.Tensor, temperature: float) -> torch.Tensor:
    """By the two models of the pool, image by image, in float64."""
    data = attar.load("digits")
    recipe = attar.load_set("base").recipe
    network = attar.settings.config.NetworkConfig(**recipe["network"])
    pool = pool_files.load([Path("pool/digits-convnet2-w0.05")], data, network)
    mean, std = data.mean[0], data.std[0]
    rows = []
    for image in images:
        x, logits = (image[None].double() - mean) / std, []
        for member in pool.members:
            params = {name: value.double() for name, value in member.params.items()}
            logits.append(functional_call(pool.build(seed=0).eval(), params, (x,)))
        exponents = [float(sum(one[0, c] for one in logits)) / len(logits) / temperature for c in range(10)]
        rows.append(torch.tensor(exponents).exp() / torch.tensor(exponents).exp().sum())
    return torch.stack(rows)


def test_the_labels_of_the_pool(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("label", "base", "--teacher", "pool", "--temperature", "2", "--quiet")
    assert re.search(r"base: labelled by convnet, \d+\.\d % on test images", capsys.readouterr().out)
    small = attar.load_set("base")
    assert small.soft_labels is not None and small.teacher["temperature"] == 2 and not small.has_learned
    assert torch.allclose(small.soft_labels, labelled_by_hand(small.decoded()[0], 2.0), atol=1e-5)
    held_out = attar.load("digits").holdout(0.2, 0)
    assert attar.label(small, held_out, teacher="pool").teacher["tested_on"] == held_out.tested_on != "test images"
    again = attar.label(replace(small, soft_labels=None, teacher={}), teacher="pool", temperature=2)
    assert again.soft_labels is not None and torch.equal(again.soft_labels, small.soft_labels)
    sharp = attar.label(small, teacher="pool").soft_labels
    assert sharp is not None and sharp.max(dim=1)[0].mean() > small.soft_labels.max(dim=1)[0].mean()


def test_by_its_file_a_run_is_labelled_as_by_its_folder(here: Path) -> None:
    """Accuracies with the labels of before are removed."""
    call("label", "base", "--teacher", "pool", "--quiet")
    call("evaluate", "base", *QUICK)
    assert "soft_labels" in json.loads(Path("base/result.json").read_text())
    call("label", "base/condensed.safetensors", "--teacher", "pool", "--temperature", "4", "--quiet")
    assert attar.load_set("base").teacher["temperature"] == 4
    assert "soft_labels" not in Path("base/result.json").read_text()


def test_the_pool_that_the_run_names(here: Path, said: list[str]) -> None:
    """The models that `model_path` named label the set, and random images beside it; not others of the recipe."""
    pretrain = "pretrain -d digits --depth 2 --width 0.05 --epochs 2 --models 2 --seed 7 --out mine --quiet"
    call(*pretrain.split())
    call(
        "condense",
        "-d",
        "digits",
        "--width",
        "0.05",
        *TINY[len(POOL) :],
        "--model_path",
        "mine",
        "--out",
        "named",
        "--quiet",
    )
    before = sorted(here.glob("pool/**/*"))
    call("label", "named", "--teacher", "pool", "--quiet")
    small, data = attar.load_set("named"), attar.load("digits")
    network = attar.settings.config.NetworkConfig(**small.recipe["network"])
    mine = pool_files.load([Path("mine")], data, network)
    assert small.teacher["model_path"] == [str(member.file) for member in mine.members] and len(mine) == 2
    assert [small.teacher["pool"][name] for name in ("epochs", "seed", "models")] == [2, 7, 2]
    expected = soft_labels(mine, small.decoded()[0], data, 1.0)
    assert small.soft_labels is not None and torch.equal(small.soft_labels, expected)
    call("evaluate", "named", *QUICK)
    assert sorted(here.glob("pool/**/*")) == before and not any("gives other labels" in line for line in said)
    one = attar.label(replace(small, soft_labels=None, teacher={}), teacher="pool", models=1)
    assert one.teacher["model_path"] == small.teacher["model_path"][:1]
    with pytest.raises(attar.UserError, match="seed belongs to attar pretrain"):
        attar.label(small, teacher="pool", seed=1)
    out = attar.export_set("named", "npz", "out")
    back = foreign.as_set(foreign.read(out), data)
    assert back.soft_labels is not None and "model_path" not in back.teacher
    attar.evaluate(out, data, runs=1, epochs=1, yardsticks=())  # trained again by the same settings
    assert not any("gives other labels" in line for line in said)


def test_measured_beside_hard_labels_and_random_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random real images learn the same teacher's labels; another teacher's accuracies do not stay."""
    call("evaluate", "base", *QUICK)
    hard = json.loads(Path("base/result.json").read_text())["accuracy"]
    report, shown = Path("base/report.html"), "labelled by the same teacher"
    call("label", "base", "--epochs", "1", "--quiet")
    call("evaluate", "base", *QUICK)
    found: dict[str, Any] = json.loads(Path("base/result.json").read_text())
    assert found["accuracy"] == hard and {"soft_labels", "random_soft_labels"} <= found.keys()
    small, data = attar.load_set("base"), attar.load("digits")
    assert found["soft_labels"]["convnet2"]["teacher"] == small.teacher["accuracy"]
    config = replace(attar.settings.config.EvaluateConfig(), **{"epochs": 2, "aug_type": "color_crop_scale_rotate"})
    network = attar.settings.config.NetworkConfig(**small.recipe["network"])
    pool = pool_files.load([Path("pool/digits-convnet2-w0.05")], data, network, length={"epochs": 1})
    teacher = [m for m in pool.members if m.settings["seed"] == 0 and m.settings["aug_type"] == config.aug_type]
    for seed in (0, 1):
        images, _ = random_real(data, small, seed)
        with torch.no_grad():
            logits = functional_call(pool.build(seed=0).eval(), teacher[0].params, (data.scaled(images),))
        job = measure.TrainingJob("convnet2", network, "random_soft_labels", config, 2, seed)
        run = measure.run_once(job, small, data, logits.softmax(1))
        assert run.accuracy == found["random_soft_labels"]["convnet2"]["runs"][seed]
    assert "with the teacher's labels condensed − random real " in capsys.readouterr().out
    assert shown in report.read_text(encoding="utf-8")
    call("label", "base", "--teacher", "pool", "--quiet")
    assert "soft_labels" not in json.loads(Path("base/result.json").read_text())
    assert shown not in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("to", ["parquet", "imagefolder", "npz", "pt"])
def test_exports_hold_them(to: str, here: Path, said: list[str]) -> None:
    data, small = attar.load("digits"), attar.load_set("base")
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    small = attar.label(replace(small, images=images, factor=2), teacher="pool")
    for what in ("stored", "decoded", *["both"] * (to != "pt")):
        out = attar.export_set(small, to, f"{to}-{what}", what=what)
        back = foreign.as_set(foreign.read(out), data)
        if (to, what) == ("parquet", "stored"):  # a stored grid is several training images
            assert back.soft_labels is None
            assert any("no rows for soft labels of the decoded ones; --what both holds" in line for line in said)
            continue
        assert back.soft_labels is not None and small.soft_labels is not None, what
        assert torch.equal(back.soft_labels, small.soft_labels) and back.teacher == small.teacher
    assert not any("soft_labels.npy" in line for line in said)
    if to == "parquet":
        card = (Path(out) / "README.md").read_text(encoding="utf-8")
        assert "- the column `soft_labels` of the images to train on: the class probabilities of 2 convnet of 1" in card
    other = replace(small, teacher=small.teacher | {"temperature": 0.02})
    attar.evaluate(other, data, runs=1, epochs=1, yardsticks=())
    assert any("gives other labels than the set has" in line for line in said)
    result = attar.evaluate(out, data, runs=1, epochs=1, yardsticks=(), width=0.05)
    assert list(result.measured) == ["accuracy", "soft_labels", "random_soft_labels"]


def test_a_learned_rate_stays_with_the_images_own_labels(here: Path, said: list[str]) -> None:
    """A teacher's labels are shown as such, and may be made again; `as learned` is what was learned."""
    small = replace(attar.load_set("base"), lr=0.02)
    labelled = attar.label(attar.label(small, teacher="pool"), teacher="pool", temperature=2)
    data = attar.load("digits")
    quick: dict[str, Any] = {"runs": 1, "epochs": 1, "yardsticks": (), "width": 0.05}
    found, alone = (attar.evaluate(one, data, **quick).measured for one in (labelled, small))
    assert list(found) == ["accuracy", "learned", "soft_labels", "random_soft_labels"]
    assert found["learned"] == alone["learned"]
    _, hard = training_set("learned", labelled, data, 0)
    _, soft = training_set("soft_labels", labelled, data, 0)
    assert not hard.is_floating_point() and soft.is_floating_point()
    said.clear()
    attar.train(labelled, epochs=1)
    attar.train(small, epochs=1)
    rates = "(the protocol's is 0.01, the learned one 0.02)"
    for words in ("its teacher's labels at the learning rate 0.01", "its hard labels at the learning rate 0.02"):
        assert f"the set is trained on with {words} {rates}" in said


def test_damaged_labels_are_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = attar.label("base", teacher="pool")
    attar.export_set(small, "imagefolder", "out")
    for content in (b"junk", Path("out/soft_labels.npy").read_bytes()[:100]):
        Path("out/soft_labels.npy").write_bytes(content)
        assert "soft_labels.npy is damaged" in refused(capsys, "evaluate", "out", *QUICK)
    changes: tuple[Any, ...] = ("me", {"x": 1}, small.teacher | {"temperature": "hot"}, small.teacher | {"pool": {}})
    for teacher in changes:
        attar.save_set("odd.safetensors", replace(small, teacher=teacher))
        for line in (("evaluate", "odd.safetensors", *QUICK), ("export", "odd.safetensors", "--to", "npz")):
            assert "odd.safetensors is damaged" in refused(capsys, *line)


def test_a_longer_run_loses_them_and_says_so(here: Path, said: list[str]) -> None:
    call("label", "base", "--teacher", "pool", "--quiet")
    call("condense", "--resume", "base", "--niter", "5", "--quiet")
    assert attar.load_set("base").soft_labels is None
    assert any("the teacher's labels go with those before; attar label base again" in line for line in said)


def test_training_takes_them(here: Path) -> None:
    hard = attar.load_set("base")
    small = attar.label(hard, teacher="pool")
    one_hot = replace(small, soft_labels=torch.eye(10)[small.labels])
    weights = [next(attar.train(one, epochs=3).parameters()) for one in (hard, small, one_hot)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def test_refusals(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("0", "1e-30", "inf", "nan"):
        said = refused(capsys, "label", "base", "--temperature", number)
        assert f"temperature must be between 0.001 and 1000, not {number}" in said
    assert "unknown network 'convnt'; did you mean 'convnet'?" in refused(
        capsys, "label", "base", "--teacher", "convnt"
    )
    call("export", "base", "--to", "npz", "--out", "out.npz")
    assert "out.npz is an export or another tool's; label the run" in refused(capsys, "label", "out.npz")
    learned = replace(attar.load_set("base"), soft_labels=torch.full((10, 10), 0.1))
    with pytest.raises(attar.UserError, match="were learned with its images"):
        attar.label(learned)


@pytest.mark.parametrize("form", ["parquet", "folders", "hub"])
def test_sets_of_others_with_labels_as_ids(
    form: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As others put them onto the hub: a column `class_id` beside the image, or a folder for each id."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    call("export", "base", "--to", "imagefolder", "--out", "images")
    files = sorted(Path("images/train").rglob("*.png"))
    if form == "folders":
        Path("theirs").mkdir()
        shutil.copytree("images/train", "theirs/train")
    else:
        place = Path("theirs")
        if form == "hub":  # as its client keeps what was downloaded
            pytest.importorskip("huggingface_hub")
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
            kept, commit = here / "hub" / "datasets--someone--theirs", "0" * 40
            (kept / "refs").mkdir(parents=True)
            (kept / "refs" / "main").write_text(commit)
            place = kept / "snapshots" / commit
        (place / "data").mkdir(parents=True)
        cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        columns = {"image": cells, "class_id": [int(file.parent.name) for file in files]}
        table = pa.table(columns | {"image_id": [file.name for file in files]})
        pq.write_table(table, place / "data" / "train-00000-of-00001.parquet")
    capsys.readouterr()
    line = ("-d", "digits", "--width", "0.05", "--json", *QUICK)
    call("evaluate", "someone/theirs" if form == "hub" else "theirs", *line)
    theirs = json.loads(capsys.readouterr().out)
    call("evaluate", "images", *line)
    assert theirs["accuracy"] == json.loads(capsys.readouterr().out)["accuracy"]


def test_a_name_that_is_neither_here_nor_on_the_hub(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("huggingface_hub")
    (here / "runs").mkdir()
    said = refused(capsys, "evaluate", "someone/pets", "-d", "digits")
    assert (
        "there is no run folder or file someone/pets, and the Hugging Face hub gives no data set of that name" in said
    )
    assert "hub" not in refused(capsys, "evaluate", "runs/missing")
