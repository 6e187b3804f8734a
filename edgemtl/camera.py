"""Frames from cameras, files, folders and streams, and pictures back into a video file.

| text                                  | source                                                        |
|---------------------------------------|---------------------------------------------------------------|
| `0`, `1` …, `v4l2:///dev/video0`      | a USB or built-in camera                                       |
| `csi://0`                             | a Jetson's CSI camera (needs an OpenCV built with GStreamer)   |
| `rtsp://…`, `http://…`, `https://…`   | a network camera, or a video file on a server                  |
| `clip.mp4`, `file:///data/clip.mp4`   | a video file, or one image                                     |
| `folder/`                             | its images, sorted by name                                     |
"""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import cv2
import numpy as np

from edgemtl.errors import UsageError
from edgemtl.tasks import Size

# FFmpeg's own messages would bury the one line that we say instead; read when OpenCV first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
CODECS = {".mp4": ("avc1", "mp4v"), ".webm": ("VP80",)}
FORMS = "a camera number, a video file, a folder of images, v4l2:///dev/video0, csi://0, rtsp://… or http://…"
AHEAD = 4  # frames read before they are asked for
PATIENCE_S = 5.0  # without a frame from a live source
SLIDES_PER_S = 2.0  # images of a folder have no frame rate of their own


class Source:
    """An iterator of uint8 RGB frames (H, W, 3), captured in a thread of its own.

    A live source hands out only its newest frame, so a slow reader sees the present and never a queue.
    Any other source hands out every frame in order, a few of them read ahead.

    >>> from edgemtl.camera import open_source
    >>> with open_source("clip.webm") as source:
    ...     shapes = {frame.shape for frame in source}
    >>> shapes
    {(120, 160, 3)}
    """

    def __init__(
        self, name: str, frames: Iterator[np.ndarray], *, size: Size, fps: float, live: bool, length: int | None = None
    ) -> None:
        self.name, self.size, self.fps, self.live = name, size, fps, live
        self.length = length  # how many frames there are, about; None: endless or unknown
        self.paced = False  # True: frames of a file come no faster than they were filmed
        self.captured = 0.0  # time.perf_counter() of the last frame handed out; of a file: when it was handed out
        self._frames = frames
        self._held: deque[tuple[np.ndarray, float]] = deque(maxlen=1 if live else AHEAD)
        self._changed = Condition()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._thread = Thread(target=self._capture, name=f"capture {name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Source":
        return self

    def __next__(self) -> np.ndarray:
        """The next frame; UsageError where a live source has gone silent or a file is broken."""
        if self.paced and not self.live:
            time.sleep(max(0.0, self.captured + 1 / self.fps - time.perf_counter()))
        with self._changed:
            ready = lambda: self._held or self._ended or self._closed  # noqa: E731
            if not self._changed.wait_for(ready, PATIENCE_S if self.live else None):
                raise UsageError(f"{self.name} gave no frame for {PATIENCE_S:.0f} seconds; is it still connected?")
            if self._closed or not self._held:
                raise (None if self._closed else self._error) or StopIteration
            frame, at = self._held.popleft()
            self._changed.notify_all()
        self.captured = at if self.live else time.perf_counter()
        return frame

    def close(self) -> None:
        """Ends the capture; a frame in the making is waited for briefly."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=2)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _capture(self) -> None:
        try:
            for frame in self._frames:
                at = time.perf_counter()
                with self._changed:
                    if not self.live:
                        self._changed.wait_for(lambda: len(self._held) < AHEAD or self._closed)
                    if self._closed:
                        break
                    self._held.append((frame, at))
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            self._frames.close()  # type: ignore[attr-defined]  # a generator: releases the device
            with self._changed:
                self._ended = True
                self._changed.notify_all()


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
        limit = int(1000 * PATIENCE_S)
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        return _stream(text, text, cv2.CAP_FFMPEG, options, problem="gives no picture; is the address right?")
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
    return _stream(name, where, backend, problem="gives no picture: in use, or no permission?", live=True)


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
    return _stream(str(path), str(path), cv2.CAP_FFMPEG, problem="is not a video that OpenCV can decode", live=False)


def _images(path: Path, files: list[Path]) -> Source:
    first = _image(files[0])
    frames = (image for image in chain([first], map(_image, files[1:])))
    return Source(str(path), frames, size=first.shape[:2], fps=SLIDES_PER_S, live=False, length=len(files))


def _image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError(f"{path} is not an image that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _stream(name: str, *where: Any, problem: str, live: bool | None = None) -> Source:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(*where)
    _, first = capture.read()
    if first is None:
        capture.release()
        raise UsageError(f"{name} {problem}")
    length = max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    if live is None:
        live = length is None
    if live:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 1 <= fps <= 240 else 30.0  # cameras that do not know say 0, some streams 90000
    frames = _grab(name, capture, first, live)
    return Source(name, frames, size=first.shape[:2], fps=fps, live=live, length=None if live else length)


def _grab(name: str, capture: cv2.VideoCapture, frame: np.ndarray | None, live: bool) -> Iterator[np.ndarray]:
    try:
        while frame is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            _, frame = capture.read()
        if live:
            raise UsageError(f"{name} stopped giving frames; was it disconnected?")
    finally:
        capture.release()


def _by_number(path: Path) -> list[int | str]:
    """A sorting key under which frame 10 follows frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


class Recorder:
    """Writes pictures, uint8 RGB (H, W, 3), to an .mp4 or .webm file; browsers play .webm (VP8).

    The file appears under its name when the recorder is closed, complete, and not at all before.
    Later pictures of another size are fitted into the first one's. Encoding runs in a thread of its own.
    Raises UsageError at once where the path cannot be written or the format not encoded.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.frames = 0
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._size: Size | None = None
        self._start = 0.0
        self._pending: Future[None] | None = None
        if path.suffix not in CODECS:
            raise UsageError(f"cannot record to {path}: its name must end in {' or '.join(CODECS)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            self._part.touch()
            self._writer = self._open((64, 64))  # tries the codec; replaced when the size is known
            self._writer.release()
        except OSError as error:
            file = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "its folder is a file" if file else str(error.strerror).lower()
            raise UsageError(f"cannot record to {path}: {reason}") from None
        finally:
            if self._part.parent.is_dir():
                self._part.unlink(missing_ok=True)
        self._thread = ThreadPoolExecutor(1, "record")

    def add(self, picture: np.ndarray, at: float | None = None) -> None:
        """Appends a picture; with `at` (seconds) it is repeated or left out so that the film runs in real time."""
        if self._size is None:
            self._size = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # codecs want even numbers
            self._writer = self._open(self._size)
            self._start = at or 0.0
        times = 1
        if at is not None:
            times = max(0, round((at - self._start) * self.fps) + 1 - self.frames)
            if times > 2 * self.fps:  # a pause is no film
                self._start += (times - 1) / self.fps
                times = 1
            if self._pending is not None and not self._pending.done():
                return  # a slow encoder must not hold up a live picture; the next one fills the gap
        if times:
            self.frames += times
            self._wait()
            self._pending = self._thread.submit(self._write, picture, times)

    def close(self) -> None:
        """Completes the file; UsageError where the disk had no room for it. Without pictures there is no file."""
        try:
            self._wait()
            self._writer.release()
            if self.frames:
                self._check()
                os.replace(self._part, self.path)
        finally:
            self._thread.shutdown()
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, size: Size) -> cv2.VideoWriter:
        for codec in CODECS[self.path.suffix]:
            with _quiet():
                writer = cv2.VideoWriter(
                    str(self._part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.fps, (size[1], size[0])
                )
            if writer.isOpened():
                return writer
        raise UsageError(f"cannot record to {self.path}: this OpenCV has no encoder for {self.path.suffix}")

    def _write(self, picture: np.ndarray, times: int) -> None:
        assert self._size is not None
        encoded = cv2.cvtColor(_letterbox(picture, self._size), cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(encoded)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _check(self) -> None:
        # OpenCV's writer reports no error, so the file itself is asked.
        written = cv2.VideoCapture(str(self._part), cv2.CAP_FFMPEG)
        length = written.get(cv2.CAP_PROP_FRAME_COUNT)
        readable = written.read()[0]
        written.release()
        if not readable or abs(length - self.frames) > 1 + 0.01 * self.frames:
            raise UsageError(f"cannot record to {self.path}: the file is incomplete; is the disk full?")


def _letterbox(picture: np.ndarray, size: Size) -> np.ndarray:
    """The picture cropped by a pixel or shrunk to fit `size`, black around it."""
    height, width = size
    if picture.shape[0] - height in (0, 1) and picture.shape[1] - width in (0, 1):
        return picture[:height, :width]
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = cv2.resize(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what C libraries print on standard error: a VP8 file is fine, whatever OpenCV says of its tag."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
