"""The command line: builds the parser from the verbs and their flags, and turns errors into one line.

Heavy modules are imported only when a verb runs, so that `attar --help` answers at once.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from io import TextIOWrapper
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import App, CycloptsError, Group, Parameter, Token, UnknownOptionError, UnusedCliTokensError

from attar import __version__, signals
from attar.cli import commands
from attar.cli.flags import EVERYDAY, FLAGS, flags_of_verb
from attar.errors import UserError
from attar.settings.config import FLAGS as SETTINGS
from attar.settings.config import SECTIONS
from attar.settings.recipes import RECIPES
from attar.settings.schema import Setting, known_settings, panels, settings_of

EXIT_USER_ERROR = 2
HELP = "Turn an image data set into a few synthetic images per class, to train networks on instead of the whole set."
HELP_END = """Examples
attar demo
attar condense -d path/to/images --ipc 10
attar evaluate runs/images-ncfm-ipc10

`attar VERB --help` shows everyday flags and examples, `--help-all` all flags.
What no flag says comes from the data set's recipe: `attar recipes`.
--lr-img and --lr_img are the same."""
HELP_ALL = ("--help-all", "--help_all")
COMPLETION = "--install-completion"
OF_DATA = ("condense", "pretrain")  # verbs that take nothing without a flag
OTHER_WORDS = {  # for what is no verb, and what does it
    **dict.fromkeys(("resume", "continue"), "attar condense --resume RUN goes on with a run"),
    **dict.fromkeys(("distill", "distil"), "the verb is condense: attar condense -d path/to/images"),
}
MISSING = re.compile(r'Command "(\w+)" parameter "?(\w+)"? requires an argument')
CLUSTER_ADDRESS = re.compile(r"auto|local|ray://\S+|[^/\s]+:[0-9]+")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with status 0, 2 (unusable input), 130 (interrupted) or 143 (terminated)."""
    tokens = _complete(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a name or a sign that the terminal does not know ends no run
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signals.CUT.clear()
    try:
        with signals.sigterm_raises():
            _app(tokens)(tokens, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except UnusedCliTokensError as error:
        word = (error.unused_tokens or [""])[0]
        hint = f"data follow -d: attar {tokens[0]} -d {word}" if tokens[0] in OF_DATA else "--help lists the flags"
        _fail(f"unexpected argument '{word}'; {hint}")
    except CycloptsError as error:
        missing = MISSING.search(str(error))
        words = OTHER_WORDS.get(tokens[0])
        if missing:
            words = f"attar {missing[1]} needs {missing[2]}; attar {missing[1]} --help shows examples"
        if (
            tokens[0] == "inspect"
            and isinstance(error, UnknownOptionError)
            and {"-d", "--dataset"} & {token.partition("=")[0] for token in tokens}
        ):
            words = "inspect takes the data without a flag: attar inspect path/to/images"
        _fail(error.__cause__ if isinstance(error.__cause__, UserError) else words or error)
    except UserError as error:
        if "--debug" in tokens:
            raise
        _fail(error)
    except BrokenPipeError:  # who reads, as in `attar runs | head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what Python flushes at its end
        sys.exit(128 + signal.SIGPIPE)
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
        if signals.CUT or (workers is not None and workers.busy()):  # the interpreter would wait for compilers, threads
            os._exit(status)
        sys.exit(status)


def _complete(tokens: list[str]) -> list[str]:
    """Complete `--ray` without an address to `--ray=local`. The next token is an address only if it looks like one."""
    return [
        "--ray=local" if token == "--ray" and not CLUSTER_ADDRESS.fullmatch(after) else token
        for token, after in zip(tokens, (*tokens[1:], ""), strict=False)  # nothing follows no tokens
    ]


def _fail(error: object) -> None:
    print(f"attar: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


def _app(tokens: list[str]) -> App:
    """The parser. Only the verb that `tokens` name gets its flags, or all verbs where shells complete them."""
    app = App(
        name="attar",
        usage="Usage: attar VERB ...",
        help=HELP,
        help_epilogue=HELP_END,
        help_format="plaintext",
        version=__version__,
        group_parameters=Group("Flags"),
        suppress_keyboard_interrupt=False,  # `main` prints a line
        group_commands=Group("Options", sort_key=len(commands.VERBS)),
    )
    in_full = any(flag in tokens for flag in (*HELP_ALL, COMPLETION))  # shells complete what the help shows
    for place, (title, verbs) in enumerate(commands.VERBS.items()):
        group = Group(title, sort_key=place)
        for number, verb in enumerate(verbs):
            parsed = verb.__name__ in tokens or COMPLETION in tokens
            app.command(
                _verb(verb, in_full) if parsed else _named(lambda: None, verb),
                usage=f"Usage: {usage(verb)}",
                group=group,
                sort_key=number,
                help_epilogue=_examples(verb, in_full),
                help_flags=("--help", "-h", *HELP_ALL),
            )
    app.register_install_completion_command(help="Install completion of verbs and flags for your shell.")
    return app


def _named(function: Callable[..., None], verb: Callable[..., None]) -> Callable[..., None]:
    """The function with the name and the help of a verb."""
    function.__name__, function.__doc__ = verb.__name__, (inspect.getdoc(verb) or "").partition("\nExamples\n")[0]
    return function


def usage(verb: Callable[..., None]) -> str:
    """How a verb is called, such as `attar merge [OPTIONS] PART [PARTS...]`."""
    words = f"attar {verb.__name__} [OPTIONS]"
    for item in inspect.signature(verb).parameters.values():
        name = item.name.upper()
        if item.kind is item.VAR_POSITIONAL:
            words += f" [{name}...]"
        elif item.kind is item.POSITIONAL_ONLY:
            words += f" {name}" if item.default is item.empty else f" [{name}]"
    return words


def _examples(verb: Callable[..., None], in_full: bool) -> str:
    """The end of the help of a verb: its examples, and where the rest of the flags is."""
    examples = (inspect.getdoc(verb) or "").partition("\nExamples\n")[2].strip("-\n")
    more = verb.__name__ in EVERYDAY and not in_full
    return f"Examples\n{examples}" + (f"\n\nAll flags: attar {verb.__name__} --help-all" if more else "")


def _verb(function: Callable[..., None], in_full: bool) -> Callable[..., None]:
    """The function that cyclopts parses a verb with: its flags, and then those of its settings, from their fields.

    Only settings that the user gave are passed on. in_full: the help shows all flags, not the everyday ones.
    """
    name = function.__name__
    parameters = [
        item
        for item in inspect.signature(function, eval_str=True).parameters.values()
        if item.kind is inspect.Parameter.POSITIONAL_ONLY or item.kind is inspect.Parameter.VAR_POSITIONAL
    ]
    everyday = () if in_full else EVERYDAY.get(name, ())
    names = [*dict.fromkeys(panel for kind in SECTIONS.values() for panel in panels(kind).values())]
    groups = {panel: Group(panel, sort_key=names.index(panel)) for panel in names}

    def place(flag: str, panel: str) -> dict[str, Any]:
        return {"group": groups[panel]} if in_full else {"show": not everyday or flag in everyday}

    run_flags = flags_of_verb(function)
    for flag, (kind, help, short) in run_flags.items():
        default = False if kind is bool else None
        annotation: Any = kind if kind is bool else kind | None
        parameter = _parameter(flag, help, short, kind, **place(flag, "Run"))
        parameters.append(_keyword(flag, default, Annotated[annotation, parameter]))
    hints = {section: get_type_hints(kind) for section, kind in SECTIONS.items()}
    for section, field_name in dict.fromkeys(SETTINGS.get(name, {}).values()):
        if field_name == "dataset" and name == "inspect":  # it is named without a flag
            continue
        setting = known_settings(SECTIONS[section])[field_name]
        kind = hints[section][field_name]
        help, panel = _described(section, field_name, setting), panels(SECTIONS[section])[field_name]
        parameter = _parameter(field_name, help, setting.names, kind, **place(field_name, panel))
        parameters.append(_keyword(field_name, None, Annotated[kind | None, parameter]))

    parameters.sort(key=lambda item: everyday.index(item.name) if item.name in everyday else -1)

    def verb(*args: Any, **values: Any) -> None:
        flags = {flag: values.pop(flag, False if FLAGS[flag].kind is bool else None) for flag in run_flags}
        settings = {key: value for key, value in values.items() if value is not None}
        function(*args, flags=SimpleNamespace(**flags), settings=settings)

    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return _named(verb, function)


def _described(section: str, name: str, setting: Setting) -> str:
    """The help of a setting, with its choices and its default, where that is the same in all recipes."""
    missing = [choice for choice in setting.choices if choice not in setting.help]
    help = setting.help + (f": {', '.join(setting.choices)}" if missing else "")
    if "default" in setting.help or name == "dataset":
        return help
    values = [settings[section][name] for settings in _recipes()]
    same = "data" not in setting.fitted_to and all(value == values[0] for value in values)
    value = values[0] if same else "the recipe's"
    value = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    return help if value in (None, [], "") else f"{help} (default: {value})"


@cache
def _recipes() -> list[dict[str, Any]]:
    """The settings of every recipe, by section."""
    return [settings_of(make()) for make in RECIPES.values()]


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(name: str, help: str, others: tuple[str, ...], kind: Any, **place: Any) -> Parameter:
    negative = f"--no_{name}" if kind is bool and name not in FLAGS else ()
    return Parameter(
        name=(f"--{name}", *others),
        help=help,
        negative=negative,
        converter=_whole_numbers(name) if int in (kind, *get_args(kind)) else None,
        show_default=False,
        consume_multiple=True,
        **place,
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
