"""What only shows on a GPU, followed without one: memory that runs short while recording, clocks, switches."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.condensation.setup import set_up
from attar.engine.cuda_graphs import GRAPH_WARMUP, CudaGraph, short_of_memory
from attar.engine.device import tensor_cores
from attar.engine.precision import matmul_precision, set_matmul_precision
from attar.settings import recipes
from attar.stages import schedule
from helpers.condensation import digits, pool_of, settings
from helpers.recording import Tape

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Tight(Tape):
    """A tape for which memory runs short while it records, the first `times` times."""

    def __init__(self, times: int, *, ending: bool) -> None:
        super().__init__()
        self.times, self.ending = times, ending

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.times:
            self.times -= 1
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except torch.OutOfMemoryError as error:
                if self.ending:  # as where the recording is ended behind it
                    raise RuntimeError("operation failed due to a previous error during capture") from error
                raise
        return super().__call__(function)


@pytest.mark.parametrize("ending", [True, False])
def test_memory_that_runs_short_while_recording_halves_the_classes_and_records_again(
    ending: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tape, asked = Tight(2, ending=ending), []
    replayed = CudaGraph(lambda x: (x + 1,), tape, smaller=lambda: asked.append(1) is None)
    for call in range(3 * (GRAPH_WARMUP + 2)):
        assert float(replayed(torch.tensor(float(call)))[0]) == call + 1
    assert len(asked) == 2 and tape.recorded == 1 and not caplog.records


def test_where_nothing_can_be_smaller_it_goes_on_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    replayed = CudaGraph(lambda x: (x + 1,), Tight(9, ending=False), smaller=lambda: False)
    assert [int(replayed(torch.tensor(i))[0]) for i in range(8)] == list(range(1, 9))
    assert len(caplog.messages) == 1 and "out of memory" in caplog.text


def test_what_the_failed_recording_held_is_gone_before_the_classes_are_halved() -> None:
    held: list[Any] = []

    def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        large = torch.zeros(3)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    replayed = CudaGraph(lambda x: (x + 1,), record, smaller=lambda: held[-1]() is None and len(held) < 2)
    for call in range(2 * GRAPH_WARMUP + 3):
        replayed(torch.tensor(float(call)))
    assert len(held) == 2 and replayed.failed, "asked once with success, and once where nothing can be smaller"


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not short_of_memory(RuntimeError("capture is not permitted"))
    assert short_of_memory(torch.OutOfMemoryError("so"))


def test_a_sweep_halves_its_classes_down_to_one(caplog: pytest.LogCaptureFixture) -> None:
    data = digits(4)
    setup = set_up(data, pool_of(data, torch.float32), settings())
    setup.gradients.chunk = 4
    assert [(setup.gradients.halve(), setup.gradients.chunk) for _ in range(3)] == [(True, 2), (True, 1), (False, 1)]
    assert [line.split(";")[0] for line in caplog.messages[-2:]] == [
        f"not enough memory: from now on {count} at once" for count in ("2 classes", "1 class")
    ]


def test_minutes_on_a_gpu_are_measured_behind_the_recording() -> None:
    assert schedule.warm_calls(CUDA) == GRAPH_WARMUP + 2 and schedule.warm_calls(CPU) == 1


def test_minutes_on_a_gpu_are_measured_compiled_where_the_run_will_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` compiles a long run: what was measured without is measured again. A run of a minute is not compiled."""
    base = recipes.named("digits")
    base = replace(base, condense=replace(base.condense, full_niter=2000, inner_loop=100))
    asked: list[bool | None] = []

    def estimate(data: Any, recipe: Any, *, compiled: bool | None = None) -> schedule.Estimate:
        asked.append(compiled)
        return schedule.Estimate(epoch=0.0, inner=0.005 if compiled else 0.01, class_bytes=2 * 10**9)

    monkeypatch.setattr(schedule, "estimate", estimate)
    there: Any = SimpleNamespace(device=CUDA, nclass=10)
    caplog.set_level("INFO", logger="attar")
    assert schedule.fit(there, base, 60).condense.niter > 50
    assert asked == [None, True] and "takes 0.005 s" in caplog.text and len(caplog.messages) == 1
    asked.clear()
    schedule.fit(there, base, 5)
    never = replace(base, condense=replace(base.condense, compile="off"))
    schedule.fit(there, never, 60)
    schedule.fit(SimpleNamespace(device=CPU, nclass=10), base, 600)  # type: ignore[arg-type]
    assert asked == [None, None, None]


def test_tensor_cores_are_switched_without_a_warning() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_matmul_precision("tf32", CUDA)
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        with matmul_precision("float32", CUDA):
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        set_matmul_precision("float32", CUDA)
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    finally:
        tensor_cores(products=before[0], convolutions=before[1])
