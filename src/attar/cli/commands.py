"""What each verb of the command line takes beside the settings, its words in --help, and whom it calls.

Keyword arguments are flags that `attar.cli.parser` describes in RUN_FLAGS; `given` are the settings of
attar.settings.config. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

from typing import Any


def demo(
    *,
    out: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
    log: tuple[str, ...] = (),
    debug: bool = False,
    **given: Any,
) -> None:
    """Distil the embedded digits into one image per class, evaluate, and write a report: two minutes on a CPU."""
    from attar.stages import condense as stage

    stage.demo(out, given, overwrite=overwrite, quiet=quiet, json=json, log=log)


def pretrain(
    *,
    recipe: str | None = None,
    out: str | None = None,
    ray: str | None = None,
    quiet: bool = False,
    json: bool = False,
    debug: bool = False,
    **given: Any,
) -> None:
    """Train early-stage models and keep them in a pool folder (default: pool/<data set>-<network>)."""
    from attar.stages import pretrain as stage

    stage.pretrain(out, given, recipe=recipe, quiet=quiet, json=json, ray=ray)


def condense(
    *,
    recipe: str | None = None,
    reproduce: bool = False,
    out: str | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    resume: str | None = None,
    save_every: str | None = None,
    ray: str | None = None,
    ray_cpus: int | None = None,
    quiet: bool = False,
    json: bool = False,
    log: tuple[str, ...] = (),
    debug: bool = False,
    **given: Any,
) -> None:
    """Distil a data set into synthetic images: by gradients on perturbed early-stage models, or another method."""
    from attar.stages import condense as stage

    stage.condense(
        out,
        given,
        recipe=recipe,
        published=reproduce,
        overwrite=overwrite,
        quiet=quiet,
        json=json,
        log=log,
        minutes=minutes,
        resume=resume,
        save_every=save_every,
        ray=ray,
        ray_cpus=ray_cpus,
    )


def select(
    method: str,
    /,
    *,
    features: str | None = None,
    recipe: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
    debug: bool = False,
    **given: Any,
) -> None:
    """Choose real images of each class, a core-set, to compare with (default: runs/<data set>-<method>-ipc<ipc>).

    Parameters
    ----------
    method: str
        random, herding or kcenter
    """
    from attar.stages import select as stage

    stage.select(method, out, given, recipe=recipe, features=features, overwrite=overwrite, quiet=quiet, json=json)


def merge(
    part: str, /, *parts: str, out: str | None = None, overwrite: bool = False, json: bool = False, debug: bool = False
) -> None:
    """Join the parts of a partition, made with `attar condense --nclass_sub N --phase K`, into one run folder.

    Parameters
    ----------
    part: str
        a part's run folder, or its condensed.safetensors file
    parts: str
        the other parts, in any order
    """
    from attar.stages import merge as stage

    stage.merge([part, *parts], out, overwrite=overwrite, json=json)


def evaluate(
    run: str,
    /,
    *,
    factor: int | None = None,
    decode_type: str | None = None,
    normalized: bool = False,
    ray: str | None = None,
    quiet: bool = False,
    json: bool = False,
    debug: bool = False,
    **given: Any,
) -> None:
    """Train fresh networks on a condensed set and test them on real images.

    Parameters
    ----------
    run: str
        a run folder, a condensed.safetensors file, or a set made elsewhere: .pt pair, .npz, parquet, image folder
    """
    from attar.stages import evaluate as stage

    stage.evaluate(
        run,
        given,
        quiet=quiet,
        json=json,
        factor=factor,
        decode_type=decode_type,
        normalized=normalized,
        ray=ray,
    )


def compare(
    spec: str,
    /,
    *,
    out: str | None = None,
    jobs: int = 1,
    save_every: str | None = None,
    quiet: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Compare methods and settings on one data set: a table, and accuracy against time. Again: it goes on.

    Parameters
    ----------
    spec: str
        a TOML file: data and common settings, then an [[entry]] for each method
    """
    from attar.comparison import show as stage

    stage.compare(spec, out, jobs=jobs, save_every=save_every, quiet=quiet, json=json)


def inspect(data: str, /, *, out: str | None = None, quiet: bool = False, debug: bool = False, **given: Any) -> None:
    """Show what is in a data set, which recipe fits it, and what distilling it takes on this machine.

    Parameters
    ----------
    data: str
        a known name, a folder of images, parquet, or USER/NAME on Hugging Face
    """
    from attar.stages import inspect as stage

    stage.inspect(data, out, given, quiet=quiet)


def export(
    run: str,
    /,
    *,
    to: str | None = None,
    out: str | None = None,
    what: str | None = None,
    overwrite: bool = False,
    debug: bool = False,
) -> None:
    """Write a run's condensed set for other tools, by default into the run folder.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    """
    from attar.stages import export as stage

    stage.export(run, to, out, what, overwrite=overwrite)


def push(run: str, name: str, /, *, what: str | None = None, private: bool = False, debug: bool = False) -> None:
    """Put a run's condensed set onto the Hugging Face hub, as parquet with a card.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    name: str
        USER/NAME of the data set there
    """
    from attar.stages import export as stage

    stage.push(run, name, what, private=private)


def recipes(name: str | None = None) -> None:
    """Print the names of all recipes, or one recipe as TOML to start a file of your own from.

    Parameters
    ----------
    name: str
        a recipe's name
    """
    from attar.settings.layers import to_toml
    from attar.settings.recipes import RECIPES

    print("\n".join(RECIPES) if name is None else to_toml(name))


VERBS = (demo, pretrain, condense, select, merge, evaluate, compare, inspect, export, push)  # with settings or flags
