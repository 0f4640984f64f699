"""The networks that an evaluation has trained so far."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

from attar.files import append

TRAINED = "evaluation.jsonl"  # only while an evaluation runs


class TrainedNetworks:
    """The networks that an evaluation has trained so far, so that an interrupted one goes on with the next seed.

    Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / TRAINED if folder is not None else None
        self.start = time.perf_counter()
        self.before = 0.0  # seconds of earlier sessions
        self.known: dict[str, tuple[float, int]] = {}
        self.lock = threading.Lock()  # networks are trained side by side
        lines = self.path.read_text(encoding="utf-8") if self.path is not None and self.path.exists() else ""
        for line in lines.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that cannot be read is computed again
                values = json.loads(line)
                self.known[str(values["key"])] = float(values["accuracy"]), int(values["images"])
                self.before = max(self.before, float(values["seconds"]))

    @property
    def seconds(self) -> float:
        """All that the evaluation took so far."""
        return self.before + time.perf_counter() - self.start

    def keep(self, key: str, done: tuple[float, int]) -> None:
        """Keep one network's accuracy and number of training images."""
        if self.path is not None:
            accuracy, images = done
            with self.lock:
                append(self.path, {"key": key, "accuracy": accuracy, "images": images, "seconds": self.seconds})

    def forget(self) -> None:
        """The evaluation is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
