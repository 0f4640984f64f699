"""A spec becomes points and cells, and what is wrong in it is named before anything runs."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.comparison import makers, spec
from attar.comparison.plan import ComparisonPlan, value_of
from attar.errors import UserError
from attar.settings.auto import Shape, fitting

SPECS = Path(__file__).parents[2] / "benchmarks"

GRID = """
recipe = "digits"
ipc = [1, 10]
seeds = 2
runs = 4
perturb = false

[pool]
lr = 0.02

[evaluate]
epochs = 5

[[entry]]
name = "short and long"
niter = [3, 6]

[[entry]]
name = "five models"
model_num = 5
ipc = 2
perturb = true
"""


def plan(text: str) -> ComparisonPlan:
    return spec.resolve(tomllib.loads(text), "my.toml: ")


def test_lists_are_grids_and_entries_stand_on_top_of_common_settings() -> None:
    actual = plan(GRID)
    assert [(point.entry, point.settings) for point in actual.points] == [
        ("short and long", {"ipc": 1, "niter": 3}),
        ("short and long", {"ipc": 1, "niter": 6}),
        ("short and long", {"ipc": 10, "niter": 3}),
        ("short and long", {"ipc": 10, "niter": 6}),
        ("five models", {"ipc": 2}),
    ]
    first, last = actual.points[0].recipe, actual.points[-1].recipe
    assert (first.condense.ipc, first.condense.niter, first.condense.perturb) == (1, 3, False)
    assert (last.condense.ipc, last.condense.niter, last.condense.perturb) == (2, 10, True)  # niter is the recipe's
    assert (first.pool.models, last.pool.models, first.pool.lr, last.pool.lr) == (5, 5, 0.02, 0.02)
    assert first.network == last.network == actual.recipe.network and actual.recipe.network.width == 0.5
    assert first.evaluate == actual.recipe.evaluate and (first.evaluate.runs, first.evaluate.epochs) == (4, 5)
    assert actual.tested_on == "test images"


def test_every_seed_has_models_and_networks_of_its_own() -> None:
    """Seed by seed, so that a machine that gets slower does so for all entries."""
    cells = plan(GRID).cells
    assert [cell.seed for cell in cells] == [0] * 5 + [1] * 5
    one, two = cells[0].recipe, cells[5].recipe
    assert (one.condense.seed, one.pool.seed, one.evaluate.seed) == (0, 0, 0)
    assert (two.condense.seed, two.pool.seed, two.evaluate.seed) == (1, 5, 4)
    assert replace(two.condense, seed=0) == one.condense
    assert cells[1].name == "short and long ipc 1 niter 6 seed 0"
    assert cells[1].folder == "short-and-long-ipc1-niter6-seed0"
    assert len({cell.folder for cell in cells}) == len(cells)


def test_an_entry_may_start_from_a_recipe_of_its_own() -> None:
    """What makes the set comes from there; data, network and evaluation stay the comparison's."""
    actual = plan('recipe = "digits"\n[[entry]]\nname = "a"\n[[entry]]\nname = "b"\nrecipe = "fashion-cpu"\nfactor = 1')
    a, b = (point.recipe for point in actual.points)
    assert (b.data, b.network, b.evaluate) == (a.data, a.network, a.evaluate)
    assert (a.condense.n_data, b.condense.n_data, b.pool.epochs, b.condense.factor) == (500, 128, 1, 1)


def test_settings_for_another_space_are_said(said: list[str]) -> None:
    """MTT's table has CIFAR-10 in ZCA space at ipc 10, not at ipc 50."""
    text = 'ipc = [10, 50]\n[[entry]]\nname = "tm"\nmethod = "mtt"\n[[entry]]\nmethod = "dm"'
    plan('recipe = "cifar10"\n' + text)
    assert said == [
        "my.toml: entry 'tm': the settings of mtt at ipc 10 are for images in ZCA space, and those of this comparison "
        "are not; say zca = true or zca = false at the top of the spec"
    ]
    assert [point.recipe.data.zca for point in plan('recipe = "cifar10"\nzca = true\n' + text).points] == [True] * 4
    plan('recipe = "cifar10"\nzca = false\n' + text)
    assert len(said) == 1


def test_best_of_the_figure_for_a_gpu_is_what_a_gpu_gets() -> None:
    actual = plan((SPECS / "compare" / "figure-gpu.toml").read_text(encoding="utf-8"))
    best = next(point.recipe for point in actual.points if point.entry == "best")
    expected = fitting(Shape(3, 32, 32, 10, 50_000, cpu=False), 10, best=True)
    same = replace(best.condense, base_size=expected.condense.base_size, n_data=expected.condense.n_data)
    assert same == expected.condense and best.pool == expected.pool


