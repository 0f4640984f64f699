"""Where known data sets come from, and under which licence: what the card of a set says of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from attar.data.sources import hub
from attar.data.sources.imagenet import SUBSETS


class Source(NamedTuple):
    """Where a known data set comes from."""

    home: str
    hub: str = ""  # its name on the Hugging Face hub
    licence: str = ""  # as the hub calls it; "" where it has none of the usual ones
    link: str = ""  # to its licence or terms


_TERMS = "https://image-net.org/download.php"
_FAST = "https://github.com/fastai/imagenette"
SOURCES = {
    "cifar10": Source("https://www.cs.toronto.edu/~kriz/cifar.html", "uoft-cs/cifar10"),
    "cifar100": Source("https://www.cs.toronto.edu/~kriz/cifar.html", "uoft-cs/cifar100"),
    "digits": Source(
        "https://archive.ics.uci.edu/dataset/80", "", "cc-by-4.0", "https://creativecommons.org/licenses/by/4.0/"
    ),
    "fashion": Source(
        *("https://github.com/zalandoresearch/fashion-mnist", "zalando-datasets/fashion_mnist", "mit"),
        "https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE",
    ),
    **dict.fromkeys(("imagenet", *SUBSETS), Source("https://image-net.org", "ILSVRC/imagenet-1k", "", _TERMS)),
    **dict.fromkeys(("imagenette", "imagewoof"), Source(_FAST, "ILSVRC/imagenet-1k", "", _TERMS)),
    "mnist": Source("https://yann.lecun.org/exdb/mnist", "ylecun/mnist"),
    "svhn": Source("http://ufldl.stanford.edu/housenumbers", "ufldl-stanford/svhn"),
    "tiny-imagenet": Source("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "zh-plus/tiny-imagenet", "", _TERMS),
}


OF_FOLDERS = (*SUBSETS, "imagenette", "imagewoof", "tiny-imagenet")  # folders that are called so hold these


def source_of(dataset: str) -> Source:
    """Where the data come from: a name that attar knows, USER/NAME of the hub, or a folder such as imagenette2-160.

    A folder of one's own may be called as a known data set is, so only the names of `OF_FOLDERS` count there.
    """
    if hub.is_name(dataset) and not Path(dataset).exists():
        name = dataset.partition(":")[0]
        return Source(f"https://huggingface.co/datasets/{name}", name)
    name = re.sub(r"\d*(-\d+)?$", "", Path(dataset).name)
    return SOURCES.get(dataset) or (SOURCES[name] if name in OF_FOLDERS else Source(""))
