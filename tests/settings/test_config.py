"""Settings: every wrong value is refused with words that say what would be right."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import UserError
from attar.settings.choices import strategy_names
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import FLAGS, SECTIONS, DataConfig, EvaluateConfig, NetworkConfig, PoolConfig, Recipe
from attar.settings.schema import LARGEST_NUMBER, coerce, known_settings, replace, settings_of

HINTS = {"int": int, "float": float, "bool": bool, "str": str, "names": tuple[str, ...], "numbers": tuple[int, ...]}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_subnormal=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.booleans()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def expected(value: Any, kind: str) -> Any:
    """What a setting of this kind takes `value` for; NotImplemented where it is to be refused. Written type by type."""
    if kind in ("names", "numbers"):
        items = value if type(value) is list else [value]
        good = all(type(item) is (str if kind == "names" else int) and item != "" for item in items)
        return tuple(items) if good else NotImplemented
    if kind == "float" and type(value) is int:
        return float(value)
    return value if type(value) is HINTS[kind] and value != "" else NotImplemented


@given(value=ANYTHING, kind=st.sampled_from(sorted(HINTS)), optional=st.booleans())
def test_coerce_takes_what_fits_and_refuses_the_rest(value: Any, kind: str, optional: bool) -> None:
    hint = HINTS[kind] | None if optional else HINTS[kind]
    wanted = None if optional and value is None else expected(value, kind)
    if wanted is NotImplemented:
        with pytest.raises(UserError, match=r"^my\.toml: key must be "):
            coerce("key", value, hint, "my.toml: ")
        return
    got = coerce("key", value, hint)
    assert type(got) is type(wanted)
    assert got == wanted or (math.isnan(got) and math.isnan(wanted))


def test_a_list_in_a_file_is_a_tuple_and_one_name_is_a_list_of_one() -> None:
    assert replace(EvaluateConfig(), {"networks": ["convnet", "resnet10"]}).networks == ("convnet", "resnet10")
    assert replace(EvaluateConfig(), {"networks": "convnet"}).networks == ("convnet",)
    assert replace(CondenseConfig(), {"eval_at": 3}).eval_at == (3,)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ipcc": 1}, "unknown setting 'ipcc'; did you mean 'ipc'?"),
        ({"xyzzy": 1}, "unknown setting 'xyzzy'; none of the "),
        ({"ipc": "3"}, "ipc must be a whole number, not '3'"),
        ({"ipc": 3.0}, "ipc must be a whole number, not 3.0"),
        ({"ipc": True}, "ipc must be a whole number, not True"),
        ({"ipc": None}, "ipc must be a whole number, not None"),
        ({"perturb": 1}, "perturb must be true or false, not 1"),
        ({"metric": 1}, "metric must be text, not 1"),
        ({"lr_img": "fast"}, "lr_img must be a number, not 'fast'"),
        ({"eval_at": [1, "2"]}, "eval_at must be a list of whole numbers, not [1, '2']"),
    ],
)
def test_replace_refuses_unknown_keys_and_wrong_types(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        replace(CondenseConfig(), values)


def senseless_numbers() -> list[tuple[type, str, float]]:
    """Every setting that is a number, or a list of them, with numbers it cannot have."""
    cases = []
    for section in SECTIONS.values():
        for name, hint in get_type_hints(section).items():
            kinds = {hint, *getattr(hint, "__args__", ())}
            senseless = {float: [-1.0, math.nan, math.inf, -math.inf, 1e300], int: [-1, 10**30]}
            cases += [(section, name, value) for kind in senseless if kind in kinds for value in senseless[kind]]
    return cases


@pytest.mark.parametrize(("section", "name", "value"), senseless_numbers())
def test_no_number_is_negative_or_unbounded(section: type, name: str, value: float) -> None:
    """NaN and infinity can be written in TOML and on the command line."""
    extra = {"phase": {"nclass_sub": 1}}.get(name, {})
    with pytest.raises(UserError, match=f"^{name} "):
        section(**{name: (value,) if name == "eval_at" else value}, **extra)


COUNTS = {
    DataConfig: ["size"],
    NetworkConfig: ["depth"],
    PoolConfig: ["epochs", "models", "batch_size"],
    CondenseConfig: [
        *("ipc", "factor", "speedup", "niter", "full_niter", "inner_loop", "base_size"),
        *("batch_size", "batch_real", "batch_syn_max"),
    ],
    EvaluateConfig: ["runs", "epochs", "whole_epochs", "batch_size"],
}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, names in COUNTS.items() for name in names])
def test_counts_are_at_least_one(section: type, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} must be at least 1, not 0$"):
        section(**{name: 0})
    assert getattr(section(**{name: 1}), name) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataConfig(nclass=1), "nclass must be at least 2, not 1"),
        (lambda: NetworkConfig(width=0.0), "width must be above 0, not 0.0"),
        (lambda: PoolConfig(lr=0.0), "lr must be above 0, not 0.0"),
        (lambda: PoolConfig(mix_p=1.5), "mix_p must be between 0 and 1, not 1.5"),
        (lambda: PoolConfig(optimizer="sdg"), "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        (lambda: PoolConfig(aug_type="color_cropp"), "unknown augmentation 'cropp'; did you mean 'crop'?"),
        (lambda: PoolConfig(aug_type="flip_flip"), "augmentation 'flip_flip' names an operation twice"),
        (lambda: CondenseConfig(metric="l3"), "unknown metric 'l3'; did you mean 'l1'?"),
        (lambda: CondenseConfig(match="gradient"), "unknown match 'gradient'; did you mean 'grad'?"),
        (lambda: CondenseConfig(init="mixed"), "unknown init 'mixed'; did you mean 'mix'?"),
        (lambda: CondenseConfig(decode_type="bond"), "unknown decode_type 'bond'; did you mean 'bound'?"),
        (lambda: CondenseConfig(mom_img=1.0), "mom_img must be at least 0 and below 1, not 1.0"),
        (lambda: CondenseConfig(vmin=0.5, vmax=0.1), "vmax (0.1) must not be below vmin (0.5)"),
        (lambda: CondenseConfig(phase=0), "phase needs nclass_sub: the number of classes of a part"),
        (lambda: EvaluateConfig(yardsticks=("hole",)), "unknown yardstick 'hole'; did you mean 'whole'?"),
    ],
)
def test_values_that_mean_nothing(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        make()


def test_the_largest_numbers_pass() -> None:
    assert PoolConfig(seed=LARGEST_NUMBER).seed == LARGEST_NUMBER
    assert CondenseConfig(lr_img=float(LARGEST_NUMBER)).lr_img == LARGEST_NUMBER
    with pytest.raises(UserError, match=r"seed must be at most 9007199254740992"):
        PoolConfig(seed=LARGEST_NUMBER + 1)


@pytest.mark.parametrize("strategy", ["color_crop_cutout", "color-crop-cutout", " Color_Crop-CUTOUT "])
def test_strategies_are_joined_with_either_sign(strategy: str) -> None:
    assert strategy_names(strategy) == ("color", "crop", "cutout")


@pytest.mark.parametrize("strategy", ["none", "None", ""])
def test_no_augmentation(strategy: str) -> None:
    assert strategy_names(strategy) == ()


def test_no_yardsticks() -> None:
    assert EvaluateConfig(yardsticks=("none",)).yardsticks == ()


@pytest.mark.parametrize(("speedup", "outer"), [(5, 400), (10, 200), (20, 100)])
def test_the_published_budgets(speedup: int, outer: int) -> None:
    assert CondenseConfig(speedup=speedup).outer_iterations == outer


def test_outer_iterations() -> None:
    assert CondenseConfig(speedup=10, full_niter=500).outer_iterations == 50
    assert CondenseConfig(niter=7, speedup=10).outer_iterations == 7
    assert CondenseConfig(speedup=3000).outer_iterations == 1


def test_settings_are_frozen_and_keyword_only() -> None:
    for section in (*SECTIONS.values(), Recipe):
        with pytest.raises(TypeError):
            section("x")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(section(), dataclasses.fields(section)[0].name, 1)


def test_settings_as_plain_values() -> None:
    plain = settings_of(Recipe())
    assert list(plain) == list(SECTIONS)
    assert plain["evaluate"]["yardsticks"] == ["initial", "random_real", "whole"]
    assert plain["condense"]["niter"] is None


# ---- the table of flags ----

PAPER = {
    "pretrain": "dataset nclass net_type pt_from seed lr aug_type model_num optimizer weight_decay momentum batch_size",
    "condense": "dataset factor ipc net_type model_path nclass speedup niter inner_loop lr_img mom_img n_data metric "
    "match batch_real batch_syn_max init decode_type aug_type nclass_sub phase seed device pt_from model_num vmin vmax "
    "perturb",
    "evaluate": "networks runs epochs seed yardsticks data_dir device",
}


@pytest.mark.parametrize("verb", PAPER)
def test_every_flag_of_the_paper_is_taken(verb: str) -> None:
    assert set(PAPER[verb].split()) <= set(FLAGS[verb])


def test_every_flag_leads_to_a_setting_with_help() -> None:
    for flags in FLAGS.values():
        for section, name in flags.values():
            assert len(known_settings(SECTIONS[section])[name].help) > 5


@pytest.mark.parametrize("verb", FLAGS)
def test_no_two_settings_of_a_verb_share_a_short_flag(verb: str) -> None:
    names = [
        name for section, field in set(FLAGS[verb].values()) for name in known_settings(SECTIONS[section])[field].names
    ]
    assert len(names) == len(set(names))
