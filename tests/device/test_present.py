"""The demo never shows the past: with a network five times slower than the camera, every frame is the newest.

Each camera draws the time into its frames. What was shown is read back from the film that the demo recorded, and held
against the time at which the inference of that frame began.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl import Predictor
from edgemtl.apps import camera
from edgemtl.device import draw, stamp
from edgemtl.device.camera import Source, Wanted, open_source
from edgemtl.device.rooms import open_rooms
from tests.steps import LONG_S

SIZE = (120, 160)
RATE = 5.0  # frames per second: slow enough that no busy machine is late by a frame
SLOWER = 3  # times as slow is the network
SHOWN = 6


def picture() -> np.ndarray:
    """A frame of now."""
    frame = np.full((*SIZE, 3), 90, np.uint8)
    stamp.stamp(frame)
    return frame


def clocked() -> Iterator[np.ndarray]:
    """Frames of now at RATE."""
    due = time.perf_counter()
    while True:
        yield picture()
        due += 1 / RATE
        time.sleep(max(0.0, due - time.perf_counter()))


def http(stack: ExitStack) -> str:
    """A network camera that sends JPEGs."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(OSError):
                for frame in clocked():
                    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}/video"


def serve(stack: ExitStack, line: list[str], **how: Any) -> "subprocess.Popen[bytes]":
    """A process that has raw frames of now piped into it, until the stack is left."""
    process = subprocess.Popen(line, stdin=subprocess.PIPE, **how)
    stack.callback(process.wait)
    stack.callback(process.kill)

    def feed() -> None:
        assert process.stdin is not None
        with suppress(OSError):
            for frame in clocked():
                process.stdin.write(frame.tobytes())
                process.stdin.flush()

    threading.Thread(target=feed, daemon=True).start()
    return process


def encoding(*output: str) -> list[str]:
    """FFmpeg's command line for JPEGs of raw frames; skips where there is no FFmpeg."""
    if shutil.which("ffmpeg") is None or sys.platform != "linux":
        pytest.skip("there is no ffmpeg")
    line = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE[1]}x{SIZE[0]}"]
    line += ["-r", f"{RATE:g}", "-probesize", "32", "-i", "-", "-c:v", "mjpeg", "-q:v", "3", "-threads", "1"]
    return [*line, "-flush_packets", "1", "-f", "mpjpeg", *output]


def ffmpeg_http(stack: ExitStack) -> str:
    """FFmpeg as the server."""
    port = free()
    url = f"http://127.0.0.1:{port}/live"
    serve(stack, encoding("-listen", "1", url))
    listening(port)
    return url


RTSP = """
import sys, threading, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0"); gi.require_version("GstApp", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer
Gst.init(None)
width, height, rate, port = sys.argv[1:]
caps = f"video/x-raw,format=RGB,width={width},height={height},framerate={rate}/1"
sources = []
factory = GstRtspServer.RTSPMediaFactory()
factory.set_shared(True)
factory.set_launch(f"( appsrc name=frames is-live=true do-timestamp=true format=time caps={caps} ! videoconvert ! "
    "video/x-raw,format=I420 ! jpegenc quality=90 ! rtpjpegpay name=pay0 )")
factory.connect("media-configure", lambda _, media: sources.append(media.get_element().get_by_name("frames")))

def feed():
    while frame := sys.stdin.buffer.read(int(width) * int(height) * 3):
        for source in sources:
            source.emit("push-buffer", Gst.Buffer.new_wrapped(frame))

server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1"); server.set_service(port)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
threading.Thread(target=feed, daemon=True).start()
print("ready", flush=True)
GLib.MainLoop().run()
"""


def rtsp(stack: ExitStack) -> str:
    """GStreamer's RTSP server."""
    python = "/usr/bin/python3"
    ask = [python, "-c", "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('GstApp', '1.0')"]
    if not Path(python).exists() or subprocess.run(ask, capture_output=True).returncode:
        pytest.skip("GStreamer's RTSP server is not there (Debian: gir1.2-gst-rtsp-server-1.0, python3-gi)")
    port = free()
    line = [python, "-c", RTSP, str(SIZE[1]), str(SIZE[0]), f"{RATE:g}", str(port)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    server = serve(stack, line, stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    return f"rtsp://127.0.0.1:{port}/camera"


def pipe(stack: ExitStack) -> str:
    """A named pipe into which FFmpeg writes."""
    path = Path(stack.enter_context(TemporaryDirectory()), "pipe")
    line = encoding(str(path))
    os.mkfifo(path)
    serve(stack, line)
    return str(path)


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def listening(port: int) -> None:
    """Waits until somebody listens there, without connecting: a server of one client would take that for it."""
    wanted, deadline = f":{port:04X} 00000000:0000 0A", time.monotonic() + LONG_S
    while wanted not in Path("/proc/net/tcp").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)


def rooms(stack: ExitStack) -> Source:
    """Rendered rooms."""
    pytest.importorskip("embreex")
    return open_rooms("", Wanted(size=SIZE, rate=RATE))


def device(stack: ExitStack) -> Source:
    """What a camera's driver gives."""
    return Source("camera 0", clocked(), size=SIZE, fps=RATE, live=True)


@pytest.mark.parametrize("kind", [device, rooms, http, ffmpeg_http, rtsp, pipe], ids=lambda kind: kind.__name__)
@pytest.mark.slow
def test_a_slow_network_sees_the_newest_frame(
    kind: Callable[[ExitStack], str | Source],
    fake_artifact: Path,
    tmp_path: Path,
) -> None:
    film, lines = tmp_path / "film.mp4", tmp_path / "stats.jsonl"
    predictor = Predictor(fake_artifact)
    maps = predictor.maps

    def slow(frame: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(SLOWER / RATE)
        return maps(frame)

    predictor.maps = slow  # type: ignore[method-assign]
    with ExitStack() as stack:
        made = kind(stack)
        source = stack.enter_context(open_source(made) if isinstance(made, str) else made)
        camera.run(predictor, source, record=film, headless=True, limit=SHOWN, stats=str(lines))
    started = [json.loads(line)["started"] for line in lines.read_text().splitlines()]
    ages = [RATE * (begun - at) for begun, at in zip(started, shown(film, started), strict=True)]
    print(kind.__name__, [round(age, 2) for age in ages])
    # In frames: what was being captured when the inference began is 0, the frame before it 1. In a queue it would grow
    # by two with every frame. One frame may be late on a busy machine.
    assert sum(math.floor(age) > 1 for age in ages) <= 1, ages


def shown(film: Path, started: list[float]) -> list[float]:
    """The times in the film's pictures, one for each frame that was shown; a live film repeats them."""
    (height, width), found = draw.cell(SIZE, 7), []
    with open_source(str(film)) as recorded:
        for page in recorded:
            top, left = draw.BAR + draw.TITLE, draw.GAP
            at = stamp.read(page[top : top + height, left : left + width])
            assert at is not None, "the time in a frame cannot be read"
            if not found or at != found[-1]:
                found.append(at)
    return found
