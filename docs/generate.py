"""Generated: settings from the dataclasses, the verbs from their docstrings, tables of the methods' pages.

MkDocs calls the functions `on_…` (see `hooks` in mkdocs.yml).
"""

from __future__ import annotations

import csv
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from attar.cli.commands import VERBS
from attar.cli.flags import EVERYDAY, flags_of_verb
from attar.cli.flags import FLAGS as RUN_FLAGS
from attar.cli.parser import usage
from attar.data.images import HELD_OUT
from attar.settings.config import FLAGS, SECTIONS, Recipe
from attar.settings.methods import METHODS, method_layer
from attar.settings.recipes import RECIPES, overlay
from attar.settings.schema import known_settings, panels, settings_of

SEARCH = "search-from-disk.js"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
# In a page: code and tags, where no text is changed
NO_TEXT = re.compile(r"(<pre\b.*?</pre>|<code>.*?</code>|<[^>]+>)", re.S)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
WHOLE = r'<span class="whole">\g<0></span>'  # does not break after its hyphens, see extra.css
WITH_UNIT = re.compile(r"(\d) (s|ms|%|[kMG]i?B|[A-Z][a-z]{2}\.)(?!\w)")
TABLE_MARK = re.compile(r"<!-- (settings|measured) ([\w -]+) -->")

SETTINGS = """# Recipes and settings

A *recipe* is a complete configuration. Every data set has its own, any other takes `default`. A file, then flags or
keyword arguments go on top: `attar condense --recipe my.toml --lr_img 5e-3`. `attar recipes cifar10` prints one as
TOML; a run's `config.json` is a recipe too. Hyphens and underscores are the same; unknown names are refused with the
nearest valid one.
"""
RECIPES_INTRO = "What each sets differently from the defaults of the [settings](settings.md#settings).\n"
RECIPE_PAGES = {  # {page: its title and the methods of trajectories whose recipes it has}
    "recipes-data.md": ("Recipes of data sets", ()),
    "recipes-mtt.md": ("Recipes of MTT and FTD", ("mtt", "ftd")),
    "recipes-tgdd.md": ("Recipes of DATM and TGDD", ("datm", "tgdd")),
}
COMMANDS = """`attar VERB --help` says this too, and `--help-all` names all settings of a verb. What
[settings](settings.md#settings) and [flags of many verbs](commands-parts.md#flags-of-many-verbs) do is said once.
"""
COMMAND_PAGES = ("commands.md", "commands-compare.md", "commands-parts.md")
OF_MANY = ("recipe", "overwrite", "quiet", "json", "log", "save_every", "ray", "debug")  # flags


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, content in (*settings().items(), *commands().items()):
        files.append(File.generated(config, name, content=content))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the search work from disk by a script of our own, in place of the one that the theme would fetch."""
    return with_search(output, get_relative_url(SEARCH, page.url))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page of addresses that are not there."""
    return with_search(output, SEARCH)


def with_search(page: str, script: str) -> str:
    """The page with that script where the theme has its own."""
    return page.replace("https://unpkg.com/iframe-worker/shim", script)


# ---- settings ----


def settings() -> dict[str, str]:
    """An overview, a page for each section of settings, and pages of recipes: {name: page}."""
    pages, rows = {}, []
    for section, kind in SECTIONS.items():
        page, documentation = f"settings-{section}.md", inspect.getdoc(kind) or ""
        pages[page] = "\n".join([f"# Settings: {section}\n", f"{documentation}\n", *tables_of_section(section)])
        rows.append((f"[`[{section}]`]({page})", documentation.splitlines()[0], str(len(known_settings(kind)))))
    overview = [SETTINGS, "## Settings\n", *table(("section", "what it is about", "settings"), rows)]
    overview.append("What each method changes is on [its page](methods.md).\n\n## Recipes\n")
    for page, (title, _) in RECIPE_PAGES.items():
        parts, rows = [f"# {title}\n", RECIPES_INTRO], []
        for name, recipe in RECIPES.items():
            if page_of_recipe(name) == page:
                documentation = inspect.getdoc(recipe) or ""
                parts += [f"## {name}\n", f"{documentation}\n", *differences(recipe()), ""]
                rows.append((f"[`{name}`]({page}#{name})", documentation.splitlines()[0]))
        pages[page] = "\n".join(parts)
        overview += [f"### {title}\n", *table(("recipe", "for"), rows)]
    return {"settings.md": "\n".join(overview), **pages}


def page_of_recipe(name: str) -> str:
    """The page that has the recipe: that of its method of trajectories, else that of the data sets."""
    method = name.partition("-")[0]
    return next((page for page, (_, methods) in RECIPE_PAGES.items() if method in methods), next(iter(RECIPE_PAGES)))


