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

from attar import commands, interrupts
from attar.config import FLAGS, SECTIONS
from attar.errors import UserError
from attar.version import __version__

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
        "runs at once, with one thread each; times of more runs than cores cannot be compared (default: 1)",
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
    help = (
        "Distil a data set into a handful of synthetic images per class (Acc-DD). "
        "What a flag does not say comes from the data set's recipe: see `attar recipes`."
    )
    app = App(
        name="attar",
        help=help,
        help_format="plaintext",
        version=__version__,
        suppress_keyboard_interrupt=False,  # `main` says a word
    )
    for verb in commands.VERBS:
        app.command(_verb(verb))
    app.command(commands.recipes)
    app.register_install_completion_command(help="Install completion of verbs and flags for your shell.")
    return app


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with its flags described, and those of the settings (from the fields' metadata) after them.

    A flag that was not given is not passed on.
    """
    name = function.__name__
    parameters = []
    for own in inspect.signature(function, eval_str=True).parameters.values():
        if own.kind is inspect.Parameter.KEYWORD_ONLY:
            kind, help, short = RUN_FLAGS[own.name]
            default = False if kind is bool else None
            wanted: Any = kind if kind is bool else kind | None
            annotation: Any = Annotated[wanted, _parameter(own.name, help, short, kind)]
            parameters.append(own.replace(default=default, annotation=annotation))
        elif own.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(own)
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
