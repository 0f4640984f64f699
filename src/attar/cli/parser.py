"""The command line: builds the parser from the verbs and their flags, and turns errors into one line.

Heavy modules are imported only when a verb runs, so that `attar --help` answers at once.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import App, CycloptsError, Parameter, Token, UnusedCliTokensError

from attar import __version__, signals
from attar.cli import commands
from attar.cli.flags import FLAGS, flags_of_verb
from attar.errors import UserError
from attar.settings.config import FLAGS as SETTINGS
from attar.settings.config import SECTIONS
from attar.settings.schema import known_settings

EXIT_USER_ERROR = 2
CLUSTER_ADDRESS = re.compile(r"auto|local|ray://\S+|[^/\s]+:[0-9]+")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with status 0, 2 (unusable input), 130 (interrupted) or 143 (terminated)."""
    tokens = _complete(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a name or a sign that the terminal does not know ends no run
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals.sigterm_raises():
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
        status = error.status if isinstance(error, signals.Interrupted) else 130
        workers = sys.modules.get("attar.engine.workers")
        if workers is not None and workers.busy():  # the interpreter would wait for the worker threads
            os._exit(status)
        sys.exit(status)


def _complete(tokens: list[str]) -> list[str]:
    """Complete `--ray` without an address to `--ray=local`. The next token is an address only if it looks like one."""
    following = (*tokens[1:], "")
    return [
        "--ray=local" if token == "--ray" and not CLUSTER_ADDRESS.fullmatch(after) else token
        for token, after in zip(tokens, following, strict=False)  # nothing follows no tokens
    ]


def _fail(error: object) -> None:
    print(f"attar: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


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
        suppress_keyboard_interrupt=False,  # `main` prints a line
    )
    for verb in commands.VERBS:
        app.command(_verb(verb))
    app.register_install_completion_command(help="Install completion of verbs and flags for your shell.")
    return app


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """The function that cyclopts parses a verb with: its flags, and then those of its settings, from their fields.

    Only settings that the user gave are passed on.
    """
    name = function.__name__
    parameters = [
        item
        for item in inspect.signature(function, eval_str=True).parameters.values()
        if item.kind is inspect.Parameter.POSITIONAL_ONLY or item.kind is inspect.Parameter.VAR_POSITIONAL
    ]
    run_flags = flags_of_verb(function)
    for flag in run_flags:
        kind, help, short = FLAGS[flag]
        default = False if kind is bool else None
        annotation: Any = Annotated[kind if kind is bool else kind | None, _parameter(flag, help, short, kind)]
        parameters.append(_keyword(flag, default, annotation))
    for section, field_name in dict.fromkeys(SETTINGS.get(name, {}).values()):
        setting = known_settings(SECTIONS[section])[field_name]
        kind = get_type_hints(SECTIONS[section])[field_name]
        annotation = Annotated[kind | None, _parameter(field_name, setting.help, setting.names, kind)]
        parameters.append(_keyword(field_name, None, annotation))

    def verb(*args: Any, **values: Any) -> None:
        flags = {flag: values.pop(flag, False if FLAGS[flag].kind is bool else None) for flag in run_flags}
        settings = {key: value for key, value in values.items() if value is not None}
        function(*args, flags=SimpleNamespace(**flags), settings=settings)

    verb.__name__, verb.__doc__ = name, function.__doc__
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return verb


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(name: str, help: str, others: tuple[str, ...], kind: Any) -> Parameter:
    negative = f"--no_{name}" if kind is bool and name not in FLAGS else ()
    return Parameter(
        name=(f"--{name}", *others),
        help=help,
        negative=negative,
        converter=_whole_numbers(name) if int in (kind, *get_args(kind)) else None,
        show_default=False,
        consume_multiple=True,
    )


def _whole_numbers(name: str) -> Callable[[Any, Sequence[Token]], int | tuple[int, ...]]:
    """A converter from text to one or several whole numbers, which refuses 1.5 instead of rounding it."""

    def convert(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
        for token in tokens:
            if not re.fullmatch(r"[+-]?[0-9]+", token.value):
                raise UserError(f"{name} must be a whole number, not '{token.value}'")
        values = tuple(int(token.value) for token in tokens)
        return values[0] if kind is int else values

    return convert
