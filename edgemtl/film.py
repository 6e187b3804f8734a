"""Pictures into a video file."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from edgemtl.errors import UsageError
from edgemtl.tasks import Size

CODECS = {".mp4": ("avc1", "mp4v"), ".webm": ("VP80",)}


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
