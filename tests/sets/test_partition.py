"""Parts: every class once, whatever their order; `attar merge` makes of them what a run of all classes makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

import attar
from attar import files
from attar.cli.parser import main
from attar.errors import UserError
from attar.evaluation import trained
from attar.runs import run_folder, sinks
from attar.sets import partition, set_files
from attar.sets.partition import concatenate
from attar.sets.synthetic import SyntheticSet
from attar.stages import parts as parts_
from attar.stages.parts import condense_part
from helpers.command import POOL, TINY, call

PARTS = (*TINY, "--nclass_sub", "4")
ALL = ("0", "1", "2")  # phases of the ten digits, four at a time


def a_part(labels: list[int], phase: int = 0, **changes: Any) -> SyntheticSet:
    """Two images of each class of `labels`, out of six classes."""
    n = 2 * len(labels)
    generator = Generator().manual_seed(sum(labels) + 100 * phase)
    values: dict[str, Any] = {
        "images": torch.rand(n, 1, 4, 4, generator=generator),
        "labels": torch.tensor(labels).repeat_interleave(2),
        "initial": torch.rand(n, 1, 4, 4, generator=generator),
        "factor": 2,
        "classes": tuple("abcdef"),
        "mean": (0.1,),
        "std": (0.5,),
        "source": "thing",
        "fingerprint": "0123",
        "recipe": {"condense": {"lr_img": 0.1, "nclass_sub": 2, "phase": phase}, "data": {"device": "auto"}},
    }
    return SyntheticSet(**(values | changes))


# ---- the plan ----


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_every_class_is_in_one_part(nclass: int, nclass_sub: int) -> None:
    parts = [
        partition.labels_of(nclass, nclass_sub, phase) for phase in range(partition.part_count(nclass, nclass_sub))
    ]
    assert [label for part in parts for label in part] == list(range(nclass))
    assert all(len(part) == nclass_sub for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= nclass_sub
    with pytest.raises(UserError, match=rf"phase {len(parts)} does not exist: .* are phases 0\.\.{len(parts) - 1}"):
        partition.labels_of(nclass, nclass_sub, len(parts))


# ---- joining ----


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)), st.integers(1, 6), st.data())
def test_parts_in_any_order_make_the_same_set(order: list[int], size: int, data: st.DataObject) -> None:
    """Also when a part's classes are not neighbours."""
    groups = [sorted(order[first : first + size]) for first in range(0, 6, size)]
    parts = [a_part(labels, phase) for phase, labels in enumerate(groups)]
    whole = concatenate(parts)
    again = concatenate(data.draw(st.permutations(parts)))
    assert whole.labels.tolist() == [label for label in range(6) for _ in range(2)]
    for part in parts:
        for label in set(part.labels.tolist()):
            for images in ("images", "initial"):
                expected = getattr(part, images)[part.labels == label]
                assert torch.equal(getattr(whole, images)[whole.labels == label], expected)
    assert torch.equal(whole.images, again.images)
    assert (
        whole.recipe
        == again.recipe
        == {"condense": {"lr_img": 0.1, "nclass_sub": 2, "phase": None, "only": []}} | {"data": {"device": "auto"}}
    )
    partition.check_whole(whole)


def test_initial_images_that_one_part_lacks() -> None:
    assert concatenate([a_part([0, 1]), a_part([2, 3], 1, initial=None)]).initial is None


def test_core_sets_of_two_kinds_are_no_parts_of_one() -> None:
    parts = [replace(a_part(labels, phase), coreset="random") for phase, labels in enumerate(([0, 1], [2, 3]))]
    whole = concatenate([replace(part, folder=Path("part")) for part in parts])
    assert (whole.coreset, whole.folder) == ("random", None)
    with pytest.raises(UserError, match="part 2 does not fit part 1: coreset is herding, not random"):
        concatenate([parts[0], replace(parts[1], coreset="herding")])


def test_one_set_is_no_list_of_parts() -> None:
    for one in ("runs/whole", Path("whole"), a_part([0, 1])):
        with pytest.raises(UserError, match="put this one in a list"):
            concatenate(one)  # type: ignore[arg-type]


