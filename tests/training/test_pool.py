"""Early-stage models: trained once, kept, taken again only where they fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import files, models
from attar.data.images import ImageData
from attar.errors import MissingError, UserError
from attar.models import for_data
from attar.settings.config import NetworkConfig, PoolConfig
from attar.training import early_stage, pool, pool_files
from attar.training.train_state import start_fresh

NETWORK = NetworkConfig(depth=2, width=0.05)
CONFIG = PoolConfig(epochs=1, models=2, aug_type="none", mix_p=0.0)


@pytest.fixture(scope="module")
def folder(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of CONFIG. Read only."""
    path = tmp_path_factory.mktemp("pool")
    early_stage.pretrain(digits, CONFIG, NETWORK, folder=path)
    return path


def same(one: pool.Member, other: pool.Member) -> bool:
    pairs = ((one.params, other.params), (one.buffers, other.buffers))
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def other_data(**changes: Any) -> ImageData:
    """Random images, by default as many as digits has of all things."""
    values = {"name": "digits", "nclass": 10, "channels": 1, "size": (8, 8)} | changes
    generator = torch.Generator().manual_seed(0)
    shape = (2 * values["nclass"], values["channels"], *values["size"])
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(values["nclass"]).repeat(2)
    return ImageData(images, labels, images, labels, name=values["name"])


# ---- training ----


def test_members_have_seeds_of_their_own_and_learn(digits: ImageData) -> None:
    network = NetworkConfig(depth=2, width=0.1)
    made = early_stage.pretrain(digits, replace(CONFIG, epochs=2, seed=3), network)
    assert [member.settings["seed"] for member in made.members] == [3, 4]
    assert not same(*made.members)
    for member in made.members:
        assert member.accuracy is not None
        assert member.accuracy > 0.3  # chance is .1
        start = models.parameters_of(made.build(member.settings["seed"]))
        assert start.keys() == member.params.keys()
        assert all(not torch.equal(start[name], member.params[name]) for name in start if "conv" in name)


def test_the_same_seed_gives_the_same_bits(digits: ImageData) -> None:
    augmented = replace(CONFIG, models=1, aug_type="color_crop_cutout_flip_scale_rotate", mix_p=0.5)
    first, second = (early_stage.pretrain(digits, augmented, NETWORK).members[0] for _ in range(2))
    assert same(first, second)
    assert first.accuracy == second.accuracy


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"lr": 0.02},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"batch_size": 32},
        {"optimizer": "adam"},
        {"aug_type": "color"},
        {"mix_p": 1.0},
        {"precision": "bf16"},
    ],
)
def test_every_setting_changes_the_member_and_its_file(change: dict[str, Any], digits: ImageData, folder: Path) -> None:
    config = replace(CONFIG, models=1)
    changed = replace(config, **change)
    member = early_stage.train_member(digits, changed, NETWORK, lambda line: None)
    assert not same(member, pool_files.load_member(folder / pool_files.file_name(config, digits, NETWORK))[0])
    assert pool_files.file_name(changed, digits, NETWORK) != pool_files.file_name(config, digits, NETWORK)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_and_their_weight_decay(optimizer: str, digits: ImageData) -> None:
    """AdamW's decay is not Adam's."""
    config = replace(CONFIG, models=1, optimizer=optimizer, weight_decay=0.3)
    norms = [
        float(sum(value.norm() for value in early_stage.train_member(digits, one, NETWORK).params.values()))
        for one in (config, replace(config, weight_decay=0.0))
    ]
    assert norms[0] < norms[1]


def test_advances_with_each_epoch_and_says_the_accuracy(said: list[str], digits: ImageData) -> None:
    steps: list[str] = []
    made = early_stage.pretrain(digits, replace(CONFIG, epochs=2), NETWORK, advance=steps.append)
    for number, member in enumerate(made.members, 1):
        name = f"model {number} of {len(made.members)} (seed {member.settings['seed']})"
        assert member.accuracy is not None
        assert [step for step in steps if name in step] == [f"{name}: epoch {n} of 2" for n in (1, 2)]
        assert [line for line in said if name in line] == [f"{name}: {100 * member.accuracy:.1f} %"]


def test_the_last_epoch_is_kept_and_the_test_set_decides_nothing(digits: ImageData) -> None:
    shuffled = ImageData(digits.images, digits.labels, digits.images[:9], digits.labels[:9].flip(0), name="digits")
    assert same(*(early_stage.pretrain(data, CONFIG, NETWORK).members[0] for data in (digits, shuffled)))


