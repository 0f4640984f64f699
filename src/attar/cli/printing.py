"""Prints the results of the verbs on standard output, and progress on standard error."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Flags
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from attar import models
from attar.comparison import record, tables
from attar.comparison.numbers import Row
from attar.comparison.run import as_dict
from attar.data.images import ImageData
from attar.data.load import equal_words
from attar.engine.device import compiled_code
from attar.errors import counted
from attar.evaluation import protocol, results
from attar.runs import run_folder
from attar.runs.progress import Progress
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe
from attar.stages import schedule
from attar.stages.inspect import Inspection
from attar.stages.show import Shown, is_run
from attar.training import early_stage
from attar.training.pool import Pool

MAX_CLASSES_LISTED = 20  # in the table of `inspect`
MEGABYTE = 1e6


@contextmanager
def shown_progress(flags: Flags) -> Iterator[Progress]:
    """Progress and the records of the log on standard error; with --quiet only warnings."""
    progress = Progress(quiet=getattr(flags, "quiet", False))
    with progress.listening():
        yield progress


def print_result(flags: Flags, value: dict[str, Any], print_text: Callable[[], None]) -> None:
    """Print `value` as JSON with --json, else call `print_text`."""
    if flags.json:
        print(json.dumps(value, indent=2))
    else:
        print_text()


def _console() -> Console:
    """The terminal, or a file or pipe, where a row of a table stays on one line."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=1000)


def say(text: str) -> None:
    """Print a text, on a terminal wrapped at words."""
    console = Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def print_table(title: str, table: Table) -> None:
    """Print a table below its title on one line."""
    print(title)
    _console().print(table)