SOFT = torch.full((16, 6), 1 / 6)  # of the 16 training images of a part
TEACHER = {"network": {"net_type": "convnet"}, "pool": {"models": 1, "epochs": 1}, "temperature": 4.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"soft_labels": SOFT, "teacher": TEACHER}, "the teacher's labels of the parts are not in the joined set"),
        ({"soft_labels": SOFT}, "the soft labels that were learned are not in the joined set"),
        ({"lr": 0.02}, "the learning rates that were learned with the parts are not in the joined set"),
    ],
)
def test_what_a_joined_set_lacks_is_said(changes: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture) -> None:
    parts = [a_part([0, 1]), a_part([2, 3], 1)]
    concatenate(parts)
    assert not caplog.messages
    for labelled in range(2):
        caplog.clear()
        whole = concatenate([replace(part, **(changes if i == labelled else {})) for i, part in enumerate(parts)])
        assert (whole.soft_labels, whole.teacher, whole.lr) == (None, {}, None)
        assert len(caplog.messages) == 1 and words in caplog.messages[0]
        assert ("attar label" in caplog.messages[0]) == ("lr" not in changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factor": 3}, "part 2 does not fit part 1: factor is 3, not 2"),
        ({"decode_type": "multi"}, "decode_type is multi, not single"),
        ({"classes": tuple("xyzabc")}, "classes is "),
        ({"source": "other"}, "the data set is other, not thing"),
        ({"fingerprint": "4567"}, "the fingerprint of the real images is 4567, not 0123"),
        ({"fingerprint": ""}, "the fingerprint of the real images is unknown, not 0123"),
        ({"mean": (0.0,)}, "mean is "),
        ({"std": (1.0,)}, "std is "),
        ({"images": torch.zeros(4, 1, 5, 5)}, "the image shape is "),
        ({"labels": torch.tensor([2, 2, 2, 3])}, "ipc is 3, not 2"),
        ({"labels": torch.tensor([2, 2, 3, 1])}, "the number of images per class is "),
        ({"labels": torch.tensor([3, 3, 1, 1])}, "class 'b' is in both part 1 and part 2"),
        ({"recipe": {}}, "lr_img is unknown, not 0.1"),
        ({"recipe": {"condense": {"lr_img": 0.2, "nclass_sub": 2}}}, "lr_img is 0.2, not 0.1"),
        ({"recipe": {"condense": {"lr_img": 0.1, "nclass_sub": 3}}}, "nclass_sub is 3, not 2"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        concatenate([a_part([0, 1]), replace(a_part([2, 3], 1), **changes)])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_a_part_was_made_does_not_matter() -> None:
    other = a_part([2, 3], 1)
    moved = {"data": {"device": "cuda", "data_dir": "/there"}, "evaluate": {"runs": 7}}
    moved["condense"] = other.recipe["condense"] | {"memory_gb": 2.0}
    concatenate([a_part([0, 1]), replace(other, recipe=moved)])


def test_a_message_lists_a_few_misfits() -> None:
    parts = [a_part([0])] + [a_part([label], label, factor=3) for label in range(1, 6)]
    with pytest.raises(UserError, match=r"part 2 does not .*; part 3 does not .*; part 4 does not [^;]*; 2 more$"):
        concatenate(parts)
    with pytest.raises(UserError, match="there are no parts to join"):
        concatenate([])


def test_classes_that_no_part_has() -> None:
    condensed = concatenate([a_part([0, 1]), a_part([4], 2)])
    assert partition.missing_labels(condensed) == [2, 3, 5]
    with pytest.raises(UserError, match=r"3 of 6 classes are in no part \('c', 'd', 'f'\); give phase 1, 2 too"):
        partition.check_whole(condensed)
    with pytest.raises(UserError, match=r"4 of 6 classes are in no part \('c', 'd', 'e', ...\); give all parts"):
        partition.check_whole(a_part([0, 1], recipe={}))


# ---- `attar merge` ----


@pytest.fixture(scope="module")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the phases part0, part1, part2, and all of them in one command, whole/. Read only."""
    root = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for phase in ALL:
            call("condense", "-d", "digits", *PARTS, "--phase", phase, "--out", f"part{phase}", "--quiet")
        call("condense", "-d", "digits", *PARTS, "--out", "whole", "--quiet")
    return root


@pytest.fixture
def here(parts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(parts_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def steps(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on standard error by a command that has to exit with status 2, in one line."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output = capsys.readouterr().err
    assert stop.value.code == 2
    assert output.startswith("attar: error: ") and output.count("\n") == 1
    return output


def test_merged_parts_are_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run folders or files, in any order: the bytes of a run of all parts, which is that of one part after another."""
    call("merge", "part2", "part0/condensed.safetensors", "part1", "--out", "merged")
    assert capsys.readouterr().out == "merged/condensed.safetensors\nnext: attar evaluate merged\n"
    for name in ("condensed.safetensors", "initial.safetensors", "images.png"):
        assert Path("merged", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert {path.name for path in Path("merged").iterdir()} == {*run_folder.FILES} - {trained.TRAINED_NETWORKS}
    condensed = attar.load_set(Path("merged"))
    assert condensed.labels.tolist() == list(range(10))
    config, result = read("merged/config.json"), read("merged/result.json")
    assert (config["condense"]["nclass_sub"], config["condense"]["phase"]) == (4, None)
    assert [part["phase"] for part in config["attar"]["parts"]] == [0, 1, 2]
    assert result["parts"] == 3 and result["inner_iterations"] == 2
    assert result["sizes"] == {"real": {"images": 1198, "bytes": 1198 * 64}, "stored": {"images": 10, "bytes": 640}}
    labels, moments = run_folder.RunFolder(Path("merged")).snapshots()
    assert labels.tolist() == list(range(10)) and [outer for outer, _ in moments] == [0, 1]
    assert torch.equal(moments[1][1], (condensed.images * 255).round().to(torch.uint8))
    for name in ("pretrain", "condense"):
        assert result["seconds"][name] == pytest.approx(
            sum(read(f"part{phase}/result.json")["seconds"][name] for phase in ALL)
        )
    assert steps("merged")[0]["loss"] == pytest.approx(sum(steps(f"part{phase}")[0]["loss"] for phase in ALL))
    call("evaluate", "merged", "--runs", "1", "--epochs", "1", "--whole_epochs", "1", "--quiet")
    assert 0 <= read("merged/result.json")["accuracy"]["convnet2"]["mean"] <= 1


def test_a_joined_run_goes_on_with_its_parts_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by condensing all of them again, which would replace the set and drop its accuracies."""
    files = [f"part{phase}/condensed.safetensors" for phase in ALL]
    for number, part in enumerate(files):
        shutil.copy(part, f"{number}.safetensors")
    for parts, more in (([f"{number}.safetensors" for number in ALL], ()), (files, ("--niter", "9"))):
        call("merge", *parts, "--out", "joined", "--overwrite")
        before = Path("joined/result.json").read_bytes()
        said = refused("condense", "--resume", "joined", *more, capsys=capsys)
        assert "joined has no parts/ to go on with; where it was merged, go on with what it was merged from" in said
        assert Path("joined/result.json").read_bytes() == before and not Path("joined/parts").exists()


def test_a_finished_merge_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again, after a kill at its very end; other parts are refused as any run is."""
    parts = [f"part{phase}" for phase in ALL]
    call("merge", *parts, "--out", "merged")
    before = {path.name: path.stat().st_mtime_ns for path in Path("merged").iterdir()}
    output = capsys.readouterr().out
    call("merge", *reversed(parts), "--out", "merged")
    assert capsys.readouterr().out == output
    assert {path.name: path.stat().st_mtime_ns for path in Path("merged").iterdir()} == before
    condensed = set_files.load_set(Path("part0"))
    set_files.save_set(Path("part0", set_files.CONDENSED), replace(condensed, images=1 - condensed.images))
    assert "already holds a run" in refused("merge", *parts, "--out", "merged", capsys=capsys)


def test_parts_resume_with_their_own_models(here: Path) -> None:
    """Not with all that the named pool has: the parts would not fit each other."""
    pool = str(next(Path("pool").iterdir()))
    call("pretrain", "-d", "digits", *POOL, "--seed", "7", "--out", pool, "--quiet")
    few = ("condense", "-d", "digits", *PARTS, "--model_path", pool, "--out", "few", "--quiet")
    call(*few)
    expected = Path("few", set_files.CONDENSED).read_bytes()
    shutil.rmtree("few/parts/1")
    for name in (run_folder.RESULT, set_files.CONDENSED):
        Path("few", name).unlink()
    call(*few, "--resume", "auto")
    assert Path("few", set_files.CONDENSED).read_bytes() == expected


def test_a_merge_as_json_and_of_parts_that_kept_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing in a part's folder is missing in the joined one, and the rest is there."""
    Path("part1", run_folder.SNAPSHOTS).unlink()
    result = read("part1/result.json")
    Path("part1/result.json").write_text(json.dumps({**result, "sizes": {"real": 3}}), encoding="utf-8")
    call("merge", "part0", "part1", "part2", "--out", "merged", "--json")
    merged = read("merged/result.json")
    assert json.loads(capsys.readouterr().out).items() >= merged.items()
    assert "sizes" not in merged and not Path("merged", run_folder.SNAPSHOTS).exists()
    assert Path("merged", run_folder.REPORT).exists()


def test_every_part_tells_its_sinks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []

    @contextmanager
    def sink(folder: Path, settings: dict[str, Any], done: int) -> Iterator[sinks.Sink]:
        def note(event: dict[str, Any]) -> None:
            if event["event"] == "step":  # there are pictures too
                events.append((str(folder), event["outer"]))

        yield note

    monkeypatch.setitem(sinks.SINKS, "tensorboard", sink)
    call("condense", "-d", "digits", *PARTS, "--out", "new", "--log", "tensorboard", "--quiet")
    assert events == [(f"new/parts/{phase}", 1) for phase in ALL]


def test_all_parts_leave_their_own_run_folders(here: Path) -> None:
    for phase in ALL:
        part = Path("whole", "parts", phase)
        assert read(f"{part}/config.json")["condense"]["phase"] == int(phase)
        assert (part / set_files.CONDENSED).read_bytes() == Path(f"part{phase}", set_files.CONDENSED).read_bytes()
        assert (part / run_folder.REPORT).exists()
    result = read("whole/result.json")
    assert result["seconds"]["condense"] > 0 and result["seconds"]["pretrain"] > 0
    call("condense", "--recipe", "whole/config.json", "--out", "again", "--quiet")
    assert Path("again", set_files.CONDENSED).read_bytes() == Path("whole", set_files.CONDENSED).read_bytes()


def test_all_parts_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that is done is taken as it is; one that is missing is condensed; then all are merged."""
    expected = Path("whole", set_files.CONDENSED).read_bytes()
    shutil.rmtree("whole/parts/1")
    for name in (run_folder.RESULT, run_folder.REPORT, set_files.CONDENSED):
        Path("whole", name).unlink()
    before = Path("whole/parts/0", set_files.CONDENSED).stat().st_mtime_ns
    assert "already holds a run" in refused("condense", "-d", "digits", *PARTS, "--out", "whole", capsys=capsys)
    call("condense", "-d", "digits", *PARTS, "--out", "whole", "--resume", "auto", "--quiet")
    assert Path("whole", set_files.CONDENSED).read_bytes() == expected
    assert Path("whole/parts/0", set_files.CONDENSED).stat().st_mtime_ns == before
    capsys.readouterr()
    call("condense", "--resume", "whole")
    output = capsys.readouterr()
    assert "whole is done: 1 outer iteration;" in output.err
    assert output.out.startswith("whole/condensed.safetensors\n")
    assert "ipc 1, and 2 is asked for" in refused(
        "condense", "-d", "digits", *PARTS, "--ipc", "2", "--out", "whole", "--resume", "auto", capsys=capsys
    )
    call("condense", "-d", "digits", *PARTS, "--seed", "1", "--out", "whole", "--overwrite", "--quiet")
    assert Path("whole", set_files.CONDENSED).read_bytes() != expected


def test_a_finished_part_of_images_at_another_scale_is_refused(tmp_path: Path) -> None:
    data = attar.load("digits", device="cpu")
    flags: dict[str, Any] = {"width": 0.05, "niter": 1, "inner_loop": 1, "nclass_sub": 5, "method": "dm"}
    attar.condense(data, folder=tmp_path / "whole", **flags)
    (tmp_path / "whole" / run_folder.RESULT).unlink()
    scaled = attar.ImageData(data.images, data.labels, mean=data.mean, std=[0.5], name="digits")
    with pytest.raises(UserError, match="parts/0 was made with another mean or std; start again with --overwrite"):
        attar.condense(scaled, folder=tmp_path / "whole", resume=True, **flags)


def test_interrupted_between_two_parts(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, condensed_parts = condense_part, []

    def once(*args: Any) -> Any:
        if condensed_parts:
            raise KeyboardInterrupt
        condensed_parts.append(real(*args))
        return condensed_parts[0]

    monkeypatch.setattr(parts_, "condense_part", once)
    with pytest.raises(SystemExit) as stop:
        main(["condense", "-d", "digits", *PARTS, "--out", "cut", "--quiet"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "attar: interrupted; attar condense --resume cut goes on\n"
    assert not Path("cut", set_files.CONDENSED).exists()
    with pytest.raises(SystemExit):  # before the first part: nothing is left in the way
        main(["condense", "-d", "digits", *PARTS, "--out", "early", "--quiet"])
    assert not Path("early").exists()
    monkeypatch.setattr(parts_, "condense_part", real)
    call("condense", "--resume", "cut", "--quiet")
    assert Path("cut", set_files.CONDENSED).read_bytes() == Path("whole", set_files.CONDENSED).read_bytes()
    assert "continued" in read("cut/config.json")["attar"]


def test_the_python_interface_joins_them_too(parts_folder: Path) -> None:
    data = attar.load("digits", device="cpu")
    flags = {"width": 0.05, "niter": 1, "inner_loop": 2, "n_data": 64, "nclass_sub": 4}
    pool = attar.pretrain(data, epochs=1, models=2, width=0.05)
    condensed = attar.condense(data, pool, **flags)  # type: ignore[arg-type]
    assert torch.equal(condensed.images, attar.load_set(parts_folder / "whole").images)
    assert condensed.recipe["condense"]["phase"] is None


def test_what_is_next_after_a_phase(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("condense", "-d", "digits", *PARTS, "--phase", "2", "--quiet")
    output = capsys.readouterr().out
    assert "next: attar merge runs/digits-ipc1-phase* --out DIR, when all parts are there" in output
    call("condense", "-d", "digits", *TINY, "--only", "3", "--out", "three", "--quiet")
    assert "next: attar merge PART... --out DIR, when all parts are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("part0 part1", "2 of 10 classes are in no part ('8', '9'); give phase 2 too"),
        ("part0 part1 part1 part2", "class '4' is in both part1 and part1"),
        ("part0 part1 nowhere", "there is no run folder or file nowhere"),
        ("part0 part1 part2 whole", "class '0' is in both part0 and whole"),
        ("part0 part1 part2 --out part0", "part0 is one of the parts; name another folder with --out"),
        ("part0 part1 wide", "wide does not fit part0: [network] width is 0.1, not 0.05"),
        ("part0 part1 damaged", "damaged or no safetensors file"),
        ("part0 part1 pool", "is no run folder, or its run is not finished"),
    ],
)
def test_parts_that_are_refused(arguments: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "wide" in arguments:
        condensed = attar.load_set(Path("part2"))
        recipe = condensed.recipe | {"network": condensed.recipe["network"] | {"width": 0.1}}
        set_files.save_set(Path("wide", set_files.CONDENSED), replace(condensed, recipe=recipe))
    if "damaged" in arguments:
        Path("damaged").mkdir()
        Path("damaged", set_files.CONDENSED).write_bytes(b"x" * 100)
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    out = [] if "--out" in arguments else ["--out", "new"]
    assert words in refused("merge", *arguments.split(), *out, capsys=capsys)
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_other_models_are_another_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read("part1/config.json")
    config["attar"]["pool"][0]["name"] = "e1-seed9-000000"
    Path("part1/config.json").write_text(json.dumps(config))
    output = refused("merge", "part0", "part1", "part2", "--out", "new", capsys=capsys)
    assert "part1 does not fit part0: it was condensed on the models ['e1-seed9-000000'" in output


@pytest.mark.parametrize("left", [(), ("metrics.jsonl", "condensed.safetensors"), ("report.html", "images.png")])
def test_an_interrupted_merge_is_repeated(left: tuple[str, ...], here: Path) -> None:
    """Nothing to tidy up by hand, and nothing else is taken for it."""
    call("merge", "part0", "part1", "part2", "--out", "merged")
    expected = Path("merged", set_files.CONDENSED).read_bytes()
    for name in run_folder.FILES:
        if name not in ("config.json", *left):
            Path("merged", name).unlink(missing_ok=True)
    call("merge", "part0", "part1", "part2", "--out", "merged")
    assert Path("merged", set_files.CONDENSED).read_bytes() == expected


# ---- one pool for parts that start together ----


def test_a_folder_that_cannot_be_made_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in /proc, where the system says that the folder above is not there."""
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: (self / "gone").stat())
    with pytest.raises(FileNotFoundError), files.held(tmp_path / "run"):
        pytest.fail("the folder cannot be made")


def test_parts_that_start_together_train_one_pool(tmp_path: Path) -> None:
    """Both wait while the pool's folder is taken; then the first one trains, and the other finds the models there."""
    folder = tmp_path / "pool" / "digits-convnet2-w0.05"
    command = [sys.executable, "-m", "attar", "condense", "-d", "digits", *PARTS]
    flags: dict[str, Any] = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    with files.held(folder):
        started = [subprocess.Popen([*command, "--phase", phase], cwd=tmp_path, **flags) for phase in ("0", "1")]
        for process in started:
            assert process.stderr is not None
            assert (
                process.stderr.readline() == "waiting for another attar, which is at work in pool/" + folder.name + "\n"
            )
    output = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], output
    assert sorted("2 to train" in words for words in output) == [False, True], output
    assert sum(words.count("there already") for words in output) == 2, output
    assert len(list(folder.glob("e1-*"))) == 2
    pools = [read(f"{tmp_path}/runs/digits-ipc1-phase{phase}/config.json")["attar"]["pool"] for phase in (0, 1)]
    assert pools[0] == pools[1]