def test_data_without_test_images_will_do(said: list[str], tmp_path: Path) -> None:
    data = other_data()
    bare = ImageData(data.images, data.labels, name="bare")
    made = early_stage.pretrain(bare, CONFIG, NETWORK, folder=tmp_path)
    assert [member.accuracy for member in made.members] == [None, None]
    assert "accuracy unknown (no test images)" in said[0]
    assert [member.accuracy for member in pool_files.load([tmp_path], bare, NETWORK).members] == [None, None]


def test_a_diverged_member_is_refused_and_not_kept(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"e1-seed0-\w+ diverged in training; lower the learning rate \(lr is 1e\+15\)"):
        early_stage.pretrain(digits, replace(CONFIG, lr=1e15), NETWORK, folder=tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_a_network_that_does_not_fit_leaves_no_folder(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the largest depth is 3"):
        early_stage.pretrain(digits, CONFIG, NetworkConfig(depth=9), folder=tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def flat(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in params.values()])


def test_models_that_are_trained_in_bf16(digits: ImageData, tmp_path: Path) -> None:
    """Steps are those of float32 up to rounding, parameters stay float32; a device that cannot says so at once."""
    one = replace(CONFIG, models=1)
    start = flat(start_fresh(NETWORK, digits, one, one.seed).params)
    trained = [
        flat(early_stage.train_member(digits, replace(one, precision=precision), NETWORK).params)
        for precision in ("float32", "bf16")
    ]
    assert trained[1].dtype == torch.float32
    assert 1e-4 < float((trained[1] - trained[0]).norm() / (trained[0] - start).norm()) < 0.2
    with pytest.raises(UserError, match="tf32 exists on NVIDIA GPUs only"):
        early_stage.pretrain(digits, replace(one, precision="tf32"), NETWORK, folder=tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


# ---- keeping ----


def test_files_come_back_as_they_went(digits: ImageData, folder: Path) -> None:
    made = early_stage.pretrain(digits, CONFIG, NETWORK)
    again = pool_files.load([folder], digits, NETWORK)
    assert len(again) == 2
    for one, other in zip(made.members, again.members, strict=True):
        assert same(one, other)
        assert (one.settings, one.accuracy, one.name) == (other.settings, other.accuracy, other.name)
        assert other.file == folder / f"{other.name}.safetensors"
    assert early_stage.is_described(again, CONFIG)
    assert not early_stage.is_described(again, replace(CONFIG, lr=0.5))


def test_file_names_say_epochs_and_seed(digits: ImageData, folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert [name[: len("e1-seed0-")] for name in names] == ["e1-seed0-", "e1-seed1-"]
    assert names[0][9:] == names[1][9:]  # the other settings are the same
    one = replace(CONFIG, models=1)
    for changed in (other_data(nclass=5), other_data(size=(16, 16)), other_data(name="pets")):
        assert pool_files.file_name(one, changed, NETWORK) != pool_files.file_name(one, digits, NETWORK)
    assert pool_files.file_name(one, digits, replace(NETWORK, width=0.1)) != pool_files.file_name(one, digits, NETWORK)
    assert pool_files.file_name(one, digits, replace(NETWORK, net_type="convnet2", depth=None)) == pool_files.file_name(
        one, digits, NETWORK
    )


def test_a_member_that_is_there_is_not_trained_again(said: list[str], digits: ImageData, tmp_path: Path) -> None:
    first = early_stage.pretrain(digits, CONFIG, NETWORK, folder=tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    said.clear()
    second = early_stage.pretrain(digits, replace(CONFIG, models=3), NETWORK, folder=tmp_path)
    assert sorted("there already" in line for line in said) == [False, True, True]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(list(tmp_path.iterdir())) == 3
    assert all(same(*pair) for pair in zip(first.members, second.members, strict=False))


def test_an_epoch_of_a_share_sees_other_images_each_time(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    fetch = ImageData.fetch

    def noted(data: ImageData, rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        return fetch(data, rows)

    monkeypatch.setattr(ImageData, "fetch", noted)
    monkeypatch.setattr(ImageData, "test_batches", lambda data: [(digits.images[:2].float(), digits.labels[:2])])
    early_stage.pretrain(digits, replace(CONFIG, models=1, epochs=2, fraction=0.1), NETWORK)
    images = round(0.1 * len(digits.labels))
    rows = [row for batch in seen for row in batch]
    first, second = set(rows[:images]), set(rows[images:])
    assert len(rows) == 2 * images and len(first) == len(second) == images
    assert len(first & second) < images / 2


def test_members_of_another_share_are_others(digits: ImageData, tmp_path: Path) -> None:
    part = replace(CONFIG, models=1, fraction=0.1)
    for config in (CONFIG, part):
        made = early_stage.fill(digits, config, NETWORK, tmp_path)
        assert [member.settings["fraction"] for member in made.members] == [config.fraction] * config.models
    assert len(pool_files.load([tmp_path], digits, NETWORK, length={"fraction": 0.1})) == 1
    assert len(pool_files.load([tmp_path], digits, NETWORK, length={"epochs": 1, "fraction": 1.0})) == 2
    assert len(pool_files.load([tmp_path], digits, NETWORK, length={"epochs": 1})) == 3
    with pytest.raises(UserError, match=r"no early-stage model with pt_from 1 and pt_fraction 0\.5; `attar"):
        pool_files.load([tmp_path], digits, NETWORK, length={"epochs": 1, "fraction": 0.5})


def test_batch_norm_comes_back_with_its_statistics(digits: ImageData, tmp_path: Path) -> None:
    network = replace(NETWORK, norm_type="batch")
    made = early_stage.pretrain(digits, replace(CONFIG, models=1), network, folder=tmp_path).members[0]
    again = pool_files.load([tmp_path], digits, network).members[0]
    assert same(made, again)
    means = [value for name, value in again.buffers.items() if name.endswith("running_mean")]
    assert means
    assert all(bool(value.abs().sum() > 0) for value in means)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (NetworkConfig(), "digits-convnet3"),
        (NetworkConfig(depth=2, width=0.5), "digits-convnet2-w0.5"),
        (NetworkConfig(net_type="ResNet_AP"), "digits-resnetap10"),
        (NetworkConfig(net_type="resnet18", norm_type="batch"), "digits-resnet18-batch"),
    ],
)
def test_default_folders(network: NetworkConfig, name: str, digits: ImageData) -> None:
    assert pool_files.folder_name(digits, network) == name


# ---- taking ----


def test_files_folders_epochs_and_limit(digits: ImageData, folder: Path, tmp_path: Path) -> None:
    early_stage.pretrain(digits, replace(CONFIG, epochs=2, models=1), NETWORK, folder=tmp_path)
    both = pool_files.load([folder, tmp_path], digits, NETWORK)
    assert [member.settings["epochs"] for member in both.members] == [1, 1, 2]
    assert len(pool_files.load([folder, tmp_path], digits, NETWORK, length={"epochs": 1})) == 2
    assert len(pool_files.load([folder, tmp_path], digits, NETWORK, limit=1)) == 1
    file = next(tmp_path.iterdir())
    assert pool_files.load([file], digits, NETWORK).members[0].file == file


def test_nothing_to_take(digits: ImageData, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no pool at nowhere; `attar pretrain` makes one"):
        pool_files.load([Path("nowhere")], digits, NETWORK)
    with pytest.raises(UserError, match="holds no early-stage model; `attar pretrain` trains some"):
        pool_files.load([tmp_path], digits, NETWORK)
    with pytest.raises(UserError, match=r"holds no early-stage model with pt_from 9; `attar"):
        pool_files.load([folder], digits, NETWORK, length={"epochs": 9})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "pets"}, "was made for the data set 'digits', not for the data set 'pets'"),
        ({"nclass": 5}, "was made for 10 classes, not for 5 classes"),
        ({"channels": 3}, "was made for images of 1 channels, not for images of 3 channels"),
        ({"size": (16, 12)}, "was made for images of 8x8, not for images of 16x12"),
    ],
)
def test_other_data_are_refused(changes: dict[str, Any], words: str, digits: ImageData, folder: Path) -> None:
    with pytest.raises(UserError, match=words):
        pool_files.load([folder], other_data(**changes), NETWORK)
    with pytest.raises(UserError, match=words):
        pool_files.load([folder], digits, NETWORK).check(other_data(**changes))


def test_the_same_images_at_another_scale_are_other_data(digits: ImageData, tmp_path: Path) -> None:
    """The fingerprint holds no mean and std, which networks see all images by."""
    both = [ImageData(digits.images, digits.labels, mean=[mean], std=[0.25], name="a") for mean in (0.25, 0.5)]
    assert both[0].fingerprint == both[1].fingerprint
    assert len({pool_files.file_name(CONFIG, data, NETWORK) for data in both}) == 2
    trained = early_stage.pretrain(both[0], replace(CONFIG, models=1), NETWORK, folder=tmp_path)
    words = r"was made for images normalised by the mean \[0.25\], not for images normalised by the mean \[0.5\]"
    with pytest.raises(UserError, match=words):
        pool_files.load([tmp_path], both[1], NETWORK)
    with pytest.raises(UserError, match=words):
        trained.check(both[1])
    early_stage.pretrain(both[1], replace(CONFIG, models=1), NETWORK, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_statistics_are_equal_whatever_rounding_does() -> None:
    value = 0.1307
    near = [for_data.scale_of([value + error], [value - error]) for error in (0, 1e-15, 3e-9)]
    assert near == [{"mean": [value], "std": [value]}] * 3
    assert for_data.scale_of([0.0], [2e-8]) == {"mean": [0.0], "std": [2e-8]}, "so many digits, not decimals"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 3}, "has architecture convnet2, but convnet3 is asked for"),
        ({"net_type": "resnet", "depth": None}, "has architecture convnet2, but resnet10 is asked for"),
        ({"width": 0.1}, "has width 0.05, but 0.1 is asked for"),
        ({"norm_type": "batch"}, "has norm_type instance, but batch is asked for"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, Any], words: str, digits: ImageData, folder: Path) -> None:
    with pytest.raises(UserError, match=words):
        pool_files.load([folder], digits, replace(NETWORK, **changes))


