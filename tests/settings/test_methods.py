"""Methods are settings of one loop: what each stands for, how its settings are layered, what is refused."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.errors import UserError
from attar.settings import auto, methods, recipes
from attar.settings.auto import Shape
from attar.settings.choices import METHOD_NAMES
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import FLAGS, PoolConfig, Recipe
from attar.settings.layers import resolve
from attar.settings.methods import METHODS
from attar.settings.recipes import named, overlay
from attar.settings.schema import known_settings, settings_of

CONDENSE = FLAGS["condense"]
DSA = "one_color_crop_cutout_flip_scale_rotate"


TRAJECTORIES = ("mtt", "ftd", "datm")


def chosen(method: str, dataset: str = "fashion", **given: Any) -> Recipe:
    return resolve(CONDENSE, {"method": method, "dataset": dataset} | given)


def test_every_method_has_a_paper_and_a_name() -> None:
    assert tuple(METHODS) == METHOD_NAMES
    assert all(method.paper[-4:].isdigit() or "2022" in method.paper for method in METHODS.values())
    settings = known_settings(CondenseConfig)
    for method in METHODS.values():
        assert {*method.means, *method.full, *method.short} <= settings.keys()
        assert method.pool.keys() <= known_settings(PoolConfig).keys()


def test_what_only_a_method_decides_is_marked() -> None:
    """A recipe with another value of one of these can be the base of no other method."""
    marked = {name for name, details in known_settings(CondenseConfig).items() if details.of_method}
    assert marked >= {
        *("method", "network_init", "sweeps_per_network", "warmup", "perturb", "match", "calibrate", "bias", "fc"),
        *("update", "syn_epochs", "img_step", "img_space", "img_optim", "lr_scaled", "patience"),
    }


def test_accdd_is_the_default_and_changes_nothing() -> None:
    for name in [name for name in recipes.RECIPES if named(name).condense.method == "accdd"]:
        assert resolve(CONDENSE, {"method": "accdd"}, recipe=name) == named(name)
    assert CondenseConfig().method == "accdd"


# ---- the published settings ----

# method: network_init, sweeps_per_network, perturb, match, metric, fc, update, factor, init, aug_type, lr_img,
# batch_real, iterations
PUBLISHED = {
    "idc": ("fresh", None, False, "grad", "l1", False, "real", 2, "mix", "color_crop_cutout", 1e-4, 64, 200_000),
    "idc-i": ("fresh", None, False, "grad", "l1", False, "real", 1, "random", "color_crop_cutout", 1e-4, 64, 200_000),
    "dc": ("fresh", 10, False, "grad", "cos", True, "synthetic", 1, "noise", "none", 0.1, 256, 10_000),
    "dsa": ("fresh", 10, False, "grad", "cos", True, "synthetic", 1, "random", DSA, 0.1, 256, 10_000),
    "dm": ("fresh", 1, False, "feat", "mse", False, "none", 1, "random", DSA, 1.0, 256, 20_000),
    "tgdd": ("epoch", 1, False, "feat", "mse", False, "none", 2, "mix", "color_crop_cutout", 0.1, 128, 10_000),
    "ncfm": ("interpolated", 1, False, "ncf", "l1", False, "none", 2, "mix", "color_crop_cutout", 1e-3, 1024, 20_000),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_settings_of_the_neighbours(method: str) -> None:
    c = chosen(method, ipc=10).condense
    names = (
        "network_init",
        "sweeps_per_network",
        "perturb",
        "match",
        "metric",
        "fc",
        "update",
        "factor",
        "init",
        "aug_type",
        "lr_img",
    )
    assert (
        *(getattr(c, name) for name in names),
        c.batch_real,
        c.outer_iterations * c.inner_loop,
    ) == PUBLISHED[method]
    assert (c.method, c.bias, c.mom_img) == (method, False, 0.5)
    moves = (c.img_step, c.img_space, c.lr_scaled)
    others = {name: ("class", "unit", name.startswith("idc")) for name in ("idc", "idc-i", "ncfm", "tgdd")}
    assert moves == others.get(method, ("sweep", "normalized", False))


@pytest.mark.parametrize(
    ("ipc", "sweeps", "epochs"), [(1, 1, 1), (5, 1, 1), (10, 10, 50), (20, 20, 25), (50, 50, 10), (99, 50, 10)]
)
def test_loops_of_dc(ipc: int, sweeps: int, epochs: int) -> None:
    for method in ("dc", "dsa"):
        c = chosen(method, ipc=ipc).condense
        assert (c.sweeps_per_network, c.syn_epochs, c.outer_iterations * c.inner_loop) == (
            sweeps,
            epochs,
            1000 * sweeps,
        )
        assert (c.lr, c.momentum, c.weight_decay, c.batch_size, c.mix_p) == (0.01, 0.0, 0.0, 256, 0.0)


def test_dsa_mirrors_no_digits() -> None:
    for dataset in ("mnist", "svhn"):
        assert chosen("dsa", dataset).condense.aug_type == "one_color_crop_cutout_scale_rotate"


def test_details_of_ncfm() -> None:
    c = chosen("ncfm").condense
    assert (c.frequencies, c.patience, c.calibrate) == (4096, 500, 1.0)
    assert (c.img_optim, c.lr_img, c.wd_img, c.img_step) == ("adamw", 1e-3, 5e-4, "class")
    pool = chosen("ncfm").pool
    assert (pool.models, pool.epochs, pool.batch_size, pool.aug_type) == (20, 60, 128, "color_crop")
    sgd = chosen("ncfm", "cifar100", ipc=10).condense
    assert (sgd.img_optim, sgd.lr_img, sgd.mom_img) == ("sgd", 0.01, 0.5)
    assert all(chosen("ncfm", name, ipc=50).condense.img_optim == "adamw" for name in ("cifar10", "cifar100"))
    best = named("best").condense
    assert (best.img_optim, best.lr_img) == ("sgd", 0.03), "as it was tuned"


def test_cim_does_not_pull_its_images_to_black() -> None:
    """AdamW's decay is of a residual in the paper, and of whole images here."""
    assert chosen("cim").condense.wd_img == 0 and named("fashion-cpu").condense.wd_img == 0.01


