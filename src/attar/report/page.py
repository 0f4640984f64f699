"""The report page: one self-contained HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from torch import Tensor

from attar import files
from attar.data.images import ImageData
from attar.errors import counted
from attar.evaluation import results
from attar.report import chart, numbers
from attar.report.nearest import nearest
from attar.report.sheets import Sheet, sheet
from attar.sets import snapshots
from attar.sets.decode import decode, decode_plan, decoded_count
from attar.sets.pictures import MANY_CLASSES, class_numbers, rgb
from attar.sets.synthetic import SyntheticSet

# Limits for the pictures: with base64, which adds a third, the page stays below 3 MB.
STORED_PIXELS, STORED_BYTES = 1_500_000, 800_000
DECODED_PIXELS, DECODED_BYTES = 1_000_000, 450_000
BESIDE_PIXELS, BESIDE_BYTES, BESIDE_IMAGES = 500_000, 200_000, 6  # the last of a class
PAST_BYTES = 650_000
MAX_SIDE, MAX_SIDE_OF_MANY_CLASSES = 112, 64  # of an image in the sheets, in pixels
# About the side of an image on the screen: of a computer, of a phone, and of a computer with many classes.
SCREEN_SIDE, PHONE_SIDE, SCREEN_SIDE_OF_MANY_CLASSES = 72, 44, 40


@dataclass(frozen=True)
class Moment:
    """A snapshot of the set after `outer` outer iterations; `seconds` and `loss` where they are known."""

    outer: int
    images: Tensor  # uint8 [n, ch, h, w]: the first images of each class
    seconds: float | None = None
    loss: float | None = None


def write(
    path: str | Path,
    *,
    result: Mapping[str, Any],  # as in result.json; yardsticks may be missing
    settings: Mapping[str, Any],  # may be nested
    command: str,
    condensed: SyntheticSet | None = None,
    moments: Sequence[Moment] = (),  # before the end, in order; shown if there is a `last`
    labels: Tensor | None = None,  # of the images of the moments
    last: Moment | None = None,  # the end of the run
    curve: Sequence[tuple[float, float]] = (),  # (seconds, accuracy in [0, 1]) during condensation
    losses: Sequence[tuple[float, float]] = (),  # (seconds, loss)
    data: ImageData | None = None,  # the real images: the most similar ones are shown beside the synthetic ones
    run: str | None = None,  # its folder, for the lines that use the set
    usual: Mapping[str, Any] | None = None,  # the settings of the data set's recipe: others are marked
    running: tuple[int, int] | None = None,  # outer iterations so far, and of all, of a run that is not at its end
    stopped: bool = False,  # and does not go on
) -> None:
    """Write one HTML file with pictures, accuracies, times, settings and the commands to use and repeat the run."""
    moments = moments if last is not None else ()
    times = [*moments, *([last] if last is not None else [])]
    seconds = result.get("seconds", {}).get("condense")
    chart_values = chart.chart(curve, _lines(result), [moment.seconds for moment in times], seconds)
    shown = [] if condensed is None else views(condensed, moments, labels, data)
    xs = chart_values["moments"] if chart_values else [None] * len(times)
    page = render(
        "report.html.j2",
        title=numbers.title(result),
        result=result,
        sizes=numbers.sizes(result),
        headline=numbers.headline(result),
        sets=numbers.measured(result) or numbers.MEASURED,
        verdicts=numbers.verdicts(result),
        table=numbers.table(result),
        most_runs=max((len(row["runs"]) for _, rows in numbers.table(result) for row in rows), default=0),
        protocol=results.protocol_words(result),
        seconds=[(stage, numbers.duration(value)) for stage, value in result.get("seconds", {}).items()],
        by_class=numbers.by_class(result),
        groups=numbers.groups(settings, usual or {}),
        command=command,
        run=run,
        pathname=repr(run),
        stopped=stopped,
        quoted=shlex.quote(run or ""),
        running=running,
        now=time.strftime("%d %B %Y, %H:%M:%S"),
        network=next(iter(result.get("accuracy") or {}), "convnet"),
        is_condensation=condensed is not None and not condensed.coreset,
        views=shown,
        opened=shown[-1 if shown[-1]["name"] == "beside" else 0]["name"] if shown else "",
        loss=chart.loss(losses),
        times=[{"words": _moment_text(moment), "x": x} for moment, x in zip(times, xs, strict=True)],
        chart=chart_values,
    )
    files.atomically(Path(path), lambda name: name.write_text(page, encoding="utf-8", errors="backslashreplace"))


def render(template: str, script: str = "report", **values: Any) -> str:
    """A page from a template, with the style of all pages and the script of that name."""
    style, code = (
        resources.files("attar.report").joinpath("templates", name).read_text("utf-8")
        for name in ("report.css", f"{script}.js")
    )
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    return _environment().get_template(template).render(style=style, script=code, allowed=allowed, **values)


@cache
def _environment() -> jinja2.Environment:
    """One for all pages, which compiles each template once: that takes longer than to fill it in."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("attar.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def views(
    condensed: SyntheticSet, moments: Sequence[Moment], labels: Tensor | None, data: ImageData | None = None
) -> list[dict[str, Any]]:
    """The galleries: the stored images with their snapshots, the training images where these differ from them, and
    training images above the real ones that are most similar to them."""
    index = torch.from_numpy(class_numbers(condensed.labels, condensed.nclass))
    images = {label: condensed.images[index == label] for label in index.unique().tolist()}
    counts = {label: len(of_class) for label, of_class in images.items()}
    past = [rgb(moment.images) for moment in moments]
    galleries = [gallery("stored", condensed, counts, images.__getitem__, STORED_PIXELS, STORED_BYTES, past, labels)]

    def decoded(label: int) -> Tensor:
        return first_decoded(images[label], condensed.factor, condensed.decode_type)

    if condensed.factor > 1:
        counts = {
            label: decoded_count(count, condensed.factor, condensed.decode_type) for label, count in counts.items()
        }
        galleries.append(gallery("decoded", condensed, counts, decoded, DECODED_PIXELS, DECODED_BYTES))
    if data is not None and not condensed.coreset and (data.channels, *data.size) == tuple(condensed.images.shape[1:]):
        shown = {label: decoded(label)[:BESIDE_IMAGES].clamp(0, 1) for label in images}
        found = nearest(shown, data)
        most = min(real.images.shape[1] for real in found.values())
        groups = {
            label: torch.cat([shown[label].cpu()[:, None], real.images[:, :most]], dim=1).flatten(0, 1)
            for label, real in found.items()
        }
        beside = partial(gallery, "beside", condensed, counts, groups.__getitem__, BESIDE_PIXELS, BESIDE_BYTES)
        notes = {
            label: f"{real.smallest:.2f}" + (f" ({real.among_real:.2f})" if math.isfinite(real.among_real) else "")
            for label, real in found.items()
        }
        copies = [str(condensed.classes[label]) for label, real in found.items() if real.is_copy]
        galleries.append(beside(pair=1 + most, notes=notes) | {"copies": copies, "compared": BESIDE_IMAGES})
    return galleries


