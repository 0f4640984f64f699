"""All that a short loan of one GPU can tell: correct first, then fast, then a whole run. Called by gpu.sh.

python -m benchmarks.gpu FOLDER [--small] [--bundle .gpu]

The parts in the order of their worth. Each has a time limit, and is killed there; what it found until then is kept, and
the others go on. Parts of `gpu_parts` share one process, a new one where it had to be killed. FOLDER gets at most eight
files: figures.json (with each figure as soon as it is known), table.txt, log.txt, tests.txt, profile.txt, result.json,
images.png. The table is printed last.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/test_gpu.py",
    "tests/condensation/test_iteration.py",
    "tests/data/test_image_data.py",
)  # that hold GPU tests
WHEELS = ("cyclopts", "docstring_parser", "rich_rst")
DATA = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
OLDEST = (2, 6)  # torch
SWITCHES = "ignore:Please use the new API"  # torch's word about its older tf32 switches

# Part → seconds. A part may also use what those before it have left: together they are under nine minutes.
LIMITS = {
    "tests": 80,
    "gradients": 20,
    "rates": 5,
    "published": 20,
    "eager": 15,
    "compiled": 70,
    "condensation": 230,
    "evaluation": 40,
    "evaluation in tf32": 25,
}


@dataclass
class Loan:
    """Where the parts run and what they leave."""

    folder: Path
    work: Path
    bundle: Path
    small: bool
    machine: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    worker: Worker | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.small else "cuda"

    def note(self, part: str, name: str, value: Any) -> None:
        """Keep a figure at once; what the machine is belongs to no part."""
        if name == "machine":
            self.machine |= value
        else:
            self.parts[part]["figures"][name] = value
        self.save()

    def save(self) -> None:
        """Write all figures, whole."""
        fresh = self.work / "figures.json"
        fresh.write_text(json.dumps({"machine": self.machine, "parts": self.parts}, indent=1) + "\n", encoding="utf-8")
        target = self.folder / "figures.json"
        part = target.with_suffix(".part")
        shutil.copyfile(fresh, part)  # the folders may lie on different disks
        part.replace(target)

    def environment(self) -> dict[str, str]:
        """The caller's, with attar and the carried wheels in front of what is installed."""
        paths = [ROOT, ROOT / "src", self.work / "site"]
        own = {
            "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), SWITCHES])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "ATTAR_CACHE": str(self.work / "cache"),
            "MPLCONFIGDIR": str(self.work / "matplotlib"),
        }
        return os.environ | own


class Worker:
    """A process that runs parts by name and tells figures, line by line, as JSON."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def run(self, part: str, deadline: float, note: Callable[[str, Any], None]) -> str | None:
        """Have a part run until `deadline` (of `time.monotonic`); what went wrong, in words."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(part, file=self.process.stdin, flush=True)
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                return "killed at its time limit"
            if line is None:
                status = self.process.wait()
                self.kill()
                return f"its process ended with status {status}"
            said = json.loads(line)
            if "done" in said:
                return said["failed"]
            note(said["figure"], said["value"])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it, with all that it started."""
        end(self.process)
        self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_command(
    command: list[str], environment: dict[str, str], output: Path, deadline: float, *, folder: Path
) -> str | None:
    """Run in a folder until `deadline`, the output at the end of a file; what went wrong, in words."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "killed at its time limit"
        finally:
            end(process)
    last = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or [""]
    return None if status == 0 else f"status {status}: {last[0][:200]}"


# ---- the parts that are processes of their own ----


