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
    "out": Flag(str, "the run folder (default: runs/DATA-METHOD-ipcN, without METHOD for accdd)", ("-o",)),
    "overwrite": Flag(bool, "replace the run that --out already holds"),
    "resume": Flag(str, "go on with the run in this folder; auto: with the one in --out, if there is one"),
    "save_every": Flag(str, "time (600s, 10m, 2h) or inner iterations (50it) between checkpoints; none (default: 5m)"),
    "ray": Flag(str, "compute on a Ray cluster: at this ADDRESS, or without one on a cluster started here"),
    "ray_cpus": Flag(int, "CPU threads of each part on the cluster (default: as many as a part takes here)"),
    "jobs": Flag(
        int, "runs at once, with one thread each; times of more runs than cores cannot be compared (default: 1)"
    ),
    "minutes": Flag(float, "end when MINUTES are up: pool, set and, with --evaluate, the evaluation"),
    "evaluate": Flag(bool, "evaluate the set too, as `attar evaluate` does"),
    "teacher": Flag(
        str, "a network, trained on all images, or pool: the early-stage ones (default: the run's network)"
    ),
    "temperature": Flag(float, "the soft labels are softmax(logits / TEMPERATURE) (default: 1)"),
    "quick": Flag(bool, "one seed, and not on the whole set"),
    "to": Flag(str, "parquet, imagefolder, npz or pt"),
    "what": Flag(str, "the images as stored, decoded (to train on) or both (default: both in parquet, else decoded)"),
    "features": Flag(str, "what a core-set compares images by: early (a network), pixels, or a pool's file or folder"),
    "private": Flag(bool, "only you can see it"),
    "network": Flag(str, "such as convnet, resnet18-batch, timm:NAME or module:function (default: the run's own)"),
    "dry_run": Flag(bool, "write the folder that would be uploaded, print its card, and upload nothing"),
    "factor": Flag(int, "how stored images made elsewhere are decoded: FACTOR x FACTOR each (default: 1)", ("-f",)),
    "decode_type": Flag(str, "single, multi or bound, for stored images made elsewhere (default: single)"),
    "normalized": Flag(bool, "the images made elsewhere are normalised with the data's mean and std"),
    "quiet": Flag(bool, "show no progress while it runs, only warnings", ("-q",)),
    "json": Flag(bool, "print the result as one JSON object, and nothing else, on standard output"),
    "log": Flag(tuple[str, ...], "send the events to tensorboard, wandb or both as well"),
    "methods": Flag(bool, "list the methods, each with its paper"),
    "networks": Flag(bool, "list the networks"),
    "debug": Flag(bool, "show the traceback of an error"),
}
# Of verbs with many flags, those that `--help` shows; `--help-all` shows all.
EVERYDAY = {
    "condense": ("dataset", "ipc", "method", "recipe", "minutes", "evaluate", "out", "resume", "overwrite", "device"),
    "evaluate": ("quick", "networks", "runs", "epochs", "yardsticks", "dataset", "device", "json", "quiet"),
    "inspect": ("ipc", "method", "size", "test_fraction", "out", "device"),
    "label": ("teacher", "temperature", "epochs", "seed", "dataset", "device"),
    "train": ("network", "epochs", "seed", "dataset", "out", "overwrite", "device"),
    "add": ("dataset", "size", "out", "overwrite", "device"),
    "pretrain": ("dataset", "net_type", "epochs", "models", "seed", "recipe", "out", "device"),
    "select": ("dataset", "ipc", "features", "seed", "out", "overwrite", "device"),
}


def takes(*names: str, **helps: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declares the flags of a verb, those in `helps` with a help of their own; every verb also takes --debug."""

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        flags = {name: FLAGS[name] for name in (*names, *helps, "debug")}
        function.__dict__["flags"] = flags | {name: FLAGS[name]._replace(help=text) for name, text in helps.items()}
        return function

    return mark


def flags_of_verb(function: Callable[..., None]) -> dict[str, Flag]:
    """The flags that a verb takes, by name."""
    return function.__dict__.get("flags", {})