def test_details_of_tgdd() -> None:
    c, pool = chosen("tgdd", ipc=1).condense, chosen("tgdd").pool
    assert (c.lr_img, c.calibrate, c.calibrate_epochs, c.batch_syn_max, c.clamp) == (0.01, 2.5, 7, 200, True)
    assert chosen("tgdd", ipc=50).condense.calibrate == 0.5
    assert (pool.models, pool.epochs, pool.keep_epochs, pool.lr_decay, pool.momentum) == (20, 60, True, True, 0.9)
    few = Shape(1, 8, 8, 10, 100, cpu=True)
    assert resolve(CONDENSE, {"method": "tgdd", "dataset": "own"}, shape=few).pool.epochs == 24, "as few images need"
    assert resolve(CONDENSE, {"method": "tgdd", "dataset": "own"}, shape=replace(few, images=9000)).pool.epochs == 8
    assert resolve(CONDENSE, {"method": "tgdd", "pt_from": 3}, recipe="digits").pool.epochs == 3
    large = named("tgdd-nette")
    assert (large.pool.epochs, large.condense.lr_img, large.network.depth) == (80, 1.0, 5)


def test_what_of_idc_depends_on_the_data() -> None:
    assert chosen("idc", "cifar10").condense.lr_img == chosen("idc-i", "cifar100").condense.lr_img == 5e-3
    imagenet = chosen("idc", "imagenet").condense
    assert (imagenet.warmup, imagenet.lr_img, imagenet.outer_iterations) == (10, 3e-3, 500)
    assert chosen("idc-i", "mnist").condense.mix_p == 0.5, "as ever with a factor of 1"
    assert chosen("dc", "mnist").condense.mix_p == 0.0, "the method's own"


