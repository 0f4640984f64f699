"""Parts on a Ray cluster of loopback nodes: two nodes against one, and a worker and a node killed mid-part.

python -m benchmarks.ray_nodes --json benchmarks/results/ray_nodes.json

Every node has one core and is a raylet of its own on 127.0.0.1. The undisturbed result on one node is the reference:
all others have to equal it byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attar.stages.cluster import LOOPBACK, NO_REPORTS, OFFLINE
from benchmarks import common

PARTS = 4
EXPERIMENTS = ("two_nodes", "worker", "node")  # the last two are killed mid-part
STORE = 200_000_000  # bytes of each node's object store
SETTINGS = "-d digits --nclass 8 --nclass_sub 2 --pt_from 1 --model_num 2 --compile off --save_every 20it"


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A head without cores and nodes of one core each: processes of their own on 127.0.0.1."""
    # before ray is imported, and for all processes of the cluster
    os.environ.update(NO_REPORTS | OFFLINE | LOOPBACK)
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": STORE, "node_ip_address": "127.0.0.1"}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
    try:
        for _ in range(nodes):
            started.add_node(num_cpus=1, **size)
        yield started
    finally:
        started.shutdown()


def condense(address: str, out: Path, settings: list[str], disturb: Callable[[], None] | None = None) -> float:
    """Seconds of `attar condense --ray`; `disturb` runs beside it."""
    command = [sys.executable, "-m", "attar", "condense", *settings, "--ray", address, "--ray_cpus", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with subprocess.Popen([*command, "--out", str(out), "--quiet"], cwd=out.parent, env=environment) as process:
        if disturb is not None:
            threading.Thread(target=disturb, daemon=True).start()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"attar condense ended with status {process.returncode}")
    return time.perf_counter() - start


def seconds_of_parts(out: Path) -> float:
    """From the first part's beginning to the last one's end, by their metrics: without the start of the processes."""
    folders = sorted((out / "parts").iterdir())
    ends = [(folder / "result.json").stat().st_mtime for folder in folders]
    seconds_of = [json.loads((folder / "result.json").read_text(encoding="utf-8"))["seconds"] for folder in folders]
    return max(ends) - min(end - seconds["condense"] for end, seconds in zip(ends, seconds_of, strict=True))


def digest(out: Path) -> str:
    """A hash of the condensed set."""
    return hashlib.sha256((out / "condensed.safetensors").read_bytes()).hexdigest()


def wait_for(out: Path, steps: int) -> bool:
    """Wait until some part has made `steps` outer iterations; False when none has within two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in out.glob("parts/*/metrics.jsonl"):
            if path.read_text(encoding="utf-8").count("\n") >= steps:
                return True
        time.sleep(0.05)
    return False


def workers() -> list[int]:
    """The processes that compute a task now, on clusters that this process started."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if status.read_bytes().startswith(b"ray::_task"):
                pids.append(int(status.parent.name))
        except OSError:  # it ended at this moment
            continue
    return [pid for pid in pids if is_ours(pid)]


def is_ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--niter", type=int, default=20, help="outer iterations of each part")
    parser.add_argument("--inner_loop", type=int, default=20)
    parser.add_argument(
        "--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="besides one node"
    )
    arguments = parser.parse_args()
    device = common.start(arguments)
    settings = [*SETTINGS.split()]
    for name in ("width", "ipc", "factor", "niter", "inner_loop"):
        settings += [f"--{name}", str(getattr(arguments, name))]
    result = common.machine(device) | {
        "what": f"{PARTS} parts of 2 classes of digits, Ray nodes of one core: two nodes against one, and disturbed",
        "parts": PARTS,
        **{name: getattr(arguments, name) for name in ("niter", "inner_loop", "width", "ipc", "factor")},
        "ray": version("ray"),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        digests = {}
        for what in ("one_node", *arguments.experiments):
            with cluster(1 if what == "one_node" else 2) as started:
                result[what] = experiment(started, root / what, settings, what)
                digests[what] = digest(root / what)
    if "two_nodes" in result:
        result["ratio"] = result["one_node"]["parts_s"] / result["two_nodes"]["parts_s"]
    result |= {
        "equal": {what: value == digests["one_node"] for what, value in digests.items()},
        "seconds_since_1970": round(time.time()),
        "command": "python -m benchmarks.ray_nodes " + " ".join(sys.argv[1:]),
    }
    common.publish(result, arguments.json)


def experiment(started: Any, out: Path, settings: list[str], what: str) -> dict[str, Any]:
    """One run of all parts; for `worker` and `node` one of them is killed while parts are computed."""
    measured: dict[str, Any] = {}

    def kill() -> None:
        if not wait_for(out, 2):
            return
        if what == "worker":
            pids = workers()[:1]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            measured["killed"] = len(pids)
        else:
            started.remove_node(next(iter(started.worker_nodes)), allow_graceful=False)
            measured["killed"] = 1

    measured["command_s"] = condense(started.address, out, settings, kill if what in ("worker", "node") else None)
    measured["parts_s"] = seconds_of_parts(out)
    continued = [path for path in out.glob("parts/*/config.json") if '"continued"' in path.read_text(encoding="utf-8")]
    return measured | {"parts_continued_from_a_checkpoint": len(continued)}


if __name__ == "__main__":
    main()
