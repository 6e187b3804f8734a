"""Frames from cameras, files, folders and streams, and pictures back into a video file.

| text                                   | source                                                              |
|----------------------------------------|---------------------------------------------------------------------|
| `0`, `1` …, `/dev/video0`              | a USB or built-in camera; `v4l2:///dev/video0` as well               |
| `csi://0`                              | a Jetson's CSI camera (needs an OpenCV built with GStreamer)         |
| `gst://videotestsrc`                   | any GStreamer pipeline (needs the same)                              |
| `rtsp://…`, `http://…`, `udp://…` …    | a network camera or a stream, or a video file on a server            |
| `clip.mp4`, `file:///data/a%20b.mp4`   | a video file, an image, an animation, or an image of several pages   |
| `folder/`, `folder/frame_%04d.png`     | its images, sorted by number; only those of such names               |
| a named pipe, `-` (standard input)     | a live stream that another program writes: MPEG-TS, Matroska, MJPEG  |
| `raw://rgb24`                          | raw frames of a known size on standard input, see device/raw.py      |
| `scenes://`, `scenes://3`              | rendered rooms without end, the time in each frame; 3 is a seed      |
"""

import re
import sys
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from urllib.request import url2pathname

import cv2
import numpy as np

from edgemtl.device.capture import AS_IT_COMES, Frames, Source, Wanted
from edgemtl.device.film import Recorder
from edgemtl.device.gstreamer import csi_pipeline, pipeline, require_gstreamer
from edgemtl.device.raw import open_raw
from edgemtl.device.rooms import open_rooms
from edgemtl.device.stream import ONE_THREAD, hush, open_address, open_pipe, open_stream
from edgemtl.ground.errors import CheckFailed, UsageError

__all__ = ["Recorder", "Source", "Wanted", "csi_pipeline", "open_source"]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
ADDRESSES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "rtmp", "rtmps", "srt")
SOURCE_FORMS = (
    "a camera number, /dev/video0, a video file, a folder of images, frame_%04d.png, csi://0, rtsp://…, http://…, "
    "gst://PIPELINE, - for standard input, or scenes://"
)
NUMBER = re.compile(r"%(0\d+)?d")  # as in frame_%04d.png
NAMED = 5  # files in one message
SLIDES_PER_S = 2.0  # images of a folder have no frame rate of their own


def open_source(text: str, wanted: Wanted = AS_IT_COMES) -> Source:
    """The source that `text` names; its first frame has been read, so it works. UsageError where it does not."""
    hush()
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if text == "-":
        return _standard_input(wanted)
    if not separator:
        return _camera(text, int(text), wanted) if text.isdecimal() else _path(Path(text).expanduser(), wanted)
    if scheme == "file":
        raw = Path(rest).expanduser()
        return _path(raw if raw.exists() else Path(url2pathname(rest.removeprefix("localhost"))), wanted)
    if scheme == "v4l2":
        return _camera(text, f"/dev/video{rest}" if rest.isdecimal() else rest, wanted, cv2.CAP_V4L2)
    if scheme in ("csi", "gst"):
        return _gstreamer(scheme, text, rest, wanted)
    if scheme == "raw":
        return open_raw(rest, wanted)
    if scheme == "scenes":
        return open_rooms(rest, wanted)
    if scheme in ADDRESSES:
        return open_address(f"{scheme}://{rest}", wanted)
    raise UsageError(f"unknown source {text!r}; a source is {SOURCE_FORMS}")


def _gstreamer(scheme: str, text: str, rest: str, wanted: Wanted) -> Source:
    if scheme == "csi" and not rest.isdecimal():
        raise UsageError(f"{text!r}: csi:// takes the sensor's number, such as csi://0")
    require_gstreamer(text)
    size, rate = wanted.size or (720, 1280), wanted.rate or 30
    described = csi_pipeline(int(rest), size, rate) if scheme == "csi" else pipeline(rest)
    problem = "gives no picture; try it with gst-launch-1.0, which says why"
    return open_stream(text, described, cv2.CAP_GSTREAMER, problem=problem, live=True, wanted=wanted)


def _standard_input(wanted: Wanted) -> Source:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("nothing is piped into standard input; `ffmpeg … -f mpegts - | edgemtl demo --source -` does")
    path = Path("/dev/stdin")
    if path.is_fifo() or path.is_file():
        return _path(path, wanted)
    problem = "is not a video that can be read from a pipe, such as MPEG-TS or Matroska"
    return open_stream("-", "pipe:0", cv2.CAP_FFMPEG, ONE_THREAD, problem=problem, live=True, ends=True, wanted=wanted)


def _camera(name: str, where: int | str, wanted: Wanted, backend: int = cv2.CAP_ANY) -> Source:
    device = Path(f"/dev/video{where}" if isinstance(where, int) else where)
    if sys.platform == "linux" and not device.exists():
        cameras = sorted(Path("/dev").glob("video*"), key=by_number)
        raise UsageError(f"no camera {name}: {device} does not exist; found: {', '.join(map(str, cameras)) or 'none'}")
    problem = "gives no picture: in use, or no permission?"
    return open_stream(name, where, backend, problem=problem, live=True, device=True, wanted=wanted)