@pytest.mark.parametrize("name", ["digits", "fashion-cpu"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_short_recipe_keeps_its_schedule_and_its_pool(method: str, name: str) -> None:
    base, recipe = named(name), resolve(CONDENSE, {"method": method}, recipe=name)
    for setting in ("niter", "inner_loop", "batch_real", "n_data", "ipc"):
        assert getattr(recipe.condense, setting) == getattr(base.condense, setting)
    assert (recipe.network, recipe.evaluate) == (base.network, base.evaluate)
    experts = method in TRAJECTORIES
    pool = replace(base.pool, keep_epochs=True, epochs=8) if method == "tgdd" else base.pool
    assert (recipe.pool == pool) != experts and recipe.pool.models == base.pool.models
    assert not experts or (recipe.pool.keep_epochs and recipe.pool.epochs == recipe.condense.last_epoch)
    assert recipe.condense.factor <= base.condense.factor or method == "cim", "which needs cells"
    assert ("flip" in recipe.condense.aug_type) == (method in ("dsa", "dm", *TRAJECTORIES) and name == "fashion-cpu")


@pytest.mark.parametrize(
    ("ipc", "expected"),
    [(1, (1, 10, 60)), (10, (10, 10, 60)), (20, (20, 20, 30)), (40, (40, 40, 15)), (50, (50, 50, 12))],
)
def test_networks_of_dc_are_not_cut_by_a_short_schedule(ipc: int, expected: tuple[int, int, int]) -> None:
    c = resolve(CONDENSE, {"method": "dc", "ipc": ipc}, recipe="fashion-cpu").condense
    assert (c.sweeps_per_network, c.inner_loop, c.niter) == expected


@pytest.mark.parametrize("values", [{"method": "ncfm"}, {"match": "ncf"}])
def test_a_recipe_with_a_method_of_its_own_is_no_base_of_another(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = overlay(named("fashion-cpu"), {"condense": values})
    monkeypatch.setitem(recipes.RECIPES, "own", lambda: own)
    assert resolve(CONDENSE, {"ipc": 3}, recipe="own").condense.match == own.condense.match
    assert resolve(CONDENSE, {"method": own.condense.method}, recipe="own") == own
    with pytest.raises(UserError, match="the recipe has a method of its own, and dm is asked for; leave --method"):
        resolve(CONDENSE, {"method": "dm"}, recipe="own")


def test_experts_are_trained_as_long_as_they_are_used() -> None:
    for given in ({"max_start_epoch": 9}, {"max_start_epoch": 9, "expert_epochs": 4}):
        recipe = chosen("mtt", **given)
        assert (recipe.pool.epochs, recipe.pool.keep_epochs) == (8 + recipe.condense.expert_epochs, True)
    plain = (recipe.pool.momentum, recipe.pool.weight_decay, recipe.pool.lr_decay, recipe.pool.mix_p)
    assert plain == (0.0, 0.0, False, 0.0)
    assert chosen("mtt", max_start_epoch=9, pt_from=30).pool.epochs == 30
    assert [chosen(method).pool.optimizer for method in TRAJECTORIES] == ["sgd", "gsam", "gsam"]


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "expected"),
    [
        ("mtt", "cifar10", 1, (50, 2, 0, 2, None, 100.0, 1e-7, 0.01, 0.0, True, 3)),
        ("mtt", "cifar10", 20, (30, 2, 0, 20, None, 100.0, 1e-5, 0.001, 0.0, True, 21)),
        ("mtt", "cifar100", 50, (80, 2, 0, 40, 125, 1000.0, 1e-5, 0.01, 0.0, True, 41)),
        ("mtt", "fashion", 10, (20, 2, 0, 20, None, 1000.0, 1e-5, 0.01, 0.0, False, 21)),
        ("ftd", "tiny-imagenet-200", 10, (20, 2, 0, 40, 200, 1e4, 1e-4, 0.01, 0.0, False, 41)),
        ("ftd", "cifar100", 10, (20, 2, 0, 40, None, 1000.0, 1e-5, 0.01, 0.0, False, 41)),
        ("datm", "cifar100", 10, (80, 2, 0, 50, 1000, 1000.0, 1e-5, 0.01, 10.0, True, 100)),
        ("datm", "cifar10", 600, (40, 2, 40, 60, 1000, 50.0, 1e-5, 0.01, 10.0, True, 100)),
    ],
)
def test_tables_of_trajectories(method: str, dataset: str, ipc: int, expected: tuple[Any, ...]) -> None:
    recipe = chosen(method, dataset, ipc=ipc)
    c = recipe.condense
    actual = (c.syn_steps, c.expert_epochs, c.min_start_epoch, c.max_start_epoch, c.batch_syn, c.lr_img, c.lr_lr)
    assert (*actual, c.lr_teacher, c.lr_y, recipe.data.zca, recipe.pool.epochs) == expected
    assert (recipe.pool.models, recipe.pool.batch_size, recipe.pool.aug_type) == (100, 256, c.aug_type)
    assert c.outer_iterations * c.inner_loop == (10_000 if method == "datm" else 5_000) and not c.clamp


def test_exceptions_of_the_tables() -> None:
    assert [chosen("ftd", "cifar10", ipc=ipc).pool.gsam_alpha for ipc in (1, 10, 50)] == [0.3, 0.3, 1.0]
    assert [chosen("datm", "cifar100", ipc=ipc).condense.init for ipc in (10, 50, 100)] == [
        "correct",
        "random",
        "correct",
    ]
    assert [chosen("datm", "cifar10", ipc=ipc).condense.threshold for ipc in (1, 9, 10)] == [1.1, 1.1, 1.0]


def test_the_window_of_datm_in_every_column() -> None:
    """min_start_epoch, current_max_start_epoch and max_start_epoch, row by row as the table has them."""
    columns = {
        "cifar10": {1: (0, None, 4), 10: (0, 10, 20), 50: (0, 20, 40), 500: (40, None, 60), 1000: (40, None, 60)},
        "cifar100": {1: (0, 10, 20), 10: (0, 30, 50), 50: (20, None, 70), 100: (30, None, 70)},
        "tiny-imagenet-200": {1: (0, 15, 20), 10: (10, None, 50), 50: (40, None, 70)},
    }
    for dataset, windows in columns.items():
        for ipc, window in windows.items():
            c = chosen("datm", dataset, ipc=ipc).condense
            assert (c.min_start_epoch, c.current_max_start_epoch, c.max_start_epoch) == window, (dataset, ipc)


@pytest.mark.parametrize(
    ("name", "dataset", "ipc"),
    [("mtt-cifar10", "cifar10", 50), ("mtt-tiny", "tiny-imagenet-200", 1), ("datm-tiny", "tiny-imagenet-200", 50)],
)
def test_a_recipe_at_another_ipc_has_the_column_of_that(name: str, dataset: str, ipc: int, tmp_path: Path) -> None:
    recipe, by_method = resolve(CONDENSE, {"ipc": ipc}, recipe=name), chosen(name.partition("-")[0], dataset, ipc=ipc)
    assert (recipe.condense, recipe.pool, recipe.data) == (by_method.condense, by_method.pool, by_method.data)
    assert recipe != replace(named(name), condense=replace(named(name).condense, ipc=ipc))
    (tmp_path / "mine.toml").write_text(f'recipe = "{name}"\nipc = {ipc}\nlr_img = 7.0\n', encoding="utf-8")
    mine = resolve(CONDENSE, {}, recipe=str(tmp_path / "mine.toml"))
    assert mine.condense == replace(recipe.condense, lr_img=7.0)


def test_a_recipe_of_tgdd_at_another_ipc() -> None:
    rates = [resolve(CONDENSE, {"ipc": ipc}, recipe="tgdd-nette").condense for ipc in (1, 50)]
    assert [(one.lr_img, one.calibrate) for one in rates] == [(0.1, 2.5), (5.0, 0.5)]


@pytest.mark.parametrize("place", ["", "./", "/data/"])
@pytest.mark.parametrize(
    ("name", "side", "depth", "expected"),
    [("tiny-imagenet-200", 64, 4, (20, 40, 300, 1e4)), ("imagenette2", 128, 5, (20, 10, 20, 1000.0))],
)
def test_a_folder_has_the_table_of_its_name_wherever_it_is(
    place: str, name: str, side: int, depth: int, expected: tuple[Any, ...]
) -> None:
    given, gpu = {"method": "mtt", "dataset": place + name, "ipc": 50}, Shape(3, side, side, 10, 9000, cpu=False)
    for shape in (None, gpu):  # before the images are read, and after that
        recipe = resolve(CONDENSE, given, shape=shape)
        c = recipe.condense
        assert (c.syn_steps, c.max_start_epoch, c.batch_syn, c.lr_img, c.base_size) == (*expected, side)
        assert (recipe.network.net_type, recipe.network.depth, recipe.data.dataset) == ("convnet", depth, place + name)
        assert recipe.data.size == (128 if side == 128 else None)
    for other in (replace(gpu, cpu=True), replace(gpu, height=224, width=224)):  # what fits, as for any folder
        assert resolve(CONDENSE, given, shape=other).network == auto.nearest_published(other).network
    assert resolve(CONDENSE, given | {"method": "dm"}, shape=gpu).condense.base_size is None
    assert chosen("tgdd", "/data/imagewoof2", ipc=1).condense.lr_img == 0.1


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name.partition("-")[0] in METHOD_NAMES])
def test_recipes_of_trajectories(name: str) -> None:
    recipe, (method, _, data) = named(name), name.partition("-")
    assert recipe.condense.method == method and recipe.pool.keep_epochs and recipe.condense.ipc == 10
    assert resolve(CONDENSE, {}, recipe=name) == recipe, "experts stay as long as they are"
    assert recipe.network.depth == (5 if recipe.data.size == 128 else {"tiny": 4}.get(data))
    if method == "tgdd":
        return
    longer = resolve(CONDENSE, {"max_start_epoch": 120}, recipe=name)
    assert longer.pool.epochs == 119 + recipe.condense.expert_epochs


