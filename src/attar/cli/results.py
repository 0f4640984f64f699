"""The verbs that make no set: they inspect, show, list, join, export or push what there is."""

from __future__ import annotations

from types import SimpleNamespace as Flags
from typing import Any

from attar.cli.flags import takes

Settings = dict[str, Any]


@takes("quiet", out="the file of the picture (default: inspect-<data set>.png)")
def inspect(data: str, /, *, flags: Flags, settings: Settings) -> None:
    """Show what is in a data set, and what distilling it takes here.

    Counts, a picture, the settings it gets, seconds and memory.

    Parameters
    ----------
    data: str
        a known name, a folder of images, parquet, or USER/NAME on Hugging Face

    Examples
    --------
    attar inspect path/to/images
    attar inspect path/to/images --ipc 1 --method dm
    attar inspect digits
    """
    from attar.cli import printing
    from attar.stages.inspect import inspect as stage

    with printing.shown_progress(flags) as progress:
        inspection = stage(data, out=flags.out, progress=progress, **settings)
    printing.print_inspection(inspection)


@takes("json")
def show(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Show the accuracies of a run, and where its report is.

    Parameters
    ----------
    run: str
        a run folder

    Examples
    --------
    attar show runs/demo
    attar show runs/mine  # of a run that stopped: how to go on
    attar show runs/demo --json  # with the files of the run
    """
    from attar.cli import printing
    from attar.stages.show import show as stage

    printing.print_shown(flags, stage(run))


@takes("json")
def runs(folder: str | None = None, /, *, flags: Flags, settings: Settings) -> None:
    """List all runs, with accuracy and time.

    Parameters
    ----------
    folder: str
        the folder that holds the run folders (default: runs)

    Examples
    --------
    attar runs
    attar runs elsewhere
    attar runs --json
    """
    from attar.cli import printing
    from attar.stages.show import runs as stage

    with printing.shown_progress(flags):
        runs = stage(folder)
    printing.print_runs(flags, runs)


@takes("overwrite", "json", out="the run folder of the whole set (default: runs/DATA-ipcN)")
def merge(part: str, /, *parts: str, flags: Flags, settings: Settings) -> None:
    """Join the parts of a partition into one run.

    Parameters
    ----------
    part: str
        a part's run folder, or its condensed.safetensors file
    parts: str
        the other parts, in any order

    Examples
    --------
    attar condense -d imagenet --nclass_sub 20 --phase 0  # one part
    attar merge runs/imagenet-ipc10-phase* --out runs/whole
    attar evaluate runs/whole
    """
    from attar.cli import printing
    from attar.stages.merge import merge as stage

    with printing.shown_progress(flags):
        condensed = stage([part, *parts], folder=flags.out, overwrite=flags.overwrite)
    printing.print_run(flags, condensed)


@takes("quiet", out="the page of several runs (default: runs/side-by-side.html)")
def report(run: str, /, *others: str, flags: Flags, settings: Settings) -> None:
    """Write the report of a run anew, or several runs side by side.

    Parameters
    ----------
    run: str
        a run folder; its report.html is written again
    others: tuple[str, ...]
        more runs: a table and the images of all on one page

    Examples
    --------
    attar report runs/demo
    attar report runs/one runs/two  # one page of both
    attar report runs/one runs/two --out both.html
    """
    from attar.cli import printing
    from attar.stages.report import report as stage

    with printing.shown_progress(flags) as progress:
        print(f"report: {stage(run, *others, out=flags.out, progress=progress)}")


@takes(
    *("to", "what"),
    out="the folder, or for npz and pt the file, which gets that suffix (default: export-<format> in the run folder)",
    overwrite="replace an export that is there",
)
def export(run: str, /, *, flags: Flags, settings: Settings) -> None:
    """Write a set for other tools: parquet, PNG folders, npz or pt.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file

    Examples
    --------
    attar export runs/mine --to imagefolder  # PNGs to train on, by class
    attar export runs/mine --to parquet --out mine  # with a card
    attar export runs/mine --to npz --what stored
    """
    from attar.cli import printing
    from attar.stages.export import export as stage

    path, words = stage(run, flags.to, out=flags.out, what=flags.what, overwrite=flags.overwrite)
    print(f"{path}: {words}\nnext: train on it, or attar evaluate {printing.quoted(path)}")


@takes("private", "dry_run", what="the images as stored, decoded or both (default: both)")
def push(run: str, name: str, /, *, flags: Flags, settings: Settings) -> None:
    """Put a set onto the Hugging Face hub, with a card.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    name: str
        USER/NAME of the data set there

    Examples
    --------
    attar push runs/mine me/my-small-set
    attar push runs/mine me/my-small-set --private
    attar push runs/mine me/my-small-set --dry_run  # uploads nothing
    """
    from pathlib import Path

    from attar.cli import printing
    from attar.sets.card import CARD
    from attar.stages.export import push as stage

    made = stage(run, name, what=flags.what, private=flags.private, dry_run=flags.dry_run)
    if flags.dry_run:
        print((Path(made) / CARD).read_text(encoding="utf-8"))
        print(f"nothing was uploaded; the folder is {made}\nnext: attar push {printing.quoted(run)} {name}")
    else:
        print(made)


@takes("methods", "networks")
def recipes(name: str | None = None, /, *, flags: Flags, settings: Settings) -> None:
    """List recipes, methods or networks, or print a recipe as TOML.

    The TOML is the start of a recipe file of your own.

    Parameters
    ----------
    name: str
        a recipe's name

    Examples
    --------
    attar recipes
    attar recipes --methods
    attar recipes fashion-cpu > mine.toml  # then: attar condense --recipe mine.toml
    attar recipes best --ipc 10  # some settings depend on the images per class
    """
    from attar.errors import UserError
    from attar.settings import choices
    from attar.settings.layers import to_toml
    from attar.settings.methods import METHODS
    from attar.settings.recipes import RECIPES

    ipc = settings.get("ipc")
    asked = [word for word in (name, "--methods" * flags.methods, "--networks" * flags.networks) if word]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are {len(asked)} questions; ask one at a time")
    if name not in (None, "methods", "networks"):
        print(to_toml(name, ipc))
    elif ipc is not None:
        raise UserError("--ipc is for the settings of one recipe: attar recipes best --ipc 10")
    elif flags.methods or name == "methods":
        print("\n".join(f"{name:9} {method.paper}" for name, method in METHODS.items()))
    elif flags.networks or name == "networks":
        print("\n".join(f"{name:16} {line}" for name, line in choices.NETWORKS.items()))
    else:
        print("\n".join(f"{name:16} {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items()))