def test_core_sets_take_what_they_need_of_the_common_settings() -> None:
    actual = plan(
        'recipe = "digits"\nipc = [1, 2]\nniter = [3, 4]\nmodels = 7\nseeds = 2\n'
        '[[entry]]\nmethod = "herding"\npt_from = 5\n'
        '[[entry]]\nmethod = "kcenter"\nfeatures = "pixels"\n[[entry]]\nname = "a"'
    )
    assert [(point.entry, point.features, point.settings) for point in actual.points[:4]] == [
        *(("herding", "early", {"ipc": ipc}) for ipc in (1, 2)),
        *(("kcenter", "pixels", {"ipc": ipc}) for ipc in (1, 2)),
    ]
    first, second = actual.points[0].cell(0).recipe, actual.points[0].cell(1).recipe
    assert (first.condense.ipc, first.condense.factor, first.pool.models, first.pool.epochs) == (1, 1, 1, 5)
    assert (first.pool.seed, second.pool.seed, second.condense.seed) == (0, 1, 1)
    assert value_of(actual.points[0], "niter") is None and len(actual.points) == 8


def test_methods_are_layers_and_common_settings_go_to_those_that_take_them() -> None:
    actual = plan(
        'recipe = "digits"\nmodels = [2, 3]\nniter = 4\n[[entry]]\nmethod = "dm"\nlr_img = [0.5, 1.0]\n'
        '[[entry]]\nmethod = "ncfm"\n[[entry]]\nname = "own pool"\nmethod = "dm"\nnetwork_init = "pool"'
    )
    assert [point.name for point in actual.points] == [
        *("dm ipc 1 lr_img 0.5", "dm ipc 1 lr_img 1.0", "ncfm ipc 1 models 2", "ncfm ipc 1 models 3"),
        *("own pool ipc 1 models 2", "own pool ipc 1 models 3"),
    ]
    dm, ncfm, pooled = (actual.points[place] for place in (0, 2, 4))
    assert (dm.recipe.condense.match, dm.recipe.condense.network_init, ncfm.recipe.condense.match) == (
        "feat",
        "fresh",
        "ncf",
    )
    assert [makers.needs_pool(p.method, p.features, p.recipe) for p in (dm, ncfm, pooled)] == [False, True, True]
    assert value_of(dm, "models") is None and value_of(ncfm, "models") == 2
    assert pooled.recipe.condense.match == "feat" and pooled.recipe.condense.niter == 4


@pytest.mark.parametrize(
    "text",
    [
        '[[entry]]\nname = "a"\nperturb = [false, true]\nvmax = [0.2, 0.3]',
        'vmax = [0.2, 0.3]\n[[entry]]\nname = "a"\nperturb = [false, true]',
        'perturb = [false, true]\nvmax = [0.2, 0.3]\n[[entry]]\nname = "a"',
    ],
)
def test_every_place_of_a_grid_has_the_settings_that_mean_something_there(text: str) -> None:
    """Wherever they stand; places that differ in nothing else are one point."""
    actual = plan(f'dataset = "digits"\n{text}').points
    assert [sorted(point.settings.items()) for point in actual] == [
        [("ipc", 1), ("perturb", False)],
        *([("ipc", 1), ("perturb", True), ("vmax", vmax)] for vmax in (0.2, 0.3)),
    ]
    assert [point.recipe.condense.vmax for point in actual] == [0.09, 0.2, 0.3]
    assert [value_of(point, "vmax") for point in actual] == [None, 0.2, 0.3]


def test_a_common_setting_goes_where_the_grid_of_an_entry_lets_it() -> None:
    actual = plan(
        'dataset = "digits"\npt_from = [1, 5]\n[[entry]]\nname = "a"\nnetwork_init = ["fresh", "pool"]'
    ).points
    assert [point.name for point in actual] == [
        *(
            "a ipc 1 network_init fresh",
            "a ipc 1 pool epochs 1 network_init pool",
            "a ipc 1 pool epochs 5 network_init pool",
        )
    ]
    assert [point.recipe.pool.epochs for point in actual[1:]] == [1, 5]


def test_a_common_method_is_that_of_entries_without_one() -> None:
    actual = plan(
        'dataset = "digits"\nmethod = ["dm", "accdd"]\n[[entry]]\nname = "a"\n[[entry]]\nmethod = "idc"'
    ).points
    assert [(point.method, point.recipe.condense.method) for point in actual] == [
        *(("dm", "dm"), ("accdd", "accdd"), ("idc", "idc"))
    ]


