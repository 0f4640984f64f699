"""The documentation says what is there: generated pages, fidelity page, notebook, a build without warnings."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from benchmarks.publish import PAGES, between, effective, published, table
from mkdocs.config import load_config
from mkdocs.structure.files import get_files
from mkdocs.structure.pages import Page
from PIL import Image, ImageChops, ImageStat

from attar.cli.commands import VERBS
from attar.cli.flags import FLAGS as RUN_FLAGS
from attar.comparison import spec
from attar.comparison.record import settings_of_line
from attar.settings.auto import Shape
from attar.settings.choices import CORESET_NAMES
from attar.settings.config import FLAGS, SECTIONS, Recipe
from attar.settings.methods import METHODS
from attar.settings.recipes import RECIPES
from attar.settings.schema import known_settings
from benchmarks import figures
from helpers import browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METHOD_HEADINGS = [
    *("Idea", "Formula", "Picture", "Settings", "Command", "Measured", "Where paper and code differ", "Departures"),
]
OWN_DATA = {  # of those whose images fit the settings
    "ablation-emoji": Shape(channels=3, height=32, width=32, nclass=9, images=866, cpu=True),  # not held out
    "three-ten-emoji": Shape(channels=3, height=32, width=32, nclass=9, images=1083, cpu=True),
    "three-ten-digits": Shape(channels=1, height=8, width=8, nclass=10, images=1354, cpu=True),
}
SEARCH_FOR_HERDING = """new Promise((done) => {
    const field = document.querySelector("[data-md-component=search-query]");
    const found = () => [...document.querySelectorAll(".md-search-result__item h1")].map((title) => title.textContent);
    field.focus();
    field.value = "herding";
    field.dispatchEvent(new Event("keyup"));
    const since = Date.now();
    const look = () => (found().length || Date.now() - since > 20000 ? done(found()) : setTimeout(look, 50));
    look();
})"""


def resolved(dotted: str) -> Any:
    """What a name such as attar.training.pool.Pool.draw_index stands for."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"there is no {dotted}")


def test_fidelity_names_code_and_tests_that_exist() -> None:
    text = (DOCS / "fidelity.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", text, re.M)
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > 30
    for number, _, code, tests in rows:
        named = re.findall(r"`(attar\.[\w.]+)`", code)
        held = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert named and held, f"row {number} needs code and a test"
        for dotted in named:
            assert resolved(dotted) is not None
        for file, function in held:
            assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), (file, function)


def test_every_method_has_its_page() -> None:
    """All headings of the template in its order, a picture, marks that name the method; every flag is one."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md")}
    flags = {name.replace("_", "-") for names in (*FLAGS.values(), RUN_FLAGS) for name in names} | {"no-clamp"}
    for name, text in pages.items():
        assert re.findall(r"^## (.*)$", text, re.M) == METHOD_HEADINGS, name
        assert f"]({name}.png)" in text and 0 < (DOCS / "methods" / f"{name}.png").stat().st_size < 40_000
        said = re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)
        assert {flag.replace("_", "-") for flag in said} <= flags, name
        assert {*re.findall(r"--recipe ([\w-]+)", text)} <= {*RECIPES}, name
    marks = [mark.split() for text in pages.values() for mark in re.findall(r"^<!-- settings (.*) -->$", text, re.M)]
    assert sorted(mark[0] for mark in marks) == sorted([*METHODS, "coresets"])
    known = {field for verb in ("condense", "select") for _, field in FLAGS[verb].values()}
    assert {field for mark in marks for field in mark[1:]} <= known
    measured = re.findall(r"^<!-- measured (.*) -->$", "".join(pages.values()), re.M)
    assert sorted(" ".join(measured).split()) == sorted([*METHODS, *CORESET_NAMES[1:]])


def test_no_page_is_longer_than_200_lines() -> None:
    """As mkdocs gets them, the generated ones and the tables of the methods' pages too."""
    config = load_config(str(ROOT / "mkdocs.yml"))
    files = config.plugins.on_files(get_files(config), config=config)
    pages = {file.src_uri: file for file in files.documentation_pages()}
    lengths = {}
    for name, file in pages.items():
        page = Page(None, file, config)
        text = config.plugins.on_page_markdown(file.content_string, page=page, config=config, files=files)
        lengths[name] = len(text.splitlines())
    assert {"index.md", "methods/dm.md", "settings.md", "settings-condense.md", "api-sets.md", "commands.md"} < {
        *lengths
    }
    assert lengths["methods/dm.md"] > len((DOCS / "methods" / "dm.md").read_text(encoding="utf-8").splitlines())
    longer = {name for name, length in lengths.items() if length > 200}
    assert longer <= {"log.md", "log-archive.md"}, {name: lengths[name] for name in longer}


