"""Hugging Face data sets: objects of the package `datasets`, and names on the hub. Needs the extra [hf]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from attar.data.images import ImageData
from attar.data.sources.columns import choose
from attar.data.sources.folder import LAYOUT
from attar.data.sources.locate import words
from attar.data.sources.table import READ, ReadOptions, Split, halves, read
from attar.errors import MissingError, UserError

ANSWER = 5.0  # seconds that the hub has to answer in
NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")  # USER/NAME or USER/NAME:CONFIGURATION


def is_name(source: str) -> bool:
    """Whether a data set on the hub may be called so."""
    return NAME.fullmatch(source) is not None and not source.startswith(".")


def is_dataset(source: object) -> bool:
    """Whether it is an object of `datasets`, without importing that."""
    return type(source).__module__.split(".")[0] == "datasets" or (
        isinstance(source, Mapping) and bool(source) and all(is_dataset(part) for part in source.values())
    )


def load(name: str, reading: ReadOptions) -> ImageData:
    """A data set of the hub, downloaded once into Hugging Face's own cache.

    Raises MissingError when the package, the network or the data set is not there.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingError(
            f"the folder {name} does not exist; {LAYOUT}; or, for a data set of that name on the Hugging Face hub, "
            f"pip install 'attar[hf]'"
        ) from error
    path, _, configuration = name.partition(":")
    setup = _out_of_reach(path)
    try:
        with _offline(datasets, setup is not None):
            found = datasets.load_dataset(path, configuration or None)
    except (UserError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # datasets raises many kinds; what was wrong with the hub says more
        raise MissingError(
            f"the folder {name} does not exist; {LAYOUT}; and the Hugging Face hub gives no data set of that name: "
            f"{setup or words(error)}"
        ) from error
    return from_datasets(found, reading, name.replace("/", "--").replace(":", "--"), keep=True)


def _out_of_reach(path: str) -> str | None:
    """Why the hub does not give a data set; asked first, because `datasets` tries for minutes without a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(path, timeout=ANSWER)
    except HfHubHTTPError as error:
        return words(error).split(" For more details")[0]
    except Exception as error:  # the HTTP library's own errors, and those of an offline mode
        return f"no network, or the hub does not answer ({type(error).__name__})"
    return None


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Inside, `datasets` and the hub's client look at what was downloaded before, and nowhere else."""
    import huggingface_hub.constants as constants

    places: tuple[Any, ...] = (constants, datasets.config) if wanted else ()
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def from_datasets(source: Any, reading: ReadOptions, name: str = "hf", *, keep: bool = False) -> ImageData:
    """A `Dataset`, a `DatasetDict` or a dict of `Dataset`s. `keep`: decoded images are kept on disk.

    Raises UserError for streams and for what `table.read` refuses.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    for part in parts.values():
        if not hasattr(part, "with_format") or not hasattr(part, "__len__"):
            raise UserError(f"a {type(part).__name__} is a stream; load the data set without streaming=True")
    train, test = halves(parts, name)
    features = parts[train].features.to_dict()
    columns = choose(features, reading.image_column, reading.label_column, name)
    used = {key: parts[key] for key in (train, test) if key}
    splits = {key: Split(len(part), partial(_tables, part), f"split {key}") for key, part in used.items()}
    stamp = [part._fingerprint for part in used.values()] if keep else None
    return read(splits, columns, name, reading, stamp)


def _tables(part: Any, columns: Sequence[str]) -> Iterator[Any]:
    yield from part.select_columns(list(columns)).with_format("arrow").iter(batch_size=READ)
