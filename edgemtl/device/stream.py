"""What OpenCV's VideoCapture opens: cameras, video files, streams; read over damage, and opened again when lost."""

import math
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np

from edgemtl.device import capture
from edgemtl.device.capture import AS_IT_COMES, Frames, Source, Wanted
from edgemtl.ground.errors import CheckFailed, UsageError

# FFmpeg's own messages would bury the one line that we say instead; read when OpenCV first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

FAILURES = 100  # failed reads in a row that are read over; an ended stream fails as often within milliseconds
# FFmpeg decodes a frame in each, and so would hold back as many; an OpenCV before 4.8 cannot be told.
ONE_THREAD = [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, "CAP_PROP_N_THREADS") else []
STAMPED = ("rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "tcp", "udp")  # what comes by http:// may be made-up times
CLOCK_DRIFT = 2e-4  # by how much a camera's clock may go slower than ours
FASTEST = 240.0  # frames per second that a camera may be believed to give
RETRY_S = 0.5  # between two tries to open a lost camera again


def hush() -> None:
    """Keeps OpenCV's own messages back; one line of ours says it instead."""
    if hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    elif hasattr(cv2, "setLogLevel"):  # before OpenCV 4.8
        cv2.setLogLevel(0)


def open_stream(
    name: str,
    *where: Any,
    problem: str,
    live: bool | None = None,
    ends: bool = False,
    stamped: bool = False,
    device: bool = False,
    wanted: Wanted = AS_IT_COMES,
) -> Source:
    """A source of what OpenCV's VideoCapture opens; UsageError with `problem` where it gives no frame.

    With live=None a source that does not know its length is live. A live source that ends is lost, unless `ends` says
    that it may. Frames of a `stamped` one carry the time at which they were sent. A `device` gets the settings
    `wanted`.
    """

    def connect() -> cv2.VideoCapture:
        capture = _opened(*where)
        if device and capture.isOpened():
            _ask(capture, wanted)
        return capture

    opened = connect()
    length = max(0, round(opened.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    live = length is None if live is None else live
    reader = Reader(name, opened, None if live else length, stamped, connect)
    first = reader.read()
    if first is None:
        opened.release()
        raise UsageError(f"{name} {problem}")
    if live:
        opened.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    begin, fps, length = [first], reader.fps, reader.length
    if not 0 < fps < math.inf or (live and fps > FASTEST):  # cameras that do not know say 0, some streams 90000
        fps = 30.0
    # A film whose frames come unevenly may give the ticks of its clock as its rate; the frames themselves tell.
    elif fps > FASTEST and (second := reader.read()) is not None:
        begin.append(second)
        if (reader.at - reader.began) * fps > 1.5:
            fps = 1 / (reader.at - reader.began)
            length = length and max(2, round(length * fps / reader.fps))
    frames = reader.frames(begin, endless=live and not ends, wanted=wanted)
    when, lost = lambda: reader.captured, lambda: reader.lost
    size = first.shape[:2]
    return Source(name, frames, size=size, fps=fps, live=live, length=length, when=when, lost=lost, wanted=wanted)


def _opened(*where: Any) -> cv2.VideoCapture:
    """A VideoCapture; one that is not open where opening hangs, as GStreamer does over elements that do not exist."""
    captures: list[cv2.VideoCapture] = []
    if cv2.CAP_GSTREAMER not in where:
        return cv2.VideoCapture(*where)
    opening = Thread(target=lambda: captures.append(cv2.VideoCapture(*where)), daemon=True)
    opening.start()
    opening.join(2 * capture.PATIENCE_S)
    return captures[0] if captures else cv2.VideoCapture()


def _ask(camera: cv2.VideoCapture, wanted: Wanted) -> None:
    """Sets a camera to what is wanted of it, as far as it can."""
    if wanted.size:
        height, width = wanted.size
        if height * width > 640 * 480:  # raw pictures of that size do not fit through USB 2 at a camera's rate
            camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        camera.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        camera.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if wanted.rate:
        camera.set(cv2.CAP_PROP_FPS, wanted.rate)


def open_address(address: str, wanted: Wanted = AS_IT_COMES) -> Source:
    """A source of what a server sends; UsageError where it sends no frame."""
    limit = int(1000 * capture.PATIENCE_S)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit, *ONE_THREAD]
    problem, stamped = "gives no picture; is the address right?", address.partition(":")[0] in STAMPED
    return open_stream(address, address, cv2.CAP_FFMPEG, options, problem=problem, stamped=stamped, wanted=wanted)


def open_pipe(path: Path, wanted: Wanted = AS_IT_COMES) -> Source:
    """A live source of what another program writes into a named pipe; UsageError where none does, or no video."""
    waiting = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # FFmpeg would wait for the writer, deaf to Ctrl-C
    try:
        if not select.select([waiting], [], [], capture.PATIENCE_S)[0]:
            raise UsageError(f"{path}: no program wrote into this pipe for {capture.PATIENCE_S:.0f} seconds")
        problem = "is not a video that can be read from a pipe, such as MPEG-TS or Matroska"
        how: dict[str, Any] = {"problem": problem, "live": True, "ends": True, "wanted": wanted}
        return open_stream(str(path), str(path), cv2.CAP_FFMPEG, ONE_THREAD, **how)
    finally:
        os.close(waiting)


class Reader:
    """Reads one VideoCapture to its end, over what is damaged, and says what was missing."""

    def __init__(
        self,
        name: str,
        capture: cv2.VideoCapture,
        length: int | None,
        stamped: bool,
        connect: Callable[[], cv2.VideoCapture] = cv2.VideoCapture,
    ) -> None:
        self.name, self.length, self.stamped, self.connect = name, length, stamped, connect
        self.captured = 0.0  # time.perf_counter() when the last frame was captured, as far as anybody tells
        self.lost = 0  # failed reads of all captures so far
        self._begin(capture)

    def _begin(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._sent = StreamClock() if self.stamped else None
        self._driver = capture.isOpened() and capture.getBackendName() == "V4L2"
        self.fps = capture.get(cv2.CAP_PROP_FPS)
        self.given = 0  # frames read
        self.failed = 0  # reads that failed before another one did not
        self.began = self.at = 0.0  # seconds into the film: of the first frame, of the last one
        self.jump = 0.0  # the longest time between two frames, in seconds

    def again(self) -> np.ndarray | None:
        """The first frame of what is opened once more, None where it cannot be."""
        self._capture.release()
        self._begin(self.connect())
        return self.read() if self._capture.isOpened() else None

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
                self.lost += failed
                return frame
            if not self._capture.isOpened() or time.perf_counter() - begin > capture.PATIENCE_S:
                break
        return None

    def _when(self, at: float, came: float) -> float:
        # A driver tells when it got the picture, on Linux by perf_counter's own clock; a few use another one.
        if self._driver:
            return at if 0 <= came - at < capture.PATIENCE_S else came
        return self._sent(at, came) if self._sent else came

    def frames(self, begin: list[np.ndarray], endless: bool, wanted: Wanted = AS_IT_COMES) -> Frames:
        """All frames, RGB, `begin` of which have been read already.

        Then UsageError where an endless one is lost for longer than is wanted, CheckFailed where a file was not whole.
        """
        try:
            frame: np.ndarray | None = begin[0]
            while frame is not None:
                while frame is not None:
                    yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                    frame = begin.pop(1) if len(begin) > 1 else self.read()
                since = time.perf_counter()
                while endless and frame is None and time.perf_counter() - since < wanted.wait:
                    self._capture.release()  # so that a camera comes back under its number
                    yield None
                    time.sleep(RETRY_S)
                    frame = self.again()
                if endless and frame is None:
                    raise UsageError(f"{self.name} stopped giving frames; was it disconnected?")
                if not endless and (problem := self.missing()):
                    raise CheckFailed(f"{self.name} {problem}")
                if not endless and wanted.loop:
                    frame = self.again()
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
    """When the frames of a stream were sent, by their time stamps; the least delayed frame counts as not delayed.

    So a delay that all frames share, by the camera's encoder and the network, does not show; a queue does.
    """

    def __init__(self) -> None:
        self._stamp, self._came, self._offset = -math.inf, 0.0, math.inf

    def __call__(self, stamp: float, came: float) -> float:
        """time.perf_counter() when a frame was sent that has this stamp, in seconds, and came at this time."""
        if stamp <= self._stamp:  # it has begun anew, or tells no time
            self._offset = math.inf
        self._offset = min(self._offset + CLOCK_DRIFT * (came - self._came), came - stamp)
        self._stamp, self._came = stamp, came
        return stamp + self._offset