def test_the_pages_of_settings_and_of_python_have_everything_once() -> None:
    """Each recipe, setting and public name on one page of its own group; each page in the navigation."""
    import attar

    config = load_config(str(ROOT / "mkdocs.yml"))
    files = config.plugins.on_files(get_files(config), config=config)
    text = {file.src_uri: file.content_string for file in files.documentation_pages()}
    headings = [line for name, page in text.items() if name.startswith("recipes-") for line in page.splitlines()]
    assert sorted(line[3:] for line in headings if line.startswith("## ")) == sorted(RECIPES)
    for section, kind in SECTIONS.items():
        shown = re.findall(r"^\| `--(\w+)`", text[f"settings-{section}.md"], re.M)
        assert shown == [*known_settings(kind)], section
    api = [line for name, page in text.items() if name.startswith("api") for line in page.splitlines()]
    assert sorted(re.findall(r"^##+ attar\.(\w+)$", "\n".join(api), re.M)) == sorted(attar.__all__)
    assert {*text} - {*re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)} == set()


def test_published_tables_are_those_of_the_comparisons() -> None:
    """Every row of the results pages is one that `attar compare` wrote, and its spec and command are there."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    before = json.loads(json.dumps(settings_of_line(Recipe())))
    names = re.findall(r"^<!-- ([\w-]+) -->$", text, re.M)
    assert names
    for name in names:
        actual, folder = between(name).search(text), published(name)
        assert actual and actual[0].strip() == table(folder / "table.md"), f"python -m benchmarks.publish … {name}"
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row["entry"], f"{100 * float(row['accuracy_mean']):.1f}") for row in csv.DictReader(file)]
        said = re.findall(r"^\| ([^|]*?) \| .*?\| (\d+\.\d) ± ", actual[0], re.M)
        assert said == rows and len(rows) > 1
        values = tomllib.loads((ROOT / "benchmarks" / "compare" / f"{name}.toml").read_text(encoding="utf-8"))
        asked = spec.resolve(values, shape=OWN_DATA.get(name))
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        made = {  # before a setting was there, its default held
            line["cell"]: effective({section: before[section] | values for section, values in line["settings"].items()})
            for line in lines
            if "settings" in line
        }
        expected = {cell.name: json.loads(json.dumps(settings_of_line(cell.recipe))) for cell in asked.cells}
        assert made == {cell: effective(sections) for cell, sections in expected.items()}, name
        assert f"attar compare benchmarks/compare/{name}.toml" in text
    kept = {path.name.removeprefix("compare-") for path in (ROOT / "benchmarks" / "results").glob("compare-*")}
    assert kept == set(names)


def test_figures_are_those_of_the_committed_results(tmp_path: Path) -> None:
    """Pages byte by byte; pictures nearly, as their bytes differ between versions of matplotlib."""
    files = figures.shown()
    assert {"fashion-cpu-figure.png", "fashion-cpu-figure.html", "digits.png"} <= {*files}
    for file in files:
        figures.draw(tmp_path / file)
        if file.endswith(".html"):
            same = (tmp_path / file).read_bytes() == (DOCS / file).read_bytes()
        else:
            with Image.open(tmp_path / file) as drawn, Image.open(DOCS / file) as committed:
                apart = ImageChops.difference(drawn.convert("L"), committed.convert("L"))
                same = drawn.size == committed.size and ImageStat.Stat(apart).mean[0] < 0.05  # of 255
        assert same, f"python -m benchmarks.figures {Path(file).stem}"
        for row in figures.committed(Path(file).stem)[1]:
            assert row.random_real is None or row.random_epochs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder


def test_the_site_is_complete_and_asks_for_nothing(site: Path) -> None:
    """Settings, verbs and Python reference are complete; styles, scripts and pictures are the site's own."""
    import attar

    settings, recipes, api, commands = (
        "".join(path.read_text(encoding="utf-8") for path in site.glob(pattern))
        for pattern in ("settings-*.html", "recipes-*.html", "api-*.html", "commands*.html")
    )
    api += (site / "api.html").read_text(encoding="utf-8")
    flags = {flag for table in FLAGS.values() for flag in table}
    assert [flag for flag in flags if f"<code>--{flag}</code>" not in settings] == []
    assert [name for name in RECIPES if f'id="{name}"' not in recipes] == []
    assert [name for name in attar.__all__ if f'id="attar{name.lower()}"' not in api] == []
    verbs = [verb for group in VERBS.values() for verb in group]
    assert [verb.__name__ for verb in verbs if f'id="attar-{verb.__name__}"' not in commands] == []
    assert [flag for flag in RUN_FLAGS if f"<code>--{flag}</code>" not in commands] == []
    assert 'src="data:image/png' in (site / "notebook.html").read_text(encoding="utf-8")  # what the cells gave
    dm = (site / "methods" / "dm.html").read_text(encoding="utf-8")  # its settings and its published row
    assert "<code>--sweeps_per_network</code>" in dm and "80.9\u00a0±\u00a00.4" in dm and "<!--" not in dm
    accdd = (site / "methods" / "accdd.html").read_text(encoding="utf-8")
    assert "fashion-cpu-authors-ipc1<" in accdd and "ablation-fashion" not in accdd, "held-out images are no result"
    own, log = ((site / name).read_text(encoding="utf-8") for name in ("own-data.html", "log.html"))
    assert '<span class="whole"><code>--skip_bad</code></span>' in own, "a flag does not break after its hyphens"
    assert '<code>attar inspect images <span class="whole">--labels_csv</span> labels.csv</code>' in own
    assert "<td>22\u00a0Nov.</td>" in log and "\u00a0" not in "".join(re.findall(r"<pre.*?</pre>", own + log, re.S))
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=[\"']?(?:stylesheet|icon|preconnect)[^>]*href=[\"']?([^\"' >]+)", text)
        assert [address for address in loaded if re.match(r"(https?:)?//", address)] == [], page.name


