"""Nothing is lost: a run that was interrupted anywhere ends with the same bits as one that was not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.cli.parser import main
from attar.condensation import loop as condensation
from attar.condensation import state
from attar.condensation.setup import set_up
from attar.condensation.state import SavedState
from attar.data.images import ImageData
from attar.errors import UserError
from attar.evaluation import measure
from attar.evaluation import trained as trained_module
from attar.evaluation.trained import TrainedNetworks
from attar.models.for_data import describe
from attar.runs import checkpoint, run_folder
from attar.runs.checkpoint import Interval
from attar.runs.run_folder import RunFolder
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import EvaluateConfig, NetworkConfig, Recipe
from attar.stages import condense as condense_stage
from attar.stages import records
from attar.stages import run as run_stage
from attar.stages.run import RunOptions
from attar.training.pool import Pool
from helpers.command import POOL, call
from helpers.forked import Forked

CONFIG = CondenseConfig(
    ipc=1, factor=2, niter=3, inner_loop=2, n_data=128, lr_img=0.1, batch_real=16, base_size=8, eval_at=(0, 2, 3)
)
LONG = (*POOL, "--niter", "3", "--inner_loop", "2", "--n_data", "64")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    whole = attar.load("digits")
    rows = torch.cat([whole.rows(c)[:30] for c in range(3)])
    return ImageData(whole.images[rows], whole.labels[rows], name="digits")


@pytest.fixture(scope="module")
def pool(digits: ImageData) -> Pool:
    return attar.pretrain(digits, epochs=1, models=2, depth=2, width=0.05, net_type="convnet")


class Cut(Exception):
    """The run ends here."""


class Told:
    """What a run tells, and the states it could have kept: it keeps one at every opportunity."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.states: list[SavedState] = []
        self.stop_after = stop_after

    def keep(self, values: Callable[[], SavedState], now: bool) -> None:
        tensors: dict[str, torch.Tensor] = {}
        plain = json.loads(json.dumps(checkpoint.pack(values(), tensors)))
        self.states.append(checkpoint.unpack(plain, tensors))
        if self.stop_after is not None and len(self.states) > self.stop_after:
            raise Cut

    def run(
        self, data: ImageData, pool: Pool, config: CondenseConfig, saved: SavedState | None = None
    ) -> attar.SyntheticSet:
        """What `condense_run` does between the run folder's first file and its last."""

        def accuracy(condensed: attar.SyntheticSet, *args: Any) -> dict[str, float]:
            return {"convnet2": float(condensed.images.mean())}

        setup = set_up(data, pool, config, state.how_it_began(saved))
        with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            patch.setattr(records, "CheckpointWriter", lambda *args: self.keep)
            patch.setattr(records, "quick_accuracy", accuracy)
            folder = RunFolder(Path(name), (self.hear,))
            return run_stage.iterate(setup, Recipe(condense=config), RunOptions(Interval()), folder, saved)[0]

    def hear(self, event: dict[str, Any]) -> None:
        """A sink; pictures are not compared."""
        if event["event"] != "picture":
            self.events.append(event)


