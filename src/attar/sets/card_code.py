"""The Python of a card: an exported set is read, and a network is trained on it, without attar and with it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from attar.errors import UserError
from attar.models.convnet import CHANNELS
from attar.sets.soft_files import FILE, SOFT
from attar.sets.synthetic import SyntheticSet
from attar.settings.choices import AUGMENTATION_NAMES, ONE, written_names
from attar.settings.config import NetworkConfig
from attar.settings.schema import replace

NAME = "USER/NAME"  # on the hub; `attar push` knows it

READ = {  # arrays of an export, and the class numbers of its images; {what}: which images it names
    "parquet": """\
from datasets import load_dataset

images = load_dataset({name}, "{what}")["train"]{where}
x = torch.stack([torch.from_numpy(np.array(image)) for image in images["image"]])
y = torch.tensor(images["label"])""",
    "imagefolder": """\
from pathlib import Path
from PIL import Image

files = sorted(Path("{split}").glob("*/*.png"))  # in the folder of this page
classes = sorted({{file.parent.name for file in files}})
x = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
y = torch.tensor([classes.index(file.parent.name) for file in files])""",
    "npz": """\
with np.load({name}) as file:
    arrays = dict(file)
x, y = (torch.from_numpy(arrays[f"{prefix}{{kind}}"]) for kind in ("images", "labels"))""",
    "pt": "x, y = torch.load({name})",
}
SOFT_LABELS = {
    "parquet": f'torch.tensor(images["{SOFT}"])',
    "imagefolder": f'torch.from_numpy(np.load("{FILE}"))',
    "npz": f'torch.from_numpy(arrays["{SOFT}"])',
}
DECODE = """\
def decode(x, f):  # an image is a grid of f x f images, which are cut out and enlarged
    size = x.shape[2:]
    x = F.pad(x, (0, -size[1] % f, 0, -size[0] % f), value=0.5)
    x = x.unflatten(3, (f, -1)).unflatten(2, (f, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return F.interpolate(x, size=size, mode="bilinear")

"""
FLIP = "x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)"
COLOR = """\
brightness, saturation, contrast = torch.rand(3, n, 1, 1, 1)
x = x + brightness - 0.5
x = x.mean(1, True) + (x - x.mean(1, True)) * 2 * saturation
x = x.mean((1, 2, 3), True) + (x - x.mean((1, 2, 3), True)) * (contrast + 0.5)"""
WARPS = {  # one of them for each batch
    "crop": "warp[:, :, 2] = torch.rand(n, 2) / 2 - 0.25",
    "scale": "warp[:, [0, 1], [0, 1]] = 1 / 1.2 + torch.rand(n, 2) * (1.2 - 1 / 1.2)",
    "rotate": """\
angle = (2 * torch.rand(n) - 1) * torch.pi / 12
warp[:, :, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)""",
    "resize": """\
side, stretch = (1 - torch.rand(n) / 2).sqrt(), (4 / 3) ** (torch.rand(n) - 0.5)
side = torch.stack([side * stretch, side / stretch], 1).clamp(max=1)
warp[:, [0, 1], [0, 1]], warp[:, :, 2] = side, (2 * torch.rand(n, 2) - 1) * (1 - side)""",
}
CUTOUT = """\
rows, columns = ((torch.arange(s) / s - torch.rand(n, 1)).abs() < 0.25 for s in x.shape[2:])
x = x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)"""
CUTMIX = """\
if torch.rand(()) < {p}:  # CutMix: a box of other images of the batch, the targets by its area
    half = (1 - torch.rand(())).sqrt() / 2
    rows, columns = ((torch.arange(s) / s - torch.rand(())).abs() < half for s in x.shape[2:])
    box, other = rows[:, None] & columns, torch.randperm(n)
    x, y = torch.where(box, x[other], x), y + (y[other] - y) * box.float().mean()"""
TRAIN = """\
optimizer = torch.optim.SGD(network.parameters(), lr={lr}, momentum={momentum}, weight_decay={weight_decay})
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 2 // 3, epochs * 5 // 6], gamma=0.2)
for epoch in range(epochs):
    for rows in torch.randperm(len(x)).split({batch_size}):
        images, targets = augment(x[rows], y[rows])
        loss = F.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
network.eval()  # of real images, normalised as x is, network(images).argmax(1) are the classes"""


def alone(
    condensed: SyntheticSet, how: Mapping[str, Any], epochs: int, *, to: str, what: str, several: bool, file: str
) -> str:
    """Python that trains a network on an export by the protocol of the evaluation, without attar.

    Args:
        condensed: the exported set.
        how: the settings of the evaluation: lr, momentum, weight_decay, batch_size, aug_type, mix_p.
        epochs: how long to train.
        to: the format of the export.
        what: which of its images are trained on, "stored" (they are decoded first) or "decoded".
        several: whether it holds both.
        file: its name, of a file.
    """
    parts = {"name": _quoted(file or NAME), "what": what, "split": what if several else "train"}
    parts |= {"prefix": "decoded_" if several else "", "where": "" if file else "  # or the folder of this page"}
    has_soft = condensed.soft_labels is not None and (what == "decoded" or condensed.factor == 1)
    soft = SOFT_LABELS.get(to) if has_soft else None
    lines = [
        *(["import numpy as np"] if to != "pt" else []),
        "import torch\nimport torch.nn.functional as F\nfrom torch import nn",
        READ[to].format(**parts),
        f"y = {soft or f'F.one_hot(y, {condensed.nclass}).float()'}",
    ]
    if to != "pt":
        lines.append(f"x = x.{'unsqueeze(1)' if len(condensed.mean) == 1 else 'permute(0, 3, 1, 2)'} / 255")
    if what == "stored" and condensed.factor > 1:
        lines += _decoding(condensed)
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (condensed.mean, condensed.std))
    lines += [
        f"mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ([{mean}], [{std}]))",
        "x = (x - mean) / std\n",
        *_augment(how),
        "\n",
        *_network(condensed),
        f"epochs = {epochs}",
        TRAIN.format(**how),
    ]
    return "\n".join(lines)