def tests(loan: Loan, deadline: float) -> str | None:
    """The tests that are marked `gpu`; a small run has those beside them that follow the same code on a CPU."""
    report, output = loan.work / "tests.xml", loan.folder / "tests.txt"
    what = TESTS[:1] if loan.small else TESTS
    marked = [] if loan.small else ["-m", "gpu"]
    # pytest-timeout may be missing here: its setting in pyproject.toml is then an unknown one
    plain = ["-o", "addopts=-ra", "-W", "ignore::pytest.PytestConfigWarning", "-W", SWITCHES, "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        plain += ["-p", "no:benchmark"]  # which warns where tests run side by side
        plain += ["-n", str(side_by_side(loan)), "--dist", "worksteal"]  # most of the time is compilation
    command = [sys.executable, "-m", "pytest", *what, *marked, *plain, "-q", "--durations=8", f"--junitxml={report}"]
    failed = run_command(command, loan.environment(), output, deadline, folder=ROOT)
    if report.exists():
        suite = next(ElementTree.parse(report).iter("testsuite"))
        counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        loan.note("tests", "counts", counts)
        bad = [
            case.get("name") for case in suite.iter("testcase") if list(case.iter("failure")) + list(case.iter("error"))
        ]
        loan.note("tests", "failed", bad)
    return failed


def side_by_side(loan: Loan) -> int:
    """Processes for the tests: six, fewer on few cores or on a card of less than 48 GB; one in a small run."""
    if loan.small:
        return 1
    import torch

    memory = torch.cuda.mem_get_info()[0]
    return max(1, min(6, (os.cpu_count() or 1) // 2, int(memory // 8e9)))


def condensation(loan: Loan, deadline: float) -> str | None:
    """Fashion-MNIST, ten images per class, at a twentieth of IDC's iterations: early-stage models and the images."""
    size = ["--speedup", "20", "--precision", "bf16"]
    if loan.small:
        size = ["--niter", "1", "--inner_loop", "2", "--width", "0.1", "--n_data", "64"]
        size += ["--pt_from", "1", "--pt_fraction", "0.02", "--model_num", "1"]
    run = loan.work / "run"
    command = ["condense", "--recipe", "fashion", "--ipc", "10", *size, "--out", str(run), *where(loan)]
    loan.note("condensation", "command", "attar condense --recipe fashion --ipc 10 " + " ".join(size))
    failed = run_command(attar(*command), loan.environment(), loan.folder / "log.txt", deadline, folder=loan.work)
    keep_run(loan, run)
    steps = events(run / "metrics.jsonl")
    loan.note("condensation", "outer_iterations", len(steps))
    if len(steps) > 2:  # the first one compiles and records
        spent = (steps[-1]["seconds"] - steps[0]["seconds"]) / (len(steps) - 1)
        loan.note("condensation", "outer_iteration_s", round(spent, 3))
    if not failed:
        loan.note("condensation", "seconds", read(run / "result.json").get("seconds"))
    return failed


def evaluation(loan: Loan, deadline: float, precision: str = "float32") -> str | None:
    """Fresh networks on the set of the condensation."""
    part = "evaluation" if precision == "float32" else f"evaluation in {precision}"
    run = loan.work / "run"
    if not (run / "condensed.safetensors").exists():
        return "there is no set"
    size = ["--runs", "1", "--epochs", "2"] if loan.small else ["--runs", "3", "--precision", precision]
    command = attar("evaluate", str(run), *size, "--yardsticks", "none", *where(loan))
    failed = run_command(command, loan.environment(), loan.folder / "log.txt", deadline, folder=loan.work)
    if failed:
        return failed
    if precision == "float32":
        keep_run(loan, run)
    found = read(run / "result.json")
    for network, entry in found.get("accuracy", {}).items():
        loan.note(part, f"accuracy of {network}", {name: entry[name] for name in ("mean", "std", "n", "epochs")})
    loan.note(part, "seconds", found.get("seconds", {}).get("evaluate"))
    return None


def attar(*words: str) -> list[str]:
    """The command line, in this Python."""
    return [sys.executable, "-m", "attar", *words]


def where(loan: Loan) -> list[str]:
    """Device and data."""
    return ["--device", loan.device, "--data_dir", str(loan.bundle)]


def keep_run(loan: Loan, run: Path) -> None:
    """What a run leaves in the folder."""
    for name in ("result.json", "images.png"):
        if (run / name).exists():
            shutil.copyfile(run / name, loan.folder / name)


def events(path: Path) -> list[dict[str, Any]]:
    """The outer iterations of metrics.jsonl; a last line that was cut off is none."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
    return [event for event in found if event.get("event") == "step"]


def read(path: Path) -> dict[str, Any]:
    """A JSON file, {} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


OWN: dict[str, Callable[[Loan, float], str | None]] = {
    "tests": tests,
    "condensation": condensation,
    "evaluation": evaluation,
    "evaluation in tf32": partial(evaluation, precision="tf32"),
}


# ---- all of them ----


def run_all(loan: Loan) -> None:
    """Every part in turn, and what is known kept at once."""
    begin = time.monotonic()
    ends = begin
    for part, limit in LIMITS.items():
        ends += limit
        loan.parts[part] = {"seconds": None, "failed": None, "figures": {}}
        start = time.monotonic()
        try:
            failed = OWN[part](loan, ends) if part in OWN else shared(loan, part, ends)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        loan.parts[part] |= {"seconds": round(time.monotonic() - start, 1), "failed": failed}
        loan.save()
        print(f"{part}: {failed or 'done'} ({time.monotonic() - start:.1f} s)", flush=True)
    loan.machine["seconds"] = round(time.monotonic() - begin, 1)
    loan.save()


def shared(loan: Loan, part: str, deadline: float) -> str | None:
    """A part of `gpu_parts`, in the process that the others had, or in a new one."""
    if loan.worker is None or not loan.worker.alive:
        command = [sys.executable, "-m", "benchmarks.gpu_parts", "--device", loan.device, "--folder", str(loan.folder)]
        command += ["--small"] if loan.small else []
        loan.worker = Worker(command, loan.environment(), loan.folder / "log.txt")
    failed = loan.worker.run(part, deadline, lambda name, value: loan.note(part, name, value))
    if part == [name for name in LIMITS if name not in OWN][-1]:
        loan.worker.kill()  # its memory is wanted
    return failed


def table(loan: Loan) -> str:
    """All figures, one a line."""
    lines = [f"{name}: {value}" for name, value in loan.machine.items()]
    for part, found in loan.parts.items():
        lines.append(f"-- {part}: {found['failed'] or 'done'}, {found['seconds']} s")
        for name, value in found["figures"].items():
            values = value if isinstance(value, dict) else {"": value}
            lines += [f"  {' '.join(filter(None, (name, key))):56} {worded(item)}" for key, item in values.items()]
    return "\n".join(lines)


def worded(value: Any) -> str:
    """A value for the table, in one line."""
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)
    return " ".join(text.split())[:160]


def fail(words: str) -> NoReturn:
    """One line, status 2."""
    print(f"benchmarks/gpu.sh: error: {words}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; bash benchmarks/gpu.sh FOLDER [--small]")


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new or empty folder for what is found")
    parser.add_argument(
        "--small", action="store_true", help="the smallest of everything, on a CPU: shows that all runs"
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / ".gpu", help="what `make gpu-bundle` filled")
    return parser.parse_args()


def check(folder: Path, bundle: Path, *, small: bool) -> dict[str, Path]:
    """The carried wheels by package; where something is wrong nothing runs."""
    if folder.exists() and not folder.is_dir():
        fail(f"{folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()):
        fail(f"{folder} is not empty; name a new folder")
    fills = "`make gpu-bundle` fills it where there is a network"
    if not bundle.is_dir() or not any(bundle.iterdir()):
        fail(f"{bundle} is empty or missing; {fills}")
    wheels = {name: sorted(bundle.glob(f"{name}-*.whl")) for name in WHEELS}
    lacking = [name for name, found in wheels.items() if not found]
    lacking += [name for name in DATA if not (bundle / name).is_file()]
    if lacking:
        fail(f"{bundle} lacks {', '.join(lacking)}; {fills}")
    if importlib.util.find_spec("torch") is None:
        fail("there is no torch in this Python")
    import torch

    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        fail(f"attar needs torch 2.6 or newer, found {torch.__version__}")
    if not small and torch.version.cuda is None:
        fail(f"torch {torch.__version__} is built without CUDA; --small runs every part on a CPU")
    if not small and not torch.cuda.is_available():
        fail("torch sees no GPU here; --small runs every part on a CPU")
    return {name: found[-1] for name, found in wheels.items()}


def main() -> None:
    """Check, unpack, run, print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended too
    arguments = parsed()
    folder, bundle = arguments.folder.absolute(), arguments.bundle.absolute()
    wheels = check(folder, bundle, small=arguments.small)
    folder.mkdir(parents=True, exist_ok=True)
    with working() as work:
        for wheel in wheels.values():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work / "site")
        loan = Loan(folder, work, bundle, arguments.small)
        loan.machine = {
            "device": loan.device,
            "python": sys.version.split()[0],
            "began": time.strftime("%Y-%m-%d %H:%M"),
        }
        loan.machine["command"] = " ".join(
            ["bash benchmarks/gpu.sh", folder.name, *(["--small"] if loan.small else [])]
        )
        try:
            run_all(loan)
        finally:
            if loan.worker is not None:
                loan.worker.kill()
        text = table(loan)
    (folder / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


@contextlib.contextmanager
def working() -> Iterator[Path]:
    """A folder of its own for as long as it runs."""
    with tempfile.TemporaryDirectory(prefix="attar-gpu-", ignore_cleanup_errors=True) as work:
        yield Path(work)


if __name__ == "__main__":
    main()
