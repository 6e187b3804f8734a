"""What every app on live frames shares: what is drawn, where it goes, a film, numbers. The loop is in play.py."""

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgemtl.device.camera import Recorder, Source
from edgemtl.ground.errors import UsageError

SMOOTH = 30  # frames that the readings on the picture are averaged over
KEPT = 100_000  # frames that the summary's latencies are taken from

Show = Literal["window", "web", "none"]
Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """The numbers of a run. Latency is the time from a frame's capture until its picture is shown (headless: drawn).

    A camera's driver says when it captured a frame. For a network stream it is the frame's time stamp: a growing queue
    shows, a delay that all frames share does not. For a file it is when the frame was read, else when it arrived.
    """

    frames: int
    fps: float
    latency_p50_ms: float
    latency_p95_ms: float
    computed: dict[str, int] = field(default_factory=dict)  # of how many frames, where tasks have rates of their own


class View:
    """What is drawn of a frame. An app overrides `draw`, and whichever other methods it needs."""

    note = ""  # takes the place of the foot line
    foot = ""
    picture: np.ndarray | None = None

    def draw(self, frame: np.ndarray, maps: Maps, reading: str) -> np.ndarray:
        """The picture of one frame, also kept in `picture`; `reading` says how fast it goes."""
        raise NotImplementedError

    def again(self) -> np.ndarray | None:
        """The last picture, drawn anew; None before the first."""
        return self.picture

    def press(self, key: str) -> np.ndarray | None:
        """The picture after a key, None where the key means nothing here."""
        return None

    def point(self, x: int, y: int) -> str:
        """What the picture shows at a pixel, in words."""
        return ""

    def click(self, x: int, y: int) -> None:
        """A click on the picture."""


class Screen(Protocol):
    """Where pictures go."""

    def show(self, picture: np.ndarray) -> None:
        """Shows a picture."""
        ...

    def wait(self, pending: Future[Any]) -> bool:
        """Serves the user until `pending` is done and nothing is paused; False when the user quits."""
        ...


class Film(AbstractContextManager["Film"]):
    """The recording, which a key begins and ends."""

    def __init__(self, path: Path | None, source: Source) -> None:
        self._source, self._recorder = source, None if path is None else Recorder(path, source.fps)

    def __exit__(self, *_: object) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def toggle(self) -> str:
        """Begins a film named after the time, or completes the one that runs; what happened, in words."""
        try:
            if self._recorder is None:
                path = Path(time.strftime("edgemtl-%Y%m%d-%H%M%S.mp4"))
                self._recorder = Recorder(path, self._source.fps)
                return f"recording to {path}"
            done, self._recorder = self._recorder, None
            done.close()
            return f"saved {done.path.resolve()}"
        except UsageError as error:
            return str(error)

    def add(self, picture: np.ndarray) -> None:
        """Adds a picture to the film, if one runs."""
        if self._recorder is not None:
            self._recorder.add(picture, at=time.perf_counter() if self._source.live else None)


class Clock:
    """Frame rate and latency so far, without pauses."""

    def __init__(self) -> None:
        self.frames = 0
        self._last: float | None = None
        self._paused = False
        self._intervals: deque[float] = deque(maxlen=KEPT)
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._computed: dict[str, int] = {}

    def shown(self, captured: float, ages: Mapping[str, int] | None = None) -> None:
        """Notes that a frame captured at this time (time.perf_counter()) is on the screen now.

        `ages` are its maps', in frames, where tasks have rates of their own.
        """
        now = time.perf_counter()
        self.frames += 1
        for task, age in (ages or {}).items():
            self._computed[task] = self._computed.get(task, 0) + (not age)
        if not self._paused:
            self._latencies.append(now - captured)
            if self._last is not None:
                self._intervals.append(now - self._last)
        self._last, self._paused = now, False

    def pause(self) -> None:
        """The next frame has waited for the user: its times do not count."""
        self._paused = True

    def reading(self) -> str:
        """The last frames' rate and latency, in words."""
        if not self._intervals:
            return ""
        last = range(-min(SMOOTH, len(self._intervals)), 0)
        interval = np.mean([self._intervals[i] for i in last])
        latency = np.mean([self._latencies[i] for i in range(-min(SMOOTH, len(self._latencies)), 0)])
        return f"{1 / interval:.1f} fps · latency {1000 * latency:.0f} ms"

    def summary(self) -> Summary:
        """The whole run."""
        rate = float(1 / np.mean(self._intervals)) if self._intervals else 0.0
        p50, p95 = 1000 * np.percentile(self._latencies, [50, 95]) if self._latencies else (0.0, 0.0)
        return Summary(self.frames, rate, float(p50), float(p95), self._computed)