def by_attar(file: str) -> str:
    """Python that does the same by attar. file: as for `alone`."""
    if file:
        return (
            f'import attar\n\nnetwork = attar.train({_quoted(file)}, "resnet18")  # or a function that makes a network'
        )
    return (
        "import attar\nfrom huggingface_hub import snapshot_download\n\n"
        f'folder = snapshot_download("{NAME}", repo_type="dataset")  # or the folder of this page\n'
        'network = attar.train(folder, "resnet18")  # or a function that makes a network'
    )


def section(condensed: SyntheticSet, name: str) -> dict[str, Any]:
    """The settings of a section of the set's recipe, as its file has them. Raises `UserError` for what is no table."""
    values = condensed.recipe.get(name, {})
    if not isinstance(values, Mapping):
        raise UserError(f"the set's recipe: [{name}] must be a table of settings, not {values!r}")
    return dict(values)


def _quoted(text: str) -> str:
    """A text in Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _decoding(condensed: SyntheticSet) -> list[str]:
    """Lines that cut training images out of stored ones, ordered by class, of decode type single or multi."""
    factors = [condensed.factor] if condensed.decode_type == "single" else list(range(condensed.factor, 0, -1))
    repeats = [f"y.repeat_interleave({f * f}, 0)" for f in factors]
    if len(factors) == 1:
        return [DECODE + f"\nx, y = decode(x, {factors[0]}), {repeats[0]}"]
    x, y = f"torch.cat([decode(x, f) for f in {factors}])", f"torch.cat([{', '.join(repeats)}])"
    return [DECODE + f"\nx, y = {x}, {y}"]


def _augment(how: Mapping[str, Any]) -> list[str]:
    """A function that augments a batch as the evaluation does, but for operations of the user's own."""
    names = [name for name in written_names(how["aug_type"]) if name]
    if names[:1] == [ONE]:  # a batch gets one of them
        of_batch = [(f"operation == {kind}", _operation([name])) for kind, name in enumerate(names[1:])]
        body = [f"operation = torch.randint({len(names) - 1}, ())", *_branches(of_batch)] if of_batch else []
    else:
        warps = [name for name in WARPS if name in names]
        groups = [["flip"], ["color"], warps, ["cutout"]]
        body = [_operation(group) for group in groups if group and set(group) <= set(names)]
    body += [CUTMIX.format(p=how["mix_p"])] * (how["mix_p"] > 0)
    return ["\ndef augment(x, y):", textwrap.indent("\n".join(["n = len(x)", *body, "return x, y"]), "    ")]


def own_operations(strategy: str) -> list[str]:
    """The operations of a strategy that are none of attar's, which the code of a card leaves out."""
    return [name for name in written_names(strategy) if name not in ("", ONE, *AUGMENTATION_NAMES)]


def _operation(names: Sequence[str]) -> str:
    """Lines for one operation, or for one of several warps, drawn for each batch; "" for one that is not attar's."""
    if not set(names) <= WARPS.keys():
        return {"flip": FLIP, "color": COLOR, "cutout": CUTOUT}.get(names[0], "")
    warps = [WARPS[name] for name in names]
    if len(warps) > 1:
        of_batch = [(f"kind == {kind}", text) for kind, text in enumerate(warps)]
        warps = [f"kind = torch.randint({len(warps)}, ())", *_branches(of_batch)]
    sample = "x = F.grid_sample(x, F.affine_grid(warp, x.shape, align_corners=False), align_corners=False)"
    return "\n".join(["warp = torch.eye(2, 3).repeat(n, 1, 1)", *warps, sample])


def _branches(parts: Sequence[tuple[str, str]]) -> list[str]:
    """`if` statements of conditions and the lines below them; none where there are no lines."""
    return [f"if {condition}:\n{textwrap.indent(text, '    ')}" for condition, text in parts if text]


def _network(condensed: SyntheticSet) -> list[str]:
    """Lines that make a ConvNet, of the depth and width of the run's network if that is one."""
    given = section(condensed, "network")
    taken = ("depth", "width") if given.get("net_type") == "convnet" else ()
    of_run = replace(NetworkConfig(), {name: given[name] for name in taken if name in given}, "[network] ")
    channels, height, wide = condensed.images.shape[1:]
    depth = min(of_run.depth or 3, min(height, wide).bit_length() - 1)
    inner = max(1, round(CHANNELS * of_run.width))
    first = 3 if (channels, height, wide) == (1, 28, 28) else 1  # as attar's own makes 32x32 of it
    blocks = ", ".join(f"({channels if k == 0 else inner}, {1 if k else first})" for k in range(depth))
    layers = f"nn.Conv2d(c, {inner}, 3, padding=p), nn.GroupNorm({inner}, {inner}), nn.ReLU(), nn.AvgPool2d(2)"
    return [
        f"blocks = [nn.Sequential({layers}) for c, p in [{blocks}]]",
        f"network = nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear({condensed.nclass}))  # or any other network",
        "network(x[:2])  # the last layer learns its size",
    ]
