"""Bad input: one line that says what would be right, exit status 2, no traceback, nothing written or touched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import attar
from attar import files
from attar.cli import parser
from attar.cli.parser import main
from attar.stages import condense as stage
from helpers.command import POOL, TINY, call

ROOT = Path(__file__).parents[2]
FOLDER = "pool/digits-convnet2-w0.05"
DIGITS = ("-d", "digits")
QUICK = ("--runs", "1", "--epochs", "1", "--whole_epochs", "1")

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


def contents(root: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file below `root`: what it holds and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def paint(root: Path, size: tuple[int, int] = (8, 8), *, channels: int = 3, train: int = 6, test: int = 2) -> None:
    """PNGs of two classes with random pixels; size is (width, height)."""
    random = np.random.RandomState(0)
    for split, count in (("train", train), ("test", test)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
                Image.fromarray(random.randint(0, 256, shape, np.uint8)).save(root / split / name / f"{number}.png")


@pytest.fixture(scope="session")
def bench(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool, a run, a part of a run, and folders and files with something wrong. Read only: the tests check it."""
    root = tmp_path_factory.mktemp("bad") / "bench"
    shutil.copytree(workspace, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        call("condense", *DIGITS, *TINY, "--nclass_sub", "5", "--phase", "0", "--out", "part", "--quiet")
        paint(root / "small")
        paint(root / "mixed")
        paint(root / "mixed", (9, 7), train=3)
        paint(root / "hollow")
        (root / "hollow" / "train" / "ox").mkdir()
        (root / "empty").mkdir()
        (root / "flat" / "train").mkdir(parents=True)
        paint(root / "grey", channels=1)
        call("pretrain", "-d", "grey", *POOL, "--out", "greys", "--quiet")
        paint(root / "twin" / "grey")  # the same name in colour
        (root / "text.txt").write_text("hello\n")
        save_file({"weight": torch.zeros(2)}, root / "foreign.safetensors")
        whole = (root / "base" / "condensed.safetensors").read_bytes()
        (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
        (root / "cuts").mkdir()
        member = next((root / FOLDER).iterdir())
        (root / "cuts" / member.name).write_bytes(member.read_bytes()[:-9])
    return root


@pytest.fixture
def refused(bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused("condense", "-d", "digit")` checks all that every refusal has in common, and returns the words."""

    def check(*arguments: str, cwd: Path = bench) -> str:
        monkeypatch.chdir(cwd)
        before, folders = contents(cwd), {path for path in cwd.rglob("*") if path.is_dir()}
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        said = capsys.readouterr()
        assert stop.value.code == 2, said
        assert said.out == ""
        spoken = re.sub(r"\Achosen for [^\n]+\n", "", said.err)  # settings for own data, before their pool is refused
        assert re.fullmatch(r"attar: error: [^\n]+\n", spoken), said.err
        assert {path for path in cwd.rglob("*") if path.is_dir()} == folders
        assert contents(cwd) == before
        return spoken.removeprefix("attar: error: ").rstrip("\n")

    return check


# ---- names ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-d digit", "unknown data set 'digit'; did you mean 'digits'? valid: cifar10, cifar100, digits, fashion"),
        ("-d fashon", "did you mean 'fashion'?"),
        ("-d zebra", "unknown data set 'zebra'; valid: cifar10"),  # nothing is near
        ("-d digits -n convnt", "unknown network 'convnt'; did you mean 'convnet'?"),
        ("-d digits -n resnet11", "resnet has no depth 11; valid: 10, 18"),
        ("-d digits --norm_type bach", "unknown norm_type 'bach'; did you mean 'batch'?"),
        ("-d digits --aug_type color_cropp", "unknown augmentation 'cropp'; did you mean 'crop'? valid: color"),
        ("-d digits --aug_type color-color", "augmentation 'color-color' names an operation twice"),
        ("-d digits --metric l3", "unknown metric 'l3'; did you mean 'l1'? valid: cos, l1, l1_mean, mse"),
        ("-d digits --match gradd", "unknown match 'gradd'; did you mean 'grad'?"),
        ("-d digits --init mixx", "unknown init 'mixx'; did you mean 'mix'?"),
        ("-d digits --decode_type bond", "unknown decode_type 'bond'; did you mean 'bound'?"),
        ("--recipe cifar", "unknown recipe 'cifar'; did you mean 'cifar10'?"),
        ("--recipe my.toml", "there is no recipe file my.toml; named recipes: default, digits"),
        ("--reproduce -d small", "there are no published settings for the data set 'small', only for digits, mnist"),
        ("-d digits --precision fp16", "unknown precision 'fp16'; did you mean 'bf16'?"),
        ("-d digits --compile maybe", "unknown compile 'maybe'; valid: auto, off, on"),
        ("-d digits --device gpu", "unknown device 'gpu'; valid: auto, cpu, cuda"),
        ("-d digits --device cpu:7", "device 'cpu:7' is not supported; valid: auto, cpu, cuda"),
    ],
)
def test_unknown_names(flags: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused("condense", *flags.split())


@pytest.mark.parametrize("flag", ["--out", "--model_path", "--data_dir"])
def test_empty_names(flag: str, refused: Callable[..., str]) -> None:
    name = flag.lstrip("-")
    assert re.search(rf"{name} must .* and it is empty|{name} must be .*, not", refused("condense", *DIGITS, flag, ""))


def test_unknown_names_elsewhere(refused: Callable[..., str]) -> None:
    assert "unknown optimizer 'sdg'; did you mean 'sgd'?" in refused("pretrain", *DIGITS, "--optimizer", "sdg")
    assert "unknown network 'convnt'; did you mean" in refused("evaluate", "base", "--networks", "convnet", "convnt")
    assert "unknown yardstick 'hole'; did you mean 'whole'?" in refused("evaluate", "base", "--yardsticks", "hole")
    assert "unknown recipe 'digit'; did you mean 'digits'?" in refused("recipes", "digit")
    assert "for the settings of one recipe: attar recipes best --ipc 10" in refused("recipes", "--ipc", "3")


# ---- recipe files ----


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ipcc = 1", "my.toml: unknown setting 'ipcc'; did you mean 'ipc'?"),
        ("[condense]\nlr_imgg = 1", "my.toml: [condense] unknown setting 'lr_imgg'; did you mean 'lr_img'?"),
        ("[netwrk]\ndepth = 1", "my.toml: unknown section 'netwrk'; did you mean 'network'?"),
        ("pool = 3", "my.toml: [pool] must be a table of settings, not 3"),
        ("ipc = 'ten'", "my.toml: ipc must be a whole number, not 'ten'"),
        ("ipc = 1.5", "my.toml: ipc must be a whole number, not 1.5"),
        ("[condense]\nperturb = 'yes'", "my.toml: [condense] perturb must be true or false, not 'yes'"),
        ("[data]\ndataset = 7", "my.toml: [data] dataset must be text, not 7"),
        ("[evaluate]\nnetworks = [1]", "my.toml: [evaluate] networks must be a list of names, not [1]"),
        ("[evaluate]\nnetworks = ['convnt']", "unknown network 'convnt'; did you mean 'convnet'?"),
        ("recipe = 'cifar1'", "unknown recipe 'cifar1'; did you mean 'cifar10'?"),
        ("recipe = 1", "my.toml: recipe must be the name of a recipe, not 1"),
        ("ipc = 0", "ipc must be at least 1, not 0"),
        ("lr_img = nan", "lr_img must be above 0, not nan"),
        ("lr_img = inf", "lr_img must be at most 9007199254740992, not inf"),
        ("metric = 'mes'", "unknown metric 'mes'; did you mean 'mse'?"),
        ("ipc == 1", "my.toml is not valid TOML: Invalid value (at line 1, column 6)"),
        ("[condense\nipc = 1", "my.toml is not valid TOML: Expected ']'"),
    ],
)
def test_recipe_files(text: str, words: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(text + "\n", encoding="utf-8")
    assert words in refused("condense", *DIGITS, "--recipe", "my.toml", cwd=tmp_path)


def test_a_damaged_config_as_a_recipe(refused: Callable[..., str], bench: Path, tmp_path: Path) -> None:
    text = (bench / "base" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text[: len(text) // 2], encoding="utf-8")
    assert "config.json is not valid JSON: " in refused("condense", "--recipe", "config.json", cwd=tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"ipc": 1', '"ipc": "1"'), encoding="utf-8")
    words = refused("condense", "--recipe", "config.json", cwd=tmp_path)
    assert words == "config.json: [condense] ipc must be a whole number, not '1'"


# ---- data ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-d no/where", "the folder no/where does not exist; expected train/<class>/<image files>"),
        (
            "-d ./empty",
            "empty has no folder train/, and no class folders with images; expected train/<class>/<image files>",
        ),
        ("-d flat", "flat/train has no class folders; expected train/<class>/<image files>"),
        ("-d text.txt", "text.txt is not a folder"),
        ("-d hollow", "hollow/train/ox has no images; a class folder needs files such as .png"),
        ("-d small --ipc 7", "class 'cat' has 6 images, fewer than ipc 7"),
        ("-d fashion --data_dir empty", "put the four IDX files"),
        ("-d fashion --data_dir nowhere", "the folder nowhere given as data_dir does not exist"),
        ("-d digits --nclass 11", "nclass 11 asked for, but digits has 10 classes"),
        ("-d digits --nclass 1", "nclass must be at least 2, not 1"),
        ("-d digits --size 0", "size must be at least 1, not 0"),
        ("-d imagenet --nclass 20", "nclass must be 10 or 100, found 20"),
    ],
)
def test_data(flags: str, words: str, refused: Callable[..., str]) -> None:
    for verb in ("condense", "pretrain") if "--ipc" not in flags else ("condense",):
        assert words in refused(verb, *flags.split())


def test_a_missing_data_set_says_what_to_put_where(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ATTAR_DATA", raising=False)
    words = refused("condense", "-d", "cifar10", cwd=tmp_path)
    assert "put the folder cifar-10-batches-py or the file cifar-10-python.tar.gz" in words
    assert "--data_dir" in words


def test_a_class_smaller_than_the_batch_is_no_bad_input(bench: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    call(
        "condense",
        "-d",
        str(bench / "small"),
        "--ipc",
        "6",
        "--batch_real",
        "64",
        "--method",
        "accdd",
        *TINY,
        "--out",
        "run",
        "--quiet",
    )
    assert attar.load_set(tmp_path / "run").labels.bincount().tolist() == [6, 6]


# ---- numbers ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--ipc 0", "ipc must be at least 1, not 0"),
        ("--ipc -1", "ipc must be at least 1, not -1"),
        ("--ipc 1.5", "ipc must be a whole number, not '1.5'"),
        ("--ipc ten", "ipc must be a whole number, not 'ten'"),
        ("--niter 2 --eval_at 1 3", "eval_at 3 never comes: the run has 2 outer iterations"),
        ("--eval_at 1 x", "eval_at must be a whole number, not 'x'"),
        ("--ipc 1000", "class '0' has 119 images, fewer than ipc 1000"),
        ("-f 0", "factor must be at least 1, not 0"),
        ("-f 9", "factor 9 is larger than the image (8x8 pixels)"),
        ("--niter 0", "niter must be at least 1, not 0"),
        ("--inner_loop 0", "inner_loop must be at least 1, not 0"),
        ("--speedup 0", "speedup must be at least 1, not 0"),
        ("--pt_from 0", "epochs must be at least 1, not 0"),
        ("--pt_fraction 0", "fraction must be above 0 and at most 1, not 0"),
        ("--pt_fraction 1.5", "fraction must be above 0 and at most 1, not 1.5"),
        ("--model_num 0", "models must be at least 1, not 0"),
        ("--n_data -1", "n_data must be at least 0, not -1"),
        ("--batch_real 0", "batch_real must be at least 1, not 0"),
        ("--lr_img nan", "lr_img must be above 0, not nan"),
        ("--lr_img inf", "lr_img must be at most 9007199254740992, not inf"),
        ("--lr_img 0", "lr_img must be above 0, not 0.0"),
        ("--lr_img fast", 'Invalid value for --lr_img: unable to convert "fast" into float'),
        ("--lr nan", "lr must be above 0, not nan"),
        ("--momentum nan", "momentum must be at least 0, not nan"),
        ("--weight_decay inf", "weight_decay must be at most 9007199254740992, not inf"),
        ("--vmax nan", "vmax must be at least 0, not nan"),
        ("--vmin 0.5", "vmax (0.09) must not be below vmin (0.5)"),
        ("--mom_img 1", "mom_img must be at least 0 and below 1, not 1.0"),
        ("--mix_p 1.5", "mix_p must be between 0 and 1, not 1.5"),
        ("--width 0", "width must be above 0, not 0.0"),
        ("--depth 4", "a convnet of depth 4 leaves nothing of images of 8x8; the largest depth is 3"),
        ("-n convnet4 --depth 2", "network 'convnet4' names depth 4, but depth 2 is asked for"),
        ("--seed -1", "seed must be at least 0, not -1"),
        ("--seed 99999999999999999999", "seed must be at most 9007199254740992, not 99999999999999999999"),
        ("--phase 0", "phase needs nclass_sub: the number of classes of a part"),
        ("--nclass_sub 5 --eval_at 1", "eval_at needs all classes, and a part has some of them"),
        ("--ray_cpus 2", "ray_cpus says how a Ray cluster is used; add --ray, or leave it out"),
        ("--ray", "--ray spreads the parts of a partition: give --nclass_sub, and no --phase"),
        ("--nclass_sub 5 --phase 0 --ray auto", "--ray spreads the parts of a partition"),
        ("--nclass_sub 5 --ray --ray_cpus 0", "ray_cpus must be at least 1, not 0"),
        ("--nclass_sub 5 --phase 2", "phase 2 does not exist: 10 classes in parts of 5 are phases 0..1"),
        ("--nclass_sub 5 --phase 1 --eval_at 1", "eval_at needs all classes, and a part has some of them"),
    ],
)
def test_numbers(flags: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused("condense", *DIGITS, *flags.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretrain -d digits --lr nan", "lr must be above 0, not nan"),
        ("pretrain -d digits --batch_size 0", "batch_size must be at least 1, not 0"),
        ("pretrain -d digits --lr 1e15 --pt_from 1 --width 0.05 -q", "diverged in training; lower the learning rate"),
        ("evaluate base --runs 0", "runs must be at least 1, not 0"),
        ("evaluate base --epochs 0", "epochs must be at least 1, not 0"),
        ("evaluate base --lr inf", "lr must be at most 9007199254740992, not inf"),
        ("demo --ipc 0", "ipc must be at least 1, not 0"),
        ("demo --ipc 1000", "class '0' has 119 images, fewer than ipc 1000"),
    ],
)
def test_numbers_of_the_other_verbs(arguments: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*arguments.split())


def test_a_run_that_diverges_leaves_nothing(refused: Callable[..., str]) -> None:
    words = refused("condense", *DIGITS, *TINY, "--lr", "1e15", "--out", "new", "--quiet")
    assert "the matching loss is nan; lower the learning rate of the images" in words


@needs_no_gpu
@pytest.mark.parametrize("verb", ["condense", "pretrain", "demo"])
def test_cuda_asked_for_and_absent(verb: str, refused: Callable[..., str]) -> None:
    words = refused(verb, *(DIGITS if verb != "demo" else ()), "--device", "cuda")
    assert words == "device 'cuda' was asked for, but PyTorch sees no CUDA GPU here; use --device cpu"


@needs_no_gpu
def test_a_precision_that_the_device_lacks(refused: Callable[..., str]) -> None:
    right = "tf32 exists on NVIDIA GPUs only; on a CPU use --precision float32"
    assert refused("condense", *DIGITS, "--precision", "tf32") == right
    data = attar.load("digits")
    with pytest.raises(attar.UserError, match=right):
        attar.evaluate(attar.select(data, "random", ipc=1), data, precision="tf32")


# ---- pools ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (f"-d small --model_path {FOLDER}", "was made for the data set 'digits', not for the data set 'small'"),
        (f"-d digits --nclass 5 --model_path {FOLDER}", "was made for 10 classes, not for 5 classes"),
        (f"-d digits --size 16 --model_path {FOLDER}", "was made for images of 8x8, not for images of 16x16"),
        ("-d twin/grey --model_path greys", "was made for images of 1 channels, not for images of 3 channels"),
        (f"-d digits --depth 3 --model_path {FOLDER}", "has architecture convnet2, but convnet3 is asked for"),
        (f"-d digits -n resnet --model_path {FOLDER}", "has architecture convnet2, but resnet10 is asked for"),
        (f"-d digits --norm_type batch --model_path {FOLDER}", "has norm_type instance, but batch is asked for"),
        (f"-d digits --pt_from 7 --model_path {FOLDER}", "holds no early-stage model with pt_from 7;"),
        ("-d digits --model_path nowhere", "there is no pool at nowhere; `attar pretrain` makes one"),
        ("-d digits --model_path empty", "empty holds no early-stage model; `attar pretrain` trains some"),
        ("-d digits --model_path text.txt", "text.txt is damaged or no safetensors file"),
        ("-d digits --model_path cuts", ".safetensors is damaged or no safetensors file"),
        ("-d digits --model_path foreign.safetensors", "foreign.safetensors was not written by attar"),
        ("-d digits --model_path base/condensed.safetensors", "condensed.safetensors holds a set, not a member"),
    ],
)
def test_pools(flags: str, words: str, refused: Callable[..., str]) -> None:
    width = () if "--width" in flags else ("--width", "0.05")
    assert words in refused("condense", *flags.split(), *width, "--ipc", "1", "-f", "1", "--out", "new")


def test_a_pool_of_another_width(refused: Callable[..., str]) -> None:
    words = refused("condense", *DIGITS, "--model_path", FOLDER, "--out", "new")
    assert re.search(r"\.safetensors has width 0\.05, but 0\.5 is asked for; ask for the same, or train another", words)


def test_a_damaged_member_of_the_default_pool(refused: Callable[..., str], bench: Path, tmp_path: Path) -> None:
    shutil.copytree(bench / FOLDER, tmp_path / FOLDER)
    member = sorted((tmp_path / FOLDER).iterdir())[0]
    member.write_bytes(member.read_bytes()[:-9])
    words = refused("condense", *DIGITS, *TINY, cwd=tmp_path)
    assert f"{FOLDER}/{member.name} is damaged or no safetensors file" in words


# ---- where a run goes ----


@pytest.mark.parametrize("verb", ["condense", "demo"])
def test_a_folder_that_holds_a_run(verb: str, refused: Callable[..., str]) -> None:
    words = refused(verb, *(DIGITS if verb == "condense" else ()), "--out", "base")
    assert words == (
        "base already holds a run (config.json); go on with it with --resume auto, name another folder with --out, or "
        "add --overwrite"
    )


def test_overwriting_a_run(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    call("evaluate", "base", *QUICK, "--quiet")
    (tmp_path / "base" / "notes.txt").write_text("mine")
    before = attar.load_set(tmp_path / "base").images
    call("condense", *DIGITS, *TINY, "--seed", "1", "--out", "base", "--overwrite", "--quiet")
    assert not torch.equal(attar.load_set(tmp_path / "base").images, before)
    assert files.read_json(tmp_path / "base" / "result.json")["accuracy"] == {}  # nothing of the run before
    assert len((tmp_path / "base" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "base" / "notes.txt").read_text() == "mine"


def test_refused_input_does_not_touch_the_run_to_be_overwritten(refused: Callable[..., str]) -> None:
    assert "ipc" in refused("condense", *DIGITS, *TINY, "--ipc", "1000", "--out", "base", "--overwrite")
    words = refused("condense", *DIGITS, "--model_path", "nowhere", "--out", "base", "--overwrite")
    assert "there is no pool" in words


@pytest.mark.parametrize("verb", ["condense", "pretrain", "demo"])
@pytest.mark.parametrize("out", ["text.txt", "text.txt/run"])
def test_a_file_where_the_folder_should_be(verb: str, out: str, refused: Callable[..., str]) -> None:
    where = DIGITS if verb != "demo" else ()
    assert re.search(
        r"cannot be a folder: .*text\.txt is a file; name another folder", refused(verb, *where, "--out", out)
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
@pytest.mark.parametrize(
    "arguments",
    [
        ("condense", *DIGITS, *TINY, "--ipc", "20", "--out", "new", "--quiet"),
        ("pretrain", *DIGITS, "--pt_from", "1", "--model_num", "1", "--width", "0.5", "--out", "new", "--quiet"),
    ],
)
def test_a_full_disk(arguments: tuple[str, ...], workspace: Path, tmp_path: Path) -> None:
    """No file may become larger than 15 kB: the writer sees what it would see on a full disk."""
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    code = (
        "import resource, sys\n"
        "from attar.cli.parser import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (15000, 15000))\n"
        "main(sys.argv[1:])"
    )
    before = contents(tmp_path)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"attar: error: new/\S+ cannot be written: .*File too large.*\n", done.stderr)
    assert contents(tmp_path) == before


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    errors = [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), RuntimeError("a bug")]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(stage, "condense", fail)
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main(["condense", *DIGITS])
        assert stop.value.code == 2
        assert "not enough memory; smaller batches, images or a smaller --width" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):  # a bug is shown as one
        main(["condense", *DIGITS])


# ---- what is evaluated ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere", "there is no run folder or file nowhere"),
        ("empty", "empty is no run folder, or its run is not finished: it has no condensed.safetensors"),
        (FOLDER, "is no run folder, or its run is not finished"),
        ("text.txt", "text.txt is damaged or no safetensors file"),
        ("cut.safetensors", "cut.safetensors is damaged or no safetensors file"),
        ("foreign.safetensors", "foreign.safetensors was not written by attar"),
        ("part", "the set is a part: it holds 5 of 10 classes, and lacks 5, 6, 7, 8, 9; join all parts"),
        ("base -d small", "the set was made for other classes than small has: 0, 1, 2"),
        (
            "base -d grey",
            "the set was made for other classes than grey has: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 only in the set; cat, ",
        ),
        ("base -d nowhere/x", "the folder nowhere/x does not exist"),
        ("base --networks convnet9", "a convnet of depth 9 leaves nothing of images of 8x8"),
    ],
)
def test_evaluation(arguments: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused("evaluate", *arguments.split())


def test_a_pool_member_is_no_run(refused: Callable[..., str], bench: Path) -> None:
    member = sorted((bench / FOLDER).iterdir())[0]
    assert "holds a member, not a set" in refused("evaluate", f"{FOLDER}/{member.name}")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "{", "config.json cannot be read as JSON"),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("config.json", '{"attar": 3}', "config.json is damaged: 'attar' must be an object, not 3"),
        ("result.json", '{"accuracy"', "result.json cannot be read as JSON"),
        ("result.json", "3", "result.json holds no JSON object"),
        ("result.json", '{"seconds": []}', "result.json is damaged: 'seconds' must be an object, not []"),
        ("result.json", '{"whole": 3}', "result.json is damaged: 'whole' must be an object, not 3"),
        ("metrics.jsonl", '{"event": "st\n', "metrics.jsonl is damaged"),
        ("condensed.safetensors", "", "condensed.safetensors is damaged or no safetensors file"),
        ("initial.safetensors", "x", "initial.safetensors is damaged or no safetensors file"),
    ],
)
def test_damaged_files_of_a_run_are_refused_before_the_work(
    name: str, text: str, words: str, refused: Callable[..., str], workspace: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    shutil.copytree(workspace / "base", tmp_path / "base")
    (tmp_path / "base" / name).write_text(text)
    monkeypatch.setattr("attar.evaluation.measure.train_network", lambda *args: pytest.fail("trained in vain"))
    assert words in refused("evaluate", "base", cwd=tmp_path)


# ---- the command line itself ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("condense --ipcc 3", "Unknown option: --ipcc. Did you mean --ipc?"),
        ("condense --factr 3", "Did you mean --factor?"),
        ("condense --ipc", "parameter --ipc requires an argument"),
        ("condense -d", "parameter -d requires an argument"),
        ("condense digits", "unexpected argument 'digits'; data follow -d: attar condense -d digits"),
        ("demo now", "unexpected argument 'now'"),
        ("condense --ipc 1 --ipc 2", "--ipc specified multiple times"),
        ("condense --perturb=maybe", 'Invalid value for --perturb: unable to convert "maybe" into bool'),
        ("evaluate", "attar evaluate needs RUN; attar evaluate --help shows examples"),
        ("recipes cifar10 --methods", "cifar10 and --methods are 2 questions; ask one at a time"),
        ("recipes --methods --networks", "--methods and --networks are 2 questions"),
        ("resume base", "attar condense --resume RUN goes on with a run"),
        ("distill -d digits", "the verb is condense: attar condense -d path/to/images"),
        ("evaluat base", 'Unknown command "evaluat". Did you mean "evaluate"?'),
        ("pretrain --lr_img 1", "Unknown option: --lr_img"),  # of another verb
        ("inspect -d digits", "inspect takes the data without a flag: attar inspect path/to/images"),
        ("inspect --dataset=digits", "inspect takes the data without a flag: attar inspect path/to/images"),
    ],
)
def test_usage(arguments: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-m", "attar", "condense", "-d", "digit"), "did you mean 'digits'?"),
        (("-m", "attar", "evaluate", "nowhere"), "there is no run folder or file nowhere"),
        (("condense.py", "--ipc", "0"), "ipc must be at least 1, not 0"),
        (("condense_mp.py", "-d", "digits", "--phase", "5"), "phase needs nclass_sub"),
        (("pretrain.py", "-d", "digits", "--lr", "nan"), "lr must be above 0, not nan"),
    ],
)
def test_as_a_user_sees_it(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    first = arguments[0] if arguments[0] == "-m" else str(ROOT / arguments[0])
    command = [sys.executable, first, *arguments[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"attar: error: [^\n]+\n", done.stderr), done.stderr
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(run_attar: Callable[..., Any], tmp_path: Path) -> None:
    done = run_attar("condense", "-d", "digit", "--debug", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "UserError: unknown data set 'digit'" in done.stderr
    with pytest.raises(attar.UserError):
        parser.main(["condense", "-d", "digit", "--debug"])


# ---- out and back in ----


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("export base", "name a format with --to; valid: parquet, imagefolder, npz, pt"),
        ("export base --to parkett", "unknown format 'parkett'; did you mean 'parquet'?"),
        ("export base --to npz --what all", "unknown what 'all'; valid: both, decoded, stored"),
        ("export base --to pt --what both", "a .pt pair holds one set of images: choose --what stored or decoded"),
        ("export base --to parquet --out base", "base is not empty; name another place with --out, or add --overwrite"),
        ("export nowhere --to npz", "there is no run folder or file nowhere"),
        ("push base zoo", "'zoo' is no name on the Hugging Face hub; a name is USER/NAME"),
        ("evaluate base --factor 3", "base says itself how it is decoded"),
        ("evaluate small", "small does not say which data it stands for; name the real data with -d"),
        ("evaluate small -d digits", "small has the class 'cat', which digits has not"),
        ("inspect nowhere", "unknown data set 'nowhere'"),
        ("evaluate .", "is no run folder, or its run is not finished"),  # runs are no images
        ("evaluate base --attack_eps 4", "attack_eps and attack_images need attacks: fgsm, pgd or both"),
        ("condense -d digits --seed 1e20", "seed must be a whole number"),
        ("condense -d digits --seed 100000000000000000000", "seed must be at most 9007199254740992, not 1000"),
        ("condense -d digits --minutes -1", "minutes must be a number of minutes above 0, not -1"),
        ("condense -d digits --ipc 1 --minutes 0.0001", "minutes is too short: the pool takes about"),
        ("condense -d digits --ipc 1 --minutes 1 --niter 3", "niter and minutes exclude each other"),
        ("condense -d digits --minutes 1 --nclass_sub 5 --phase 0", "minutes would give every part another schedule"),
        ("condense -d digits --test_fraction 1.5", "test_fraction must be at least 0 and below 1, not 1.5"),
    ],
)
def test_exports_and_sets_of_others(command: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*command.split())


@pytest.fixture
def untested(tmp_path: Path) -> Path:
    """A folder of two classes of three images each, without test images (--test_fraction 0)."""
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8), 80 * number + 10 * (name == "b"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "few" / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("resumed", [False, True])
def test_what_cannot_be_evaluated_is_refused_before_the_work(
    resumed: bool, untested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(untested)
    new = ["-d", "few", "--test_fraction", "0", "--ipc", "1", *POOL, "--niter", "1", "--inner_loop", "2"]
    if resumed:
        call("condense", *new, "--out", "run", "--quiet")
        new = ["--resume", "run", "--niter", "2"]
    else:
        new += ["--out", "run"]
    before = sorted(untested.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["condense", *new, "--evaluate"])
    assert stop.value.code == 2 and "few has no test images" in capsys.readouterr().err
    assert sorted(untested.rglob("*")) == before


@pytest.mark.parametrize("options", [{"ray_cpus": 3}, {"ray": "local"}])
def test_a_cluster_is_refused_in_memory(options: dict[str, Any]) -> None:
    with pytest.raises(attar.UserError, match="leave ray and ray_cpus out"):
        attar.condense("digits", depth=2, width=0.05, epochs=1, models=1, niter=1, inner_loop=1, n_data=64, **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "random --epochs 9 --models 7 --pt_fraction 0.5 -n resnet18 --width 3",
            "random asks no model and takes no net_type, width, epochs, fraction, models; leave them out",
        ),
        ("random --features early", "random asks no model and takes no features; leave it out"),
        ("random --features pixels", "random asks no model and takes no features; leave it out"),
        ("herding --features pixels --epochs 2", "herding by pixels asks no model and takes no epochs; leave it out"),
        *(
            (f"{name} --models 3", f"{name} asks one model, so the number of models does nothing")
            for name in ("kcenter", "rded", "ccs")
        ),
    ],
)
def test_settings_that_do_nothing_for_a_core_set(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["select", "-d", "digits", *arguments.split()])
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
