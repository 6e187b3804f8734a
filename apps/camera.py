"""Every task on live frames: a window, a video file, or both."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edgemtl import show
from edgemtl.device import draw
from edgemtl.device.camera import Recorder, Source
from edgemtl.device.predictor import Predictor
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.files import replacing
from edgemtl.tasks import numbered

TITLE = "edgemtl"
KEYS = "1-9 tasks · v view · space pause · s snapshot · q quit"
SMOOTH = 30  # frames that the readings on the picture are averaged over
KEPT = 100_000  # frames that the summary's latencies are taken from


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


def app() -> Callable[..., Summary]:
    """The app: a function `run(predictor, source, *, record, headless, view, limit) -> Summary`."""
    return run


def run(
    predictor: Predictor,
    source: Source,
    *,
    record: Path | None = None,
    headless: bool = False,
    view: Literal["tiles", "overlay"] = "tiles",
    limit: int | None = None,
) -> Summary:
    """Shows every frame's predictions until the source ends, `limit` frames are shown, or the user quits (Ctrl-C too).

    Capture, inference and drawing overlap: while a picture is drawn, the next frame is already being inferred.
    SIGTERM and a closed terminal end it as Ctrl-C does.

    Raises UsageError where there is no display, `record` cannot be written, or the camera disappears; CheckFailed when
    all that can be read of a source has been shown and it was not whole, or the maps of a frame cannot be right.
    """
    if record and record.exists() and Path(source.name).exists() and record.samefile(source.name):
        raise UsageError(f"{record} is what is shown; record to another file")
    if not headless and (problem := no_display()):
        raise UsageError(f"{problem}; use --headless, with --record FILE to see the result")
    pictures, clock = View(predictor, view, foot="" if headless else KEYS), Clock()
    source.paced = not headless
    with ExitStack() as stack:
        film = stack.enter_context(Recorder(record, source.fps)) if record else None
        screen: Terminal | Window = Terminal(clock, limit or source.length) if headless else Window(clock, pictures)
        stack.enter_context(screen)
        worker = stack.enter_context(ThreadPoolExecutor(1, "inference"))
        stack.enter_context(interruptible())
        stack.callback(source.close)  # first of all, since the worker may be waiting for a frame

        numbers = count()

        def infer() -> tuple[np.ndarray, dict[str, np.ndarray], float] | None:
            frame = next(source, None)
            if frame is None:
                return None
            with numbered(next(numbers), str(source.name)):
                return frame, predictor.maps(frame), source.captured

        try:
            pending = worker.submit(infer)
            while limit is None or clock.frames < limit:
                if not screen.wait(pending) or (result := pending.result()) is None:
                    break
                pending = worker.submit(infer)
                frame, maps, captured = result
                picture = pictures.draw(frame, maps, clock.reading())
                screen.show(picture)
                clock.shown(captured)
                if film:
                    film.add(picture, at=time.perf_counter() if source.live else None)
        except KeyboardInterrupt:
            pass  # the usual way to end a headless run on a live camera; the film is completed
        except (UsageError, CheckFailed):
            if clock.frames:  # the source was lost or not whole: what was shown of it counts all the same
                show.note(
                    "{frames} frames, {fps:.1f} fps, latency {latency_p50_ms:.0f} ms".format(**vars(clock.summary()))
                )
            raise
        finally:
            if source.live and source.lost:
                show.note(f"{source.lost} frames of {source.name} could not be read")
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


class View:
    """What is drawn of a frame: which tasks, as tiles or as an overlay. Keys change it."""

    def __init__(self, predictor: Predictor, kind: str, foot: str = "") -> None:
        made = predictor.manifest
        self.predictor, self.kind, self.foot = predictor, kind, foot
        self.title = f"{made.recipe} · {made.target} {made.precision} · {predictor.session.device}"
        self.shown = dict.fromkeys(made.tasks, True)
        self.selected = next(iter(made.tasks))  # the overlay's task
        self.note = ""  # takes the place of the line of keys
        self.picture: np.ndarray | None = None
        self._last: tuple[np.ndarray, dict[str, np.ndarray], str]

    def draw(self, frame: np.ndarray, maps: dict[str, np.ndarray], reading: str) -> np.ndarray:
        """The picture of one frame; `reading` is written at its top right."""
        self._last = frame, maps, reading
        tasks = self.predictor.manifest.tasks
        lines: dict[str, Any] = {"head": (self.title, reading), "foot": self.note or self.foot}
        names = [n for n, on in self.shown.items() if on] if self.kind == "tiles" else [self.selected]
        size = draw.cell(frame.shape[:2], 1 + len(names) if self.kind == "tiles" else 1)
        predictions = self.predictor.decode({n: maps[n] for n in names}, size, frame=frame.shape[:2])
        if self.kind == "tiles":
            self.picture = draw.tiles(frame, predictions, tasks, **lines)
        else:
            self.picture = draw.overlay(frame, predictions[self.selected], tasks[self.selected], **lines)
        return self.picture

    def press(self, key: str) -> np.ndarray | None:
        """The picture after a key (a digit, v or s), None where the key means nothing here."""
        names = list(self.shown)
        if key == "v":
            self.kind = "overlay" if self.kind == "tiles" else "tiles"
        elif key == "s":
            self.note = self._save()
        elif key in "123456789" and int(key) <= len(names):
            self.selected = names[int(key) - 1]
            if self.kind == "tiles":
                self.shown[self.selected] = not self.shown[self.selected]
        else:
            return None
        return None if self.picture is None else self.draw(*self._last)

    def _save(self) -> str:
        path = Path(time.strftime("edgemtl-%Y%m%d-%H%M%S.png"))
        try:
            with replacing(path) as temporary:
                if self.picture is None or not cv2.imwrite(str(temporary), self.picture[..., ::-1]):
                    return f"cannot write {path}"
        except UsageError as error:
            return str(error)
        return f"saved {path.resolve()}"


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
        intervals, latencies = list(self._intervals)[-SMOOTH:], list(self._latencies)[-SMOOTH:]
        return f"{1 / np.mean(intervals):.1f} fps · latency {1000 * np.mean(latencies):.0f} ms"

    def summary(self) -> Summary:
        """The whole run."""
        rate = float(1 / np.mean(self._intervals)) if self._intervals else 0.0
        p50, p95 = 1000 * np.percentile(self._latencies, [50, 95]) if self._latencies else (0.0, 0.0)
        return Summary(self.frames, rate, float(p50), float(p95))


class Window:
    """The picture on the screen, and the keys pressed there."""

    def __init__(self, clock: Clock, view: View) -> None:
        self.clock, self.view = clock, view
        self.opened = False
        self.keys: deque[int] = deque()

    def __enter__(self) -> "Window":
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, picture: np.ndarray) -> None:
        """Puts the picture on the screen."""
        if not self.opened:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            self.opened = True
        cv2.imshow(TITLE, np.ascontiguousarray(picture[..., ::-1]))
        self.keys.append(cv2.waitKey(1) & 0xFF)  # draws; a key pressed meanwhile is served later

    def wait(self, pending: Future[Any]) -> bool:
        """Serves the keys until `pending` is done and nothing is paused; False when the user quits."""
        paused = False
        while True:
            key = self.keys.popleft() if self.keys else cv2.waitKey(1) & 0xFF
            if key in (ord("q"), 27) or (self.opened and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1):
                return False
            if key == ord(" "):
                paused = not paused
                self.clock.pause()
            elif key != 255 and (picture := self.view.press(chr(key))) is not None:
                self.show(picture)
            if not paused and not self.keys and pending.done():
                return True
            wait([pending], timeout=0.02) if not paused else time.sleep(0.02)


class Terminal:
    """Progress where there is no window."""

    def __init__(self, clock: Clock, length: int | None) -> None:
        self.clock, self.bar = clock, show.progress()
        self.task = self.bar.add_task("frames", total=length, status="")

    def __enter__(self) -> "Terminal":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, picture: np.ndarray) -> None:
        """Counts the picture."""
        self.bar.update(self.task, advance=1, status=self.clock.reading())

    def wait(self, pending: Future[Any]) -> bool:
        """True; the loop waits by itself, since nobody presses keys."""
        return True


def no_display() -> str | None:
    """Why no window can be opened here, or None."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (DISPLAY is not set)"
    # Another process tries, since Qt ends the whole process where it finds no display.
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('edgemtl'); cv2.destroyAllWindows()"]
    try:
        opened = subprocess.run(probe, capture_output=True, timeout=30).returncode == 0
    except subprocess.TimeoutExpired:
        opened = False
    return None if opened else "OpenCV can open no window here (no access to the display, or a headless build)"
