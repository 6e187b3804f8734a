"""A camera that is unplugged and comes back, a stream that stalls, a server that is started again."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from edgemtl.device import capture, stream
from edgemtl.device.camera import Wanted, open_source
from edgemtl.device.capture import Source
from edgemtl.device.stream import open_stream
from edgemtl.ground.errors import UsageError
from tests.steps import LONG_S

SIZE = (48, 64)


class Plugged:
    """Stands for a VideoCapture of a camera that is unplugged after some frames: `plugs` has how many each time."""

    plugs: Iterator[int]
    opened: list["Plugged"]

    def __init__(self, *where: object) -> None:
        self.left, self.released = next(self.plugs), False
        self.asked: dict[int, float] = {}
        self.opened.append(self)

    def isOpened(self) -> bool:
        return self.left > 0

    def getBackendName(self) -> str:
        return "fake"

    def get(self, what: int) -> float:
        return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

    def set(self, what: int, value: float) -> bool:
        self.asked[what] = value
        return True

    def grab(self) -> bool:
        time.sleep(0.002)
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((*SIZE, 3), len(self.opened), np.uint8)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def plugs(*counts: int) -> list[Plugged]:
        Plugged.plugs, Plugged.opened = iter([*counts, *[0] * 1000]), []
        return Plugged.opened

    monkeypatch.setattr(stream.cv2, "VideoCapture", Plugged)
    monkeypatch.setattr(stream, "RETRY_S", 0.001)
    return plugs


def test_an_unplugged_camera_comes_back_with_its_settings(plugged: Callable[..., list[Plugged]]) -> None:
    opened = plugged(3, 0, 0, 10**6)  # three frames, two tries in vain, no end of frames
    wanted = Wanted(size=(720, 1280), rate=30, wait=LONG_S)
    with open_stream("camera 0", 0, problem="", live=True, device=True, wanted=wanted) as source:
        assert any(frame[0, 0, 0] == 4 for frame in source)  # the fourth that was opened
    assert all(each.released for each in opened[:3])
    assert opened[0].asked[cv2.CAP_PROP_FRAME_WIDTH] == opened[3].asked[cv2.CAP_PROP_FRAME_WIDTH] == 1280


def test_a_camera_that_stays_away_is_given_up(plugged: Callable[..., list[Plugged]]) -> None:
    plugged(3)
    gone = pytest.raises(UsageError, match="camera 0 stopped giving frames")
    with open_stream("camera 0", 0, problem="", live=True, wanted=Wanted(wait=0.05)) as source, gone:
        list(source)


def test_closing_ends_the_waiting_for_a_camera(plugged: Callable[..., list[Plugged]]) -> None:
    plugged(1)
    source = open_stream("camera 0", 0, problem="", live=True, wanted=Wanted(wait=float("inf")))
    next(source)
    threading.Timer(0.05, source.close).start()
    assert list(source) == []
    source._thread.join(LONG_S)
    assert not source._thread.is_alive()


def test_a_stall_is_said_and_its_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(capture, "STALL_S", 0.1)
    goes_on, said = threading.Event(), []
    monkeypatch.setattr(capture.show, "note", lambda text: (said.append(text), goes_on.set()))

    def frames() -> Iterator[np.ndarray]:
        yield np.zeros((*SIZE, 3), np.uint8)
        assert goes_on.wait(LONG_S), "the stall was never said"
        yield np.ones((*SIZE, 3), np.uint8)

    with Source("camera 7", frames(), size=SIZE, fps=300, live=True) as source:
        next(source)
        assert next(source)[0, 0, 0] == 1
    assert said[0].startswith("camera 7 has given no frame for") and said[1].startswith("camera 7 gives frames again")


def test_a_stall_is_noticed_within_two_seconds() -> None:
    assert capture.STALL_S <= 2.0


@pytest.mark.slow
def test_a_server_that_is_started_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RETRY_S", 0.05)
    picture = {grey: cv2.imencode(".jpg", np.full((*SIZE, 3), grey, np.uint8))[1].tobytes() for grey in (50, 200)}
    shown = [50]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(ConnectionError):
                for _ in range(30):
                    jpeg = picture[shown[0]]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.01)

        def log_message(self, *_: object) -> None:
            pass

    def serve(port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), Camera)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    first = serve(0)
    with open_source(f"http://127.0.0.1:{first.server_port}/video", Wanted(wait=LONG_S)) as source:
        assert abs(int(next(source)[9, 9, 0]) - 50) < 9
        first.shutdown()
        first.server_close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first.server_port)).close()
        shown[0] = 200
        second = serve(first.server_port)
        try:
            assert any(int(frame[9, 9, 0]) > 180 for frame in source)
        finally:
            second.shutdown()
            second.server_close()
