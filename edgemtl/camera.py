"""Frames from cameras, files, folders and streams, and pictures back into a video file.

| text                                  | source                                                        |
|---------------------------------------|---------------------------------------------------------------|
| `0`, `1` …, `v4l2:///dev/video0`      | a USB or built-in camera                                       |
| `csi://0`                             | a Jetson's CSI camera (needs an OpenCV built with GStreamer)   |
| `rtsp://…`, `http://…`, `https://…`   | a network camera, or a video file on a server                  |
| `clip.mp4`, `file:///data/clip.mp4`   | a video file, or one image                                     |
| `folder/`                             | its images, sorted by name                                     |
"""

import re
import sys
from pathlib import Path

import cv2
import numpy as np

from edgemtl.capture import Frames, Source, open_address, open_stream
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.film import Recorder
from edgemtl.tasks import Size

__all__ = ["Recorder", "Source", "csi_pipeline", "open_source"]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMS = "a camera number, a video file, a folder of images, v4l2:///dev/video0, csi://0, rtsp://… or http://…"
NAMED = 5  # files in one message
SLIDES_PER_S = 2.0  # images of a folder have no frame rate of their own


def open_source(text: str) -> Source:
    """The source that `text` names; its first frame has been read, so it works. UsageError where it does not."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _camera(text, int(text)) if text.isdecimal() else _path(Path(text).expanduser())
    if scheme == "file":
        return _path(Path(rest).expanduser())
    if scheme == "v4l2":
        return _camera(text, rest, cv2.CAP_V4L2)
    if scheme == "csi":
        if not rest.isdecimal():
            raise UsageError(f"{text!r}: csi:// takes the sensor's number, such as csi://0")
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise UsageError(f"{text} needs an OpenCV built with GStreamer (JetPack's is; pip's opencv-python is not)")
        return _camera(text, csi_pipeline(int(rest)), cv2.CAP_GSTREAMER)
    if scheme in ("rtsp", "http", "https"):
        return open_address(text)
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
    if path.is_dir():
        images = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGES), key=_by_number)
        if not images:
            raise UsageError(f"{path} holds no images ({', '.join(sorted(IMAGES))})")
        return _images(path, images)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; a source is {FORMS}")
    if path.suffix.lower() in IMAGES or cv2.haveImageReader(str(path)):
        return _images(path, [path])
    return open_stream(
        str(path), str(path), cv2.CAP_FFMPEG, problem="is not a video that OpenCV can decode", live=False
    )


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
