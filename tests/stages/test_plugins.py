"""Losses, methods and augmentations of the user's own: the page's lines as they stand, naive twins, refusals."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attar
from attar.condensation.matching import matched_names
from attar.condensation.setup import set_up
from attar.errors import UserError
from attar.settings import plugins
from attar.settings.choices import strategy_names
from attar.training.augment import apply
from attar.training.draws import draw
from helpers.command import TINY, call, refused
from helpers.condensation import Recorder, attar_loop, digits, naive_loop, pool_of, settings

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
(LINES,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
RUN = ("condense", "-d", "digits", "--ipc", "2", "--niter", "1", "--inner_loop", "3", "--quiet")


@pytest.fixture(autouse=True)
def nothing_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test is a new process as far as plugins go, in a folder with that of the page."""
    monkeypatch.chdir(tmp_path)
    Path("moments.py").write_text(LINES)
    forget()
    yield
    forget()


def forget() -> None:
    for entries in plugins.REGISTERED.values():
        entries.clear()
    plugins.LOADED.clear()


def test_the_page_has_15_lines_that_run(workspace: Path) -> None:
    assert len([line for line in LINES.splitlines() if line.strip()]) <= 15
    call(*RUN, "--plugin", "moments.py", "--method", "mm", "--out", "mm")
    saved = json.loads(Path("mm/config.json").read_text())["condense"]
    assert re.fullmatch(r"moments\.py@[0-9a-f]{12}", *saved["plugin"])
    assert (saved["method"], saved["match"], saved["network_init"]) == ("mm", "moments", "fresh")
    assert json.loads(Path("mm/result.json").read_text())["method"] == "mm"
    call(*RUN, "--plugin", "moments.py", "--match", "moments", *TINY[:6], "--out", "grad")
    images = [attar.load_set(Path(name)).images for name in ("mm", "grad")]
    assert not torch.equal(*images)
    forget()
    call("condense", "--resume", "mm", "--niter", "2", "--quiet")
    forget()
    call("evaluate", "mm", "--runs", "1", "--epochs", "1", "--yardsticks", "none", "--quiet")
    assert attar.load_set(Path("mm")).recipe["condense"]["niter"] == 2


def test_other_processes_load_what_is_still_there() -> None:
    text = plugins.load("moments.py")
    assert plugins.loaded() == [text]
    Path("moments.py").write_text(f"{LINES}\n")
    assert plugins.loaded() == []
    Path("moments.py").unlink()
    assert plugins.loaded() == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_in_a_comparison(jobs: str, workspace: Path, run_attar: Callable[..., Any]) -> None:
    Path("spec.toml").write_text(
        'dataset = "digits"\nplugin = ["moments.py"]\nniter = 1\ninner_loop = 1\nipc = 1\nseeds = 1\nruns = 1\n'
        'width = 0.05\ncompile = "off"\n[evaluate]\nepochs = 1\nyardsticks = ["none"]\n[[entry]]\nmethod = "mm"\n'
        '[[entry]]\nname = "grid"\nmethod = "dm"\nmatch = "moments"\n',
        encoding="utf-8",
    )
    said = run_attar("compare", "spec.toml", "--out", "out", "--jobs", jobs, cwd=Path.cwd())
    assert said.returncode == 0, said.stderr
    assert len(Path("out/results.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "there is no plugin moments.py"),
        (
            lambda path: path.write_text(LINES + "# more"),
            "the plugin moments.py has changed since the run began; restore",
        ),
    ],
)
def test_a_run_goes_on_with_the_same_plugin_only(
    change: Callable[[Path], Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call(*RUN, "--plugin", "moments.py", "--method", "mm", "--out", "mm")
    forget()
    change(Path("moments.py"))
    assert words in refused(capsys, "condense", "--resume", "mm", "--niter", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "the plugin other.py cannot be loaded: ZeroDivisionError: division by zero"),
        ("import attar; attar.losses.register('grad', print)", "there is a loss 'grad' already, of attar"),
        ("import attar; attar.losses.register('a_b', print)", "small letters and digits, not 'a_b'"),
        (
            "import attar; attar.losses.register('a', print, of='logits')",
            "unknown of 'logits'; did you mean",
        ),
        ("import attar; attar.methods.register('m', base='dn')", "unknown method 'dn'; did you mean 'dm'"),
        ("import attar; attar.methods.register('m', ipcc=1)", "method m: unknown setting 'ipcc'"),
        (LINES, "there is a loss 'moments' already, of moments.py"),
    ],
)
def test_refused_plugins(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.py").write_text(text)
    assert words in refused(capsys, *RUN, "--plugin", "moments.py", "other.py")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda real, synthetic: 1.0, "the loss 'mine' must give a tensor without dimensions, not one but a float"),
        (lambda real, synthetic: synthetic["blocks.0.weight"], r"not one of shape \[64, 1, 3, 3\]"),
        (lambda real, synthetic: synthetic["nothing"], "the loss 'mine' raises KeyError: 'nothing'"),
    ],
)
def test_refused_losses(function: Callable[..., Any], words: str) -> None:
    attar.losses.register("mine", function)
    with pytest.raises(UserError, match=words):
        attar.condense("digits", ipc=1, niter=1, inner_loop=1, models=1, epochs=1, match="mine")


def test_other_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no plugin nothing.py" in refused(capsys, *RUN, "--plugin", "nothing.py")
    assert "a plugin is a Python file, FILE.py, not 'moments'" in refused(capsys, *RUN, "--plugin", "moments")
    assert "unknown match 'moments'; valid: feat, grad, ncf" in refused(capsys, *RUN, "--match", "moments")
    assert "method mm takes no metric here" in refused(
        capsys, *RUN, "--plugin", "moments.py", "--method", "mm", "--metric", "l1"
    )


