"""A result is a mapping that can be looked at, asked, and written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.device.predictor import Predictor, smooth_frames
from edgemtl.device.result import Result
from edgemtl.ground.errors import UsageError

SIZE = (60, 80)


@pytest.fixture
def result(fake_artifact: Path) -> Result:
    return Predictor(fake_artifact)(smooth_frames(SIZE, 1)[0])


def test_it_is_a_mapping_of_arrays(result: Result) -> None:
    assert set(result) == set(result.tasks) and len(result) == len(result.tasks)
    assert all(prediction.shape[:2] == SIZE for prediction in result.values())
    assert dict(result)["depth"] is result["depth"]
    assert "60x80" in repr(result) and "depth" in repr(result)


def test_a_pixel_has_values_and_words(result: Result) -> None:
    at = result.at(x=70, y=10)
    assert at["depth"] == pytest.approx(float(result["depth"][10, 70]))
    assert at["semseg"] == result.tasks["semseg"].class_names[result["semseg"][10, 70]]
    assert at["normals"] == pytest.approx(result["normals"][10, 70])
    assert at["edge"] == pytest.approx(float(result["edge"][10, 70]))
    json.dumps(at)  # plain values
    assert f"{at['depth']:.2f} m" in result.describe(70, 10) and str(at["semseg"]) in result.describe(70, 10)
    for x, y in ((80, 10), (70, 60), (-1, 0)):
        with pytest.raises(UsageError, match="outside the frame, which is 80 wide and 60 high"):
            result.at(x, y)


def test_what_is_not_known_is_none(result: Result) -> None:
    tasks = result.tasks
    assert tasks["depth"].value(np.float32(0)) is None
    assert tasks["normals"].value(np.zeros(3, np.float32)) is None
    assert tasks["semseg"].value(np.uint8(255)) is None


def test_the_legend_names_what_is_there(result: Result) -> None:
    there = {result.tasks["semseg"].class_names[i] for i in np.unique(result["semseg"])}
    assert {name for name, _ in result.legend["semseg"]} == there


def test_pictures(result: Result, tmp_path: Path) -> None:
    assert result.plot(view="plain", task="depth").shape == (*SIZE, 3)
    tiles, one = result.plot(), result.plot(task="depth")
    assert tiles.shape[0] > SIZE[0] and one.size < tiles.size
    assert not np.array_equal(result.plot(view="overlay", task="depth"), result.plot(view="overlay", task="semseg"))
    written = cv2.imread(str(result.save(tmp_path / "deep" / "r.png")))
    assert np.array_equal(written[..., ::-1], tiles)
    assert bytes(result._repr_png_()).startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="unknown task 'dept'; did you mean 'depth'"):
        result.plot(view="overlay", task="dept")


def test_arrays_and_summaries(result: Result, tmp_path: Path) -> None:
    assert np.array_equal(np.load(result.save(tmp_path / "d.npy", task="depth")), result["depth"])
    every = np.load(result.save(tmp_path / "all.npz"))
    assert set(every) == set(result) and np.array_equal(every["normals"], result["normals"])
    said = json.loads(result.save(tmp_path / "r.json").read_text())
    assert said["size"] == [*SIZE] and sum(said["tasks"]["semseg"].values()) == pytest.approx(100, abs=0.1)
    assert said["tasks"]["depth"]["median"] == pytest.approx(float(np.median(result["depth"])), abs=1e-3)
    with pytest.raises(UsageError, match="name one task"):
        result.save(tmp_path / "d2.npy")
    with pytest.raises(UsageError, match="unknown kind of file '.tga'"):
        result.save(tmp_path / "r.tga")
    assert not (tmp_path / "d2.npy").exists()


def test_no_window_without_a_screen(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemtl.device.result.no_display", lambda: "there is no display")
    with pytest.raises(UsageError, match=r"no display; save the picture: result.save"):
        result.show()