def test_of_a_folder_those_that_fit_are_taken_and_a_named_file_must_fit(digits: ImageData, tmp_path: Path) -> None:
    """Subsets of the classes share the default folder of their data set."""
    for data in (digits, digits.subset(5)):
        early_stage.pretrain(data, CONFIG, NETWORK, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    five = pool_files.load([tmp_path], digits.subset(5), NETWORK)
    assert len(five) == 2
    assert five.made_for["nclass"] == 5
    assert five.members[0].file
    with pytest.raises(UserError, match="was made for 5 classes, not for 10 classes"):
        pool_files.load([tmp_path, five.members[0].file], digits, NETWORK)


def test_damaged_members_are_refused(digits: ImageData, folder: Path, tmp_path: Path) -> None:
    file = next(iter(sorted(folder.iterdir())))
    broken = tmp_path / file.name
    broken.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged or no safetensors file"):
        pool_files.load([tmp_path], digits, NETWORK)
    tensors, meta = files.load_tensors(file, "member")
    for key in ("settings", "network", "made_for", "accuracy"):
        files.save_tensors(broken, tensors, "member", {name: meta[name] for name in meta if name != key})
        with pytest.raises(UserError, match=f"is no early-stage model: its '{key}' is missing or damaged"):
            pool_files.load([tmp_path], digits, NETWORK)
        files.save_tensors(broken, tensors, "member", {**meta, key: "nonsense"})
        with pytest.raises(UserError, match=f"is no early-stage model: its '{key}' is missing or damaged"):
            pool_files.load([tmp_path], digits, NETWORK)
    last = list(tensors)[-1]
    for changed in ({**tensors, last: tensors[last][:-1]}, {name: tensors[name] for name in tensors if name != last}):
        files.save_tensors(broken, changed, "member", meta)
        with pytest.raises(UserError, match="is damaged: its parameters are not those of a convnet2"):
            pool_files.load([tmp_path], digits, NETWORK)


# ---- a folder that is filled ----


def test_fill_trains_what_is_missing(digits: ImageData, tmp_path: Path) -> None:
    empty = early_stage.fill(digits, CONFIG, NETWORK, tmp_path / "a")
    assert early_stage.is_described(empty, CONFIG)
    assert all(
        same(*pair) for pair in zip(empty.members, early_stage.pretrain(digits, CONFIG, NETWORK).members, strict=True)
    )


def test_fill_takes_other_seeds_and_tops_up(digits: ImageData, tmp_path: Path) -> None:
    wanted = replace(CONFIG, models=3)
    early_stage.pretrain(digits, replace(CONFIG, models=1, seed=7), NETWORK, folder=tmp_path)
    filled = early_stage.fill(digits, wanted, NETWORK, tmp_path)
    assert [member.settings["seed"] for member in filled.members] == [0, 1, 7]
    assert not early_stage.is_described(filled, wanted)
    again = early_stage.fill(digits, wanted, NETWORK, tmp_path)
    assert [member.name for member in again.members] == [member.name for member in filled.members]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.02}, {"epochs": 2}, {"momentum": 0.0}, {"mix_p": 0.9}, {"optimizer": "gsam"}, {"lr_decay": False}],
)
def test_fill_leaves_members_of_other_settings_alone(
    changes: dict[str, Any], digits: ImageData, tmp_path: Path, said: list[str]
) -> None:
    one = replace(CONFIG, models=1)
    early_stage.pretrain(digits, replace(one, **changes), NETWORK, folder=tmp_path)
    assert early_stage.is_described(early_stage.fill(digits, one, NETWORK, tmp_path), one)
    assert f"1 to train; 1 model of other settings there ({next(iter(changes))}): only by --model_path" in said[-2]
    early_stage.fill(digits, one, NETWORK, tmp_path)
    assert f"0 to train; 1 model of other settings there ({next(iter(changes))}): only by --model_path" in said[-2]
    assert len(list(tmp_path.iterdir())) == 2


