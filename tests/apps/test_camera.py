import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl import Predictor, cli
from edgemtl.apps import camera
from edgemtl.device import live, play
from edgemtl.device.camera import Source, open_source
from edgemtl.ground.errors import CheckFailed, UsageError
from tests.steps import LONG_S, Steps


def frames(count: int, wait: float = 0.0) -> Iterator[np.ndarray]:
    for index in range(count):
        time.sleep(wait)
        yield np.full((60, 80, 3), index * 5 % 256, np.uint8)


def source(count: int = 8, *, live: bool = False, wait: float = 0.0) -> Source:
    return Source("test", frames(count, wait), size=(60, 80), fps=25, live=live)


def test_app_gives_run() -> None:
    assert camera.app() is camera.run


@pytest.mark.parametrize("view", ["tiles", "overlay"])
@pytest.mark.slow
def test_headless_records_every_frame(fake_artifact: Path, tmp_path: Path, view: str) -> None:
    film = tmp_path / "film.webm"
    summary = camera.run(Predictor(fake_artifact), source(), record=film, headless=True, view=view)
    assert summary.frames == 8
    assert summary.fps > 0 and 0 < summary.latency_p50_ms <= summary.latency_p95_ms
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) == 8


@pytest.mark.slow
def test_maps_that_cannot_be_right_end_it_with_the_frame_and_the_task(
    unsound: tuple[Path, str], tmp_path: Path
) -> None:
    folder, problem = unsound
    film = tmp_path / "film.webm"
    with pytest.raises(CheckFailed, match=f"^test, frame 2: {re.escape(problem)}$"):
        camera.run(Predictor(folder), source(), record=film, headless=True)
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) == 2


@pytest.mark.parametrize("view", ["tiles", "overlay"])
@pytest.mark.parametrize("size", [(3100, 100), (6000, 20), (20, 6000), (1, 1)])
@pytest.mark.slow
def test_frames_of_any_shape_are_drawn(fake_artifact: Path, tmp_path: Path, size: tuple[int, int], view: str) -> None:
    frame = (image for image in [np.zeros((*size, 3), np.uint8)])
    strange = Source("test", frame, size=size, fps=25, live=False)
    film = tmp_path / "film.mp4"
    assert camera.run(Predictor(fake_artifact), strange, record=film, headless=True, view=view).frames == 1


def test_limit_ends_an_endless_camera(fake_artifact: Path) -> None:
    endless = source(10**6, live=True, wait=0.005)
    assert camera.run(Predictor(fake_artifact), endless, headless=True, limit=5).frames == 5