# ---- layers ----


def test_flags_and_files_lie_on_top_of_the_method(tmp_path: Path) -> None:
    assert chosen("dm", lr_img=7.0, niter=3).condense.lr_img == 7.0
    file = tmp_path / "mine.toml"
    file.write_text('method = "dm"\ndataset = "fashion"\nbatch_real = 32\n[condense]\nlr_img = 0.5\n', encoding="utf-8")
    c = resolve(CONDENSE, {"niter": 9}, recipe=str(file)).condense
    assert (c.method, c.match, c.batch_real, c.lr_img, c.niter) == ("dm", "feat", 32, 0.5, 9)
    assert resolve(CONDENSE, {"method": "dm"}, recipe=str(file)).condense.lr_img == 0.5
    with pytest.raises(UserError, match=r"mine.toml holds settings for the method dm, and dsa is asked for"):
        resolve(CONDENSE, {"method": "dsa"}, recipe=str(file))
    with pytest.raises(UserError, match=r"unknown method 'dmm'; did you mean 'dm'\?"):
        chosen("dmm")


@pytest.mark.parametrize("name", ["digits", "fashion-cpu", "cifar10"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_config_of_a_run_is_the_same_run_again(method: str, name: str, tmp_path: Path) -> None:
    recipe = resolve(CONDENSE, {"method": method, "ipc": 10}, recipe=name)
    (tmp_path / "config.json").write_text(json.dumps(settings_of(recipe) | {"attar": {}}), encoding="utf-8")
    assert resolve(CONDENSE, {}, recipe=str(tmp_path / "config.json")) == recipe
    assert resolve(CONDENSE, {"method": method}, recipe=str(tmp_path / "config.json")) == recipe


def test_combinations_are_settings() -> None:
    """accdd's pool and perturbation under NCFM's matching, and NCFM's interpolation under accdd's."""
    one = chosen("ncfm", network_init="pool", perturb=True).condense
    assert (one.network_init, one.perturb, one.match) == ("pool", True, "ncf")
    other = chosen("accdd", network_init="interpolated", perturb=False).condense
    assert (other.network_init, not other.perturb, other.match, other.update) == ("interpolated", True, "grad", "real")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        (
            "idc",
            {"model_path": ("p",)},
            "method idc takes no model_path here: it has network_init fresh, and model_path need",
        ),
        ("accdd", {"niter": 3, "speedup": 5}, "niter is the number of outer iterations, and speedup changes nothing"),
        ("accdd", {"niter": 3, "full_niter": 5}, "niter is the number of outer iterations, and full_niter changes"),
        ("dm", {"decode_type": "multi"}, "decode_type multi is for grids, and factor is 1 here: give a larger factor"),
        ("dm", {"epochs": 3}, "method dm takes no epochs here: it has network_init fresh"),
        ("dc", {"model_num": 3}, "method dc takes no models here: it has network_init fresh"),
        (
            "ncfm",
            {"metric": "cos"},
            "method ncfm takes no metric here: it has match ncf, and metric needs match grad or",
        ),
        ("dm", {"fc": True}, "method dm takes no fc here: it has match feat, and fc needs match grad; leave one out"),
        ("dm", {"frequencies": 9}, "method dm takes no frequencies here: it has match feat, and frequencies needs"),
        (
            "cim",
            {"batch_real": 9},
            "method cim takes no batch_real here: it has match pairs, and batch_real needs match",
        ),
        ("mtt", {"batch_syn_max": 9}, "method mtt takes no batch_syn_max here: it has match trajectory"),
        ("dsa", {"n_data": 9}, "method dsa takes no n_data here: it has update synthetic"),
        ("accdd", {"syn_epochs": 2}, "method accdd takes no syn_epochs here: it has update real"),
        ("dm", {"lr": 0.1}, "method dm takes no lr here: it has update none, and lr needs update real or synthetic"),
        ("idc", {"vmax": 0.2}, "it has perturb off, and vmax needs perturb on"),
        ("accdd", {"select_every": 5}, "it has select random, and select_every needs select cluster"),
        ("dm", {"select_from": 600}, "it has select random, and select_from needs select cluster"),
        ("dm", {"base_size": 8}, "it has lr_scaled off, and base_size needs lr_scaled on"),
        ("dm", {"img_optim": "adamw", "mom_img": 0.9}, "it has img_optim adamw, and mom_img needs img_optim sgd"),
        ("dm", {"calibrate": 1.0}, "calibrate needs trained networks: network_init pool or interpolated, not fresh"),
        ("accdd", {"warmup": 1}, "warmup trains fresh networks, and network_init is pool; leave it out"),
        ("dm", {"sweeps_per_network": 200}, "sweeps_per_network (200) must not be above inner_loop (100)"),
        ("dc", {"ipc": 20, "inner_loop": 10}, "sweeps_per_network (20) must not be above inner_loop (10)"),
        ("ncfm", {"mom_img": 0.9}, "it has img_optim adamw, and mom_img needs img_optim sgd"),
        ("dm", {"wd_img": 0.1}, "it has img_optim sgd, and wd_img needs img_optim adamw"),
    ],
)
def test_settings_that_mean_nothing_are_refused(method: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen(method, **given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("dm", {"metric": "cos"}),
        ("dm", {"fc": False}),
        ("dm", {"select": "cluster", "select_from": 600}),
        ("idc", {"perturb": True, "vmax": 0.2}),
        ("dm", {"update": "real", "n_data": 64, "lr": 0.1}),
        ("dm", {"network_init": "pool", "epochs": 3, "calibrate": 0.5}),
    ],
)
def test_settings_that_mean_something_are_not(method: str, given: dict[str, Any]) -> None:
    assert chosen(method, **given).condense.method == method