def _path(path: Path, wanted: Wanted) -> Source:
    """A source by what stands at a path, which need not be a file."""
    if path.is_dir():
        return _images(path, images_in(path), wanted)
    if path.is_fifo():
        return open_pipe(path, wanted)
    if path.is_char_device() or re.fullmatch(r"/dev/video\d+", str(path)):
        return _camera(str(path), str(path), wanted, cv2.CAP_V4L2)
    if path.is_file():
        return _file(path, wanted)
    if path.exists():
        raise UsageError(f"{path} is neither a file, a folder, a camera nor a pipe; a source is {SOURCE_FORMS}")
    if (number := NUMBER.search(path.name)) and path.parent.is_dir():
        digits = rf"\d{{{int(number[1])},}}" if number[1] else r"\d+"
        name = re.compile(re.escape(path.name[: number.start()]) + digits + re.escape(path.name[number.end() :]))
        return _images(path.parent, images_in(path.parent, name, path.name), wanted)
    raise UsageError(f"{path} does not exist; a source is {SOURCE_FORMS}")


def images_in(folder: Path, name: re.Pattern[str] | None = None, kind: str = ", ".join(sorted(IMAGES))) -> list[Path]:
    """A folder's images by number, or its files whose whole name matches; UsageError where there is no such `kind`."""
    fits = (lambda file: name.fullmatch(file.name)) if name else (lambda file: file.suffix.lower() in IMAGES)
    # macOS leaves a ._x.png by x.png.
    images = sorted((file for file in folder.iterdir() if file.name[0] != "." and fits(file)), key=by_number)
    if not images:
        raise UsageError(f"{folder} holds no images ({kind})")
    return images


def _file(path: Path, wanted: Wanted) -> Source:
    """A video, one picture, or several in one file."""
    if cv2.haveImageReader(str(path)) and (pages := cv2.imcount(str(path))) > 1:
        return _pages(path, pages, wanted)
    # What begins as a picture may go on: .mjpeg is one JPEG after another.
    if path.suffix.lower() in IMAGES or cv2.haveImageReader(str(path)) and not _goes_on(path):
        return _images(path, [path], wanted)
    problem = "is not a video that OpenCV can decode"
    return open_stream(str(path), str(path), cv2.CAP_FFMPEG, problem=problem, live=False, wanted=wanted)


def _goes_on(path: Path) -> bool:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return capture.read()[0] and capture.read()[0]
    finally:
        capture.release()


def _pages(path: Path, pages: int, wanted: Wanted) -> Source:
    """The pictures of an animation at its own rate, or an image's pages; UsageError where none can be read."""
    if path.suffix.lower() in (".tif", ".tiff") or not hasattr(cv2, "imreadanimation"):
        pictures, wait_ms = cv2.imreadmulti(str(path), flags=cv2.IMREAD_COLOR)[1], 1000 / SLIDES_PER_S
    else:
        animation = cv2.imreadanimation(str(path))[1]
        pictures, wait_ms = animation.frames, float(np.median(animation.durations)) if animation.frames else 0.0
    if not pictures:
        raise UsageError(f"{path} is not an image that OpenCV can read")

    def frames() -> Frames:
        for _ in turns(wanted):
            for picture in pictures:
                yield cv2.cvtColor(picture, cv2.COLOR_BGRA2RGB if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB)
            if len(pictures) < pages:
                raise CheckFailed(f"{path} is damaged: {pages - len(pictures)} of its {pages} frames could not be read")

    size, fps = pictures[0].shape[:2], 1000 / max(1.0, wait_ms)
    return Source(str(path), frames(), size=size, fps=fps, live=False, length=pages, wanted=wanted)


def _images(path: Path, files: list[Path], wanted: Wanted) -> Source:
    """The images that can be read; UsageError where none of them can."""
    readable = ((number, image) for number, file in enumerate(files) if (image := _image(file)) is not None)
    start, first = next(readable, (0, None))
    if first is None:
        raise UsageError(f"{files[0]} is not an image that OpenCV can read")

    def frames() -> Frames:
        for turn in turns(wanted):
            unread = files[:start]
            if not turn:
                yield first
            for file in files[start + (not turn) :]:
                if (image := _image(file)) is None:
                    unread.append(file)
                else:
                    yield image
            if unread:
                names = ", ".join(file.name for file in unread[:NAMED]) + (" …" if len(unread) > NAMED else "")
                raise CheckFailed(f"{path}: {len(unread)} of {len(files)} images could not be read: {names}")

    size = first.shape[:2]
    return Source(str(path), frames(), size=size, fps=SLIDES_PER_S, live=False, length=len(files), wanted=wanted)


def turns(wanted: Wanted) -> Iterable[int]:
    """How often a folder or an animation is shown, counted from 0."""
    return count() if wanted.loop else range(1)


def _image(path: Path) -> np.ndarray | None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def by_number(path: Path) -> list[int | str]:
    """A sorting key under which frame 10 follows frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
