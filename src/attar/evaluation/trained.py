"""The networks that an evaluation has trained so far."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from attar.files import append

TRAINED_NETWORKS = "evaluation.jsonl"  # exists only while an evaluation runs


class TrainedNetwork(NamedTuple):
    """What an evaluation reports of one network."""

    accuracy: float  # fraction of the real test images, after the last epoch
    images: int  # number of training images
    predicted: list[int] | None = None  # the predicted class of each test image, where it was kept
    attacked: dict[str, float] | None = None  # {attack: accuracy under it, a fraction}


class TrainedNetworks:
    """The networks that an evaluation has trained so far, so that an interrupted one continues with the next network.

    `results` maps the key of a network (see `measure.Evaluator.key`) to its result. With a folder every result is
    also appended to a file in it, and results of an earlier session are read from there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = folder / TRAINED_NETWORKS if folder is not None else None
        self.start = time.perf_counter()
        self.earlier_seconds = 0.0  # of sessions before this one
        self.results: dict[str, TrainedNetwork] = {}
        self.lock = threading.Lock()  # networks are trained in several threads
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self.read(line)

    def read(self, line: str) -> None:
        """Take over the result in one line of a file. An unreadable line is ignored: that network is trained again."""
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            predicted = [int(label) for label in values["predicted"]]
            attacked = {str(name): float(value) for name, value in dict(values["attacked"] or {}).items()}
            self.results[str(values["key"])] = TrainedNetwork(
                float(values["accuracy"]), int(values["images"]), predicted, attacked
            )
            self.earlier_seconds = max(self.earlier_seconds, float(values["seconds"]))

    @property
    def seconds(self) -> float:
        """The time that the evaluation took so far, all sessions together."""
        return self.earlier_seconds + time.perf_counter() - self.start

    def add(self, key: str, result: TrainedNetwork) -> None:
        """Remember a network's result."""
        self.results[key] = result
        if self.path is not None:
            with self.lock:
                append(
                    self.path,
                    {"key": key, **result._asdict(), "seconds": self.seconds},
                )

    def remove_file(self) -> None:
        """Remove the file when the evaluation is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
