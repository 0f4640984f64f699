"""Recipes hold the published settings; a file goes on top of them, and flags on top of the file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from attar.errors import MissingError, UserError
from attar.settings import layers, recipes
from attar.settings.config import FLAGS, NetworkConfig, Recipe
from attar.settings.layers import resolve, to_toml
from attar.settings.recipes import RECIPES, named, overlay
from attar.settings.schema import settings_of

CONDENSE = FLAGS["condense"]

# ---- the published numbers ----

# recipe: net_type, depth, factor, metric, lr_img, n_data, pool epochs, base_size, full_niter, CutMix of pool and update
PUBLISHED = {
    "cifar10": ("convnet", 3, 2, "mse", 1e-2, 2000, 2, 32, 2000, 0.5, 0.5),
    "cifar100": ("convnet", 3, 2, "mse", 1e-2, 2000, 2, 32, 2000, 0.5, 0.5),
    "svhn": ("convnet", 3, 2, "mse", 5e-3, 500, 2, 32, 2000, 0.5, 0.5),
    "mnist": ("convnet", 3, 2, "l1", 1e-4, 500, 2, 28, 2000, 0.5, 0.0),
    "fashion": ("convnet", 3, 2, "l1", 1e-4, 500, 2, 32, 2000, 0.5, 0.5),
    "imagenet10": ("resnetap", 10, 3, "l1", 3e-3, 500, 10, 224, 500, 1.0, 1.0),
    "imagenet100": ("resnetap", 10, 3, "l1", 1e-3, 500, 10, 224, 500, 1.0, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    from attar.models import parse

    recipe = named(name)
    condense, pool = recipe.condense, recipe.pool
    assert (
        *parse(recipe.network.net_type, recipe.network.depth),
        condense.factor,
        condense.metric,
        condense.lr_img,
        condense.n_data,
        pool.epochs,
        condense.base_size,
        condense.full_niter,
        pool.mix_p,
        condense.mix_p,
    ) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_that_all_share(name: str) -> None:
    recipe = named(name)
    pool, condense, network = recipe.pool, recipe.condense, recipe.network
    assert (pool.models, pool.lr, pool.momentum, pool.weight_decay, pool.batch_size) == (5, 0.01, 0.9, 5e-4, 64)
    assert (pool.optimizer, network.width, network.norm_type) == ("sgd", 1.0, "instance")
    assert (condense.inner_loop, condense.mom_img, condense.vmin, condense.vmax) == (100, 0.5, 0.01, 0.09)
    assert (condense.perturb, condense.bias, condense.fc, condense.match) == (True, False, False, "grad")
    assert (condense.init, condense.batch_syn_max, condense.momentum) == ("mix", 128, 0.9)
    assert condense.aug_type == ("color_crop" if name == "mnist" else "color_crop_cutout")
    large = name == "imagenet100"
    assert (condense.lr, condense.weight_decay) == ((0.1, 1e-4) if large else (0.01, 5e-4))
    assert condense.batch_real == condense.batch_size == (128 if large else 64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_evaluation(name: str) -> None:
    evaluate = named(name).evaluate
    flip = "" if name in ("mnist", "svhn") else "flip_"
    imagenet = name.startswith("imagenet")
    assert evaluate.aug_type == ("resize_flip_color" if imagenet else f"color_crop_{flip}scale_rotate")
    assert evaluate.mix_p == (1.0 if imagenet else 0.0 if name == "mnist" else 0.5)
    assert evaluate.epochs is None  # the protocol's own number
    large = name == "imagenet100"
    expected = (0.1, 1e-4, 128) if large else (0.01, 5e-4, 64)
    assert (evaluate.lr, evaluate.weight_decay, evaluate.batch_size) == expected
    assert evaluate.momentum == 0.9
    assert evaluate.runs >= 3


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"default"}))
def test_every_recipe_names_its_data(name: str) -> None:
    called = {"fashion-cpu": "fashion", "nette": "imagenette2", "woof": "imagewoof2", "tiny": "tiny-imagenet-200"}
    called |= {name: f"image{name}" for name in ("fruit", "meow", "squawk", "yellow")}
    expected: dict[str, Any] = {
        name: (data, None) for name in RECIPES for ending, data in called.items() if name.endswith(ending)
    }
    expected |= {"best": ("fashion", None)}
    expected |= {name: (name.partition("-")[2], None) for name in RECIPES if name.endswith(("-cifar10", "-cifar100"))}
    expected |= {"imagenet10": ("imagenet", 10), "imagenet100": ("imagenet", 100)}
    data = named(name).data
    assert (data.dataset, data.nclass) == expected.get(name, (name, None))


def test_small_recipes_fit_a_cpu() -> None:
    """They must stay what they are for: minutes on two cores."""
    for name in ("digits", "fashion-cpu", "best", *(name for name in RECIPES if name.endswith("-fashion-cpu"))):
        recipe = named(name)
        assert recipe.condense.outer_iterations * recipe.condense.inner_loop <= 1000
        assert recipe.network.width < 1


# ---- which one ----


def test_a_data_set_has_its_own_recipe_and_any_other_the_default() -> None:
    assert resolve(CONDENSE, {"dataset": "svhn"}) == named("svhn")
    mine = resolve(CONDENSE, {"dataset": "my/photos"})
    assert mine.data.dataset == "my/photos"
    assert mine.condense == named("default").condense
    assert resolve(CONDENSE, {}) == named("digits")
    for name in ("imagenet10", "imagenet100"):  # what loaded images are called
        assert resolve(CONDENSE, {"dataset": name}, published=True).condense == named(name).condense
    for name in recipes.NAMED_ONLY:  # a folder of that name
        assert resolve(CONDENSE, {"dataset": name}).condense == named("default").condense
    assert resolve(CONDENSE, {"dataset": "imagenet", "nclass": 20}).condense == named("default").condense


def test_best_is_a_choice_on_top_of_the_short_recipe() -> None:
    """The data, the network, the early-stage models and the evaluation are those it was compared under."""
    best, base = named("best"), named("fashion-cpu")
    assert (best.data, best.network, best.pool, best.evaluate) == (base.data, base.network, base.pool, base.evaluate)
    own = best.condense
    assert (own.network_init, own.perturb, own.match, own.select, own.averaging_power) == (
        "pool",
        True,
        "ncf",
        "cluster",
        3,
    )
    assert own.calibrate == 0
    assert (own.batch_real, own.inner_loop, own.factor) == (32, 10, 2)


@pytest.mark.parametrize(("ipc", "factor", "lr_img"), [(1, 2, 0.03), (9, 2, 0.03), (10, 1, 0.1), (50, 1, 0.1)])
def test_best_stores_whole_images_where_there_are_many(ipc: int, factor: int, lr_img: float) -> None:
    """By the flag and by the recipe's name; what is asked for besides stays."""
    of_flag = resolve(CONDENSE, {"ipc": ipc}, recipe="best").condense
    assert (of_flag.ipc, of_flag.factor, of_flag.lr_img) == (ipc, factor, lr_img)
    assert named("best", ipc).condense == of_flag
    asked = resolve(CONDENSE, {"ipc": ipc, "factor": 3, "lr_img": 0.5}, recipe="best").condense
    assert (asked.factor, asked.lr_img) == (3, 0.5)