def with_files(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A result for --json, with the run folder and its files."""
    names = [str(path / name) for name in run_folder.FILES if (path / name).is_file()]
    return {"run": str(path), "files": names, **result}


def print_run(flags: Flags, condensed: SyntheticSet) -> None:
    """Print where the condensed set of a run is, and the next command."""
    path = condensed.folder
    assert path is not None
    next_command = f"attar evaluate {quoted(path)}"
    if len(condensed.labels.unique()) < condensed.nclass:  # the name of a part's folder usually ends with its phase
        phase = RunFolder(path).read(run_folder.CONFIG, "condense").get("condense", {}).get("phase")
        name = str(path).removesuffix(str(phase))
        parts = f"{name}*" if name != str(path) else "PART..."
        next_command = f"attar merge {parts} --out DIR, when all parts are there"
    text = f"{path / set_files.CONDENSED}\nnext: {next_command}"
    print_result(flags, with_files(path, RunFolder(path).read(run_folder.RESULT)), lambda: print(text))


def print_pool(flags: Flags, trained: Pool, next_command: str) -> None:
    """Print how long each model was trained, its seed and its accuracy, and what takes them."""
    folder = str(file.parent) if (file := trained.members[0].file) else ""
    members = [{"name": one.name, "accuracy": one.accuracy, "settings": one.settings} for one in trained.members]

    def print_models() -> None:
        table = Table("model", "epochs", "seed", "accuracy")
        for member in trained.members:
            settings, fraction = member.settings, member.settings["fraction"]
            epochs = str(settings["epochs"]) + (f" x {fraction:g}" if fraction < 1 else "")
            table.add_row(member.name, epochs, str(settings["seed"]), early_stage.format_accuracy(member.accuracy))
        print_table(folder, table)
        print(f"next: {next_command}")

    print_result(flags, {"folder": folder, "members": members}, print_models)


def print_accuracies(result: dict[str, Any], measured: dict[str, Any], path: Path) -> None:
    """Print accuracies in percent, mean ± std over n seeds, one row per network."""
    kinds = [name for name in protocol.MEASURED if name in measured]
    stored = f"{counted(result['ipc'], 'stored image')} per class"
    title = f"{result['dataset']}, {stored}, factor {result['factor']}: accuracy on {result['tested_on']}, %"
    heads = ("network", *(protocol.MEASURED[name][0] for name in kinds))
    table = Table(*(Column(head, overflow="fold") for head in heads))
    for label in measured["accuracy"]:
        table.add_row(label, *(results.spread(measured[name][label]) for name in kinds))
    print_table(title, table)
    compared = {"protocol": result["protocol"], "drop": result.get("drop", {})} | measured
    for label in measured["accuracy"]:
        for line in results.lines(compared, label):
            say(line)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    seeds = next(iter(measured["accuracy"].values()))["n"]
    say(f"{'one seed' if seeds == 1 else f'mean ± std over {seeds} seeds'}; {seconds} on {result['device']}")
    say(f"protocol: {results.protocol_words(compared)}")
    if (report := path / run_folder.REPORT).is_file():
        print(f"report: {report}")
    if is_run(path):
        print(f"next: attar export {quoted(path)} --to imagefolder")


def quoted(path: Path | str) -> str:
    """A path as the shell takes it."""
    return shlex.quote(str(path))


def print_shown(flags: Flags, run: Shown) -> None:
    """Print what a run made, its accuracies, and the next command."""

    def print_text() -> None:
        if run.result.get("accuracy"):
            return print_accuracies(
                run.result, {key: run.result[key] for key in protocol.MEASURED if key in run.result}, run.path
            )
        print(f"{run.path}: {_about(run)}")
        if run.running:
            return print(f"it is running; its page: {run.path / run_folder.REPORT}")
        if run.stopped:
            return print(f"stopped before its end; next: attar condense --resume {quoted(run.path)}")
        if (run.path / run_folder.REPORT).is_file():
            print(f"report: {run.path / run_folder.REPORT}")
        return print(f"not evaluated yet; next: attar evaluate {quoted(run.path)}")

    print_result(flags, with_files(run.path, run.result), print_text)


def _about(run: Shown) -> str:
    """Data, images per class, method and time of a run in words."""
    condense, dataset = run.settings.get("condense", {}), run.settings.get("data", {}).get("dataset", "")
    values = {"ipc": condense.get("ipc"), "method": condense.get("method")} | run.result
    words = f"{values.get('dataset', dataset)}, {values['ipc']} per class, {values['method']}"
    return f"{words}, {_time(sum(run.result.get('seconds', {}).values()))}" if run.result else words


def print_runs(flags: Flags, runs: Sequence[Shown]) -> None:
    """Print a table of runs: data, images per class, method, accuracy of the first network, and time."""

    def print_rows() -> None:
        table = Table("run", "data, images per class, method, time", "accuracy, %", "network")
        for run in runs:
            network, entry = next(iter(run.result.get("accuracy", {}).items()), ("", None))
            learned = run.result.get("learned", {}).get(network)
            measured = ", as learned ".join(results.spread(one) for one in (entry, learned) if one)
            ended = "stopped" if run.stopped else "not evaluated" if run.result else "not finished"
            table.add_row(run.path.name, _about(run), measured or ("running" if run.running else ended), network)
        if not runs:
            return print("no runs here; next: attar condense -d DATA")
        _console().print(table)
        return print(f"next: attar show {quoted(runs[-1].path)}")

    print_result(flags, {"runs": [with_files(run.path, run.result) for run in runs]}, print_rows)


def print_labelled(flags: Flags, run: str, condensed: SyntheticSet) -> None:
    """Print what labelled a set, and what comes next."""
    about = condensed.teacher
    words = f"{run}: labelled by {about['network']['net_type']}"
    words += f", {100 * about['accuracy']:.1f} % on {about['tested_on']}"
    print_result(flags, {"run": run, "teacher": about}, lambda: print(f"{words}\nnext: attar evaluate {quoted(run)}"))


def print_trained(about: dict[str, Any], path: Path) -> None:
    """Print what was trained, its accuracy, and how its file is read."""
    tested = "not tested" if about["accuracy"] is None else f"{100 * about['accuracy']:.1f} % on {about['tested_on']}"
    trained = f"{counted(about['epochs'], 'epoch')} on {counted(about['images'], 'image')}"
    print(f"{about['network']['label']}: {tested}, after {trained}")
    print(f"{path}\nnext: network.load_state_dict(safetensors.torch.load_file({str(path)!r}))")


def print_comparison(flags: Flags, rows: Sequence[Row], path: Path) -> None:
    """Print the table of a comparison, on a narrow terminal without some columns, and where its files are."""

    def print_rows() -> None:
        for short in (False, True):
            heads, columns = zip(*tables.text_columns(rows, short=short), strict=True)
            table = Table(*map(escape, heads))
            for cells in zip(*columns, strict=True):
                table.add_row(*map(escape, cells))
            if Console(width=1000).measure(table).maximum <= _console().width:
                break
        print_table(str(path), table)
        files = f"{path / record.TABLE_MD}; open {path / record.PAGE}"
        say("; ".join(filter(None, ("accuracies in %, mean ± std over n seeds", tables.unequal(rows), files))))
        print(f"next: attar runs {quoted(path / record.CELLS_FOLDER)}")

    print_result(flags, {"folder": str(path), "rows": [as_dict(row) for row in rows]}, print_rows)


def print_inspection(inspection: Inspection) -> None:
    """Print classes, images, recipe and time, or why no time is known."""
    _print_data(inspection.data)
    print(f"picture: {inspection.picture}")
    say(inspection.fitted or _recipe_line(inspection.recipe))
    if inspection.estimate is None:
        return say(f"no estimate: {inspection.refused}")
    _print_estimate(inspection)
    ipc = inspection.recipe.condense.ipc
    return print(f"next: attar condense -d {quoted(inspection.recipe.data.dataset)} --ipc {ipc}")


def _recipe_line(recipe: Recipe) -> str:
    network, name = recipe.network, recipe.data.dataset
    label = models.label(network.net_type, network.depth, network.norm_type)
    return (
        f"recipe {name}: {label} of width {network.width:g}, factor {recipe.condense.factor}, image learning rate "
        f"{recipe.condense.lr_img:g}; `attar recipes {name}` shows all"
    )


def _print_data(data: ImageData) -> None:
    table = Table("class", "training images", "test images")
    test_counts = [0] * data.nclass
    if data.test_labels is not None:
        test_counts = data.test_labels.bincount(minlength=data.nclass).tolist()
    for name, count, test_count in list(zip(data.classes, data.counts, test_counts, strict=True))[:MAX_CLASSES_LISTED]:
        table.add_row(name, f"{count:,}", f"{test_count:,}")
    if data.nclass > MAX_CLASSES_LISTED:
        table.add_row(f"... {data.nclass - MAX_CLASSES_LISTED} more", "", "")
    table.add_row("all", f"{sum(data.counts):,}", f"{sum(test_counts):,}")
    print_table(data.name, table)
    fewest = f"{min(counts := data.counts):,} to " * (min(counts) < max(counts))
    print(f"{data.nclass} classes of {fewest}{counted(max(counts), 'training image')}")
    size, kind = sum(counts) * math.prod(data.images.shape[1:]), "grey" if data.channels == 1 else "colour"
    print(f"{kind} images of {data.size[1]}x{data.size[0]} pixels, {size / MEGABYTE:,.1f} MB for training")
    for reason, count in data.left_out.counts.items():
        print(f"not used: {reason}: {count:,}")
        for example in data.left_out.examples[reason]:
            print(f"    {example}")
    for line in equal_words(data):
        print(line)
    print(f"mean {_numbers(data.mean)}, std {_numbers(data.std)} per channel, in [0, 1]")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _print_estimate(inspection: Inspection) -> None:
    data, recipe, estimate = inspection.data, inspection.recipe, inspection.estimate
    assert estimate is not None
    count = (condense := recipe.condense).outer_iterations * condense.inner_loop
    evaluation, quick = (_time(estimate.evaluation(data, recipe, quick=quick)) for quick in (False, True))
    pool, total = _time(estimate.pool(recipe.pool)), _time(estimate.total(recipe))
    say(
        f"estimate for ipc {condense.ipc} on this machine, from {schedule.MEASURED_CALLS} iterations measured now: "
        f"pool {pool}, {counted(count, 'iteration')} of {estimate.inner:.2g} s {_time(estimate.inner * count)}; "
        f"together {total}; the evaluation {evaluation}, with --quick {quick}"
    )
    network = ", ".join(protocol.chosen_networks(recipe.evaluate, recipe.network))
    together = min(estimate.at_once, data.nclass)
    classes = "one class" if together == 1 else f"{together} classes"
    megabytes = together * inspection.class_bytes / MEGABYTE
    print(f"memory: about {megabytes:,.0f} MB for {classes} at a time with {network}, besides the images")
    folder, size = compiled_code()
    if size:
        print(f"compiled code of earlier runs: {size / MEGABYTE:,.0f} MB in {folder}; it can be removed")


def _time(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
