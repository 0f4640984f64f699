"""The flags that say how a verb runs, each declared once. The flags of settings come from `attar.settings.config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """A flag: the type of its value, one line of help, and other names."""

    kind: Any
    help: str
    names: tuple[str, ...] = ()


FLAGS: dict[str, Flag] = {
    "recipe": Flag(str, "a recipe's name, a TOML file or a run's config.json; flags go on top"),
    "reproduce": Flag(bool, "insist on the published settings of the data set"),
    "out": Flag(str, "the folder (or file, for inspect, npz and pt) to write to", ("-o",)),
    "overwrite": Flag(bool, "replace the run that --out already holds"),
    "resume": Flag(str, "resume the run in this folder; auto: the one in --out, if there is one"),
    "save_every": Flag(str, "time (600s, 10m, 2h) or inner iterations (50it) between checkpoints; none (default: 5m)"),
    "ray": Flag(str, "compute on a Ray cluster: at this ADDRESS, or without one on a cluster started here"),
    "ray_cpus": Flag(int, "CPU threads of each part on the cluster (default: as many as a part takes here)"),
    "jobs": Flag(
        int, "runs at once, with one thread each; times of more runs than cores cannot be compared (default: 1)"
    ),
    "minutes": Flag(float, "choose as many iterations as fit into MINUTES on this machine"),
    "to": Flag(str, "parquet, imagefolder, npz or pt"),
    "what": Flag(str, "stored, decoded or both (default: parquet both, else decoded)"),
    "features": Flag(str, "what a core-set compares images by: early (a network), pixels, or a pool's file or folder"),
    "private": Flag(bool, "only you can see it"),
    "network": Flag(str, "such as convnet, resnet18-batch, timm:NAME or module:function (default: the run's own)"),
    "factor": Flag(int, "how stored images made elsewhere are decoded: FACTOR x FACTOR each (default: 1)", ("-f",)),
    "decode_type": Flag(str, "single, multi or bound, for stored images made elsewhere"),
    "normalized": Flag(bool, "the images made elsewhere are normalised with the data's mean and std"),
    "quiet": Flag(bool, "say nothing while it runs", ("-q",)),
    "json": Flag(bool, "print the result as one JSON object, and nothing else, on standard output"),
    "log": Flag(tuple[str, ...], "send the events to tensorboard, wandb or both as well"),
    "debug": Flag(bool, "show the traceback of an error"),
}


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declares the flags of a verb; every verb also takes --debug."""

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function.__dict__["flags"] = (*names, "debug")
        return function

    return mark


def flags_of_verb(function: Callable[..., None]) -> tuple[str, ...]:
    """The flags that a verb takes."""
    return function.__dict__.get("flags", ())
