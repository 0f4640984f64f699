"""Generated: settings from the dataclasses, the Python reference from the docstrings, tables of the methods' pages.

MkDocs calls the functions `on_…` (see `hooks` in mkdocs.yml).
"""

from __future__ import annotations

import csv
import inspect
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

import attar
from attar.cli.flags import FLAGS as RUN_FLAGS
from attar.settings.config import FLAGS, SECTIONS, Recipe
from attar.settings.methods import METHODS, method_layer
from attar.settings.recipes import RECIPES, overlay
from attar.settings.schema import Setting, known_settings, settings_of

SEARCH = "search-from-disk.js"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TABLE_MARK = re.compile(r"<!-- (settings|measured) ([\w -]+) -->")
MAX_SIGNATURE = 100  # characters of a signature on one line

SETTINGS = """# Recipes and settings

A *recipe* is a complete configuration. Every data set has its own, any other takes `default`. A file, then flags or
keyword arguments go on top: `attar condense --recipe my.toml --lr_img 5e-3`. `attar recipes cifar10` prints one as
TOML; a run's `config.json` is a recipe too. Hyphens and underscores are the same; unknown names are refused with the
nearest valid one.
"""
API = """# Python

Everything a script needs is in `import attar`. Settings are keyword arguments with the names of the
[settings](settings.md). Input that attar cannot use raises `attar.UserError` (a `ValueError`), with the message that
the command line prints. Data are an `ImageData` or anything that `attar.load` takes; files and folders may be text.

## Follow a run

`progress=True` shows bars and messages. A callback is called after each outer iteration; where it returns `False` the
run ends, and leaves the same set and files as a run that was asked for no more iterations (`result.json` says
`stopped`). A callback that raises ends the run with its own error; a run in a folder keeps a checkpoint.

```python
def look(event: attar.Event) -> bool:
    print(event.outer, event.total, event.loss, event.accuracy)  # accuracy: after the iterations of eval_at
    event.condensed.decoded()  # the set as it is now
    return event.seconds < 60

small = attar.condense("digits", callback=look, progress=True)
```
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, content in (("settings.md", settings()), ("api.md", api()), ("notebook.md", notebook())):
        files.append(File.generated(config, name, content=content))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the search work from disk by a script of our own, in place of the one that the theme would fetch."""
    return with_search(output, get_relative_url(SEARCH, page.url))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page of addresses that are not there."""
    return with_search(output, SEARCH)


def notebook() -> str:
    """The cells of the notebook as a page."""
    cells = json.loads((Path(__file__).parent / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    kinds = [cell["cell_type"] for cell in cells]
    page = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in zip(texts, kinds, strict=True)]
    return "\n\n".join([*page, "[The notebook itself](quickstart.ipynb)"])


def with_search(page: str, script: str) -> str:
    """The page with that script where the theme has its own."""
    return page.replace("https://unpkg.com/iframe-worker/shim", script)


# ---- settings ----


def settings() -> str:
    """Recipes as what differs from the defaults; every setting with its flags, default, help and verbs."""
    parts = [SETTINGS, "## Recipes\n", "What each sets differently from the defaults below.\n"]
    for name, recipe in RECIPES.items():
        parts += [f"### {name}\n", f"{inspect.getdoc(recipe)}\n", *differences(recipe()), ""]
    parts += ["What a method changes is on [its page](methods.md).\n", "## Settings\n"]
    default = settings_of(Recipe())
    for section, kind in SECTIONS.items():
        parts += [f"### [{section}]\n", f"{inspect.getdoc(kind)}\n"]
        parts += table(
            ("flags", "default", "what", "verbs"),
            [row(section, name, details, default[section][name]) for name, details in known_settings(kind).items()],
        )
    parts += ["### How a verb runs\n", "These belong to no recipe; `attar VERB --help` lists those of a verb.\n"]
    flags = [(code(f"--{name}", *flag.names), flag.help) for name, flag in RUN_FLAGS.items()]
    return "\n".join([*parts, *table(("flags", "what"), flags)])


def differences(recipe: Recipe) -> list[str]:
    """What a recipe changes in the defaults, one line per section."""
    before = settings_of(Recipe())
    lines = []
    for section, values in settings_of(recipe).items():
        changed = [f"`{key} = {json.dumps(value)}`" for key, value in values.items() if value != before[section][key]]
        lines += [f"- **{section}**: {', '.join(changed)}"] if changed else []
    return lines or ["The defaults."]


def row(section: str, name: str, details: Setting, default: Any) -> tuple[str, ...]:
    """One setting: its flags, its default, its help and the verbs that take it."""
    verbs = [verb for verb, flags in FLAGS.items() if (section, name) in flags.values()]
    value = "" if default is None else f"`{json.dumps(default)}`"
    return code(f"--{name}", *details.names), value, details.help, ", ".join(verbs)


def code(*words: str) -> str:
    """Each word as code."""
    return " ".join(f"`{word}`" for word in words)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return [*(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines), ""]


# ---- the methods' pages ----


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page of a method with its tables: the settings from their fields, what was measured from its files."""
    return TABLE_MARK.sub(lambda mark: "\n".join(TABLES[mark[1]](*mark[2].split())), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Numbers stay beside their errors; the long names of the fidelity page break at their signs (see extra.css)."""
    html = html.replace(" ± ", "\u00a0±\u00a0").replace("&lt; 0", "&lt;\u00a00")
    if page.file.src_uri != "fidelity.md":
        return html
    names = re.sub(r"<code>[^<]*</code>", lambda name: re.sub(r"(::|[/._](?!code>))", r"\1<wbr>", name[0]), html)
    return f'<div class="long-names">{names}</div>'


def method_settings(name: str, *more: str) -> list[str]:
    """What a method changes in the recipe `fashion` at ipc 10, and `more` settings that it is about."""
    base = RECIPES["fashion"]()
    verb = "condense" if name in METHODS else "select"
    before = settings_of(base)
    after = settings_of(overlay(base, method_layer(name, base, 10))) if name in METHODS else before
    rows = []
    for section in ("condense", "data", "pool"):
        for field, details in known_settings(SECTIONS[section]).items():
            value, taken = after[section][field], (section, field) in FLAGS[verb].values()
            changed = value != before[section][field] and field != "method"
            no_effect = details.needs and after["condense"][details.needs[0]] not in details.needs[1]
            if (field in more and taken) or (changed and not no_effect):
                flag = code(f"--{field}" if taken else f"attar pretrain --{field}")
                rows.append((flag, code(value if isinstance(value, str) else json.dumps(value)), details.help))
    head = "As in the recipe `fashion` for ten images per class"
    if name in METHODS and name != "accdd":
        head += ": what differs from Acc-DD, and what the method is about"
    return [f"{head}.", "", *table(("setting", "value", "what"), rows)]


def measured(*names: str) -> list[str]:
    """The published rows of these entries on test images, from every comparison in benchmarks/results."""
    rows = []
    for path in sorted(RESULTS.glob("compare-*/table.csv")):
        comparison = path.parent.name.removeprefix("compare-")
        with path.open(encoding="utf-8", newline="") as file:
            found = [line for line in csv.DictReader(file) if line["entry"] in names]
        for line in found:
            mean, std = (100 * float(line[key]) for key in ("accuracy_mean", "accuracy_std"))
            numbers = (f"{mean:.1f} ± {std:.1f}", line["accuracy_n"], f"{float(line['seconds_median']):.3g}")
            point = list(line)[list(line).index("ipc") + 1 : list(line).index("network")]  # what a list of it varies
            settings = ", ".join(f"{key} {line[key]}" for key in point if line[key])
            rows.append((line["entry"], code(comparison), line["ipc"], settings, line["network"], *numbers))
    if not rows:
        return ["Not measured on test images yet."]
    said = (
        "Accuracy on test images in %, mean ± standard deviation over n seeds; ipc: stored images per class; "
        "seconds with the early-stage models. `attar compare benchmarks/compare/NAME.toml --jobs 2`; machine and "
        "versions: [results](../results.md)."
    )
    head = ("entry", "comparison", "ipc", "settings", "network", "accuracy, %", "n", "seconds")
    return [*table(head, rows), said]


TABLES = {"settings": method_settings, "measured": measured}

# ---- the Python reference ----


def api() -> str:
    """Every public name: functions first, then classes with their methods."""
    public = {name: getattr(attar, name) for name in attar.__all__}
    functions = [name for name, value in public.items() if not inspect.isclass(value)]
    classes = [name for name, value in public.items() if inspect.isclass(value)]
    parts = [API, "## Functions\n"]
    for name in functions:
        parts += [f"### attar.{name}\n", signature(name, public[name]), documentation(public[name])]
    parts.append("## Classes\n")
    for name in classes:
        parts += [f"### attar.{name}\n", signature(name, public[name]), documentation(public[name])]
        for method, value in members(public[name]):
            function = value.fget if isinstance(value, property) else value
            kind = "property" if isinstance(value, property) else "method"
            head = "" if kind == "property" else signature(method, function)
            parts += [f"#### {name}.{method}\n", f"*{kind}*\n", head, documentation(function)]
    return "\n".join(parts)


def members(kind: type) -> list[tuple[str, Any]]:
    """Public methods and properties that the class itself defines and describes."""
    public = [
        (name, value.__func__ if isinstance(value, staticmethod) else value)
        for name, value in vars(kind).items()
        if not name.startswith("_")
    ]
    return [
        (name, value)
        for name, value in public
        if (inspect.isfunction(value) and value.__doc__) or (isinstance(value, property) and value.__doc__)
    ]


def signature(name: str, value: Any) -> str:
    """The call as code, one argument a line where it is long."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return ""
    call = inspect.signature(value)
    text = f"{name}{call}"
    if len(text) > MAX_SIGNATURE:
        returned = "" if call.return_annotation is call.empty else f" -> {call.return_annotation}"
        text = "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments(call)), f"){returned}"])
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are kept as strings
    return f"```python\n{text}\n```\n"


def arguments(call: inspect.Signature) -> list[str]:
    """The arguments, with the signs / and * between their kinds."""
    texts: list[str] = []
    last = None
    for parameter in call.parameters.values():
        if last is parameter.POSITIONAL_ONLY and parameter.kind is not last:
            texts.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and last not in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL):
            texts.append("*")
        texts.append(str(parameter))
        last = parameter.kind
    return texts


def documentation(value: Any) -> str:
    """The docstring, with a list of its arguments and errors."""
    lines, section = [], ""
    for line in (inspect.getdoc(value) or "").splitlines():
        item = re.match(r"    ([A-Za-z]\w*(?:, \w+)*): (.*)", line)
        if line in ("Args:", "Returns:", "Raises:"):
            section = line
            lines += ["", f"**{line}**", ""]
        elif section in ("Args:", "Raises:") and item:
            lines.append(f"- {', '.join(code(name) for name in item[1].split(', '))}: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(line.strip() if section == "Returns:" else line)
        else:
            section = "" if line else section
            lines.append(line)
    return "\n".join(lines) + "\n"
