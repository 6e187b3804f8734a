"""Frames from cameras, files, folders and streams, and pictures back into a video file.

| text                                   | source                                                              |
|----------------------------------------|---------------------------------------------------------------------|
| `0`, `1` …, `/dev/video0`              | a USB or built-in camera; `v4l2:///dev/video0` as well               |
| `csi://0`                              | a Jetson's CSI camera (needs an OpenCV built with GStreamer)         |
| `rtsp://…`, `http://…`, `udp://…` …    | a network camera or a stream, or a video file on a server            |
| `clip.mp4`, `file:///data/a%20b.mp4`   | a video file, an image, an animation, or an image of several pages   |
| `folder/`, `folder/frame_%04d.png`     | its images, sorted by number; only those of such names               |
| a named pipe, `/dev/stdin`             | a live stream that another program writes, as MPEG-TS or Matroska    |
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.request import url2pathname

import cv2
import numpy as np

from edgemtl.device.capture import Frames, Source, open_address, open_pipe, open_stream
from edgemtl.device.film import Recorder
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.tasks import Size

__all__ = ["Recorder", "Source", "csi_pipeline", "open_source"]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
ADDRESSES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "rtmp", "rtmps", "srt")
FORMS = "a camera number, /dev/video0, a video file, a folder of images, frame_%04d.png, csi://0, rtsp://… or http://…"
NUMBER = re.compile(r"%(0\d+)?d")  # as in frame_%04d.png
NAMED = 5  # files in one message
SLIDES_PER_S = 2.0  # images of a folder have no frame rate of their own


def open_source(text: str) -> Source:
    """The source that `text` names; its first frame has been read, so it works. UsageError where it does not."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # one line of ours says it instead
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        return _camera(text, int(text)) if text.isdecimal() else _path(Path(text).expanduser())
    if scheme == "file":
        raw = Path(rest).expanduser()
        return _path(raw if raw.exists() else Path(url2pathname(rest.removeprefix("localhost"))))
    if scheme == "v4l2":
        return _camera(text, f"/dev/video{rest}" if rest.isdecimal() else rest, cv2.CAP_V4L2)
    if scheme == "csi":
        if not rest.isdecimal():
            raise UsageError(f"{text!r}: csi:// takes the sensor's number, such as csi://0")
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise UsageError(f"{text} needs an OpenCV built with GStreamer (JetPack's is; pip's opencv-python is not)")
        return _camera(text, csi_pipeline(int(rest)), cv2.CAP_GSTREAMER)
    if scheme in ADDRESSES:
        return open_address(f"{scheme}://{rest}")
    raise UsageError(f"unknown source {text!r}; a source is {FORMS}")


def csi_pipeline(sensor: int, size: Size = (720, 1280), fps: int = 30) -> str:
    """The GStreamer pipeline of a Jetson's CSI camera; it drops old frames by itself."""
    height, width = size
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={fps}/1 ! nvvidconv ! "
        "video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def _camera(name: str, where: int | str, backend: int = cv2.CAP_ANY) -> Source:
    device = Path(f"/dev/video{where}" if isinstance(where, int) else where)
    if sys.platform == "linux" and backend != cv2.CAP_GSTREAMER and not device.exists():
        found = sorted(Path("/dev").glob("video*"), key=_by_number)
        raise UsageError(f"no camera {name}: {device} does not exist; found: {', '.join(map(str, found)) or 'none'}")
    return open_stream(name, where, backend, problem="gives no picture: in use, or no permission?", live=True)


def _path(path: Path) -> Source:
    """A source by what stands at a path, which need not be a file."""
    if path.is_dir():
        return _folder(path, (p for p in path.iterdir() if p.suffix.lower() in IMAGES), ", ".join(sorted(IMAGES)))
    if path.is_fifo():
        return open_pipe(path)
    if path.is_char_device() or re.fullmatch(r"/dev/video\d+", str(path)):
        return _camera(str(path), str(path), cv2.CAP_V4L2)
    if path.is_file():
        return _file(path)
    if path.exists():
        raise UsageError(f"{path} is neither a file, a folder, a camera nor a pipe; a source is {FORMS}")
    if (number := NUMBER.search(path.name)) and path.parent.is_dir():
        digits = rf"\d{{{int(number[1])},}}" if number[1] else r"\d+"
        name = re.compile(re.escape(path.name[: number.start()]) + digits + re.escape(path.name[number.end() :]))
        return _folder(path.parent, (p for p in path.parent.iterdir() if name.fullmatch(p.name)), path.name)
    raise UsageError(f"{path} does not exist; a source is {FORMS}")


def _folder(path: Path, files: Iterable[Path], kind: str) -> Source:
    images = sorted((f for f in files if not f.name.startswith(".")), key=_by_number)  # macOS leaves a ._x.png by x.png
    if not images:
        raise UsageError(f"{path} holds no images ({kind})")
    return _images(path, images)


def _file(path: Path) -> Source:
    """A video, one picture, or several in one file."""
    if cv2.haveImageReader(str(path)) and (count := cv2.imcount(str(path))) > 1:
        return _pages(path, count)
    # What begins as a picture may go on: .mjpeg is one JPEG after another.
    if path.suffix.lower() in IMAGES or cv2.haveImageReader(str(path)) and not _goes_on(path):
        return _images(path, [path])
    return open_stream(
        str(path), str(path), cv2.CAP_FFMPEG, problem="is not a video that OpenCV can decode", live=False
    )


def _goes_on(path: Path) -> bool:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return capture.read()[0] and capture.read()[0]
    finally:
        capture.release()


def _pages(path: Path, count: int) -> Source:
    """The pictures of an animation at its own rate, or an image's pages; UsageError where none can be read."""
    if path.suffix.lower() in (".tif", ".tiff") or not hasattr(cv2, "imreadanimation"):
        pictures, wait_ms = cv2.imreadmulti(str(path), flags=cv2.IMREAD_COLOR)[1], 1000 / SLIDES_PER_S
    else:
        animation = cv2.imreadanimation(str(path))[1]
        pictures, wait_ms = animation.frames, float(np.median(animation.durations)) if animation.frames else 0.0
    if not pictures:
        raise UsageError(f"{path} is not an image that OpenCV can read")

    def frames() -> Frames:
        for picture in pictures:
            yield cv2.cvtColor(picture, cv2.COLOR_BGRA2RGB if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        if len(pictures) < count:
            raise CheckFailed(f"{path} is damaged: {count - len(pictures)} of its {count} frames could not be read")

    size, fps = pictures[0].shape[:2], 1000 / max(1.0, wait_ms)
    return Source(str(path), frames(), size=size, fps=fps, live=False, length=count)


def _images(path: Path, files: list[Path]) -> Source:
    """The images that can be read; UsageError where none of them can."""
    unread: list[Path] = []
    rest = iter(files)
    for file in rest:
        if (first := _image(file)) is not None:
            break
        unread.append(file)
    else:
        raise UsageError(f"{files[0]} is not an image that OpenCV can read")

    def frames() -> Frames:
        yield first
        for file in rest:
            if (image := _image(file)) is None:
                unread.append(file)
            else:
                yield image
        if unread:
            names = ", ".join(file.name for file in unread[:NAMED]) + (" …" if len(unread) > NAMED else "")
            raise CheckFailed(f"{path}: {len(unread)} of {len(files)} images could not be read: {names}")

    return Source(str(path), frames(), size=first.shape[:2], fps=SLIDES_PER_S, live=False, length=len(files))


def _image(path: Path) -> np.ndarray | None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _by_number(path: Path) -> list[int | str]:
    """A sorting key under which frame 10 follows frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
