"""`edgemtl predict` and `edgemtl info`."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl import bundled, cli
from edgemtl.device.predictor import Predictor

pytest.importorskip("openvino")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.full((48, 64, 3), ord(name), np.uint8))
    return tmp_path / "in"


def test_files_by_name(fake_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["predict", str(pictures), "--out", str(out), "--model", str(fake_artifact), "--untested"]
    assert cli.main([*words, "--save", "depth,edge"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png", "a_depth.npy", "a_edge.npy", "b.png", "b_depth.npy", "b_edge.npy",
    ]  # fmt: skip
    assert "2 frames, 6 files" in capsys.readouterr().out
    frame = cv2.imread(str(pictures / "b.png"))
    assert np.array_equal(np.load(out / "b_depth.npy"), Predictor(fake_artifact)(frame)["depth"])


def test_each_task_alone_and_no_pictures(fake_artifact: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["predict", str(pictures / "a.png"), "--model", str(fake_artifact), "--untested"]
    assert cli.main([*words, "--out", str(tmp_path / "plain"), "--view", "plain"]) == 0
    assert cv2.imread(str(tmp_path / "plain" / "a_depth.png")).shape == (48, 64, 3)
    assert cli.main([*words, "--out", str(tmp_path / "n"), "--view", "none", "--save", "depth"]) == 0
    assert [path.name for path in (tmp_path / "n").iterdir()] == ["a_depth.npy"]


@pytest.mark.parametrize(
    "more, message",
    [
        (["--save", "dept"], "unknown task 'dept'; did you mean 'depth'?"),
        (["--view", "none"], "there would be nothing to write"),
        (["--model", "nyud_egde"], "unknown model 'nyud_egde'; did you mean 'nyud_edge'?"),
    ],
)
def test_wrong_use(
    more: list[str],
    message: str,
    fake_artifact: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = [] if "--model" in more else ["--model", str(fake_artifact)]
    words = ["predict", str(pictures), "--out", str(tmp_path / "out"), "--untested"]
    assert cli.main([*words, *model, *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_two_frames_of_one_name(
    fake_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [str(pictures / "a.png")] * 2
    words = ["predict", *twice, "--out", str(tmp_path / "out"), "--model", str(fake_artifact), "--untested"]
    assert cli.main(words) == 2 and "two frames are called a" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_model_by_name_or_by_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert Predictor().folder == Predictor("nyud_edge").folder == bundled.folder()
    assert cli.main(["info", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recipe"] == "nyud_edge" and said["changed"] == [] and said["selftest"]
    assert said["exact"] == said["tasks"] and said["scores"]["depth"]["rmse"] < 1
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "same bits on every processor" in out and "model card" in out and "rmse" in out
    assert cli.main(["list", "models"]) == 0 and "nyud_edge" in capsys.readouterr().out


def test_a_changed_file_is_told(fake_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(path for path in fake_artifact.iterdir() if path.name not in ("manifest.json", "selftest.npz"))
    file.write_bytes(file.read_bytes() + b"x")
    assert cli.main(["info", str(fake_artifact)]) == 2
    out, err = capsys.readouterr()
    assert f"CHANGED: {file.name}" in out and "convert it again" in err
