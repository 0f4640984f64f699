"""Readers of files with damaged input: refusals of one line, sound results, no code run. More in `benchmarks.fuzz`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from benchmarks.fuzz_targets import TARGETS

from benchmarks import fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_or_read_soundly(name: str) -> None:
    result = fuzz.fuzz(40, seed=1, only=[name])
    assert result["faults"] == []
    assert (result["inputs"], result["refused"] + result["taken"]) == (40, 40)
    assert result["refused"] >= (0 if name == "cache" else 10)  # a damaged cache is rebuilt, not refused


def test_a_fault_is_seen() -> None:
    """The harness tells tracebacks, hangs and messages of several lines from refusals."""

    def several(raw: bytes) -> None:
        raise fuzz.UserError("one\ntwo")

    tally = fuzz.Tally()
    assert "KeyError at test_fuzz.py" in (fuzz.feed(lambda raw: {}["a"], b"", tally) or "")
    assert "several lines" in (fuzz.feed(several, b"", tally) or "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "TIME_LIMIT", 0.05)
        assert "longer than" in (fuzz.feed(lambda raw: time.sleep(5), b"", tally) or "")
    assert tally.inputs == 3 and tally.slowest_s < 2


def test_payloads_run_when_a_pickle_is_read_as_usual(tmp_path: Path) -> None:
    """Otherwise it would show nothing that none of them ran."""
    import pickle

    for raw in fuzz.payloads(tmp_path / "canary")[:1] + fuzz.payloads(tmp_path / "canary")[-1:]:
        pickle.loads(raw)
        assert (tmp_path / "canary").exists()
        os.unlink(tmp_path / "canary")
