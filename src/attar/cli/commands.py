"""The verbs of the command line: each one calls a stage and prints its result.

`flags` holds the flags named in `takes`, `settings` those of `attar.settings.config` that the user gave. Heavy modules
are imported inside the verbs.
"""

from __future__ import annotations

from types import SimpleNamespace as Flags
from typing import Any

from attar.cli.flags import takes

Settings = dict[str, Any]


@takes("out", "overwrite", "quiet", "json", "log")
def demo(*, flags: Flags, settings: Settings) -> None:
    """Distil the embedded digits into one image per class, evaluate, and write a report: two minutes on a CPU."""
    from attar.cli import printing
    from attar.stages.demo import demo as stage

    with printing.shown_progress(flags) as progress:
        result, measured, path = stage(
            folder=flags.out, overwrite=flags.overwrite, log=flags.log or (), progress=progress, **settings
        )
    printing.print_result(flags, result, lambda: printing.print_accuracies(result, measured, path))


@takes("recipe", "out", "ray", "quiet", "json")
def pretrain(*, flags: Flags, settings: Settings) -> None:
    """Train early-stage models and keep them in a pool folder (default: pool/<data set>-<network>)."""
    from attar.cli import printing
    from attar.stages.pretrain import pretrain as stage
    from attar.stages.shared import DEFAULT_FOLDER

    with printing.shown_progress(flags) as progress:
        folder = DEFAULT_FOLDER if flags.out is None else flags.out
        pool = stage(recipe=flags.recipe, folder=folder, ray=flags.ray, progress=progress, **settings)
    printing.print_pool(flags, pool)


@takes(
    *("recipe", "reproduce", "out", "overwrite", "minutes", "resume", "save_every", "ray", "ray_cpus"),
    *("quiet", "json", "log"),
)
def condense(*, flags: Flags, settings: Settings) -> None:
    """Distil a data set into synthetic images: by gradients on perturbed early-stage models, or another method."""
    from attar.cli import printing
    from attar.errors import UserError
    from attar.stages import condense as stage
    from attar.stages.shared import DEFAULT_FOLDER

    options: Settings = {"log": flags.log or (), "ray": flags.ray, "ray_cpus": flags.ray_cpus}
    options |= {} if flags.save_every is None else {"save_every": flags.save_every}
    if flags.resume is not None and flags.overwrite:
        raise UserError("--resume goes on with a run, and --overwrite replaces it; leave one out")
    with printing.shown_progress(flags) as progress:
        if flags.resume in (None, "auto"):
            condensed = stage.condense(
                recipe=flags.recipe,
                reproduce=flags.reproduce,
                folder=DEFAULT_FOLDER if flags.out is None else flags.out,
                overwrite=flags.overwrite,
                resume=flags.resume == "auto",
                minutes=flags.minutes,
                progress=progress,
                **options,
                **settings,
            )
        else:
            for name in ("out", "recipe", "reproduce", "minutes"):
                if getattr(flags, name):
                    raise UserError(f"--{name} cannot change what a run was begun with; leave it out beside --resume")
            condensed = stage.resume_run(flags.resume, progress=progress, **options, **settings)
    printing.print_run(flags, condensed)


@takes("features", "recipe", "out", "overwrite", "quiet", "json")
def select(method: str, /, *, flags: Flags, settings: Settings) -> None:
    """Choose real images of each class, a core-set, to compare with (default: runs/<data set>-<method>-ipc<ipc>).

    Parameters
    ----------
    method: str
        random, herding or kcenter
    """
    from attar.cli import printing
    from attar.stages import select as stage
    from attar.stages.shared import DEFAULT_FOLDER

    with printing.shown_progress(flags) as progress:
        condensed = stage.select(
            None,
            method,
            features=flags.features,
            recipe=flags.recipe,
            folder=DEFAULT_FOLDER if flags.out is None else flags.out,
            overwrite=flags.overwrite,
            progress=progress,
            **settings,
        )
    printing.print_run(flags, condensed)


@takes("out", "overwrite", "json")
def merge(part: str, /, *parts: str, flags: Flags, settings: Settings) -> None:
    """Join the parts of a partition, made with `attar condense --nclass_sub N --phase K`, into one run folder.

    Parameters
    ----------
    part: str
        a part's run folder, or its condensed.safetensors file
    parts: str
        the other parts, in any order
    """
    from attar.cli import printing
    from attar.stages.merge import merge as stage

    with printing.shown_progress(flags):
        condensed = stage([part, *parts], folder=flags.out, overwrite=flags.overwrite)
    printing.print_run(flags, condensed)


