"""The verbs of the command line: each one calls a stage and prints its result. Those that compute are here.

`flags` holds the flags named in `takes`, `settings` those of `attar.settings.config` that the user gave. Heavy modules
are imported inside the verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Flags
from typing import Any

from attar.cli.flags import takes
from attar.cli.results import export, inspect, merge, push, recipes, report, runs, show

Settings = dict[str, Any]


@takes("overwrite", "quiet", "json", "log", out="the run folder (default: runs/demo, which is replaced)")
def demo(*, flags: Flags, settings: Settings) -> None:
    """Go the whole way in two minutes: the digits, with a report.

    The digits are distilled into one image per class and evaluated.

    Examples
    --------
    attar demo  # the result is in runs/demo, with a report
    attar demo --ipc 10 --out runs/ten  # ten images per class
    attar demo --seed 1 --json  # the result for a program
    """
    from attar.cli import printing
    from attar.stages.demo import demo as stage

    with printing.shown_progress(flags) as progress:
        result, measured, path = stage(
            folder=flags.out, overwrite=flags.overwrite, log=flags.log or (), progress=progress, **settings
        )
    printing.print_result(flags, result, lambda: printing.print_accuracies(result, measured, path))


@takes("recipe", "ray", "quiet", "json", out="the pool folder (default: pool/<data set>-<network>)")
def pretrain(*, flags: Flags, settings: Settings) -> None:
    """Train the early-stage models of a data set, and keep them.

    Examples
    --------
    attar pretrain -d path/to/images  # the models that condense would train
    attar pretrain -d digits --models 10 --epochs 4  # more of them, trained longer
    attar condense -d digits --model_path pool/digits-convnet2-w0.5
    """
    from attar.cli import printing
    from attar.stages import pretrain as stage
    from attar.stages.shared import DEFAULT_FOLDER

    with printing.shown_progress(flags) as progress:
        folder = DEFAULT_FOLDER if flags.out is None else flags.out
        pool = stage.pretrain(recipe=flags.recipe, folder=folder, ray=flags.ray, progress=progress, **settings)
    printing.print_pool(flags, pool, stage.how_to_take(pool, flags.out, settings))


@takes(
    *("recipe", "reproduce", "out", "overwrite", "minutes", "evaluate", "resume", "save_every", "ray", "ray_cpus"),
    *("quiet", "json", "log"),
)
def condense(*, flags: Flags, settings: Settings) -> None:
    """Distil a data set into a few synthetic images per class.

    By gradients or features of perturbed early-stage models, or by another --method.

    Examples
    --------
    attar condense -d path/to/images --ipc 10
    attar condense -d path/to/images --ipc 1 --minutes 10 --evaluate --out runs/mine
    attar condense --resume runs/mine  # go on after an interruption
    """
    from attar.cli import printing
    from attar.errors import UserError
    from attar.stages import condense as stage
    from attar.stages.shared import DEFAULT_FOLDER
    from attar.stages.show import show

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
                evaluate=flags.evaluate,
                progress=progress,
                **options,
                **settings,
            )
        else:
            for name in ("out", "recipe", "reproduce", "minutes"):
                if getattr(flags, name):
                    raise UserError(f"--{name} cannot change what a run was begun with; leave it out beside --resume")
            condensed = stage.resume_run(
                flags.resume, evaluate=flags.evaluate, progress=progress, **options, **settings
            )
    if flags.evaluate:
        printing.print_shown(flags, show(str(condensed.folder)))
    else:
        printing.print_run(flags, condensed)


@takes("features", "recipe", "out", "overwrite", "quiet", "json")
def select(method: str, /, *, flags: Flags, settings: Settings) -> None:
    """Choose real images of each class, a core-set.

    Parameters
    ----------
    method: str
        random; herding, kcenter or moderate (by features); el2n, grand, forgetting or aum (the easiest); ccs (of all
        degrees of difficulty); rded (mosaics of the easiest crops)

    Examples
    --------
    attar select herding -d path/to/images --ipc 10 --features pixels
    attar select el2n -d digits --ipc 1 --out runs/easy
    attar select rded -d fashion --ipc 10 --factor 2
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