def test_kept_epochs_pass_where_none_are_asked_for_and_not_the_other_way_round(
    digits: ImageData, tmp_path: Path
) -> None:
    one = replace(CONFIG, models=1)
    kept = early_stage.fill(digits, replace(one, keep_epochs=True), NETWORK, tmp_path / "a").members[0]
    assert same(early_stage.fill(digits, one, NETWORK, tmp_path / "a").members[0], kept)
    assert len(list((tmp_path / "a").iterdir())) == 1
    early_stage.fill(digits, one, NETWORK, tmp_path / "b")
    for how in ("bf16", "float32"):
        asked = replace(one, keep_epochs=True, keep_as=how)
        assert early_stage.fill(digits, asked, NETWORK, tmp_path / "b").members[0].settings["keep_as"] == how
    assert len(list((tmp_path / "b").iterdir())) == 3


def test_fill_is_not_changed_by_what_others_add_to_a_complete_folder(digits: ImageData, tmp_path: Path) -> None:
    before = early_stage.fill(digits, CONFIG, NETWORK, tmp_path)
    early_stage.pretrain(digits, replace(CONFIG, lr=0.02), NETWORK, folder=tmp_path)
    after = early_stage.fill(digits, CONFIG, NETWORK, tmp_path)
    assert [member.name for member in before.members] == [member.name for member in after.members]


