"""Faults on purpose: processes killed at random moments, checkpoints damaged at random places, full disks.

python -m benchmarks.faults --kills 100 --flips 200 --json benchmarks/results/faults.json

A killed command is called again as it was, and what it leaves is compared byte by byte with what an undisturbed one
leaves. Another command joins by a line in `CASES`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.errors import UserError, log
from attar.runs import checkpoint
from benchmarks import common

POOL = "--width 0.05 --pt_from 1 --model_num 3"
TINY = f"-d digits {POOL} --niter 4 --inner_loop 2 --n_data 64 --eval_at 0 2"
CONDENSE = f"condense --recipe quick.toml {TINY} --out run --save_every 1it --resume auto"
EVALUATE = "evaluate run --runs 2 --epochs 5 --whole_epochs 2"
QUICK = "[evaluate]\nepochs = 1\n"  # of the evaluations during the run
PARTS = f"condense {TINY.replace(' --eval_at 0 2', '')} --nclass_sub 5 --phase"
IMAGES = "-d imagenet --nclass 100 --data_dir images --size 8 --cache_dir run/cache"


@dataclass(frozen=True)
class Case:
    """A command that is killed and called again."""

    name: str
    command: str
    before: tuple[str, ...]  # commands that make what this one needs
    makes: str = "run"  # the folder that is compared


CASES = (
    Case("pretrain", f"pretrain -d digits {POOL} --out run", ()),
    Case("condense", CONDENSE, ()),
    Case("evaluate", EVALUATE, (CONDENSE,)),
    Case("merge", "merge part0 part1 --out run", (f"{PARTS} 0 --out part0", f"{PARTS} 1 --out part1")),
    Case("cache", f"pretrain {IMAGES} --width 0.05 --pt_from 1 --model_num 1 --out run/pool", ("jpegs",)),
)


def attar(command: str, folder: Path, **more: Any) -> subprocess.Popen[str]:
    """Start attar in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "attar", *command.split()]
    if command == "jpegs":
        line = [sys.executable, "-m", "benchmarks.jpegs", "images", "--per_class", "30", "--test", "5", "--side", "32"]
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more
    )


def finished(command: str, folder: Path) -> tuple[int, str]:
    """Run attar to its end; its exit status and standard error."""
    with attar(command, folder) as process:
        output = process.communicate()[1]
    return process.returncode, output