def test_pixels_need_no_early_models() -> None:
    actual = plan(
        'dataset = "digits"\npt_from = [1, 5]\n'
        '[[entry]]\nmethod = "herding"\nfeatures = "pixels"\n[[entry]]\nname = "a"'
    ).points
    assert [point.settings for point in actual if point.method == "herding"] == [{"ipc": 1}] and len(actual) == 3


def test_a_budget_of_an_entry_replaces_the_common_one() -> None:
    actual = plan('recipe = "fashion"\nniter = 7\n[[entry]]\nname = "a"\n[[entry]]\nname = "b"\nspeedup = [10, 20]')
    assert [point.recipe.condense.outer_iterations for point in actual.points] == [7, 200, 100]


@pytest.mark.parametrize("path", sorted(SPECS.glob("[ct]*/*.toml")), ids=lambda path: path.stem)
def test_the_specs_that_ship_are_sound(path: Path) -> None:
    """Each can be resolved, says what it is for, and ablation and tuning leave the test images alone."""
    text = path.read_text(encoding="utf-8")
    actual = spec.resolve(tomllib.loads(text), f"{path}: ")
    tuning = path.parent.name == "tuning"
    assert text.startswith("# ") and len(actual.points) > 1 and len(actual.seeds) >= (1 if tuning else 2)
    assert len({cell.folder for cell in actual.cells}) == len(actual.cells)
    assert (actual.holdout is not None) == (tuning or path.stem.startswith("ablation"))
    condensed = [point for point in actual.points if makers.maker(point.method).condenses]
    modes = {point.recipe.condense.compile for point in condensed}
    assert modes == {"auto" if path.stem.endswith(("published", "gpu")) else "off"}  # hours outweigh a compilation


def test_holdout_says_what_is_tested_on() -> None:
    actual = plan('dataset = "digits"\nholdout = 0.2\nseeds = [3]\n[[entry]]\nname = "a"')
    assert (actual.holdout, actual.seeds, actual.tested_on) == (0.2, (3,), "held-out training images")