@pytest.mark.parametrize(("nclass", "name"), [(None, "imagenet10"), (10, "imagenet10"), (100, "imagenet100")])
def test_imagenet_by_its_number_of_classes(nclass: int | None, name: str) -> None:
    given: dict[str, Any] = {"dataset": "imagenet"} | ({} if nclass is None else {"nclass": nclass})
    assert resolve(CONDENSE, given, published=True).condense == named(name).condense


def test_published_settings_are_insisted_on() -> None:
    assert resolve(CONDENSE, {"dataset": "cifar10"}, published=True) == named("cifar10")
    with pytest.raises(UserError, match="no published settings for the data set 'photos', only for digits, mnist"):
        resolve(CONDENSE, {"dataset": "photos"}, published=True)
    with pytest.raises(UserError, match="'imagenet20'"):
        resolve(CONDENSE, {"dataset": "imagenet", "nclass": 20}, published=True)
    with pytest.raises(UserError, match="the recipe 'svhn' exclude each other"):
        resolve(CONDENSE, {"dataset": "cifar10"}, recipe="svhn", published=True)


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'fashion_cpu'; did you mean 'fashion-cpu'\?"):
        resolve(CONDENSE, {}, recipe="fashion_cpu")
    with pytest.raises(UserError, match=r"unknown recipe 'digit'; did you mean 'digits'\?$"):
        named("digit")
    with pytest.raises(UserError, match=r"unknown recipe 'zzz'; valid: best, cifar10, .*tgdd-yellow$"):
        named("zzz")
    with pytest.raises(UserError, match="unknown recipe 'cifar'; did you mean 'cifar10'"):
        named("cifar")