def test_inference_and_drawing_overlap(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, draw = Predictor(fake_artifact), camera.View.draw
    maps, started = predictor.maps, [threading.Event() for _ in range(6)]
    inferred, drawn = iter(started), iter(started[1:])
    monkeypatch.setattr(predictor, "maps", lambda frame: (next(inferred).set(), maps(frame))[1])

    def wait_for_the_next(*args: object) -> np.ndarray:
        following = next(drawn, None)
        assert following is None or following.wait(LONG_S), "the next frame's inference waited for this one's drawing"
        return draw(*args)

    monkeypatch.setattr(camera.View, "draw", wait_for_the_next)
    assert camera.run(predictor, source(6), headless=True).frames == 6


@pytest.mark.slow
def test_latency_of_a_slow_model_is_one_frame_old(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(fake_artifact)
    maps, steps, inferred = predictor.maps, Steps(), []

    def slow(frame: np.ndarray) -> dict[str, np.ndarray]:
        inferred.append(int(frame[0, 0, 0]))
        if len(inferred) <= 8:  # a ninth may have begun when the eighth is drawn and the camera is closed
            steps.make(5)  # while it infers, the camera captures five frames
        return maps(frame)

    monkeypatch.setattr(predictor, "maps", slow)
    pictures = steps.frames(lambda index: np.full((60, 80, 3), index, np.uint8), 46)
    live = Source("test", pictures, size=(60, 80), fps=25, live=True)
    steps.make()
    assert camera.run(predictor, live, headless=True, limit=8).frames == 8
    assert inferred[:8] == [0, 5, 10, 15, 20, 25, 30, 35]  # each time the newest; from a queue it would be 0, 1, 2


@pytest.mark.slow
def test_a_lost_camera_is_named_and_the_film_kept(fake_artifact: Path, tmp_path: Path) -> None:
    def lost() -> Iterator[np.ndarray]:
        yield from frames(5, 0.05)
        raise UsageError("camera 0 stopped giving frames")

    film = tmp_path / "film.mp4"
    camera_ = Source("camera 0", lost(), size=(60, 80), fps=25, live=True)
    with pytest.raises(UsageError, match="stopped giving frames"):
        camera.run(Predictor(fake_artifact), camera_, record=film, headless=True)
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) >= 1


@pytest.mark.slow
def test_a_damaged_file_is_shown_to_its_end_and_told(
    fake_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60, 80, 3), index * 5, np.uint8))
    (tmp_path / "2.png").write_bytes(b"no image")
    film = tmp_path / "film" / "film.mp4"
    line = ["demo", str(fake_artifact), "--source", str(tmp_path), "--headless", "--record", str(film), "--untested"]
    assert cli.main(line) == 1
    said = capsys.readouterr().err
    assert "4 frames, " in said and said.endswith(": 1 of 5 images could not be read: 2.png\n")
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.slow
def test_a_signal_ends_the_run_and_completes_the_film(fake_artifact: Path, tmp_path: Path, name: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored in this process, as under nohup")
    film, sent = tmp_path / "film.mp4", []
    taken: set[float] = set()

    def stopped() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames(10**6, 0.01)):
            taken.add(endless.captured if index > 3 else 0.0)  # by then there is one
            if len(taken) > 4 and not sent:  # some frames are in the film
                sent.append(name)
                os.kill(os.getpid(), getattr(signal, name))
            yield frame

    endless = Source("camera 0", stopped(), size=(60, 80), fps=25, live=True)
    assert camera.run(Predictor(fake_artifact), endless, record=film, headless=True, limit=500).frames < 500
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) >= 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.slow
def test_a_film_does_not_replace_what_is_shown(fake_artifact: Path, tmp_path: Path) -> None:
    film, alias = tmp_path / "film.mp4", tmp_path / "alias.mp4"
    camera.run(Predictor(fake_artifact), source(), record=film, headless=True)
    alias.symlink_to(film)
    before = film.read_bytes()
    for record in (film, alias, tmp_path / ".." / tmp_path.name / "film.mp4"):
        with (
            open_source(film.as_uri()) as shown,
            pytest.raises(UsageError, match="is what is shown"),
        ):
            camera.run(Predictor(fake_artifact), shown, record=record, headless=True)
    assert film.read_bytes() == before


@pytest.mark.slow
def test_slow_and_fast_films_keep_their_time(fake_artifact: Path, tmp_path: Path) -> None:
    for fps in (0.5, 480):
        slow = Source("test", frames(10), size=(60, 80), fps=fps, live=False)
        camera.run(Predictor(fake_artifact), slow, record=tmp_path / "a.webm", headless=True)
        with open_source(str(tmp_path / "a.webm")) as recorded:
            camera.run(Predictor(fake_artifact), recorded, record=tmp_path / "b.webm", headless=True)
        with open_source(str(tmp_path / "b.webm")) as recorded:
            assert len(list(recorded)) / recorded.fps == pytest.approx(10 / fps, rel=1e-3)


