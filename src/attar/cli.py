"""The command line: verbs that parse, call and print.

Nothing heavy is imported before a verb runs, so that `attar --help` answers at once.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import App, CycloptsError, Parameter, Token, UnusedCliTokensError

from attar import interrupts
from attar.config import FLAGS, SECTIONS
from attar.errors import UserError

EXIT_USER = 2
ADDRESS = re.compile(r"auto|local|ray://\S+|[^/\s]+:[0-9]+")  # of a Ray cluster
RUN_FLAGS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "recipe": (str, "a recipe's name, a TOML file or a run's config.json; flags go on top", ()),
    "reproduce": (bool, "insist on the published settings of the data set", ()),
    "out": (str, "the folder (or file, for inspect, npz and pt) to write to", ("-o",)),
    "overwrite": (bool, "replace the run that --out already holds", ()),
    "resume": (str, "go on with the run in this folder; auto: with the one that --out holds, if it holds one", ()),
    "save_every": (str, "time (600s, 10m, 2h) or inner iterations (50it) between checkpoints; none (default: 5m)", ()),
    "ray": (str, "compute on a Ray cluster: at this ADDRESS, or without one on a cluster started here", ()),
    "ray_cpus": (int, "CPU threads of each part on the cluster (default: as many as a part takes here)", ()),
    "jobs": (
        int,
        "runs at once, with one thread each: for accuracies, their times cannot be compared (default: 1)",
        (),
    ),
    "minutes": (float, "choose as many iterations as fit into MINUTES on this machine", ()),
    "to": (str, "parquet, imagefolder, npz or pt", ()),
    "what": (str, "stored, decoded or both (default: parquet both, else decoded)", ()),
    "features": (str, "what a core-set compares images by: early (a network), pixels, or a pool's file or folder", ()),
    "private": (bool, "only you can see it", ()),
    "factor": (int, "how stored images made elsewhere are decoded: FACTOR x FACTOR each (default: 1)", ("-f",)),
    "decode_type": (str, "single, multi or bound, for stored images made elsewhere", ()),
    "normalized": (bool, "the images made elsewhere are normalised with the data's mean and std", ()),
    "quiet": (bool, "say nothing while it runs", ("-q",)),
    "json": (bool, "print the result as one JSON object, and nothing else, on standard output", ()),
    "log": (tuple[str, ...], "send the events to tensorboard, wandb or both as well", ()),
    "debug": (bool, "show the traceback of an error", ()),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with status 0, 2 (unusable input), 130 (interrupted) or 143 (terminated)."""
    tokens = _complete(sys.argv[1:] if arguments is None else arguments)
    try:
        with interrupts.raised():
            _app()(tokens, exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        _fail(f"unexpected argument '{(error.unused_tokens or [''])[0]}'; --help lists the flags")
    except CycloptsError as error:
        _fail(error.__cause__ if isinstance(error.__cause__, UserError) else error)
    except UserError as error:
        if "--debug" in tokens:
            raise
        _fail(error)
    except OSError as error:  # a full disk, a read-only folder
        if "--debug" in tokens:
            raise
        _fail(f"{error.strerror or error}{': ' + str(error.filename) if error.filename else ''}")
    except (MemoryError, RuntimeError) as error:
        if "--debug" in tokens or not (isinstance(error, MemoryError) or "allocate" in str(error)):
            raise
        _fail("not enough memory; smaller batches, images or a smaller --width need less (--debug shows where)")
    except KeyboardInterrupt as error:
        print("; ".join(filter(None, ("attar: interrupted", str(error)))), file=sys.stderr, flush=True)
        status = error.status if isinstance(error, interrupts.Interrupted) else 130
        execution = sys.modules.get("attar.execution")
        if execution is not None and execution.busy():  # the interpreter would wait until the workers are done
            os._exit(status)
        sys.exit(status)


def _complete(tokens: list[str]) -> list[str]:
    """The address that `--ray` leaves out. What follows it is one only when it looks like one: a run may follow too."""
    following = (*tokens[1:], "")
    return [
        "--ray=local" if token == "--ray" and not ADDRESS.fullmatch(after) else token
        for token, after in zip(tokens, following, strict=True)
    ]


def _fail(error: object) -> None:
    print(f"attar: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(EXIT_USER)


def _app() -> App:
    from importlib.metadata import version

    help = (
        "Distil a data set into a handful of synthetic images per class (Acc-DD). "
        "What a flag does not say comes from the data set's recipe: see `attar recipes`."
    )
    app = App(
        name="attar",
        help=help,
        help_format="plaintext",
        version=version("attar"),
        suppress_keyboard_interrupt=False,  # `main` says a word
    )
    app.command(_verb("demo", demo, "out", "overwrite", "quiet", "json", "log", "debug"))
    app.command(_verb("pretrain", pretrain, "recipe", "out", "ray", "quiet", "json", "debug"))
    run = ("recipe", "reproduce", "out", "overwrite", "minutes", "resume", "save_every", "ray", "ray_cpus")
    app.command(_verb("condense", condense, *run, "quiet", "json", "log", "debug"))
    app.command(_verb("select", select, "features", "recipe", "out", "overwrite", "quiet", "json", "debug"))
    app.command(_verb("merge", merge, "out", "overwrite", "json", "debug"))
    foreign = ("factor", "decode_type", "normalized")
    app.command(_verb("evaluate", evaluate, *foreign, "ray", "quiet", "json", "debug"))
    app.command(_verb("compare", compare, "out", "jobs", "save_every", "quiet", "json", "debug"))
    app.command(_verb("inspect", inspect_, "out", "quiet", "debug"))
    app.command(_verb("export", export, "to", "out", "what", "overwrite", "debug"))
    app.command(_verb("push", push, "what", "private", "debug"))
    app.command(recipes)
    app.register_install_completion_command(help="Install completion of verbs and flags for your shell.")
    return app


def _verb(name: str, function: Callable[..., None], *run_flags: str) -> Callable[..., None]:
    """`function` with the settings' flags (from the fields' metadata) added to its signature, None when not given."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    own = [p for p in inspect.signature(function).parameters.values() if p.kind in positional]
    parameters = [p.replace(annotation=get_type_hints(function, include_extras=True)[p.name]) for p in own]
    for flag in run_flags:
        kind, help, short = RUN_FLAGS[flag]
        default = False if kind is bool else None
        wanted: Any = kind if kind is bool else kind | None
        annotation: Any = Annotated[wanted, _parameter(flag, help, short, kind)]
        parameters.append(
            inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    for section, field_name in dict.fromkeys(FLAGS.get(name, {}).values()):
        item = next(item for item in fields(SECTIONS[section]) if item.name == field_name)
        kind = get_type_hints(SECTIONS[section])[field_name]
        parameter = _parameter(field_name, item.metadata["help"], item.metadata["names"], kind)
        annotation = Annotated[kind | None, parameter]
        parameters.append(
            inspect.Parameter(field_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def verb(*args: Any, **given: Any) -> None:
        function(*args, **{key: value for key, value in given.items() if value is not None})

    verb.__name__, verb.__doc__ = name, function.__doc__
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return verb


def _parameter(name: str, help: str, others: tuple[str, ...], kind: Any) -> Parameter:
    negative = f"--no_{name}" if kind is bool and name not in RUN_FLAGS else ()
    return Parameter(
        name=(f"--{name}", *others),
        help=help,
        negative=negative,
        converter=_whole_numbers(name) if int in (kind, *get_args(kind)) else None,
        show_default=False,
        consume_multiple=True,
    )


def _whole_numbers(name: str) -> Callable[[Any, Sequence[Token]], int | tuple[int, ...]]:
    """Reads the text of a flag as one whole number or several; 1.5 is refused, not rounded."""

    def convert(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
        for token in tokens:
            if not re.fullmatch(r"[+-]?[0-9]+", token.value):
                raise UserError(f"{name} must be a whole number, not '{token.value}'")
        values = tuple(int(token.value) for token in tokens)
        return values[0] if kind is int else values

    return convert


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
    from attar import verbs

    verbs.demo(out, given, overwrite=overwrite, quiet=quiet, json=json, log=log)


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
    from attar import verbs

    verbs.pretrain(out, given, recipe=recipe, quiet=quiet, json=json, ray=ray)


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
    from attar import verbs

    verbs.condense(
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
    from attar import verbs

    verbs.select(method, out, given, recipe=recipe, features=features, overwrite=overwrite, quiet=quiet, json=json)


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
    from attar import verbs

    verbs.merge([part, *parts], out, overwrite=overwrite, json=json)


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
    from attar import verbs

    verbs.evaluate(
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
    from attar import verbs

    verbs.compare(spec, out, jobs=jobs, save_every=save_every, quiet=quiet, json=json)


def inspect_(data: str, /, *, out: str | None = None, quiet: bool = False, debug: bool = False, **given: Any) -> None:
    """Show what is in a data set, which recipe fits it, and what distilling it takes on this machine.

    Parameters
    ----------
    data: str
        a known name, a folder of images, parquet, or USER/NAME on Hugging Face
    """
    from attar import verbs

    verbs.inspect(data, out, given, quiet=quiet)


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
    from attar import verbs

    verbs.export(run, to, out, what, overwrite=overwrite)


def push(run: str, name: str, /, *, what: str | None = None, private: bool = False, debug: bool = False) -> None:
    """Put a run's condensed set onto the Hugging Face hub, as parquet with a card.

    Parameters
    ----------
    run: str
        a run folder, or a condensed.safetensors file
    name: str
        USER/NAME of the data set there
    """
    from attar import verbs

    verbs.push(run, name, what, private=private)


def recipes(name: str | None = None) -> None:
    """Print the names of all recipes, or one recipe as TOML to start a file of your own from.

    Parameters
    ----------
    name: str
        a recipe's name
    """
    from attar.recipes import RECIPES, to_toml

    print("\n".join(RECIPES) if name is None else to_toml(name))