def same(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without what they took."""
    return [{key: value for key, value in event.items() if key not in ("seconds", "took")} for event in events]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_run_goes_on_from_every_state_with_the_same_bits(momentum: float, digits: ImageData, pool: Pool) -> None:
    config = replace(CONFIG, momentum=momentum)
    whole = Told()
    expected = whole.run(digits, pool, config)
    assert [(event["event"], event["outer"]) for event in whole.events] == [
        ("evaluation", 0),
        ("step", 1),
        ("step", 2),
        ("evaluation", 2),
        ("step", 3),
        ("evaluation", 3),
    ]
    # three evaluations, six inner iterations, the end
    assert [(kept["outer"], kept["inner"]) for kept in whole.states] == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 0), (2, 1), (3, 0), (3, 0), (3, 0))
    ]
    for kept in whole.states:
        rest = Told()
        condensed = rest.run(digits, pool, config, kept)
        assert torch.equal(condensed.images, expected.images)
        assert condensed.initial is not None and expected.initial is not None
        assert torch.equal(condensed.initial, expected.initial)
        assert same(whole.events[: kept["events"]] + rest.events) == same(whole.events)
        seconds = [event["seconds"] for event in rest.events if event["event"] == "step"]
        assert all(value > kept["seconds"] for value in seconds)


@pytest.mark.parametrize("part", [{}, {"nclass_sub": 2, "phase": 0}])
def test_representatives_of_clusters_come_back(part: dict[str, Any], digits: ImageData, pool: Pool) -> None:
    """Also between two clusterings, when nothing would find them again."""
    config = replace(
        CONFIG, select="cluster", select_every=2, select_from=20, inner_loop=5, niter=2, eval_at=(), **part
    )
    whole = Told()
    expected = whole.run(digits, pool, config)
    assert len(whole.states) == 2 * 5 + 1
    for kept in whole.states:
        rest = Told()
        assert torch.equal(rest.run(digits, pool, config, kept).images, expected.images)
        assert same(whole.events[: kept["events"]] + rest.events) == same(whole.events)
    for wrong in ([], whole.states[2]["picks"][1:], "x"):
        with pytest.raises(UserError, match="the checkpoint is no state of this run"):
            Told().run(digits, pool, config, {**whole.states[2], "picks": wrong})
    with pytest.raises(UserError, match="the checkpoint was made with select_every 2, not 3"):
        Told().run(digits, pool, replace(config, select_every=3), whole.states[2])


def test_every_pause_at_once(digits: ImageData, pool: Pool) -> None:
    """A run that is stopped after each inner iteration, and goes on from what it kept there."""
    expected = Told().run(digits, pool, CONFIG)
    saved = None
    for _ in range(20):
        part = Told(stop_after=1)
        try:
            condensed = part.run(digits, pool, CONFIG, saved)
            break
        except Cut:
            saved = part.states[-1]
    assert torch.equal(condensed.images, expected.images)


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(digits: ImageData, pool: Pool) -> None:
    short = Told()
    short.run(digits, pool, replace(CONFIG, niter=2, eval_at=(1,)))
    long, config = Told(), replace(CONFIG, niter=4, eval_at=(1,))
    expected = long.run(digits, pool, config)
    rest = Told()
    assert torch.equal(rest.run(digits, pool, config, short.states[-1]).images, expected.images)
    assert same(short.events + rest.events) == same(long.events)
    with pytest.raises(UserError, match="the run has 2 outer iterations already, more than 1"):
        Told().run(digits, pool, replace(CONFIG, niter=1, eval_at=(1,)), short.states[-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr_img": 0.2}, "the checkpoint was made with lr_img 0.1, not 0.2"),
        ({"seed": 1}, "the checkpoint was made with seed 0, not 1"),
    ],
)
def test_a_state_of_other_settings_is_refused(
    change: dict[str, Any], words: str, digits: ImageData, pool: Pool
) -> None:
    told = Told(stop_after=0)
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    with pytest.raises(UserError, match=words):
        Told().run(digits, pool, replace(CONFIG, **change), told.states[0])


def test_a_state_of_other_images_or_models_is_refused(digits: ImageData, pool: Pool) -> None:
    told = Told(stop_after=0)
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    fewer = replace(pool, members=pool.members[:1])
    with pytest.raises(UserError, match="the checkpoint was made with another pool"):
        Told().run(digits, fewer, CONFIG, told.states[0])
    other = ImageData(255 - digits.images, digits.labels, name="digits")
    theirs = replace(pool, made_for=describe(other))
    with pytest.raises(UserError, match="the checkpoint was made for other training images"):
        Told().run(other, theirs, CONFIG, told.states[0])


def test_a_state_of_images_at_another_scale_is_refused(digits: ImageData, pool: Pool) -> None:
    told = Told(stop_after=0)
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    scaled = ImageData(digits.images, digits.labels, mean=digits.mean, std=[0.5], name="digits")
    with pytest.raises(UserError, match="the checkpoint was made for images at another scale"):
        Told().run(scaled, replace(pool, made_for=describe(scaled)), CONFIG, told.states[0])
    with pytest.raises(UserError, match=r"images at another scale \(std \[.*\]\) than digits has now \(\[0.5\]\)"):
        state.check_images(told.states[0], scaled)
    state.check_images(told.states[0], digits.to("cpu"))


@pytest.mark.parametrize("key", ["images", "samplers", "network", "generator", "outer", "belongs_to"])
def test_a_state_with_something_missing_is_refused(key: str, digits: ImageData, pool: Pool) -> None:
    told = Told(stop_after=2)
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    for wrong in ({}, [], "x", torch.zeros(2)):
        values = {**told.states[-1], key: wrong}
        with pytest.raises(UserError, match="checkpoint"):
            Told().run(digits, pool, CONFIG, values)
    del values[key]
    with pytest.raises(UserError, match="the checkpoint is no state of this run"):
        Told().run(digits, pool, CONFIG, values)


def test_other_threads_are_told(digits: ImageData, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    told = Told(stop_after=1)
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    caplog.clear()
    Told().run(digits, pool, CONFIG, {**told.states[-1], "threads": 7})
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "attar"] == [
        (
            "WARNING",
            "the run began with threads 7 and goes on with threads 1: its images may differ in rounding from those of "
            "an uninterrupted run",
        )
    ]


def test_a_run_that_grows_stays_compiled_or_not(digits: ImageData, pool: Pool) -> None:
    short = replace(CONFIG, niter=1, eval_at=())
    long = replace(short, niter=10**6)

    def compiled(config: CondenseConfig, saved: SavedState | None) -> bool:
        return set_up(digits, pool, config, state.how_it_began(saved)).gradients.execution.compiled

    assert [compiled(config, None) for config in (short, long)] == [False, True]
    for began in (False, True):
        for config in (short, long):
            assert compiled(config, {"compiled": began, "chunk": 1}) == began, "whatever the rule says now"
            assert compiled(replace(config, compile="on"), {"compiled": began, "chunk": 1})
            assert not compiled(replace(config, compile="off"), {"compiled": began, "chunk": 1})
    told = Told(stop_after=1)
    with pytest.raises(Cut):
        told.run(digits, pool, short)
    assert told.states[0]["compiled"] is False
    with pytest.raises(UserError, match="the checkpoint is no state of this run"):
        state.how_it_began({})


def test_a_run_goes_on_with_as_many_classes_at_once(digits: ImageData, pool: Pool) -> None:
    """However much memory is free by then: other groups round otherwise."""
    setup = set_up(digits, pool, CONFIG)
    setup.gradients.chunk = 4  # halved, say
    saved = state.snapshot(condensation.begin_outer(state.init(setup), setup), setup)
    assert set_up(digits, pool, CONFIG, state.how_it_began(saved)).gradients.chunk == 4
    less = replace(CONFIG, memory_gb=1.0)
    assert set_up(digits, pool, less, state.how_it_began(saved)).gradients.chunk == 1, "as many as the budget allows"
    for chunk in (0, -3, "many"):
        with pytest.raises(UserError, match="the checkpoint is no state of this run"):
            state.how_it_began({"compiled": False, "chunk": chunk})


def test_the_seconds_that_are_kept_are_those_of_the_beginning_too(
    digits: ImageData, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as of the clustering that the first images come from."""
    real, told = state.init, Told(stop_after=0)
    monkeypatch.setattr(run_stage, "init", lambda setup: time.sleep(0.3) or real(setup))
    with pytest.raises(Cut):
        told.run(digits, pool, CONFIG)
    assert told.states[0]["seconds"] >= 0.3


# ---- guards ----


@pytest.mark.parametrize("what", ["images", "momentum", "losses", "network"])
def test_a_state_that_is_not_finite_is_never_kept(what: str, digits: ImageData, pool: Pool) -> None:
    setup = set_up(digits, pool, CONFIG)
    now = condensation.begin_outer(state.init(setup), setup)
    now, loss = condensation.step(now, setup)
    state.snapshot(now, setup)
    bad = torch.tensor(float("nan"))
    if what == "losses":
        now.losses = [loss, bad]
    elif what == "network":
        assert now.network is not None
        next(iter(now.network.params.values())).data.view(-1)[0] = bad
    else:
        getattr(now, what).view(-1)[-1] = bad
    with pytest.raises(state.Diverged, match=r"lower the learning rate of the images or the network .lr_img is 0.1"):
        state.snapshot(now, setup)


def test_a_diverging_run_keeps_the_last_good_checkpoint(
    digits: ImageData, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = condensation.step, []

    def step(now: Any, setup: Any) -> Any:
        now, loss = real(now, setup)
        calls.append(loss)
        if len(calls) == 4:
            now.images[0, 0] = float("inf")
        return now, loss

    monkeypatch.setattr(condensation, "step", step)
    settings = {"ipc": 1, "factor": 2, "niter": 3, "inner_loop": 2, "n_data": 64, "save_every": "1it"}
    with pytest.raises(UserError, match=r"the images are no longer finite; lower .*checkpoint holds the last good"):
        attar.condense(digits, pool, folder=tmp_path / "run", recipe="digits", **settings)
    values = checkpoint.load(tmp_path / "run")
    assert values is not None and (values["outer"], values["inner"]) == (1, 1)
    assert values["images"].isfinite().all()


# ---- the command line ----

LIMIT = 120  # seconds that nothing here should take


def product(run: str | Path) -> list[bytes]:
    """The condensed set and the images on the way to it."""
    return [(Path(run) / name).read_bytes() for name in ("condensed.safetensors", run_folder.SNAPSHOTS)]


@pytest.fixture(scope="module")
def long(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool and the finished run whole/ of three outer iterations. Read only."""
    root = tmp_path_factory.mktemp("long") / "root"
    shutil.copytree(workspace / "pool", root / "pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        call("condense", "-d", "digits", *LONG, "--out", "whole", "--quiet")
    return root


@pytest.fixture
def here(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(long, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_and_the_same_command_again(number: signal.Signals, here: Path) -> None:
    """A real process is stopped in the middle; another one goes on, and ends like one that was left alone."""
    endless = [*POOL, "--niter", "100000", "--inner_loop", "2", "--n_data", "64", "--compile", "off"]
    command = ["condense", "-d", "digits", *endless, "--out", "run", "--save_every", "1it", "--resume", "auto"]
    with Forked(*command, folder=here, errors=here.parent / "errors.txt") as process:
        deadline = time.monotonic() + LIMIT
        while not (here / "run" / "checkpoint").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        said = process.wait(LIMIT)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert said.endswith("attar: interrupted; attar condense --resume run goes on\n") and "Traceback" not in said
    assert not Path("run/condensed.safetensors").exists()
    values = checkpoint.load(Path("run"))
    assert values is not None
    length = str(values["outer"] + 2)
    settings = json.loads(Path("run/config.json").read_text())
    settings["condense"]["niter"] = int(length)  # as if it had not been endless
    Path("run/config.json").write_text(json.dumps(settings))
    shorter = [length if flag == "100000" else flag for flag in endless]
    call("condense", "-d", "digits", *shorter, "--out", "run", "--resume", "auto", "--quiet")
    call("condense", "-d", "digits", *shorter, "--out", "straight", "--quiet")
    assert product("run") == product("straight")
    assert same(run_folder.RunFolder(Path("run")).events()) == same(run_folder.RunFolder(Path("straight")).events())
    assert sorted(path.name for path in Path("run").iterdir()) == sorted(
        path.name for path in Path("straight").iterdir()
    )


class Dying:
    """Every call of some functions may be the last: the process ends there, and nothing is cleaned up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *functions: tuple[Any, str]) -> None:
        self.moment = 0
        self.calls = 0
        for owner, name in functions:
            monkeypatch.setattr(owner, name, self.dying(getattr(owner, name)))

    def dying(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls > self.moment:
                os._exit(77)
            return real(*args)

        return call

    def repeat(self, command: list[str]) -> int:
        """The same command in a child process that dies after 0, 1, 2, ... calls, until it ends. Returns the deaths."""
        for deaths in range(200):
            child = os.fork()
            if child == 0:
                try:
                    main(command)
                except SystemExit as stop:
                    os._exit(int(stop.code or 0))
                finally:
                    os._exit(99)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == 0:
                return deaths
            assert status == 77
            self.moment += 1
        raise AssertionError("it never ends")


forking = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@forking
def test_stopped_at_every_moment_of_writing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run dies at its nth renaming, whatever is renamed; the same command goes on, without a hand, and dies again."""
    dying = Dying(monkeypatch, (Path, "rename"), (Path, "replace"))
    command = ["condense", "-d", "digits", *LONG, "--out", "run", "--save_every", "1it", "--resume", "auto", "--quiet"]
    assert dying.repeat(command) > 5  # of about thirty renamings: one more succeeds each time
    assert product("run") == product("whole")
    assert same(run_folder.RunFolder(Path("run")).events()) == same(run_folder.RunFolder(Path("whole")).events())
    assert sorted(path.name for path in Path("run").iterdir()) == sorted(path.name for path in Path("whole").iterdir())


@forking
def test_a_pool_goes_on_with_the_next_member(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["pretrain", "-d", "digits", *POOL, "--quiet", "--out"]
    call(*command, "straight")
    assert Dying(monkeypatch, (Path, "replace")).repeat([*command, "mine"]) == 2
    assert sorted(path.name for path in Path("mine").iterdir()) == sorted(
        path.name for path in Path("straight").iterdir()
    )
    for path in Path("mine").iterdir():
        assert path.read_bytes() == Path("straight", path.name).read_bytes()


@forking
def test_an_evaluation_goes_on_with_the_next_seed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--runs", "2", "--epochs", "1", "--whole_epochs", "1", "--quiet"]
    shutil.copytree("whole", "run")
    call("evaluate", "whole", *flags)
    dying = Dying(monkeypatch, (run_folder, "append"), (trained_module, "append"), (Path, "replace"))
    assert dying.repeat(["evaluate", "run", *flags]) > 3  # of 8 networks, the event, result and report
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("run", "whole")]
    for result in results:
        assert result.pop("seconds").keys() == {"pretrain", "condense", "evaluate"}
    assert results[0] == results[1]
    assert same(run_folder.RunFolder(Path("run")).events()) == same(run_folder.RunFolder(Path("whole")).events())
    assert sorted(path.name for path in Path("run").iterdir()) == sorted(path.name for path in Path("whole").iterdir())


def test_what_is_known_is_not_trained_again(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "check_precision", lambda *_: None)  # tf32 is of GPUs
    condensed, data = attar.load_set(long / "whole"), attar.load("digits")
    config = EvaluateConfig(runs=2, epochs=1, whole_epochs=1)
    network = NetworkConfig(depth=2, width=0.05)
    trained = TrainedNetworks()
    accuracies = measure.evaluate(condensed, data, config, network, trained=trained)
    whole = dict(trained.results)
    assert len(whole) == 8
    missing = [trained.results.popitem() for _ in range(3)]
    kept = dict(trained.results)
    assert measure.evaluate(condensed, data, config, network, trained=trained) == accuracies
    assert trained.results.keys() - kept.keys() == dict(missing).keys() and trained.results == whole
    inverted = replace(condensed, images=1 - condensed.images)
    measure.evaluate(inverted, data, config, network, trained=trained)
    assert len(trained.results) == 8 + 2  # of the set itself; the yardsticks are the same
    for change in ({"lr": 0.02}, {"batch_size": 32}, {"mix_p": 0.0}, {"precision": "tf32"}):
        trained.results = dict(whole)
        measure.evaluate(condensed, data, replace(config, **change), network, trained=trained)
        assert len(trained.results) == 8 + 8, change


def test_going_on_and_growing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [flag if flag != "3" else "2" for flag in LONG]
    call("condense", "-d", "digits", *short, "--out", "run", "--resume", "auto")
    capsys.readouterr()
    done = "run is done: 2 outer iterations; a larger --niter makes it longer\n"
    product_is = "run/condensed.safetensors\nnext: attar evaluate run\n"
    call("condense", "-d", "digits", *short, "--out", "run", "--resume", "auto")
    assert capsys.readouterr() == (product_is, done)
    call("condense", "--resume", "run")
    assert capsys.readouterr() == (product_is, done)
    call("condense", "--resume", "run", "--quiet")
    assert capsys.readouterr() == (product_is, "")
    call("condense", "--resume", "run", "--niter", "3")
    said = capsys.readouterr()
    assert "going on with run after 2 of 3 outer iterations\n" in said.err
    assert "condense 3/3" in said.err
    assert said.out == product_is
    assert product("run") == product("whole")
    settings, result = (json.loads(Path("run", name).read_text()) for name in ("config.json", "result.json"))
    assert settings["condense"]["niter"] == 3
    assert len(settings["attar"]["continued"]) == 1
    assert result["inner_iterations"] == 6
    call("condense", "--resume", "run", "--json", "--quiet")
    actual = json.loads(capsys.readouterr().out)
    assert actual == {"run": "run", "files": actual["files"], **result}
    events = run_folder.RunFolder(Path("run")).events()
    assert same(events) == same(run_folder.RunFolder(Path("whole")).events())
    assert [event["seconds"] for event in events] == sorted(event["seconds"] for event in events)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, which has to refuse, and return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    said = capsys.readouterr()
    assert (stop.value.code, said.out, said.err.count("\n")) == (2, "", 1), said
    return said.err.removeprefix("attar: error: ").rstrip("\n")


def test_other_moments_of_evaluation_change_no_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--eval_at` and `--curve` are free when a run goes on, by either way; what never comes is refused there too."""
    file = "inner_loop = 2\nn_data = 64\nepochs = 1\nmodels = 2\nwidth = 0.05\n[evaluate]\nepochs = 1\nruns = 1\n"
    Path("mine.toml").write_text(file, encoding="utf-8")
    same = ("condense", "-d", "digits", "--recipe", "mine.toml", "--quiet")
    call(*same, "--niter", "3", "--out", "once")
    call(*same, "--niter", "1", "--out", "run")
    call(*same, "--niter", "2", "--eval_at", "2", "--no_curve", "--out", "run", "--resume", "auto")
    call("condense", "--resume", "run", "--niter", "3", "--eval_at", "3", "--curve", "--quiet")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["outer"] for line in lines if line.get("event") == "evaluation"] == [2, 3]
    assert json.loads(Path("run/config.json").read_text())["condense"]["eval_at"] == [3]
    assert torch.equal(attar.load_set("run").images, attar.load_set("once").images)
    call("condense", "--resume", "run", "--eval_at", "1", "3", "--quiet")
    assert "eval_at 1 is past: the run has done 3 outer iterations" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["condense", "--resume", "run", "--niter", "4", "--eval_at", "9", "--quiet"])
    assert stop.value.code == 2 and "eval_at 9 never comes" in capsys.readouterr().err


def test_what_is_refused_beside_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (("--lr_img", "1"), "--lr_img cannot change what a run was begun with; leave it out beside --resume"),
        (("-d", "digits"), "--dataset cannot change what a run was begun with; leave it out beside --resume"),
        (("--out", "x"), "--out cannot change what a run was begun with; leave it out beside --resume"),
        (("--recipe", "digits"), "--recipe cannot change what a run was begun with; leave it out beside --resume"),
        (("--overwrite",), "--resume goes on with a run, and --overwrite replaces it; leave one out"),
        (("--niter", "2"), "whole holds a run of 3 outer iterations; niter can make it longer, not 2"),
        (
            ("--niter", "9", "--speedup", "5"),
            "niter is the number of outer iterations, and speedup changes nothing then; leave one out",
        ),
        (("--speedup", "1000"), "whole holds a run of 3 outer iterations; niter can make it longer, not 2"),
        (
            ("--save_every", "soon"),
            "save_every must be a time or a number of inner iterations, such as 600s, 10m, 2h, "
            "50it or none, not 'soon'",
        ),
    ):
        assert refused(capsys, "condense", "--resume", "whole", *flags) == words
    assert refused(capsys, "condense", "--resume", "nowhere").startswith("nowhere holds no run to go on with")
    auto = ("condense", "-d", "digits", *LONG, "--out", "whole", "--resume", "auto")
    words = "whole holds a run with lr_img 0.001, and 0.5 is asked for; name another folder with --out"
    assert refused(capsys, *auto, "--lr_img", "0.5").startswith(words)
    assert refused(capsys, "condense", "-d", "digits", *LONG, "--out", "whole").startswith("whole already holds a run")
    shutil.rmtree("whole/checkpoint")
    assert refused(capsys, "condense", "--resume", "whole", "--niter", "4") == (
        "whole holds no checkpoint to go on from; start again with --overwrite"
    )