def naive_distance(real: dict[str, Tensor], synthetic: dict[str, Tensor]) -> Tensor:
    return torch.stack([(real[name] - synthetic[name]).abs().flatten(1).mean(1).sum() for name in real]).sum()


def test_a_loss_of_gradients_is_computed_as_one_of_attar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same formula, registered from outside, makes the images that the naive loop makes."""
    attar.losses.register("mine", naive_distance)
    data, config = digits(), settings(match="mine")
    initial, outers, (images, _) = attar_loop(data, pool_of(data), config, Recorder(monkeypatch))
    expected, _ = naive_loop(data, replace(config, match="grad", metric="l1_mean"), list(range(4)), initial, outers)
    torch.testing.assert_close(images, expected.clamp(0, 1), rtol=1e-7, atol=1e-8)
    assert set(matched_names(pool_of(data).members[0].params)) == {"blocks.0.weight", "blocks.4.weight"}


def test_an_augmentation_shares_its_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def dim(images: Tensor, u: Tensor) -> Tensor:
        seen.append(u)
        return images * (0.5 + u[:, 1].view(-1, 1, 1, 1))

    attar.augmentations.register("dim", dim, draws=2)
    drawn = draw(strategy_names("flip_dim"), 3, (8, 8), torch.Generator().manual_seed(0), batch=3)
    images = torch.rand(3, 1, 8, 8)
    flipped = torch.where(drawn["flip"].view(-1, 1, 1, 1), images.flip(3), images)
    assert seen == [] and torch.equal(apply(images, drawn), dim(flipped, drawn["own:dim"]))
    assert seen[0].shape == (3, 2)
    seen.clear()
    small = attar.condense("digits", ipc=1, niter=1, inner_loop=1, models=1, epochs=1, aug_type="color_dim")
    assert len(seen) >= 20, "both sides of ten classes"
    assert all(map(torch.equal, seen[:20:2], seen[1:20:2]))
    assert small.recipe["condense"]["plugin"][0].startswith(f"{__name__}@")
    attar.evaluate(small, runs=1, epochs=1, yardsticks="none", aug_type="dim")

    attar.augmentations.register("dim", lambda images, u: images[:, :, 1:])
    with pytest.raises(UserError, match="the augmentation 'dim' must give images of the shape that it gets"):
        attar.condense("digits", ipc=1, niter=1, inner_loop=1, models=1, epochs=1, aug_type="dim")
    with pytest.raises(UserError, match="unknown augmentation 'dm'; did you mean 'dim'"):
        attar.condense("digits", aug_type="dm")


def test_a_changed_augmentation_trains_another_pool() -> None:
    Path("dim.py").write_text("import attar\nattar.augmentations.register('dim', lambda images, u: images)\n")
    pretrain = ("pretrain", "-d", "digits", "--plugin", "dim.py", *TINY[:6], "--aug_type", "dim", "--quiet")
    call(*pretrain)
    forget()
    Path("dim.py").write_text("import attar\nattar.augmentations.register('dim', lambda images, u: images / 2)\n")
    call(*pretrain)
    assert len(list(Path("pool/digits-convnet2-w0.05").iterdir())) == 4


def test_a_changed_module_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("dimmer.py").write_text("import attar\nattar.augmentations.register('dim', lambda images, u: images)\n")
    importlib.import_module("dimmer")
    (text,) = plugins.origins_of(["dim"])
    assert plugins.load(text) == text
    forget()
    del sys.modules["dimmer"]
    assert plugins.load(text) == text
    forget()
    del sys.modules["dimmer"]
    Path("dimmer.py").write_text("raise SystemExit('it was run')\n")
    with pytest.raises(UserError, match="made with what dimmer registers, and that is not there, or has changed"):
        plugins.load(text)


def test_functions_of_a_program_are_resumed_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(real: dict[str, Tensor], synthetic: dict[str, Tensor]) -> Tensor:
        return naive_distance(real, synthetic)

    attar.losses.register("mine", shown)
    attar.methods.register("own", match="mine", niter=1, inner_loop=1)
    asked: dict[str, Any] = {"method": "own", "models": 1, "epochs": 1, "folder": "run"}
    attar.condense("digits", **asked)
    assert attar.condense("digits", **asked, niter=2).recipe["condense"]["niter"] == 2
    path = Path("run/config.json")
    path.write_text(path.read_text().replace(f"{__name__}@", "__main__@"))
    assert "the run was made with what the Python program that began it registers, and that is not there" in refused(
        capsys, "condense", "--resume", "run", "--niter", "3"
    )


def test_set_up_takes_a_loss_of_features() -> None:
    plugins.load("moments.py")
    data = digits()
    assert set_up(data, pool_of(data, torch.float32), settings(match="moments")).gradients.matching.features


def test_a_loss_of_ones_own_takes_the_batch_sizes_of_what_it_matches(tmp_path: Path) -> None:
    def means(of_set: Any, real: Any) -> Any:
        return (of_set.mean(0) - real.mean(0)).square().sum()

    attar.losses.register("means", means, of="features")
    small = {"ipc": 1, "niter": 1, "inner_loop": 1, "width": 0.05}
    condensed = attar.condense("digits", method="dm", match="means", batch_real=9, batch_syn_max=5, **small)
    assert (condensed.recipe["condense"]["batch_real"], condensed.recipe["condense"]["batch_syn_max"]) == (9, 5)
    with pytest.raises(attar.UserError, match="takes no metric"):
        attar.condense("digits", method="dm", match="means", metric="cos", **small)