# ---- layers ----


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_recipe_then_file_then_flags(tmp_path: Path) -> None:
    """Each of three settings comes from another place, and the later place wins."""
    path = write(tmp_path / "my.toml", 'dataset = "svhn"\nlr_img = 0.5\nipc = 3\n[condense]\nmetric = "cos"\n')
    recipe = resolve(CONDENSE, {"ipc": 7}, recipe=path)
    assert recipe.data.dataset == "svhn"
    assert recipe.evaluate == named("svhn").evaluate
    assert (recipe.condense.n_data, recipe.condense.lr_img, recipe.condense.ipc) == (500, 0.5, 7)
    assert recipe.condense.metric == "cos"


def test_a_flag_may_change_the_data_set_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", 'dataset = "svhn"\n')
    assert resolve(CONDENSE, {"dataset": "mnist"}, recipe=path) == named("mnist")


def test_a_file_may_start_from_a_named_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", 'recipe = "fashion-cpu"\nipc = 4\n')
    recipe = resolve(CONDENSE, {}, recipe=path)
    assert recipe.network == named("fashion-cpu").network
    assert recipe.condense.ipc == 4


def test_hyphens_and_underscores_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", "lr-img = 0.25\n[condense]\ninner-loop = 4\n[pool]\nbatch-size = 9\n")
    recipe = resolve(CONDENSE, {}, recipe=path)
    assert (recipe.condense.lr_img, recipe.condense.inner_loop, recipe.pool.batch_size) == (0.25, 4, 9)


def test_a_flag_completes_what_a_file_says(tmp_path: Path) -> None:
    """A `phase` is refused alone, and what it needs may come from another place."""
    path = write(tmp_path / "my.toml", "phase = 1\n")
    assert resolve(CONDENSE, {"nclass_sub": 5}, recipe=path).condense.phase == 1
    with pytest.raises(UserError, match="phase needs nclass_sub"):
        resolve(CONDENSE, {}, recipe=path)


@pytest.mark.parametrize(
    ("file", "flags", "outer"),
    [
        ("", {}, 10),  # digits has a count of its own
        ("", {"speedup": 20}, 100),
        ("", {"niter": 3}, 3),
        ("niter = 5", {}, 5),
        ("niter = 5", {"speedup": 20}, 100),
        ("speedup = 20", {}, 100),
        ("speedup = 20", {"niter": 5}, 5),
        ("speedup = 20\n[condense]\nfull_niter = 500", {}, 25),
    ],
)
def test_a_wish_for_a_speed_up_replaces_the_count_below_it(
    file: str, flags: dict[str, Any], outer: int, tmp_path: Path
) -> None:
    recipe = resolve(CONDENSE, flags, recipe=write(tmp_path / "my.toml", file))
    assert recipe.condense.outer_iterations == outer


