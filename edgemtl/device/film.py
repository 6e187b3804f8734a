"""Writes pictures into a video file.

Another process encodes and writes them, so that the film survives whatever ends this process: a signal, a display that
dies, a crash in a runtime. When no more pictures come, that process completes the file.

If that process or the machine ends too, the part that was written can still be read: an .mp4 is fragmented, a .webm is
so by nature. The next recording into the same folder gives that part a name.
"""

import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from edgemtl.device.stream import hush
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size

CODECS = {".mp4": ("avc1", "mp4v"), ".webm": ("VP80",)}
# The file's suffix until it is complete. FFmpeg's .ismv is an .mp4 in fragments, each of which can be read by itself;
# an ordinary .mp4 can only once its index is written, at its end.
PART_SUFFIXES = {".mp4": ".ismv", ".webm": ".webm"}
BRANDS = b"ftypisml", b"ftypiso5"  # as the fragments' file calls itself, as players know it
SLOWEST = 0.1  # frames per second that encoders take; slower films repeat theirs
RESERVE = 8 << 20  # bytes of the disk left free
FRESH_S = 5.0  # within which a file that grows has changed
READY, DONE, FULL = "ready", "done", "the disk is full"
SIZE, TIMES = "<II", "<I"  # numbers on the way to the other process


class Recorder(AbstractContextManager["Recorder"]):
    """Writes pictures, uint8 RGB (H, W, 3), to an .mp4 or .webm file; browsers play .webm (VP8).

    The file appears under its name, complete, when the recorder is closed, this process ends, or the disk is full.
    Later pictures of another size are fitted into the first one's. Encoding runs in a process of its own.
    Raises UsageError at once where the path cannot be written or the format not encoded.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self._repeat = path, math.ceil(SLOWEST / fps)
        self.fps = round(fps * self._repeat, 0 if fps > 600 else 3)  # MPEG-4 counts in 1/65535 s at most
        self.frames = 0
        self._size: Size | None = None
        self._start = 0.0
        self._pending: Future[None] | None = None
        self._failed = False
        if path.suffix.lower() not in CODECS:
            raise UsageError(f"cannot record to {path}: its name must end in {' or '.join(CODECS)}")
        part = path.with_name(f".{path.stem}.{os.getpid()}.part{PART_SUFFIXES[path.suffix.lower()]}")
        recover(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            part.touch()
            part.unlink()
        except OSError as error:
            file = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "its folder is a file" if file else str(error.strerror).lower()
            raise UsageError(f"cannot record to {path}: {reason}") from None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgemtl.device.film", str(part.absolute()), str(path.absolute()), str(self.fps)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENCV_FFMPEG_LOGLEVEL": "-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a VP8 file is fine, whatever OpenCV says of its tag
            start_new_session=True,  # Ctrl-C and a closed terminal are not for it
        )
        self._thread = ThreadPoolExecutor(1, "record")
        assert self._process.stdout is not None
        if (answer := self._process.stdout.readline().decode().strip()) != READY:
            self._thread.shutdown()
            self._tell(last=True)
            raise self._problem(answer or "the process that writes it does not start")

    def add(self, picture: np.ndarray, at: float | None = None) -> None:
        """Appends a picture; with `at` (seconds) it is repeated or left out so that the film runs in real time.

        UsageError if the disk is full; the film is then complete up to this picture.
        """
        if self._size is None:
            self._size = picture.shape[0] // 2 * 2 or 2, picture.shape[1] // 2 * 2 or 2  # codecs want even numbers
            self._start = at or 0.0
        times = self._repeat
        if at is not None:
            times = max(0, round((at - self._start) * self.fps) + 1 - self.frames)
            if times > max(2, 2 * self.fps):  # a pause is no film
                self._start += (times - 1) / self.fps
                times = 1
            if self._pending is not None and not self._pending.done():
                return  # a slow encoder must not hold up a live picture; the next one fills the gap
        if times:
            self._wait()
            head = b"" if self.frames else struct.pack(SIZE, *self._size)
            self._pending = self._thread.submit(self._write, head, picture, times)
            self.frames += times

    def close(self) -> None:
        """Completes the file; UsageError where the disk had no room for it. Without pictures there is no file."""
        answer = ""
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            # Its input's end would do, were it not that any process forked meanwhile has it open, too.
            answer = self._tell(struct.pack(TIMES, 0) if self.frames else b"", last=True)
        if not self._failed and answer != DONE:
            raise self._problem(answer)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, head: bytes, picture: np.ndarray, times: int) -> None:
        assert self._size is not None
        encoded = cv2.cvtColor(_letterbox(picture, self._size), cv2.COLOR_RGB2BGR)
        if answer := self._tell(head, struct.pack(TIMES, times), encoded.data):
            raise self._problem(answer)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _tell(self, *blocks: bytes | memoryview, last: bool = False) -> str:
        """Sends data to the other process; returns its answer after the last data, or if it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            for block in blocks:
                self._process.stdin.write(block)
            self._process.stdin.close() if last else self._process.stdin.flush()
            if not last:
                return ""
        except (OSError, ValueError):  # the pipe is broken or, here, closed
            pass
        answer = self._process.stdout.readline().decode().strip()
        if last:
            self._process.wait()
            self._process.stdout.close()
        return answer or "the process that writes it broke off"

    def _problem(self, answer: str) -> UsageError:
        self._failed = True
        return UsageError(f"cannot record to {self.path}: {answer}")


