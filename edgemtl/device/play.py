"""The loop of every app on live frames: capture, inference and drawing that overlap, and a good end."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from inspect import Parameter, signature
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.device import rates, screens
from edgemtl.device.camera import Source
from edgemtl.device.display import no_display
from edgemtl.device.live import Clock, Film, Maps, Screen, Show, Summary, View
from edgemtl.device.predictor import Predictor
from edgemtl.device.stats import Stats
from edgemtl.device.web import Web
from edgemtl.ground import show as terminal
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import recipe
from edgemtl.tasks import numbered


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
    if record and record.exists() and Path(source.name).exists() and record.samefile(source.name):
        raise UsageError(f"{record} is what is shown; record to another file")
    clock, numbers = Clock(), count()
    show = "none" if headless else show
    source.paced = show != "none"
    with ExitStack() as stack:
        film = stack.enter_context(Film(record, source))
        journal = stack.enter_context(Stats(stats)) if stats else None
        screen: AbstractContextManager[Screen] = open_screen(show, clock, view, source, film, limit, address)
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
            pending, ahead = deque([worker.submit(step)]), 1
            while limit is None or clock.frames < limit:
                if not shown.wait(pending[0]) or (result := pending.popleft().result()) is None:
                    break
                while len(pending) < ahead:
                    pending.append(worker.submit(step))
                frame, maps, times = result
                begun = time.perf_counter()
                picture = view.draw(frame, maps, clock.reading())
                drawn = time.perf_counter() - begun
                # A model that takes longer than drawing need not even wait for this thread to wake up; a faster one
                # must, since its pictures would be shown late.
                ahead = 2 if 2 * drawn < times["inferred"] - times["started"] else 1
                shown.show(picture)
                ages = rates.ages(maps)
                clock.shown(times["captured"], ages)
                film.add(picture)
                if journal:
                    journal.add(frame=clock.frames - 1, drawn=drawn, lost=source.lost, ages=ages, **times)
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


def beside(model: Callable[[], Predictor], camera: Callable[[], Source]) -> tuple[Predictor, Source]:
    """Both, opened at the same time; where neither opens, what is wrong with the model is raised.

    The camera is opened in this thread: macOS asks for permission in the main one alone.
    """
    with ThreadPoolExecutor(1, "model") as pool:
        opening = pool.submit(model)
        try:
            source = camera()
        except Exception:
            opening.result()
            raise
        try:
            return opening.result(), source
        except BaseException:
            source.close()
            raise


def open_screen(
    kind: Show, clock: Clock, view: View, source: Source, film: Film, limit: int | None, address: str
) -> AbstractContextManager[Screen]:
    """The screen of a kind; UsageError where there can be none."""
    if kind == "none":
        return screens.Terminal(clock, limit or source.length)
    if kind == "web":
        return Web(clock, view, source, film, address)
    if problem := no_display():
        raise UsageError(f"{problem}; --show web shows it in a browser, --headless --record FILE in a film")
    return screens.Window(clock, view, source, film)


def settings_of(name: str, run: Callable[..., Any], settings: Sequence[str], view: str) -> dict[str, Any]:
    """What settings such as "density=0.2" say for the parameters that an app has of its own, and its view."""
    own = [p.name for p in signature(run).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    known = set(own) - {"view"} - signature(play).parameters.keys()
    options = recipe.parse_settings(settings, f"app {name}", known)
    return ({"view": view} if "view" in own else {}) | options


@contextmanager
def interruptible() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP act as Ctrl-C does, unless they are ignored (nohup) or handled already."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # No other thread than the main one may set handlers.
    main = threading.current_thread() is threading.main_thread()
    handled = [number for number in numbers if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
