"""The page of a run written anew, or several runs side by side on one page."""

from __future__ import annotations

from pathlib import Path

from attar.data.images import ImageData
from attar.errors import MissingError, UserError, log
from attar.report import side_by_side
from attar.report.of_run import write_report
from attar.report.side_by_side import MAX_RUNS, OneOfMany
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.runs.result import describe_set
from attar.runs.run_folder import RunFolder, open_run_folder
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import recipes
from attar.settings.config import Recipe
from attar.stages.shared import RUN_ROOT, load_data
from attar.stages.show import show

SIDE_BY_SIDE = "side-by-side.html"


def report(first: str | Path, *others: str | Path, out: str | Path | None = None, progress: Progress) -> Path:
    """Write the report of a run anew, or one page of several runs.

    Args:
        first, others: run folders.
        out: the file of the page of several runs; by default `side-by-side.html` in the folder of all runs.
        progress: shows the decoding of large data.

    Returns:
        The page that was written.

    Raises:
        UserError: for one run with `out`, for too many runs or the same one twice, and for damaged files.
        MissingError: for a folder without a run, and for a run without a set.
    """
    if 1 + len(others) > MAX_RUNS:
        raise UserError(
            f"a page shows {MAX_RUNS} runs at most, not {1 + len(others)}; `attar runs` lists all in a table"
        )
    seen: set[Path] = set()
    for run in (first, *others):
        if (real := Path(run).resolve()) in seen:
            raise UserError(f"{run} is named twice; name different runs")
        seen.add(real)
    page = RUN_ROOT / SIDE_BY_SIDE if out is None else Path(out)
    page = page / SIDE_BY_SIDE if page.is_dir() else page
    if page.suffix != ".html":
        raise UserError(f"the page of several runs is an .html file or in a folder that is there, not '{out}'")
    runs = []
    for path in (first, *others):
        result = show(path).result  # raises where there is no run
        if not (Path(path) / set_files.CONDENSED).is_file():
            raise MissingError(
                f"{path} holds no set yet; where it does not run, attar condense --resume {path} goes on"
            )
        condensed = set_files.load_set(Path(path))
        head = describe_set(condensed, condensed.source, "", None)
        runs.append(OneOfMany(str(path), condensed, {**head, "accuracy": {}, **result}))
    if others:
        page.parent.mkdir(parents=True, exist_ok=True)
        side_by_side.write(page, runs)
        return page
    if out is not None:
        raise UserError(f"the report of one run is {run_folder.REPORT} in its folder; leave --out out")
    with open_run_folder(Path(first)) as folder:
        (one,) = runs
        write_report(RunFolder(folder.path), one.condensed, dict(one.result), _real_images(one.condensed, progress))
    return Path(first) / run_folder.REPORT


def _real_images(condensed: SyntheticSet, progress: Progress) -> ImageData | None:
    """The real images that the set was made from, where they are there."""
    try:
        data = load_data(recipes.overlay(Recipe(), {"data": condensed.recipe.get("data", {})}), progress)
    except UserError as error:
        log.info("the report shows no real images: %s", error)
        return None
    if condensed.fingerprint and data.fingerprint != condensed.fingerprint:
        log.warning("the report shows no real images: %s is not what the set was made from", data.name)
        return None
    return data