def test_settings_of_a_pool_that_mean_nothing_are_refused() -> None:
    """On its own a setting is refused; with the one that it needs, from a flag or from the method, it is taken."""
    gsam = "[pool] takes no {} here: it has optimizer adam, and {} needs optimizer gsam; leave one out"
    cases: list[tuple[str, Any, dict[str, Any], dict[str, Any], str]] = [
        (name, value, {"optimizer": "adam"}, needed, gsam.format(name, name))
        for name, value in (("gsam_rho", 0.1), ("gsam_alpha", 1.0))
        for needed in ({"optimizer": "gsam"}, {"method": "datm"})
    ]
    words = "[pool] takes no keep_as here: it has keep_epochs off, and keep_as needs keep_epochs on; leave one out"
    cases += [("keep_as", "float32", {}, needed, words) for needed in ({"keep_epochs": True}, {"method": "mtt"})]
    for name, value, without, needed, refusal in cases:
        with pytest.raises(UserError, match=re.escape(refusal)):
            resolve(FLAGS["pretrain"], {name: value, **without})
        assert getattr(resolve(FLAGS["pretrain"], {name: value, **needed}).pool, name) == value


def test_a_flag_of_a_file_is_a_wish_and_a_table_is_not(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('method = "dm"\n[condense]\nfrequencies = 3\n', encoding="utf-8")
    assert resolve(CONDENSE, {}, recipe=str(file)).condense.frequencies == 3
    file.write_text('method = "dm"\nfrequencies = 3\n', encoding="utf-8")
    with pytest.raises(UserError, match="method dm takes no frequencies here"):
        resolve(CONDENSE, {}, recipe=str(file))


def test_every_choice_is_checked() -> None:
    choices = {name: details.choices for name, details in known_settings(CondenseConfig).items() if details.choices}
    assert {"method", "network_init", "match", "update", "img_step", "img_space", "img_optim"} <= choices.keys()
    for name, options in choices.items():
        for option in options:
            if (name, option) not in (("match", "trajectory"), ("match", "pairs")):
                assert getattr(CondenseConfig(**{name: option}), name) == option
        with pytest.raises(UserError, match=f"unknown {name} 'xyz'; valid: "):
            CondenseConfig(**{name: "xyz"})


def test_a_method_is_short() -> None:
    """What dm takes besides what its parts are shared for: its entry, its distance, its shared settings."""
    from attar.condensation import matching

    text = inspect.getsource(methods)
    entry = text[text.index('    "dm": Method(') : text.index('    "ncfm": Method(')]
    shared = text[text.index("NEW_NETWORKS: SectionValues") : text.index("def unmirrored")]
    functions = [matching.feature_means, matching.feature_distance, methods.unmirrored]
    lines = [
        *entry.splitlines(),
        *shared.splitlines(),
        *(line for f in functions for line in inspect.getsource(f).splitlines()),
    ]
    assert len(lines) < 120
    assert len(entry.splitlines()) < 10
