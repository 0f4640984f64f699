"""Checkpoints on the disk: whole at every instant, and never read as anything but what was written."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from attar import signals
from attar.errors import UserError, WriteError
from attar.runs import checkpoint
from attar.runs.checkpoint import CURRENT, DAMAGED, FORMAT, PREVIOUS, CheckpointWriter, Interval

FILES = ("tensors.safetensors", "state.json", "SHA256SUMS")


def state(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "images": torch.full((2, 3), float(number)),
        "network": {"params": {"layers.0.weight": torch.arange(4).view(2, 2).t()}, "none": None},
        "decks": [{"order": torch.arange(number), "next": 0}, {"order": torch.arange(3), "next": 1}],
        "generator": torch.Generator().manual_seed(number).get_state(),
        "words": ["a", True, 0.1],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture
def load_silently(caplog: pytest.LogCaptureFixture) -> Callable[[Path], Any]:
    """`checkpoint.load`, which must say nothing."""

    def load(run: Path) -> Any:
        caplog.clear()
        try:
            return checkpoint.load(run)
        finally:
            assert caplog.messages == []

    caplog.set_level("INFO", logger="attar")
    return load


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A run folder with the checkpoints 1 and 2."""
    for number in (1, 2):
        checkpoint.write(tmp_path, state(number))
    return tmp_path


def test_what_is_written_is_read(tmp_path: Path, load_silently: Callable[[Path], Any]) -> None:
    assert load_silently(tmp_path) is None and not checkpoint.exists(tmp_path)
    for number in range(4):
        checkpoint.write(tmp_path, state(number))
        assert same(load_silently(tmp_path), state(number))
        assert sorted(path.name for path in (tmp_path / CURRENT).iterdir()) == sorted(FILES)
        names = [CURRENT, PREVIOUS] if number else [CURRENT]
        assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert same(checkpoint.read(tmp_path / PREVIOUS), state(2))
    checkpoint.finish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CURRENT]
    checkpoint.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_checksums_can_be_checked_by_hand(two: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=two / CURRENT, capture_output=True, check=False)
    assert done.returncode == 0


