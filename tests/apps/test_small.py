"""The small apps, without a screen: what they come to, and what they show."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgemtl import Predictor, cli
from edgemtl.apps import compare, fog, measure
from edgemtl.device import draw, selftest
from edgemtl.device.camera import Source, open_source
from edgemtl.device.distance import distance
from edgemtl.ground.errors import UsageError
from edgemtl.records import artifact
from edgemtl.tasks import build


def source(grey: int = 128, count: int = 3) -> Source:
    def frames() -> Iterator[np.ndarray]:
        for _ in range(count):
            yield np.full((60, 80, 3), grey, np.uint8)

    return Source("test", frames(), size=(60, 80), fps=25, live=False)


def scored(folder: Path, rmse: float) -> Predictor:
    manifest = artifact.read(folder)
    artifact.write(folder, manifest.model_copy(update={"scores": {"depth": {"rmse": rmse}}}))
    return Predictor(folder)


def test_a_distance_across_a_wall() -> None:
    wall = np.full((60, 80), 2.0, np.float32)
    points = [(0.5, 0.0), (0.5, 0.999)]  # from edge to edge
    metres, off = distance(wall, points, 90.0, 0.1)
    assert metres == pytest.approx(4.0, rel=2e-3)  # 2 * 2 m * tan(45°)
    assert off == pytest.approx(0.1 * math.sqrt(2), rel=2e-3)  # each end moves along the wall as much as it is deep
    assert distance(wall, points, 90.0)[1] is None


def test_a_distance_into_the_room() -> None:
    depth = np.full((60, 80), 1.0, np.float32)
    depth[:, 41:] = 4.0
    metres, off = distance(depth, [(0.5, 0.5), (0.5, 0.52)], 60.0, 0.3)
    assert metres == pytest.approx(3.0, rel=1e-2) and off == pytest.approx(0.3 * math.sqrt(2), rel=1e-2)


def test_measure_tells_metres_and_their_error(fake_artifact: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.webm"
    found = measure.run(
        scored(fake_artifact, 0.25), source(), points=[10, 30, 69, 30], field=60, headless=True, record=film
    )
    depth = 1 + 4 * 128 / 255
    assert found.metres == pytest.approx(depth * 2 * math.tan(math.radians(30)) * 59 / 80, rel=0.02)
    assert found.off_m == pytest.approx(0.25 * math.sqrt(2) * math.tan(math.radians(30)) * 59 / 80, rel=0.03)
    with open_source(str(film)) as recorded:
        page = next(recorded)
    height, width = draw.cell((60, 80), 1)
    row = draw.BAR + draw.TITLE + round(30.5 / 60 * height)
    assert page[row, draw.GAP + width // 2].min() > 200 > page[row - 20, draw.GAP + width // 2].min()  # the white line


def test_measure_takes_clicks_and_says_what_it_does_not_know(fake_artifact: Path) -> None:
    predictor = Predictor(fake_artifact)
    view = measure.View(predictor, [], 60.0)
    frame = np.full((60, 80, 3), 128, np.uint8)
    page = view.draw(frame, predictor.maps(frame), "")
    view.click(0, 0)  # beside the picture
    assert view.points == []
    for x in (100, 300):
        view.click(x, page.shape[0] // 2)
    view.draw(frame, predictor.maps(frame), "")
    assert len(view.points) == 2 and view.metres and not view.off
    assert "nobody has measured" in view._measure(np.full((60, 80), 2.0, np.float32))
    view.click(200, 200)
    assert len(view.points) == 1


def test_fog_hides_what_is_far(fake_artifact: Path) -> None:
    predictor, shown = Predictor(fake_artifact), {}
    for grey in (10, 245):  # near and far, as the fake network has it
        view, frame = fog.View(predictor, 0.5), np.full((60, 80, 3), grey, np.uint8)
        shown[grey] = view.draw(frame, predictor.maps(frame), "")[200, 200].astype(float)
    for grey, depth in ((10, 1 + 40 / 255), (245, 1 + 980 / 255)):
        clear = math.exp(-0.5 * depth)
        assert shown[grey] == pytest.approx(grey * clear + (1 - clear) * np.array(fog.COLOUR), abs=2)
    assert view.press("+") is None and view.density == pytest.approx(0.625)
    assert fog.run(predictor, source(), density=1, headless=True).frames == 3


@pytest.fixture
def other(fake_artifact: Path, tmp_path: Path) -> Callable[[float], Path]:
    """The same artifact once more, whose depth is `far` times as far on the left half."""
    import sys

    import edgemtl.targets
    from tests.conftest import FAKE_TARGET

    def make(far: float) -> Path:
        found = Path(edgemtl.targets.__path__[-1])
        change = f"        depth = depth.copy()\n        depth[:, :16] *= {far}\n        maps ="
        (found / "fake2.py").write_text(FAKE_TARGET.replace("        maps =", change))
        sys.modules.pop("edgemtl.targets.fake2", None)
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "model.bin").write_bytes(b"nothing")
        manifest = artifact.read(fake_artifact)
        artifact.write(folder, manifest.model_copy(update={"target": "fake2", "precision": "fp32"}))
        return folder

    return make


def test_compare_marks_what_differs(
    fake_artifact: Path, other: Callable[[float], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "open_tested", lambda folder, device: Predictor(folder, device))
    predictor, folder = Predictor(fake_artifact), other(1.2)
    found = compare.run(predictor, source(), other=str(folder), headless=True)
    assert found.differing["depth"] == pytest.approx(50, abs=3)
    assert [found.differing[name] for name in ("semseg", "normals", "edge")] == [0, 0, 0]
    view = compare.View(predictor, Predictor(folder), ["semseg", "depth"])
    frame = np.full((60, 80, 3), 128, np.uint8)
    maps = predictor.maps(frame) | {f"other {n}": m for n, m in Predictor(folder).maps(frame).items()}
    assert view.press("2") is None
    page = view.draw(frame, maps, "")
    height, width = draw.cell((60, 80), 3)
    row = draw.BAR + draw.TITLE + height // 2
    left, right = page[row, draw.GAP + width // 4], page[row, draw.GAP + 3 * width // 4]
    assert tuple(left) == compare.MARK and tuple(right) == (128, 128, 128)


def test_what_differs_by_task() -> None:
    one, far = np.full((2, 2), 1.0, np.float32), np.full((2, 2), 1.04, np.float32)
    assert not build("depth").differs(one, far).any() and build("depth").differs(one, far * 1.02).all()
    up, tilted = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    up[..., 1] = 1
    for degrees, apart in ((4, False), (6, True)):
        tilted[..., 1], tilted[..., 0] = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        assert build("normals").differs(up, tilted).all() == apart
    assert build("sal").differs(one * 0.3, one * 0.45).all() and not build("sal").differs(one * 0.3, one * 0.35).any()
    assert build("human_parts").differs(np.array([[1, 2]]), np.array([[1, 3]])).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("app", "settings", "problem"),
    [
        (fog, {"density": 0}, "density=0: a number above 0"),
        (fog, {"density": "thick"}, "density=thick"),
        (measure, {"points": [1, 2, 3]}, "four numbers"),
        (measure, {"points": "here"}, "four numbers"),
        (measure, {"points": [0, 0, 99, 5]}, "outside the frame of 80x60"),
        (measure, {"field": 180}, "degrees below 170"),
        (compare, {}, "--set other=ARTIFACT"),
        (compare, {"other": "none"}, "none is not an artifact"),
    ],
)
def test_wrong_settings_are_named(fake_artifact: Path, app: object, settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        app.run(Predictor(fake_artifact), source(), headless=True, **settings)  # type: ignore[attr-defined]


def test_settings_of_an_app_by_the_command(
    fake_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80, 3), 128, np.uint8))
    line = ["demo", str(fake_artifact), "--source", str(tmp_path / "a.png"), "--headless", "--untested"]
    assert cli.main([*line, "--app", "fog", "--set", "densty=1"]) == 2
    assert "unknown setting of app fog 'densty'; did you mean 'density'?" in capsys.readouterr().err
    assert cli.main([*line, "--app", "camera", "--set", "limit=1"]) == 2
    capsys.readouterr()
    points = ["--app", "measure", "--set", "points=[10,30,69,30]", "--stats", "-"]
    assert cli.main([*line, *points]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["frames"] == 1 and summary["metres"] > 1 and summary["off_m"] is None
