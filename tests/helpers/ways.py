"""The same pictures by every way in: a new way is tested everywhere by adding it to `WAYS`.

A data set is {split: {class: [grey values]}}; every picture is 8x6 (W x H) of one grey value, so that its value says
which one it is. `read` gives back the same form.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data.images import ImageData

Pictures = dict[str, dict[str, list[int]]]  # split → class → grey values
SIZE = (8, 6)  # width, height


def picture(grey: int) -> Image.Image:
    """One picture."""
    return Image.new("L", SIZE, grey)


def png(grey: int) -> bytes:
    """The same as a PNG."""
    file = io.BytesIO()
    picture(grey).save(file, "PNG")
    return file.getvalue()


def classes_of(pictures: Pictures, split: str) -> list[str]:
    """The classes of a split, in the order in which it names them: each split has its own."""
    return list(pictures[split])


def rows(pictures: Pictures, split: str) -> list[tuple[int, str]]:
    """(grey value, class) of a split."""
    return [(grey, name) for name, values in pictures[split].items() for grey in values]


def folder(place: Path, pictures: Pictures) -> Any:
    """<split>/<class>/*.png"""
    for split in pictures:
        for grey, name in rows(pictures, split):
            (place / split / name).mkdir(parents=True, exist_ok=True)
            picture(grey).save(place / split / name / f"{grey}.png")
    return place


def nested(place: Path, pictures: Pictures) -> Any:
    """As `folder`, the images in sub-folders, the splits in a wrapper folder, in capitals."""
    for split in pictures:
        for grey, name in rows(pictures, split):
            inner = place / "images" / split.title() / name / f"sub{grey % 2}"
            inner.mkdir(parents=True, exist_ok=True)
            picture(grey).save(inner / f"{grey}.png")
    return place


def zipped(place: Path, pictures: Pictures) -> Any:
    """A zip file of folders."""
    with zipfile.ZipFile(place / "set.zip", "w") as file:
        for split in pictures:
            for grey, name in rows(pictures, split):
                file.writestr(f"set/{split}/{name}/{grey}.png", png(grey))
    return place / "set.zip"


def _put(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    tar.addfile(info, io.BytesIO(raw))


def tarred(place: Path, pictures: Pictures) -> Any:
    """A compressed tar file of folders."""
    with tarfile.open(place / "set.tar.gz", "w:gz") as tar:
        for split in pictures:
            for grey, name in rows(pictures, split):
                _put(tar, f"./set/{split}/{name}/{grey}.png", png(grey))
    return place / "set.tar.gz"


def webdataset(place: Path, pictures: Pictures) -> Any:
    """Shards of x.png beside x.cls."""
    for split in pictures:
        with tarfile.open(place / f"{split}-0000.tar", "w") as tar:
            for row, (grey, name) in enumerate(rows(pictures, split)):
                below = "./" if split == "test" else ""  # as by `tar cf FILE .`, and by `tar cf FILE *`
                _put(tar, f"{below}{row:06}.png", png(grey))
                _put(tar, f"{below}{row:06}.cls", name.encode())
    return place


def metadata(place: Path, pictures: Pictures) -> Any:
    """<split>/*.png with <split>/metadata.csv."""
    for split in pictures:
        (place / split).mkdir()
        lines = ["file_name,label"]
        for row, (grey, name) in enumerate(rows(pictures, split)):
            picture(grey).save(place / split / f"{row}.png")
            lines.append(f"{row}.png,{name}")
        (place / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    return place


def listed(place: Path, pictures: Pictures) -> Any:
    """images/*.png and a table with a column of splits, at their root, as `datasets` has it."""
    lines = ["file_name,label,split"]
    for split in pictures:
        for grey, name in rows(pictures, split):
            (place / "images").mkdir(exist_ok=True)
            picture(grey).save(place / "images" / f"{split}{name}{grey}.png")
            lines.append(f'images/{split}{name}{grey}.PNG,"{name}",{split}')
    (place / "metadata.csv").write_text("\n".join(lines) + "\n")
    return place


def split_below(place: Path, pictures: Pictures) -> Any:
    """<class>/<split>/*.png"""
    for split in pictures:
        for grey, name in rows(pictures, split):
            (place / name / split).mkdir(parents=True, exist_ok=True)
            picture(grey).save(place / name / split / f"{grey}.png")
    return place


def _table(pictures: Pictures, split: str, *, named: bool) -> Any:
    import pyarrow as pa

    names = classes_of(pictures, split)
    cells = [{"bytes": png(grey), "path": None} for grey, _ in rows(pictures, split)]
    if not named:
        return pa.table({"image": cells, "label": [name for _, name in rows(pictures, split)]})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pa.table({"image": cells, "label": [names.index(name) for _, name in rows(pictures, split)]})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(place: Path, pictures: Pictures) -> Any:
    """Parquet files whose labels are text."""
    import pyarrow.parquet as pq

    for split in pictures:
        pq.write_table(_table(pictures, split, named=False), place / f"{split}-00000.parquet")
    return place


def split_column(place: Path, pictures: Pictures) -> Any:
    """One parquet file with a column of splits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [
        _table(pictures, split, named=False).append_column("split", [[split] * len(rows(pictures, split))])
        for split in pictures
    ]
    pq.write_table(pa.concat_tables(parts), place / "all.parquet")
    return place


def class_labels(place: Path, pictures: Pictures) -> Any:
    """Parquet files whose labels are numbers with names of their own in each split."""
    import pyarrow.parquet as pq

    for split in pictures:
        pq.write_table(_table(pictures, split, named=True), place / f"{split}-00000.parquet")
    return place


def shards(place: Path, pictures: Pictures) -> Any:
    """Several parquet files a split, each with the names of its own classes in its own order."""
    import pyarrow.parquet as pq

    for split in pictures:
        for number, parity in enumerate((0, 1)):
            half = {name: values[parity::2] for name, values in reversed(pictures[split].items()) if values[parity::2]}
            if half:
                pq.write_table(_table({split: half}, split, named=True), place / f"{split}-{number:05}.parquet")
    return place


def hugging_face(place: Path, pictures: Pictures) -> Any:
    """A DatasetDict with a ClassLabel of its own in each split."""
    datasets = pytest.importorskip("datasets")
    parts = {}
    for split in pictures:
        names = classes_of(pictures, split)
        values = {
            "image": [picture(grey) for grey, _ in rows(pictures, split)],
            "label": [names.index(name) for _, name in rows(pictures, split)],
        }
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        parts[split] = datasets.Dataset.from_dict(values, features=features)
    return datasets.DatasetDict(parts)


def saved(place: Path, pictures: Pictures) -> Any:
    """The same by `save_to_disk`."""
    hugging_face(place, pictures).save_to_disk(place / "saved")
    return place / "saved"


class ImageFolder(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """What torchvision's class of that name gives."""

    def __init__(self, pictures: Pictures, split: str) -> None:
        self.classes = classes_of(pictures, split)
        self.samples = [(grey, self.classes.index(name)) for grey, name in rows(pictures, split)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        grey, label = self.samples[row]
        return picture(grey), label


def torch_data(place: Path, pictures: Pictures) -> Any:
    """Torch data sets with `.classes`, inside Subset and ConcatDataset."""
    parts = {split: ImageFolder(pictures, split) for split in pictures}
    return {
        split: torch.utils.data.ConcatDataset([torch.utils.data.Subset(part, list(range(len(part))))])
        for split, part in parts.items()
    }


def dicts(place: Path, pictures: Pictures) -> Any:
    """Lists of dicts."""
    return {
        split: [{"image": picture(grey), "label": name} for grey, name in rows(pictures, split)] for split in pictures
    }


def dicts_with_splits(place: Path, pictures: Pictures) -> Any:
    """One list of dicts that say their split."""
    return [{**item, "split": split} for split, items in dicts(place, pictures).items() for item in items]


def pairs(place: Path, pictures: Pictures) -> Any:
    """Lists of (image, label)."""
    return {split: [(picture(grey), name) for grey, name in rows(pictures, split)] for split in pictures}


def arrays(place: Path, pictures: Pictures) -> Any:
    """Arrays [N, H, W, 1] and lists of names."""
    return {
        split: (
            np.stack([np.asarray(picture(grey))[..., None] for grey, _ in rows(pictures, split)]),
            [name for _, name in rows(pictures, split)],
        )
        for split in pictures
    }


def npz(place: Path, pictures: Pictures) -> Any:
    """A file of arrays as MedMNIST names them."""
    values: dict[str, Any] = {}
    for split, (images, labels) in arrays(place, pictures).items():
        values |= {f"{split}_images": images[..., 0], f"{split}_labels": np.asarray(labels)[:, None]}
    np.savez(place / "set.npz", **values)
    return place / "set.npz"


Way = Callable[[Path, Pictures], Any]
FILES: list[Way] = [folder, nested, zipped, tarred, webdataset, metadata, listed]
TABLES: list[Way] = [parquet, split_column, class_labels, shards, saved, npz]
ON_DISK = [*FILES, *TABLES]
WAYS: list[Way] = [*ON_DISK, hugging_face, torch_data, dicts, dicts_with_splits, pairs, arrays]


def read(data: ImageData) -> Pictures:
    """What a data set holds, values sorted."""
    actual: Pictures = {}
    for split, images, labels in (("train", data.images, data.labels), ("test", data.test_images, data.test_labels)):
        if images is None or labels is None:
            continue
        actual[split] = {name: [] for name in data.classes}
        every = images[torch.arange(len(labels))]
        for image, label in zip(every, labels.tolist(), strict=True):
            assert image.unique().numel() == 1, "a picture of one grey value"
            actual[split][data.classes[label]].append(int(image.flatten()[0]))
    return {split: {name: sorted(values) for name, values in classes.items()} for split, classes in actual.items()}
