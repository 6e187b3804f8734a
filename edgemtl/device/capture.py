"""Frames as they are captured: in a thread of their own, the newest first where they are live."""

import math
import os
import select
import time
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import cv2
import numpy as np

from edgemtl.errors import CheckFailed, UsageError
from edgemtl.tasks import Size

# FFmpeg's own messages would bury the one line that we say instead; read when OpenCV first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

AHEAD = 4  # frames read before they are asked for
PATIENCE_S = 5.0  # without a frame from a live source
FAILURES = 100  # failed reads in a row that are read over; an ended stream fails as often within milliseconds
ONE_THREAD = [cv2.CAP_PROP_N_THREADS, 1]  # FFmpeg decodes a frame in each, and so would hold back as many
STAMPED = ("rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "tcp", "udp")  # what comes by http:// may be made-up times
DRIFT = 2e-4  # by how much a camera's clock may go slower than ours
FASTEST = 240.0  # frames per second that a camera may be believed to give

Frames = Generator[np.ndarray, None, None]


class Source:
    """An iterator of uint8 RGB frames (H, W, 3), captured in a thread of its own.

    A live source hands out only its newest frame, so a slow reader sees the present and never a queue.
    Any other source hands out every frame in order, a few of them read ahead.

    >>> from edgemtl.device.camera import open_source
    >>> with open_source("clip.webm") as source:
    ...     shapes = {frame.shape for frame in source}
    >>> shapes
    {(120, 160, 3)}
    """

    def __init__(
        self,
        name: str,
        frames: Frames,
        *,
        size: Size,
        fps: float,
        live: bool,
        length: int | None = None,
        when: Callable[[], float] = time.perf_counter,
        lost: Callable[[], int] = int,
    ) -> None:
        self.name, self.size, self.fps, self.live = name, size, fps, live
        self.length = length  # how many frames there are, about; None: endless or unknown
        self.paced = False  # True: frames of a file come no faster than they were filmed
        # time.perf_counter() when the last frame handed out was captured; of a file: when it was handed out.
        self.captured = 0.0
        self._frames, self._when = frames, when  # asked after each frame: when it was captured
        self._lost = lost
        self._held: deque[tuple[np.ndarray, float]] = deque(maxlen=1 if live else AHEAD)
        self._changed = Condition()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._thread = Thread(target=self._capture, name=f"capture {name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Source":
        return self

    def __next__(self) -> np.ndarray:
        """The next frame; UsageError where a live source is lost, CheckFailed at the end of one that was not whole."""
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

    @property
    def lost(self) -> int:
        """How many frames so far could not be read; a file says it by itself at its end."""
        return self._lost()

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
                at = self._when()
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
            self._frames.close()  # releases the device
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def open_stream(
    name: str, *where: Any, problem: str, live: bool | None = None, ends: bool = False, stamped: bool = False
) -> Source:
    """A source of what OpenCV's VideoCapture opens; UsageError with `problem` where it gives no frame.

    With live=None whatever does not know its length is live. A live one is lost when it ends, unless it `ends`.
    The frames of a `stamped` one carry the time at which they were sent.
    """
    capture = cv2.VideoCapture(*where)
    length = max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    live = length is None if live is None else live
    reader = Reader(name, capture, None if live else length, stamped)
    first = reader.read()
    if first is None:
        capture.release()
        raise UsageError(f"{name} {problem}")
    if live:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    begin, fps, length = [first], reader.fps, reader.length
    if not 0 < fps < math.inf or (live and fps > FASTEST):  # cameras that do not know say 0, some streams 90000
        fps = 30.0
    # A film whose frames come unevenly may give the ticks of its clock as its rate; the frames themselves tell.
    elif fps > FASTEST and (second := reader.read()) is not None:
        begin.append(second)
        if (reader.at - reader.began) * fps > 1.5:
            fps = 1 / (reader.at - reader.began)
            length = length and max(2, round(length * fps / reader.fps))
    frames = reader.frames(begin, endless=live and not ends)
    when, lost = lambda: reader.captured, lambda: reader.failed
    return Source(name, frames, size=first.shape[:2], fps=fps, live=live, length=length, when=when, lost=lost)


def open_address(address: str) -> Source:
    """A source of what a server sends; UsageError where it sends no frame."""
    limit = int(1000 * PATIENCE_S)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit, *ONE_THREAD]
    problem, stamped = "gives no picture; is the address right?", address.partition(":")[0] in STAMPED
    return open_stream(address, address, cv2.CAP_FFMPEG, options, problem=problem, stamped=stamped)


def open_pipe(path: Path) -> Source:
    """A live source of what another program writes into a named pipe; UsageError where none does, or no video."""
    waiting = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # FFmpeg would wait for the writer, deaf to Ctrl-C
    try:
        if not select.select([waiting], [], [], PATIENCE_S)[0]:
            raise UsageError(f"{path}: no program wrote into this pipe for {PATIENCE_S:.0f} seconds")
        problem = "is not a video that can be read from a pipe, such as MPEG-TS or Matroska"
        return open_stream(str(path), str(path), cv2.CAP_FFMPEG, ONE_THREAD, problem=problem, live=True, ends=True)
    finally:
        os.close(waiting)


class Reader:
    """Reads one VideoCapture to its end, over what is damaged, and says what was missing."""

    def __init__(self, name: str, capture: cv2.VideoCapture, length: int | None, stamped: bool) -> None:
        self.name, self.length = name, length
        self.captured = 0.0  # time.perf_counter() when the last frame was captured, as far as anybody tells
        self._sent = StreamClock() if stamped else None
        self._driver = capture.isOpened() and capture.getBackendName() == "V4L2"
        self.fps = capture.get(cv2.CAP_PROP_FPS)
        self.given = 0  # frames read
        self.failed = 0  # reads that failed before another one did not
        self.began = self.at = 0.0  # seconds into the film: of the first frame, of the last one
        self.jump = 0.0  # the longest time between two frames, in seconds
        self._capture = capture

    def read(self) -> np.ndarray | None:
        """The next frame, BGR, or None where none comes any more."""
        begin = time.perf_counter()
        for failed in range(max(FAILURES, (self.length or 0) - self.given)):
            grabbed = self._capture.grab()
            came = time.perf_counter()
            frame = self._capture.retrieve()[1] if grabbed else None
            if frame is not None:
                at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if self.given:
                    self.jump = max(self.jump, at - self.at)
                else:
                    self.began = at
                self.at = at
                self.captured = self._when(at, came)
                self.given += 1
                self.failed += failed
                return frame
            if not self._capture.isOpened() or time.perf_counter() - begin > PATIENCE_S:
                break
        return None

    def _when(self, at: float, came: float) -> float:
        # A driver tells when it got the picture, on Linux by perf_counter's own clock; a few use another one.
        if self._driver:
            return at if 0 <= came - at < PATIENCE_S else came
        return self._sent(at, came) if self._sent else came

    def frames(self, begin: list[np.ndarray], endless: bool) -> Frames:
        """All frames, RGB, `begin` of which have been read already.

        Then UsageError where an endless one is lost, CheckFailed where a file was not whole.
        """
        try:
            frame: np.ndarray | None = begin[0]
            while frame is not None:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                frame = begin.pop(1) if len(begin) > 1 else self.read()
            if endless:
                raise UsageError(f"{self.name} stopped giving frames; was it disconnected?")
            if problem := self.missing():
                raise CheckFailed(f"{self.name} {problem}")
        finally:
            self._capture.release()

    def missing(self) -> str | None:
        """What a file lacks, in words, now that it has been read."""
        length = self.length or self.given + self.failed
        missing = max(self.failed, length - self.given)
        if self.failed:
            return f"is damaged: {missing} of its {length} frames could not be read"
        # Some containers keep only a duration and a rate, which say how many frames there are if they come evenly: so
        # it takes the time, too, to say that some are missing.
        if missing <= 1 + 0.01 * length or self.fps <= 0:
            return None
        if self.at + 2 / self.fps < 0.99 * length / self.fps:
            return f"ended after {self.given} of its {length} frames: it is cut short, or its server stopped"
        if self.jump * self.fps - 1 > 0.8 * missing:
            return f"is damaged: {missing} of its {length} frames are missing, in a gap of {self.jump:.2g} seconds"
        return None


class StreamClock:
    """When the frames of a stream were sent, by their time stamps: the least delayed one was sent as it came.

    What all of them are late by, the camera's encoder and the way here, cannot be seen so; a queue can.
    """

    def __init__(self) -> None:
        self._stamp, self._came, self._offset = -math.inf, 0.0, math.inf

    def __call__(self, stamp: float, came: float) -> float:
        """time.perf_counter() when a frame was sent that has this stamp, in seconds, and came at this time."""
        if stamp <= self._stamp:  # it has begun anew, or tells no time
            self._offset = math.inf
        self._offset = min(self._offset + DRIFT * (came - self._came), came - stamp)
        self._stamp, self._came = stamp, came
        return stamp + self._offset
