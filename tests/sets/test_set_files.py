"""Files are whole or not there, come back as they went, and what is no file of attar is refused in one line."""

from __future__ import annotations

import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from attar import files
from attar.errors import MissingError, UserError
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet


def example() -> SyntheticSet:
    """Two classes of three RGB images, 5x4."""
    generator = torch.Generator().manual_seed(0)
    return SyntheticSet(
        images=torch.rand(6, 3, 5, 4, generator=generator),
        labels=torch.tensor([0, 0, 0, 1, 1, 1]),
        factor=2,
        decode_type="multi",
        classes=("cat", "Ärger, „x“"),
        mean=(0.1, 0.2, 1 / 3),
        std=(0.3, 0.2, 0.1),
        source="pets",
        initial=torch.rand(6, 3, 5, 4, generator=generator),
        recipe={"condense": {"ipc": 3}, "data": {"dataset": "pets"}},
    )


# ---- writing ----


def test_the_old_file_stays_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(name: Path) -> None:
        name.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_interrupted_too(tmp_path: Path) -> None:
    def interrupt(name: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.atomically(tmp_path / "file", interrupt)
    assert os.listdir(tmp_path) == []


def test_nothing_is_seen_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    seen: list[bool] = []

    def write(name: Path) -> None:
        assert name.parent == path.parent  # a rename is atomic within one file system only
        name.write_text("new")
        seen.append(path.exists())

    files.atomically(path, write)
    assert seen == [False]
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    """Every reader sees one writer's file, and the process keeps its umask."""
    former = os.umask(0o027)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: files.write_json(tmp_path / "x.json", {"n": n}), range(200)))
    finally:
        assert os.umask(former) == 0o027
    assert 0 <= files.read_json(tmp_path / "x.json")["n"] < 200
    assert os.listdir(tmp_path) == ["x.json"]


def test_files_can_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        files.write_json(tmp_path / "x.json", {})
        set_files.save_set(tmp_path / "x.safetensors", example())
    finally:
        assert os.umask(former) == 0o027
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o640, path


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_comes_back(tmp_path: Path, value: dict[str, Any]) -> None:
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(MissingError, match=r"there is no .*x\.json"):
        files.read_json(path)
    for text, words in (("{", "cannot be read as JSON: Expecting"), ("[1]", "holds no JSON object")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            files.read_json(path)


# ---- condensed sets ----


def test_a_set_comes_back(tmp_path: Path) -> None:
    condensed = example()
    path = tmp_path / set_files.CONDENSED
    set_files.save_set(tmp_path / set_files.INITIAL, condensed.start())
    set_files.save_set(path, condensed)
    for again in (set_files.load_set(path), set_files.load_set(tmp_path)):
        for name in ("factor", "decode_type", "classes", "mean", "std", "source", "recipe"):
            assert getattr(again, name) == getattr(condensed, name), name
        assert torch.equal(again.images, condensed.images)
        assert torch.equal(again.labels, condensed.labels)
        assert again.initial is not None and condensed.initial is not None
        assert torch.equal(again.initial, condensed.initial)


def test_the_file_as_the_contract_has_it(tmp_path: Path) -> None:
    """Read with safetensors alone: two tensors, and ONE key of metadata, sorted JSON."""
    set_files.save_set(tmp_path / "x.safetensors", example())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert list(metadata) == ["attar"]
    meta = json.loads(metadata["attar"])
    assert metadata["attar"] == json.dumps(meta, sort_keys=True)
    assert set(meta) >= {"format", "factor", "decode_type", "ipc", "classes", "mean", "std", "source", "recipe"}
    assert (meta["ipc"], meta["classes"], meta["mean"]) == (3, ["cat", "Ärger, „x“"], [0.1, 0.2, 1 / 3])
    assert {name: (value.dtype, list(value.shape)) for name, value in tensors.items()} == {
        "images": (torch.float32, [6, 3, 5, 4]),
        "labels": (torch.int64, [6]),
    }


def test_images_may_be_stored_as_bytes(tmp_path: Path) -> None:
    condensed = replace(example(), initial=None)
    set_files.save_set(tmp_path / "x.safetensors", condensed)
    tensors, meta = files.load_tensors(tmp_path / "x.safetensors", "set")
    levels = (tensors["images"] * 255).round().to(torch.uint8)
    files.save_tensors(tmp_path / "x.safetensors", {**tensors, "images": levels}, "set", meta)
    again = set_files.load_set(tmp_path / "x.safetensors").images
    assert again.dtype == torch.float32
    assert torch.equal(again, levels.float() / 255)


def test_initial_images_are_only_taken_from_beside_the_condensed_ones(tmp_path: Path) -> None:
    condensed = example()
    set_files.save_set(tmp_path / "other.safetensors", condensed)
    set_files.save_set(tmp_path / set_files.INITIAL, condensed.start())
    assert set_files.load_set(tmp_path / "other.safetensors").initial is None
    set_files.save_set(tmp_path / set_files.CONDENSED, replace(condensed, images=condensed.images[:, :, :4]))
    assert set_files.load_set(tmp_path).initial is None  # of another shape


def test_a_set_never_gets_the_initial_images_of_another(tmp_path: Path) -> None:
    """Of the one before it in the folder, or of one that was copied there."""
    condensed, beside = example(), tmp_path / set_files.INITIAL
    set_files.save_set(tmp_path / set_files.CONDENSED, condensed)
    set_files.save_set(tmp_path / set_files.CONDENSED, replace(condensed, initial=None))
    assert not beside.exists() and set_files.load_set(tmp_path).initial is None
    set_files.save_set(beside, condensed.start())
    assert set_files.load_set(tmp_path).initial is None, "the set has none"
    assert condensed.initial is not None
    set_files.save_set(tmp_path / set_files.CONDENSED, condensed)
    set_files.save_set(beside, replace(condensed, images=1 - condensed.initial))
    assert set_files.load_set(tmp_path).initial is None, "the set has others"


def test_a_strange_layout_in_memory_is_stored_plainly(tmp_path: Path) -> None:
    condensed = example()
    turned = condensed.images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2).requires_grad_()
    assert not turned.is_contiguous()
    set_files.save_set(tmp_path / "x.safetensors", replace(condensed, images=turned))
    assert torch.equal(set_files.load_set(tmp_path / "x.safetensors").images, condensed.images)