@takes("factor", "decode_type", "normalized", "ray", "quiet", "json", "log")
def evaluate(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Train fresh networks on a condensed set and test them on real images.

    Parameters
    ----------
    run: str
        a run folder, a condensed.safetensors file, or a set made elsewhere: .pt pair, .npz, parquet, image folder
    """
    from pathlib import Path

    from attar.cli import printing
    from attar.stages.evaluate import evaluate_set

    with printing.shown_progress(flags) as progress:
        result, measured = evaluate_set(
            run,
            factor=flags.factor,
            decode_type=flags.decode_type,
            normalized=flags.normalized,
            log=flags.log or (),
            ray=flags.ray,
            progress=progress,
            **settings,
        )
    printing.print_result(flags, result, lambda: printing.print_accuracies(result, measured, Path(run)))


@takes("out", "overwrite", "save_every", "quiet", "json")
def add(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Condense the classes that a run does not have yet, and join both in a new run folder (default: RUN-added).

    Parameters
    ----------
    run: str
        a run folder, which stays as it is
    """
    from attar.cli import printing
    from attar.stages.add import add as stage

    options = {} if flags.save_every is None else {"save_every": flags.save_every}
    with printing.shown_progress(flags) as progress:
        condensed = stage(run, folder=flags.out, overwrite=flags.overwrite, progress=progress, **options, **settings)
    printing.print_run(flags, condensed)


@takes("network", "out", "overwrite", "quiet", "json")
def train(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Train a network on a condensed set as the evaluation does, and keep it (default: RUN/model.safetensors).

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    """
    from pathlib import Path

    from attar.cli import printing
    from attar.stages.train import MODEL, train_set

    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    out = folder / MODEL if flags.out is None else Path(flags.out)
    with printing.shown_progress(flags) as progress:
        _, about = train_set(run, flags.network, out=out, overwrite=flags.overwrite, progress=progress, **settings)
    printing.print_result(flags, about | {"file": str(out)}, lambda: printing.print_trained(about, out))


@takes("out", "jobs", "save_every", "quiet", "json")
def compare(spec: str, /, *, flags: Flags, settings: Settings) -> None:
    """Compare methods and settings on one data set: a table, and accuracy against time. Run it again to resume.

    Parameters
    ----------
    spec: str
        a TOML file: data and common settings, then an [[entry]] for each method
    """
    from attar.cli import printing
    from attar.comparison.run import run as stage
    from attar.runs import checkpoint

    with printing.shown_progress(flags) as progress:
        path = printing.comparison_folder(spec, flags.out)
        jobs = 1 if flags.jobs is None else flags.jobs
        rows = stage(spec, path, jobs, flags.save_every or checkpoint.DEFAULT_INTERVAL, progress)
    printing.print_comparison(flags, rows, path)


@takes("out", "quiet")
def inspect(data: str, /, *, flags: Flags, settings: Settings) -> None:
    """Show what is in a data set, which recipe fits it, and what distilling it takes on this machine.

    Parameters
    ----------
    data: str
        a known name, a folder of images, parquet, or USER/NAME on Hugging Face
    """
    from attar.cli import printing
    from attar.stages.inspect import inspect as stage

    with printing.shown_progress(flags) as progress:
        inspection = stage(data, out=flags.out, progress=progress, **settings)
    printing.print_inspection(inspection)


@takes("to", "out", "what", "overwrite")
def export(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Write a run's condensed set for other tools, by default into the run folder.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    """
    from attar.stages.export import export as stage

    print(stage(run, flags.to, out=flags.out, what=flags.what, overwrite=flags.overwrite))


@takes("what", "private")
def push(run: str, name: str, /, *, flags: Flags, settings: Settings) -> None:
    """Put a run's condensed set onto the Hugging Face hub, as parquet with a card.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    name: str
        USER/NAME of the data set there
    """
    from attar.stages.export import push as stage

    print(stage(run, name, what=flags.what, private=flags.private))


def recipes(name: str | None = None, /, *, flags: Flags, settings: Settings) -> None:
    """Print the names of all recipes, or one recipe as TOML to start a file of your own from.

    Parameters
    ----------
    name: str
        a recipe's name
    """
    from attar.settings.layers import to_toml
    from attar.settings.recipes import RECIPES

    print("\n".join(RECIPES) if name is None else to_toml(name))


VERBS = (demo, pretrain, condense, select, merge, add, evaluate, train, compare, inspect, export, push, recipes)
