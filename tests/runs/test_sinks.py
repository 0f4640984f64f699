"""TensorBoard and Weights & Biases get what metrics.jsonl gets; where a package is missing it is said how to get it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from attar.cli.parser import main
from attar.errors import MissingError, UserError
from attar.runs import sinks

STEP = {"event": "step", "outer": 3, "inner": 20, "loss": 0.5, "seconds": 1.25}
ON_THE_WAY = {"event": "evaluation", "outer": 3, "accuracy": {"convnet2": 0.75}}
AT_THE_END = {
    "event": "evaluation",
    "outer": None,
    "accuracy": {"convnet2": {"mean": 0.9, "std": 0.01, "runs": [0.9]}},
    "whole": {"convnet2": {"mean": 0.95, "std": None, "runs": [0.95]}},
}


def test_the_numbers_of_an_event() -> None:
    assert sinks.numbers(STEP) == {"loss": 0.5, "seconds": 1.25}
    assert sinks.numbers(ON_THE_WAY) == {"accuracy/convnet2": 0.75}
    assert sinks.numbers(AT_THE_END) == {"final accuracy/convnet2": 0.9, "final whole/convnet2": 0.95}


def test_unknown_and_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown log 'tensorbord'; did you mean 'tensorboard'"):
        sinks.check_sinks(["tensorbord"])
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"wandb is not installed; pip install 'attar\[wandb\]'"):
        sinks.check_sinks(["wandb"])
    with pytest.raises(SystemExit) as stop:
        main(["condense", "-d", "digits", "--log", "tensorboard", "--out", "nowhere"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == ("attar: error: tensorboard is not installed; pip install 'attar[tensorboard]'\n")
    assert not Path("nowhere").exists()


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of all event files, as TensorBoard's own reader sees them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(tag, item.step, item.value) for tag in reader.Tags()["scalars"] for item in reader.Scalars(tag)]


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    with sinks.open_sinks(["tensorboard"], tmp_path, {}) as opened:
        for event in (STEP, ON_THE_WAY, AT_THE_END):
            for sink in opened:
                sink(event)
    expected = [
        ("loss", 3, 0.5),
        ("seconds", 3, 1.25),
        ("accuracy/convnet2", 3, 0.75),
        ("final accuracy/convnet2", 3, pytest.approx(0.9)),
        ("final whole/convnet2", 3, pytest.approx(0.95)),
    ]
    assert scalars(tmp_path / "tensorboard") == expected
    with sinks.open_sinks(["tensorboard"], tmp_path, {}) as opened:  # the run again: what it wrote before is gone
        opened[0](STEP | {"outer": 1, "loss": 0.25})
    assert scalars(tmp_path / "tensorboard") == [("loss", 1, 0.25), ("seconds", 1, 1.25)]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own file holds settings, steps and the summary; nothing is sent."""
    for name, value in {"MODE": "offline", "SILENT": "true", "PROJECT": "mine", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    run = tmp_path / "run"
    run.mkdir()
    with sinks.open_sinks(["wandb"], run, {"condense": {"ipc": 1}}) as opened:
        for event in (STEP, ON_THE_WAY, AT_THE_END):
            opened[0](event)
    import wandb

    wandb.teardown()  # waits for the process that writes the file, which may do so after the end of the run
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    records = b"".join(chunks(file.read_bytes()))
    for words in (b"loss", b"accuracy/convnet2", b"final whole/convnet2", b"ipc", b"mine"):
        assert words in records


def chunks(data: bytes) -> list[bytes]:
    """The payload of W&B's log file: blocks of 32 KiB, records of checksum, length and kind after seven bytes."""
    actual, at = [], 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length = struct.unpack("<H", data[at + 4 : at + 6])[0]
        actual.append(data[at + 7 : at + 7 + length])
        at += 7 + length
    return actual


def test_a_run_tells_its_sinks_what_it_writes_down(tmp_path: Path) -> None:
    from attar.runs.run_folder import RunFolder

    heard: list[dict[str, Any]] = []
    folder = RunFolder(tmp_path, (heard.append,))
    folder.event(STEP)
    folder.event(ON_THE_WAY)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert heard == [STEP, ON_THE_WAY] == [json.loads(line) for line in lines]
