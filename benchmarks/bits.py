"""Condensed images as digests: every method and recipe at the size of a test, to compare two states of the code.

    python -m benchmarks.bits before.json      # at one commit
    python -m benchmarks.bits after.json --against before.json      # at another, on the same machine

A change that only moves or renames code leaves every digest as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

import attar

SHORT: dict[str, Any] = {"width": 0.05, "niter": 2, "inner_loop": 4}
SMALL: dict[str, Any] = {**SHORT, "n_data": 64}
POOL: dict[str, Any] = {"epochs": 1, "models": 2}
# case -> settings of `attar.condense` on the digits
CASES: dict[str, dict[str, Any]] = {
    **{f"method {name}": {"method": name, **SHORT} for name in ("dc", "dsa", "dm")},
    **{f"method {name}": {"method": name, **SMALL} for name in ("idc", "idc-i")},
    "method accdd": {**SMALL, **POOL},
    "method ncfm": {"method": "ncfm", "frequencies": 8, **SHORT, **POOL},
    "method ncfm with ipc 10": {"method": "ncfm", "frequencies": 8, "ipc": 10, **SHORT, **POOL},
    "factor 2": {"factor": 2, "ipc": 3, **SMALL, **POOL},
    "decode multi": {"factor": 2, "decode_type": "multi", **SMALL, **POOL},
    "decode bound": {"factor": 2, "ipc": 40, "decode_type": "bound", "batch_syn_max": 50, **SMALL, **POOL},
    "clusters": {"select": "cluster", "select_every": 2, **SMALL, **POOL},
    "mean over sweeps": {"averaging_power": 3, **SMALL, **POOL},
    "adamw": {"img_optim": "adamw", "img_step": "sweep", **SMALL, **POOL},
    "normalized pixels": {"img_space": "normalized", "img_step": "sweep", **SMALL, **POOL},
    "features": {"match": "feat", **SMALL, **POOL},
    "cosine with bias and last layer": {"metric": "cos", "bias": True, "fc": True, **SMALL, **POOL},
    "calibrated": {"calibrate": 0.5, **SMALL, **POOL},
    "warmed up": {"method": "idc", "warmup": 1, **SMALL},
    "unperturbed": {"perturb": False, **SMALL, **POOL},
    "one part": {"nclass_sub": 5, "phase": 1, **SMALL, **POOL},
    "all parts": {"nclass_sub": 5, **SMALL, **POOL},
    "bf16": {"precision": "bf16", **SMALL, **POOL},
    "resnet": {"net_type": "resnetap", **SMALL, **POOL},
    "batch norm": {"norm_type": "batch", **SMALL, **POOL},
    "noise": {"init": "noise", **SMALL, **POOL},
}
TINY: dict[str, Any] = {"width": 0.05, "niter": 1, "inner_loop": 2, "batch_real": 8, **POOL}
RECIPES = ("digits", "fashion-cpu", "best", "cifar10", "cifar100", "svhn", "mnist", "fashion", "imagenet10")


def digest(*tensors: torch.Tensor) -> str:
    """The bits of tensors, as 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def pictures(channels: int, side: int, name: str = "pictures") -> attar.ImageData:
    """Forty random pictures of each of four classes, and ten more of each to test on."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)
    images = torch.randint(0, 256, (200, channels, side, side), generator=generator, dtype=torch.uint8)
    train, test = slice(0, 160), slice(160, None)
    return attar.ImageData(images[train], labels[train], test_images=images[test], test_labels=labels[test], name=name)


def found() -> dict[str, str]:
    """{case: digest}."""
    digits = attar.load("digits", device="cpu")
    digests = {}

    def note(name: str, value: str) -> None:
        digests[name] = value
        print(f"{value}  {name}", file=sys.stderr, flush=True)

    for name, settings in CASES.items():
        condensed = attar.condense(digits, **settings)
        note(name, digest(condensed.images, condensed.labels, condensed.initial))
    for recipe in RECIPES:
        channels, side = (1, 28) if "mnist" in recipe or "fashion" in recipe or recipe == "best" else (3, 32)
        name = "fashion" if recipe == "best" else "pictures"  # on other data `best` has other settings
        data = digits if recipe == "digits" else pictures(channels, 48 if recipe == "imagenet10" else side, name)
        condensed = attar.condense(data, recipe=recipe, ipc=1, **TINY)
        note(f"recipe {recipe}", digest(condensed.images, condensed.labels))
    own = pictures(3, 32)
    note("data of one's own", digest(attar.condense(own, ipc=1, **TINY).images))
    pool = attar.pretrain(digits, width=0.05, **POOL)
    note("pool", digest(*(value for member in pool.members for value in member.params.values())))
    for method in ("random", "herding", "kcenter"):
        note(f"core-set {method}", digest(attar.select(digits, method, pool, ipc=3).images))
    condensed = attar.condense(digits, pool, niter=2, inner_loop=4, n_data=64)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        attar.condense(digits, pool, niter=1, inner_loop=4, n_data=64, folder=run)
        longer = attar.condense(digits, pool, niter=2, inner_loop=4, n_data=64, folder=run)
        note("a run that was made longer", digest(longer.images))
    note("the same in one go", digest(condensed.images))
    measured = attar.evaluate(condensed, digits, networks=["convnet2"], runs=2, epochs=3, whole_epochs=1)
    values = {kind: measured[kind]["convnet2"]["runs"] for kind in ("accuracy", "initial", "random_real", "whole")}
    note("evaluation", hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16])
    return digests


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="where the digests are written")
    parser.add_argument("--against", type=Path, help="an earlier file; exit status 1 where a digest differs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    digests = found()
    arguments.file.write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    if arguments.against is not None:
        before = json.loads(arguments.against.read_text(encoding="utf-8"))
        differ = [name for name, value in digests.items() if before.get(name) != value]
        missing = sorted(before.keys() - digests.keys())
        print(f"{len(digests) - len(differ)} of {len(digests)} digests are equal; differ: {differ}; gone: {missing}")
        sys.exit(bool(differ or missing))


if __name__ == "__main__":
    main()
