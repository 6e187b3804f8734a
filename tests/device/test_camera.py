import doctest
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgemtl.device.camera
from edgemtl.device import capture, stream
from edgemtl.device.camera import Recorder, Source, csi_pipeline, open_source
from edgemtl.ground.errors import CheckFailed, UsageError
from tests.steps import LONG_S, Steps

SIZE = (120, 160)


def numbered(index: int) -> np.ndarray:
    """A frame whose brightness says its number, red marked on the left."""
    frame = np.full((*SIZE, 3), index * 8, np.uint8)
    frame[:, :20] = (255, 0, 0)
    return frame


def number(frame: np.ndarray) -> int:
    return round(float(frame[40:80, 60:140].mean()) / 8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.webm"
    with Recorder(path, 20) as recorder:
        for index in range(20):
            recorder.add(numbered(index))
    return path


def test_a_file_gives_every_frame_in_order(clip: Path) -> None:
    for text in (str(clip), f"file://{clip}"):
        with open_source(text) as source:
            assert (source.size, source.fps, source.live, source.length) == (SIZE, 20, False, 20)
            frames = list(source)
        assert [number(f) for f in frames] == list(range(20))
        assert frames[5][60, 8, 0] > 200 > 60 > frames[5][60, 8, 2]  # red, not blue


def test_a_file_is_read_ahead_but_not_whole() -> None:
    made = []

    def frames() -> Iterator[np.ndarray]:
        for index in range(50):
            made.append(index)
            yield numbered(index % 30)

    with Source("x", frames(), size=SIZE, fps=30, live=False) as source:
        next(source)
        while len(made) < 2 + capture.AHEAD:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(made) == 2 + capture.AHEAD


class Clock:
    """Stands in for the module `time`: sleeping takes no time, and is written down."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_paced_file_runs_no_faster_than_filmed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(capture, "time", clock)
    with open_source(str(clip)) as source:
        source.paced = True
        for _ in range(4):
            next(source)
        clock.now += 0.02  # the reader takes its time
        next(source)
        clock.now += 1.0  # more than a frame's
        next(source)
    assert clock.slept == pytest.approx([0, 1 / 20, 1 / 20, 1 / 20, 1 / 20 - 0.02, 0])


def test_a_live_source_gives_its_newest_frame() -> None:
    steps, numbers, seen = Steps(), itertools.count(), []
    frames = steps.frames(numbered, 14)
    with Source("camera", frames, size=SIZE, fps=50, live=True, when=lambda: float(next(numbers))) as source:
        for count in (1, 5, 1, 7):
            steps.make(count)
            seen.append(number(next(source)))
            assert source.captured == seen[-1]
    assert seen == [0, 5, 6, 13]


def test_a_silent_camera_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PATIENCE_S", 0.1)
    gone = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        yield numbered(0)
        gone.wait(5)

    with Source("camera 3", frames(), size=SIZE, fps=30, live=True) as source:
        next(source)
        with pytest.raises(UsageError, match="camera 3 gave no frame"):
            next(source)
        gone.set()


def test_closing_ends_a_waiting_reader() -> None:
    gone = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        gone.wait(5)
        yield numbered(0)

    source = Source("camera", frames(), size=SIZE, fps=30, live=True)
    threading.Timer(0.1, gone.set).start()
    threading.Timer(0.05, source.close).start()
    assert list(source) == []


def test_a_folder_gives_its_images_by_number(tmp_path: Path) -> None:
    for index in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{index}.png"), numbered(index)[..., ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(str(tmp_path)) as source:
        assert [number(f) for f in source] == [1, 2, 10]


def test_one_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), numbered(3)[..., ::-1])
    with open_source(str(tmp_path / "a.png")) as source:
        (frame,) = source
    assert np.array_equal(frame, numbered(3))


def test_broken_images_in_a_folder_are_left_out_and_named(tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), numbered(index))
    for broken in ("0.png", "2.png"):
        (tmp_path / broken).write_bytes(b"no image")
    seen = []
    with open_source(str(tmp_path)) as source, pytest.raises(CheckFailed, match=r"2 of 4 images .*: 0.png, 2.png"):
        for frame in source:
            seen.append(number(frame))
    assert seen == [1, 3]


def read_all(text: str) -> tuple[list[int], str]:
    """The numbers of a source's frames, and what it says at its end."""
    seen = []
    with open_source(text) as source:
        try:
            for frame in source:
                seen.append(number(frame))
        except CheckFailed as problem:
            return seen, str(problem)
    return seen, ""


def busy(index: int) -> np.ndarray:
    """A numbered frame whose border changes so much that it takes some thousand bytes."""
    frame = np.full((*SIZE, 3), index * 8, np.uint8)
    frame[:, :32] = np.random.default_rng(index).integers(0, 128, (SIZE[0], 32, 3), np.uint8)
    return frame


@pytest.fixture
def films(tmp_path: Path) -> dict[str, Path]:
    """The same 30 frames as .mp4, .avi, .mkv and .webm."""
    made = {}
    for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".webm", "VP80")):
        made[suffix] = tmp_path / f"film{suffix}"
        code = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(made[suffix]), cv2.CAP_FFMPEG, code, 25, (SIZE[1], SIZE[0]))
        for index in range(30):
            writer.write(busy(index)[..., ::-1])
        writer.release()
        assert read_all(str(made[suffix])) == (list(range(30)), "")
    return made


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm"])
def test_damage_in_the_middle_is_read_over_and_told(films: dict[str, Path], suffix: str) -> None:
    data = bytearray(films[suffix].read_bytes())
    middle, some = len(data) // 2, len(data) // 8
    data[middle : middle + some] = np.random.default_rng(0).bytes(some)
    films[suffix].write_bytes(data)
    seen, problem = read_all(str(films[suffix]))
    assert seen[:5] == list(range(5)) and seen[-3:] == [27, 28, 29]
    assert len(seen) < 30 and f"film{suffix} is damaged: {30 - len(seen)} of its 30 frames" in problem


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])  # of a cut .mp4 the index at its end is missing
def test_a_file_that_is_cut_short_is_told(films: dict[str, Path], suffix: str) -> None:
    data = films[suffix].read_bytes()
    films[suffix].write_bytes(data[: len(data) // 2])
    seen, problem = read_all(str(films[suffix]))
    assert 5 < len(seen) < 25 and seen == list(range(len(seen)))
    assert f"ended after {len(seen)} of its 30 frames" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("97", "no camera 97: /dev/video97 does not exist; found:"),
        ("v4l2:///dev/video97", "/dev/video97 does not exist"),
        ("V4L2://97", "/dev/video97 does not exist"),
        ("/dev/video97", "no camera /dev/video97: /dev/video97 does not exist; found:"),
        ("/dev/null", "/dev/null gives no picture: in use"),
        ("csi://left", "csi://0"),
        ("webrtc://here", "unknown source 'webrtc://here'; a source is"),
        ("none.mp4", "none.mp4 does not exist; a source is"),
        ("none_%04d.png", "none_%04d.png"),
        ("http://127.0.0.1:9/x", "gives no picture"),
        ("RTSP://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x gives no picture"),
        ("rtsps://127.0.0.1:9/x", "gives no picture"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="names Linux's devices")
def test_what_is_no_source_is_named(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        open_source(text)


def test_a_socket_is_not_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have a hundred characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x.sock")
        with pytest.raises(UsageError, match="x.sock is neither a file, a folder, a camera nor a pipe"):
            open_source("x.sock")


def test_a_device_is_opened_as_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(edgemtl.device.camera, "open_stream", lambda *where, **how: asked.append((where, how["live"])))
    for text in ("/dev/null", "v4l2:///dev/null"):  # stands for any character device, such as /dev/v4l/by-id/…
        open_source(text)
    assert [(where[1:], live) for where, live in asked] == [(("/dev/null", cv2.CAP_V4L2), True)] * 2


def test_an_address_of_a_file_is_decoded(films: dict[str, Path]) -> None:
    odd = films[".mkv"].with_name("ä b%20.mkv")
    films[".mkv"].rename(odd)
    for text in (odd.as_uri(), odd.as_uri().replace("file:///", "FILE://localhost/"), f"file://{odd}"):
        assert read_all(text) == (list(range(30)), "")


def test_numbered_images_are_a_source(tmp_path: Path) -> None:
    for name, index in (("frame_0009.png", 9), ("frame_0010.png", 10), ("frame_12345.png", 11), ("frame_x.png", 1)):
        cv2.imwrite(str(tmp_path / name), numbered(index)[..., ::-1])
    assert read_all(str(tmp_path / "frame_%04d.png")) == ([9, 10, 11], "")
    assert read_all(str(tmp_path / "frame_%d.png")) == ([9, 10, 11], "")
    with pytest.raises(UsageError, match=r"holds no images \(frame_%06d.png\)"):
        open_source(str(tmp_path / "frame_%06d.png"))


def test_what_a_mac_leaves_beside_images_is_none(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), numbered(3))
    (tmp_path / "._x.png").write_bytes(b"\0\5\x16\7")
    assert read_all(str(tmp_path)) == ([3], "")


@pytest.mark.parametrize("suffix", [".mjpeg", ".mjpg", ""])
def test_pictures_one_after_another_are_a_film(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    path.write_bytes(b"".join(jpeg(index) for index in range(30)))
    assert read_all(str(path)) == (list(range(30)), "")
    path.write_bytes(jpeg(7))
    assert read_all(str(path)) == ([7], "")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
@pytest.mark.skipif(not hasattr(cv2, "imwriteanimation"), reason="this OpenCV writes no animations")
def test_an_animation_is_a_film(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    animation = cv2.Animation()
    animation.frames = [np.full((*SIZE, 3), 255 * (index % 2), np.uint8) for index in range(12)]
    animation.durations = [50] * 11 + [2000]
    assert cv2.imwriteanimation(str(path), animation)
    with open_source(str(path)) as source:
        assert source.fps == 20 and source.length == 12
        assert [round(float(frame.mean())) > 127 for frame in source] == [False, True] * 6


def test_the_pages_of_an_image_are_frames(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    cv2.imwritemulti(str(path), [numbered(index)[..., ::-1] for index in range(3)])
    with open_source(str(path)) as source:
        frames = list(source)
    assert [number(frame) for frame in frames] == [0, 1, 2] and tuple(frames[0][5, 5]) == (255, 0, 0)


@pytest.fixture
def transport(films: dict[str, Path]) -> bytes:
    """The 30 frames of a film as an MPEG transport stream."""
    path = films[".mp4"].with_suffix(".ts")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MPG2"), 25, (SIZE[1], SIZE[0]))
    for index in range(30):
        writer.write(busy(index)[..., ::-1])
    writer.release()
    return path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_a_live_stream_that_may_end(tmp_path: Path, transport: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(transport,), daemon=True)
    writer.start()
    with open_source(str(pipe)) as source:
        assert source.live and source.size == SIZE
        seen = [number(frame) for frame in source]
    writer.join(10)
    assert seen == sorted(seen) and seen[-1] == 29


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_nobody_writes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PATIENCE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no program wrote into this pipe"):
        open_source(str(tmp_path / "pipe"))


RATE = 10.0  # frames per second of the streams below


@pytest.fixture
def parts(tmp_path: Path) -> list[bytes]:
    """80 frames of RATE as an MPEG transport stream, in as many parts that begin where a frame does."""
    path, parts = tmp_path / "parts.ts", [b""]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FMP4"), RATE, (SIZE[1], SIZE[0]))
    for index in range(80):
        writer.write(numbered(index % 30)[..., ::-1])
    writer.release()
    data = path.read_bytes()
    for packet in (data[start : start + 188] for start in range(0, len(data), 188)):
        if packet[1] & 0x40 and b"\0\0\1\xe0" in packet and b"\0\0\1\xe0" in parts[-1]:  # the next frame begins
            parts.append(b"")
        parts[-1] += packet
    assert len(parts) == 80
    return parts


@pytest.mark.slow
def test_a_decoder_holds_no_frame_back_for_each_processor(
    parts: list[bytes], serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PATIENCE_S", 1.0)
    done = threading.Event()

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for part in parts:
            request.wfile.write(part)
            time.sleep(0.01)
        done.wait(10)  # a camera that waits: what the decoder holds back now would not come

    with open_source(serve(send)) as source, pytest.raises(UsageError, match="gave no frame|stopped giving"):
        for frame in source:
            newest = number(frame)
    done.set()
    # The container says where a frame ends, and the codec too, by where the next one begins.
    assert source.live and newest >= 79 % 30 - 2


def test_the_latency_is_the_age_of_the_picture(parts: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time stamps in the stream: frames that waited for a second on the way are a second old."""

    class Stream(Clock):
        reads = 0

        def perf_counter(self) -> float:
            self.reads += 1  # two for each frame, so that these come at RATE …
            return 100 + self.reads / (2 * RATE) + (1.0 if self.reads > 60 else 0.0)  # … from the 31st on, late

    def send(listening: socket.socket) -> None:
        with listening, suppress(ConnectionError), listening.accept()[0] as connection:
            connection.sendall(b"".join(parts))

    def aged(reader: stream.Reader, at: float, came: float) -> float:
        ages.append(came - (captured := when(reader, at, came)))
        return captured

    ages: list[float] = []
    when = stream.Reader._when
    monkeypatch.setattr(stream.Reader, "_when", aged)
    monkeypatch.setattr(stream, "time", Stream())
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=send, args=(listening,), daemon=True).start()
    address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    with open_source(address) as source, pytest.raises(UsageError, match="stopped giving"):
        list(source)
    assert len(ages) > 70
    assert ages[:30] == pytest.approx([0] * 30, abs=0.01) and ages[30:] == pytest.approx([1] * len(ages[30:]), abs=0.01)


def rtsp(listening: socket.socket, parts: list[bytes]) -> None:
    """Answers one client as an RTSP camera does, and sends it a transport stream over the same connection."""
    connection, _ = listening.accept()
    with listening, connection, connection.makefile("rb") as requests, suppress(ConnectionError):
        verb = ""
        while verb != "PLAY":
            lines = [line.decode().strip() for line in iter(requests.readline, b"\r\n")]
            verb, count = lines[0].split()[0], next(line for line in lines if line.startswith("CSeq"))
            head, body = "Public: OPTIONS, DESCRIBE, SETUP, PLAY", ""
            if verb == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
                head = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}"
            elif verb == "SETUP":
                head = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
            connection.sendall(f"RTSP/1.0 200 OK\r\n{count}\r\nSession: 1\r\n{head}\r\n\r\n{body}".encode())
        number = 0
        for index, part in enumerate(parts):
            for start in range(0, len(part), 7 * 188):
                data = part[start : start + 7 * 188]
                header = struct.pack(">BBHII", 128, 33, number, int(90_000 * index / RATE), 1)
                connection.sendall(struct.pack(">cBH", b"$", 0, len(header + data)) + header + data)
                number += 1
            time.sleep(0.02)


@pytest.mark.slow
def test_an_rtsp_camera_is_live_and_its_end_is_named(parts: list[bytes]) -> None:
    listening, seen = socket.create_server(("127.0.0.1", 0)), []
    threading.Thread(target=rtsp, args=(listening, parts), daemon=True).start()
    lost = pytest.raises(UsageError, match="stopped giving frames")
    with open_source(f"RTSP://127.0.0.1:{listening.getsockname()[1]}/camera") as source, lost:
        assert source.live and source.size == SIZE
        for frame in source:
            seen.append(number(frame))
    assert len(seen) > 20 and seen[-1] >= 79 % 30 - 2


def test_the_clock_of_a_stream_follows_its_least_delayed_frame() -> None:
    clock = stream.StreamClock()
    late = [0.5, 0.3, 0.1, 0.1, 0.8, 0.2, 0.1]
    ages = [100 + i + by - clock(float(i), 100 + i + by) for i, by in enumerate(late)]
    assert ages == pytest.approx([0, 0, 0, 0, 0.7, 0.1, 0.0], abs=2e-3)
    assert clock(2.0, 200.0) == 200.0  # the camera has begun anew
    slow = [200 + i * 1.0001 - clock(2.0 + i, 200 + i * 1.0001) for i in range(1, 10_000)]  # its clock goes slower
    assert max(slow) < 1e-3
    assert [clock(0.0, 3e4), clock(0.0, 4e4), clock(0.0, 5e4)] == [3e4, 4e4, 5e4]  # it tells no time


def test_a_driver_tells_when_it_captured() -> None:
    now = time.perf_counter()

    class Camera:
        stamps = iter([now - 0.2, now - 1e6, 1.7e9])  # as V4L2 has it; of another clock; of the day

        def get(self, what: int) -> float:
            return 1000 * next(self.stamps) if what == cv2.CAP_PROP_POS_MSEC else 0.0

        def isOpened(self) -> bool:
            return True

        def getBackendName(self) -> str:
            return "V4L2"

        def grab(self) -> bool:
            return True

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, numbered(0)

    reader = stream.Reader("camera", Camera(), None, stamped=False)
    captured = [reader.captured for _ in range(3) if reader.read() is not None]
    assert captured[0] == pytest.approx(now - 0.2, abs=1e-3) and min(captured[1:]) >= now


def test_a_stream_over_udp(transport: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not done.is_set():  # from its beginning again and again, since nobody may have listened at first
                for start in range(0, len(transport), 1316):
                    with suppress(ConnectionError):
                        sender.sendto(transport[start : start + 1316], ("127.0.0.1", port))
                    time.sleep(0.001)

    threading.Thread(target=send, daemon=True).start()
    try:
        with open_source(f"udp://127.0.0.1:{port}") as source:
            assert source.live and next(source).shape == (*SIZE, 3)
    finally:
        done.set()


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0" * 999)
    (tmp_path / "a.jpg").write_bytes(b"\0" * 999)
    (tmp_path / "empty").mkdir()
    for name, problem in (("a.mp4", "not a video"), ("a.jpg", "not an image"), ("empty", "holds no images")):
        with pytest.raises(UsageError, match=f"{name}.* {problem}|{name} {problem}"):
            open_source(str(tmp_path / name))


def test_csi_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    with pytest.raises(UsageError, match="GStreamer"):
        open_source("csi://0")
    assert "sensor-id=2" in csi_pipeline(2) and "drop=true max-buffers=1" in csi_pipeline(2)


def test_errors_are_one_line_and_ffmpeg_is_silent(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0" * 999)
    opening = f"open_source({str(tmp_path / 'a.mp4')!r})"
    code = f"from edgemtl.device.camera import open_source\ntry: {opening}\nexcept ValueError as e: print(e)"
    root = Path(edgemtl.device.camera.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stderr == "" and done.stdout.count("\n") == 1


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """A function that has a server answer every request by a function of the request, and gives back its address."""
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(ConnectionError):  # the client has gone
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/video"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send_jpegs(to: BaseHTTPRequestHandler, jpegs: Iterable[bytes]) -> None:
    """Answers as network cameras do, a hundred pictures a second."""
    to.send_response(200)
    to.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    to.end_headers()
    for jpeg in jpegs:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        to.wfile.write(head.encode() + jpeg + b"\r\n")
        time.sleep(0.01)


def jpeg(index: int) -> bytes:
    return cv2.imencode(".jpg", numbered(index % 30))[1].tobytes()


@pytest.mark.slow
def test_a_network_camera_is_live_and_its_end_is_named(serve: Callable[..., str]) -> None:
    with open_source(serve(lambda request: send_jpegs(request, map(jpeg, range(40))))) as source:
        assert source.live and source.size == SIZE
        with pytest.raises(UsageError, match="stopped giving frames"):
            for _ in source:
                pass


@pytest.mark.slow
def test_a_network_camera_goes_on_after_broken_pictures(serve: Callable[..., str]) -> None:
    broken = [jpeg(1)] * 10 + [jpeg(2)[:300] + b"\0" * 300] * 5 + [jpeg(25)] * 20
    seen = []
    lost = pytest.raises(UsageError, match="stopped giving frames")
    with open_source(serve(lambda request: send_jpegs(request, broken))) as source, lost:
        for frame in source:
            seen.append(number(frame))
    assert seen[0] == 1 and seen[-5:] == [25] * 5 and source.lost == 5


@pytest.mark.slow
@pytest.mark.parametrize("stalls", [True, False])
def test_a_server_that_stops_half_way_is_told(
    films: dict[str, Path], serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    monkeypatch.setattr(capture, "PATIENCE_S", 0.5)
    data, done = films[".webm"].read_bytes(), threading.Event()

    def half(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Range", "bytes=0-") != "bytes=0-":
            return request.send_error(404)
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])
        if stalls:
            done.wait(10)

    seen, problem = read_all(serve(half))
    done.set()
    assert 5 < len(seen) < 25 and seen == list(range(len(seen)))
    assert f"ended after {len(seen)} of its 30 frames" in problem and "its server stopped" in problem


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_recording_appears_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"film{suffix}"
    with Recorder(path, 25) as recorder:
        for index in range(12):
            recorder.add(numbered(index))
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with open_source(str(path)) as source:
        assert [number(f) for f in source] == list(range(12)) and source.fps == 25


def test_pictures_of_another_size_are_fitted(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with Recorder(path, 25) as recorder:
        recorder.add(np.full((121, 161, 3), 200, np.uint8))
        recorder.add(np.full((60, 160, 3), 200, np.uint8))
    with open_source(str(path)) as source:
        first, second = source
    assert first.shape == second.shape == (120, 160, 3)
    assert second[60].mean() > 190 and second[5].mean() < 20


def test_a_live_recording_runs_in_real_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "film.mp4", 10)
    for at in (100.0, 100.5, 100.51, 101.0, 161.0, 161.5):  # half a second, nothing, half a second, a pause
        recorder.add(numbered(1), at=at)
        recorder._wait()
    recorder.close()
    assert recorder.frames == 1 + 5 + 0 + 5 + 1 + 5


def test_nothing_recorded_leaves_nothing(tmp_path: Path) -> None:
    Recorder(tmp_path / "film.webm", 25).close()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_records_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for path, problem in (
        (tmp_path / "film.avi", "must end in .mp4 or .webm"),
        (tmp_path / "file" / "film.mp4", "its folder is a file"),
        (tmp_path / "folder.mp4", "it is a folder"),
    ):
        with pytest.raises(UsageError, match=problem):
            Recorder(path, 25)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    for name in ("film.MP4", "film.WebM"):
        with Recorder(tmp_path / name, 25) as recorder:
            recorder.add(numbered(3))
        assert read_all(str(tmp_path / name)) == ([3], "")


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("fps", [0.01, 0.5, 29.97, 240, 480, 959.04, 1000])
@pytest.mark.slow
def test_a_film_keeps_its_time(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"film{suffix}"
    with Recorder(path, fps) as recorder:
        for index in range(10):
            recorder.add(numbered(index))
    with open_source(str(path)) as source:
        length = len(list(source))
    assert length % 10 == 0 and length / source.fps == pytest.approx(10 / fps, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="a stop of a process is not the same elsewhere")
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "exit"])
@pytest.mark.slow
def test_a_film_outlives_its_process(tmp_path: Path, suffix: str, end: str) -> None:
    if end != "exit" and signal.getsignal(getattr(signal, end)) == signal.SIG_IGN:
        pytest.skip(f"{end} is ignored in this process, as under nohup")
    path = tmp_path / f"film{suffix}"
    code = f"""
import os, signal, time, numpy as np
from pathlib import Path
from edgemtl.device.camera import Recorder
recorder = Recorder(Path({str(path)!r}), 25)
for index in range(12):
    recorder.add(np.full((120, 160, 3), index * 8, np.uint8))
recorder._wait()
if "{end}" == "exit":
    os._exit(1)  # what Qt does when its display dies
os.killpg(0, signal.{"SIGTERM" if end == "exit" else end})  # as a terminal sends it: to the whole group
time.sleep(9)
"""
    root = Path(edgemtl.device.camera.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root, start_new_session=True)
    assert done.returncode != 0
    deadline = time.monotonic() + LONG_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read_all(str(path)) == (list(range(12)), "")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


RECORDING = """
import sys, numpy as np
from pathlib import Path
from edgemtl.device.camera import Recorder
rng, path = np.random.default_rng(0), Path(sys.argv[1])
for second in range(2):
    try:
        with Recorder(path.with_stem(path.stem + str(second)), 25) as recorder:
            for index in range(3000):
                recorder.add(rng.integers(0, 256, (240, 320, 3), np.uint8))
        print("whole")
    except ValueError as error:
        print(index, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.slow
def test_a_file_that_cannot_grow_is_noticed(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    code = limit + RECORDING.replace("3000", "30").replace("range(2)", "range(1)")
    root = Path(edgemtl.device.camera.__file__).parents[2]
    line = [sys.executable, "-c", code, str(tmp_path / "film.mp4")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=root)
    assert "is the disk full?" in done.stdout and [p.name for p in tmp_path.iterdir()] == ["film0.mp4"]
    seen, _ = read_all(str(tmp_path / "film0.mp4"))
    assert 0 < len(seen) < 30  # as far as it goes


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.slow
def test_a_full_disk_ends_a_film_that_can_be_seen(tmp_path: Path, suffix: str) -> None:
    mount = f"mount -t tmpfs -o size=10m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this system lets nobody but its administrator mount a small disk")
    root, film = Path(edgemtl.device.camera.__file__).parents[2], tmp_path / f"film{suffix}"
    kept = tmp_path.with_name(f"kept{suffix}")
    record = f"'{sys.executable}' -c '{RECORDING}' {film}"
    script = f"{mount} && {record} && cp {tmp_path}/film0{suffix} {kept} && ls -A {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=root)
    first, again, *left = done.stdout.splitlines()
    count = int(first.split()[0])
    assert 10 < count < 2000 and "the disk is full; the film ends after" in first  # noticed long before the last frame
    assert again.endswith("the disk is full") and left == [f"film0{suffix}"]
    seen, problem = read_all(str(kept))
    assert 10 < len(seen) <= count and problem == ""
    kept.unlink()


def test_the_example_runs(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    result = doctest.testmod(capture)
    assert result.attempted >= 3 and not result.failed