@takes("quick", "factor", "decode_type", "normalized", "ray", "quiet", "json", "log")
def evaluate(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Train fresh networks on a set and test them on real images.

    Parameters
    ----------
    run: str
        a run folder, a condensed.safetensors file, or a set made elsewhere: .pt pair, .npz, parquet, image folder

    Examples
    --------
    attar evaluate runs/mine
    attar evaluate runs/mine --networks convnet resnet18-batch --runs 5
    attar evaluate made-elsewhere.pt -d cifar10
    """
    from pathlib import Path

    from attar.cli import printing
    from attar.stages.evaluate import evaluate_set
    from attar.stages.show import is_run

    with printing.shown_progress(flags) as progress:
        result, measured = evaluate_set(
            run,
            factor=flags.factor,
            decode_type=flags.decode_type,
            quick=flags.quick,
            normalized=flags.normalized,
            log=flags.log or (),
            ray=flags.ray,
            progress=progress,
            **settings,
        )
    path = Path(run)
    with_run = printing.with_files(path, result) if is_run(path) else result
    printing.print_result(flags, with_run, lambda: printing.print_accuracies(result, measured, path))


@takes("overwrite", "save_every", "quiet", "json", out="the run folder of the joined set (default: RUN-added)")
def add(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Condense the classes that a run lacks, and join both.

    Parameters
    ----------
    run: str
        a run folder, which stays as it is

    Examples
    --------
    attar add runs/mine  # its folder of images has new classes now
    attar add runs/mine -d path/to/more --out runs/both
    attar add runs/mine -d path/to/more --overwrite  # once more
    """
    from attar.cli import printing
    from attar.stages.add import add as stage

    options = {} if flags.save_every is None else {"save_every": flags.save_every}
    with printing.shown_progress(flags) as progress:
        condensed = stage(run, folder=flags.out, overwrite=flags.overwrite, progress=progress, **options, **settings)
    printing.print_run(flags, condensed)


@takes("teacher", "temperature", "quiet", "json")
def label(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Let a teacher label the images of a set softly, and keep that.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file

    Examples
    --------
    attar label runs/mine  # by the run's network, trained on all images
    attar label runs/mine --teacher pool --temperature 2
    attar evaluate runs/mine  # beside hard labels, and random real images
    """
    from attar.cli import printing
    from attar.stages.label import label as stage

    options = {} if flags.temperature is None else {"temperature": flags.temperature}
    with printing.shown_progress(flags) as progress:
        condensed = stage(run, teacher=flags.teacher, progress=progress, **options, **settings)
    printing.print_labelled(flags, run, condensed)


@takes(
    *("network", "quiet", "json"),
    out="the file of the weights (default: RUN/model.safetensors)",
    overwrite="replace the file of weights that is there",
)
def train(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Train a network on a set as the evaluation does, and keep it.

    Parameters
    ----------
    run: str
        a run folder, a condensed.safetensors file, or an export of attar

    Examples
    --------
    attar train runs/mine
    attar train runs/mine --network resnet18-batch --out mine.safetensors
    attar train runs/mine --network mymodule:make_network
    """
    from pathlib import Path

    from attar.cli import printing
    from attar.stages.train import MODEL, train_set

    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    out = folder / MODEL if flags.out is None else Path(flags.out)
    with printing.shown_progress(flags) as progress:
        _, about = train_set(run, flags.network, out=out, overwrite=flags.overwrite, progress=progress, **settings)
    printing.print_result(flags, about | {"file": str(out)}, lambda: printing.print_trained(about, out))


@takes("jobs", "save_every", "quiet", "json", out="the folder of the comparison (default: runs/<name of the file>)")
def compare(spec: str, /, *, flags: Flags, settings: Settings) -> None:
    """Compare methods and settings on one data set.

    It ends with a table, and a figure of accuracy against time. The same command again goes on.

    Parameters
    ----------
    spec: str
        a TOML file: data and common settings, then an [[entry]] for each method

    Examples
    --------
    attar compare mine.toml  # the same again goes on after an interruption
    attar compare mine.toml --jobs 2  # two runs at once
    attar compare mine.toml --out runs/again
    """
    from attar.cli import printing
    from attar.comparison.run import run as stage
    from attar.runs import checkpoint
    from attar.stages.shared import RUN_ROOT, named_folder

    with printing.shown_progress(flags) as progress:
        path = named_folder(RUN_ROOT / Path(spec).stem if flags.out is None else flags.out)
        jobs = 1 if flags.jobs is None else flags.jobs
        rows = stage(spec, path, jobs, flags.save_every or checkpoint.DEFAULT_INTERVAL, progress)
    printing.print_comparison(flags, rows, path)


# In the order in which a user needs them
VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "From images to a small set": (demo, inspect, condense, evaluate, label, train, show, runs, report, export, push),
    "To compare with": (select, compare),
    "Parts of a run, and recipes": (pretrain, merge, add, recipes),
}
