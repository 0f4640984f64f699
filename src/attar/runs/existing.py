"""Opens the run in a folder: a new run, one to resume, one to extend, or a finished one. The caller holds the lock.

The folder holds all that resuming needs: the settings in `config.json`, the state in `checkpoint/`, and `metrics.jsonl`
and the snapshots up to the state's position.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.condensation.state import SavedState
from attar.errors import MissingError, UserError, counted, log, say_once
from attar.runs import checkpoint, run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.settings import own, own_code, recipes
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of


@dataclass(frozen=True)
class Run:
    """A run, its folder, and how much of it is done."""

    folder: RunFolder
    recipe: Recipe  # with the length that this session asks for
    about: dict[str, Any]  # the entry `attar` of config.json: command, environment, pool, seconds
    saved: SavedState | None  # the state to resume from; None: from the beginning
    finished: bool  # nothing is left to compute
    new: bool = False  # the folder holds no run yet, or one that is replaced


def exists(folder: RunFolder) -> bool:
    """Whether a folder holds a run."""
    return (folder.path / run_folder.CONFIG).exists()


def saved_recipe(folder: RunFolder) -> Recipe:
    """The settings of the run in a folder. Raises `MissingError` or `UserError`."""
    if not exists(folder):
        raise MissingError(f"{folder.path} holds no run to go on with: it has no {run_folder.CONFIG}")
    sections = folder.read(run_folder.CONFIG, "attar")
    sections.pop("attar", None)
    return recipes.of_file(sections, folder.path)


def open_or_create(folder: RunFolder, recipe: Recipe, about: Mapping[str, Any], *, overwrite: bool = False) -> Run:
    """The run in a folder, to be resumed up to the length in `recipe`, or a new run. Writes nothing; see `begin`.

    about: the entry `attar` of a new run's config.json; a resumed run keeps its own and adds only the command.
    Raises `UserError` where the folder holds another run, a longer one, or one without its checkpoint.
    """
    own_code.remember(settings_of(recipe))  # on another machine of a cluster, too
    if overwrite or not exists(folder):
        run_folder.check_free(folder.path, overwrite=overwrite)
        return Run(folder, recipe, dict(about), None, False, new=True)
    run = _existing(folder, recipe)
    if not run.finished:
        run.about["continued"] = [*run.about.get("continued", ()), about["command"]]
    return run


def begin(run: Run) -> None:
    """Prepare the folder: remove a replaced run, write config.json, drop the events after the state."""
    folder = run.folder
    network = run.recipe.network.net_type
    if run.new and not own.is_importable(network):
        name = own.without_digest(network)
        words = "is in no module: its program can go on with this run, `attar condense --resume` cannot"
        say_once(f"{name} {words}", logging.WARNING)
    if run.new:
        run_folder.create(folder.path, overwrite=True)
    elif (folder.path / set_files.CONDENSED).is_file() and set_files.load_set(folder.path).teacher:
        words = "the images move, and the teacher's labels go with those before; attar label %s again"
        log.warning(words, folder.path)
    folder.snapshots()  # raises for a damaged file now, not after the work
    folder.write(run_folder.CONFIG, settings_of(run.recipe) | {"attar": run.about})
    if not run.recipe.condense.is_split:
        folder.keep_events(run.saved["events"] if run.saved is not None else 0)


def _existing(folder: RunFolder, requested: Recipe) -> Run:
    saved_settings = saved_recipe(folder)
    check_same_run(folder, saved_settings, requested)
    changed = {section: with_role(section, "place", "speed", "scope") for section in ("data", "condense")}
    about = folder.read(run_folder.CONFIG, "attar").get("attar", {})
    if requested.condense.outer_iterations != saved_settings.condense.outer_iterations:
        changed["condense"] += with_role("condense", "length")
        about.pop("clock", None)  # the run has another end now
    values = settings_of(requested)
    changes = {section: {name: values[section][name] for name in names} for section, names in changed.items()}
    recipe = recipes.overlay(saved_settings, changes)
    if is_finished(folder, recipe):
        return Run(folder, recipe, about, None, True)
    saved = None if recipe.condense.is_split else checkpoint.load(folder.path)
    goes_on = (folder.path / run_folder.PARTS).is_dir() if recipe.condense.is_split else saved is not None
    if not goes_on and (folder.path / run_folder.RESULT).exists():
        if recipe.condense.is_split:
            raise UserError(
                f"{folder.path} has no {run_folder.PARTS}/ to go on with; where it was merged, go on with what it was "
                f"merged from, and merge again with --overwrite"
            )
        raise UserError(f"{folder.path} holds no checkpoint to go on from; start again with --overwrite")
    if saved is not None and "clock" in about and saved["outer"] > recipe.condense.outer_iterations:
        recipe = recipes.overlay(recipe, {"condense": {"niter": saved["outer"]}})  # more than were expected
    return Run(folder, recipe, about, saved, False)


def check_same_run(folder: RunFolder, saved: Recipe, requested: Recipe) -> None:
    """Raise `UserError` where `requested` is another run than the one in the folder (`saved`), or a shorter one."""
    now, before = settings_of(requested), settings_of(saved)
    for section in ("data", "network", "pool", "condense"):
        free = with_role(section, "length", "place", "speed", "scope")
        for name, value in before[section].items():
            if name not in free and now[section][name] != value:
                raise UserError(
                    f"{folder.path} holds a run with {name} {value}, and {now[section][name]} is asked for; "
                    f"name another folder with --out, or replace the run with --overwrite"
                )
    length, requested_length = (recipe.condense.outer_iterations for recipe in (saved, requested))
    if requested_length < length:
        raise UserError(
            f"{folder.path} holds a run of {counted(length, 'outer iteration')}; niter can make it longer, "
            f"not {requested_length}"
        )


def keep_fitted_settings(
    saved: Recipe,
    requested: Recipe,
    fitted: Mapping[str, Sequence[str]],  # section → fields
    explicit: Mapping[str, Mapping[str, Any]] | None = None,  # section → field → value
) -> Recipe:
    """`requested`, with the `fitted` fields as they were fitted when the run began, except for explicit settings.

    Fitting again, on another device or by the clock, could give other values, and so another run.
    """
    values = settings_of(saved)
    length = set(with_role("condense", "length"))
    layer = {}
    for section, names in fitted.items():
        overridden = set((explicit or {}).get(section, {}))
        if overridden & length:  # one setting of the length overrides them all
            overridden |= length
        layer[section] = {name: values[section][name] for name in names if name not in overridden}
    return recipes.overlay(requested, layer)


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the folder holds the result of a run of this length: result.json is the last file that a run writes."""
    length = recipe.condense.outer_iterations * recipe.condense.inner_loop
    finished_length = folder.read(run_folder.RESULT).get("inner_iterations")
    return finished_length == length and (folder.path / set_files.CONDENSED).is_file()