def test_what_speedup_divides_is_refused_without_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="full_niter is what speedup divides, and niter is 10 here: add speedup"):
        resolve(CONDENSE, {"full_niter": 500})
    assert resolve(CONDENSE, {"full_niter": 500, "speedup": 5}).condense.outer_iterations == 100
    file = write(tmp_path / "my.toml", "full_niter = 500\nspeedup = 5")
    assert resolve(CONDENSE, {"niter": 7}, recipe=file).condense.outer_iterations == 7  # the later one wins


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ({"net_type": "convnet"}, ("convnet", 2)),  # the recipe's own network keeps the recipe's depth
        ({"net_type": "ConvNet"}, ("convnet", 2)),
        ({"net_type": "convnet", "depth": 1}, ("convnet", 1)),
        ({"net_type": "convnet3"}, ("convnet", 3)),
        ({"net_type": "resnetap"}, ("resnetap", 10)),
        ({"net_type": "resnet_ap"}, ("resnetap", 10)),
        ({"net_type": "resnet18"}, ("resnet", 18)),
        ({"net_type": "resnet", "depth": 18}, ("resnet", 18)),
    ],
)
def test_another_network_does_not_inherit_the_depth(given: dict[str, Any], network: tuple[str, int]) -> None:
    from attar.models import parse

    chosen = resolve(CONDENSE, {"dataset": "digits", **given}).network
    assert parse(chosen.net_type, chosen.depth) == network


