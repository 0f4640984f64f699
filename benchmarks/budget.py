"""The budget of one inner iteration on a GPU, counted without one: operations, bytes and arithmetic.

python -m benchmarks.budget --shape cifar10 --precision bf16

Sweep and update apart, for the published loop (eager, float32) and attar: "eager", "recorded" in a CUDA graph, and
what is launched "beside" it. "compiled": kernels, library calls, bytes and layout of the source that PyTorch's compiler
generates for CUDA; needs triton's Python part, and is left out with a word where that is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from attar.settings.choices import METHOD_NAMES
from benchmarks.fake_cuda import guard

GB = 1e9
SUMMED = ("operations", "bytes", "flops", "grouped_convolutions")


def main() -> None:
    """Count, print a table, write the JSON file."""
    arguments = parsed()
    if reason := guard.missing():
        print(f"benchmarks.budget: error: {reason}", file=sys.stderr)
        sys.exit(2)
    guard.load()  # before torch
    result = counted(arguments)
    print(table(result))
    result["figures"] = figures(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The flags: those of `benchmarks.step` that change what is computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = ("digits", "fashion", "cifar10", "cifar100", "imagenet10")
    parser.add_argument("--shape", choices=shapes, default="cifar10")
    parser.add_argument("--method", choices=METHOD_NAMES, default="accdd", help="of others the whole iteration only")
    parser.add_argument("--size", type=int, help="another side than the shape's")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--n_data", type=int, default=2000)
    parser.add_argument("--batch_real", type=int, default=64)
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--chunk", type=int, help="classes at once (default: as many as attar would take)")
    parser.add_argument("--compile", choices=("on", "off"), default="on", help="whether to count compiled code too")
    parser.add_argument("--json", type=Path, help="write the counts here too")
    return parser.parse_args(words)


def counted(arguments: argparse.Namespace) -> dict[str, Any]:
    """All counts. Torch is imported here: the fake GPU has to be loaded before."""
    import torch

    from benchmarks import common
    from benchmarks.fake_cuda import emulation, generated, iteration
    from benchmarks.step import Pair

    given = ("method", "shape", "size", "ipc", "factor", "width", "n_data", "batch_real", "precision")
    result: dict[str, Any] = {name: getattr(arguments, name) for name in given}
    result |= {"counted_on": "fake CUDA tensors", "torch": torch.__version__}
    host = common.random_data(arguments.shape, arguments.size, arguments.batch_real + 16, torch.device("cpu"))

    result["command"] = " ".join(["python -m benchmarks.budget", *sys.argv[1:]])
    if arguments.method != "accdd":
        return result | {"attar": iteration.of_method(arguments, host)}

    def pair(compiled: str) -> Pair:
        settings = {"compile": compiled, "memory_gb": None}
        made = Pair(argparse.Namespace(**(vars(arguments) | settings)), emulation.DEVICE, gpu.data(host))
        if arguments.chunk:
            made.setup.gradients.chunk = min(arguments.chunk, len(made.setup.labels))
        return made

    with emulation.on(warmup=iteration.WARMUP) as gpu:
        result["published"] = iteration.published(pair("off"), gpu)
        result["attar"] = iteration.ours(pair("off"), gpu)
        result["attar"]["iteration"] = iteration.whole(pair("off"), gpu)
        result["draws"] = iteration.draws(pair("off"), gpu)
        lacking = generated.missing() if arguments.compile == "on" else "not asked for"
        around = {"update": iteration.around_compiled(pair("off"), gpu)}
        compiled = {}
        for name, counts in generated.WHAT.items() if lacking is None else ():
            parts = [count(pair("on"), gpu) for count in counts]
            whole = around.get(name, dict.fromkeys(SUMMED, 0))
            in_all = {what: whole[what] + sum(part["calls"] * part[what] for part in parts) for what in SUMMED}
            compiled[name] = {"in_all": in_all, "parts": parts}
        result["compiled"] = compiled or {"left_out": lacking}
    if compiled:
        import triton

        result["triton"] = triton.__version__
    return result


def figures(result: dict[str, Any]) -> dict[str, float]:
    """The figures of a budget by name: an iteration in recordings, and beside them; compiled where that was counted.

    Of compiled code the update is its gradients and what is around them. arithmetic: over the published loop's, where
    that was counted, else TFLOP.
    """
    found: dict[str, float] = {}

    def note(name: str, counts: dict[str, Any]) -> None:
        found.update({f"{name}, {what}": counts[what] for what in ("bytes", "operations", "grouped_convolutions")})

    ours = result["attar"]
    parts = {name: ours[name] for name in ("sweep", "update", "iteration") if name in ours}
    for name, counts in parts.items():
        note(name, counts["recorded"])
    found["launches beside"] = ours["iteration"]["beside"]["operations"]
    published = sum(counts["eager"]["flops"] for counts in result.get("published", {}).values())
    found["arithmetic"] = ours["iteration"]["recorded"]["flops"] / (published or 1e12)
    for name, counts in result.get("compiled", {}).items():
        if name != "left_out":
            note(f"compiled {name}", counts["in_all"])
    return found


def table(result: dict[str, Any]) -> str:
    """The counts for people: operations, GB and TFLOP."""
    what = ", ".join(["one inner iteration", *(result[name] for name in ("method", "shape", "precision"))])
    lines = [f"{what:48} operations       GB    TFLOP"]

    def row(name: str, counts: dict[str, Any]) -> None:
        sizes = f"{counts['bytes'] / GB:9.2f} {counts['flops'] / 1e12:8.3f}"
        lines.append(f"{name:48} {counts['operations']:10,} {sizes}")

    for who in ("published", "attar"):
        for part in ("sweep", "update", "iteration"):
            for phase, counts in result.get(who, {}).get(part, {}).items():
                if isinstance(counts, dict):
                    row(f"{who}, {part}, {phase}", counts)
    lines.append(f"attar computes {result['attar']['chunk']} classes at once")
    for name, counts in result.get("compiled", {}).items():
        if name == "left_out":
            lines.append(f"compiled code is left out: {counts}")
            continue
        row(f"compiled, {name}", counts["in_all"])
        for part in counts["parts"]:
            row(f"  {part['calls']} calls for {part['what']}", {what: part["calls"] * part[what] for what in SUMMED})
            layout = "channels last" if part["channels_last"] else "channels first"
            calls = f"{part['triton_kernels']} Triton kernels, {part['library_calls']} library calls"
            lines.append(f"    each: {calls}, {layout}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
