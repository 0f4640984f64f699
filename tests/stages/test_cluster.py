"""Ray: the same numbers as without, also when a worker dies; what is refused; nothing is copied that need not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import attar
from attar.cli import parser
from attar.errors import MissingError, UserError
from attar.evaluation.measure import run_once
from attar.stages import cluster
from attar.stages.cluster import RayWorkers
from attar.training.pool import Member, Pool
from helpers.command import TINY

ALL = ("-d", "digits", *TINY, "--nclass_sub", "4")


class Failed(Exception):
    """What Ray makes of an error in a task."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Lost(Exception):
    """What Ray says of a task that it gives up."""


class OneProcess:
    """Stands in for the module ray: what is put stays in this process, and a task runs when its result is fetched."""

    ObjectRef = tuple
    exceptions = SimpleNamespace(RayTaskError=Failed, RayError=Lost)

    def __init__(self, nodes: list[dict[str, float]] | None = None) -> None:
        self.kept: list[Any] = []
        self.wanted: list[dict[str, Any]] = []
        self.cancelled = 0
        self.busy = 0  # looks at a task before it is done
        self.sizes = nodes or []

    def put(self, value: Any) -> tuple[int]:
        self.kept.append(value)
        return (len(self.kept) - 1,)

    def get(self, ref: Any) -> Any:
        return ref() if callable(ref) else self.kept[ref[0]]

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.options = options

        def decorate(function: Callable[..., Any]) -> Any:
            def options(**wanted: Any) -> Any:
                self.wanted.append(wanted)
                return SimpleNamespace(remote=lambda *args: lambda: self.computed(function, args))

            return SimpleNamespace(options=options)

        return decorate

    def computed(self, function: Callable[..., Any], args: Any) -> Any:
        try:
            return function(*args)
        except (UserError, KeyError) as error:
            raise Failed(error) from error

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.busy -= 1
        return ([], tasks) if self.busy >= 0 else (tasks, [])

    def cancel(self, task: Any) -> None:
        self.cancelled += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": size} for size in self.sizes]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[OneProcess]:
    made = OneProcess()
    monkeypatch.setitem(sys.modules, "ray", made)
    yield made
    torch.set_num_threads(1)  # a task sets its own


CPU = torch.device("cpu")


def double(value: int) -> int:
    return 2 * value


def refuse(value: int) -> None:
    raise UserError(f"{value} is too much")


def looked_at(data: attar.ImageData) -> tuple[int, str, bool]:
    return data.images.data_ptr(), data.fingerprint, torch.is_grad_enabled()


# ---- workers ----


def test_calls_come_back_in_order(ray: OneProcess) -> None:
    workers = RayWorkers(ray, CPU, 3)
    assert list(workers.map(lambda job: workers.call(double, job), range(50))) == [2 * job for job in range(50)]
    assert ray.wanted == [{"num_cpus": 1}] * 50
    assert ray.options["max_retries"] == cluster.MAX_RETRIES and ray.options["retry_exceptions"] is False
    workers.call(double, 1, many=True)
    assert ray.wanted[-1] == {"num_cpus": 3}
    assert RayWorkers(ray, torch.device("cuda"), 3).device.type == "cuda"
    workers.close()


def test_a_gpu_is_asked_for_where_the_data_live_on_one(ray: OneProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "to_device", lambda value, device: value)
    assert RayWorkers(ray, torch.device("cuda"), 8).call(double, 4, many=True) == 8
    assert ray.wanted == [{"num_cpus": 1, "num_gpus": 1}]


def test_what_a_task_refuses_is_refused_here(ray: OneProcess) -> None:
    with pytest.raises(UserError, match=r"^7 is too much$"):
        RayWorkers(ray, CPU, 1).call(refuse, 7)
    workers = RayWorkers(ray, CPU, 1)
    with pytest.raises(UserError, match=r"^0 is too much$"):
        list(workers.map(lambda job: workers.call(refuse, job), range(3)))