@pytest.mark.skipif(browser.PROGRAM is None, reason="needs Chromium")
def test_every_page_opens_from_disk_and_the_search_finds_something(site: Path) -> None:
    """In a browser: nothing reaches the console, nothing is asked of the network."""
    with browser.opened() as page:
        for path in sorted(site.rglob("*.html")):
            if path.name == "404.html":  # served for addresses that are not there: its own are absolute
                continue
            page.open(path)
            page.run("new Promise((done) => setTimeout(done, 50))")
            assert page.complaints() == [], path.name
            assert [asked for asked in page.addresses() if not asked.startswith(("file:", "data:"))] == [], path.name
        page.open(site / "index.html")
        titles = page.run(SEARCH_FOR_HERDING)
    assert any("Choosing images" in title for title in titles), titles


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, as a kernel would; the condensed images train better than those they began as."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    said = io.StringIO()
    with redirect_stdout(said):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), names)
    result = names["result"]
    means = {kind: result[kind]["convnet2"]["mean"] for kind in ("accuracy", "initial", "random_real")}
    assert means["accuracy"] > means["initial"], means
    assert names["right"] / 599 > means["initial"], "the network that attar.train returns"
    assert "1198 images, 10 classes" in said.getvalue()
    assert list(tmp_path.iterdir()) == []
