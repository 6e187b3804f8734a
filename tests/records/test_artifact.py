"""Artifacts: what was edited, cut short or lost is refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgemtl import tasks
from edgemtl.ground.errors import UsageError
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(b"weights" * 1000)
    made = Manifest(
        recipe="nyud_edge",
        target="openvino",
        precision="int8",
        size=(240, 320),
        map_stride=2,
        tasks={"semseg": tasks.build("semseg", {"classes": ["wall", "floor"]}), "depth": tasks.build("depth")},
        files=artifact.describe(tmp_path, ["model.bin"]),
        weights_sha256="0" * 64,
        toolchain={"openvino": "1"},
        scores={"depth": {"rmse": 0.7}},
    )
    artifact.write(tmp_path, made)
    return tmp_path


def edit(folder: Path, change: dict[str, Any]) -> None:
    path = folder / artifact.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_what_was_written_is_read_back(folder: Path) -> None:
    manifest = artifact.read(folder)
    assert manifest.size == (240, 320)
    assert manifest.tasks["semseg"].classes == ("wall", "floor")  # type: ignore[attr-defined]
    assert manifest.files["model.bin"].bytes == 7000
    assert manifest.scores == {"depth": {"rmse": 0.7}}


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an artifact"):
        artifact.read(tmp_path)


def test_a_changed_file_is_refused(folder: Path) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[3000] ^= 1
    (folder / "model.bin").write_bytes(content)
    with pytest.raises(UsageError, match="model.bin was changed"):
        artifact.read(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-1])
    with pytest.raises(UsageError, match="model.bin was changed"):
        artifact.read(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "model.bin").unlink()
    with pytest.raises(UsageError, match="model.bin is missing"):
        artifact.read(folder)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_manifest_is_refused(folder: Path, share: float) -> None:
    text = (folder / artifact.FILE).read_text()
    (folder / artifact.FILE).write_text(text[: int(share * len(text))])
    with pytest.raises(UsageError, match="manifest.json is not valid JSON"):
        artifact.read(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"schema_version": None}, "schema version None"),
        ({"size": [240]}, "size"),
        ({"size": "big"}, "size.*'big'"),
        ({"map_stride": "two"}, "map_stride='two'"),
        ({"tasks": {"depht": {}}}, "depht"),
        ({"tasks": {"depth": {"near": 1}}}, "near"),
        ({"tasks": 3}, "tasks"),
        ({"tasks": {"depth": 3}}, "depth"),
        ({"files": {"model.bin": {}}}, "sha256"),
        ({"files": None}, "files"),
        ({"comment": "by hand"}, "comment='by hand'"),
    ],
)
def test_a_manifest_edited_by_hand_is_one_clear_line(folder: Path, change: dict[str, Any], message: str) -> None:
    edit(folder, change)
    with pytest.raises(UsageError, match=message) as caught:
        artifact.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / artifact.FILE).write_text(text)
    with pytest.raises(UsageError, match="schema version None"):
        artifact.read(folder)


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"x")
    edit(
        folder,
        {"files": {"../outside.bin": artifact.describe(folder.parent, ["outside.bin"])["outside.bin"].model_dump()}},
    )
    with pytest.raises(UsageError, match="outside.bin is missing"):
        artifact.read(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside.bin", "package/../../outside.bin", "package/../model.bin", "./model.bin", "package//deep.bin"],
)
def test_a_file_in_a_folder_is_checked_and_no_other_way_leads_to_one(folder: Path, name: str) -> None:
    outside, deep = folder.parent / "outside.bin", folder / "package" / "deep.bin"
    deep.parent.mkdir()
    for file in (outside, deep):
        file.write_bytes(b"x")
    listed = artifact.describe(folder, ["package/deep.bin"])["package/deep.bin"].model_dump()
    edit(folder, {"files": {"package/deep.bin": listed}})
    assert set(artifact.read(folder).files) == {"package/deep.bin"}
    assert (folder / name).is_file()
    edit(folder, {"files": {name: artifact.describe(folder, [name])[name].model_dump()}})
    with pytest.raises(UsageError, match="is missing"):
        artifact.read(folder)
    deep.write_bytes(b"y")
    edit(folder, {"files": {"package/deep.bin": listed}})
    with pytest.raises(UsageError, match="deep.bin was changed"):
        artifact.read(folder)


def test_an_absolute_path_is_refused(folder: Path) -> None:
    for name in (str(folder / "model.bin"), "C:model.bin", "C:\\model.bin", "package\\deep.bin", ""):
        (folder / "package\\deep.bin").write_bytes(b"x")  # a plain name on Linux, a path on Windows
        edit(folder, {"files": {name: artifact.describe(folder, ["model.bin"])["model.bin"].model_dump()}})
        with pytest.raises(UsageError, match="is missing"):
            artifact.read(folder)


def test_a_missing_key_is_named(folder: Path) -> None:
    raw = json.loads((folder / artifact.FILE).read_text())
    del raw["target"]
    (folder / artifact.FILE).write_text(json.dumps(raw))
    with pytest.raises(UsageError, match="target"):
        artifact.read(folder)