# ---- what is refused ----


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        set_files.load_set(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_files_that_are_no_sets(tmp_path: Path) -> None:
    assert "there is no run folder or file" in refused(tmp_path / "none.safetensors")
    assert "no run folder, or its run is not finished" in refused(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    assert "was not written by attar" in refused(foreign)
    save_file({"weight": torch.zeros(3)}, foreign, metadata={"attar": "no JSON"})
    assert "is damaged" in refused(foreign)
    save_file({"weight": torch.zeros(3)}, foreign, metadata={"attar": "[]"})
    assert "was not written by attar" in refused(foreign)
    text = tmp_path / "text.safetensors"
    for content in (b"", b"hello", b"\x00" * 100, struct.pack("<Q", 10**15), b"PK\x03\x04" + b"x" * 50):
        text.write_bytes(content)
        assert "is damaged or no safetensors file" in refused(text)


def test_other_files_of_attar(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.save_tensors(path, {"params.a": torch.zeros(1)}, "member", {})
    assert "holds a member, not a set" in refused(path)
    files.save_tensors(path, {"images": torch.zeros(1)}, "set", {"format": 99})
    assert "has format 99; this attar reads format 1" in refused(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "x.safetensors"
    set_files.save_set(path, replace(example(), initial=None))
    return path


@given(cut=st.floats(0, 1, exclude_max=True, allow_subnormal=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_truncated_file_is_refused_wherever_it_ends(cut: float, sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(cut * len(content))])
    refused(path)


METADATA = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.lists(st.floats(width=32, allow_subnormal=False), max_size=4),
    st.just({"data": 3}),
)


@given(
    key=st.sampled_from(["factor", "decode_type", "classes", "mean", "std", "source", "recipe", "ipc", "kind"]),
    value=METADATA,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strange_metadata_is_refused_or_harmless(key: str, value: Any, sound: Path, tmp_path: Path) -> None:
    """Never another exception, and what is accepted decodes."""
    tensors, meta = files.load_tensors(sound, "set")
    path = tmp_path / "x.safetensors"
    files.save_tensors(path, tensors, "set", {**meta, key: value})
    try:
        condensed = set_files.load_set(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        images, labels = condensed.decoded()
        assert len(images) == len(labels)
        condensed.normalize(images)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": torch.rand(6, 3, 5)},
        {"images": torch.rand(5, 3, 5, 4)},
        {"images": torch.rand(6, 1, 5, 4)},
        {"images": torch.full((6, 3, 5, 4), torch.nan)},
        {"labels": torch.tensor([0, 0, 0, 1, 1, 2])},
        {"labels": torch.tensor([0, 0, 0, 1, 1, -1])},
        {"images": torch.rand(0, 3, 5, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"factor": 6},
        {"factor": 0},
        {"mean": [0.1, 0.2]},
        {"mean": ["a", "b", "c"]},
        {"classes": ["cat"]},
    ],
)
def test_parts_that_do_not_fit_each_other(changes: dict[str, Any], sound: Path, tmp_path: Path) -> None:
    tensors, meta = files.load_tensors(sound, "set")
    tensors |= {key: value for key, value in changes.items() if key in tensors}
    meta |= {key: value for key, value in changes.items() if key in meta}
    files.save_tensors(tmp_path / "x.safetensors", tensors, "set", meta)
    assert "is damaged" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("missing", ["images", "labels", "classes", "recipe"])
def test_what_a_set_needs(missing: str, sound: Path, tmp_path: Path) -> None:
    tensors, meta = files.load_tensors(sound, "set")
    tensors.pop(missing, None)
    meta.pop(missing, None)
    files.save_tensors(tmp_path / "x.safetensors", tensors, "set", meta)
    assert "is no condensed set" in refused(tmp_path / "x.safetensors")