def contents_of(folder: Path) -> dict[str, Any]:
    """{file: content} of a folder, without times."""
    contents: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith("checkpoint") or path.name == "report.html":
            contents[name.split("/")[0]] = "exists"
        elif path.name == "metrics.jsonl":
            contents[name] = [timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".json":
            contents[name] = timeless(json.loads(path.read_text(encoding="utf-8")))
        else:
            contents[name] = path.read_bytes()
    return contents


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without seconds, and without the sessions of a run that config.json records."""
    return {key: value for key, value in values.items() if key not in ("seconds", "attar")}


def kill(case: Case, kills: int, root: Path, draws: random.Random) -> dict[str, Any]:
    """Kill a command at moments spread evenly over its duration, and call it again each time."""
    start = root / f"{case.name}-start"
    start.mkdir()
    (start / "quick.toml").write_text(QUICK, encoding="utf-8")
    for command in case.before:
        must(finished(command, start))
    folder = shutil.copytree(start, root / case.name)  # always the same path: a cache belongs to its images' folder
    began = time.perf_counter()
    must(finished(case.command, folder))
    duration = time.perf_counter() - began
    expected = contents_of(folder / case.makes)
    counts: Counter[str] = Counter()
    failures = []
    for _ in range(kills):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        moment = draws.uniform(0, duration)
        with attar(case.command, folder, start_new_session=True) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        counts["killed" if process.returncode == -signal.SIGKILL else "ended before"] += 1
        status, output = finished(case.command, folder)
        equal = status == 0 and contents_of(folder / case.makes) == expected
        counts["equal" if equal else "different"] += 1
        if not equal:
            failures.append({"moment": moment, "status": status, "said": output[-300:]})
    return {"seconds": duration, "kills": kills, **counts, "failures": failures}


def must(done: tuple[int, str]) -> None:
    """Exit where an undisturbed command fails."""
    if done[0]:
        raise SystemExit(f"an undisturbed command failed: {done[1]}")


def flip(flips: int, root: Path, draws: random.Random) -> dict[str, Any]:
    """Damage a checkpoint at random places; in half of the cases there is another one to fall back to."""
    folder = root / "flips"
    folder.mkdir()
    (folder / "quick.toml").write_text(QUICK, encoding="utf-8")
    must(finished(CONDENSE, folder))
    run, copy = folder / "run", folder / "copy"
    values = checkpoint.read(run / checkpoint.CURRENT)
    checkpoint.write(run, {**values, "outer": values["outer"] - 1})  # the one before, and another to damage
    shutil.copytree(run, copy)
    counts: Counter[str] = Counter()
    warnings: list[str] = []
    log.addFilter(lambda record: warnings.append(record.getMessage()))  # returns None: not shown
    for number in range(flips):
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        if number % 2:
            shutil.rmtree(run / checkpoint.PREVIOUS)
        damage(draws.choice(sorted((run / checkpoint.CURRENT).iterdir())), draws)
        warnings.clear()
        try:
            loaded = checkpoint.load(run)
        except UserError as error:
            counts["clear message" if "is damaged" in str(error) else "unclear"] += 1
        except Exception as error:
            counts[f"traceback {type(error).__name__}"] += 1
        else:
            fell_back = loaded is not None and len(warnings) == 1 and loaded["outer"] == values["outer"]
            counts["previous one" if fell_back else "wrong"] += 1
    return {"flips": flips, **counts}


def damage(path: Path, draws: random.Random) -> None:
    """Cut a file at a random place, or change one byte."""
    whole = path.read_bytes()
    place = draws.randrange(len(whole))
    changed = bytes([whole[place] ^ draws.randrange(1, 256)])
    path.write_bytes(whole[:place] if draws.random() < 0.5 else whole[:place] + changed + whole[place + 1 :])


def fill(sizes: int, root: Path) -> dict[str, Any]:
    """Disks of growing size, the first too small: one line, exit 2, and with more room the same command ends well."""
    disk = root / "disk"
    disk.mkdir()
    straight = root / "disk-straight"
    straight.mkdir()
    (straight / "quick.toml").write_text(QUICK, encoding="utf-8")
    must(finished(f"pretrain -d digits {POOL}", straight))
    pool = shutil.copytree(straight / "pool", root / "disk-pool")
    must(finished(CONDENSE, straight))
    expected = contents_of(straight / "run")
    used = sum(path.stat().st_size for path in (straight / "run").rglob("*") if path.is_file())
    counts: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for number in range(sizes):
        # with checkpoints all the time three of them need most room; with one, the page and the result come to it
        command = CONDENSE if number % 2 else CONDENSE.replace("1it", "none")
        size = int(used * (0.2 + 1.2 * number / sizes)) // 4096 * 4096
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=False)
        if done.returncode:
            return {"skipped": "a file system cannot be mounted here"}
        try:
            (disk / "pool").symlink_to(pool)  # the pool has a disk of its own
            (disk / "quick.toml").write_text(QUICK, encoding="utf-8")
            status, words = finished(command, disk)
            if status == 0:
                counts["large enough"] += 1
                continue
            last = words.rstrip().rsplit("\n", 1)[-1]
            clear = status == 2 and last.startswith("attar: error: ") and "No space left" in last
            clear = clear and "Traceback" not in words
            counts["clear message" if clear else "unclear"] += 1
            said[words.split("attar: error: ")[-1].split(" cannot")[0]] += 1
            subprocess.run(["mount", "-o", f"remount,size={4 * used}", disk], check=True)
            status, words = finished(command, disk)
            counts["equal" if status == 0 and contents_of(disk / "run") == expected else "different"] += 1
        finally:
            subprocess.run(["umount", disk], check=True)
    return {"disks": sizes, **counts, "full at": dict(said)}


def cost(root: Path, rounds: int = 5) -> dict[str, Any]:
    """Seconds that one checkpoint takes, and their share of the interval between two."""
    every = checkpoint.interval(checkpoint.DEFAULT_INTERVAL).seconds
    shapes = {"cifar10, ipc 10": (10, 10, 3, 32, 32), "imagenet, 20 classes, ipc 10": (20, 10, 3, 224, 224)}
    costs = {}
    for name, shape in shapes.items():
        values = {key: torch.rand(shape) for key in ("images", "momentum", "initial")}
        values["network"] = torch.rand(10_000_000)  # a ResNetAP-10 and its momentum
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            checkpoint.write(root, values)
            seconds.append(time.perf_counter() - start)
        checkpoint.remove(root)
        median = statistics.median(seconds)
        share = median / max(every, checkpoint.MIN_CHECKPOINT_SPACING * median)
        costs[name] = {"seconds": median, "n": rounds, "interval": every, "share": share}
    return costs


def main() -> None:
    """Run the campaign."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kills", type=int, default=100, help="kills, shared among the commands")
    made.add_argument("--flips", type=int, default=200, help="damaged checkpoints")
    made.add_argument("--disks", type=int, default=12, help="disks of growing size")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", type=Path, help="write the result here too")
    arguments = made.parse_args()
    draws = random.Random(arguments.seed)
    result: dict[str, Any] = {**common.machine(torch.device("cpu")), "seed": arguments.seed}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shares = [(arguments.kills + place) // len(CASES) for place in range(len(CASES))]
        result["kill"] = {case.name: kill(case, share, root, draws) for case, share in zip(CASES, shares, strict=True)}
        result["checkpoint"] = flip(arguments.flips, root, draws)
        result["disk"] = fill(arguments.disks, root) if arguments.disks else {}
        result["cost"] = cost(root)
    common.publish(result, arguments.json)


if __name__ == "__main__":
    main()
