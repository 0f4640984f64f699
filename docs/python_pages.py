"""Generated: the Python reference from the docstrings, the notebook with its outputs. See `hooks` in mkdocs.yml."""

from __future__ import annotations

import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from textwrap import dedent
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import attar

MAX_SIGNATURE = 100  # characters of a signature on one line
MADE = ("ImageData", "SyntheticSet")  # classes that users make themselves
# What one room of attar offers another, and no user calls.
INTERNAL = (
    "check",
    "draw_index",
    "equal",
    "fetch",
    "has_learned",
    "resized",
    "rows",
    "scaled",
    "split",
    "untested",
    "whitened",
)
SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")

# {page: its title and its names}, in the order in which users need them
GROUPS = {
    "api-data.md": ("Data", ("load", "ImageData")),
    "api-condense.md": ("Condense and select", ("condense", "Event", "select")),
    "api-evaluate.md": ("Evaluate and train", ("evaluate", "Evaluation", "train")),
    "api-sets.md": ("The small set", ("SyntheticSet",)),
    "api-files.md": ("Save, load, share", ("save_set", "load_set", "export_set", "push_set")),
    "api-changes.md": ("Label, grow, join", ("label", "add", "concatenate")),
    "api-pools.md": ("Pools and comparisons", ("pretrain", "Pool", "compare")),
    "api-plugins.md": ("Your own code", ("methods", "losses", "augmentations")),
}
ERRORS = ("UserError", "MissingError")  # on the first page

API = """# Python

Everything a script needs is in `import attar`. Settings are keyword arguments with the names of the
[settings](settings.md). Input that attar cannot use raises `attar.UserError` (a `ValueError`), with the message that
the command line prints. Data are an `ImageData` or anything that `attar.load` takes; files and folders may be text.

```python
import attar

small = attar.condense("digits", ipc=1)
print(attar.evaluate(small, "digits"))
```
"""

FOLLOW = """## Follow a run

`progress=True` shows bars and messages. A callback is called after each outer iteration; where it returns `False` the
run ends, and leaves the same set and files as a run that was asked for no more iterations (`result.json` says
`stopped`). A callback that raises ends the run with its own error; a run in a folder keeps a checkpoint.

```python
def look(event: attar.Event) -> bool:
    print(event.outer, event.total, event.loss)
    print(event.accuracy)  # after the iterations of eval_at
    event.condensed.decoded()  # the set as it is now
    return event.seconds < 60

small = attar.condense("digits", callback=look, progress=True)
```
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, content in (*api().items(), ("notebook.md", notebook())):
        files.append(File.generated(config, name, content=content))
    return files


# ---- the notebook ----


def notebook() -> str:
    """The cells of the notebook and what they gave, as a page."""
    cells = json.loads((Path(__file__).parent / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown(output) for output in cell.get("outputs", ())]
    return "\n\n".join([*parts, "[The notebook itself](quickstart.ipynb)"])


def shown(output: dict[str, Any]) -> str:
    """An output of a cell: a picture, a table or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="the images by class" src="data:image/png;base64,{data["image/png"]}">'
    if "text/html" in data:
        return str(data["text/html"])
    text = data.get("text/plain", output.get("text", ""))
    return f"```text\n{text.rstrip()}\n```"


# ---- the Python reference ----


def api() -> dict[str, str]:
    """An overview of all public names, and a page for each of `GROUPS`: {name: page}."""
    overview, pages = [API], {}
    for page, (title, names) in GROUPS.items():
        overview += [f"## {title}\n", "| name | what it is |", "|---|---|"]
        parts = [f"# Python: {title[0].lower()}{title[1:]}\n"]
        for name in names:
            value = getattr(attar, name)
            summary = plain((inspect.getdoc(value) or "").partition("\n")[0])
            overview.append(f"| [`attar.{name}`]({page}#attar{name.lower()}) | {summary} |")
            parts += [f"## attar.{name}\n", *entry(name, value)]
        overview.append("")
        parts += [FOLLOW] if "Event" in names else []
        pages[page] = re.sub(r"\n{3,}", "\n\n", "\n".join(parts))
    overview.append("## Errors\n")
    for name in ERRORS:
        overview += [f"### attar.{name}\n", documentation(getattr(attar, name))]
    return {"api.md": "\n".join(overview), **pages}


def entry(name: str, value: Any) -> list[str]:
    """A function, or a class with a table of its short properties and what else users need of it."""
    if not inspect.isclass(value):
        return [signature(name, value), documentation(value)]
    found = {member: (function, call) for member, function, call in members(value)}
    texts = {member: inspect.getdoc(function) or "" for member, (function, call) in found.items() if not call}
    short = {member: " ".join(text.split()) for member, text in texts.items() if "\n\n" not in text}
    parts = [signature(name, value) if name in MADE else "", documentation(value)]
    if short:
        parts += [
            "| property | what it is |",
            "|---|---|",
            *(f"| {code(key)} | {plain(text)} |" for key, text in short.items()),
            "",
        ]
    for member, (function, call) in found.items():
        if member not in short:
            head = signature(member, function) if call else "*property*\n"
            parts += [f"### {name}.{member}\n", head, documentation(function)]
    return parts


def members(kind: type) -> list[tuple[str, Any, bool]]:
    """Name, function and whether it is called: methods and properties that users need, in the order of the class."""
    found = []
    for name, value in vars(kind).items():
        function = value
        if isinstance(value, property):
            function = value.fget
        elif isinstance(value, cached_property):
            function = value.func
        elif isinstance(value, staticmethod):
            function = value.__func__
        if inspect.isfunction(function) and function.__doc__ and not name.startswith("_") and name not in INTERNAL:
            found.append((name, function, not isinstance(value, property | cached_property)))
    return found


def signature(name: str, value: Any) -> str:
    """The call as code, one argument a line where it is long."""
    call = inspect.signature(value)
    given = [item for item in call.parameters.values() if item.name != "self"]
    call = call.replace(parameters=given)
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
    """The docstring: its arguments and errors as lists, its example, which is last, as code."""
    text, _, example = (inspect.getdoc(value) or "").partition("\n\nExample:\n")
    lines, section = [], ""
    for line in plain(text).splitlines():
        item = re.match(r"    ([A-Za-z]\w*(?:, \w+)*): (.*)", line)
        if line in SECTIONS:
            section = line
            lines += ["", f"**{line}**", ""]
        elif section != "Returns:" and section and item:
            lines.append(f"- {', '.join(code(name) for name in item[1].split(', '))}: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(line.strip() if section == "Returns:" else line)
        else:
            section = "" if line else section
            lines.append(line)
    if example:
        lines += ["", "**Example:**", "", "```python", dedent(example), "```"]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """The text without signs that Markdown would read, outside code."""
    return re.sub(r"(`[^`]*`)|[<*]", lambda sign: sign[1] or {"<": "&lt;", "*": r"\*"}[sign[0]], text)


def code(name: str) -> str:
    """As code."""
    return f"`{name}`"