def test_any_flipped_bit_and_any_cut_is_found(
    two: Path, load_silently: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The one before is taken, after one line; a wrong state is never read."""
    kept = two.with_name("kept")
    shutil.copytree(two, kept)
    draws = random.Random(0)
    for number in range(200):
        path = two / CURRENT / FILES[number % 3]
        whole = path.read_bytes()
        place = draws.randrange(len(whole))
        cut = number % 2
        path.write_bytes(
            whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1 << number % 8]) + whole[place + 1 :]
        )
        caplog.clear()
        assert same(checkpoint.load(two), state(1)), (path.name, place, cut)
        (line,) = caplog.messages
        assert line.startswith(f"{two / CURRENT} is damaged: ")
        assert line.endswith("; going on from the one before it")
        assert sorted(item.name for item in two.iterdir()) == [CURRENT, DAMAGED]
        assert same(load_silently(two), state(1))
        shutil.rmtree(two)
        shutil.copytree(kept, two)


@pytest.mark.parametrize("name", FILES)
def test_without_another_one_a_damaged_checkpoint_is_refused(
    name: str, two: Path, load_silently: Callable[[Path], Any]
) -> None:
    (two / PREVIOUS / name).write_bytes(b"")
    (two / CURRENT / name).unlink()
    words = (
        f"{two / CURRENT} is damaged: No such file or directory, and there is no other; start again with --overwrite"
    )
    for _ in range(2):
        with pytest.raises(checkpoint.DamagedCheckpoint) as raised:
            load_silently(two)
        assert str(raised.value) == words
        checkpoint.finish(two)


def test_a_later_format_is_not_taken_for_damage(two: Path, load_silently: Callable[[Path], Any]) -> None:
    folder = two / CURRENT
    plain = json.loads((folder / "state.json").read_text())
    plain["format"] = FORMAT + 1
    (folder / "state.json").write_text(json.dumps(plain))
    digests = {name: checkpoint._digest(folder / name) for name in FILES[:2]}
    (folder / "SHA256SUMS").write_text(checkpoint._checksum_text(digests))
    with pytest.raises(UserError, match=f"has format {FORMAT + 1}; this attar reads format {FORMAT}"):
        load_silently(two)
    assert folder.exists()


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"format": 1}', '{"format": 1, "state": {"x": {"$tensor": 4}}}', "{", "[" * 9999]
)
def test_json_that_is_no_state(text: str, two: Path) -> None:
    folder = two / CURRENT
    (folder / "state.json").write_text(text)
    digests = {name: checkpoint._digest(folder / name) for name in FILES[:2]}
    (folder / "SHA256SUMS").write_text(checkpoint._checksum_text(digests))
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.read(folder)


@pytest.mark.parametrize("moment", range(1, 20))
def test_a_full_disk_leaves_the_old_one_whole(
    moment: int, two: Path, monkeypatch: pytest.MonkeyPatch, load_silently: Callable[[Path], Any]
) -> None:
    """Whatever is done to the disk, the nth of it fails."""
    calls: list[object] = []

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(real)
            if len(calls) == moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "mkdir"),
            (Path, "write_text"),
            (Path, "rename"),
            (checkpoint, "save_file"),
            (os, "fsync"),
        ):
            patch.setattr(owner, name, failing(getattr(owner, name)))
        try:
            checkpoint.write(two, state(3))
        except WriteError as error:
            words = f"{two / CURRENT} cannot be written: No space left on device; the one before it is whole"
            assert str(error) == words
            numbers = (2, 3)  # 3: all of it is there but for the last step
        else:
            assert moment > 8
            numbers = (3,)
    values = load_silently(two)
    assert values is not None and values["number"] in numbers
    assert same(values, state(values["number"]))
    assert not [path for path in two.iterdir() if path.name.startswith(".")]


def test_the_writers_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(
        WriteError, match=r"checkpoint cannot be written: I/O error: No space left on device \(os error 28\)$"
    ):
        checkpoint.write(tmp_path, state(0))
    assert list(tmp_path.iterdir()) == []


# ---- when ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("600", Interval(seconds=600)),
        ("600s", Interval(seconds=600)),
        ("1.5m", Interval(seconds=90)),
        ("2h", Interval(seconds=7200)),
        (" 0 ", Interval(seconds=0)),
        ("50it", Interval(iterations=50)),
        ("none", Interval()),
    ],
)
def test_intervals(text: str, expected: Interval) -> None:
    assert checkpoint.interval(text) == expected


@pytest.mark.parametrize("text", ["", "m", "-1", "1e3", "0it", "1.5it", "5 m", "inf", "nan", "10d", "٣"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="save_every must be a time or a number of inner iterations, such as 600s"):
        checkpoint.interval(text)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: self.now)


def written(monkeypatch: pytest.MonkeyPatch, every: str, *, cost: float = 0.0, steps: int = 100) -> list[float]:
    """When checkpoints are written in `steps` iterations of one second."""
    clock, times = Clock(monkeypatch), []

    def write(run: Path, values: Any) -> None:
        times.append(clock.now)
        clock.now += cost

    monkeypatch.setattr(checkpoint, "write", write)
    keeper = CheckpointWriter(Path("run"), checkpoint.interval(every), signals.DeferredSignal())
    for _ in range(steps):
        clock.now += 1
        keeper(lambda: {})
    return times


def test_a_checkpoint_is_written_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, "30s") == [30, 60, 90]
    assert written(monkeypatch, "40it") == [40, 80]
    assert written(monkeypatch, "none") == []
    assert written(monkeypatch, "5m", steps=299) == []
    # one that takes a second comes after 50 of work
    assert written(monkeypatch, "10s", cost=1.0) == [10, 61]


def test_a_signal_writes_one_at_once(tmp_path: Path, load_silently: Callable[[Path], Any]) -> None:
    stop = signals.DeferredSignal()
    keeper = CheckpointWriter(tmp_path, Interval(), stop)
    keeper(lambda: state(1))
    assert not checkpoint.exists(tmp_path)
    stop.handle(15, None)
    with pytest.raises(signals.Interrupted) as raised:
        keeper(lambda: state(2))
    assert raised.value.status == 143
    assert same(load_silently(tmp_path), state(2))


def test_a_second_signal_does_not_wait() -> None:
    stop = signals.DeferredSignal()
    stop.handle(2, None)
    with pytest.raises(signals.Interrupted) as raised:
        stop.handle(2, None)
    assert raised.value.status == 130
    with pytest.raises(signals.Interrupted), stop.allowed():
        raise AssertionError("not reached")
    with pytest.raises(signals.Interrupted):
        stop.check()
    fresh = signals.DeferredSignal()
    with pytest.raises(signals.Interrupted), fresh.allowed():
        fresh.handle(15, None)