def _letterbox(picture: np.ndarray, size: Size) -> np.ndarray:
    """The picture cropped by a pixel or shrunk to fit `size`, black around it."""
    height, width = size
    if picture.shape[0] - height in (0, 1) and picture.shape[1] - width in (0, 1):
        return picture[:height, :width]
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = cv2.resize(picture, (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def write(part: Path, path: Path, fps: float, pictures: BinaryIO) -> Iterator[str]:
    """The other process' work; it prints one line when it can start and one at its end.

    `pictures` has the size and then, for each picture, how many times it is shown, 0 for the end, and its pixels.
    """
    try:
        if shutil.disk_usage(part.parent).free < RESERVE:
            yield FULL
            return
        if not _open(part, fps, (64, 64)):  # replaced when the size is known
            yield f"this OpenCV has no encoder for {path.suffix}"
            return
        yield READY
        written, full = 0, False
        height, width = _read(pictures, SIZE)
        writer = _open(part, fps, (height, width)) if height else None
        while writer and not full and (times := _read(pictures, TIMES)[0]):
            picture = pictures.read(3 * height * width)
            if len(picture) < 3 * height * width:  # the process that sends has ended
                break
            for _ in range(times):
                writer.write(np.frombuffer(picture, np.uint8).reshape(height, width, 3))
            written += times
            full = shutil.disk_usage(part.parent).free < RESERVE
        if writer:
            writer.release()
        yield _complete(part, path, written, fps, full)
    finally:
        part.unlink(missing_ok=True)


def _read(pictures: BinaryIO, kind: str) -> tuple[int, ...]:
    """Numbers, zeros where there are no more."""
    data = pictures.read(struct.calcsize(kind))
    return struct.unpack(kind, data.ljust(struct.calcsize(kind), b"\0"))


def _open(part: Path, fps: float, size: Size) -> "cv2.VideoWriter | None":
    suffix = next(suffix for suffix, own in PART_SUFFIXES.items() if own == part.suffix)
    for codec in CODECS[suffix]:
        writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0]))
        if writer.isOpened():
            return writer
    return None


def _complete(part: Path, path: Path, written: int, fps: float, full: bool) -> str:
    """Gives the file its name if any of it can be read, and says whether it is whole."""
    if not written:
        return DONE
    # OpenCV's writer reports no error, so the file itself is asked.
    film = cv2.VideoCapture(str(part), cv2.CAP_FFMPEG)
    length = film.get(cv2.CAP_PROP_FRAME_COUNT)
    readable = film.read()[0]
    film.release()
    if not readable:
        return "the file is incomplete; is the disk full?"
    _name(part, path)
    if abs(length - written) > 1 + 0.01 * written:
        return "the file is incomplete; is the disk full?"
    return f"{FULL}; the film ends after {written / fps:.0f} seconds" if full else DONE


def _name(part: Path, path: Path) -> None:
    """Gives a file that is written its name."""
    with part.open("r+b") as file:
        if file.read(12)[4:] == BRANDS[0]:
            file.seek(4)
            file.write(BRANDS[1])
    os.replace(part, path)


def recover(folder: Path) -> list[Path]:
    """Names the films in a folder whose writer was killed, as far as they go; said in a line each."""
    films = []
    for part in sorted(folder.glob(".*.part.*")) if folder.is_dir() else []:
        name = re.fullmatch(r"\.(.+)\.(\d+)\.part(\.\w+)", part.name)
        suffix = next((suffix for suffix, ending in PART_SUFFIXES.items() if name and ending == name[3]), None)
        if not name or suffix is None or _writing(part):
            continue
        film = cv2.VideoCapture(str(part), cv2.CAP_FFMPEG)
        readable = film.read()[0]
        film.release()
        path = folder / f"{name[1]}-recovered-{name[2]}{suffix}"
        with suppress(OSError):
            if not readable:
                part.unlink()
                continue
            _name(part, path)
            films.append(path)
            show.note(f"{path} is what was left of a recording that was killed")
    return films


def _writing(part: Path) -> bool:
    """Whether a process still has the file open; where the system does not say, whether it was written just now."""
    try:
        if time.time() - part.stat().st_mtime < FRESH_S:
            return True
        mine = part.stat()
    except OSError:
        return True
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            other = link.stat()
            if (other.st_dev, other.st_ino) == (mine.st_dev, mine.st_ino):
                return True
    return False


if __name__ == "__main__":
    for number in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to a whole group; the film is completed all the same
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    hush()
    for line in write(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.stdin.buffer):
        with suppress(OSError):  # nobody may be there any more to be told
            print(line, flush=True)