def first_decoded(images: Tensor, factor: int, decode_type: str) -> Tensor:
    """The first training images of a class's stored images, as many as the page may show.

    Decoding all of them could take thousands of large images.
    """
    decoded: list[Tensor] = []
    for patches, rows in decode_plan(len(images), factor, decode_type):
        missing = snapshots.MAX_IMAGES - sum(map(len, decoded))
        if missing <= 0:
            break
        decoded.append(decode(images[rows][: -(-missing // patches**2)], patches))
    return torch.cat(decoded)[: snapshots.MAX_IMAGES]


def gallery(
    name: str,
    condensed: SyntheticSet,
    counts: Mapping[int, int],  # label → number of images
    images_of: Callable[[int], Tensor],  # label → its first images [n, ch, H, W] in [0, 1]
    max_pixels: int,
    max_bytes: int,
    past: Sequence[np.ndarray] = (),  # uint8 [n, h, w, 3] each
    past_labels: Tensor | None = None,
    pair: int = 1,  # so many images for each that is counted, in one column
    notes: Mapping[int, str] | None = None,  # label → what is said of it in place of numbers of images
) -> dict[str, Any]:
    """One gallery: its sheets and sizes, and for each class its name and the places of its images in the sheets."""
    many = len(counts) > MANY_CLASSES
    size = (condensed.images.shape[2], condensed.images.shape[3])
    max_side = MAX_SIDE_OF_MANY_CLASSES if many else MAX_SIDE
    largest = max(counts.values())
    most, size = snapshots.fit(len(counts), largest, size, max_pixels=max_pixels, copies=pair, max_side=max_side)
    shown = {label: rgb(snapshots.shrink(images_of(label)[: pair * most], size)) for label in counts}
    now = sheet([np.concatenate(list(shown.values()))], max_bytes)
    before = sheet(past, PAST_BYTES) if past and past_labels is not None else None
    screen_side = SCREEN_SIDE_OF_MANY_CLASSES if many else SCREEN_SIDE
    scale, phone_scale = (max(1, round(side / max(size))) for side in (screen_side, PHONE_SIDE))
    blocks: list[dict[str, Any]] = []
    row = 0
    for label, count in counts.items():
        past_rows = [] if past_labels is None else np.flatnonzero(past_labels.cpu().numpy() == label).tolist()
        places = range(row, row + len(shown[label]))
        row = places.stop
        cells = [_cell(k, past_rows[n] if n < len(past_rows) else None, now, before) for n, k in enumerate(places)]
        columns = len(cells) // pair
        note = notes[label] if notes else f"{columns} of {count}" if columns < count else ""
        lines = [cells[k::pair] for k in range(pair)]
        blocks.append({"name": str(condensed.classes[label]), "note": note, "lines": lines})
    return {
        "name": name,
        "classes": blocks,
        "most": max(len(block["lines"][0]) for block in blocks),
        "late": before is not None and any(cell["past"] is None for block in blocks for cell in block["lines"][0]),
        "width": size[1],
        "height": size[0],
        "scale": scale,
        "narrow": min(scale, phone_scale),
        "now": now,
        "past": before,
        "coarse": before is not None and past[0].shape[1] < size[0],
        "total": sum(counts.values()),
    }


def _cell(image: int, past: int | None, now: Sheet, before: Sheet | None) -> dict[str, Any]:
    """The place of an image in the sheet of the end, and in that of the moments before."""
    return {
        "now": now.place(image),
        "past": before.place(past) if before is not None and past is not None else None,
    }


def _moment_text(moment: Moment) -> str:
    """The text beside the slider."""
    text = f"after {counted(moment.outer, 'outer iteration')}" if moment.outer else "as initialised"
    text += f", {numbers.duration(moment.seconds)}" if moment.seconds and moment.outer else ""
    return text + (f", loss {moment.loss:.4g}" if moment.loss is not None else "")


def _lines(result: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """The lines of the chart: the first network's accuracies by kind of training set, with their names."""
    network = next(iter(result.get("accuracy") or {}), None)
    entries = {key: (result.get(key) or {}).get(network) for key in numbers.MEASURED} if network else {}
    return {key: (numbers.MEASURED[key][0], entry["mean"]) for key, entry in entries.items() if entry}
