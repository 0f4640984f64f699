"""attar: a data set in, a handful of synthetic images per class out.

The names are loaded when they are used, so that `attar --help` need not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.api import condense as condense
    from attar.api import evaluate as evaluate
    from attar.api import load as load
    from attar.api import pretrain as pretrain
    from attar.api import select as select
    from attar.data import ImageData as ImageData
    from attar.errors import MissingError as MissingError
    from attar.errors import UserError as UserError
    from attar.export import export_set as export_set
    from attar.partition import concatenate as concatenate
    from attar.pool import Pool as Pool
    from attar.push import push_set as push_set
    from attar.store import load_set as load_set
    from attar.store import save_set as save_set
    from attar.synthetic import SyntheticSet as SyntheticSet
    from attar.verbs.comparing import compare as compare

_ROOMS = {
    "condense": "api",
    "evaluate": "api",
    "load": "api",
    "pretrain": "api",
    "select": "api",
    "ImageData": "data",
    "MissingError": "errors",
    "UserError": "errors",
    "export_set": "export",
    "push_set": "push",
    "Pool": "pool",
    "load_set": "store",
    "save_set": "store",
    "SyntheticSet": "synthetic",
    "concatenate": "partition",
    "compare": "verbs.comparing",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("attar.version").__version__
    if name not in _ROOMS:
        raise AttributeError(f"module 'attar' has no attribute '{name}'")
    return getattr(importlib.import_module(f"attar.{_ROOMS[name]}"), name)
