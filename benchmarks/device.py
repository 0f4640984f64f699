"""All that is measured on one device, part by part, collected in one file: what a short loan of a GPU is for.

python -m benchmarks.device --device cuda --data_dir FASHION --json benchmarks/results/h100.json [--only step ...]

Every part is a process of its own and is written as soon as it is done: a part that fails or takes too long is noted
and costs nothing of the others, and a later call with --only adds to the same file. A part that took too long goes on
from its last checkpoint, in its folder below --runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attar import files
from attar.engine.device import pick
from benchmarks import common

ROOT = Path(__file__).parents[1]
LIMIT = 570.0  # seconds for one part


def parts(device: str, data_dir: str | None, condensed: bool) -> dict[str, list[list[str]]]:
    """Part → its commands, one after another in a folder of their own; each writes a JSON file or a run folder.

    End to end: early-stage models, condensation, and the evaluation of the set alone.
    """
    images = "256" if condensed else "2000"
    rounds = ["--rounds", "1" if condensed else "7"]
    shape = ["--shape", "digits" if condensed else "cifar10"]
    step = ["benchmarks.step", "--device", device, *shape, "--n_data", images, *rounds, "--json", "out.json"]
    precisions = ["float32", "bf16"] if device == "cpu" else ["float32", "tf32", "bf16"]
    eager = ["--compile", "off"] if condensed else []
    found = {f"step {name}": [[*step, "--precision", name, *eager]] for name in precisions}
    classes = ["digits"] if condensed else ["cifar10", "cifar100"]
    for name in classes:
        many = ["benchmarks.step", "--device", device, "--shape", name, "--width", "0.25", "--n_data", "256"]
        found[f"classes {name}"] = [[*many, *eager, *rounds, "--json", "out.json"]]
    epochs = ["--epochs", "1" if condensed else "50"]
    found["evaluation"] = [["benchmarks.evaluation", "--device", device, *shape, *epochs, "--json", "out.json"]]
    where = ["--device", device, *(["--data_dir", data_dir] if data_dir else [])]
    for precision in precisions:
        recipe = ["--recipe", "digits", "--niter", "1", "--inner_loop", "2"] if condensed else ["--recipe", "fashion"]
        evaluate = ["--runs", "1", "--epochs", "2"] if condensed else ["--runs", "3"]
        found[f"end to end {precision}"] = [
            ["attar", "condense", *recipe, *where, "--precision", precision, "--out", "run", "--resume", "auto"],
            ["attar", "evaluate", "run", *where, *evaluate, "--yardsticks", "none"],
        ]
    return found


def run(commands: list[list[str]], folder: Path) -> dict[str, Any]:
    """Seconds of the commands, and what they left; where one fails or takes too long, its last words."""
    result: dict[str, Any] = {"commands": [" ".join(["python", "-m", *command]) for command in commands], "seconds": []}
    for command in commands:
        start, left = time.perf_counter(), LIMIT - sum(result["seconds"])
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
                capture_output=True,
                text=True,
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return result | {"failed": f"longer than {LIMIT:.0f} s"}
        if done.returncode:
            return result | {"failed": done.stderr.strip()[-600:]}
        result["seconds"].append(time.perf_counter() - start)
    for name in ("out.json", "run/result.json"):
        if (folder / name).exists():
            result["result"] = files.read_json(folder / name)
    return result


def main() -> None:
    """Run the parts that are asked for."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda")
    made.add_argument("--data_dir", help="where the files of Fashion-MNIST are")
    made.add_argument("--only", nargs="*", default=[], help="parts whose names begin so")
    made.add_argument("--small", action="store_true", help="the smallest of everything: shows that all parts run")
    made.add_argument("--runs", type=Path, default=Path("runs/device"), help="where the parts work")
    made.add_argument("--json", type=Path, required=True)
    arguments = made.parse_args()
    device = pick(arguments.device)
    data_dir = str(Path(arguments.data_dir).absolute()) if arguments.data_dir else None
    found = files.read_json(arguments.json) if arguments.json.exists() else common.machine(device)
    if found.get("hardware") != common.machine(device)["hardware"]:
        raise SystemExit(f"{arguments.json} holds what was measured on {found.get('hardware')}; name another file")
    for name, commands in parts(arguments.device, data_dir, arguments.condensed).items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        done = found.setdefault("parts", {})
        folder = (arguments.runs / name.replace(" ", "-")).absolute()
        if "failed" not in done.get(name, {}):  # new, or measured again
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        done[name] = part = run(commands, folder)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {part.get('failed') or format(sum(part['seconds']), '.1f') + ' s'}", flush=True)


if __name__ == "__main__":
    main()