def test_two_runs_in_one_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_folder.open_run_folder(here / "whole"):
        words = "another attar is at work in whole; wait until it is done, or name another folder"
        for command in (
            ("condense", "--resume", "whole", "--niter", "4"),
            ("condense", "-d", "digits", *LONG, "--out", "whole", "--overwrite", "--quiet"),
            ("condense", "-d", "digits", *LONG, "--out", "whole", "--quiet"),  # nor that it could be replaced
            ("evaluate", "whole", "--quiet"),
        ):
            assert refused(capsys, *command) == words
    call("show", "whole")
    assert not Path("whole/.lock").exists()


def test_a_run_that_another_call_ends_meanwhile_is_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["condense", "-d", "digits", *LONG, "--out", "run", "--quiet"]
    real = condense_stage.find_pool

    def slowly(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(condense_stage, "find_pool", real)
        call(*command)
        capsys.readouterr()
        return real(*args, **options)

    monkeypatch.setattr(condense_stage, "find_pool", slowly)
    assert refused(capsys, *command).startswith("run already holds a run")
    assert product("run") == product("whole")
    shutil.rmtree("run")
    monkeypatch.setattr(condense_stage, "find_pool", slowly)
    call(*command, "--resume", "auto")  # then it is done
    assert product("run") == product("whole")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-d", "digits", *LONG, "--out", "run", "--save_every", "1it", "--quiet"]
    call("condense", *flags)
    # as it was in the middle of the last outer iteration
    shutil.copytree("run/checkpoint", "last")
    short = [flag if flag != "3" else "2" for flag in LONG]
    call("condense", "-d", "digits", *short, "--out", "short", "--quiet")
    shutil.copytree("short/checkpoint", "run/checkpoint.previous")
    Path("run/result.json").unlink()
    path = Path("run/checkpoint/tensors.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    call("condense", "--resume", "run")
    said = capsys.readouterr().err
    assert "run/checkpoint is damaged: its checksums do not fit; going on from the one before it\n" in said
    assert "going on with run after 2 of 3 outer iterations\n" in said
    assert product("run") == product("whole")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    call("condense", "--resume", "run")  # all is there: what a run would go on from does not matter
    assert capsys.readouterr().err.startswith("run is done: 3 outer iterations")
    Path("run/result.json").unlink()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert refused(capsys, "condense", "--resume", "run") == (
        "run/checkpoint is damaged: its checksums do not fit, and there is no other; start again with --overwrite"
    )


def test_a_full_disk_stops_a_run_that_can_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the fourth checkpoint, at the product, at the page, at result.json: one line, and nothing is lost."""
    command = ["condense", "-d", "digits", *LONG, "--out", "run", "--save_every", "1it", "--resume", "auto", "--quiet"]
    checkpoints, real = [], checkpoint.save_file
    full = OSError(errno.ENOSPC, "No space left on device")

    def fourth(*args: Any) -> None:
        checkpoints.append(args)
        if len(checkpoints) == 4:
            raise full
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fourth)
        said = refused(capsys, *command)
    goes_on = "with more room attar condense --resume run goes on"
    assert said == f"run/checkpoint cannot be written: No space left on device; the one before it is whole; {goes_on}"
    for name in (run_folder.SNAPSHOTS, "condensed.safetensors", "images.png", "report.html", "result.json"):
        replace_file = Path.replace

        def fails(path: Path, target: Path, name: str = name, how: Any = replace_file) -> Path:
            if target.name == name:
                raise full
            return how(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fails)
            assert refused(capsys, *command).startswith(f"run/{name} cannot be written: No space left on device")
        assert not [path for path in Path("run").iterdir() if path.name.startswith(".")]
    call(*command)
    assert product("run") == product("whole")
    assert same(run_folder.RunFolder(Path("run")).events()) == same(run_folder.RunFolder(Path("whole")).events())


# ---- in Python ----


def test_a_folder_in_python(digits: ImageData, pool: Pool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"recipe": "digits", "ipc": 1, "inner_loop": 2, "n_data": 64}
    expected = attar.condense(digits, pool, niter=3, **settings)
    run = tmp_path / "run"
    first = attar.condense(digits, pool, niter=2, folder=run, **settings)
    assert torch.equal(attar.condense(digits, pool, niter=2, folder=run, **settings).images, first.images)
    longer = attar.condense(digits, pool, niter=3, folder=run, **settings)
    assert torch.equal(longer.images, expected.images)
    assert longer.recipe == expected.recipe
    assert torch.equal(attar.load_set(run).images, expected.images)
    assert [event["outer"] for event in run_folder.RunFolder(run).events()] == [1, 2, 3]
    with pytest.raises(UserError, match=r"holds a run with ipc 1, and 2 is asked for"):
        attar.condense(digits, pool, niter=3, folder=run, **{**settings, "ipc": 2})
