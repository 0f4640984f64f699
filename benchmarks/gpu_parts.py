"""The parts of `gpu` that share a process, and so one context of the GPU and what is compiled.

python -m benchmarks.gpu_parts --device cuda --folder FOLDER [--small]: reads names of parts from standard input. Each
figure is a line of JSON on standard output, {"figure": …, "value": …}; {"done": part, "failed": words or null} ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from attar.condensation.gradients import SweepInputs
from attar.engine.compile import Compiled
from attar.engine.cuda_graphs import GRAPH_WARMUP
from attar.engine.device import pick, wait
from attar.engine.precision import set_matmul_precision
from benchmarks import common
from benchmarks.step import WHAT, Pair, as_it_comes

Tell = Callable[[str, Any], None]
TINY = {"shape": "digits", "ipc": 2, "width": 0.1, "n_data": 64, "batch_real": 8}
LARGE = {"shape": "cifar10", "ipc": 10, "width": 1.0, "n_data": 2000, "batch_real": 64}


class Parts:
    """What is measured on one device."""

    def __init__(self, device: torch.device, folder: Path, *, small: bool, tell: Tell) -> None:
        self.device, self.folder, self.small, self.tell = device, folder, small, tell
        self.rounds = 1 if small else 7
        self.gpu = device.type == "cuda"
        self.precisions = ("bf16", "tf32", "float32") if self.gpu else ("bf16", "float32")
        self.flops = 0  # of a published iteration
        self.rate: dict[str, float] = {}  # FLOP/s of large products, by precision
        self.theirs: dict[str, float] = {}  # milliseconds of a published iteration, by how it ran

    def pair(
        self, *, precision: str = "float32", compiled: bool = False, chunk: int | None = None, **more: Any
    ) -> Pair:
        """The published loop and attar; chunk: classes at once."""
        sizes = (TINY if self.small else LARGE) | more
        where = sizes.pop("device", self.device)
        choice = {"precision": precision, "compile": "on" if compiled else "off", "memory_gb": None}
        made = Pair(argparse.Namespace(size=None, factor=2, **(sizes | choice)), where)
        if chunk is not None:
            made.setup.gradients.chunk = chunk
        return made

    def clock(self, function: Callable[[], Any], precision: str) -> float:
        """Median milliseconds of a call, once it is what it will be: warmed up, recorded, replayed."""
        set_matmul_precision(precision, self.device)
        for _ in range(1 if self.small else GRAPH_WARMUP + 2):
            function()
        return 1e3 * statistics.median(common.timed(function, self.device) for _ in range(self.rounds))

    # ---- is it right ----

    def gradients(self) -> None:
        """The image gradient here and on the CPU, for the same images, weights, rows and draws: eager and replayed."""
        sizes = {} if self.small else {"width": 0.25, "n_data": 64}
        host = self.pair(device=torch.device("cpu"), **sizes)
        rows, draws = host.inputs()
        assert host.state.network is not None
        params = {name: value.detach() for name, value in host.state.network.params.items()}
        wanted, loss = host.setup.sweep.run(SweepInputs(host.state.images, params, rows, draws))
        for precision in self.precisions[::-1]:
            for chunk in (None, 1):
                found = self._gradients(host, precision, chunk, params, rows, draws)
                apart = [relative(gradient, wanted) for gradient, _ in found]
                self.tell(
                    f"gradient {precision} chunk {chunk or 'default'}",
                    {
                        "eager apart": apart[0],
                        "replayed apart": apart[-1],
                        "loss apart": abs(found[-1][1] / float(loss) - 1),
                        "calls with the bits of the first": sum(torch.equal(found[0][0], own) for own, _ in found),
                        "calls": len(found),
                    },
                )

    def _gradients(
        self,
        host: Pair,
        precision: str,
        chunk: int | None,
        params: dict[str, Tensor],
        rows: list[Tensor],
        draws: dict[str, Tensor],
    ) -> list[tuple[Tensor, float]]:
        """(gradient on the CPU, loss) of every call: eager, and the last ones replayed."""
        sizes = {} if self.small else {"width": 0.25, "n_data": 64}
        here, found = self.pair(precision=precision, chunk=chunk, **sizes), []
        set_matmul_precision(precision, self.device)
        for _ in range(GRAPH_WARMUP + 3):
            gradient, loss = here.setup.sweep.run(
                SweepInputs(
                    host.state.images.to(self.device),
                    {name: value.to(self.device) for name, value in params.items()},
                    [row.to(self.device) for row in rows],
                    {name: value.to(self.device) for name, value in draws.items()},
                )
            )
            found.append((gradient.cpu().clone(), float(loss)))
        return found

    # ---- how fast it is ----

    def rates(self) -> None:
        """What the device does at most: copies and large products."""
        count = 1 << (28 if self.gpu else 20)
        source = torch.empty(count, device=self.device)
        target = torch.empty_like(source)
        seconds = min(common.timed(partial(target.copy_, source), self.device) for _ in range(5))
        self.tell("copy, TB/s", 2 * 4 * count / seconds / 1e12)
        for precision in self.precisions:
            rate = common.matmul_rate(self.device, precision, side=256 if self.small else None)
            self.rate[precision] = rate
            self.tell(f"products {precision}, TFLOP/s", rate / 1e12)

    def published(self) -> None:
        """The published loop: strictly in float32, and as PyTorch comes, with convolutions in tf32."""
        pair = self.pair()
        self.flops = common.flops(pair.reference_iteration)
        self.tell("iteration, TFLOP", self.flops / 1e12)
        strict = {what: self.clock(getattr(pair, f"reference_{what}"), "float32") for what in WHAT}
        self.tell("published, strict float32, ms", strict)

        comes = self.clock(as_it_comes(pair.reference_iteration), "float32")
        self.tell("published, as PyTorch comes, ms", {"iteration": comes})
        self.theirs = {"times published strict": strict["iteration"], "times published as it comes": comes}

    def ours(self, *, precision: str, compiled: bool = False, chunk: int | None = None) -> Pair:
        """attar's times for one choice, told at once."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        pair = self.pair(precision=precision, compiled=compiled, chunk=chunk)
        name = f"attar {precision}, {'compiled' if compiled else 'eager'}, {pair.setup.gradients.chunk} at once, ms"
        start = time.perf_counter()
        times: dict[str, Any] = {}
        for what in ("iteration", "sweep", "update"):
            times[what] = self.clock(getattr(pair, f"attar_{what}"), precision)
            if what == "iteration":
                times["first calls and clock, s"] = time.perf_counter() - start
                times |= {name: theirs / times[what] for name, theirs in self.theirs.items()}
                if self.flops and precision in self.rate:
                    times["times the floor"] = times[what] / 1e3 * self.rate[precision] / self.flops
            self.tell(name, times)
        wait(self.device)
        start = time.perf_counter()
        pair.attar_iteration()
        times["host"] = 1e3 * (time.perf_counter() - start)
        wait(self.device)
        times["peak memory, MB"] = common.peak_memory(self.device)
        if pair.notes.lines:
            times["last note"] = pair.notes.lines[-1]
        self.tell(name, times)
        return pair

    def eager(self) -> None:
        """attar without the compiler, in each precision."""
        for precision in self.precisions:
            self.ours(precision=precision)
            self.tidy()

    def compiled(self) -> None:
        """Compiled in bf16, as a run would choose; and a profile of its kernels."""
        pair = self.ours(precision="bf16", compiled=True)
        self.profile(pair)

    def profile(self, pair: Pair) -> None:
        """The kernels of one iteration by time, in profile.txt."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.gpu else [])]
        with profile(activities=activities) as seen:
            pair.attar_iteration()
            wait(self.device)
        key = "self_cuda_time_total" if self.gpu else "self_cpu_time_total"
        text = seen.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=90)
        (self.folder / "profile.txt").write_text(text + "\n", encoding="utf-8")

    def tidy(self) -> None:
        """Give back what the last choice took."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def named(self) -> dict[str, Callable[[], Any]]:
        """Part → what runs."""
        return {name: getattr(self, name) for name in ("gradients", "rates", "published", "eager", "compiled")}


def relative(value: Tensor, wanted: Tensor) -> float:
    """|a − b| / |b|."""
    return float((value - wanted).norm() / wanted.norm())


def main() -> None:
    """Run parts as they are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    answers = sys.stdout

    def say(**words: Any) -> None:
        print(json.dumps(words), file=answers, flush=True)

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if arguments.small:  # without the compiler: what it would get runs as it is, in one thread
            torch.set_num_threads(1)
            stack.enter_context(mock.patch.object(Compiled, "_compile", lambda compiled, args: compiled.function))
        device = pick(arguments.device)
        parts = Parts(
            device,
            arguments.folder,
            small=arguments.small,
            tell=lambda name, value: say(figure=name, value=value),
        )
        said = False
        for line in sys.stdin:
            part, failed = line.strip(), None
            if not said:
                say(figure="machine", value=common.machine(device))
                said = True
            try:
                parts.named()[part]()
            except Exception as error:
                traceback.print_exc()
                failed = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            parts.tidy()
            say(done=part, failed=failed)


if __name__ == "__main__":
    main()
