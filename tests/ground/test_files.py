"""A reader never sees half a file, whatever goes wrong while it is written."""

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import pytest

from edgemtl.ground import files
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, replacing, sha256, write_json


def test_json_round_trip_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"é": [1, 2.5, None]})
    assert read_json(path) == {"é": [1, 2.5, None]}
    assert os.listdir(path.parent) == ["x.json"]


def test_the_temporary_file_keeps_the_ending(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.xml") as temporary:
        assert temporary.suffix == ".xml"
        assert temporary.parent == tmp_path
        temporary.write_text("x")


def test_an_error_midway_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="mine"), replacing(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError("mine")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(
    "number, reason",
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no write permission"), (errno.EROFS, "read-only")],
)
def test_a_full_or_closed_disk_is_one_clear_line_and_leaves_nothing(
    number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "x.json"
    path.write_text('"old"')
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UsageError, match=f"cannot write .*x.json: .*{reason}"):
        write_json(path, "new")
    assert read_json(path) == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    with (
        pytest.raises(UsageError, match="the disk is full"),
        replacing(tmp_path / "x.txt"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="no write permission"):
        write_json(tmp_path / "x.json", 1)


def test_a_file_where_a_folder_should_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", 1)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"{'a': 1}"])
def test_broken_json_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match="x.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="x.json does not exist"):
        read_json(tmp_path / "x.json")


def test_sha256_of_more_than_one_block(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, 2)], "c": {"d": "NaN", "e": None, "f": True}}
    assert files.dumps(value) == '{"a": null, "b": [1.5, null, [null, 2]], "c": {"d": "NaN", "e": null, "f": true}}'
    files.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda _: pytest.fail("no JSON"))["a"] is None


def test_a_difference_is_named_by_its_place() -> None:
    assert files.difference({"a": (1, 2)}, {"a": [1, 2]}) is None
    assert files.difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == "its a.b.1 is 2, not 3"
    assert files.difference({"a": 1, "b": 2}, {"a": 1}) == "its b is 2, not None"
    assert files.difference({}, {"a": [1]}) == "its a is None, not [1]"
