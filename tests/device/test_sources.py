"""Sources beside files and cameras: pipes, raw frames, GStreamer, rendered rooms; and how frames are wanted."""

import io
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgemtl
from edgemtl import cli
from edgemtl.device import gstreamer, raw, stamp
from edgemtl.device.camera import Recorder, Source, Wanted, open_source
from edgemtl.ground.errors import CheckFailed, UsageError
from tests.steps import LONG_S

SIZE = (120, 160)
ROOT = Path(edgemtl.__file__).parents[1]


def numbered(index: int) -> np.ndarray:
    """A frame whose brightness says its number, red on the left, blue below."""
    frame = np.full((*SIZE, 3), index % 30 * 8, np.uint8)
    frame[-20:] = (0, 0, 255)
    frame[:, :20] = (255, 0, 0)
    return frame


def number(frame: np.ndarray) -> int:
    return round(float(frame[40:80, 60:140].mean()) / 8)


def frames(count: int) -> Iterator[np.ndarray]:
    yield from map(numbered, range(count))


def red(frame: np.ndarray, row: int, column: int) -> bool:
    return frame[row, column, 0] > 180 and frame[row, column, 2] < 80


@pytest.mark.parametrize(("flip", "red_at"), [("horizontal", (5, -5)), ("vertical", (-5, 5)), ("both", (-5, -5))])
def test_frames_are_flipped(flip: str, red_at: tuple[int, int]) -> None:
    with Source("x", frames(1), size=SIZE, fps=30, live=False, wanted=Wanted(flip=flip)) as source:
        (frame,) = source
    assert red(frame, *red_at) and not red(frame, *(-at for at in red_at))


def test_larger_frames_shrink_and_keep_their_aspect() -> None:
    for size, got in (((60, 200), (60, 80)), ((240, 40), (30, 40)), ((1000, 1000), SIZE)):
        with Source("x", frames(1), size=SIZE, fps=30, live=False, wanted=Wanted(size=size)) as source:
            assert source.size == got and next(source).shape[:2] == got


def test_a_camera_faster_than_wanted_loses_frames() -> None:
    at = iter(np.arange(60) / 60)
    source = Source("x", frames(60), size=SIZE, fps=60, live=True, when=lambda: next(at), wanted=Wanted(rate=20))
    with source:
        assert source.fps == 20
        source._thread.join(10)
    assert source.passed == 19  # of the 20 in a second all but the newest, which is still held


def test_a_file_is_played_at_the_wanted_rate_and_again() -> None:
    clip = Source("x", frames(3), size=SIZE, fps=30, live=False, length=3, wanted=Wanted(rate=5, loop=True))
    with clip:
        assert clip.fps == 5 and clip.length is None


def test_files_begin_anew(tmp_path: Path) -> None:
    with Recorder(tmp_path / "clip.webm", 20) as recorder:
        for index in range(4):
            recorder.add(numbered(index))
    for index in range(4):
        (tmp_path / "folder").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "folder" / f"{index}.png"), numbered(index)[..., ::-1])
    cv2.imwritemulti(str(tmp_path / "pages.tif"), [numbered(index)[..., ::-1] for index in range(4)])
    for name in ("clip.webm", "folder", "pages.tif"):
        with open_source(str(tmp_path / name), Wanted(loop=True)) as source:
            assert [number(next(source)) for _ in range(10)] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1], name


