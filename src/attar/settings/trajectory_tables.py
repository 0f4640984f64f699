"""The published numbers of trajectory matching, by data set and stored images per class (docs/trajectories.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Values = dict[str, Any]

# Experts: SGD at a constant rate, without momentum, decay and CutMix
EXPERTS: Values = {"keep_epochs": True, "momentum": 0.0, "weight_decay": 0.0, "lr_decay": False, "mix_p": 0.0}
FLAT_EXPERTS: Values = EXPERTS | {"optimizer": "gsam"}
PUBLISHED_POOL: Values = {"models": 100, "batch_size": 256}
SCHEDULE: Values = {"inner_loop": 100, "full_niter": 50, "speedup": 1}
# For a CPU: one epoch of an expert that starts early, at a rate with which ten steps can follow it (docs/log.md)
SHORT: Values = {
    **{"syn_steps": 10, "expert_epochs": 1, "max_start_epoch": 4},
    **{"lr_teacher": 0.02, "lr_img": 10.0},
}

TINY = "tiny-imagenet-200"  # as it is called when unzipped, and so are the first two of these
SUBSETS = ("imagenette2", "imagewoof2", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")
MTT_NAMES = ("syn_steps", "expert_epochs", "max_start_epoch", "batch_syn", "lr_img", "lr_lr", "lr_teacher", "zca")
MTT: dict[tuple[str, int], tuple[Any, ...]] = {
    ("cifar10", 1): (50, 2, 2, None, 100.0, 1e-7, 0.01, True),
    ("cifar10", 10): (30, 2, 20, None, 100.0, 1e-5, 0.001, True),
    ("cifar10", 50): (30, 2, 40, None, 1000.0, 1e-5, 0.001, False),
    ("cifar100", 1): (20, 3, 20, None, 1000.0, 1e-5, 0.01, True),
    ("cifar100", 10): (20, 2, 20, None, 1000.0, 1e-5, 0.01, False),
    ("cifar100", 50): (80, 2, 40, 125, 1000.0, 1e-5, 0.01, True),
    (TINY, 1): (10, 2, 10, None, 1e4, 1e-4, 0.01, False),
    (TINY, 10): (20, 2, 40, 200, 1e4, 1e-4, 0.01, False),
    (TINY, 50): (20, 2, 40, 300, 1e4, 1e-4, 0.01, False),
    **{(name, 1): (20, 2, 10, None, 1000.0, 1e-6, 0.01, False) for name in SUBSETS},
    **{(name, 10): (20, 2, 10, 20, 1000.0, 1e-6, 0.01, False) for name in SUBSETS},
}
# What FTD's table has otherwise
FTD: dict[tuple[str, int], Values] = {
    ("cifar10", 1): {"gsam_alpha": 0.3},
    ("cifar10", 50): {},
    ("cifar100", 1): {"syn_steps": 40},
    ("cifar100", 10): {"max_start_epoch": 40},
    (TINY, 1): {"syn_steps": 30},
    (TINY, 10): {},
}
DATM_NAMES = (
    *("syn_steps", "expert_epochs", "min_start_epoch", "current_max_start_epoch", "max_start_epoch"),
    *("expansion_end_epoch", "batch_syn", "lr_img", "lr_y", "lr_lr"),
)
DATM: dict[tuple[str, int], tuple[Any, ...]] = {
    ("cifar10", 1): (80, 2, 0, None, 4, 1000, 10, 100.0, 5.0, 1e-7),
    ("cifar10", 10): (80, 2, 0, 10, 20, 1000, 100, 100.0, 2.0, 1e-5),
    ("cifar10", 50): (80, 2, 0, 20, 40, 2000, 500, 1000.0, 2.0, 1e-5),
    ("cifar10", 500): (40, 2, 40, None, 60, 1000, 1000, 50.0, 10.0, 1e-5),
    ("cifar10", 1000): (100, 2, 40, None, 60, 1000, 1000, 50.0, 10.0, 1e-5),
    ("cifar100", 1): (40, 3, 0, 10, 20, 1000, None, 1000.0, 10.0, 1e-5),
    ("cifar100", 10): (80, 2, 0, 30, 50, 2000, 1000, 1000.0, 10.0, 1e-5),
    ("cifar100", 50): (80, 2, 20, None, 70, 1000, 1000, 1000.0, 10.0, 1e-5),
    ("cifar100", 100): (80, 2, 30, None, 70, 1000, 1000, 50.0, 10.0, 1e-5),
    (TINY, 1): (40, 2, 0, 15, 20, 2000, None, 1e4, 10.0, 1e-4),
    (TINY, 10): (40, 2, 10, None, 50, 1000, 500, 100.0, 10.0, 1e-4),
    (TINY, 50): (20, 2, 40, None, 70, 1000, 1000, 100.0, 10.0, 1e-4),
}


def called(dataset: str) -> str:
    """What a table calls a data set; a folder wherever it is by its own name, such as tiny-imagenet-200."""
    name = TINY if dataset == "tiny-imagenet" else Path(dataset).name
    return name if name in (TINY, *SUBSETS) else dataset


def column(table: dict[tuple[str, int], Any], dataset: str, ipc: int) -> Any:
    """The entry of a data set at the nearest lower number of images per class, or at its lowest; None without one."""
    dataset = called(dataset)
    there = sorted(count for name, count in table if name == dataset)
    return table[dataset, max([count for count in there if count <= ipc], default=there[0])] if there else None


def mtt(dataset: str, ipc: int) -> Values:
    """MTT's settings (its table; CIFAR-10 at ipc 10 as its author corrected it); empty for other data."""
    return dict(zip(MTT_NAMES, column(MTT, dataset, ipc) or (), strict=False))


def ftd(dataset: str, ipc: int) -> Values:
    """MTT's settings with what FTD's table has otherwise."""
    return mtt(dataset, ipc) | (column(FTD, dataset, ipc) or {})


def datm(dataset: str, ipc: int) -> Values:
    """DATM's settings (its table); always in ZCA space."""
    values = dict(zip(DATM_NAMES, column(DATM, dataset, ipc) or (), strict=False))
    exceptions: Values = {"threshold": 1.1} if dataset == "cifar10" and ipc < 10 else {}
    if dataset == "cifar100" and 50 <= ipc < 100:
        exceptions = {"init": "random"}
    return values | ({"zca": True} | exceptions if values else {})