def test_what_a_live_source_lost_is_told(fake_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = Source("camera 0", frames(10**6, 0.01), size=(60, 80), fps=25, live=True, lost=lambda: 7)
    camera.run(Predictor(fake_artifact), live, headless=True, limit=3)
    assert "7 frames of camera 0 could not be read" in capsys.readouterr().err


def test_an_unwritable_record_runs_none(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(fake_artifact)
    monkeypatch.setattr(predictor, "maps", lambda frame: pytest.fail("ran"))
    with pytest.raises(UsageError, match="cannot record"):
        camera.run(predictor, source(), record=tmp_path / "film.gif", headless=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display")
def test_no_display_is_said(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match="no display .*--headless"):
        camera.run(Predictor(fake_artifact), source())
    monkeypatch.setenv("DISPLAY", ":97")  # set, but nobody answers: Qt would end the process
    with pytest.raises(UsageError, match="no window .*--headless"):
        camera.run(Predictor(fake_artifact), source())


class Screen:
    """Stands for OpenCV's window: keeps what is shown, types the keys given, one for each picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: str = "") -> None:
        self.shown: list[np.ndarray] = []
        self.keys, self.visible = list(keys), 1.0
        monkeypatch.setattr(play, "no_display", lambda: None)
        for name in ("namedWindow", "resizeWindow", "destroyAllWindows", "setMouseCallback"):
            monkeypatch.setattr(cv2, name, lambda *args: None)
        monkeypatch.setattr(cv2, "imshow", self.show)
        monkeypatch.setattr(cv2, "waitKey", self.type)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: self.visible)

    def show(self, title: str, picture: np.ndarray) -> None:
        self.shown.append(picture)
        self.fresh = True

    def type(self, delay: int) -> int:
        if not self.shown or not self.keys or not self.fresh:
            return -1
        self.fresh = False
        return ord(self.keys.pop(0))


def test_q_and_closing_the_window_quit(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Screen(monkeypatch, "q")
    assert camera.run(Predictor(fake_artifact), source()).frames == 1
    Screen(monkeypatch).visible = 0.0
    assert camera.run(Predictor(fake_artifact), source()).frames == 1


def test_keys_change_the_picture(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    screen = Screen(monkeypatch, "v2s1q")
    camera.run(Predictor(fake_artifact), source(50))
    assert not screen.keys and len(screen.shown) >= 4
    (snapshot,) = tmp_path.glob("edgemtl-*.png")
    assert cv2.imread(str(snapshot)).ndim == 3


def test_digits_toggle_tiles_and_choose_the_overlay(fake_artifact: Path) -> None:
    predictor = Predictor(fake_artifact)
    view = camera.View(predictor, "tiles")
    frame = np.zeros((60, 80, 3), np.uint8)
    maps = predictor.maps(frame)
    all_tiles = view.draw(frame, maps, "").copy()
    assert not np.array_equal(view.press("2"), all_tiles) and not view.shown["depth"]
    assert np.array_equal(view.press("2"), all_tiles)
    view.press("v")
    view.press("2")
    assert (view.kind, view.selected, view.shown["depth"]) == ("overlay", "depth", True)
    assert view.press("9") is None and view.press("x") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiles", "overlay"])
def test_what_is_under_the_cursor_is_told(fake_artifact: Path, kind: str) -> None:
    view = camera.View(Predictor(fake_artifact), kind)
    assert view.point(100, 100) == ""  # nothing is shown yet
    frame = np.repeat(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    page = view.draw(frame, view.predictor.maps(frame), "")
    words = {view.point(x, y) for y in range(0, page.shape[0], 20) for x in range(0, page.shape[1], 20)}
    assert any("dark" in each for each in words) and any("bright" in each for each in words) and "" in words
    row = page.shape[0] // 4
    metres = [float(each.split(" m ")[0].split(" · ")[1]) for x in range(100, 300, 9) if (each := view.point(x, row))]
    assert len(metres) > 9 and metres == sorted(metres) and metres[-1] > metres[0] + 0.5


def test_r_records_and_completes_the_film(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Screen(monkeypatch, "rxxxrq")  # x means nothing: another frame is shown
    camera.run(Predictor(fake_artifact), source(50))
    (film,) = tmp_path.glob("edgemtl-*.mp4")
    with open_source(str(film)) as recorded:
        assert len(list(recorded)) >= 1


@pytest.mark.slow
def test_a_pause_ends_where_it_began(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    typed = iter([-1, ord(" "), *[-1] * 10, ord(" ")])
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(typed, -1) if screen.shown else -1)
    assert camera.run(Predictor(fake_artifact), source()).frames == 8
    assert next(typed, None) is None


def test_the_clock_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 10.1, 99.0, 99.1])
    monkeypatch.setattr(live.time, "perf_counter", lambda: next(now))
    clock = live.Clock()
    assert clock.reading() == "" and clock.summary() == live.Summary(0, 0.0, 0.0, 0.0)
    clock.shown(captured=9.95)
    clock.shown(captured=10.05)
    clock.pause()
    clock.shown(captured=10.15)
    clock.shown(captured=99.05)
    summary = clock.summary()
    assert summary.frames == 4
    assert (summary.fps, summary.latency_p50_ms, summary.latency_p95_ms) == pytest.approx((10, 50, 50))
    assert clock.reading() == "10.0 fps · latency 50 ms"
