"""How long Fashion-MNIST takes from parquet to a tensor, the first and the second time, and `attar --help`.

python -m benchmarks.loading --json benchmarks/results/loading-fashion.json
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import attar
from attar.data.images import ImageData
from benchmarks.common import machine, publish, summary


def write(folder: Path, data: ImageData) -> None:
    """The data set as the package `datasets` writes it: PNG bytes, one file a split."""
    halves = {"train": (data.images, data.labels), "test": (data.test_images, data.test_labels)}
    for name, (images, labels) in halves.items():
        assert images is not None and labels is not None  # Fashion-MNIST has a test set
        cells = [{"bytes": _png(image), "path": None} for image in images[:, 0].numpy()]
        pq.write_table(pa.table({"image": cells, "label": labels.tolist()}), folder / f"{name}-00000-of-00001.parquet")


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def seconds(folder: Path, cache: Path) -> float:
    """Seconds of one load in this process."""
    os.environ["ATTAR_CACHE"] = str(cache)
    start = time.perf_counter()
    data = attar.load(folder)
    elapsed = time.perf_counter() - start
    assert (len(data.images), data.size) == (60000, (28, 28))
    return elapsed


def help_seconds() -> float:
    """Seconds of `attar --help` in a new process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "attar", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--json", type=Path, help="write the result here too")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "fashion"
        folder.mkdir()
        write(folder, attar.load("fashion", device="cpu"))
        caches = [Path(scratch) / f"cache{number}" for number in range(options.rounds)]
        first = [seconds(folder, cache) for cache in caches]
        second = [seconds(folder, cache) for cache in caches]
    result = machine(torch.device("cpu")) | {
        "images": 70000,
        "first_load_s": summary(first),
        "second_load_s": summary(second),
        "help_s": summary([help_seconds() for _ in range(options.rounds)]),
    }
    publish(result, options.json)


if __name__ == "__main__":
    main()