# ---- drawing ----


def test_draws_are_uniform_and_reproducible(digits: ImageData) -> None:
    members = tuple(pool.Member({}, {}, {}, None, str(index)) for index in range(5))
    drawn = pool.Pool(NETWORK, for_data.describe(digits), members)

    def names(seed: int, count: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [drawn.members[drawn.draw_index(generator)].name for _ in range(count)]

    assert names(0, 20) == names(0, 20)
    assert names(0, 20) != names(1, 20)
    counts = Counter(names(0, 5000))
    assert sorted(counts) == ["0", "1", "2", "3", "4"]  # the last one too
    chi2 = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi2 < 18.5  # 4 degrees of freedom: one seed in a thousand would fail, this one does not


def test_the_pool_builds_its_own_architecture(digits: ImageData, folder: Path) -> None:
    loaded = pool_files.load([folder], digits, NETWORK)
    module = loaded.build(seed=1)
    assert models.parameters_of(module).keys() == loaded.members[0].params.keys()
    assert module(digits.fetch(torch.arange(3))).shape == (3, 10)


def test_other_images_under_the_same_name_need_another_pool(tmp_path: Path) -> None:
    """Neither by its file name nor by `check` does a pool pass for data it was not trained on."""
    data = attar.load("digits")
    inverted = ImageData(
        255 - data.images, data.labels, classes=data.classes, mean=data.mean, std=data.std, name="digits"
    )
    config, network = PoolConfig(epochs=1, models=1), NetworkConfig(depth=2, width=0.05)
    first = early_stage.pretrain(data, config, network, folder=tmp_path)
    for other in (inverted, data.holdout(0.2, 0)):
        with pytest.raises(UserError, match="the pool was made for the training images"):
            first.check(other)
        second = early_stage.fill(other, config, network, tmp_path)
        assert second.members[0].name != first.members[0].name
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("length", [0, 8, 16, 24])
def test_what_is_read_lies_in_aligned_memory(length: int, digits: ImageData, tmp_path: Path) -> None:
    """Kernels of a CPU round otherwise elsewhere, so a run would depend on how long a file's metadata are."""
    config = replace(CONFIG, models=1, keep_epochs=True, keep_as="float32")
    (member,) = early_stage.pretrain(digits, config, NETWORK, folder=tmp_path).members
    assert member.file is not None
    tensors, meta = files.load_tensors(member.file, "member")
    files.save_tensors(member.file, tensors, "member", {**meta, "more": length * "x"})
    made = pool_files.load([member.file], digits, NETWORK)
    read = made.members[0]
    for values in (read.params, read.buffers, made.at(0, 0), made.at(0, 1)):
        assert all(value.data_ptr() % 64 == 0 for value in values.values())
    assert same(read, member) and all(torch.equal(made.at(0, 1)[name], value) for name, value in read.params.items())