def test_a_task_that_is_given_up(ray: OneProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(ref: Any) -> None:
        raise Lost("the node died\nlong story")

    monkeypatch.setattr(ray, "get", lose)
    with pytest.raises(UserError, match=r"^Ray gave a task up: the node died$"):
        RayWorkers(ray, CPU, 1).call(double, 1)


def test_progress_is_told_while_a_task_runs(ray: OneProcess) -> None:
    seen: list[int] = []
    ray.busy = 3
    assert RayWorkers(ray, CPU, 1).call(double, 1, idle=lambda: seen.append(1)) == 2
    assert len(seen) == 3


def test_a_session_that_ends_leaves_no_task(ray: OneProcess) -> None:
    workers = RayWorkers(ray, CPU, 1)
    ray.busy = 1000
    workers.stopped.set()
    with pytest.raises(KeyboardInterrupt):
        workers.call(double, 1)
    assert ray.cancelled == 1


def test_images_are_sent_once_and_not_copied(ray: OneProcess) -> None:
    data = attar.load("digits", device="cpu")
    workers = RayWorkers(ray, CPU, 1)
    found = [workers.call(looked_at, data) for _ in range(3)]
    arrays = [value for value in ray.kept if isinstance(value, np.ndarray)]
    assert len(arrays) == 4
    assert {place for place, _, _ in found} == {arrays[0].ctypes.data}
    assert {fingerprint for _, fingerprint, _ in found} == {data.fingerprint}


def test_received_images_are_the_same_data(ray: OneProcess) -> None:
    data = attar.load("digits", nclass=3, device="cpu")
    shared = cluster.share(ray, data)
    for value in ray.kept:
        value.flags.writeable = False  # as in shared memory
    got = cluster.receive(ray, shared)
    assert torch.equal(got.images, data.images) and torch.equal(got.labels, data.labels)
    assert got.test_images is not None and data.test_images is not None
    assert torch.equal(got.test_images, data.test_images)
    assert (got.classes, got.mean, got.std, got.name) == (data.classes, data.mean, data.std, data.name)
    assert got.fingerprint == attar.ImageData(data.images, data.labels, classes=data.classes).fingerprint
    rows = torch.arange(5)
    assert torch.equal(got.fetch(rows), data.fetch(rows))


def test_whitened_images_are_whitened_elsewhere(ray: OneProcess) -> None:
    data = attar.load("digits", nclass=3, device="cpu", zca=True)
    got = cluster.receive(ray, cluster.share(ray, data))
    assert got.space == "zca" and data.whitening is not None and got.whitening is not None
    assert torch.equal(got.fetch(torch.arange(5)), data.fetch(torch.arange(5)))
    assert all(torch.equal(value, vars(got.whitening)[name]) for name, value in vars(data.whitening).items())


def test_models_and_seeds_are_the_same_elsewhere(ray: OneProcess) -> None:
    data = attar.load("digits", device="cpu")
    flags = {"epochs": 1, "models": 2, "width": 0.05}
    here = attar.pretrain(data, **flags)  # type: ignore[arg-type]
    workers = RayWorkers(ray, CPU, 1)
    from attar.evaluation import measure
    from attar.settings import layers
    from attar.training import early_stage

    recipe = layers.resolve(attar.settings.config.FLAGS["pretrain"], flags, recipe="digits")
    there = early_stage.pretrain(data, recipe.pool, recipe.network, workers=workers)
    for one, other in zip(here.members, there.members, strict=True):
        assert (one.name, one.accuracy) == (other.name, other.accuracy)
        assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())
    condensed = attar.condense(data, here, niter=1, inner_loop=1, n_data=64)
    config = attar.settings.config.EvaluateConfig(runs=2, epochs=1, whole_epochs=1)
    measured = [measure.evaluate(condensed, data, config, here.network, workers=who) for who in (None, workers)]
    assert measured[0] == measured[1]
    assert run_once.__module__ == "attar.evaluation.measure"  # a node imports it by this name
    workers.close()


def test_every_tensor_is_moved() -> None:
    member = Member({"w": torch.ones(2)}, {}, {"epochs": 1}, 0.5, "name")
    pool = Pool(attar.settings.config.NetworkConfig(), {"size": [8, 8]}, (member,))
    found = cluster.to_device({"pool": pool, "more": [torch.zeros(1), "x"]}, "meta")
    assert found["pool"].members[0].params["w"].device.type == "meta"
    assert found["more"][0].device.type == "meta" and found["more"][1] == "x"
    assert (found["pool"].members[0].name, found["pool"].made_for) == ("name", {"size": [8, 8]})


