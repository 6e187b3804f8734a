"""record: what a device computed is kept whole, belongs to its artifact, and is held against torch elsewhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import cli
from edgemtl.deployment import convert, recording
from edgemtl.device import record
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.quantization import weights
from tests import toy

pytest.importorskip("openvino")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the toy network with an artifact and a recording of it, made on this machine."""
    folder = toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda run, form: toy.deployed(form))
        convert.convert(folder, target="openvino", precision="fp32")
        record.record(folder / "openvino-fp32", out=folder / "here.npz", frames=2)
        yield folder


def changed(run: Path, file: Path, about: dict[str, Any] | None = None, **arrays: Any) -> Path:
    """A copy of the recording with other notes and arrays; those that are None are left out."""
    with np.load(run / "here.npz") as stored:
        kept = dict(stored)
    kept["about"] = np.array(json.dumps(json.loads(str(kept["about"])) | (about or {})))
    np.savez(file, **{name: array for name, array in (kept | arrays).items() if array is not None})
    return file


def test_a_recording_holds_frames_maps_and_their_origin(run: Path) -> None:
    recorded = record.read(run / "here.npz")
    assert recorded.frames.shape == (2, *toy.SIZE, 3) and recorded.frames.dtype == np.uint8
    assert {task: map.shape[1:] for task, map in recorded.maps.items()} == {
        "semseg": (24, 32), "depth": (24, 32), "normals": (3, 24, 32), "edge": (24, 32)
    }  # fmt: skip
    for frame, depth in zip(recorded.frames, recorded.maps["depth"]):
        np.testing.assert_allclose(depth, toy.maps(toy.deployed("fp32"), frame)["depth"], rtol=1e-5, atol=1e-5)
    assert recorded.about["how"] == "executed" and recorded.about["device"].startswith("CPU (f32")
    assert recorded.about["toolchain"]["openvino"] and recorded.about["machine"]
    assert set(recorded.about["sha256"]) == {"model.xml", "model.bin", "selftest.npz"}


def test_what_was_recorded_agrees(run: Path) -> None:
    result = recording.check_recording(run / "openvino-fp32", run / "here.npz")
    device = record.read(run / "here.npz").about["device"]
    assert result["ok"] and set(result["against"]) == {"torch", device}
    assert result["against"][device]["depth"]["max"] == 0
    assert 0 < result["tasks"]["depth"]["max"] < 1e-4
    kept = json.loads((run / "verify.json").read_text())["openvino-fp32 recorded"]
    assert kept == json.loads(json.dumps(result)) and kept["how"].startswith("recorded on ")


def test_where_nothing_can_be_written_the_result_is_printed(
    run: Path, read_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="verify.json: the file system is read-only"):
        recording.check_recording(run / "openvino-fp32", run / "here.npz")
    assert "against" in capsys.readouterr().out


def test_what_was_not_executed_says_so(run: Path, tmp_path: Path) -> None:
    file = changed(run, tmp_path / "other.npz", {"how": "evaluated", "machine": "M9"})
    assert recording.check_recording(run / "openvino-fp32", file)["how"] == "evaluated, recorded on M9"


def test_a_difference_fails_and_names_the_task(run: Path, tmp_path: Path) -> None:
    maps = record.read(run / "here.npz").maps
    file = changed(run, tmp_path / "other.npz", **{"map.depth": maps["depth"] + 0.01})
    with pytest.raises(CheckFailed, match=r"bounds of fp32 in depth against torch, depth against CPU \(f32.*\)$"):
        recording.check_recording(run / "openvino-fp32", file)
    file = changed(run, tmp_path / "other.npz", **{"map.edge": maps["edge"][:, 1:]})
    with pytest.raises(CheckFailed, match="edge was recorded as float32"):
        recording.check_recording(run / "openvino-fp32", file)


def test_a_recording_of_other_files_is_refused(run: Path, tmp_path: Path) -> None:
    file = changed(run, tmp_path / "other.npz", {"digest": "0" * 64})
    with pytest.raises(UsageError, match="recorded from other files"):
        recording.check_recording(run / "openvino-fp32", file)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"map.depth": None}, "not a map of depth"),
        ({"map.depth": np.zeros((1, 24, 32), np.float32)}, "not a map of depth"),
        ({"frames": np.zeros((2, 4, 4, 3), np.uint8)}, "has frames of shape"),
    ],
)
def test_a_recording_that_lacks_something_is_refused(
    run: Path, tmp_path: Path, arrays: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        recording.check_recording(run / "openvino-fp32", changed(run, tmp_path / "other.npz", **arrays))


@pytest.mark.parametrize("content", ["nothing", "text", "half", "npy", "strange", "pickle"])
def test_what_is_no_recording_is_refused_in_one_line(run: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.npz"
    whole = (run / "here.npz").read_bytes()
    if content == "text":
        file.write_text("hello")
    elif content == "half":
        file.write_bytes(whole[: len(whole) // 2])
    elif content == "npy":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif content == "strange":
        np.savez(file, about=np.array('{"format": 7}'), frames=np.zeros((1, 2, 2, 3), np.uint8))
    elif content == "pickle":
        np.savez(file, about=np.array([{"a": 1}], dtype=object), frames=np.zeros(3))
    with pytest.raises(UsageError, match=r"x\.npz (does not exist|is no recording)"):
        record.read(file)


def test_it_records_what_a_source_gives(run: Path, tmp_path: Path) -> None:
    import cv2

    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60, 90, 3), 40 * index, np.uint8))
    line = ["record", str(run / "openvino-fp32"), "--out", str(tmp_path / "a.npz"), "--source", str(tmp_path)]
    assert cli.main([*line, "--frames", "2"]) == 0
    frames = record.read(tmp_path / "a.npz").frames
    assert [int(frame.mean()) for frame in frames] == [0, 40]
    assert cli.main(["verify", str(run / "openvino-fp32"), "--recording", str(tmp_path / "a.npz")]) == 0


def test_an_upper_case_suffix_is_one(run: Path, tmp_path: Path) -> None:
    record.record(run / "openvino-fp32", out=tmp_path / "A.NPZ", frames=1)
    assert [file.name for file in tmp_path.iterdir()] == ["A.NPZ"] and len(record.read(tmp_path / "A.NPZ").frames) == 1


def test_a_damaged_source_gives_what_it_has(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60, 90, 3), 40 * index, np.uint8))
    (tmp_path / "1.png").write_bytes(b"no image")
    record.record(run / "openvino-fp32", out=tmp_path / "a.npz", source=str(tmp_path))
    assert [int(frame.mean()) for frame in record.read(tmp_path / "a.npz").frames] == [0, 80]
    assert "1 of 3 images could not be read: 1.png" in capsys.readouterr().err


def test_wrong_use_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a recording is a \.npz file"):
        record.record(run / "openvino-fp32", out=tmp_path / "a.txt")
    with pytest.raises(UsageError, match="frames=0"):
        record.record(run / "openvino-fp32", out=tmp_path / "a.npz", frames=0)


def test_recording_needs_no_torch(run: Path, tmp_path: Path) -> None:
    code = "import sys; from edgemtl import cli; print(cli.main(sys.argv[1:]), 'torch' in sys.modules)"
    line = ["record", str(run / "openvino-fp32"), "--out", str(tmp_path / "a.npz"), "--frames", "1"]
    ended = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "0 False", ended.stderr
