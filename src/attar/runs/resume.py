"""A condensation that lives in a run folder: begun, interrupted, continued, extended. The lock is the caller's.

What a session needs stands in the folder: the settings in `config.json`, the state in `checkpoint/`, and
`metrics.jsonl` and the snapshots up to the state's position.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar import signals
from attar.condensation import loop as condensation
from attar.condensation.loop import Evaluation, Event
from attar.condensation.state import Values, as_begun
from attar.data.images import ImageData
from attar.engine.precision import Notice
from attar.errors import Diverged, MissingError, UserError, WriteError
from attar.runs import checkpoint, run_folder
from attar.runs.checkpoint import Interval, Keeper
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.config import Recipe
from attar.signals import Interrupted
from attar.training.pool import Pool

LENGTH = ("niter", "speedup", "full_niter")
# Settings that need not be those of the run. The pool is known by its content, and a run that was extended may have
# another `compile` than the one it began with (`as_begun`).
MOVABLE = ("data_dir", "device", "load_memory", "cache_dir")
ELSEWHERE = {"data": MOVABLE, "condense": (*LENGTH, "memory_gb", "model_path")}


@dataclass(frozen=True)
class ExistingRun:
    """What a run folder holds of a run."""

    recipe: Recipe  # with the length that is wanted now
    about: dict[str, Any]  # what config.json says about the run itself
    saved: Values | None  # the state to go on from; None: from the beginning
    finished: bool  # all is there


def kept_recipe(folder: RunFolder) -> Recipe:
    """The settings of the run in a folder. Raises `MissingError` or `UserError`."""
    if not (folder.path / run_folder.CONFIG).exists():
        raise MissingError(f"{folder.path} holds no run to go on with: it has no {run_folder.CONFIG}")
    sections = folder.read(run_folder.CONFIG, "attar")
    sections.pop("attar", None)
    return recipes.overlay(Recipe(), sections)


def open_existing(folder: RunFolder, wanted: Recipe, notice: Notice) -> ExistingRun:
    """The run in a folder, to go on with as far as `wanted` says. Raises `UserError` where `wanted` is another run."""
    kept = kept_recipe(folder)
    check_same(folder, kept, wanted)
    length = {name: getattr(wanted.condense, name) for name in LENGTH}
    if wanted.condense.outer_iterations == kept.condense.outer_iterations:
        length = {}
    free = {"condense": length | {"memory_gb": wanted.condense.memory_gb}}
    free["data"] = {name: getattr(wanted.data, name) for name in MOVABLE}
    recipe = recipes.overlay(kept, free)
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    if is_finished(folder, recipe):
        return ExistingRun(recipe, about, None, True)
    saved = checkpoint.load(folder.path, notice)
    recipe = replace(recipe, condense=as_begun(recipe.condense, saved))
    if saved is None and (folder.path / run_folder.RESULT).exists():
        raise UserError(f"{folder.path} holds no checkpoint to go on from; start again with --overwrite")
    return ExistingRun(recipe, about, saved, False)


def check_same(folder: RunFolder, kept: Recipe, wanted: Recipe) -> None:
    """Raise `UserError` where `wanted` is another run than the one that a folder holds (`kept`), or a shorter one."""
    ours, theirs = layers.as_sections(wanted), layers.as_sections(kept)
    theirs["condense"]["compile"] = "auto" if wanted.condense.compile == "auto" else kept.condense.compile
    for section in ("data", "network", "pool", "condense"):
        for name, value in theirs[section].items():
            if name not in ELSEWHERE.get(section, ()) and ours[section][name] != value:
                raise UserError(
                    f"{folder.path} holds a run with {name} {value}, and {ours[section][name]} is asked for; "
                    f"name another folder with --out, or replace the run with --overwrite"
                )
    done, asked = (item.condense.outer_iterations for item in (kept, wanted))
    if asked < done:
        raise UserError(f"{folder.path} holds a run of {done} outer iterations; niter can make it longer, not {asked}")


def keep_fitted(
    kept: Recipe,
    wanted: Recipe,
    chosen: Mapping[str, Sequence[str]],  # section → fields
    asked: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """`wanted` with what was chosen for the run when it began, save for the fields that are `asked` for now.

    Chosen again on another device, or by a clock, it could be something else, and the run another one.
    """
    values = layers.as_sections(kept)
    layer = {}
    for section, names in chosen.items():
        given = set((asked or {}).get(section, {}))
        if given & set(LENGTH):  # each of them speaks of the others
            given |= set(LENGTH)
        layer[section] = {name: values[section][name] for name in names if name not in given}
    return recipes.overlay(wanted, layer)


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """result.json is the last file of a run, and says how long it was."""
    inner = recipe.condense.outer_iterations * recipe.condense.inner_loop
    return (
        folder.read(run_folder.RESULT).get("inner_iterations") == inner
        and (folder.path / set_files.CONDENSED).is_file()
    )


def condense(
    folder: RunFolder,
    data: ImageData,
    pool: Pool,
    recipe: Recipe,
    *,
    saved: Values | None = None,
    every: Interval,
    event: Event = lambda values: None,
    evaluation: Evaluation | None = None,
    notice: Notice = lambda line: None,
) -> SyntheticSet:
    """Condense in a folder from the beginning or from `saved`, and leave checkpoint, metrics, snapshots and the set.

    A run that ends early keeps its last checkpoint; without one nothing is left. SIGINT and SIGTERM wait for the next
    inner iteration, write a checkpoint and raise `Interrupted`.
    """

    def tell(values: dict[str, Any]) -> None:
        folder.event(values)
        event(values)

    try:
        folder.snapshots()  # a damaged file is refused before the work, not after it
        folder.keep_events(saved["events"] if saved is not None else 0)
        with signals.held() as stop:

            def measure(condensed: SyntheticSet) -> dict[str, Any]:
                with stop.through():
                    return evaluation(condensed) if evaluation is not None else {}

            condensed = condensation.run(
                data,
                pool,
                recipe.condense,
                event=tell,
                evaluation=measure if evaluation is not None else None,
                show=folder.snapshot,
                notice=notice,
                keep=Keeper(folder.path, every, stop),
                saved=saved,
            )
        condensed = replace(condensed, recipe=layers.as_sections(recipe))
        (folder.path / run_folder.RESULT).unlink(missing_ok=True)  # of a shorter run: another set than the one to come
        set_files.save_set(folder.path / set_files.CONDENSED, condensed)
    except BaseException as error:
        if not checkpoint.exists(folder.path):  # a run without a state or a product is of no use
            folder.discard()
            raise
        goes_on = f"attar condense --resume {folder.path} goes on"
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, goes_on) from error
        if isinstance(error, WriteError):
            raise WriteError(f"{error}; with more room {goes_on}") from error
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {folder.path / checkpoint.CURRENT} holds the last good state") from error
        raise
    checkpoint.finish(folder.path)
    return condensed