def test_what_ray_prints_is_kept_apart(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """A worker that dies makes Ray print pages, on standard output."""
    caplog.set_level("INFO", logger="attar")

    def report() -> None:
        print("Task _task failed. There are 20 retries remaining, so the task will be retried.")
        print("Last 20 lines of the Raylet logs:")

    with cluster.without_ray_reports():
        for name in ("ray_listen_error_messages", "mine"):
            thread = threading.Thread(target=report, name=name)
            thread.start()
            thread.join()
    assert caplog.messages == ["a Ray worker or node died; its task begins again"]
    assert capsys.readouterr().out.count("Raylet") == 1


# ---- what is refused ----


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (("condense", *ALL), ("pretrain", "-d", "digits")):
        with pytest.raises(SystemExit) as stop:
            parser.main([*command, "--ray", "--quiet"])
        said = capsys.readouterr().err
        assert (stop.value.code, said.count("\n")) == (2, 1)
        assert "--ray needs the package ray; install it with: pip install 'attar[ray]'" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MissingError), cluster.session("local", CPU):
        pass


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "words"),
    [
        ([{"CPU": 1}, {"CPU": 4}, {}], "cpu", 8, "no node of the Ray cluster has 8 CPUs for a part; use --ray_cpus 4"),
        ([{"CPU": 4}], "cuda", 1, "no node of the Ray cluster has a GPU; use --device cpu"),
    ],
)
def test_clusters_that_are_too_small(nodes: Any, device: str, threads: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cluster._check_room(OneProcess(nodes), threads, torch.device(device))
    cluster._check_room(OneProcess([{"CPU": 8, "GPU": 1}]), threads, torch.device(device))


@pytest.mark.parametrize(
    ("tokens", "completed"),
    [
        ("condense --ray", "condense --ray=local"),
        ("condense --ray --ipc 1", "condense --ray=local --ipc 1"),
        ("condense --ray auto --ipc 1", "condense --ray auto --ipc 1"),
        ("condense --ray 10.0.0.1:6379", "condense --ray 10.0.0.1:6379"),
        ("condense --ray=head:6379", "condense --ray=head:6379"),
        ("evaluate --ray ray://head:10001 run", "evaluate --ray ray://head:10001 run"),
        ("evaluate --ray runs/mine", "evaluate --ray=local runs/mine"),
        ("evaluate runs/mine", "evaluate runs/mine"),
    ],
)
def test_an_address_may_be_left_out(tokens: str, completed: str) -> None:
    assert parser._complete(tokens.split()) == completed.split()


# ---- a real cluster ----


def workers_of(parent: int) -> list[int]:
    """The processes below `parent` that compute a task."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::_task"):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if descends(pid, parent)]


def descends(pid: int, parent: int) -> bool:
    while pid > 1:
        if pid == parent:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_worker_that_dies_changes_nothing(run_attar: Callable[..., Any], tmp_path: Path) -> None:
    """`--ray` equals one part after another, with as many threads, though workers are killed in the middle of one."""
    pytest.importorskip("ray")
    long = [flag if ALL[place - 1] != "--niter" else "16" for place, flag in enumerate(ALL)]
    long += ["--compile", "off", "--save_every", "2it"]
    threads = {"OMP_NUM_THREADS": "2"}  # the network's batches are split among them
    assert run_attar("condense", *long, "--out", "here", cwd=tmp_path, env=threads).returncode == 0
    command = [sys.executable, "-m", "attar", "condense", *long, "--out", "there", "--ray"]
    environment = {**os.environ, **threads}
    signals, killed = [signal.SIGTERM, signal.SIGKILL], set()  # a condensation holds back the first of them
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while signals and process.poll() is None and time.monotonic() < deadline:
            if list((tmp_path / "there").glob("parts/*/checkpoint")):
                for pid in set(workers_of(process.pid)) - killed:
                    if signals:
                        os.kill(pid, signals.pop(0))
                        killed.add(pid)
            time.sleep(0.02)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert not signals
    assert "a Ray worker or node died; its task begins again" in said
    for phase in (0, 1, 2):
        assert f"part {phase} 16/16" in said
    for name in ("condensed.safetensors", "initial.safetensors", "images.png"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name
    parts = [path.read_text(encoding="utf-8") for path in (tmp_path / "there").glob("parts/*/config.json")]
    assert len(parts) == 3
    assert any('"continued"' in text for text in parts), "the killed part went on from its checkpoint"