def turned(path: Path) -> None:
    """Writes into an .mp4's track header that it was filmed with the camera turned by 90 degrees, as phones do."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    assert data[header] == 0  # its version
    one, matrix = 1 << 16, header + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 120 * one, 0, 1 << 30)
    path.write_bytes(data)


def test_what_a_phone_filmed_comes_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE[::-1])
    for index in range(3):
        writer.write(numbered(index)[..., ::-1])
    writer.release()
    turned(path)
    with open_source(str(path)) as source:
        frame = next(source)
    assert source.size == frame.shape[:2] == SIZE[::-1]
    assert red(frame, 5, 60) and not red(frame, 100, 60)  # what was on the left is now above


def piped(data: bytes, code: str, *, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """What a process says that has `data` piped into it."""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, cwd=ROOT, env=env)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


LAST = """
import sys
LIMIT = 10**6
from edgemtl.device.camera import Wanted, open_source
try:
    with open_source(sys.argv[1] if len(sys.argv) > 1 else SOURCE, WANTED) as source:
        for _, frame in zip(range(LIMIT), source):
            pass
        print(source.live, frame.shape, round(frame[40:80, 60:140].mean() / 8))
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no /dev/stdin")
@pytest.mark.parametrize("kind", [".mjpeg", ".mkv", ".ts"])
@pytest.mark.slow
def test_a_film_comes_through_standard_input(tmp_path: Path, kind: str) -> None:
    if kind == ".mjpeg":
        data = b"".join(cv2.imencode(".jpg", numbered(index)[..., ::-1])[1].tobytes() for index in range(30))
    else:
        path, code = tmp_path / f"film{kind}", {".mkv": "mp4v", ".ts": "MPG2"}[kind]
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 25, SIZE[::-1])
        for index in range(30):
            writer.write(numbered(index)[..., ::-1])
        writer.release()
        data = path.read_bytes()
    done = piped(data, LAST.replace("SOURCE", "'-'").replace("WANTED", "Wanted()"))
    assert done.stdout.strip() == f"True {(*SIZE, 3)} 29", done.stderr


@pytest.mark.slow
def test_raw_frames_come_through_standard_input() -> None:
    data = b"".join(numbered(index).tobytes() for index in range(10))
    done = piped(data, LAST.replace("SOURCE", "'raw://rgb24'").replace("WANTED", f"Wanted(size={SIZE})"))
    assert done.stdout.strip() == f"True {(*SIZE, 3)} 9", done.stderr


def test_every_raw_layout_is_decoded() -> None:
    rgb = np.full((*SIZE, 3), 90, np.uint8)
    rgb[:, :20] = (200, 20, 30)
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    y, u, v = yuv[: SIZE[0]], *yuv[SIZE[0] :].reshape(2, SIZE[0] // 2, SIZE[1] // 2)
    packed = np.stack([y, np.dstack([u, v]).repeat(2, 0).reshape(SIZE)], -1)
    sent = {
        "rgb24": rgb, "bgr24": rgb[..., ::-1], "gray": rgb[..., 0], "yuv420p": yuv, "yuyv422": packed,
        "nv12": np.concatenate([y, np.dstack([u, v]).reshape(SIZE[0] // 2, SIZE[1])]),
    }  # fmt: skip
    assert sent.keys() == raw.LAYOUTS.keys()
    for kind, frame in sent.items():
        with raw.open_raw(kind, Wanted(size=SIZE), io.BytesIO(frame.tobytes())) as source:
            (got,) = source
        wanted = np.repeat(rgb[..., :1], 3, -1) if kind == "gray" else rgb
        assert np.abs(got.astype(int) - wanted)[:, np.r_[:18, 22:160]].max() <= (
            8 if "y" in kind[0:3] or kind == "nv12" else 0
        ), kind


@pytest.mark.parametrize(
    ("kind", "size", "length", "problem"),
    [
        ("rgb", SIZE, 0, "unknown layout of raw frames 'rgb'"),
        ("rgb24", None, 0, "add --size WIDTHxHEIGHT"),
        ("nv12", (121, 160), 0, "even width and height, not 160x121"),
        ("rgb24", SIZE, 3 * 120 * 160 + 7, "ended after 1 frames and 7 bytes, 57600 a frame; is --size right"),
        ("rgb24", SIZE, 99, "ended after 99 bytes, 57600 a frame"),
    ],
)
def test_raw_frames_that_cannot_be_are_named(
    kind: str, size: tuple[int, int] | None, length: int, problem: str
) -> None:
    with pytest.raises((UsageError, CheckFailed), match=problem):
        list(raw.open_raw(kind, Wanted(size=size), io.BytesIO(bytes(length))))


def test_nothing_piped_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="nothing is piped into standard input"):
        open_source("-")


def test_the_time_is_read_back_from_any_size() -> None:
    now = time.time()
    for size in ((240, 320), (120, 160), (720, 1280)):
        frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        stamp.stamp(frame, now)
        for scale in (0.8, 1.0, 1.7):
            shown = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            _, coded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 60])
            assert stamp.read(cv2.imdecode(coded, 1)) == pytest.approx(now, abs=6e-4), (size, scale)
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(300)]
    assert all(stamp.read(each) is None for each in [*noise, np.zeros((48, 64, 3)), np.full((48, 64, 3), 255)])