ENTRY = '\n[[entry]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('dataset = "digits"', r"there is no \[\[entry\]\]"),
        ('dataset = "digits"\nentry = []', r"there is no \[\[entry\]\]"),
        ('dataset = "digits"\nentry = 3', r"there is no \[\[entry\]\]"),
        (ENTRY, "no data are named; say dataset or recipe"),
        ('recipe = "digit"' + ENTRY, "unknown recipe 'digit'; did you mean 'digits'"),
        ("recipe = 3" + ENTRY, "recipe must be the name of a recipe, not 3"),
        ('dataset = "digits"\nseed = 3' + ENTRY, "seed cannot be set in a comparison: its seeds are listed in seeds"),
        ('dataset = "digits"\nsedes = 3' + ENTRY, "unknown setting 'sedes'; did you mean 'seeds'"),
        ('dataset = "digits"\nruns = "three"' + ENTRY, "runs must be a whole number, not 'three'"),
        ('dataset = "digits"\n[evaluate]\nepoch = 3' + ENTRY, r"\[evaluate\] unknown setting 'epoch'; did you mean"),
        ('dataset = "digits"\n[evaluat]\nepoch = 3' + ENTRY, "unknown setting 'evaluat'; did you mean 'evaluate'"),
        ('dataset = "digits"\nseeds = []' + ENTRY, r"seeds must be a number of seeds, or a list .*, not \[\]"),
        ('dataset = "digits"\nseeds = [0, 1, 0]' + ENTRY, "seeds names 0 twice"),
        ('dataset = "digits"\nseeds = 0' + ENTRY, "seeds must be a number of seeds"),
        ('dataset = "digits"\nseeds = true' + ENTRY, "seeds must be a number of seeds"),
        (
            'dataset = "digits"\nholdout = 0.999' + ENTRY,
            r"holdout must be a share .*, above 0 and at most 0\.5, not 0\.999",
        ),
        ('dataset = "digits"\nholdout = 0' + ENTRY, "holdout must be a share of the training images"),
        ('dataset = "digits"\nwidth = [1, 2]' + ENTRY, "width must be a number, not"),
        ('dataset = "digits"\nyardsticks = ["hole"]' + ENTRY, "unknown yardstick 'hole'; did you mean 'whole'"),
        ('dataset = "digits"' + ENTRY + ENTRY, "two entries are named 'a'; each needs a name of its own"),
        ('dataset = "digits"' + ENTRY + ENTRY.replace('"a"', '"A!"'), "'a' and 'A!' are too alike"),
        ('dataset = "digits"\n[[entry]]\nniter = 3', "entry 1 needs a name of letters or digits"),
        ('dataset = "digits"\n[[entry]]\nname = "-"', "entry 1 needs a name of letters or digits"),
        (
            'dataset = "digits"' + ENTRY + "nitre = 3",
            "my.toml: entry 'a': unknown setting 'nitre'; did you mean 'niter'",
        ),
        ('dataset = "digits"' + ENTRY + "niter = []", "entry 'a': niter is an empty list"),
        ('dataset = "digits"' + ENTRY + "niter = [1, 1]", "entry 'a': niter names 1 twice"),
        ('dataset = "digits"' + ENTRY + 'niter = [1, "two"]', "entry 'a': .*niter must be a whole number, not 'two'"),
        ('dataset = "digits"' + ENTRY + "niter = [[1], [2]]", "entry 'a': .*niter must be a whole number, not"),
        ('dataset = "digits"' + ENTRY + "pool = 3", r"entry 'a': \[pool\] must be a table of settings, not 3"),
        ('dataset = "digits"' + ENTRY + "factor = 0", "entry 'a': factor must be at least 1, not 0"),
        ('dataset = "digits"' + ENTRY + "width = 2.0", "entry 'a': width is the same for all entries"),
        ('dataset = "digits"' + ENTRY + "runs = 2", "entry 'a': runs is the same for all entries"),
        ('dataset = "digits"' + ENTRY + 'model_path = "p"', "model_path cannot be set in a comparison: early-stage"),
        ('dataset = "digits"' + ENTRY + "eval_at = [1]", "eval_at cannot be set in a comparison"),
        ('dataset = "digits"' + ENTRY + "nclass_sub = 2", "nclass_sub cannot be set in a comparison"),
        (
            'dataset = "digits"' + ENTRY + "[entry.pool]\nseed = 2",
            "seed cannot be set in a comparison: each of its seeds",
        ),
        ('dataset = "digits"' + ENTRY + 'method = "acdd"', "entry 'a': unknown method 'acdd'; did you mean 'accdd'"),
        (
            'dataset = "digits"' + ENTRY + 'method = "herding"\nniter = 3',
            "entry 'a': the method herding takes no niter",
        ),
        (
            'dataset = "digits"' + ENTRY + 'method = "herding"\nmodels = 3',
            "entry 'a': the method herding takes no models",
        ),
        (
            'dataset = "digits"' + ENTRY + 'method = "random"\npt_from = 3',
            "entry 'a': the method random takes no epochs",
        ),
        (
            'dataset = "digits"' + ENTRY + 'method = "herding"\nfeatures = "pixels"\npt_from = [1, 3]',
            "entry 'a': the method herding takes no epochs with features pixels",
        ),
        ('dataset = "digits"' + ENTRY + 'features = "pixels"', "entry 'a': the method accdd takes no features"),
        ('dataset = "digits"' + ENTRY + 'method = "kcenter"\nfeatures = "late"', "entry 'a': unknown features 'late'"),
        ('dataset = "digits"' + ENTRY + 'method = "kcenter"\nfeatures = 3', "entry 'a': features must be text, not 3"),
        (
            'dataset = "digits"' + ENTRY + 'method = "dm"\nmodels = 3',
            "entry 'a': method dm takes no models here: it has",
        ),
        ('dataset = "digits"' + ENTRY + "perturb = false\nvmax = 0.2", "entry 'a': method accdd takes no vmax here"),
        (
            'dataset = "digits"' + ENTRY + "niter = 5\nspeedup = [5, 10]",
            "entry 'a': niter is the number of outer iterations, and speedup changes nothing then",
        ),
        ('dataset = "digits"' + ENTRY + "method = 3", "entry 'a': method must be text, not 3"),
        ('dataset = "digits"\nfrequencies = 9' + ENTRY, "my.toml: frequencies means nothing to any of the entries"),
        (
            'dataset = "digits"\npt_from = [1, 5]\n[[entry]]\nmethod = "herding"\nfeatures = "pixels"',
            "my.toml: pool epochs means nothing to any of the entries",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        plan(text)
    assert str(error.value).startswith("my.toml: ")
    assert str(error.value).count("my.toml") == 1


@pytest.mark.parametrize("values", [{3: 1}, {"condense": {3: 1}}, {"entry": [{"name": "a", 3: 1}]}])
def test_a_dict_with_other_keys_than_text_is_refused(values: dict[Any, Any]) -> None:
    with pytest.raises(UserError, match="3"):
        spec.resolve({"dataset": "digits", "entry": [{"name": "a"}]} | values)