def tables_of_section(section: str) -> list[str]:
    """Every setting of a section with its flags, default and help: a table for each panel of the command's help.

    The verbs that take most settings of a section are said once, those of the others beside their help.
    """
    kind, default = SECTIONS[section], settings_of(Recipe())[section]
    known, panel_of = known_settings(kind), panels(kind)
    verbs = {name: [verb for verb, flags in FLAGS.items() if (section, name) in flags.values()] for name in known}
    usual = max(verbs.values(), key=list(verbs.values()).count)
    lines = [f"Settings of {listed(usual)}, where nothing else is said.\n"]
    for panel in dict.fromkeys(panel_of.values()):
        rows = []
        for name in (name for name in known if panel_of[name] == panel):
            value = "" if default[name] is None else f"`{json.dumps(default[name])}`"
            where = "" if verbs[name] == usual else f" (of {listed(verbs[name])})"
            rows.append((code(f"--{name}", *known[name].names), value, f"{known[name].help}{where}"))
        lines += [f"## {panel}\n"] if len({*panel_of.values()}) > 1 else []
        lines += table(("flags", "default", "what"), rows)
    return lines


def differences(recipe: Recipe) -> list[str]:
    """What a recipe changes in the defaults, one line per section."""
    before = settings_of(Recipe())
    lines = []
    for section, values in settings_of(recipe).items():
        changed = [f"`{key} = {json.dumps(value)}`" for key, value in values.items() if value != before[section][key]]
        lines += [f"- **{section}**: {', '.join(changed)}"] if changed else []
    return lines or ["The defaults."]


def listed(verbs: list[str]) -> str:
    """Verbs as code, with commas."""
    return ", ".join(map(code, verbs))


def code(*words: str) -> str:
    """Each word as code."""
    return " ".join(f"`{word}`" for word in words)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return [*(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines), ""]


# ---- the command line ----


def commands() -> dict[str, str]:
    """A page for each group of verbs, as `attar --help` groups them: {name: page}."""
    pages = {
        name: "\n".join(
            [f"# Command line: {title[0].lower()}{title[1:]}\n", COMMANDS, *(section_of_verb(verb) for verb in verbs)]
        )
        for name, (title, verbs) in zip(COMMAND_PAGES, VERBS.items(), strict=True)
    }
    rows = []
    for name in OF_MANY:
        flag = RUN_FLAGS[name]
        verbs = [verb.__name__ for group in VERBS.values() for verb in group if flags_of_verb(verb).get(name) == flag]
        rows.append((code(f"--{name}", *flag.names), flag.help, "all" if name == "debug" else ", ".join(verbs)))
    pages[COMMAND_PAGES[-1]] += "\n".join(["\n## Flags of many verbs\n", *table(("flags", "what", "verbs"), rows)])
    return pages


def section_of_verb(verb: Callable[..., None]) -> str:
    """What a verb does, its usage and examples, and what it takes besides the flags of many verbs."""
    text, _, examples = (inspect.getdoc(verb) or "").partition("\n\nExamples\n--------\n")
    text, _, positional = text.partition("\n\nParameters\n----------\n")
    found = re.findall(r"^(\w+): .*\n((?: +.*\n?)+)", positional, re.M)
    rows = [(code(name.upper()), " ".join(what.split())) for name, what in found]
    flags, settings = flags_of_verb(verb), FLAGS.get(verb.__name__, {})
    own = {name: flag for name, flag in flags.items() if name not in OF_MANY or flag != RUN_FLAGS[name]}
    rows += [(code(f"--{name}", *flag.names), flag.help.replace("<", "&lt;")) for name, flag in own.items()]
    if settings:
        shown = [f"--{name}" for name in EVERYDAY.get(verb.__name__, settings) if name not in flags]
        more = " and more" if len(shown) < len(settings) else ""
        rows.append(("[settings](settings.md#settings)", code(*shown) + more))
    lines = [
        f"## attar {verb.__name__}",
        f"{' '.join(text.split())}\n",
        "```",
        f"Usage: {usage(verb)}",
        examples,
        "```\n",
    ]
    return "\n".join([*lines, *(table(("takes", "what"), rows) if rows else ())])


# ---- the methods' pages ----


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page of a method with its tables: the settings from their fields, what was measured from its files."""
    return TABLE_MARK.sub(lambda mark: "\n".join(TABLES[mark[1]](*mark[2].split())), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Flags stay whole, numbers beside errors and units; the fidelity page's names break at signs (see extra.css)."""
    parts = NO_TEXT.split(html)
    parts[::2] = (FLAG.sub(WHOLE, WITH_UNIT.sub("\\1\u00a0\\2", text)) for text in parts[::2])
    html = "".join(map(whole_flags, parts))
    html = html.replace(" ± ", "\u00a0±\u00a0").replace("&lt; 0", "&lt;\u00a00")
    if page.file.src_uri != "fidelity.md":
        return html
    names = re.sub(r"<code>[^<]*</code>", lambda name: re.sub(r"(::|[/._](?!code>))", r"\1<wbr>", name[0]), html)
    return f'<div class="long-names">{names}</div>'


def whole_flags(part: str) -> str:
    """A piece of code whose flags, such as --lr_img, do not break after their hyphens; other parts as they are."""
    if not part.startswith("<code>--") and not (part.startswith("<code>") and " --" in part):
        return part
    if re.fullmatch(r"<code>--[\w-]+</code>", part):
        return f'<span class="whole">{part}</span>'
    return FLAG.sub(WHOLE, part)


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
            no_effect = details.needs and (after["condense"] | after[section])[details.needs[0]] not in details.needs[1]
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
        with (path.parent / "results.jsonl").open(encoding="utf-8") as file:
            if any(json.loads(line).get("tested_on") == HELD_OUT for line in file):
                continue
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