@pytest.mark.slow
def test_rendered_rooms_have_no_end_and_the_time() -> None:
    pytest.importorskip("embreex")
    with open_source("scenes://4", Wanted(size=(60, 80), rate=100)) as source:
        assert source.live and source.size == (60, 80) and source.length is None
        seen, pictures = [], []
        while len(seen) < 12:
            seen.append(stamp.read(frame := next(source)))
            pictures.append(frame[:40])
    now = time.time()
    assert None not in seen and seen == sorted(seen) and abs(now - seen[-1]) < 60
    assert any(not np.array_equal(pictures[0], other) for other in pictures)  # it moves


def test_a_seed_is_a_number() -> None:
    with pytest.raises(UsageError, match="a seed is a whole number"):
        open_source("scenes://room")


def test_an_opencv_without_gstreamer_says_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    for text in ("csi://0", "gst://videotestsrc"):
        with pytest.raises(
            UsageError, match=f"{text} needs an OpenCV with GStreamer.*apt install python3-opencv"
        ) as told:
            open_source(text)
        assert "\n" not in str(told.value)


def test_a_pipeline_ends_in_the_newest_frame() -> None:
    assert gstreamer.pipeline("videotestsrc") == f"videotestsrc ! {gstreamer.SINK}"
    assert gstreamer.pipeline("videotestsrc !") == f"videotestsrc ! {gstreamer.SINK}"
    assert gstreamer.pipeline("a ! appsink sync=false") == "a ! appsink drop=true max-buffers=1 sync=false"
    assert gstreamer.pipeline("a ! appsink drop=true") == "a ! appsink drop=true"
    with pytest.raises(UsageError, match="takes a pipeline"):
        gstreamer.pipeline(" ")
    assert "width=640, height=480, framerate=60/1" in gstreamer.csi_pipeline(1, (480, 640), 60)


@pytest.fixture(scope="session")
def with_gstreamer() -> list[str]:
    """A Python whose OpenCV has GStreamer, our packages behind its own; skips where there is none."""
    python = Path("/usr/bin/python3")
    ask = "import cv2, sys; print(sys.version_info[:2] == {}, cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
    ask = ask.format(tuple(sys.version_info[:2]))
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout if python.exists() else ""
    if said.strip() != "True True":
        pytest.skip("no /usr/bin/python3 of this version with an OpenCV that has GStreamer (Debian: python3-opencv)")
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return [str(python), "-c", f"import sys; sys.path.remove(''); sys.path += {paths}\n"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gst://videotestsrc pattern=red ! video/x-raw,width=160,height=120", "True (120, 160, 3)"),
        ("gst://videotestsrc ! nonsense", "gives no picture; try it with gst-launch-1.0"),
        ("csi://0", "csi://0 gives no picture"),  # no sensor here, and none of NVIDIA's elements
    ],
)
@pytest.mark.slow
def test_a_gstreamer_pipeline_is_a_live_source(with_gstreamer: list[str], text: str, said: str) -> None:
    *line, setup = with_gstreamer
    code = setup + LAST.replace("WANTED", "Wanted()").replace("10**6", "5").replace(
        "round(frame[40:80, 60:140].mean() / 8)", "frame[9, 9]"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*line, code, text], capture_output=True, text=True, env=environment, timeout=LONG_S)
    assert said in done.stdout, done.stderr
    if "red" in text:
        assert "[254   0   0]" in done.stdout or "[255   0   0]" in done.stdout  # not blue


def test_options_of_the_source_are_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fake_artifact: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for words, said in (
        (("--size", "640"), "'640' is not WIDTHxHEIGHT"),
        (("--size", "0x480"), "'0x480' is not WIDTHxHEIGHT"),
        (("--rate", "0"), "0 is not a number above 0"),
        (("--rate", "fast"), '"fast"'),
        (("--flip", "left"), '"left" for --flip'),
        (("--wait", "-1"), "-1 is not a number of at least 0"),
        (("--source", "-", "--stats", "-"), "nothing is piped into standard input"),
    ):
        assert cli.main(["demo", str(fake_artifact), "--headless", "--untested", *words]) == 2
        assert said in capsys.readouterr().err
