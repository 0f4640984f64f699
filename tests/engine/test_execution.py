"""Precision, compilation with its fallback, graph replay followed without a GPU, workers, memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attar import models, signals
from attar.condensation import loop as condensation
from attar.condensation.memory import choose_chunk, class_bytes
from attar.condensation.setup import serial_steps, set_up
from attar.data.images import ImageData
from attar.data.load import load
from attar.engine import device
from attar.engine.compile import Compiled, worth_compiling
from attar.engine.cuda_graphs import GRAPH_WARMUP, CudaGraph
from attar.engine.precision import autocast, check_precision
from attar.engine.workers import ThreadWorkers
from attar.errors import UserError, log, say_once
from attar.models.for_data import build, describe
from attar.settings import recipes
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import NetworkConfig
from attar.training.pool import Member, Pool
from helpers.recording import Tape

CPU = torch.device("cpu")


def test_a_cpu_has_no_tf32() -> None:
    check_precision("float32", CPU)
    with pytest.raises(UserError, match="NVIDIA GPUs only"):
        check_precision("tf32", CPU)


def test_bf16_without_its_instructions_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    check_precision("bf16", CPU)
    assert said == []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    check_precision("bf16", CPU)
    assert len(said) == 1 and "float32 is faster" in said[0]


def test_bf16_holds_products_only() -> None:
    a = torch.randn(8, 8)
    with autocast("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
        assert (a + a).dtype == torch.float32
    with autocast("float32", CPU):
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "calls", "expected"),
    [("on", 1, True), ("off", 10**6, False), ("auto", 24_000, False), ("auto", 25_000, True)],
)
def test_when_compiling_is_worth_it_on_a_gpu(setting: str, calls: int, expected: bool) -> None:
    """With `auto` from 2,500 iterations of ten classes on, each of CIFAR-10's size, and never for tiny networks."""
    assert worth_compiling(setting, calls, 1.86e9, torch.device("cuda")) is expected
    assert not worth_compiling("auto", 10**6, 1e7, torch.device("cuda"))


@pytest.mark.parametrize(
    ("setting", "calls", "size", "expected"),
    [
        ("on", 1, 0, True),
        ("off", 10**6, 1e9, False),
        ("auto", 33_000, 0, False),
        ("auto", 34_000, 0, True),
        ("auto", 1200, 1e9, False),  # 83 ms are saved each time
        ("auto", 1210, 1e9, True),
        ("auto", 125, 1e10, True),
    ],
)
def test_when_compiling_is_worth_it_on_a_cpu(setting: str, calls: int, size: float, expected: bool) -> None:
    assert worth_compiling(setting, calls, size, CPU) is expected


@pytest.mark.parametrize(
    ("name", "channels", "side", "expected"),
    [("digits", 1, 8, False), ("fashion-cpu", 1, 28, False), ("fashion", 1, 28, True), ("imagenet10", 3, 224, True)],
)
def test_the_demo_is_never_compiled_and_the_published_runs_are(
    name: str, channels: int, side: int, expected: bool
) -> None:
    recipe = recipes.named(name)
    config, network = recipe.condense, recipe.network
    options = {"depth": network.depth, "width": network.width, "norm_type": network.norm_type, "seed": 0}
    module = models.build(network.net_type, channels=channels, nclass=10, size=(side, side), **options)
    size = class_bytes(module, channels, (side, side), config.batch_real + config.ipc * config.factor**2)
    assert worth_compiling(config.compile, serial_steps(config, 10, CPU), size, CPU) is expected


