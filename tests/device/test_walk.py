"""The film of a walk: a file that plays, a path that is smooth and free, and a picture that does not flicker."""

import sys
from pathlib import Path

import numpy as np
import pytest

from edgemtl.device.camera import open_source
from edgemtl.ground.errors import UsageError

pytest.importorskip("embreex", reason="scenes needs embreex")
walk = pytest.importorskip("edgemtl.device.walk")
SIZE = (48, 64)


@pytest.fixture(scope="module")
def plan() -> "walk.Walk":
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "ROOMS", 4)
        patch.setattr(walk, "PATHS", 60)
        return walk.plan(0, 40, SIZE)


@pytest.mark.slow
def test_a_clip_plays(plan: "walk.Walk", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "plan", lambda seed, frames, size: plan._replace(cameras=plan.cameras[:frames]))
    walk.walk(tmp_path / "clip.webm", frames=5, size=SIZE, fps=10, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.webm"]
    with open_source(str(tmp_path / "clip.webm")) as source:
        frames = list(source)
    assert len(frames) == 5 and source.fps == 10
    drawn = walk._frame(0, plan.room, 4, plan.cameras[4])
    assert frames[4].shape == (*SIZE, 3) and np.abs(frames[4].astype(int) - drawn).mean() < 25


def test_the_path_is_smooth_and_free(plan: "walk.Walk") -> None:
    space = walk._tracer(0, plan.room).room
    places = np.array([camera.place for camera in plan.cameras])
    assert len(places) == 40 and not walk._crowded(space, places)
    steps = np.diff(places, axis=0)
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 0.25 * np.linalg.norm(steps, axis=1).max()
    for camera in plan.cameras:
        assert np.allclose(camera.rotation.T @ camera.rotation, np.eye(3)) and abs(camera.rotation[2, 0]) < 1e-9
        rays = camera.rays()[::4, ::4].reshape(-1, 3) @ camera.rotation.T
        assert walk._tracer(0, plan.room).cast(camera.place, rays).depth.min() > 0.4


def test_a_crowded_place_is_seen(plan: "walk.Walk") -> None:
    space = walk._tracer(0, plan.room).room
    x0, y0, x1, y1 = space.footprints[0]
    assert walk._crowded(space, np.array([[(x0 + x1) / 2, (y0 + y1) / 2, 1.5]]))
    assert walk._crowded(space, np.array([[0.1, space.size[1] / 2, 1.5]]))


def test_only_the_noise_differs_between_frames(plan: "walk.Walk") -> None:
    first, second, again = (walk._frame(0, plan.room, i, plan.cameras[7]).astype(int) for i in (1, 2, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    assert np.abs(first.mean((0, 1)) - second.mean((0, 1))).max() < 0.3
    assert np.abs(first - second).max() < 50


def test_brightness_changes_slowly(plan: "walk.Walk") -> None:
    means = [walk._frame(0, plan.room, i, plan.cameras[i]).mean() for i in range(10, 16)]
    assert np.abs(np.diff(means)).max() < 6


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("clip.gif", {}, "must end in"),
        ("clip.webm", {"frames": 1}, "frames=1"),
        ("clip.webm", {"size": (8, 64)}, "size of scenes"),
        ("clip.webm", {"seed": -1}, "seed of scenes"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        walk.walk(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["walk", str(tmp_path / "clip.gif"), "--size", "48x64"])
    assert walk._main() == 2
    assert capsys.readouterr().err.startswith("edgemtl: cannot record")
