"""Hugging Face data sets: objects of the package `datasets`, and names on the hub. Needs the extra [hf]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attar.data import decode
from attar.data.assemble import About, assemble, origin_of
from attar.data.images import ImageData
from attar.data.reading import Reading, printable
from attar.data.sources.columns import choose
from attar.data.sources.layout import LAYOUT
from attar.data.sources.locate import words
from attar.data.sources.table import ROWS_READ, Rows, split_of
from attar.errors import MissingError, UserError

ANSWER = 5.0  # seconds that the hub has to answer in
LARGEST_SET = 20e9  # bytes: 50 images of 256x256 for each of 1,000 classes have some 5
NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")  # USER/NAME or USER/NAME:CONFIGURATION


def is_name(source: str) -> bool:
    """Whether a data set on the hub may be called so."""
    return NAME.fullmatch(source) is not None and not source.startswith(".")


def is_dataset(source: object) -> bool:
    """Whether it is an object of `datasets`, without importing that."""
    return type(source).__module__.split(".")[0] == "datasets" or (
        isinstance(source, Mapping) and bool(source) and all(is_dataset(part) for part in source.values())
    )


def load(name: str, reading: Reading) -> ImageData:
    """A data set of the hub, downloaded once into Hugging Face's own cache.

    Args:
        name: USER/NAME or USER/NAME:CONFIGURATION.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        MissingError: when the package, the network or the data set is not there.
        UserError: see `from_datasets`.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingError(
            f"the folder {name} does not exist; {LAYOUT}; or, for a data set of that name on the Hugging Face hub, "
            f"pip install 'attar[hf]'"
        ) from error
    path, _, configuration = name.partition(":")
    setup = _ask(path)[1]
    try:
        with _offline(datasets, setup is not None):
            loaded = datasets.load_dataset(path, configuration or None)
    except (UserError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # datasets raises many kinds; what was wrong with the hub says more
        raise MissingError(
            f"the folder {name} does not exist; {LAYOUT}; and the Hugging Face hub gives no data set of that name: "
            f"{setup or words(error)}"
        ) from error
    return from_datasets(loaded, reading, name.replace("/", "--").replace(":", "--"), keep=True)


def snapshot(name: str) -> Path:
    """The images and tables of a data set of the hub, downloaded once into a folder in Hugging Face's own cache.

    Args:
        name: USER/NAME.

    Returns:
        The folder.

    Raises:
        MissingError: when the package, the network or the data set is not there.
        UserError: where it has none of these files, or more of them than a condensed set has.
    """
    missing = f"there is no run folder or file {name}"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingError(f"{missing}; for a set on the Hugging Face hub, pip install 'attar[hf]'") from error
    pixels = (*decode.suffixes(), ".parquet")
    pixels += tuple(suffix.upper() for suffix in pixels)
    asked, away = _ask(name, sizes=True)
    if asked is not None:
        sizes = [file.size or 0 for file in asked.siblings or () if file.rfilename.endswith(pixels)]
        size = sum(sizes)
        if not sizes:
            raise UserError(f"{name} on the Hugging Face hub holds neither parquet files nor images")
        if size > LARGEST_SET:
            raise UserError(
                f"{name} on the Hugging Face hub has {size / 1e9:,.0f} GB, more than a condensed set has; download it "
                f"and give its folder"
            )
    try:
        folder = snapshot_download(
            name,
            repo_type="dataset",
            allow_patterns=[f"*{suffix}" for suffix in (*pixels, ".json", ".npy")],
            local_files_only=away is not None,
        )
        return Path(folder)
    except Exception as error:  # of many kinds
        why = away or words(error)
        raise MissingError(f"{missing}, and the Hugging Face hub gives no data set of that name: {why}") from error


def _ask(path: str, *, sizes: bool = False) -> tuple[Any, str | None]:
    """What the hub says of a data set, with the sizes of its files, or why it does not give one.

    It is asked first, because `datasets` tries for minutes without a network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(path, timeout=ANSWER * (6 if sizes else 1), files_metadata=sizes), None
    except HfHubHTTPError as error:
        return None, words(error).split(" For more details")[0]
    except Exception as error:  # the HTTP library's own errors, and those of an offline mode
        return None, f"no network, or the hub does not answer ({type(error).__name__})"


@contextmanager
def _offline(datasets: Any, offline: bool) -> Iterator[None]:
    """Inside, `datasets` and the hub's client look at what was downloaded before, and nowhere else."""
    import huggingface_hub.constants as constants

    places: tuple[Any, ...] = (constants, datasets.config) if offline else ()
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or all(
        (path / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def from_disk(path: Path, reading: Reading) -> ImageData:
    """What `save_to_disk` wrote.

    Args:
        path: the folder.
        reading: what the caller asked for.

    Returns:
        The data.

    Raises:
        MissingError: without the package.
        UserError: for a damaged folder.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingError(f"{path} was written by the package datasets; pip install 'attar[hf]'") from error
    try:
        saved = datasets.load_from_disk(str(path))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # of many kinds
        raise UserError(f"{path} is damaged: {words(error)}") from error
    return from_datasets(saved, reading, printable(path.resolve().name), keep=True, origin=origin_of(path))


def from_datasets(
    source: Any, reading: Reading, name: str = "hf", *, keep: bool = False, origin: str = ""
) -> ImageData:
    """A `Dataset`, a `DatasetDict` or a dict of `Dataset`s.

    Args:
        source: one of these.
        reading: what the caller asked for.
        name: of the data.
        keep: whether decoded images are kept on disk.
        origin: where they come from, for the cache.

    Returns:
        The data.

    Raises:
        UserError: for streams, and for labels and images that cannot be used.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    splits = {}
    for key, part in parts.items():
        if not hasattr(part, "with_format") or not hasattr(part, "__len__"):
            raise UserError(f"a {type(part).__name__} is a stream; load the data set without streaming=True")
        if part.format["type"] == "custom":
            reading.left_out.add(
                "transforms that are set on a split, so that images are read as stored (map() applies one)", key
            )
        if not len(part):
            reading.left_out.add("splits without rows", key)
            continue
        image, label = reading.wish("image_column"), reading.wish("label_column")
        columns = choose(part.features.to_dict(), image, label, name if len(parts) == 1 else f"split {key} of {name}")
        stamp = str(part._fingerprint) if keep else None
        splits[key] = split_of(Rows(len(part), partial(_tables, part), f"split {key}", stamp=stamp), columns)
    if not splits:
        raise UserError(f"{name} has no rows")
    return assemble(splits, About(name, origin or name, kept=keep), reading)


def _tables(part: Any, columns: Sequence[str]) -> Iterator[Any]:
    yield from part.select_columns(list(columns)).with_format("arrow").iter(batch_size=ROWS_READ)
