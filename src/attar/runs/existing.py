"""A run in its folder: begun, gone on with, made longer, or read. The folder's lock is the caller's.

All that is needed to go on stands in the folder: the settings in `config.json`, the state in `checkpoint/`, and
`metrics.jsonl` and the snapshots up to the state's position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.condensation.state import SavedState
from attar.errors import MissingError, UserError
from attar.runs import checkpoint, run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.settings import layers, recipes
from attar.settings.config import Recipe, with_role


@dataclass(frozen=True)
class Run:
    """A run in its folder."""

    folder: RunFolder
    recipe: Recipe  # with the length that is asked for now
    about: dict[str, Any]  # what config.json says about the run itself
    saved: SavedState | None  # the state to go on from; None: from the beginning
    finished: bool  # all is there
    new: bool = False  # nothing is there yet


def exists(folder: RunFolder) -> bool:
    """Whether there is a run in a folder."""
    return (folder.path / run_folder.CONFIG).exists()


def kept_recipe(folder: RunFolder) -> Recipe:
    """The settings of the run in a folder. Raises `MissingError` or `UserError`."""
    if not exists(folder):
        raise MissingError(f"{folder.path} holds no run to go on with: it has no {run_folder.CONFIG}")
    sections = folder.read(run_folder.CONFIG, "attar")
    sections.pop("attar", None)
    return recipes.overlay(Recipe(), sections)


def open_or_create(folder: RunFolder, recipe: Recipe, about: Mapping[str, Any], *, overwrite: bool = False) -> Run:
    """The run in a folder, to go on with as far as `recipe` says, or a new one. Nothing is written before `begin`.

    about: what config.json says about a new run; of it, one that goes on notes the command alone.
    Raises `UserError` where the folder holds another run, a longer one, or one without its checkpoint.
    """
    if overwrite or not exists(folder):
        run_folder.check_free(folder.path, overwrite=overwrite)
        return Run(folder, recipe, dict(about), None, False, new=True)
    run = _existing(folder, recipe)
    if not run.finished:
        run.about["continued"] = [*run.about.get("continued", ()), about["command"]]
    return run


def begin(run: Run) -> None:
    """Bring the folder up to date: nothing of a former run, config.json, what the state knows of events."""
    folder = run.folder
    if run.new:
        run_folder.create(folder.path, overwrite=True)
    folder.snapshots()  # a damaged file is refused before the work, not after it
    folder.write(run_folder.CONFIG, layers.as_sections(run.recipe) | {"attar": run.about})
    if not run.recipe.condense.is_split:
        folder.keep_events(run.saved["events"] if run.saved is not None else 0)


def _existing(folder: RunFolder, asked: Recipe) -> Run:
    kept = kept_recipe(folder)
    check_same(folder, kept, asked)
    changed = {section: with_role(section, "place", "speed") for section in ("data", "condense")}
    if asked.condense.outer_iterations != kept.condense.outer_iterations:
        changed["condense"] += with_role("condense", "length")
    values = layers.as_sections(asked)
    recipe = recipes.overlay(kept, {key: {name: values[key][name] for name in names} for key, names in changed.items()})
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    if is_finished(folder, recipe):
        return Run(folder, recipe, about, None, True)
    saved = None if recipe.condense.is_split else checkpoint.load(folder.path)
    if saved is None and not recipe.condense.is_split and (folder.path / run_folder.RESULT).exists():
        raise UserError(f"{folder.path} holds no checkpoint to go on from; start again with --overwrite")
    return Run(folder, recipe, about, saved, False)


def check_same(folder: RunFolder, kept: Recipe, asked: Recipe) -> None:
    """Raise `UserError` where `asked` is another run than the one that a folder holds (`kept`), or a shorter one."""
    now, before = layers.as_sections(asked), layers.as_sections(kept)
    for section in ("data", "network", "pool", "condense"):
        free = with_role(section, "length", "place", "speed")
        for name, value in before[section].items():
            if name not in free and now[section][name] != value:
                raise UserError(
                    f"{folder.path} holds a run with {name} {value}, and {now[section][name]} is asked for; "
                    f"name another folder with --out, or replace the run with --overwrite"
                )
    done, length = (item.condense.outer_iterations for item in (kept, asked))
    if length < done:
        raise UserError(f"{folder.path} holds a run of {done} outer iterations; niter can make it longer, not {length}")


def keep_fitted(
    kept: Recipe,
    asked: Recipe,
    fitted: Mapping[str, Sequence[str]],  # section → fields
    explicit: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """`asked` with what was fitted for the run when it began, save for the fields that are asked for explicitly.

    Fitted again on another device, or by a clock, it could be something else, and the run another one.
    """
    values = layers.as_sections(kept)
    length = set(with_role("condense", "length"))
    layer = {}
    for section, names in fitted.items():
        given = set((explicit or {}).get(section, {}))
        if given & length:  # each of them speaks of the others
            given |= length
        layer[section] = {name: values[section][name] for name in names if name not in given}
    return recipes.overlay(asked, layer)


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """result.json is the last file of a run, and says how long it was."""
    inner = recipe.condense.outer_iterations * recipe.condense.inner_loop
    told = folder.read(run_folder.RESULT).get("inner_iterations")
    return told == inner and (folder.path / set_files.CONDENSED).is_file()