def test_without_a_compiler_the_plain_function_runs(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def fail(*args: Any) -> Any:
            raise RuntimeError("no C++ compiler\nfound")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    function = Compiled(lambda x: x + 1, lambda x: x + 2, CPU, "it")
    assert [function(1), function(2)] == [3, 4]
    assert len(said) == 1 and "no C++ compiler" in said[0] and "\n" not in said[0], "one shape, one line"


@pytest.mark.slow
def test_compiled_code_lets_go_of_pythons_lock_on_a_cpu() -> None:
    """Threads compute side by side: another one gets on while a single long kernel runs."""

    def long(x: Tensor) -> Tensor:
        for _ in range(6):
            x = x.sin().exp().log1p().cos()
        return x

    function, x = Compiled(long, long, CPU, "it"), torch.ones(1 << 23, dtype=torch.float64)
    function(x)
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    clock = threading.Thread(target=tick)
    clock.start()
    before = ticks[0]
    function(x)
    after = ticks[0]
    done.set()
    clock.join()
    assert after - before > 50, "a kernel that kept the lock would leave it a handful"


def test_a_shape_that_the_compiler_refuses_runs_without_it(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(x: Tensor) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("too long")
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", picky)
    function = Compiled(lambda x: x + 1, lambda x: x + 2, CPU, "the sweep")
    for _ in range(2):
        assert [float(function(torch.zeros(n)).sum()) for n in (2, 3, 1)] == [2, 6, 1]
    assert [line.split(":")[0] for line in said] == [
        "the sweep is compiled",
        "compilation is not available here (RuntimeError",
        "the sweep is compiled",
    ]


def test_a_compiler_that_cannot_even_begin_is_done_without(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        raise NotADirectoryError("/dev/null/cache")

    monkeypatch.setattr(torch, "compile", nowhere)
    function = Compiled(lambda x: x + 1, lambda x: x + 2, CPU, "it")
    assert [function(1), function(2)] == [3, 4]
    assert len(said) == 1 and "going on without it, as --compile off does" in said[0]


def test_a_signal_that_ends_the_compiler_is_no_failure_of_it(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches g++ too. Going on without it would give a resumed run other bits."""

    def killed(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(x: Tensor) -> Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("C++ compile error")

        return run

    monkeypatch.setattr(torch, "compile", killed)
    with pytest.raises(signals.Interrupted), signals.deferred():
        Compiled(lambda x: x + 1, lambda x: x + 2, CPU, "it")(torch.zeros(2))
    assert said == ["stopping now"] and not signals.DEFERRED


def test_of_several_threads_one_compiles(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = [0], [0]

    def slow(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(x: Tensor) -> Tensor:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.05)
            at_once[0] -= 1
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", slow)
    function = Compiled(lambda x: x + 1, lambda x: x, CPU, "it")
    workers = ThreadWorkers(CPU)
    workers.count = 4
    x = torch.zeros(3)
    assert all(torch.equal(done, x + 1) for done in workers.map(function, [x] * 2))
    assert len(said) == most[0] == 1
    assert all(torch.equal(done, x + 1) for done in workers.map(function, [x] * 8))
    assert most[0] > 1, "what is compiled runs side by side"


def test_more_shapes_than_the_compiler_takes(said: list[str]) -> None:
    """PyTorch gives a function up after eight of them: what comes after runs as it is."""
    torch.compiler.reset()
    function = Compiled(lambda x: x.sin() * 2, lambda x: x.sin() * 2, CPU, "it")
    for n in range(2, 14):
        assert torch.allclose(function(torch.ones(n)), torch.ones(n).sin() * 2)
    assert sum("is compiled" in line for line in said) >= 4 and "not available" in said[-1]


def test_too_little_memory_is_no_matter_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(x: Tensor) -> Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError("full")
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", full)
    function = Compiled(lambda x: x + 1, lambda x: x + 2, CPU, "it")
    with pytest.raises(torch.OutOfMemoryError):
        function(torch.zeros(3))
    assert torch.equal(function(torch.zeros(2)), torch.ones(2)), "half the classes are compiled still"


def test_a_line_is_said_once(said: list[str]) -> None:
    for line in ("a", "b", "a"):
        say_once(line)
    log.info("c")
    log.info("c")
    assert said == ["a", "b", "c", "c"]


def test_an_error_after_the_first_call_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    function = Compiled(lambda x: 1 // int(x), lambda x: 0, CPU, "it")
    assert function(torch.tensor(1)) == 1
    with pytest.raises(ZeroDivisionError):
        function(torch.tensor(0))


def test_a_recorded_function_gives_what_the_function_gives(said: list[str]) -> None:
    tape = Tape()

    def function(x: Tensor, more: dict[str, list[Tensor]], nothing: None) -> tuple[Tensor, Tensor]:
        return x + more["a"][0], x * more["a"][1]

    replayed = CudaGraph(function, tape)
    for call in range(GRAPH_WARMUP + 4):
        x, more = torch.full((3,), float(call)), {"a": [torch.tensor(1.0), torch.tensor(2.0)]}
        plus, times = replayed(x, more, None)
        assert torch.equal(plus, x + 1) and torch.equal(times, 2 * x)
        assert tape.recorded == (call >= GRAPH_WARMUP)
    other = torch.ones(5)
    assert torch.equal(replayed(other, {"a": [other, other]}, None)[0], other + other), "another shape runs as it is"
    assert tape.recorded == 1 and not said


def test_warm_up_and_recording_see_the_same_strides() -> None:
    """Code that is compiled in the warm-up is compiled for them; one number for a whole batch has the stride 0."""
    seen: list[tuple[int, ...]] = []

    def function(x: Tensor) -> tuple[Tensor]:
        seen.append(x.stride())
        return (2 * x,)

    replayed = CudaGraph(function, Tape())
    for call in range(GRAPH_WARMUP + 3):
        (actual,) = replayed(torch.tensor([float(call)]).expand(5))
        assert torch.equal(actual, torch.full((5,), 2.0 * call))
    assert len(seen) == GRAPH_WARMUP + 4 and set(seen) == {(1,)}


def test_code_is_compiled_once_for_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    function = Compiled(lambda x: x + 1, lambda x: x + 1, CPU, "it")
    monkeypatch.setattr(function, "_compile", lambda args: made.append(args[0].stride()) or function.function)
    wide = torch.zeros(4, 6)
    for x in (wide, wide.clone(), torch.zeros(6, 4).t(), torch.zeros(1, 1).expand(4, 6), wide):
        function(x)
    assert made == [(6, 1), (1, 4), (0, 0)]


@given(shapes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 70)), max_size=5), halves=st.integers(0, 5))
def test_tensors_are_sent_in_one_block(shapes: list[tuple[int, int]], halves: int) -> None:
    """Values, shapes and dtypes stay; each begins where memory is aligned; one copy for a dtype."""
    own = {
        str(k): torch.randn(shape).to(torch.int64 if k == halves else torch.float32) for k, shape in enumerate(shapes)
    }
    sent: list[Tensor] = []
    with mock.patch.object(device, "send", lambda block, _: sent.append(block) or block):
        actual = device.send_all(own, torch.device("meta"))
    assert list(actual) == list(own)
    assert all(torch.equal(actual[name], value) and actual[name].dtype == value.dtype for name, value in own.items())
    assert all(value.storage_offset() % device.ALIGNED == 0 for value in actual.values())
    assert len(sent) == len({value.dtype for value in own.values()})
    assert all(device.send_all(own, CPU)[name] is value for name, value in own.items())


def test_where_nothing_can_be_recorded_it_is_said_once(said: list[str]) -> None:

    def refuse(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise RuntimeError("capture is not permitted")

    replayed = CudaGraph(lambda x: x + 1, refuse)
    assert [int(replayed(torch.tensor(i))) for i in range(8)] == list(range(1, 9))
    assert len(said) == 1 and "capture is not permitted" in said[0]


@pytest.mark.parametrize("count", [1, 3])
def test_workers_keep_the_order_and_one_thread_each(count: int) -> None:
    workers = ThreadWorkers(CPU)
    workers.count = count
    names: set[str] = set()

    def job(number: int) -> tuple[int, int]:
        time.sleep(0.002 * (9 - number))
        names.add(threading.current_thread().name)
        return number, torch.get_num_threads()

    before = torch.get_num_threads()
    assert list(workers.map(job, range(9))) == [(number, 1) for number in range(9)]
    assert torch.get_num_threads() == before
    assert len(names) == count


def test_what_a_job_raises_is_raised_and_the_rest_is_left() -> None:
    workers = ThreadWorkers(CPU)
    workers.count = 2
    done: list[int] = []

    def job(number: int) -> int:
        if number == 1:
            raise UserError("job 1")
        time.sleep(0.02)
        done.append(number)
        return number

    with pytest.raises(UserError, match="job 1"):
        list(workers.map(job, range(50)))
    assert len(done) < 49


def test_memory_grows_with_images_and_a_small_budget_is_refused() -> None:
    module = models.build("convnet", channels=1, nclass=10, size=(28, 28), width=0.25)
    one, many = (class_bytes(module, 1, (28, 28), n) for n in (1, 104))
    assert many == 104 * one > 0
    assert choose_chunk(many, 10, CPU, None) == choose_chunk(many, 10, CPU, 8.0) == 1
    with pytest.raises(UserError, match="does not hold one class"):
        choose_chunk(many, 10, CPU, 1e-6)


@pytest.mark.parametrize(
    ("budget_gb", "chunk"),
    [(0.15, 1), (0.45, 4), (0.65, 5), (100.0, 10)],
)
def test_groups_of_equal_size_within_the_budget(budget_gb: float, chunk: int) -> None:
    assert choose_chunk(10**8, 10, torch.device("cuda"), budget_gb) == chunk


def tiny_problem() -> tuple[Any, Pool, Any]:
    data = load("digits")
    network = replace(recipes.named("digits").network, width=0.05)
    params = models.parameters_of(build(network, describe(data), 0))
    pool = Pool(network, describe(data), (Member(params, {}, {}, 0.0, "member"),))
    return data, pool, replace(recipes.named("digits").condense, niter=2, inner_loop=3, n_data=128, batch_real=16)


def test_the_number_of_threads_changes_rounding_only() -> None:
    data, pool, config = tiny_problem()
    one = condensation.run(data, pool, config)
    torch.set_num_threads(3)
    try:
        three, again = (condensation.run(data, pool, config) for _ in range(2))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(three.images, again.images)
    assert (three.images - one.images).norm() < 1e-5 * (one.images - one.start().images).norm()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_bf16_stays_near(precision: str) -> None:
    data, pool, config = tiny_problem()
    plain = condensation.run(data, pool, config)
    other = condensation.run(data, pool, replace(config, precision=precision))
    moved = (plain.images - plain.start().images).norm()
    apart = (plain.images - other.images).norm() / moved
    assert apart == 0 if precision == "float32" else 1e-6 < apart < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("match", ["grad", "feat", "ncf"])
def test_compiled_is_the_same_up_to_rounding(said: list[str], match: str) -> None:
    data, pool, config = tiny_problem()
    config = replace(config, match=match, metric="mse" if match == "feat" else config.metric, frequencies=32)
    plain = condensation.run(data, pool, config)
    compiled = condensation.run(data, pool, replace(config, compile="on"))
    assert "compiled at the first iteration" in said[0]
    told = {line.split(" is compiled: ")[0] for line in said[1:]}
    assert told == {"the sweep", "the network update"}, f"a fallback happened: {said}"
    moved = (plain.images - plain.start().images).norm()
    assert moved > 0
    assert (plain.images - compiled.images).norm() < 1e-3 * moved


def test_a_memory_budget_bounds_the_classes_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    data, pool, config = tiny_problem()
    sizes = [pool.build(seed=0), data.channels, data.size, config.batch_real + config.ipc * config.factor**2]
    one = class_bytes(*sizes) / 1e9
    for budget, expected in [(None, 4), (1.5 * one, 1), (3.5 * one, 3), (99 * one, 4)]:
        setup = set_up(data, pool, replace(config, memory_gb=budget))
        assert setup.gradients.workers.count == expected


def test_bounded_workers_never_run_more_at_once() -> None:
    workers, running, seen = ThreadWorkers(CPU, max_at_once=2), [0], []
    workers.count = 2
    lock = threading.Lock()

    def job(number: int) -> int:
        with lock:
            running[0] += 1
            seen.append(running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return number

    assert list(workers.map(job, range(3))) == [0, 1, 2] and max(seen) == 2


def test_classes_of_many_sizes_are_not_compiled_and_it_is_said(said: list[str]) -> None:
    images = torch.randint(0, 256, (27, 1, 8, 8), dtype=torch.uint8)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([2, 3, 4, 5, 6, 7]))
    data = ImageData(images, labels)
    network = NetworkConfig(net_type="convnet", depth=2, width=0.1)
    pool = Pool(
        network, describe(data), (Member(models.parameters_of(build(network, describe(data), 0)), {}, {}, 0, "m"),)
    )
    setup = set_up(data, pool, CondenseConfig(ipc=1, factor=1, compile="on"))
    assert not setup.gradients.execution.compiled and said == [
        "the real batches of the classes have 6 sizes, too many to compile; going on without it"
    ]
