"""Frames as they are captured: in a thread of their own, the newest first where they are live."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Literal

import cv2
import numpy as np

from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size

AHEAD = 4  # frames read before they are asked for
PATIENCE_S = 5.0  # without a frame from a live source that is not waited for
STALL_S = 2.0  # without a frame from a live source, after which it is said

Frames = Generator[np.ndarray | None, None, None]  # None: none yet, but the source is still at it
Flip = Literal["horizontal", "vertical", "both"]
FLIPS: dict[Flip, int] = {"horizontal": 1, "vertical": 0, "both": -1}


@dataclass(frozen=True)
class Wanted:
    """How frames are wanted, whatever the source."""

    size: Size | None = None  # a camera is asked for it; whatever is larger shrinks until it fits
    rate: float | None = None  # frames per second: a camera is asked for it, of more some are left out
    flip: Flip | None = None
    wait: float = 0.0  # seconds that a lost live source may take to come back
    loop: bool = False  # a file begins anew at its end

    def shape(self, frame: np.ndarray) -> np.ndarray:
        """The frame, turned and not larger than wanted; its aspect stays."""
        if self.flip:
            frame = cv2.flip(frame, FLIPS[self.flip])
        height, width = frame.shape[:2]
        scale = min(self.size[0] / height, self.size[1] / width) if self.size else 1.0
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        return frame


AS_IT_COMES = Wanted()


class Source(Iterator[np.ndarray], AbstractContextManager["Source"]):
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
        wanted: Wanted = AS_IT_COMES,
    ) -> None:
        self.name, self.live, self.wanted = name, live, wanted
        self.size = wanted.shape(np.empty((*size, 1), np.uint8)).shape[:2]
        self.fps = fps if wanted.rate is None else min(fps, wanted.rate) if live else wanted.rate
        self.length = None if wanted.loop else length  # how many frames there are, about; None: endless or unknown
        self.paced = False  # True: frames of a file come no faster than they were filmed
        # time.perf_counter() when the last frame handed out was captured; of a file: when it was handed out.
        self.captured = 0.0
        self.passed = 0  # frames of a live source that a newer one replaced before they were asked for
        self._frames, self._when = frames, when  # asked after each frame: when it was captured
        self._lost = lost
        self._held: deque[tuple[np.ndarray, float]] = deque(maxlen=1 if live else AHEAD)
        self._changed = Condition()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._asked: float | None = None  # since when a frame has been waited for
        self._thread = Thread(target=self._capture, name=f"capture {name}", daemon=True)
        self._thread.start()

    def __next__(self) -> np.ndarray:
        """The next frame; UsageError where a live source is lost, CheckFailed at the end of one that was not whole."""
        if self.paced and not self.live:
            time.sleep(max(0.0, self.captured + 1 / self.fps - time.perf_counter()))
        with self._changed:
            self._asked = time.perf_counter()
            self._await()
            self._asked = None
            if self._closed or not self._held:
                raise (None if self._closed else self._error) or StopIteration
            frame, at = self._held.popleft()
            self._changed.notify_all()
        self.captured = at if self.live else time.perf_counter()
        return frame

    def _await(self) -> None:
        """Waits for a frame or the end; says of a live source that none comes, and that they come again."""
        ready = lambda: bool(self._held or self._ended or self._closed)  # noqa: E731
        patience = max(PATIENCE_S, self.wanted.wait)
        soon = min(patience, max(STALL_S, 3 / self.fps))
        if not self.live or self._changed.wait_for(ready, soon):
            self._changed.wait_for(ready)
            return
        if patience > soon:
            show.note(f"{self.name} has given no frame for {soon:.0f} seconds; waiting for it")
            rest = patience - soon
            if self._changed.wait_for(ready, None if rest > 1e6 else rest):
                if self._held:
                    show.note(f"{self.name} gives frames again after {self.stalled:.0f} seconds")
                return
        raise UsageError(f"{self.name} gave no frame for {patience:.0f} seconds; is it still connected?")

    @property
    def stalled(self) -> float:
        """For how many seconds somebody has waited for a frame."""
        asked = self._asked
        return 0.0 if asked is None else time.perf_counter() - asked

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def _capture(self) -> None:
        due = 0.0
        try:
            for frame in self._frames:
                if self._closed:
                    break
                if frame is None:
                    continue
                at = self._when()
                if self.live and self.wanted.rate:
                    if at < due - 0.2 / self.wanted.rate:
                        continue
                    due = max(due, at - 0.5 / self.wanted.rate) + 1 / self.wanted.rate
                frame = self.wanted.shape(frame)
                with self._changed:
                    if not self.live:
                        self._changed.wait_for(lambda: len(self._held) < AHEAD or self._closed)
                    if self._closed:
                        break
                    self.passed += self.live and bool(self._held)
                    self._held.append((frame, at))
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            self._frames.close()  # releases the device
            with self._changed:
                self._ended = True
                self._changed.notify_all()