def test_the_same_network_by_its_other_name_keeps_its_depth(tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", 'net_type = "resnet_ap"\ndepth = 18\n')
    for other, depth in (("resnetap", 18), ("ResNet-AP", 18), ("resnet", None), ("resnetap10", None)):
        assert resolve(CONDENSE, {"net_type": other}, recipe=path).network.depth == depth


def test_a_verb_takes_the_settings_of_its_own_stage() -> None:
    """`lr` is the network's in condense, the pool's in pretrain, and the evaluation's in evaluate."""
    for verb, section in (("pretrain", "pool"), ("condense", "condense"), ("evaluate", "evaluate")):
        recipe = resolve(FLAGS[verb], {"lr": 0.123})
        changed = [name for name in ("pool", "condense", "evaluate") if getattr(recipe, name).lr == 0.123]
        assert changed == [section]


# ---- files ----


@pytest.mark.parametrize("name", RECIPES)
def test_a_printed_recipe_is_a_recipe_file(name: str, tmp_path: Path) -> None:
    text = to_toml(name)
    assert list(tomllib.loads(text)) == ["recipe", *settings_of(Recipe())]
    assert resolve(CONDENSE, {}, recipe=write(tmp_path / "my.toml", text)) == named(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_json_is_a_recipe_file(name: str, tmp_path: Path) -> None:
    recipe = overlay(named(name), {"condense": {"niter": 2, "eval_at": (0, 1), "model_path": ("a", "b")}})
    text = json.dumps(settings_of(recipe) | {"attar": {"command": "attar condense"}})
    assert resolve(CONDENSE, {}, recipe=write(tmp_path / "config.json", text)) == recipe


def test_overlay_takes_values_as_json_and_toml_give_them() -> None:
    assert overlay(Recipe(), {"network": {"width": 1}}).network == NetworkConfig(width=1.0)
    assert overlay(Recipe(), {}) == Recipe()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ipcc = 1", "{path}: unknown setting 'ipcc'; did you mean 'ipc'?"),
        ("[condense]\nipcc = 1", "{path}: [condense] unknown setting 'ipcc'; did you mean 'ipc'?"),
        ("[condens]\nipc = 1", "{path}: unknown section 'condens'; did you mean 'condense'? valid: condense, data"),
        ("condense = 3", "{path}: [condense] must be a table of settings, not 3"),
        ("ipc = 'x'", "{path}: ipc must be a whole number, not 'x'"),
        ("[data]\ndataset = []", "{path}: [data] dataset must be text, not []"),
        ("dataset = {}", "{path}: unknown section 'dataset'"),
        ("recipe = 3", "{path}: recipe must be the name of a recipe, not 3"),
        ("recipe = 'cifar1'", "unknown recipe 'cifar1'; did you mean 'cifar10'?"),
        ("ipc = 0", "ipc must be at least 1, not 0"),
        ("lr_img = nan", "lr_img must be above 0, not nan"),
        ("ipc = \n", "{path} is not valid TOML: Invalid value (at line 1, column 7)"),
        ("ipc = 1\nipc = 2\n", "{path} is not valid TOML: Cannot overwrite a value (at line 2"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", text)
    with pytest.raises(UserError) as caught:
        resolve(CONDENSE, {}, recipe=path)
    assert words.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"there is no recipe file .*none\.toml; named recipes: default, digits"):
        resolve(CONDENSE, {}, recipe=str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(MissingError, match="there is no recipe file"):
        resolve(CONDENSE, {}, recipe=str(tmp_path / "folder.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bytes.toml cannot be read as text: 'utf-8' codec"):
        resolve(CONDENSE, {}, recipe=str(tmp_path / "bytes.toml"))
    with pytest.raises(UserError, match="holds no table of settings"):
        resolve(CONDENSE, {}, recipe=write(tmp_path / "list.json", "[1]"))
    with pytest.raises(UserError, match="is not valid JSON: Expecting"):
        resolve(CONDENSE, {}, recipe=write(tmp_path / "half.json", '{"data": {'))


def test_a_file_needs_no_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", "ipc = 6\n")
    assert resolve(CONDENSE, {}, recipe="mine").condense.ipc == 6


def test_unknown_sections_and_values_that_are_no_tables() -> None:
    with pytest.raises(UserError, match=r"unknown section 'dat'; did you mean 'data'\?"):
        overlay(Recipe(), {"dat": {}})
    with pytest.raises(UserError, match=r"\[data\] must be a table of settings, not 'digits'"):
        overlay(Recipe(), {"data": "digits"})  # type: ignore[dict-item]


def test_reading_leaves_out_what_a_run_says_about_itself(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"attar": {"command": "x"}, "condense": {"ipc": 2}}', encoding="utf-8")
    assert layers.read(path) == {"condense": {"ipc": 2}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ipc": 10}, "single"),
        ({"ipc": 20}, "bound"),
        ({"ipc": 20, "decode_type": "multi"}, "multi"),
        ({"ipc": 20, "nclass": 10}, "bound"),
        ({"ipc": 20, "nclass": 10, "factor": 2}, "single"),
    ],
)
def test_imagenet_is_decoded_within_bounds_from_20_images_on(given: dict[str, Any], expected: str) -> None:
    chosen = layers.resolve(FLAGS["condense"], {"dataset": "imagenet", "nclass": 100} | given)
    assert chosen.condense.decode_type == expected


@pytest.mark.parametrize("name", ["imagenette2", "imagenet-of-mine"])
def test_other_data_whose_name_begins_so_are_decoded_whole(name: str) -> None:
    asked = {"dataset": name, "ipc": 20, "factor": 3}
    assert layers.resolve(FLAGS["condense"], asked).condense.decode_type == "single"


def test_imagenet_100_in_parts_matches_64_images_a_class() -> None:
    """As IDC's condense_mp does; its network update has batches of 128 there too."""
    chosen = [
        resolve(CONDENSE, {"dataset": "imagenet", "nclass": 100} | one).condense for one in ({}, {"nclass_sub": 20})
    ]
    assert [(one.batch_real, one.batch_size) for one in chosen] == [(128, 128), (64, 128)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 0.0), ({"factor": 1}, 0.5), ({"factor": 1, "mix_p": 0.25}, 0.25), ({"factor": 2, "mix_p": 1.0}, 1.0)],
)
def test_mnist_has_no_cutmix_with_a_factor_above_1(given: dict[str, Any], expected: float) -> None:
    chosen = resolve(CONDENSE, {"dataset": "mnist"} | given)
    whole = given.get("factor") == 1
    assert chosen.condense.mix_p == expected
    assert chosen.condense.aug_type == ("color_crop_cutout" if whole else "color_crop")
    assert chosen.evaluate.mix_p == (0.5 if whole else 0.0)


def test_the_side_of_another_data_set_does_not_scale_the_image_learning_rate() -> None:
    assert resolve(CONDENSE, {"dataset": "cifar10"}, recipe="fashion-cpu").condense.base_size is None
    assert resolve(CONDENSE, {"dataset": "cifar10", "base_size": 28}, recipe="fashion-cpu").condense.base_size == 28
    assert resolve(CONDENSE, {}, recipe="fashion-cpu").condense.base_size == 28


def test_no_mirrored_digits() -> None:
    for name in ("digits", "mnist", "svhn"):
        recipe = named(name)
        assert not any("flip" in item.aug_type for item in (recipe.pool, recipe.condense, recipe.evaluate)), name
