import doctest
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import edgemtl.device.predictor
from edgemtl import Predictor
from edgemtl.ground.errors import CheckFailed, UsageError


@pytest.mark.parametrize("size", [(48, 64), (120, 160), (33, 47), (1, 1)])
def test_predictions_have_the_frames_size(fake_artifact: Path, size: tuple[int, int]) -> None:
    predictions = Predictor(fake_artifact)(np.full((*size, 3), 128, np.uint8))
    assert set(predictions) == {"semseg", "depth", "normals", "edge", "human_parts", "sal"}
    assert {p.shape[:2] for p in predictions.values()} == {size}
    assert predictions["normals"].shape == (*size, 3)
    assert np.allclose(predictions["depth"], 1 + 4 * 128 / 255, atol=1e-3)
    assert (predictions["semseg"] == 1).all()


def test_left_stays_left(fake_artifact: Path) -> None:
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[:, 64:] = 255
    depth = Predictor(fake_artifact)(frame)["depth"]
    assert depth[:, :60].max() < 1.1 and depth[:, 68:].min() > 4.9


def test_maps_are_the_networks(fake_artifact: Path) -> None:
    maps = Predictor(fake_artifact).maps(np.zeros((200, 300, 3), np.uint8))
    assert maps["depth"].shape == (24, 32) and maps["normals"].shape == (3, 24, 32)


def test_what_cannot_be_right_is_never_given(unsound: tuple[Path, str]) -> None:
    folder, problem = unsound
    predictor, frame = Predictor(folder), np.full((48, 64, 3), 128, np.uint8)
    predictor(frame), predictor(frame)
    with pytest.raises(CheckFailed, match=f"^{re.escape(problem)}$"):
        predictor(frame)


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_frame_is_named(fake_artifact: Path, frame: np.ndarray, got: str) -> None:
    with pytest.raises(UsageError, match=got):
        Predictor(fake_artifact)(frame)


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an artifact"):
        Predictor(tmp_path)


def test_a_changed_file_is_refused(fake_artifact: Path) -> None:
    (fake_artifact / "model.bin").write_bytes(b"other")
    with pytest.raises(UsageError, match="changed"):
        Predictor(fake_artifact)


def test_the_example_runs(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(edgemtl.device.predictor)
    assert result.attempted >= 4 and not result.failed


def test_no_torch(fake_artifact: Path) -> None:
    import subprocess

    code = f"import sys, edgemtl; edgemtl.Predictor({str(fake_artifact)!r}); sys.exit('torch' in sys.modules)"
    root = Path(edgemtl.device.predictor.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
