"""TensorBoard and Weights & Biases: where the events of a run can go besides `metrics.jsonl`.

Each needs an optional package, which is imported only when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attar.errors import MissingError, choose

Sink = Callable[[dict[str, Any]], None]


def check_sinks(log: str | Sequence[str]) -> tuple[str, ...]:
    """The names of sinks. Raises `UserError` for an unknown one, `MissingError` with pip's command for its package."""
    names = (log,) if isinstance(log, str) else tuple(log)
    for name in names:
        choose("log", name, SINKS)
        if find_spec(name) is None:
            raise MissingError(f"{name} is not installed; pip install 'attar[{name}]'")
    return names


@contextmanager
def open_sinks(
    names: Sequence[str], folder: Path, settings: Mapping[str, Any], step: int | None = None
) -> Iterator[tuple[Sink, ...]]:
    """The named sinks for the run in `folder`, closed at the end of the block.

    step: the outer iterations of a run that is done, to which events are added; None for one that is going on.
    """
    check_sinks(names)
    with ExitStack() as stack:
        yield tuple(stack.enter_context(SINKS[name](folder, settings, step)) for name in dict.fromkeys(names))


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event by name: the loss, seconds and learned lr of a step, the accuracies of an evaluation."""
    if event.get("event") == "step":
        return {key: float(event[key]) for key in ("loss", "seconds", "lr") if key in event}
    numbers_by_name = {}
    for kind, entries in event.items():
        for network, value in entries.items() if isinstance(entries, Mapping) else ():
            mean = value["mean"] if isinstance(value, Mapping) else value
            # An accuracy during the run is of one network; those at the end are means over seeds.
            numbers_by_name[f"{kind if event.get('outer') is not None else f'final {kind}'}/{network}"] = float(mean)
    return numbers_by_name


def table(settings: Mapping[str, Any]) -> str:
    """The settings, by section, as a table in Markdown."""
    rows = [(section, name, value) for section, values in settings.items() for name, value in values.items()]
    return "\n".join(["| section | setting | value |", "|---|---|---|", *(f"| {s} | {n} | {v} |" for s, n, v in rows)])


@contextmanager
def tensorboard(folder: Path, settings: Mapping[str, Any], done: int | None) -> Iterator[Sink]:
    """Event files in `tensorboard/` of the run folder."""
    from torch.utils.tensorboard.writer import SummaryWriter

    writer: SummaryWriter | None = None
    step = done or 0

    def sink(event: dict[str, Any]) -> None:
        nonlocal writer, step
        step = step if event.get("outer") is None else event["outer"]
        if writer is None:  # hides what an earlier run wrote from this step on
            writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step if done is None else None)
            writer.add_text("settings", table(settings), step)
        for name, value in numbers(event).items():
            writer.add_scalar(name, value, step)
        if "picture" in event:
            writer.add_image("condensed", event["picture"], step, dataformats="HWC")

    try:
        yield sink
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def wandb(folder: Path, settings: Mapping[str, Any], done: int | None) -> Iterator[Sink]:
    """A run of Weights & Biases, with files in `wandb/` of the run folder.

    Configured by its environment variables: WANDB_PROJECT (default: attar), WANDB_MODE=offline, WANDB_ENTITY, ...
    """
    import wandb as library

    project = os.environ.get("WANDB_PROJECT", "attar")
    run = library.init(project=project, name=folder.name, dir=str(folder), config=dict(settings))
    step = done or 0

    def sink(event: dict[str, Any]) -> None:
        nonlocal step
        step = step if event.get("outer") is None else event["outer"]
        picture = {"condensed": library.Image(event["picture"])} if "picture" in event else {}
        run.log({**numbers(event), **picture}, step=step)

    try:
        yield sink
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


SINKS = {"tensorboard": tensorboard, "wandb": wandb}
