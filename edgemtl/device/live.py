"""What every app on live frames shares: capture, inference and drawing that overlap, a film, numbers, a good end."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgemtl import show as terminal
from edgemtl.device.camera import Recorder, Source
from edgemtl.device.stats import Stats
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.tasks import numbered

SMOOTH = 30  # frames that the readings on the picture are averaged over
KEPT = 100_000  # frames that the summary's latencies are taken from

Show = Literal["window", "web", "none"]
Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """What a run came to; latency is from a frame's capture to its picture being shown (drawn, when headless).

    A camera's driver tells when it captured a frame. Of a network stream the frame's time stamp counts, so that a queue
    on the way here shows; what its camera, the network and its container hold back of every frame does not. Of a file
    reading counts, of all else arrival.
    """

    frames: int
    fps: float
    latency_p50_ms: float
    latency_p95_ms: float


class View:
    """What is drawn of a frame. An app overrides `draw`, and what of the rest means something to it."""

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


class Film:
    """The recording, which a key begins and ends."""

    def __init__(self, path: Path | None, source: Source) -> None:
        self._source, self._recorder = source, None if path is None else Recorder(path, source.fps)

    def __enter__(self) -> "Film":
        return self

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


def play(
    infer: Callable[[np.ndarray], Maps],
    view: View,
    source: Source,
    *,
    record: Path | None = None,
    headless: bool = False,
    show: Show = "window",
    address: str = "",
    limit: int | None = None,
    stats: str | None = None,
) -> Summary:
    """Shows every frame's picture until the source ends, `limit` frames are shown, or the user quits (Ctrl-C too).

    Capture, inference and drawing overlap: while a picture is drawn, the next frame is already being inferred, and
    that is the newest there is. SIGTERM and a closed terminal end it as Ctrl-C does.

    Raises UsageError where there is no display, a file cannot be written, or the camera disappears; CheckFailed when
    all that can be read of a source has been shown and it was not whole, or the maps of a frame cannot be right.
    """
    from edgemtl.device import screens  # which needs what is here

    if record and record.exists() and Path(source.name).exists() and record.samefile(source.name):
        raise UsageError(f"{record} is what is shown; record to another file")
    clock, numbers = Clock(), count()
    show = "none" if headless else show
    source.paced = show != "none"
    with ExitStack() as stack:
        film = stack.enter_context(Film(record, source))
        journal = stack.enter_context(Stats(stats)) if stats else None
        screen: AbstractContextManager[Screen] = screens.build(show, clock, view, source, film, limit, address)
        shown = stack.enter_context(screen)
        worker = stack.enter_context(ThreadPoolExecutor(1, "inference"))
        stack.enter_context(interruptible())
        stack.callback(source.close)  # first of all, since the worker may be waiting for a frame

        def step() -> tuple[np.ndarray, Maps, dict[str, Any]] | None:
            frame = next(source, None)
            if frame is None:
                return None
            times = {"captured": source.captured, "started": time.perf_counter(), "passed": source.passed}
            with numbered(next(numbers), str(source.name)):
                maps = infer(frame)
            return frame, maps, times | {"inferred": time.perf_counter()}

        try:
            pending = worker.submit(step)
            while limit is None or clock.frames < limit:
                if not shown.wait(pending) or (result := pending.result()) is None:
                    break
                pending = worker.submit(step)
                frame, maps, times = result
                begun = time.perf_counter()
                picture = view.draw(frame, maps, clock.reading())
                drawn = time.perf_counter() - begun
                shown.show(picture)
                clock.shown(times["captured"])
                film.add(picture)
                if journal:
                    journal.add(frame=clock.frames - 1, drawn=drawn, lost=source.lost, **times)
        except KeyboardInterrupt:
            pass  # the usual way to end a headless run on a live camera; the film is completed
        except (UsageError, CheckFailed):
            if clock.frames:  # the source was lost or not whole: what was shown of it counts all the same
                terminal.note(
                    "{frames} frames, {fps:.1f} fps, latency {latency_p50_ms:.0f} ms".format(**vars(clock.summary()))
                )
            raise
        finally:
            if source.live and source.lost:
                terminal.note(f"{source.lost} frames of {source.name} could not be read")
    return clock.summary()


@contextmanager
def interruptible() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP act as Ctrl-C does, unless they are ignored (nohup) or handled already."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # No other thread than the main one may set handlers.
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class Clock:
    """Frame rate and latency as they were, pauses left out."""

    def __init__(self) -> None:
        self.frames = 0
        self._last: float | None = None
        self._paused = False
        self._intervals: deque[float] = deque(maxlen=KEPT)
        self._latencies: deque[float] = deque(maxlen=KEPT)

    def shown(self, captured: float) -> None:
        """Notes that a frame captured at this time (time.perf_counter()) is on the screen now."""
        now = time.perf_counter()
        self.frames += 1
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
        return Summary(self.frames, rate, float(p50), float(p95))
