"""A script: uses settings of [condense] in every way that attar uses settings, and prints what happened, by name.

Run by tests/settings/test_new_setting.py in an empty folder, on a copy of attar to which a line was added for each.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import attar
from attar.cli.parser import main
from attar.comparison import spec
from attar.settings.config import FLAGS
from attar.settings.layers import resolve

RUN = ("condense", "-d", "digits", "--width", "0.05", "--pt_from", "1", "--model_num", "1", "--inner_loop", "1")


def call(*arguments: str) -> dict[str, Any]:
    """Exit status and output of the command line."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return {"status": status, "output": output.getvalue(), "errors": errors.getvalue()}


def in_config(folder: str, name: str) -> float:
    """The value that the configuration of a run holds."""
    value: float = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["condense"][name]
    return value


def generated_settings(path: str) -> str:
    """The pages of settings that docs/generate.py writes."""
    description = importlib.util.spec_from_file_location("generate", path)
    assert description is not None and description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    pages: dict[str, str] = module.settings()
    return "\n".join(pages.values())


def use(generate: str, name: str) -> dict[str, Any]:
    """What happens at each place that knows settings."""
    Path("mine.toml").write_text(f"{name} = 3.0\n", encoding="utf-8")
    flag = f"--{name}"
    seen: dict[str, Any] = {
        "package": attar.__file__,
        "help": call("condense", "--help-all"),
        "recipe file": getattr(resolve(FLAGS["condense"], {}, recipe="mine.toml").condense, name),
        "recipes": call("recipes", "digits"),
        "documentation": generated_settings(generate),
    }
    plan = spec.resolve({"dataset": "digits", name: [1.0, 2.0], "entry": [{"name": "a"}]})
    seen["comparison"] = [point.settings for point in plan.points]
    seen["begun"] = call(*RUN, "--niter", "1", "--out", "run", flag, "1")
    seen["resumed"] = call(*RUN, "--niter", "2", "--out", "run", flag, "2", "--resume", "auto")
    seen["resumed by name"] = call("condense", "--resume", "run", "--niter", "3", flag, "2")
    seen["config"] = in_config("run", name)
    for phase, value in (("0", "1"), ("1", "2")):
        part = ("--nclass_sub", "5", "--phase", phase, flag, value)
        seen[f"part {phase}"] = call(*RUN, "--niter", "1", *part, "--out", f"part{phase}")
    seen["merged"] = call("merge", "part0", "part1", "--out", "joined")
    return seen


if __name__ == "__main__":
    generate, *names = sys.argv[1:]
    seen = {}
    for name in names:
        os.mkdir(name)
        os.chdir(name)
        seen[name] = use(generate, name)
        os.chdir("..")
    print(json.dumps(seen))
